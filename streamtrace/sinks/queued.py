"""A bounded queue between the event loop and an exporter that blocks.

Rules that hold here:

* `end` never waits: it appends to a queue bounded in runs and bytes, or drops and counts.
* One worker thread per sink and process, made at the first record, never at import or construction;
  a forked child starts its own and does not export what the parent had queued.
* Whole runs are queued, exported and dropped, so no trace loses its parent:
  accepted == exported + sum(dropped) + queued, whenever `stats` is asked.
* No call waits longer than it was told to, even if the exporter hangs for ever.

Reasons for drops: `queue_full`, `export_error`, `shutdown`, `no_thread` (the system gave none), and
what an `export` returns.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from typing import TypedDict

from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import Sink, SinkStats, StreamInfo
from streamtrace.core.summary import Content, RunSummary
from streamtrace.logs import WARNINGS

MAX_QUEUED_RUNS = 2048
MAX_QUEUED_BYTES = 32 * 1024 * 1024
BATCH_RUNS = 32
INTERVAL_S = 1.0

_RECORD_BYTES = 2048
_PART_BYTES = 512


class QueueOptions(TypedDict, total=False):
    """The keywords of `QueuedSink`, for the signatures of its subclasses."""

    max_queued_runs: int
    max_queued_bytes: int
    batch_runs: int
    interval_s: float


class QueuedSink(Sink):
    """Base of sinks with network or disk behind them: subclass it and define `export`.

    `interval_s` is how long a record may wait for its batch to fill. `open`, `export` and `release`
    are called on the worker thread only, so what they share needs no lock.
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
        self._queue: deque[tuple[RunSummary, int]] = deque()
        self._unsettled_bytes = 0  # queued or in the exporter's hands
        self._queued = self._settled = 0  # runs that entered the queue; of these: exported, dropped
        self._accepted = self._exported = 0
        self._dropped: dict[str, int] = {}
        self._flushing = 0

    # --- what a subclass defines ---------------------------------------------------------------

    def open(self) -> None:
        """Open files and connections. Once per process, before the first batch.

        After an exception the batch counts as `export_error`, and the next batch tries again.
        """

    def export(self, batch: list[RunSummary]) -> dict[str, int]:
        """Write the batch; may block. Returns what was dropped, by reason; the rest is exported.

        An exception drops the batch with reason `export_error`.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Give back what `open` took. Once, when the sink was closed."""

    # --- what the pipeline calls ---------------------------------------------------------------

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        """Queue the run, or drop it and count why."""
        size = record_bytes(summary)
        with self._changed:
            self._accepted += 1
            reason = self._refusal(size)
            if reason is None:
                self._queue.append((summary, size))
                self._queued += 1
                self._unsettled_bytes += size
                if len(self._queue) in (1, self._batch_runs):
                    self._changed.notify_all()
            else:
                self._drop(reason)
        if reason is not None:
            WARNINGS.warn(f"{self.name}.{reason}", f"sink {self.name}: a run was dropped: {reason}")

    def _refusal(self, size: int) -> str | None:
        """Why a run of this size cannot be queued now; starts the worker where it can."""
        if self._closed:
            return "shutdown"
        if (
            self._queued - self._settled >= self._max_runs
            or self._unsettled_bytes + size > self._max_bytes
        ):
            return "queue_full"
        if self._worker is None:
            worker = threading.Thread(
                target=self._work, name=f"streamtrace-{self.name}", daemon=True
            )
            try:
                worker.start()
            except RuntimeError:  # out of threads, or the interpreter is shutting down
                return "no_thread"
            self._worker = worker
        return None

    def stats(self) -> SinkStats:
        """Where the records are, at one instant."""
        with self._changed:
            return SinkStats(
                accepted=self._accepted,
                exported=self._exported,
                dropped=dict(self._dropped),
                queued=self._queued - self._settled,
            )

    def flush(self, timeout_s: float) -> bool:
        """Wait until all runs accepted so far are settled; `False` if not so by `timeout_s`."""
        with self._changed:
            queued = self._queued
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._settled >= queued, timeout_s)
            finally:
                self._flushing -= 1

    def close(self, timeout_s: float) -> None:
        """Flush within `timeout_s`; what is left then counts as dropped with reason `shutdown`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
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

    # --- the worker ----------------------------------------------------------------------------

    def _work(self) -> None:
        opened = False
        while True:
            taken = self._take()
            if not taken:
                break
            batch = [summary for summary, _ in taken]
            try:
                if not opened:
                    self.open()
                    opened = True
                dropped = dict(self.export(batch))
            except BaseException as error:  # the exporter is not ours, and the thread must live
                dropped = {"export_error": len(batch)}
                self._warn_export(len(batch), type(error).__name__)
            else:
                if failed := dropped.get("export_error"):
                    self._warn_export(failed, "an error of the exporter")
            self._settle(taken, dropped)
            del taken, batch  # not held while waiting for the next
        if opened:
            try:
                self.release()
            except BaseException as error:
                WARNINGS.warn(
                    f"{self.name}.release",
                    f"sink {self.name}: closing failed with {type(error).__name__}",
                )

    def _take(self) -> list[tuple[RunSummary, int]]:
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

    def _settle(self, taken: list[tuple[RunSummary, int]], dropped: dict[str, int]) -> None:
        me = threading.current_thread()
        with self._changed:
            if self._is_over(me):  # closed meanwhile: `close` counted these
                return
            for reason, runs in dropped.items():
                self._drop(reason, runs)
            self._exported += len(taken) - sum(dropped.values())
            self._settled += len(taken)
            self._unsettled_bytes -= sum(size for _, size in taken)
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


def record_bytes(summary: RunSummary) -> int:
    """About how much memory a queued run holds: its parts, and its captured texts."""
    parts = len(summary.generations) + len(summary.tool_calls) + len(summary.steps)
    contents: list[Content] = [summary.request.input]
    for generation in summary.generations:
        contents += (generation.text, generation.reasoning)
    for call in summary.tool_calls:
        contents += (call.arguments, call.result)
    if summary.error is not None:
        contents.append(summary.error.message)
    texts = sum(sys.getsizeof(content.text) for content in contents if content.text is not None)
    return _RECORD_BYTES + _PART_BYTES * parts + texts


def _after_fork() -> None:
    for sink in _SINKS:
        sink._start_empty()


_SINKS: weakref.WeakSet[QueuedSink] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
