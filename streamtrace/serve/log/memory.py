"""The log of runs in the memory of this process: the default.

Rules that hold here:

* Runs, and the bytes of all of them, are bounded as well. To make room, runs that are over go, in
  the order in which they ended; then the oldest entries of the run that writes. A live run is never
  forgotten: where only live ones are left, no more are begun.
* Nothing runs in the background. Time is that of the loop, and what has had its time goes when
  somebody asks for anything.
* It belongs to one event loop at a time.
"""

from __future__ import annotations

import asyncio
import secrets
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

from streamtrace.core.errors import ConfigError, LeaseLost, LogUnavailable, RunExists, UnknownRun
from streamtrace.serve.log.base import (
    LogBounds,
    LogEntry,
    Page,
    RunKey,
    RunPhase,
    RunState,
    Written,
)
from streamtrace.serve.log.waiters import Waiters, heard

MAX_RUNS = 10_000
MAX_TOTAL_BYTES = 256 * 1024 * 1024
_SWEEP_EVERY_S = 1.0
_ID = attrgetter("id")


class _Run:
    """What is kept of a run."""

    __slots__ = (
        "entries", "is_stopped", "kept_bytes", "last_id", "lease_ends", "meta", "outcome",
        "over_at", "owner", "thread",
    )  # fmt: skip

    def __init__(self, owner: str, meta: bytes, last_id: int, lease_ends: float) -> None:
        self.owner = owner.encode()
        self.meta = meta
        self.last_id = last_id
        self.lease_ends = lease_ends
        self.entries: deque[LogEntry] = deque()
        self.kept_bytes = 0
        self.outcome: bytes | None = None
        self.over_at: float | None = None
        self.is_stopped = False
        self.thread: tuple[str | None, str] | None = None

    @property
    def phase(self) -> RunPhase:
        if self.outcome is not None:
            return "finished"
        return "live" if self.over_at is None else "orphaned"

    @property
    def ends(self) -> float:
        """When it ended, or will if its producer is silent."""
        return self.lease_ends if self.over_at is None else self.over_at

    def state(self) -> RunState:
        return RunState(
            phase=self.phase,
            meta=self.meta,
            last_id=self.last_id,
            outcome=self.outcome,
            is_stopped=self.is_stopped,
        )

    def is_owned_by(self, owner: str) -> bool:
        return secrets.compare_digest(self.owner, owner.encode())

    def drop_oldest(self) -> int:
        """How many bytes that gave."""
        freed = len(self.entries.popleft().data)
        self.kept_bytes -= freed
        return freed


class MemoryLog:
    """`MemoryLog()`; `max_runs` and `max_total_bytes` (of entries) are for all runs together.

    Raises ConfigError.
    """

    def __init__(
        self,
        bounds: LogBounds | None = None,
        *,
        max_runs: int = MAX_RUNS,
        max_total_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        for name, value in (("max_runs", max_runs), ("max_total_bytes", max_total_bytes)):
            if value <= 0:
                raise ConfigError(f"{name} must be over 0, got {value!r}")
        self.bounds = bounds or LogBounds()
        self._max_runs = max_runs
        self._max_total_bytes = max_total_bytes
        self._total_bytes = 0
        self._runs: dict[RunKey, _Run] = {}
        self._over: dict[RunKey, None] = {}  # those that ended, in that order
        self._threads: dict[tuple[str | None, str], str] = {}
        self._waiters = Waiters()
        self._sweep_at = 0.0
        self._closings = 0

    async def create(
        self,
        key: RunKey,
        owner: str,
        meta: bytes,
        *,
        thread_id: str | None = None,
        last_id: int = 0,
    ) -> None:
        """Begin a run: see `EventLog`."""
        now = self._now()
        known = self._find(key, now)
        if known is not None:
            if known.is_owned_by(owner):
                return
            raise RunExists("there is a run of this id")
        if len(self._runs) >= self._max_runs:
            for other in list(self._runs):
                self._find(other, now)
        if len(self._runs) >= self._max_runs:
            if not self._over:
                raise LogUnavailable(f"the log is full: {self._max_runs} runs are live")
            self._forget(next(iter(self._over)))
        run = self._runs[key] = _Run(owner, meta, last_id, now + self.bounds.lease_s)
        if thread_id is not None:
            run.thread = (key.tenant, thread_id)
            self._threads[run.thread] = key.run_id

    async def append(
        self, key: RunKey, owner: str, entries: Sequence[bytes], *, after: int
    ) -> Written:
        """Write entries: see `EventLog`."""
        run = self._held(key, owner)
        for number, data in enumerate(entries, after + 1):
            if number > run.last_id:
                run.entries.append(LogEntry(number, data))
                run.last_id = number
                run.kept_bytes += len(data)
                self._total_bytes += len(data)
        run.last_id = max(run.last_id, after)
        self._evict(run)
        if run.entries:
            self._waiters.wake(key)
        return Written(run.last_id, run.is_stopped, len(run.entries), run.kept_bytes)

    async def renew(self, key: RunKey, owner: str) -> bool:
        """Hold the lease: see `EventLog`."""
        return self._held(key, owner).is_stopped

    async def finish(self, key: RunKey, owner: str, outcome: bytes, *, last_id: int) -> None:
        """The run is over: see `EventLog`."""
        now = self._now()
        known = self._runs.get(key)
        if known is not None and known.outcome is not None and known.is_owned_by(owner):
            return
        run = self._held(key, owner)
        run.last_id = max(run.last_id, last_id)
        run.outcome = outcome
        self._end(key, run, now)

    async def read(
        self, key: RunKey, after: int, *, max_bytes: int = 64 * 1024, wait_s: float = 0.0
    ) -> Page:
        """What comes behind: see `EventLog`."""
        now = self._now()
        wait_until = now + wait_s
        closings = self._closings
        while True:
            run = self._known(key, now)
            left = min(wait_until, run.lease_ends) - now
            if left <= 0 or run.over_at is not None or (run.entries and run.entries[-1].id > after):
                return Page(_page(run.entries, after, max_bytes), run.state())
            with self._waiters.listening(key) as waiter:
                await heard(waiter, left)
            if closings != self._closings:
                raise LogUnavailable("the log was closed")
            now = self._now()

    async def state(self, key: RunKey) -> RunState:
        """How the run stands: see `EventLog`."""
        return self._known(key, self._now()).state()

    async def ask_stop(self, key: RunKey) -> bool:
        """Ask its producer to stop it: see `EventLog`."""
        run = self._known(key, self._now())
        if run.over_at is not None or run.is_stopped:
            return False
        run.is_stopped = True
        return True

    async def current(self, tenant: str | None, thread_id: str) -> str | None:
        """The thread's newest run: see `EventLog`."""
        run_id = self._threads.get((tenant, thread_id))
        if run_id is None or self._find(RunKey(run_id, tenant), self._now()) is None:
            return None
        return run_id

    async def aclose(self) -> None:
        """Send away those who wait: see `EventLog`."""
        self._closings += 1
        self._waiters.wake_all()

    def _now(self) -> float:
        now = asyncio.get_running_loop().time()
        if not self._sweep_at - _SWEEP_EVERY_S <= now < self._sweep_at:  # also: another loop's
            self._sweep(now)
        return now

    def _sweep(self, now: float) -> None:
        """Forget the runs that were kept for long enough."""
        self._sweep_at = now + _SWEEP_EVERY_S
        for key, run in list(self._runs.items()):
            if now >= run.ends + self.bounds.keep_s:
                self._forget(key)

    def _find(self, key: RunKey, now: float) -> _Run | None:
        run = self._runs.get(key)
        if run is None:
            return None
        if now >= run.ends + self.bounds.keep_s:
            self._forget(key)
            return None
        if run.over_at is None and now >= run.lease_ends:
            self._end(key, run, run.lease_ends)
        return run

    def _known(self, key: RunKey, now: float) -> _Run:
        run = self._find(key, now)
        if run is None:
            raise _unknown()
        return run

    def _held(self, key: RunKey, owner: str) -> _Run:
        """The run, its lease renewed. Raises LeaseLost."""
        now = self._now()
        run = self._runs.get(key)
        if run is None:
            raise _unknown()
        if run.over_at is not None or not run.is_owned_by(owner):
            raise LeaseLost("the run is over, or somebody else's")
        run.lease_ends = now + self.bounds.lease_s
        return run

    def _end(self, key: RunKey, run: _Run, at: float) -> None:
        run.over_at = at
        self._over[key] = None
        self._waiters.wake(key)

    def _evict(self, run: _Run) -> None:
        while len(run.entries) > self.bounds.max_events or run.kept_bytes > self.bounds.max_bytes:
            self._total_bytes -= run.drop_oldest()
        while self._total_bytes > self._max_total_bytes and self._over:
            self._forget(next(iter(self._over)))
        while self._total_bytes > self._max_total_bytes and run.entries:
            self._total_bytes -= run.drop_oldest()

    def _forget(self, key: RunKey) -> None:
        run = self._runs.pop(key)
        self._over.pop(key, None)
        self._total_bytes -= run.kept_bytes
        if run.thread is not None and self._threads.get(run.thread) == key.run_id:
            del self._threads[run.thread]
        self._waiters.wake(key)


def _unknown() -> UnknownRun:
    return UnknownRun("the log knows no such run, or none any more")


def _page(entries: deque[LogEntry], after: int, max_bytes: int) -> list[LogEntry]:
    page: list[LogEntry] = []
    left = max_bytes
    for at in range(bisect_right(entries, after, key=_ID), len(entries)):
        entry = entries[at]
        left -= len(entry.data)
        if left < 0 and page:
            break
        page.append(entry)
    return page
