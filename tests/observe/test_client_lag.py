"""How far clients are behind: what is made of the kernel's answers, and when it is asked."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from support.apps import DONE
from support.asgi import Server, body, http_scope, settle, start

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.observe.client_lag import BEHIND_INTERVAL_NS, FIRST_NS, INTERVAL_NS, ClientLag
from streamtrace.observe.tcp_diag import Connection, TcpDiag, TcpInfo
from streamtrace.testing import RecordingSink

S = 1_000_000_000
MSS = 1448
CLIENT, SERVER = ("192.0.2.1", 50000), ("192.0.2.2", 443)


def told(unacknowledged: int, unsent: int, busy_s: float, limited_s: float) -> TcpInfo:
    return TcpInfo(unacknowledged, MSS, unsent, round(busy_s * 1e6), round(limited_s * 1e6))


class Kernel(TcpDiag):
    """Gives these answers, and counts how often it is asked."""

    def __init__(self, *answers: TcpInfo | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked = 0

    def ask(self, connection: Connection) -> TcpInfo | None:
        self.asked += 1
        return self.answers.pop(0)


def lag_of(*answers: TcpInfo | None) -> ClientLag:
    lag = ClientLag.of(Kernel(*answers), CLIENT, SERVER, 0)
    for number in range(len(answers)):
        lag.ask(number * S)
    return lag


def test_a_client_that_takes_everything_is_never_behind() -> None:
    lag = lag_of(told(0, 0, 5, 0), told(200, 0, 5.5, 0), told(0, 0, 6, 0))
    assert lag.total_ns == 0
    assert lag.max_bytes == 200


def test_time_in_which_the_client_took_no_more_counts_from_the_first_answer() -> None:
    """What the connection knew of streams before this one does not."""
    lag = lag_of(told(0, 0, 9, 7), told(50_000, 40_000, 10, 7.6), told(0, 0, 11, 7.75))
    assert lag.total_ns == 750_000_000
    assert lag.max_bytes == 50_000


def test_a_slow_network_counts_between_two_answers_with_unsent_data() -> None:
    """The client's system would take more, but the way there is full."""
    lag = lag_of(
        told(9, 0, 0, 0), told(9000, 4000, 0.9, 0), told(9000, 5000, 1.9, 0), told(0, 0, 2, 0)
    )
    assert lag.total_ns == S


def test_less_than_a_segment_waits_for_more_to_come_not_for_the_client() -> None:
    """With Nagle's algorithm on, as where a server was given its socket by number."""
    lag = lag_of(told(900, MSS - 1, 1, 0), told(900, MSS - 1, 2, 0))
    assert (lag.total_ns, lag.max_bytes) == (0, 900)


def test_time_with_one_answer_is_known_only_where_the_connection_never_waited() -> None:
    """It may have been another stream of the connection that waited; or this one, for how long?"""
    for behind in (told(70_000, 0, 3, 3), told(70_000, MSS, 3, 0)):
        lag = lag_of(behind)
        assert (lag.total_ns, lag.max_bytes) == (None, 70_000)
    lag = lag_of(told(70_000, 0, 3, 0))
    assert (lag.total_ns, lag.max_bytes) == (0, 70_000)


def test_what_was_seen_stays_when_the_client_has_left() -> None:
    lag = lag_of(told(10, 5, 0, 0), told(90, 50, 1, 1), None)
    assert (lag.total_ns, lag.max_bytes) == (S, 90)


def test_a_connection_that_is_not_there_is_asked_about_once() -> None:
    kernel = Kernel(None)
    lag = ClientLag.of(kernel, CLIENT, SERVER)
    for at_s in range(5):
        lag.look(at_s * 3 * S)
    assert kernel.asked == 1
    assert (lag.total_ns, lag.max_bytes) == (None, None)


@pytest.mark.parametrize(
    ("unsent", "interval_ns"), [(MSS - 1, INTERVAL_NS), (MSS, BEHIND_INTERVAL_NS)]
)
def test_it_is_asked_more_often_while_something_waits(unsent: int, interval_ns: int) -> None:
    kernel = Kernel(*(told(unsent, unsent, 0, 0) for _ in range(3)))
    lag = ClientLag.of(kernel, CLIENT, SERVER, 5)
    first = 5 + FIRST_NS
    second = first + interval_ns
    for at_ns, asked in ((first - 1, 0), (first, 1), (second - 1, 1), (second, 2)):
        lag.look(at_ns)
        assert kernel.asked == asked
    lag.ask(second + 1)  # the last time
    assert kernel.asked == 3


@pytest.mark.parametrize("client", [None, ("testclient", 50000), ("/run/socket", 0)])
def test_what_is_no_connection_is_not_asked_about(client: object) -> None:
    kernel = Kernel()
    lag = ClientLag.of(kernel, client, SERVER)
    lag.look(0)
    lag.ask(S)
    assert kernel.asked == 0
    assert (lag.total_ns, lag.max_bytes) == (None, None)


# --- of a stream -------------------------------------------------------------------------------


async def observed(client: object, server: object, say: Any = None) -> RunSummary:
    """The record of a stream between these ends. Before it ends, `say` is called."""
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        if say is not None:
            say()
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await Server().run(middleware, http_scope(client=client, server=server))
    await settle(middleware)
    [run] = sink.runs
    return run


async def test_a_stream_is_told_of_the_connection_that_its_scope_names() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        socket.create_connection(listener.getsockname()),
    ):
        busy, idle = listener.accept()[0], listener.accept()[0]
        with busy, idle:
            assert busy.getpeername() == client.getsockname()
            busy.setblocking(False)
            sent = busy.send(b"x" * 500_000)
            run = await observed(busy.getpeername(), busy.getsockname())
            assert 100_000 < (run.client_lag_bytes or 0) < sent
            run = await observed(idle.getpeername(), idle.getsockname())
            assert run.client_lag_bytes == 0


@pytest.mark.parametrize(
    ("client", "server"),
    [(None, ("/run/app.sock", None)), (("testclient", 50000), ("testserver", 80)), (None, None)],
)
async def test_without_a_connection_nothing_is_known(client: object, server: object) -> None:
    run = await observed(client, server)
    assert run.status == "completed"
    assert (run.client_lag_ns, run.client_lag_bytes) == (None, None)


async def test_the_path_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pump does, once the loop has its turn."""
    asked: list[Connection] = []
    monkeypatch.setattr(TcpDiag, "ask", lambda self, connection: asked.append(connection))
    before_the_end: list[int] = []
    await observed(CLIENT, SERVER, lambda: before_the_end.append(len(asked)))
    assert before_the_end == [0]
    assert len(asked) == 1


def test_where_the_work_is_done_on_the_path_nothing_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a loop that is not asyncio's."""
    asked: list[Connection] = []
    monkeypatch.setattr(TcpDiag, "ask", lambda self, connection: asked.append(connection))
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE, more=False))

    async def take(message: Any) -> None:
        assert message["type"].startswith("http.response.")

    running = StreamTraceMiddleware(app, sinks=[sink])(
        http_scope(client=CLIENT, server=SERVER), take, take
    )
    with pytest.raises(StopIteration):
        running.send(None)
    [run] = sink.runs
    assert (run.status, run.client_lag_bytes) == ("completed", None)
    assert asked == []
