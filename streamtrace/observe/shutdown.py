"""The end of the process: make the last records, and give the sinks a bounded time to export them.

Every sink is flushed or closed on a daemon thread of its own, so one that hangs costs the others
nothing, and the process no more than the limit.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

from streamtrace.core.sink import Sink
from streamtrace.logs import WARNINGS


class Closable(Protocol):
    """A middleware, as its end sees it."""

    flush_timeout_s: float

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Its sinks."""

    def finish(self) -> None:
        """Make the last records."""


_OPEN: weakref.WeakSet[Closable] = weakref.WeakSet()


def open_middlewares() -> list[Closable]:
    """All middlewares of this process."""
    return list(_OPEN)


def close_at_exit(middleware: Closable) -> None:
    """Close the middleware's sinks when the interpreter exits."""
    _OPEN.add(middleware)


def flush_sinks(sinks: Iterable[Sink], timeout_s: float) -> None:
    """Flush all sinks side by side; returns after `timeout_s` at the latest."""
    _side_by_side([(sink, sink.flush) for sink in sinks], timeout_s)


def close_sinks(sinks: Iterable[Sink], timeout_s: float) -> None:
    """Close all sinks side by side; returns after `timeout_s` at the latest."""
    _side_by_side([(sink, sink.close) for sink in sinks], timeout_s)


def _side_by_side(calls: list[tuple[Sink, Callable[[float], object]]], timeout_s: float) -> None:
    def contained(sink: Sink, call: Callable[[float], object]) -> None:
        try:
            call(timeout_s)
        except Exception as error:  # a sink's own fault; the others go on
            WARNINGS.warn(f"{sink.name}.close", f"sink {sink.name}: {type(error).__name__} at exit")

    threads = [
        threading.Thread(target=contained, args=call, name="streamtrace-exit", daemon=True)
        for call in calls
    ]
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _at_exit() -> None:
    middlewares = open_middlewares()
    for middleware in middlewares:
        middleware.finish()
    sinks = {id(sink): sink for middleware in middlewares for sink in middleware.sinks}
    if sinks:
        close_sinks(sinks.values(), max(one.flush_timeout_s for one in middlewares))


atexit.register(_at_exit)
