"""What `streamtrace.serve` counted, as metrics.

What rose since the last look is added, as with the counts of sinks: a value that is only computed
at a scrape would be lost under several processes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from streamtrace.core.metrics import METRICS
from streamtrace.core.served import SERVED

if TYPE_CHECKING:
    from streamtrace.sinks.prometheus.series import Series


class ServedCounts:
    """The counts of this process, and how much of them has been added to the metrics."""

    def __init__(self, series: Series) -> None:
        self._lock = threading.Lock()
        self._added = {one.served: [series[one], 0] for one in METRICS if one.served is not None}

    def sync(self) -> None:
        """Add what changed since the last time."""
        with self._lock:
            for field, entry in self._added.items():
                metric, before = entry
                entry[1] = now = getattr(SERVED, field)
                if now != before:
                    metric.inc(now - before)
