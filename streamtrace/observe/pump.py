"""Works off the taps, between the events of the loop.

Rules that hold here:

* One pump per event loop, and no task: it is a callback that the loop calls while there is work,
  and nothing at all while there is none.
* It works in rounds: it waits a little, so that it finds many chunks at once, and then works off
  the streams that waited. What comes to a stream meanwhile waits for the next round, or there would
  be a round for each chunk as soon as the streams are many. A stream that ended, or of which much
  came, waits for no round.
* A new stream has a round of its own, soon: at its first look its objects are made. Made for all
  that began within a second, they would be so many that the garbage collector ran each time.
* It works at most SLICE_NS at a time, then lets everything else run; streams take turns. Where the
  taps fill up all the same, since the app never waits, it takes a share of the time that grows with
  what they hold, so that they do not overflow.
* It runs in a context of its own: a request that happened to wake it is neither seen by the sinks
  nor kept alive.
* On a loop that is closed, or is not asyncio's, there is nobody to call back: the work is done at
  once (`InlinePump`), or by the next who comes by (`Pumps.sweep`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Protocol

from streamtrace.observe.tap import Budget
from streamtrace.observe.tcp_diag import TcpDiag

SLICE_NS = 200_000
MAX_SLICE_NS = 10_000_000
"""The most, however full the taps are."""
INTERVAL_S = 1.0
"""How long chunks may wait: what a piece of work costs by itself is then shared by several."""
NEW_INTERVAL_S = 0.1
"""The same, of a stream that was not looked at yet."""
LISTENED_INTERVAL_S = 0.25
"""The same, where sinks are told of each event."""
LINGER_S = 1.0
"""How long a stream whose final body was sent waits for its app to return, or to raise."""

_FOREVER = 1 << 62


class Worker(Protocol):
    """A stream, as the pump sees it."""

    def work(self, deadline_ns: int) -> bool:
        """Work until the deadline (monotonic clock); true if something is left. Never raises."""


class _Round:
    """Workers that wait for the same moment."""

    __slots__ = ("interval_s", "is_called", "workers")

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.is_called = False
        self.workers: OrderedDict[Worker, None] = OrderedDict()


class Pump:
    """The pump of one asyncio loop. To be used on that loop's thread only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        budget: Budget,
        clock: Callable[[], int] = time.perf_counter_ns,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.budget = budget
        self.tcp_diag: TcpDiag | None = TcpDiag()
        self._loop = loop
        self._clock = clock
        self._context = Context()
        self._rounds = (_Round(interval_s), _Round(NEW_INTERVAL_S))  # the second: of the new
        self._ready: OrderedDict[Worker, None] = OrderedDict()  # in this round
        self._soon = False
        self._left_ns: int | None = None  # when the last slice ended, if this one goes on with it

    def add(self, worker: Worker, *, soon: bool = False, new: bool = False) -> None:
        """There is work: `soon` where nothing more is going to come, `new` of one not begun yet."""
        if soon:
            for one in self._rounds:
                one.workers.pop(worker, None)
            self._ready[worker] = None
            if not self._soon:
                self._soon = self._call_soon()
        elif worker not in self._ready:
            one = self._rounds[new]
            one.workers[worker] = None
            if not one.is_called:
                called = self._call_later(one.interval_s, partial(self._begin, one))
                one.is_called = called is not None

    def later(self, callback: Callable[[], None]) -> asyncio.TimerHandle | None:
        """Call back after LINGER_S; `None` where nobody can."""
        return self._call_later(LINGER_S, callback)

    def drain(self) -> None:
        """Work off everything now, however long it takes."""
        self._take_all()
        while self._ready:
            _work_off(self._next())
            self._take_all()

    def _take_all(self) -> None:
        for one in self._rounds:
            self._take(one)

    def _take(self, one: _Round) -> None:
        self._ready.update(one.workers)
        one.workers.clear()

    def _begin(self, one: _Round) -> None:
        one.is_called = False
        self._take(one)
        if not self._soon:  # else another round still goes on, and this one with it
            self._tick()

    def _tick(self) -> None:
        self._soon = False
        now_ns = self._clock()
        deadline_ns = now_ns + self._slice_ns(now_ns)
        try:
            while self._ready:
                worker = self._next()
                if worker.work(deadline_ns):
                    self._ready[worker] = None
                if self._clock() >= deadline_ns:
                    break
        finally:
            self._left_ns = None
            if self._ready:
                self._left_ns = self._clock()
                self._soon = self._call_soon()

    def _slice_ns(self, now_ns: int) -> int:
        """More than the least where much is to be done: of what all else took since the last slice
        nothing up to a quarter of the room, as much again at five eighths, and so on."""
        if self._left_ns is None:
            return SLICE_NS
        share = max(0.0, self.budget.filled - 0.25) / max(1 - self.budget.filled, 0.01)
        return max(SLICE_NS, min(MAX_SLICE_NS, int((now_ns - self._left_ns) * share)))

    def _next(self) -> Worker:
        worker, _ = self._ready.popitem(last=False)
        return worker

    # Where the loop is closed, `Pumps.sweep` or `drain` will find the work.

    def _call_soon(self) -> bool:
        try:
            self._loop.call_soon(self._tick, context=self._context)
        except RuntimeError:
            return False
        return True

    def _call_later(self, delay_s: float, do: Callable[[], None]) -> asyncio.TimerHandle | None:
        try:
            return self._loop.call_later(delay_s, do, context=self._context)
        except RuntimeError:
            return None


class InlinePump:
    """No asyncio loop to call back: work at once. Correct, but on the client's path."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.tcp_diag: TcpDiag | None = None  # asking takes longer than a client should wait for it

    def add(self, worker: Worker, *, soon: bool = False, new: bool = False) -> None:
        """Do the work now."""
        _work_off(worker)

    def later(self, callback: Callable[[], None]) -> None:
        """Nobody calls back here: the app's return ends its streams."""

    def drain(self) -> None:
        """There is never anything left."""


class Pumps:
    """The pumps of one middleware, by loop. No work of a closed loop is lost."""

    def __init__(self, max_total_bytes: int, *, listens: bool = False) -> None:
        self._max_total_bytes = max_total_bytes
        self._interval_s = LISTENED_INTERVAL_S if listens else INTERVAL_S
        self._lock = threading.Lock()
        self._pumps: dict[asyncio.AbstractEventLoop, Pump] = {}

    def current(self) -> Pump | InlinePump:
        """The pump of the running loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return InlinePump(Budget(self._max_total_bytes))
        pump = self._pumps.get(loop)
        if pump is None:
            self.sweep()
            pump = Pump(loop, Budget(self._max_total_bytes), interval_s=self._interval_s)
            self._pumps[loop] = pump
        return pump

    def sweep(self, *, everything: bool = False) -> None:
        """Work off what closed loops left behind; `everything` when no loop will run again."""
        with self._lock:
            dead = [loop for loop in self._pumps if everything or loop.is_closed()]
            pumps = [self._pumps.pop(loop) for loop in dead]
        for pump in pumps:
            pump.drain()


def _work_off(worker: Worker) -> None:
    """All of it. What is left after that, a fault left: the second call ends the stream."""
    if worker.work(_FOREVER):
        worker.work(_FOREVER)
