"""An event loop on which time passes only when everybody waits: no test sleeps, none is flaky.

Where nobody can ever go on, it says so instead of hanging.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def time_ns(self) -> int:
        return round(self._now * 1_000_000_000)

    def _run_once(self) -> None:
        if not self._ready:
            due = [handle.when() for handle in self._scheduled if not handle.cancelled()]
            assert due, "everybody waits, and nothing will ever happen"
            self._now = max(self._now, min(due))
        super()._run_once()

    def settle(self) -> None:
        """Let everybody go as far as they can now."""
        self.run_until_complete(_turns(20))


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
