"""Clients of many streams at the pace of real agents, and how late each token came.

Rules that hold here:

* Each of the streams is in flight at all times: as one ends, its client asks for the next. The
  first ones differ in length, so that streams begin and end all the time, and not together.
* A token says when it was due. It is late by what passed from there until its bytes are read here:
  the agent's timer, the server, the kernel, and this process, whose share of its core is told.
* Only tokens that were due while we watched count; one that has not come GRACE_S later is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import statistics
import time
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Any

from benchmarks.fleet import Server
from benchmarks.load import END, WAITS_S, request

TOKENS = 300
GRACE_S = 0.5
STARTS_S = 1.0
"""How long, at most, streams run before garbage is collected, and then before they are watched."""
QUANTILES = ("p50", "p99", "p99.9")
_DUE = re.compile(rb'"content":" (\d+)"')


class Seen:
    """What all clients saw."""

    def __init__(self, clients: int) -> None:
        self.all_answered = asyncio.Event()
        self._unanswered = clients
        self.tokens = 0
        self.late_ns = array("q")
        self._from_ns = self._until_ns = 0

    def watch(self, seconds: float) -> None:
        """Note the lateness of the tokens that are due from now on, for so long."""
        self._from_ns = time.monotonic_ns()
        self._until_ns = self._from_ns + round(seconds * 1e9)

    def head(self) -> None:
        self._unanswered -= 1
        if not self._unanswered:
            self.all_answered.set()

    def token(self, due_ns: int, now_ns: int) -> None:
        self.tokens += 1
        if self._from_ns <= due_ns < self._until_ns:
            self.late_ns.append(now_ns - due_ns)


class _Client(asyncio.Protocol):
    def __init__(self, seen: Seen, first: bytes, then: bytes) -> None:
        self._seen = seen
        self._first = first
        self._then = then
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        seen = self._seen
        if data.startswith(b"HTTP/1.1 200 "):
            seen.head()
        for due in _DUE.findall(data):
            seen.token(int(due), now_ns)
        if data.endswith(END):
            self._transport.write(self._then)


@contextlib.asynccontextmanager
async def clients(
    port: int, count: int, asks: Callable[[int], tuple[bytes, bytes]]
) -> AsyncIterator[Seen]:
    """`count` connections, all of which have begun to be answered; gone after the block.

    `asks` is given the number of the client, and says what it asks for first, and then ever again.
    """
    loop = asyncio.get_running_loop()
    seen = Seen(count)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(count):
            first, then = asks(number)
            transport, _ = await loop.create_connection(
                lambda first=first, then=then: _Client(seen, first, then),  # type: ignore[misc]
                "127.0.0.1",
                port,
            )
            stack.callback(transport.abort)
        async with asyncio.timeout(WAITS_S):
            await seen.all_answered.wait()
        yield seen


async def asked(server: Server, do: str, **what: Any) -> Any:
    """Ask the server while the clients go on."""
    return await asyncio.to_thread(server.ask, do, **what)


async def pace(
    server: Server, count: int, rate: float, seconds: float, *, besides: int = 0
) -> dict[str, Any]:
    """`count` streams of `rate` tokens per second, watched for so many seconds.

    `besides` requests of others are under way all the time.
    """

    def asks(number: int) -> tuple[bytes, bytes]:
        part = max(1, TOKENS * (number + 1) // count)
        return (
            request(f"/paced?tokens={part}&rate={rate}"),
            request(f"/paced?tokens={TOKENS}&rate={rate}"),
        )

    starts_s = min(STARTS_S, seconds)
    await asked(server, "collect")
    async with clients(server.port, count, asks) as seen:
        await asyncio.sleep(starts_s)
        gc.collect()
        gc.disable()  # our own pauses are not the server's
        await asked(server, "watch")
        await asyncio.sleep(starts_s)  # what it collected made tokens late
        before, tokens_before = await asked(server, "usage"), seen.tokens
        cpu_ns, began_ns = time.process_time_ns(), time.monotonic_ns()
        seen.watch(seconds)
        await asyncio.sleep(seconds)
        busy = (time.process_time_ns() - cpu_ns) / (time.monotonic_ns() - began_ns)
        after, tokens_after = await asked(server, "usage"), seen.tokens
        lags_ms = await asked(server, "watched")
        await asyncio.sleep(GRACE_S)
        gc.enable()
    await asked(server, "rest", flush=False, besides=besides)
    cpu_ns = after["cpu_ns"] - before["cpu_ns"]
    return {
        "late_ms": quantiles([late / 1e6 for late in seen.late_ns]),
        "lag_ms": quantiles(lags_ms),
        "came": len(seen.late_ns) / (count * rate * seconds),
        "cpu_us": cpu_ns / max(1, tokens_after - tokens_before) / 1e3,
        "server_busy": cpu_ns / seconds / 1e9,
        "load_busy": busy,
        "rss_bytes": after["rss_bytes"],
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """The median, and what 1 % and 0.1 % are above."""
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    return dict(zip(QUANTILES, (cuts[499], cuts[989], cuts[998]), strict=True))
