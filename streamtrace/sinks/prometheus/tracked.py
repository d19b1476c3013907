"""The counts of a sink, as counters.

A sink knows where its records are (`totals`). What rose since the last look is added to counters,
because a value that is only computed at a scrape would be lost under several processes.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from streamtrace.core import metrics
from streamtrace.core.names import EXPORT_BUCKETS_S
from streamtrace.core.sink import ExportStats, Sink, SinkStats
from streamtrace.logs import WARNINGS
from streamtrace.sinks.prometheus.counts import add_counts

if TYPE_CHECKING:
    from streamtrace.sinks.prometheus.series import Series

_EXPECTED_REASONS = ("queue_full", "export_error", "shutdown")


class Tracked:
    """One sink's own counts, and how much of them has been added to ours."""

    def __init__(self, series: Series, sink: Sink, label: str, limit: int) -> None:
        self.sink = weakref.ref(sink)
        self.lock = threading.Lock()
        self._series = series
        self._label = label
        self._limit = limit
        self._pid = os.getpid()
        self._added = SinkStats()
        self._exports = _no_exports()
        self._accepted = series[metrics.SINK_ACCEPTED].labels(label)
        self._exported = series[metrics.SINK_EXPORTED].labels(label)
        self._queued = series[metrics.SINK_QUEUED].labels(label)
        for reason in _EXPECTED_REASONS:  # there at 0, or the first drop would be no increase
            self._drop(reason, 0)

    def sync(self) -> bool:
        """Add what rose since the last time. True if the sink has records queued."""
        with self.lock:
            sink = self.sink()
            try:
                now = SinkStats() if sink is None else sink.totals()
                exports = None if sink is None else sink.exports()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # the sink is not ours
                WARNINGS.warn(
                    "prometheus.stats", f"sink {self._label}: stats raised {type(error).__name__}"
                )
                return False
            if self._pid != os.getpid():
                self._pid = os.getpid()
                if self._series.multiprocess:  # a forked process has its own gauges, which are 0
                    self._added.queued = self._exports.capacity = 0
            self._add_records(now)
            self._add_exports(_no_exports() if exports is None else exports)
            return now.queued > 0

    def _add_records(self, now: SinkStats) -> None:
        before, self._added = self._added, now
        self._accepted.inc(_rise(before.accepted, now.accepted))
        self._exported.inc(_rise(before.exported, now.exported))
        self._queued.inc(now.queued - before.queued)
        for reason, runs in now.dropped.items():
            self._drop(reason, _rise(before.dropped.get(reason, 0), runs))

    def _add_exports(self, now: ExportStats) -> None:
        before, self._exports = self._exports, now
        if not now.capacity and not before.capacity:
            return
        series, label = self._series, self._label
        series[metrics.SINK_CAPACITY].labels(label).inc(now.capacity - before.capacity)
        results = series[metrics.SINK_EXPORTS]
        results.labels(label, "ok").inc(_rise(before.succeeded, now.succeeded))
        results.labels(label, "error").inc(_rise(before.failed, now.failed))
        pairs = zip(before.duration_counts, now.duration_counts, strict=True)
        add_counts(
            series[metrics.SINK_EXPORT_DURATION].labels(label),
            EXPORT_BUCKETS_S,
            [_rise(one, other) for one, other in pairs],
            _rise(before.duration_sum_ns, now.duration_sum_ns) / 1e9,
        )
        if now.last_success_at_ns is not None:
            series[metrics.SINK_LAST_SUCCESS].labels(label).set(now.last_success_at_ns / 1e9)

    def is_done(self) -> bool:
        """Whether the sink is gone; nothing is left to be added then."""
        return self.sink() is None and not self.sync()

    def _drop(self, reason: str, runs: int) -> None:
        reason = self._series.bounded("reason", reason, self._limit)
        self._series[metrics.SINK_DROPPED].labels(self._label, reason).inc(runs)


def _no_exports() -> ExportStats:
    return ExportStats(duration_counts=[0] * (len(EXPORT_BUCKETS_S) + 1))


def _rise(before: int, now: int) -> int:
    """How much a count rose; after a fork a sink counts from 0 again."""
    return now - before if now >= before else now
