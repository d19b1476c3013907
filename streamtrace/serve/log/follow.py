"""The way of one reader through a run, from its cursor to the end: told here, or by the log.

Rules that hold here:

* What it gives is in order, each entry once, and every hole is told, with its size.
* Where the run is made in this process, what is new comes from its tail, and what is older from the
  log; else all comes from the log.
* A log that cannot be reached while a run of this process is followed is a hole; while another is
  followed, it cuts the stream: it may be had later.
* A follower waits for the run. Nobody waits for a follower.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Literal

import msgspec

from streamtrace.core.errors import LogError
from streamtrace.serve.log.base import EventLog, LogEntry, RunKey
from streamtrace.serve.log.tail import Tail

PAGE_BYTES = 64 * 1024

End = Literal["finished", "orphaned", "cut"]


class Part(msgspec.Struct, frozen=True):
    """What comes next: so many events are missing, and then these entries."""

    missed: int
    entries: Sequence[LogEntry]


class Follower:
    """See the module docstring. `tail` is that of a run of this process.

    cursor   the newest number that was given, or told as missing
    end      how it ended: `cut` where the log has no more to say, although the run may go on
    """

    def __init__(self, log: EventLog, key: RunKey, cursor: int, tail: Tail | None = None) -> None:
        self.cursor = cursor
        self.end: End | None = None
        self._log = log
        self._key = key
        self._tail = tail
        self._parts: deque[Part] = deque()

    async def next(self, wait_s: float | None) -> Part | None:
        """What comes next. `None`: nothing within `wait_s` (`None`: no limit), or it has ended."""
        if not self._parts and self.end is None:
            if self._tail is None:
                await self._read(wait_s)
            else:
                await self._listen(self._tail, wait_s)
        if not self._parts:
            return None
        part = self._parts.popleft()
        self.cursor = part.entries[-1].id if part.entries else self.cursor + part.missed
        return part

    async def _listen(self, tail: Tail, wait_s: float | None) -> None:
        told = tail.behind(self.cursor, PAGE_BYTES)
        if told is not None and not told and not tail.is_over and wait_s != 0:
            try:
                async with asyncio.timeout(wait_s):
                    await tail.news()
            except TimeoutError:
                return
            told = tail.behind(self.cursor, PAGE_BYTES)
        if told is None:
            await self._catch_up(tail)
        elif told:
            self._parts.append(Part(0, told))
        elif tail.is_over:
            self.end = "finished"

    async def _catch_up(self, tail: Tail) -> None:
        """What the tail has no more: from the log, as far as that has it."""
        entries: list[LogEntry] = []
        try:
            page = await self._log.read(self._key, self.cursor, max_bytes=PAGE_BYTES)
            entries = [entry for entry in page.entries if entry.id < tail.first_id]
        except LogError:
            """It is a hole then."""
        self._put(entries)
        if not entries:
            self._parts.append(Part(tail.first_id - 1 - self.cursor, ()))

    async def _read(self, wait_s: float | None) -> None:
        wait_s = _LONG_S if wait_s is None else wait_s
        try:
            page = await self._log.read(self._key, self.cursor, max_bytes=PAGE_BYTES, wait_s=wait_s)
        except LogError:
            self.end = "cut"
            return
        self._put(page.entries)
        state = page.state
        if page.entries or state.phase == "live":
            return
        if state.last_id > self.cursor:
            self._parts.append(Part(state.last_id - self.cursor, ()))
        self.end = state.phase

    def _put(self, entries: Sequence[LogEntry]) -> None:
        """The entries, cut where one is missing."""
        cursor, begin = self.cursor, 0
        missed = 0
        for at, entry in enumerate(entries):
            if entry.id != cursor + 1:
                if at > begin:
                    self._parts.append(Part(missed, entries[begin:at]))
                begin, missed = at, entry.id - cursor - 1
            cursor = entry.id
        if entries:
            self._parts.append(Part(missed, entries[begin:]))


_LONG_S = 3600.0
