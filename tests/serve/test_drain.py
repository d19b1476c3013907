"""SIGTERM with open streams: they see it, finish or get their end, and the server goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from support.servers import (
    PATIENT_SERVERS,
    STOPS_WITHIN_S,
    Connection,
    Response,
    Server,
    get,
    serving,
    wait_for,
)

from streamtrace.serve.drain import SIGNALS, draining, hearing
from streamtrace.serve.runs import Runs

HERE = Path(__file__).parent

# uvicorn raises the signal again once it has shut down, so that its parent sees what ended it.
EXIT_CODES = dict.fromkeys(PATIENT_SERVERS, 0) | {"uvicorn-patient": -signal.SIGTERM}


@pytest.mark.parametrize("name", PATIENT_SERVERS)
def test_sigterm_with_open_streams(name: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with (
        serving(name, "life_app:app", HERE, log) as server,
        contextlib.ExitStack() as stack,
    ):
        polite, idle, silent = (
            stack.enter_context(Connection(server.port, f"/cancel?{query}"))
            for query in ("tokens=1&then=drain", "tokens=1&then=idle", "before=1&then=idle")
        )
        for client in (polite, idle, silent):
            client.read_head()
            client.read_bytes(10)  # the first event is here
        code = server.terminate()  # which fails if it waits for its clients
        polite_body, idle_body, silent_body = (
            client.read_bytes(-1) for client in (polite, idle, silent)
        )
    text = log.read_text()
    assert b"drains" in polite_body, text
    assert b'"drained"' not in polite_body
    assert polite_body.count(b'"done"') == 1
    for body in (idle_body, silent_body):
        assert body.count(b"drained") == 1
        assert body.endswith(b"0\r\n\r\n")
    assert code == EXIT_CODES[name], text
    assert "Traceback" not in text


LATE = b"POST /cancel?late HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def state(server: Server) -> Any:
    return json.loads(get(server.port, "/state").body)


def check_refusal(answer: Response) -> None:
    assert answer.status == 503
    assert int(dict(answer.headers)["retry-after"]) >= 1
    assert json.loads(answer.body)["error"]["type"] == "draining"


@pytest.mark.parametrize("name", PATIENT_SERVERS)
def test_after_sigterm_nothing_begins(name: str, tmp_path: Path) -> None:
    """Of requests that were under way. To others the server itself closes its doors."""
    with (
        serving(name, "life_app:app", HERE, tmp_path / "server.log") as server,
        Connection(server.port, "/cancel?tokens=1&then=drain") as polite,
        Connection(server.port, "/cancel?tokens=1&then=idle") as idle,
        Connection(server.port, "", LATE + b"Content-Length: 2\r\n\r\n{") as late,
    ):
        for client in (polite, idle):
            client.read_head()
        wait_for(lambda: "late" in state(server)["posted"])
        server.process.send_signal(signal.SIGTERM)
        polite.read_until(b"drains")
        late.socket.sendall(b"}")
        check_refusal(late.read())
        polite.read_until(b'"done"')
        idle.read_until(b"drained")
        assert server.process.wait(STOPS_WITHIN_S) == EXIT_CODES[name]


@pytest.mark.parametrize("name", PATIENT_SERVERS)
def test_a_drain_before_sigterm_refuses_while_the_server_listens(name: str, tmp_path: Path) -> None:
    with (
        serving(name, "life_app:app", HERE, tmp_path / "server.log") as server,
        Connection(server.port, "/cancel?tokens=1&then=drain") as polite,
        Connection(server.port, "/cancel?tokens=1&then=idle") as idle,
    ):
        for client in (polite, idle):
            client.read_head()
        get(server.port, "/drain")
        polite.read_until(b"drains")
        check_refusal(get(server.port, "/cancel?then=end"))
        with Connection(server.port, "", LATE + b"Content-Length: 2\r\n\r\n{}") as late:
            check_refusal(late.read())
        polite.read_until(b'"done"')
        idle.read_until(b"drained")
        wait_for(lambda: not state(server)["active"])
        check_refusal(get(server.port, "/cancel?then=end"))
        assert server.terminate() == EXIT_CODES[name]


def test_the_exit_code_is_the_servers_own(tmp_path: Path) -> None:
    """uvicorn ends by the signal, whatever it serves."""
    name = "uvicorn-patient"
    with serving(name, "life_app:plain", HERE, tmp_path / "server.log") as server:
        assert server.terminate() == EXIT_CODES[name]


# --- hearing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def handled_by(number: int, handler: object):
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_both_are_told_and_the_handler_is_put_back(number: int) -> None:
    told: list[str] = []

    def before(*_: object) -> None:
        told.append("server")

    with handled_by(number, before):
        with hearing(lambda: told.append("us")):
            signal.raise_signal(number)
        assert signal.getsignal(number) is before
        signal.raise_signal(number)
    assert told == ["us", "server", "server"]


def test_a_handler_that_came_later_stays() -> None:
    def later(*_: object) -> None:
        """Another."""

    with handled_by(signal.SIGTERM, later):
        with hearing(lambda: None):
            signal.signal(signal.SIGTERM, later)
        assert signal.getsignal(signal.SIGTERM) is later


@pytest.mark.parametrize("nobody", [signal.SIG_DFL, signal.SIG_IGN])
def test_what_nobody_handles_is_left_alone(nobody: object) -> None:
    with handled_by(signal.SIGTERM, nobody), hearing(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is nobody


def test_in_another_thread_nothing_is_heard_and_shutdown_drains() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    runs = Runs()

    async def main() -> None:
        async with draining(runs):
            assert [signal.getsignal(number) for number in SIGNALS] == before
            assert not runs.is_draining

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert runs.is_draining


async def test_a_handler_of_the_loop_is_told_as_well() -> None:
    runs, server = Runs(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.set)
    try:
        async with draining(runs):
            signal.raise_signal(signal.SIGTERM)
            await server.wait()
            await asyncio.sleep(0)
            assert runs.is_draining
            signal.raise_signal(signal.SIGTERM)  # again does no harm
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
