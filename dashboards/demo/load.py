"""Clients of every kind for `dashboards.demo.app`: those that read, leave, dawdle and shut down.

python -m dashboards.demo.load http://127.0.0.1:8000 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable

MESSAGES = (
    "weather in Tokyo", "weather in Paris", "weather in Atlantis", "fail", "please approve",
    "drop it", "stall",
)  # fmt: skip
DIALECTS = ("ag-ui", "openai-chat", "openai-responses", "anthropic", "cognis", "generic")
RUNS = ("kept", "away", "lost")
RECORDINGS = ("openai-chat-reasoning", "openai-responses-mcp", "anthropic-web-fetch", "ag-ui-tools")
SLOW_S = 2.5
TOO_SLOW_S = 4.0
SMALL_BUFFER = 4096


class Client:
    """Asks one server, each time over a connection of its own."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, then: Callable[..., Awaitable[None]]
    ) -> None:
        """Send a request, and do with the connection what `then` does."""
        reader, writer = await asyncio.open_connection(
            sock=await self._connected(), limit=SMALL_BUFFER
        )
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await then(reader, writer)
        writer.close()

    async def _connected(self) -> socket.socket:
        """A socket for which the kernel holds little, so that who does not read is noticed."""
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, address = (
            await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        )[0]
        connection = socket.socket(family, kind, protocol)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        connection.setblocking(False)
        await loop.sock_connect(connection, address)
        return connection

    async def chat(self, message: str, dialect: str) -> None:
        """A client that reads to the end."""
        body = json.dumps({"message": message, "dialect": dialect}).encode()
        await self.ask("POST", "/chat", body, then=read_all)

    async def leave(self, dialect: str) -> None:
        """A client that hangs up once it has seen something."""
        body = json.dumps({"message": "weather in Oslo", "dialect": dialect}).encode()
        await self.ask("POST", "/chat", body, then=read_some)

    async def come_back(self, kind: str) -> None:
        """A client that loses the connection, goes on, and asks for all of it when it is over."""
        run_id = f"{kind}-{uuid.uuid4()}"
        body = json.dumps({"message": "go on", "run_id": run_id}).encode()
        await self.ask("POST", "/agents/runs", body, then=read_some)
        for _ in range(2):
            await self.ask("GET", f"/agents/runs/{run_id}/events?after=1", then=read_all)

    async def endless_and_drain(self) -> None:
        """Streams that a shutdown ends."""
        open_one = asyncio.create_task(self.ask("GET", "/endless", then=read_until_cancelled))
        await asyncio.sleep(0.5)
        await self.ask("POST", "/drain", then=read_all)
        open_one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await open_one


async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def read_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\n\n")
    await asyncio.sleep(0.3)


async def read_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(SLOW_S)
    await read_all(reader, writer)


async def read_too_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(TOO_SLOW_S)
    await read_all(reader, writer)


async def read_until_cancelled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await read_all(reader, writer)
    finally:
        writer.close()


async def one_round(client: Client) -> None:
    """Every outcome, at least once."""
    await asyncio.gather(
        *(client.chat(message, dialect) for message in MESSAGES for dialect in DIALECTS),
        *(client.leave(dialect) for dialect in DIALECTS),
        *(client.ask("POST", f"/replay/{name}", then=read_all) for name in RECORDINGS),
        *(client.ask("GET", path, then=read_all) for path in ("/timeout", "/odd", "/flood")),
        client.ask("GET", "/large", then=read_slowly),
        *(client.come_back(kind) for kind in RUNS),
        *(client.ask("GET", path, then=read_too_slowly) for path in ("/drop", "/coalesce")),
    )
    await client.endless_and_drain()


async def run(url: str, rounds: int | None) -> None:
    client = Client(url)
    done = 0
    while rounds is None or done < rounds:
        await one_round(client)
        done += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, help="stop after so many; by default, never")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.url, arguments.rounds))


if __name__ == "__main__":
    main()
