"""The metrics of one registry.

Rules that hold here:

* One set per registry, however many sinks: nothing is registered twice.
* The values of each label are bounded, and with them the number of series.
* Children are bound once, and kept: their labels are bounded, so they are too.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streamtrace.core import metrics
from streamtrace.core.errors import ConfigError
from streamtrace.core.metrics import METRICS, OTHER, UNKNOWN, Metric
from streamtrace.core.names import GAP_BUCKETS_S
from streamtrace.core.sink import Sink
from streamtrace.core.summary import RunSummary, Status
from streamtrace.sinks.prometheus.client import client, is_multiprocess
from streamtrace.sinks.prometheus.counts import add_counts, add_linked, observe
from streamtrace.sinks.prometheus.served import ServedCounts
from streamtrace.sinks.prometheus.tracked import Tracked

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MAX_BUCKETS = 20
SYNC_S = 1.0
"""How often the counts of other sinks are looked at, beside scrapes: a look costs as much as to
record a run."""

_ALL: weakref.WeakKeyDictionary[Any, Series] = weakref.WeakKeyDictionary()
_ALL_LOCK = threading.Lock()


def series_of(registry: CollectorRegistry | None, buckets: Mapping[str, Sequence[float]]) -> Series:
    """The metrics of this registry, made at the first call."""
    shared = client().REGISTRY
    if registry is None or is_multiprocess():
        # Under several processes all registries write to the same files, so only one may.
        registry = shared
    wanted = _checked(buckets)
    with _ALL_LOCK:
        found = _ALL.get(registry)
        if found is None:
            found = _ALL[registry] = Series(registry, wanted)
    for name, edges in wanted.items():
        if found.buckets[name] != edges:
            raise ConfigError(f"{name} is registered already, with buckets {found.buckets[name]}")
    return found


class Series:
    """All metrics of one registry, and the label values that they have.

    It is itself registered, as a collector without samples: a scrape asks it first, and so brings
    the counts of the tracked sinks up to date.
    """

    def __init__(
        self, registry: CollectorRegistry, buckets: Mapping[str, tuple[float, ...]]
    ) -> None:
        self.multiprocess = is_multiprocess()
        self.buckets = {one.name: buckets.get(one.name, one.buckets) for one in METRICS}
        self.lock = threading.Lock()
        self._seen: dict[str, set[str]] = {}
        self._streams: dict[tuple[str, str], Stream] = {}
        self._children: dict[tuple[str, ...], Any] = {}
        self._tracked: list[Tracked] = []
        self._sync_due = 0.0
        registry.register(self)
        self._families = {
            one.name: _family(registry, one, self.buckets[one.name]) for one in METRICS
        }
        self[metrics.BUILD_INFO].labels(_version()).set(1)
        self._served = ServedCounts(self)

    def __getitem__(self, metric: Metric) -> Any:
        """The client's collector of a metric."""
        return self._families[metric.name]

    def child(self, metric: Metric, *labels: str) -> Any:
        """That of these labels, each of which is `bounded`, or one of a fixed set."""
        key = (metric.name, *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = self._families[metric.name].labels(*labels)
        return found

    def describe(self) -> list[Any]:
        """It has no samples of its own."""
        return []

    def collect(self) -> list[Any]:
        """Bring the counts of the tracked sinks, and of what is served, up to date."""
        self.sync_served()
        with self.lock:
            tracked = list(self._tracked)
        for entry in tracked:
            entry.sync()
        return []

    def sync_if_due(self) -> None:
        """Bring them up to date, if that was not done for a while."""
        now = time.monotonic()
        if now >= self._sync_due:
            self._sync_due = now + SYNC_S
            self.collect()

    def sync_served(self) -> None:
        """Add what rose since the last time."""
        served = getattr(self, "_served", None)  # a registry may ask while this is made
        if served is not None:
            served.sync()

    def bounded(self, label: str, value: str | None, limit: int) -> str:
        """The value, made printable, or `other` if there are enough of them already."""
        if not value:
            return UNKNOWN
        if len(value) > metrics.MAX_LABEL_CHARS or not value.isprintable():
            cut = value[: metrics.MAX_LABEL_CHARS]
            value = "".join(char if char.isprintable() else "_" for char in cut)
        if value in self._seen.get(label, ()):
            return value
        with self.lock:
            seen = self._seen.setdefault(label, set())
            if value not in seen and len(seen) >= limit:
                return OTHER
            seen.add(value)
            return value

    def route(self, route: str) -> str:
        """The label of a route."""
        return self.bounded("route", route, metrics.MAX_ROUTES)

    def stream(self, route: str, dialect: str) -> Stream:
        """What is recorded of streams of this route and dialect."""
        route = self.route(route)
        dialect = self.bounded("dialect", dialect, metrics.MAX_LABEL_VALUES)
        found = self._streams.get((route, dialect))
        if found is None:
            with self.lock:
                if len(self._streams) >= metrics.MAX_STREAM_KINDS:
                    route = dialect = OTHER
                found = self._streams.get((route, dialect)) or Stream(self, route, dialect)
                self._streams[route, dialect] = found
        return found

    def track(self, sink: Sink, limit: int) -> Tracked:
        """The entry of this sink: one per registry, however many trackers it has."""
        label = self.bounded("sink", sink.name, limit)
        entry = Tracked(self, sink, label, limit)
        done = [one for one in self._tracked if one.is_done()]
        with self.lock:
            for known in self._tracked:
                if known.sink() is sink:
                    return known
            self._tracked = [one for one in self._tracked if one not in done] + [entry]
        return entry

    def after_fork(self) -> None:
        """The locks may be held by threads that the child does not have."""
        self.lock = threading.Lock()
        self._sync_due = 0.0  # sinks may count from 0 again
        for entry in self._tracked:
            entry.lock = threading.Lock()


class Stream:
    """What is recorded per route and dialect."""

    def __init__(self, series: Series, route: str, dialect: str) -> None:
        self.dialect = dialect
        self._ended = {
            status: series[metrics.STREAMS].labels(route, dialect, status.value)
            for status in Status
        }
        self._duration = functools.partial(series.child, metrics.STREAM_DURATION, route, dialect)
        self._duration_edges = series.buckets[metrics.STREAM_DURATION.name]
        self._stalled = series[metrics.STREAMS_STALLED].labels(route, dialect)
        self._events = series[metrics.EVENTS].labels(route, dialect)
        self._gaps = series[metrics.EVENT_GAP].labels(route, dialect)
        self._times: list[tuple[str, Any, tuple[float, ...], bool]] = []
        self._counts: list[tuple[str, Callable[[], Any], float]] = []
        for metric in METRICS:
            if metric.field is not None:
                bind = functools.partial(series[metric].labels, route, dialect)
                if metric.kind == "histogram":
                    edges = series.buckets[metric.name]
                    self._times.append((metric.field, bind(), edges, metric.exemplar))
                else:
                    per_unit = 1e-9 if metric.unit == "seconds" else 1
                    child = functools.cache(bind)
                    if not metric.absent:  # a series at 0 would say that somebody counted
                        child()
                    self._counts.append((metric.field, child, per_unit))

    def end(self, summary: RunSummary, exemplar: dict[str, str] | None) -> None:
        """How a run ended, and how long it took."""
        self._ended[summary.status].inc()
        duration = self._duration(summary.status.value)
        observe(duration, self._duration_edges, summary.duration_ns / 1e9, exemplar)

    def rest(self, summary: RunSummary) -> None:
        """What a run said when its client had left."""
        self._events.inc(summary.events)

    def record(self, summary: RunSummary, exemplar: dict[str, str] | None) -> None:
        """What was told over one connection."""
        for field, histogram, edges, is_linked in self._times:
            ns = getattr(summary, field)
            if ns is not None:
                observe(histogram, edges, ns / 1e9, exemplar if is_linked else None)
        for field, counter, per_unit in self._counts:
            count = getattr(summary, field)
            if count is not None:
                child = counter()
                if count:
                    child.inc(count * per_unit)
        if summary.longest_send_stall_ns >= metrics.STALLED_NS:
            self._stalled.inc()
        if summary.gap_counts:
            counts, total = summary.gap_counts, summary.gap_sum_ns / 1e9
            if exemplar is None or summary.longest_gap_ns is None:
                add_counts(self._gaps, GAP_BUCKETS_S, counts, total)
            else:
                longest = summary.longest_gap_ns / 1e9
                add_linked(
                    self._gaps, GAP_BUCKETS_S, counts, total, largest=longest, exemplar=exemplar
                )


def _checked(buckets: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    known = {one.name: one for one in METRICS if one.kind == "histogram"}
    checked = {}
    for name, edges in buckets.items():
        if name not in known:
            raise ConfigError(f"{name} is no histogram; there are: {', '.join(sorted(known))}")
        if known[name].counted:
            raise ConfigError(f"{name} is counted in fixed buckets, they cannot be changed")
        checked[name] = tuple(float(edge) for edge in edges)
        if not 0 < len(edges) < MAX_BUCKETS or list(edges) != sorted(set(edges)):
            raise ConfigError(
                f"buckets of {name} must be 1 to {MAX_BUCKETS - 1} rising edges, got {edges!r}"
            )
    return checked


def _family(registry: Any, metric: Metric, buckets: tuple[float, ...]) -> Any:
    kind = getattr(client(), metric.kind.capitalize())
    more: dict[str, Any] = {}
    if metric.kind == "histogram":
        more["buckets"] = buckets
    if metric.kind == "gauge":
        more["multiprocess_mode"] = _ACROSS_PROCESSES.get(metric.name, "livesum")
    try:
        return kind(metric.name, metric.help, metric.labels, registry=registry, **more)
    except ValueError:  # this module was loaded twice; or somebody else has taken the name
        found: Any = getattr(registry, "_names_to_collectors", {}).get(metric.name)
        if type(found) is not kind or found._labelnames != metric.labels:
            raise ConfigError(
                f"the registry has another metric with the name {metric.name}"
            ) from None
        return found


_ACROSS_PROCESSES = {
    metrics.BUILD_INFO.name: "livemax",
    metrics.SINK_LAST_SUCCESS.name: "max",  # what a process that ended had exported is exported
}
"""How the gauges of several processes become one, where that is not their sum."""


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415  slow to import

    try:
        return metadata.version("streamtrace")
    except metadata.PackageNotFoundError:  # run from a source tree
        return UNKNOWN


def _before_fork() -> None:
    """What is counted by then is the parent's: a child must not add it as well."""
    for series in list(_ALL.values()):
        series.collect()


def _after_fork() -> None:
    global _ALL_LOCK  # noqa: PLW0603
    _ALL_LOCK = threading.Lock()
    for series in _ALL.values():
        series.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
