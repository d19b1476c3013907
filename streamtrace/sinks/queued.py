"""A bounded queue between the event loop and an exporter that blocks.

Rules that hold here:

* `end` never waits: it appends to a queue bounded in runs and bytes, or drops and counts.
* One worker thread per sink and process, made at the first record, never at import or construction;
  a forked child starts its own and does not export what the parent had queued.
* Whole runs are queued, exported and dropped, so no trace loses its parent:
  accepted == exported + sum(dropped) + queued, whenever `stats` is asked.
* No call waits longer than it was told to, even if the exporter hangs for ever.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque

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


class QueuedSink(Sink):
    """Base of sinks with network or disk behind them: subclass it and define `export`.

    `interval_s` is how long a record may wait for its batch to fill.
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
        self._accepted = 0
        self._exported = 0
        self._dropped: dict[str, int] = {}
        self._closed = False
        self._queue: deque[tuple[RunSummary, int]] = deque()
        self._queued_bytes = 0
        self._in_flight = 0
        self._flushing = 0
        self._worker: threading.Thread | None = None
        self._changed = threading.Condition()
        ref = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _after_fork(ref))

    def export(self, batch: list[RunSummary]) -> dict[str, int]:
        """Write the batch; may block. Returns what was dropped, by reason; the rest is exported.

        Called on the worker thread only. An exception drops the batch with reason `export_error`.
        """
        raise NotImplementedError

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        """Queue the run, or drop it and count why."""
        size = record_bytes(summary)
        with self._changed:
            self._accepted += 1
            if self._closed:
                self._drop("shutdown")
            elif (
                len(self._queue) + self._in_flight >= self._max_runs
                or self._queued_bytes + size > self._max_bytes
            ):
                self._drop("queue_full")
            else:
                self._queue.append((summary, size))
                self._queued_bytes += size
                if self._worker is None:
                    self._worker = threading.Thread(
                        target=self._work, name=f"streamtrace-{self.name}", daemon=True
                    )
                    self._worker.start()
                if len(self._queue) in (1, self._batch_runs):
                    self._changed.notify_all()

    def stats(self) -> SinkStats:
        """Where the records are, at one instant."""
        with self._changed:
            return SinkStats(
                accepted=self._accepted,
                exported=self._exported,
                dropped=dict(self._dropped),
                queued=len(self._queue) + self._in_flight,
            )

    def flush(self, timeout_s: float) -> bool:
        """Wait until the queue is empty and exported; `False` if it was not by `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                while self._queue or self._in_flight:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        return False
                    self._changed.wait(left_s)
                return True
            finally:
                self._flushing -= 1

    def close(self, timeout_s: float) -> None:
        """Flush within `timeout_s`; what is left then counts as dropped with reason `shutdown`."""
        with self._changed:
            self._closed = True
        self.flush(timeout_s)
        with self._changed:
            left = len(self._queue) + self._in_flight
            if left:
                self._drop("shutdown", left)
                WARNINGS.warn(
                    f"{self.name}.shutdown", f"sink {self.name}: {left} runs not exported at exit"
                )
            self._forget_queue()
            self._changed.notify_all()

    def _forget_queue(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._in_flight = 0
        self._worker = None

    def _drop(self, reason: str, runs: int = 1) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + runs

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while self._worker is me and not self._queue:
                    self._changed.wait()
                full_at = time.monotonic() + self._interval_s
                while (
                    self._worker is me
                    and len(self._queue) < self._batch_runs
                    and not self._flushing
                    and not self._closed
                ):
                    left_s = full_at - time.monotonic()
                    if left_s <= 0:
                        break
                    self._changed.wait(left_s)
                if self._worker is not me:  # closed, and what was queued is counted
                    return
                taken = [self._queue.popleft() for _ in range(self._batch_runs) if self._queue]
                self._queued_bytes -= sum(size for _, size in taken)
                self._in_flight = len(taken)
            batch = [summary for summary, _ in taken]
            try:
                dropped = self.export(batch)
            except Exception as error:  # the exporter is not ours; the batch is counted
                dropped = {"export_error": len(batch)}
                WARNINGS.warn(
                    f"{self.name}.export",
                    f"sink {self.name}: export failed with {type(error).__name__},"
                    f" {len(batch)} runs dropped",
                )
            with self._changed:
                if self._worker is not me:  # closed meanwhile: these were counted there
                    return
                for reason, runs in dropped.items():
                    self._drop(reason, runs)
                self._exported += len(batch) - sum(dropped.values())
                self._in_flight = 0
                self._changed.notify_all()


def record_bytes(summary: RunSummary) -> int:
    """About how much memory a queued run holds: its parts, and its captured texts."""
    parts = len(summary.generations) + len(summary.tool_calls) + len(summary.steps)
    contents: list[Content] = [summary.request.input]
    for generation in summary.generations:
        contents += (generation.text, generation.reasoning)
    for call in summary.tool_calls:
        contents += (call.arguments, call.result)
    texts = sum(len(content.text) for content in contents if content.text is not None)
    return _RECORD_BYTES + _PART_BYTES * parts + texts


def _after_fork(ref: weakref.ref[QueuedSink]) -> None:
    sink = ref()
    if sink is not None:
        sink._accepted = sink._exported = 0
        sink._dropped = {}
        sink._flushing = 0
        sink._changed = threading.Condition()  # the old one may be held by a thread left behind
        sink._forget_queue()
