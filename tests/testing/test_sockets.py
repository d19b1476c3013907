"""The client over a socket: what it reads, what it leaves unread, and how it leaves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamtrace.core.errors import ConfigError
from streamtrace.testing import SocketClient

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Run-Id: r\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Script:
    """A server that says what it was given, and then waits for the client to leave."""

    def __init__(self, *said: bytes, cut: bool = False) -> None:
        self.asked = b""
        self.left: BaseException | bytes | None = None
        self._said, self._cut = said, cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(10)
            while not self.asked.endswith(b"}" if b"POST" in self.asked else b"\r\n\r\n"):
                self.asked += connection.recv(65536)  # the head and the body come apart
            for data in self._said:
                connection.sendall(data)
            if self._cut:
                return
            try:
                self.left = connection.recv(1)
            except ConnectionResetError as error:
                self.left = error

    def close(self) -> None:
        self._listener.close()


@contextmanager
def running(script: Script) -> Iterator[Script]:
    thread = threading.Thread(target=script.serve)
    thread.start()
    try:
        yield script
    finally:
        thread.join(20)
        script.close()


@pytest.mark.parametrize("reset", [True, False])
def test_reads_so_many_events_and_hangs_up(reset: bool) -> None:
    said = chunk(b": ping\ndata: 1\n\ndata") + chunk(b": 2\r\n\r\ndata: 3\n\n")
    with running(Script(HEAD + said)) as script:
        client = SocketClient(f"{script.url}/a?b=c", json={"d": 1}, headers={"X-Y": "z"})
        assert client.status == 200
        assert client.headers["x-run-id"] == "r"
        assert client.read_events(2) == [b": ping\ndata: 1\n\n", b"data: 2\r\n\r\n"]
        client.hang_up(reset=reset)
        client.close()
    assert script.asked.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"X-Y: z\r\n" in script.asked
    assert isinstance(script.left, ConnectionResetError) if reset else script.left == b""


def test_reads_slowly_and_then_the_rest() -> None:
    script = Script(HEAD, chunk(b"x" * 10_000), b"0\r\n\r\n")
    with running(script), SocketClient(script.url, method="GET") as client:
        first = client.read_slowly(bytes_per_s=1000, for_s=0.3)
        assert 0 < len(first) <= 400
        assert len(first + client.read_rest()) == 10_000
        assert client.complete
        assert client.read_events(1) == []


@pytest.mark.parametrize("said", [chunk(b"data: 1\n\n"), b"ff\r\ndata: 1\n\n"])
def test_a_stream_that_was_cut_is_not_complete(said: bytes) -> None:
    with running(Script(HEAD, said, cut=True)) as script, SocketClient(script.url) as client:
        assert client.read_rest() == b"data: 1\n\n"
        assert not client.complete


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "127.0.0.1:80", "ws://127.0.0.1/"])
def test_only_plain_http(url: str) -> None:
    with pytest.raises(ConfigError, match="http://"):
        SocketClient(url)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        SocketClient(f"http://127.0.0.1:{port}/")
