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
from streamtrace.core.sink import Sink, SinkStats
from streamtrace.logs import WARNINGS

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
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # the sink is not ours
                WARNINGS.warn(
                    "prometheus.stats", f"sink {self._label}: stats raised {type(error).__name__}"
                )
                return False
            queued_before = self._added.queued
            if self._pid != os.getpid():
                self._pid = os.getpid()
                if self._series.multiprocess:  # a forked process has its own gauge, which is 0
                    queued_before = 0
            self._accepted.inc(_rise(self._added.accepted, now.accepted))
            self._exported.inc(_rise(self._added.exported, now.exported))
            self._queued.inc(now.queued - queued_before)
            for reason, runs in now.dropped.items():
                self._drop(reason, _rise(self._added.dropped.get(reason, 0), runs))
            self._added = now
            return now.queued > 0

    def is_done(self) -> bool:
        """Whether the sink is gone; nothing is left to be added then."""
        return self.sink() is None and not self.sync()

    def _drop(self, reason: str, runs: int) -> None:
        reason = self._series.bounded("reason", reason, self._limit)
        self._series[metrics.SINK_DROPPED].labels(self._label, reason).inc(runs)


def _rise(before: int, now: int) -> int:
    """How much a count rose; after a fork a sink counts from 0 again."""
    return now - before if now >= before else now
