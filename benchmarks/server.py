"""`python -m benchmarks.server VARIANT COLLECTOR`: uvicorn around one variant.

What is asked of it goes over the pipe of `children`, beside the app that is measured:

    usage    CPU time of the whole process so far, memory, and what was told of the streams
    rest     wait until no request is under way but `besides`, and the streams of all others are
             decoded; with `flush`, until all is exported as well
    collect  collect garbage now, so that what others left is not paid for by the next sample
    watch    begin to watch the lag of the loop; `watched` ends it and returns the lags

Every server has imported the packages of all variants. What is there at the start is taken from the
garbage collector (`gc.freeze`), or each would pay in pauses for packages that it does not use.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from benchmarks import children
from benchmarks.variants import GC_THRESHOLD, VARIANTS

TICK_S = 0.005
POLL_S = 0.002
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class UnderWay:
    """The app, and how many it answers. Per request, not per message."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self.requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.requests -= 1


class LagWatch:
    """How much later than asked the loop calls back. uvloop's timers have a resolution of 1 ms."""

    def __init__(self) -> None:
        self._lags_ms: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0

    def start(self) -> None:
        self._lags_ms = []
        self._next()

    def stop(self) -> list[float]:
        if self._timer is not None:
            self._timer.cancel()
        return self._lags_ms

    def _next(self) -> None:
        self._due_ns = time.monotonic_ns() + round(TICK_S * 1e9)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._lags_ms.append((time.monotonic_ns() - self._due_ns) / 1e6)
        self._next()


class Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


def rss_bytes() -> int:
    """The memory of this process that is resident. As Linux tells it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


async def main(name: str, collector: str) -> None:
    """Serve until the parent is gone."""
    variant = VARIANTS[name](collector)
    app = UnderWay(variant.app)
    lags = LagWatch()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    config = uvicorn.Config(
        app, http="httptools", access_log=False, log_level="error", backlog=4096
    )
    server = Server(config)

    async def usage() -> dict[str, Any]:
        return {
            "cpu_ns": time.process_time_ns(),
            "rss_bytes": rss_bytes(),
            "counts": variant.counts(),
        }

    async def rest(flush: bool, besides: int = 0) -> None:
        while max(app.requests, variant.untold()) > besides:  # noqa: ASYNC110  nobody would tell us
            await asyncio.sleep(POLL_S)
        if flush:
            await variant.flush()

    async def collect() -> None:
        gc.collect()

    async def watch() -> None:
        gc.collect()
        lags.start()

    async def watched() -> list[float]:
        return lags.stop()

    serving = asyncio.create_task(server.serve([listener]))
    await server.has_started.wait()
    gc.collect()
    gc.freeze()
    if threshold := os.environ.get(GC_THRESHOLD):
        gc.set_threshold(int(threshold))
    commands = {one.__name__: one for one in (usage, rest, collect, watch, watched)}
    children.answer(commands, {"port": listener.getsockname()[1]})
    await serving


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
