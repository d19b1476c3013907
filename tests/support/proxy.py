"""A network that can be cut: TCP between a client and a server, by the will of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit


class Proxy:
    """`connections` counts those that came.

    `cuts`: for each connection, after how many bytes of the server's it is dropped; those behind
    are not.
    """

    def __init__(self, server_url: str, cuts: Iterable[int] = ()) -> None:
        self.connections = 0
        self._cuts = iter(cuts)
        self._to = urlsplit(server_url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._held: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def hold(self) -> None:
        """Carry nothing more over the connections that there are, and do not close them either."""
        self._held |= self._writers

    def cut(self) -> int:
        """Drop all connections, as a lost network does; how many there were."""
        cut = [writer for writer in self._writers if not writer.is_closing()]
        for writer in cut:
            writer.transport.abort()
        return len(cut) // 2

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._to.hostname, self._to.port)
            both = {writer, far_writer}
            self._writers |= both
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(reader, far_writer))
                    group.create_task(self._carry(far_reader, writer, next(self._cuts, None)))
            finally:
                self._writers -= both
                self._held -= both
                for one in both:
                    one.close()
        finally:
            self._tasks.discard(task)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cut_after: int | None = None,
    ) -> None:
        left = cut_after
        try:
            while data := await reader.read(65536 if left is None else left):
                left = None if left is None else left - len(data)
                if writer not in self._held:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            writer.transport.abort()
        else:
            writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxied(server_url: str, cuts: Iterable[int] = ()) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before that server, and its URL."""
    proxy = Proxy(server_url, cuts)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.close()
