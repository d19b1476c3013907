"""The newest of what a run said, for all who follow it in the process where it runs.

Rules that hold here:

* To publish costs the same for one follower and for many, and waits for none of them: there is one
  tail per run, and each follower has its own place in it.
* It is bounded in events and bytes; the newest entry is always there. Who fell out of it reads on
  in the log.
* Its numbers have no holes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from streamtrace.serve.log.base import LogEntry

TAIL_EVENTS = 1024
TAIL_BYTES = 64 * 1024


class Tail:
    """See the module docstring. For one event loop."""

    def __init__(self, max_events: int = TAIL_EVENTS, max_bytes: int = TAIL_BYTES) -> None:
        self.last_id = 0
        self.is_over = False
        self._max_events, self._max_bytes = max_events, max_bytes
        self._entries: deque[LogEntry] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    @property
    def first_id(self) -> int:
        """The oldest number that is here; that of the next entry if there is none yet."""
        return self._entries[0].id if self._entries else self.last_id + 1

    def publish(self, told: Sequence[LogEntry]) -> None:
        """Say it to all who wait, and let the oldest go."""
        entries = self._entries
        entries.extend(told)
        self._bytes += sum(len(one.data) for one in told)
        self.last_id = told[-1].id
        while len(entries) > 1 and (
            len(entries) > self._max_events or self._bytes > self._max_bytes
        ):
            self._bytes -= len(entries.popleft().data)
        self._wake()

    def close(self) -> None:
        """Nothing follows."""
        self.is_over = True
        self._wake()

    def behind(self, after: int, max_bytes: int) -> list[LogEntry] | None:
        """What comes behind `after`, as much of it as `max_bytes` holds, but one at least; `None`
        if it is here no more."""
        at = after + 1 - self.first_id
        if at < 0:
            return None
        told: list[LogEntry] = []
        while at < len(self._entries) and max_bytes > 0:
            told.append(self._entries[at])
            max_bytes -= len(told[-1].data)
            at += 1
        return told

    async def news(self) -> None:
        """Until something was published, or it is over."""
        if not self.is_over:
            await self._news.wait()

    def _wake(self) -> None:
        self._news.set()  # whoever waits now goes on, and
        self._news.clear()  # whoever comes then waits for the next
