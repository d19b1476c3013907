"""The sink: a stream is counted when it starts, and recorded in one go when it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from streamtrace.core import metrics
from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import Sink, SinkStats, StreamInfo
from streamtrace.core.summary import RunSummary, TokenCounts
from streamtrace.logs import WARNINGS
from streamtrace.sinks.prometheus.series import series_of
from streamtrace.sinks.prometheus.tracked import Tracked

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

SETTLE_S = 1.0
POLL_S = 0.02

_BEGINS = (None, "start")
"""Connections that are streams of their own right."""
_TOKEN_FIELDS = {
    "input": "input_tokens",
    "cached_input": "cached_input_tokens",
    "cache_write": "cache_write_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
}


class PrometheusSink(Sink):
    """Records runs in a `CollectorRegistry` (the client library's own one by default).

    `buckets` gives other bucket edges by metric name. `max_label_values` bounds the values of the
    labels that streams can choose (model, tool and the like); later ones become `other`.

    Under several processes (`PROMETHEUS_MULTIPROC_DIR`) `registry` is ignored: the client library
    keeps one directory for all registries of a process, so there is one set of metrics.
    """

    name = "prometheus"

    def __init__(
        self,
        *,
        registry: CollectorRegistry | None = None,
        buckets: Mapping[str, Sequence[float]] | None = None,
        max_label_values: int = metrics.MAX_LABEL_VALUES,
    ) -> None:
        if max_label_values < 1:
            raise ConfigError(f"max_label_values must be at least 1, got {max_label_values}")
        self._series = series_of(registry, buckets or {})
        self._limit = max_label_values
        self._exported = 0
        self._dropped: dict[str, int] = {}
        self._closed = False
        self._tracked: list[Tracked] = []
        self._timer: threading.Timer | None = None

    def track(self, sinks: Iterable[Sink]) -> None:
        """Report where the records of these sinks are: accepted, exported, dropped, queued."""
        for sink in sinks:
            entry = self._series.track(sink, self._limit)
            if entry not in self._tracked:
                self._tracked.append(entry)

    def sync(self) -> bool:
        """Bring the counters of the tracked sinks up to date. True if any has records queued.

        Happens by itself: at each scrape, once a second while streams start and end, and under
        several processes until the records of the last one are exported.
        """
        self._series.sync_served()
        queued = [entry.sync() for entry in self._tracked]
        return any(queued)

    def start(self, info: StreamInfo) -> None:
        """Count the stream, and as active."""
        if info.connection in _BEGINS:
            route = self._series.route(info.route)
            self._series.child(metrics.STREAMS_STARTED, route).inc()
            self._series.child(metrics.STREAMS_ACTIVE, route).inc()
        self._series.sync_if_due()

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        """Record all of the run."""
        if info.connection in _BEGINS:
            route = self._series.route(info.route)
            self._series.child(metrics.STREAMS_ACTIVE, route).dec()
        dropped = "shutdown" if self._closed else None
        if dropped is None:
            try:
                self._record(info, summary)
            except Exception as error:  # what a stream says need not be a number that fits
                dropped = "record_error"
                WARNINGS.warn(
                    "prometheus.record", f"sink prometheus: {type(error).__name__}, run dropped"
                )
        with self._series.lock:
            if dropped is None:
                self._exported += 1
            else:
                self._dropped[dropped] = self._dropped.get(dropped, 0) + 1
        if self._closed:
            self.sync()
        else:
            self._series.sync_if_due()
        self._settle_later()

    def stats(self) -> SinkStats:
        """Recording is exporting here, so nothing is ever queued."""
        with self._series.lock:
            return SinkStats(
                accepted=self._exported + sum(self._dropped.values()),
                exported=self._exported,
                dropped=dict(self._dropped),
            )

    def flush(self, timeout_s: float) -> bool:
        """Nothing waits here; but what other processes shall read, of all sinks, is written first.

        So under several processes this waits for the tracked sinks to be flushed.
        """
        deadline = time.monotonic() + timeout_s
        while self.sync() and self._series.multiprocess:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def close(self, timeout_s: float) -> None:
        """Flush. Later runs are not recorded; they count as dropped."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.flush(timeout_s)

    def _record(self, info: StreamInfo, summary: RunSummary) -> None:
        """A run is recorded once: with the stream that began it, and, if the run went on without
        its client, its end and the rest with the record of that. See `RunConnection`."""
        series, limit, trace = self._series, self._limit, summary.trace
        connection = summary.connection
        if connection is not None and not connection.tells_run:
            return
        stream = series.stream(info.route, summary.dialect)
        exemplar = None
        if trace is not None and trace.sampled is not False and not series.multiprocess:
            exemplar = {"trace_id": trace.trace_id}
        if info.connection in _BEGINS:
            stream.record(summary, exemplar)
        else:
            stream.rest(summary)
        if connection is None or not connection.is_detached:
            stream.end(summary, exemplar)
        for name, count in summary.issues.items():
            kind = series.bounded("kind", name, limit)
            series.child(metrics.ISSUES, stream.dialect, kind).inc(count)
        is_open = connection is not None and connection.is_detached
        for call in summary.tool_calls:
            if is_open and call.finished_ns is None:
                continue  # the run goes on, and its rest tells what became of the call
            tool = series.bounded("tool", call.name, limit)
            series.child(metrics.TOOL_CALLS, tool, call.status).inc()
            if call.ready_ns is not None and call.finished_ns is not None:
                took_ns = max(0, call.finished_ns - call.ready_ns)
                series.child(metrics.TOOL_DURATION, tool).observe(took_ns / 1e9)
        for entry in summary.usage_by_model:
            model = series.bounded("model", entry.model, limit)
            for kind, tokens in _tokens(entry.usage):
                series.child(metrics.TOKENS, model, kind).inc(tokens)
            if entry.cost_usd is not None:
                series.child(metrics.COST, model).inc(entry.cost_usd)

    def _settle_later(self) -> None:
        """Other processes read what was written: so look again when the sinks have exported."""
        if not self._series.multiprocess or not self._tracked or self._closed:
            return
        if self._timer is None or not self._timer.is_alive():  # as in a forked child
            self._timer = threading.Timer(SETTLE_S, self._settle)
            self._timer.daemon = True
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                self._timer.start()

    def _settle(self) -> None:
        self._timer = None
        if self.sync():
            self._settle_later()


def _tokens(usage: TokenCounts) -> Iterator[tuple[str, int]]:
    for kind, field in _TOKEN_FIELDS.items():
        tokens: int | None = getattr(usage, field)
        if tokens is not None and 0 <= tokens <= metrics.MAX_TOKENS:
            yield kind, tokens
