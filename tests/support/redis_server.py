"""A real Redis on a free loopback port, with nothing on disk, for one test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.otlp import free_port
from support.servers import wait_for

_SERVICES = Path(__file__).parents[2] / ".services" / "usr"
_PLACES = os.pathsep.join([os.environ["PATH"], str(_SERVICES / "bin")])
REDIS_SERVER = shutil.which("redis-server", path=_PLACES)
STARTS_WITHIN_S = 20
STOPS_WITHIN_S = 20


class RedisServer:
    """A running server, which can be held up as one that hangs."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.process = process

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It accepts connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Serve until the block ends."""
    assert REDIS_SERVER is not None, "redis-server is not here: .ci/services"
    port = free_port()
    libraries = [str(path) for path in (_SERVICES / "lib").glob("*-linux-gnu")]
    command = [
        REDIS_SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "",
        "--appendonly", "no", "--dir", str(folder),
    ]  # fmt: skip
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: _answers(port, process, folder / "redis.log"), within_s=STARTS_WITHIN_S)
        yield RedisServer(port, process)
    finally:
        process.terminate()
        process.wait(STOPS_WITHIN_S)


def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> bool | None:
    assert process.poll() is None, log.read_text()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n" or None
    except OSError:
        return None
