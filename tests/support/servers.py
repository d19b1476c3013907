"""Real ASGI servers on loopback, and a client that sees every byte and can hang up.

Rules that hold here:

* A server is a process of its own, in a session of its own; nothing else is ever signalled.
* Whoever waits, waits with a bound, and fails with what the server wrote to its log.
* The client is a plain socket: no pool, no retry, no decoding but that of the transfer coding.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

STARTS_WITHIN_S = 30.0
STOPS_WITHIN_S = 20.0
ANSWERS_WITHIN_S = 20.0
GRACE_S = 1  # that open streams get when a server is told to stop, where it has such a limit

T = TypeVar("T")

_UVICORN = ["uvicorn", "--no-access-log", f"--timeout-graceful-shutdown={GRACE_S}"]
# How each server is told: its app, the port, and the fd of a socket that listens there (or none).
_COMMANDS: dict[str, Callable[[str, int, int], list[str]]] = {
    "uvicorn-h11-asyncio": lambda app, _, fd: (
        [*_UVICORN, app, f"--fd={fd}", "--http=h11", "--loop=asyncio"]
    ),
    "uvicorn-httptools-uvloop": lambda app, _, fd: (
        [*_UVICORN, app, f"--fd={fd}", "--http=httptools", "--loop=uvloop"]
    ),
    "hypercorn": lambda app, _, fd: (
        ["hypercorn", app, f"--bind=fd://{fd}", f"--graceful-timeout={GRACE_S}"]
    ),
    "granian": lambda app, port, _: (
        ["granian", app, "--interface=asgi", f"--port={port}", "--http=1", "--no-ws"]
    ),
}
SERVERS = tuple(_COMMANDS)
"""The servers that tests of all servers use."""

# Servers that set no limit of their own to open streams, or one that is long.
_PATIENT: dict[str, Callable[[str, int, int], list[str]]] = {
    "uvicorn-patient": lambda app, _, fd: ["uvicorn", "--no-access-log", app, f"--fd={fd}"],
    "gunicorn-patient": lambda app, _, fd: (
        ["gunicorn", app, "--worker-class=uvicorn_worker.UvicornWorker", f"--bind=fd://{fd}"]
    ),
    "hypercorn-patient": lambda app, _, fd: (
        ["hypercorn", app, f"--bind=fd://{fd}", "--workers=0", "--graceful-timeout=15"]
    ),
    "granian-patient": _COMMANDS["granian"],
}
_COMMANDS |= _PATIENT
PATIENT_SERVERS = tuple(_PATIENT)
"""Servers that wait for open streams when they are told to stop."""

_INHERITS_SOCKET = {name: not name.startswith("granian") for name in _COMMANDS}
TAKE_SOCKETS = tuple(name for name in SERVERS if _INHERITS_SOCKET[name])
"""Those of them that are given a socket that listens."""


class ServerFailed(AssertionError):
    """The server did not start, or did not stop, as it should."""


@dataclass
class Server:
    """A running server: where it listens, and what it wrote."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def terminate(self) -> int:
        """SIGTERM, as an orchestrator does, and wait for the end. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise ServerFailed(
                f"{self.name} still runs {STOPS_WITHIN_S} s after SIGTERM:\n{self.log_text()}"
            ) from None

    def log_text(self) -> str:
        """All that the server wrote to stdout and stderr."""
        return self.log.read_text("utf-8", "replace")


@contextlib.contextmanager
def serving(
    name: str,
    app: str,
    directory: Path,
    log: Path,
    env: dict[str, str] | None = None,
    *,
    ready: str = "/ready",
    listening: Callable[[socket.socket], object] | None = None,
) -> Iterator[Server]:
    """Serve `app` ("module:attribute", the module lying in `directory`) until the block ends.

    The app is up when it answers `ready` with 200. `listening` is called with the socket that the
    server is given, where it takes one.
    """
    inherits = _INHERITS_SOCKET[name]
    listener = socket.socket()
    if not inherits:  # the port is ours until the server binds it too: no other is given it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", 0))
    if inherits:
        listener.listen(256)
        if listening is not None:
            listening(listener)
    port = listener.getsockname()[1]
    command = [sys.executable, "-m", *_COMMANDS[name](app, port, listener.fileno())]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(env or {}), "PYTHONPATH": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()] if inherits else [],
            start_new_session=True,
        )
    server = Server(name, port, process, log)
    try:
        if inherits:
            listener.close()  # so that a server that ends refuses connections
        _wait_until_ready(server, ready)
        yield server
        if process.poll() is None:
            server.terminate()
    finally:
        listener.close()
        _end_session(process)


def _wait_until_ready(server: Server, path: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerFailed(f"{server.name} ended at its start:\n{server.log_text()}")
        try:
            if get(server.port, path).status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise ServerFailed(f"{server.name} is not ready:\n{server.log_text()}")


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of the process we started, and of those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(
    what: Callable[[], T | None], within_s: float = ANSWERS_WITHIN_S, every_s: float = 0.01
) -> T:
    """What `what` returns, once it returns something."""
    deadline = time.monotonic() + within_s
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing after {within_s} s")
        time.sleep(every_s)
    return found


# --- the client ----------------------------------------------------------------------------


@dataclass
class Response:
    """A response as it came: the head, the raw body, and the chunks of its transfer coding."""

    status: int
    headers: list[tuple[str, str]]
    raw: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False
    """Whether the body ended as it should: a cut chunked body did not."""

    @property
    def body(self) -> bytes:
        """The body without its transfer coding."""
        return b"".join(self.chunks)


class Connection:
    """One request over one connection: a GET, or what is `sent`."""

    def __init__(self, port: int, path: str, sent: bytes | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWERS_WITHIN_S)
        get = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        self.socket.sendall(get.encode() if sent is None else sent)
        self._file: BinaryIO = self.socket.makefile("rb")

    def read_head(self) -> Response:
        """The status line and the headers (names in lower case)."""
        status_line = self._file.readline()
        if not status_line:
            raise ConnectionResetError("closed before the response")
        headers = []
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.lower(), value.strip()))
        return Response(int(status_line.split()[1]), headers)

    def read(self) -> Response:
        """The whole response. A body that was cut is returned as far as it came."""
        return self.read_body(self.read_head())

    def read_body(self, response: Response) -> Response:
        """What follows the head."""
        headers = dict(response.headers)
        with contextlib.suppress(ConnectionError):
            if headers.get("transfer-encoding") == "chunked":
                self._read_chunks(response)
            else:
                length = int(headers.get("content-length", -1))
                response.raw = self._file.read(length)
                response.chunks = [response.raw]
                response.complete = length in (-1, len(response.raw))
        return response

    def _read_chunks(self, response: Response) -> None:
        raw = bytearray()
        while not response.complete:
            raw += (line := self._file.readline())
            size = int(line or b"0", 16)
            raw += (chunk := self._file.read(size + 2))
            if len(chunk) < size + 2:
                break
            response.complete = size == 0
            if size:
                response.chunks.append(chunk[:-2])
        response.raw = bytes(raw)

    def read_until(self, what: bytes) -> None:
        """Read the lines of the body up to the first with `what` in it."""
        while what not in (line := self._file.readline()):
            if not line:
                raise ConnectionResetError(f"closed before {what!r}")

    def read_bytes(self, count: int) -> bytes:
        """That many raw bytes of the body (after `read_head`), then no more are read."""
        return self._file.read(count)

    def hang_up(self, reset: bool) -> None:
        """Leave: with a RST, as a killed client does, or with a FIN."""
        if reset:
            on_with_no_time = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on_with_no_time)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def get(port: int, path: str) -> Response:
    """GET, read to the end, and close."""
    with Connection(port, path) as connection:
        return connection.read()


def get_and_hang_up(port: int, path: str, after_bytes: int, reset: bool) -> bytes:
    """GET, read that much of the raw body, and leave. Returns what was read."""
    with Connection(port, path) as connection:
        connection.read_head()
        taken = connection.read_bytes(after_bytes)
        connection.hang_up(reset)
        return taken
