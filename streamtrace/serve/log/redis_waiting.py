"""Who waits for an entry in Redis, woken from one connection for all.

Rules that hold here:

* One `XREAD` blocks on the streams of all runs that somebody here waits for. What it answers is not
  read here: it says which of them to wake.
* It is asked anew when it has answered; when it is nudged, since somebody waits for a stream that
  it does not know; and every second. A pause between two lets many be woken, and come back, at
  once: it bounds what waiting costs the server, and is the most that waking is late.
* Where too many streams are waited for, who comes last looks by themselves, every now and then.
* A server that does not answer wakes everybody: they ask, and are told.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from streamtrace.core.errors import LogUnavailable
from streamtrace.serve.log.redis_scripts import NUDGE
from streamtrace.serve.log.waiters import Waiter, heard, wake
from streamtrace.serve.redis_stores import Client

MAX_STREAMS = 1_000
PAUSE_S = 0.005
_BLOCK_MS = 1_000  # under what a connection waits for an answer
_LOOK_EVERY_S = 0.25
_NUDGE_KEPT_MS = 60_000


class Waiting:
    """Those who wait on this side.

    blocks   has a connection that may block
    asks     is for nudges
    nudge    the key of a stream that nobody else has
    """

    def __init__(self, blocks: Client, asks: Client, nudge: str) -> None:
        self._blocks = blocks
        self._asks = asks
        self._script = asks.redis.register_script(NUDGE)
        self._nudge = nudge
        self._nudges = 0
        self._waiters: dict[str, dict[Waiter, int]] = {}
        self._asked: dict[str, int] | None = None
        self._task: asyncio.Task[None] | None = None

    async def wait(self, stream: str, after: int, seconds: float) -> None:
        """Until there may be something behind this number, or so long. Raises LogUnavailable."""
        if stream not in self._waiters and len(self._waiters) >= MAX_STREAMS:
            await asyncio.sleep(min(seconds, _LOOK_EVERY_S))
            return
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(stream, {})[waiter] = after
        try:
            await self._make_known(stream, after)
            await heard(waiter, seconds)
        finally:
            waiters = self._waiters.get(stream, {})
            waiters.pop(waiter, None)
            if not waiters:
                self._waiters.pop(stream, None)

    async def aclose(self) -> None:
        """Wake everybody, and ask no more."""
        for stream in list(self._waiters):
            self._wake_all(stream)
        if self._task is not None and not self._task.done():
            with contextlib.suppress(LogUnavailable):  # then the reader is not answered either
                await self._wake_reader()
            await asyncio.wait([self._task])

    async def _make_known(self, stream: str, after: int) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read())
        elif self._asked is not None and self._asked.get(stream, after + 1) > after:
            self._asked = None  # it answers, and whoever comes meanwhile is asked for as well
            await self._wake_reader()

    async def _wake_reader(self) -> None:
        """It is not cancelled: a command is never left half-way."""
        self._nudges += 1
        said = [self._nudges, _NUDGE_KEPT_MS]
        await self._asks.ask(self._script([self._nudge], said))

    async def _read(self) -> None:
        while self._waiters:
            asked = {name: min(waiters.values()) for name, waiters in self._waiters.items()}
            behind: dict[Any, Any] = {name: f"{number}-0" for name, number in asked.items()}
            behind[self._nudge] = f"{self._nudges}-0"
            self._asked = asked
            try:
                asking = self._blocks.redis.xread(behind, count=1, block=_BLOCK_MS)
                found = await self._blocks.ask(asking)
                woken = [bytes(stream).decode() for stream in _names(found)]
            except LogUnavailable:
                woken = list(asked)
            self._asked = None
            for stream in woken:
                self._wake_all(stream)
            await asyncio.sleep(PAUSE_S)

    def _wake_all(self, stream: str) -> None:
        for waiter in self._waiters.pop(stream, {}):
            wake(waiter)


def _names(found: object) -> list[bytes]:
    """Of the streams in an answer to `XREAD`: a dict or a list, by version and protocol."""
    if isinstance(found, dict):
        return list(found)
    return [stream for stream, _ in found] if isinstance(found, list) else []
