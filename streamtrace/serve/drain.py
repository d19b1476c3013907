"""The end of a server: drain when it is told to stop, not when it already waits for its clients.

Servers run lifespan shutdown after the last connection has ended, which an open stream never does.
So the signal is heard as well, by whom it was meant for and by us.

Rules that hold here:

* Nothing of a server is patched. The handler that was there when the app started is called after
  ours, and put back when the app has ended, if ours still stands.
* A loop's own handlers (`loop.add_signal_handler`) are told by the wake-up fd, whatever Python
  handler stands before it: it is enough that one does.
* Where nobody handles a signal, it is left alone: then it ends the process, as it should.
* Signals are heard in the main thread only. Elsewhere `Runs.drain` is there to be called.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

from streamtrace.serve.runs import Runs

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.asynccontextmanager
async def draining(runs: Runs) -> AsyncIterator[None]:
    """A lifespan, or part of yours: drains at the first signal, or at shutdown at the latest.

    `Starlette(lifespan=lambda app: draining(runs))`
    """
    loop = asyncio.get_running_loop()
    begun: list[asyncio.Task[None]] = []

    def begin() -> None:
        if not begun:
            begun.append(loop.create_task(runs.drain(), name="drain"))

    def told() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(begin)

    with hearing(told):
        yield
        begin()
        await begun[0]


@contextlib.contextmanager
def hearing(told: Callable[[], None]) -> Iterator[None]:
    """Call `told` when the process is asked to stop, and then whoever was to be told before."""
    ours = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.getsignal(number)
            if callable(before):
                ours[number] = before, _both(told, before)
                signal.signal(number, ours[number][1])
    try:
        yield
    finally:
        for number, (before, handler) in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before)


def _both(told: Callable[[], None], before: Callable[[int, FrameType | None], Any]) -> Any:
    def handler(number: int, frame: FrameType | None) -> None:
        told()
        before(number, frame)

    return handler
