"""The clients: as cheap as they can be, so that the server is what limits.

Rules that hold here:

* Saturation counts bytes and looks only at the end of a response; a body that is not as long as
  that of the stream it asked for is an error, not a result.
* Saturation looks at its sockets now and then, and does not wait for them: to wake a process on the
  other core at every frame would cost the server more than the frame, as no network card does.
* Everybody on one side of a socket is in one process, on one core; what that took of the core is
  part of the result, since a busy load process would measure itself.
* A stream is asked for as agents are: POST with a small body of JSON, on a connection that is kept.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import streams

READ_BYTES = 256 * 1024
LOOKS_EVERY_S = 0.0005
WAITS_S = 30.0
END = b"0\r\n\r\n"
_QUESTION = json.dumps(
    {
        "model": "gpt-4o",
        "stream": True,
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": "What is a streamed answer, and why would one want it?"},
        ],
    }
).encode()


class LoadFailed(RuntimeError):
    """A response was not what was asked for."""


def request(path: str) -> bytes:
    """A question for `path`."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: benchmark\r\naccept: text/event-stream\r\n"
        f"content-type: application/json\r\ncontent-length: {len(_QUESTION)}\r\n\r\n"
    )
    return head.encode() + _QUESTION


class Load(NamedTuple):
    """What the clients of a sample saw."""

    streams: int
    seconds: float
    busy: float
    """The share of the load's core that the load process took."""


class _Client:
    """One connection that asks again and again."""

    def __init__(self, port: int, asks: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.asks = asks
        self._tail = b""
        self._head_bytes = 0
        self._bytes = 0

    def ask(self) -> None:
        self._tail, self._head_bytes, self._bytes = b"", 0, 0
        self.socket.sendall(self.asks)

    def read(self, buffer: memoryview) -> int | None:
        """What came; the length of the body (as it was sent) once it has ended, else `None`."""
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        if not count:
            raise LoadFailed("the server closed the connection")
        if not self._bytes:
            head, end, _ = bytes(buffer[:count]).partition(b"\r\n\r\n")
            if not end or b" 200 " not in head[:16]:
                raise LoadFailed(f"not the response that was asked for: {head[:200]!r}")
            self._head_bytes = len(head) + len(end)
        self._bytes += count
        self._tail = (self._tail + bytes(buffer[max(0, count - len(END)) : count]))[-len(END) :]
        return self._bytes - self._head_bytes if self._tail == END else None


def wire_bytes(frames: list[bytes]) -> int:
    """How long the frames are as a chunked body, each a chunk."""
    return len(END) + sum(len(b"%x\r\n\r\n" % len(one)) + len(one) for one in frames)


@contextlib.contextmanager
def _clients(port: int, asks: bytes, count: int) -> Iterator[list[_Client]]:
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = _Client(port, asks)
            stack.callback(client.socket.close)
            clients.append(client)
        yield clients


def saturate(
    port: int, stream: str, clients: int, seconds: float, tokens: int = streams.TOKENS
) -> Load:
    """Each client asks for stream after stream, for `seconds`; what was begun is read to its end.

    Raises LoadFailed for anything but whole streams.
    """
    expected = wire_bytes(streams.STREAMS[stream](tokens))
    buffer = memoryview(bytearray(READ_BYTES))
    done = 0
    with _clients(port, request(f"/{stream}?tokens={tokens}"), clients) as asking:
        cpu_ns, began_ns = time.process_time_ns(), time.monotonic_ns()
        until_ns = began_ns + round(seconds * 1e9)
        fails_ns = until_ns + round(WAITS_S * 1e9)
        for client in asking:
            client.ask()
        while asking:
            time.sleep(LOOKS_EVERY_S)
            now_ns = time.monotonic_ns()
            if now_ns > fails_ns:
                raise LoadFailed(f"{len(asking)} streams did not end within {WAITS_S} s")
            for client in tuple(asking):
                body_bytes = client.read(buffer)
                if body_bytes is None:
                    continue
                if body_bytes != expected:
                    raise LoadFailed(f"a body of {body_bytes} bytes, expected {expected}")
                done += 1
                if now_ns < until_ns:
                    client.ask()
                else:
                    asking.remove(client)
        took_ns = time.monotonic_ns() - began_ns
    return Load(done, took_ns / 1e9, (time.process_time_ns() - cpu_ns) / took_ns)


@contextlib.contextmanager
def slow_readers(port: int, count: int, bytes_per_s: int, tokens: int) -> Iterator[None]:
    """Clients that ask for a long stream, and take it by so little, for the time of the block."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(count):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", port))
            reader.sendall(request(f"/openai?tokens={tokens}"))
            readers.append(reader)

        def read() -> None:
            while not over.wait(1.0):
                for reader in readers:
                    reader.recv(bytes_per_s)

        thread = threading.Thread(target=read, name="slow readers")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
