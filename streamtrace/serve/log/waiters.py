"""Who waits in this process for something to happen to a run, and who asks for the same.

Belongs to one event loop at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Hashable, Iterator
from typing import Any, Generic, TypeVar

from streamtrace.serve.log.base import RunKey

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Waiter = asyncio.Future[None]


class Waiters:
    """Those who wait, by run."""

    def __init__(self) -> None:
        self._waiting: dict[RunKey, set[Waiter]] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    @contextlib.contextmanager
    def listening(self, key: RunKey) -> Iterator[Waiter]:
        """Hears what happens to the run from now on, for `heard`."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiting.get(key, set())
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(key, None)

    def wake(self, key: RunKey) -> None:
        """Something happened to the run."""
        for waiter in self._waiting.pop(key, ()):
            wake(waiter)

    def wake_all(self) -> None:
        """Nobody knows to which."""
        for key in list(self._waiting):
            self.wake(key)


async def heard(waiter: Waiter, seconds: float) -> None:
    """Until somebody wakes it, or so long."""
    timer = asyncio.get_running_loop().call_later(max(0.0, seconds), wake, waiter)
    try:
        await waiter
    finally:
        timer.cancel()


def wake(waiter: Waiter) -> None:
    """If it is not awake, or was cancelled."""
    if not waiter.done():
        waiter.set_result(None)


class Shared(Generic[K, T]):
    """Those who ask for the very same at once are answered once."""

    def __init__(self, answer: Callable[[K], Coroutine[Any, Any, T]]) -> None:
        self._answer = answer
        self._tasks: dict[K, asyncio.Task[T]] = {}

    async def ask(self, question: K) -> T:
        """The answer. What it raises, all are raised who asked; whoever leaves, it goes on."""
        task = self._tasks.get(question)
        if task is None:
            task = self._tasks[question] = asyncio.create_task(self._answered(question))
        return await asyncio.shield(task)

    async def _answered(self, question: K) -> T:
        del self._tasks[question]  # who asks from now on may know of something newer
        return await self._answer(question)
