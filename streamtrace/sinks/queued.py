"""A bounded queue between the event loop and an exporter that blocks.

Rules that hold here:

* `end` never waits: it appends to a queue bounded in runs and bytes, or drops and counts.
* One worker thread per sink and process, made at the first stream, never at import or construction;
  a forked child starts its own and does not export what the parent had queued.
* Where the system gives no thread (Python 3.12 gives none while the interpreter exits), whoever
  flushes or closes does the work of the worker.
* Runs wait packed, see `batch`.
* Whole runs are queued, exported and dropped, so no trace loses its parent:
  accepted == exported + sum(dropped) + queued, whenever `stats` is asked.
* No call waits longer than it was told to, even if the exporter hangs for ever; but where there is
  no worker, the one export that was begun is waited for.

Reasons for drops: `queue_full`, `export_error`, `shutdown`, and what an `export` returns.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict

import msgspec

from streamtrace.core.errors import ConfigError
from streamtrace.core.names import EXPORT_BUCKETS_S
from streamtrace.core.sink import ExportStats, Sink, SinkStats, StreamInfo
from streamtrace.core.summary import RunSummary
from streamtrace.logs import WARNINGS
from streamtrace.sinks.batch import Batch, Packed, pack, packed_bytes

MAX_QUEUED_RUNS = 2048
MAX_QUEUED_BYTES = 32 * 1024 * 1024
BATCH_RUNS = 256
INTERVAL_S = 1.0

_MOMENT_S = 0.0002
_HOLD_NS = 75_000
"""How long a worker computes between two moments for the event loop."""
_BUSY_NS = 1_000_000
_BUSY_HOLD_NS = 1_000_000
"""The same where a moment took longer than _BUSY_NS: the loop is busy by itself, and a moment costs
20 µs of CPU, since two threads change places."""


class QueueOptions(TypedDict, total=False):
    """The keywords of `QueuedSink`, for the signatures of its subclasses."""

    max_queued_runs: int
    max_queued_bytes: int
    batch_runs: int
    interval_s: float


class QueuedSink(Sink):
    """Base of sinks with network or disk behind them: subclass it and define `export`.

    `interval_s` is how long a record may wait for its batch to fill. `open`, `export` and `release`
    are called by the worker only, so what they share needs no lock.
    """

    def __init__(
        self,
        *,
        max_queued_runs: int = MAX_QUEUED_RUNS,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        batch_runs: int = BATCH_RUNS,
        interval_s: float = INTERVAL_S,
    ) -> None:
        if min(max_queued_runs, max_queued_bytes, batch_runs) < 1:
            raise ConfigError("max_queued_runs, max_queued_bytes and batch_runs must be at least 1")
        if interval_s < 0:
            raise ConfigError(f"interval_s must not be negative, got {interval_s}")
        self._max_runs = max_queued_runs
        self._max_bytes = max_queued_bytes
        self._batch_runs = batch_runs
        self._interval_s = interval_s
        self._closed = False
        self._start_empty()
        _SINKS.add(self)

    def _start_empty(self) -> None:
        """The state of a new sink, and of one that wakes up in a forked child."""
        self._changed = threading.Condition()  # a fork may leave the old one locked
        self._worker: threading.Thread | None = None
        self._is_open = False  # known to the worker only
        self._queue: deque[Packed] = deque()
        self._unsettled_bytes = 0  # queued or in the exporter's hands
        self._queued = self._settled = 0  # runs that entered the queue; of these: exported, dropped
        self._accepted = self._exported = 0
        self._dropped: dict[str, int] = {}
        self._exports = ExportStats(
            capacity=self._max_runs, duration_counts=[0] * (len(EXPORT_BUCKETS_S) + 1)
        )
        self._flushing = 0

    # --- what a subclass defines ---------------------------------------------------------------

    def open(self) -> None:
        """Open files and connections. Once per process, before the first batch.

        After an exception the batch counts as `export_error`, and the next batch tries again.
        """

    def export(self, batch: Sequence[RunSummary]) -> dict[str, int] | None:
        """Write the batch; may block. An exception drops all of it, with reason `export_error`.

        Its runs are made as they are asked for: go through it once.

        Returns how many runs were dropped, by reason; the others count as exported. `None` or an
        empty dict: none was. More drops than the batch has runs do not count.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Give back what `open` took. Once, when the sink was closed."""

    # --- what the pipeline calls ---------------------------------------------------------------

    def start(self, info: StreamInfo) -> None:
        """See that there is a worker: when the stream ends it may be too late for a thread."""
        with self._changed:
            if not self._closed:
                self._has_worker()

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        """Queue the run, or drop it and count why."""
        packed = pack(summary)
        size = packed_bytes(packed)
        with self._changed:
            self._accepted += 1
            reason = self._refusal(size)
            if reason is None:
                self._queue.append(packed)
                self._queued += 1
                self._unsettled_bytes += size
                if self._has_worker() and len(self._queue) in (1, self._batch_runs):
                    self._changed.notify_all()
            else:
                self._drop(reason)
        if reason is not None:
            WARNINGS.warn(f"{self.name}.{reason}", f"sink {self.name}: a run was dropped: {reason}")

    def _refusal(self, size: int) -> str | None:
        """Why a run of this size cannot be queued now."""
        if self._closed:
            return "shutdown"
        if (
            self._queued - self._settled >= self._max_runs
            or self._unsettled_bytes + size > self._max_bytes
        ):
            return "queue_full"
        return None

    def _has_worker(self) -> bool:
        """Whether there is one; starts it where it can."""
        if self._worker is None:
            worker = threading.Thread(
                target=self._work, name=f"streamtrace-{self.name}", daemon=True
            )
            try:
                worker.start()
            except RuntimeError:  # out of threads, or the interpreter exits
                return False
            self._worker = worker
        return True

    def stats(self) -> SinkStats:
        """Where the records are, at one instant."""
        with self._changed:
            return SinkStats(
                accepted=self._accepted,
                exported=self._exported,
                dropped=dict(self._dropped),
                queued=self._queued - self._settled,
            )

    def exports(self) -> ExportStats:
        """How the exports go, at one instant."""
        with self._changed:
            now = self._exports
            return msgspec.structs.replace(now, duration_counts=now.duration_counts.copy())

    def flush(self, timeout_s: float) -> bool:
        """Wait until all runs accepted so far are settled; `False` if not so by `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            queued = self._queued
            self._flushing += 1
            self._changed.notify_all()
            is_worker = bool(self._queue) and not self._has_worker()
            if is_worker:
                self._worker = threading.current_thread()
        try:
            if is_worker:
                self._work_here(deadline)
            with self._changed:
                return self._changed.wait_for(
                    lambda: self._settled >= queued, deadline - time.monotonic()
                )
        finally:
            with self._changed:
                self._flushing -= 1

    def close(self, timeout_s: float) -> None:
        """Flush within `timeout_s`; what is left then counts as dropped with reason `shutdown`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            was_closed, self._closed = self._closed, True
        self.flush(timeout_s)
        with self._changed:
            left = self._queued - self._settled
            if left:
                self._drop("shutdown", left)
            self._settled = self._queued
            self._queue.clear()
            self._unsettled_bytes = 0
            worker, self._worker = self._worker, None
            self._changed.notify_all()
        if left:
            WARNINGS.warn(
                f"{self.name}.shutdown", f"sink {self.name}: {left} runs not exported at exit"
            )
        if worker is not None:  # it ends by itself; a hanging exporter is left to its daemon thread
            worker.join(max(0.0, deadline - time.monotonic()))
        elif not was_closed:
            self._give_back()

    # --- the worker ----------------------------------------------------------------------------

    def _work(self) -> None:
        while taken := self._take():
            self._settle(taken, self._export_batch(Batch(taken)))
            del taken  # not held while waiting for the next
        self._give_back()

    def _work_here(self, deadline: float) -> None:
        """Be the worker on this thread, until nothing is queued or the time is over."""
        while self._queue and time.monotonic() < deadline and (taken := self._take()):
            self._settle(taken, self._export_batch(Batch(taken)))
        with self._changed:
            is_over = self._is_over(threading.current_thread())
            if not is_over:
                self._worker = None
        if is_over:
            self._give_back()

    def in_turn(self, batch: Iterable[RunSummary]) -> Iterator[RunSummary]:
        """The runs of a batch, now and then with a moment between for the event loop.

        Who computes holds the interpreter's lock, and who wants it waits 5 ms for it: streams would
        be late by that. Nobody who flushes or closes waits for these moments.
        """
        began_ns, hold_ns = time.perf_counter_ns(), _HOLD_NS
        for run in batch:
            now_ns = time.perf_counter_ns()
            if now_ns - began_ns > hold_ns:
                if not self._flushing and not self._closed:
                    time.sleep(_MOMENT_S)
                began_ns = time.perf_counter_ns()
                hold_ns = _HOLD_NS if began_ns - now_ns < _BUSY_NS else _BUSY_HOLD_NS
            yield run

    def _export_batch(self, batch: Batch) -> dict[str, int]:
        """What was dropped of the batch, by reason."""
        began_ns = time.monotonic_ns()
        why = "an error of the exporter"
        try:
            if not self._is_open:
                self.open()
                self._is_open = True
            told = self.export(batch)
            dropped = {} if told is None else _at_most(len(batch), told)
        except BaseException as error:  # the exporter is not ours, and the thread must live
            dropped, why = {"export_error": len(batch)}, type(error).__name__
        failed = dropped.get("export_error", 0)
        if failed:
            self._warn_export(failed, why)
        self._note_export(time.monotonic_ns() - began_ns, failed=bool(failed))
        return dropped

    def _note_export(self, took_ns: int, *, failed: bool) -> None:
        with self._changed:
            exports = self._exports
            exports.duration_counts[bisect_left(EXPORT_BUCKETS_S, took_ns / 1e9)] += 1
            exports.duration_sum_ns += took_ns
            if failed:
                exports.failed += 1
            else:
                exports.succeeded += 1
                exports.last_success_at_ns = time.time_ns()

    def _give_back(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        try:
            self.release()
        except BaseException as error:
            WARNINGS.warn(
                f"{self.name}.release",
                f"sink {self.name}: closing failed with {type(error).__name__}",
            )

    def _take(self) -> list[Packed]:
        """The next batch, when it is full or has waited; empty when the sink is closed."""
        me = threading.current_thread()
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_over(me))
            self._changed.wait_for(
                lambda: (
                    len(self._queue) >= self._batch_runs
                    or self._flushing
                    or self._closed
                    or self._is_over(me)
                ),
                self._interval_s,
            )
            if self._is_over(me):
                return []
            return [self._queue.popleft() for _ in range(min(self._batch_runs, len(self._queue)))]

    def _settle(self, taken: list[Packed], dropped: dict[str, int]) -> None:
        me = threading.current_thread()
        with self._changed:
            if self._is_over(me):  # closed meanwhile: `close` counted these
                return
            for reason, runs in dropped.items():
                self._drop(reason, runs)
            self._exported += len(taken) - sum(dropped.values())
            self._settled += len(taken)
            self._unsettled_bytes -= sum(map(packed_bytes, taken))
            self._changed.notify_all()

    def _is_over(self, worker: threading.Thread) -> bool:
        return self._worker is not worker

    def _drop(self, reason: str, runs: int = 1) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + runs

    def _warn_export(self, runs: int, why: str) -> None:
        WARNINGS.warn(
            f"{self.name}.export",
            f"sink {self.name}: {runs} runs dropped, export failed with {why}",
        )


def _at_most(runs: int, dropped: Mapping[str, int]) -> dict[str, int]:
    """The drops, of so many runs in all: the counts add up whatever an export returns."""
    counted = {}
    for reason, said in dropped.items():
        counted[reason] = max(0, min(int(said), runs))
        runs -= counted[reason]
    return counted


def _after_fork() -> None:
    for sink in _SINKS:
        sink._start_empty()


_SINKS: weakref.WeakSet[QueuedSink] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
