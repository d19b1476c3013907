"""`python -m benchmarks.receivers`: where exports go, in a process beside the load.

One port answers every POST with 200 (OTLP over HTTP, and Langfuse's way of it, on any path), one
takes requests and never answers, one refuses connections. Bodies are counted and not read: whoever
exports knows what it sent, and reading it would take the load's core.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httptools
import uvloop

from benchmarks import children

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


class Counts:
    """What arrived at a port."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0


class Receiver(asyncio.Protocol):
    """One connection; `reply` is what each request is answered with, or nothing."""

    def __init__(self, counts: Counts, reply: bytes) -> None:
        self._counts = counts
        self._reply = reply
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._counts.bytes += len(body)

    def on_message_complete(self) -> None:
        self._counts.requests += 1
        if self._reply:
            self._transport.write(self._reply)


class Receivers(children.Child):
    """The process, for the time of a `with` block."""

    def __init__(self, core: int | None = None) -> None:
        super().__init__("benchmarks.receivers", core=core)

    @property
    def langfuse_host(self) -> str:
        """The base URL of the port that answers."""
        return f"http://127.0.0.1:{self.hello['ports']['answers']}"

    @property
    def otlp_url(self) -> str:
        """The endpoint of traces there, in full."""
        return f"{self.langfuse_host}/v1/traces"

    def counts(self) -> dict[str, int]:
        """What was answered so far: requests, and bytes of their bodies as they came."""
        told: dict[str, int] = self.ask("told")["answers"]
        return told


async def main() -> None:
    """Receive until the parent is gone."""
    loop = asyncio.get_running_loop()
    counts = {"answers": Counts(), "hangs": Counts()}
    replies = {"answers": _OK, "hangs": b""}
    ports = {}
    servers = []
    for name, count in counts.items():
        server = await loop.create_server(
            lambda count=count, name=name: Receiver(count, replies[name]), "127.0.0.1", 0
        )
        servers.append(server)
        ports[name] = server.sockets[0].getsockname()[1]
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # bound, and nobody listens: refused
    ports["refuses"] = closed.getsockname()[1]

    async def told() -> dict[str, Any]:
        return {name: vars(count) for name, count in counts.items()}

    children.answer({"told": told}, {"ports": ports})
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main())
