"""A real Redis on a free loopback port, with nothing on disk, for one test; also a cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.otlp import free_port
from support.servers import wait_for

_SERVICES = Path(__file__).parents[2] / ".services" / "usr"
_PLACES = os.pathsep.join([os.environ["PATH"], str(_SERVICES / "bin")])
REDIS_SERVER = shutil.which("redis-server", path=_PLACES)
STARTS_WITHIN_S = 20
STOPS_WITHIN_S = 20
SLOTS = 16_384


class RedisServer:
    """A running server, which can be held up as one that hangs, and ended and started again."""

    def __init__(self, folder: Path, port: int, options: Sequence[str]) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._folder = folder
        self._options = options
        self.start()

    def start(self) -> None:
        """Empty, as nothing is on disk."""
        assert REDIS_SERVER is not None, "redis-server is not here: .ci/services"
        libraries = [str(path) for path in (_SERVICES / "lib").glob("*-linux-gnu")]
        command = [
            REDIS_SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", str(self._folder), *self._options,
        ]  # fmt: skip
        with (self._folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(self._answers, within_s=STARTS_WITHIN_S)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(STOPS_WITHIN_S)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It accepts connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str | int) -> bytes:
        """The first line of the answer to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(" ".join(map(str, words)).encode() + b"\r\n")
            with connection.makefile("rb") as answer:
                return answer.readline().strip()

    def _answers(self) -> bool | None:
        assert self.process.poll() is None, (self._folder / "redis.log").read_text()
        try:
            return self.ask("PING") == b"+PONG" or None
        except OSError:
            return None


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Serve until the block ends."""
    server = RedisServer(folder, free_port(), options)
    try:
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def redis_cluster(folder: Path) -> Iterator[RedisServer]:
    """A cluster of two, of which one is told."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            nodes.append(stack.enter_context(redis_server(folder / name, *bus)))
        first, second = nodes
        assert first.ask("CLUSTER ADDSLOTSRANGE", 0, SLOTS // 2 - 1) == b"+OK"
        assert second.ask("CLUSTER ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1) == b"+OK"
        bus_port = second._options[-1]
        assert first.ask("CLUSTER MEET 127.0.0.1", second.port, bus_port) == b"+OK"
        for node in nodes:
            wait_for(lambda node=node: _serves_all(node), within_s=STARTS_WITHIN_S)
        yield first


def _serves_all(node: RedisServer) -> bool | None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=1) as connection:
        connection.sendall(b"CLUSTER INFO\r\n")
        said = connection.recv(4096)
    return (b"cluster_state:ok" in said and b"cluster_known_nodes:2" in said) or None
