"""Resumable runs over real connections: every cut, by FIN and by RST, and who asks again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.followed import frames_of, numbered
from support.servers import Server, serving

from streamtrace.testing.sockets import SocketClient

WORDS = 9


@pytest.fixture(scope="module", params=["uvicorn-h11-asyncio", "uvicorn-httptools-uvloop"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(request.param, "resume_app:app", Path(__file__).parent, log) as server:
        yield server
    assert "Traceback" not in log.read_text()


def url(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}/chat{path}"


def start(server: Server, **asked: Any) -> SocketClient:
    return SocketClient(url(server, "/runs"), json=asked)


def events(server: Server, run_id: str, after: str = "") -> SocketClient:
    headers = {"Last-Event-ID": after} if after else {}
    return SocketClient(url(server, f"/runs/{run_id}/events"), method="GET", headers=headers)


def test_for_every_cut_what_came_before_and_behind_it_is_the_whole(server: Server) -> None:
    with start(server, words=WORDS) as client:
        whole = [data for _, data in numbered(client.read_rest())]
        assert client.complete
    for at in range(len(whole)):
        with start(server, words=WORDS, pace_s=0.001) as client:
            run_id = client.headers["x-run-id"]
            head = numbered(b"".join(client.read_events(1 + at)))
            client.hang_up(reset=bool(at % 2))
        last = head[-1][0] if head else ""
        with events(server, run_id, last) as client:
            tail = numbered(client.read_rest())
            assert client.complete
        told = [data.replace(run_id.encode(), b"RUN") for _, data in head + tail]
        assert len(told) == len(whole)
        assert told[1:-1] == whole[1:-1]
        assert [number for number, _ in head + tail] == [
            str(number + 1) for number in range(len(whole))
        ]


def as_event_source(server: Server, run_id: str, per_connection: int) -> Iterator[bytes]:
    """What a page sees that reads with `EventSource`, and loses each connection early: WHATWG HTML,
    9.2. It asks again with the last id that it had, until the answer is 204."""
    last = ""
    while True:
        with events(server, run_id, last) as client:
            if client.status == 204:
                return
            assert client.status == 200
            for frame in frames_of(b"".join(client.read_events(per_connection))):
                last = last if frame.id is None else frame.id
                if frame.data is not None:
                    yield frame.data


def test_an_event_source_gets_all_once_and_stops(server: Server) -> None:
    with start(server, words=30, pace_s=0.002) as client:
        run_id = client.headers["x-run-id"]
        seen = list(as_event_source(server, run_id, 4))
        assert seen == [data for _, data in numbered(client.read_rest())]


def test_pings_stand_between_frames_and_the_end_comes(server: Server) -> None:
    with start(server, words=3, pace_s=0.5) as client:
        body = client.read_rest()
    assert b": ping\n" in body
    assert [number for number, _ in numbered(body)] == [str(at + 1) for at in range(7)]
