"""The end of the process: make the last records, and give the sinks a bounded time to export them.

Rules that hold here:

* Every sink is flushed or closed on a daemon thread of its own, so one that hangs costs the others
  nothing, and the process no more than the limit.
* Python 3.12 starts no thread once the interpreter exits: then it is one sink after another, each
  with an equal share of the time that is left. Only there a sink that keeps to no time holds all.
* There is one limit for the end of the process. What was spent on flushing when the server stopped
  is not given again at exit; it comes back only as time goes by.
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

MOMENT_S = 0.5
"""What sinks get at exit in any case: enough to count what is left as dropped."""

_TOLD = 0.9  # of the limit; in the rest a sink counts, and says what it lost


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
    """Close the middleware's sinks when the interpreter exits, before what they may need goes."""
    _OPEN.add(middleware)
    atexit.unregister(_at_exit)  # what was registered last runs first
    atexit.register(_at_exit)


def flush_sinks(sinks: Iterable[Sink], timeout_s: float) -> None:
    """Flush all sinks side by side; returns after `timeout_s` at the latest."""
    began = time.monotonic()
    _side_by_side([(sink, sink.flush) for sink in sinks], timeout_s)
    _SPENT.add(began)


def close_sinks(sinks: Iterable[Sink], timeout_s: float) -> None:
    """Close all sinks side by side; returns after `timeout_s` at the latest."""
    _side_by_side([(sink, sink.close) for sink in sinks], timeout_s)


class _Spent:
    """The time that went into flushing, and did not come back yet."""

    def __init__(self) -> None:
        self._until = 0.0
        """When all of it has come back."""

    def add(self, began: float) -> None:
        """From `began` until now."""
        now = time.monotonic()
        owed = max(0.0, self._until - began)
        self._until = now + owed + (now - began)

    def rest_of(self, limit_s: float) -> float:
        """What is left of a limit."""
        return min(limit_s, max(MOMENT_S, limit_s - max(0.0, self._until - time.monotonic())))


_SPENT = _Spent()


def _side_by_side(calls: list[tuple[Sink, Callable[[float], object]]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    threads: list[threading.Thread] = []
    threadless: list[tuple[Sink, Callable[[float], object]]] = []
    for sink, call in calls:
        thread = threading.Thread(
            target=_contained,
            args=(sink, call, timeout_s * _TOLD),
            name="streamtrace-exit",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # out of threads, or the interpreter exits
            threadless.append((sink, call))
        else:
            threads.append(thread)
    for place, (sink, call) in enumerate(threadless):
        left_s = max(0.0, deadline - time.monotonic())
        _contained(sink, call, left_s * _TOLD / (len(threadless) - place))
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _contained(sink: Sink, call: Callable[[float], object], timeout_s: float) -> None:
    try:
        call(timeout_s)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a sink's own fault; the others go on
        WARNINGS.warn(f"{sink.name}.close", f"sink {sink.name}: {type(error).__name__} at exit")


def _at_exit() -> None:
    middlewares = open_middlewares()
    for middleware in middlewares:
        try:
            middleware.finish()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # its last records are lost, those before are not
            WARNINGS.warn("finish", f"the last records: {type(error).__name__} at exit")
    sinks = {id(sink): sink for middleware in middlewares for sink in middleware.sinks}
    if sinks:
        limit_s = max(one.flush_timeout_s for one in middlewares)
        close_sinks(sinks.values(), _SPENT.rest_of(limit_s))
