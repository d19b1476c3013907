"""Observations of a histogram: one, and many in one go, given how many fell into each bucket.

Both reach into the client, and fall back on its public means where it looks otherwise.
"""

from __future__ import annotations

import functools
import itertools
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from streamtrace.sinks.prometheus.client import client


def observe(
    histogram: Any, edges: Sequence[float], value: float, exemplar: dict[str, str] | None = None
) -> None:
    """Add one observation to a histogram with these edges. The client's own goes through the
    buckets one by one, and checks the labels of the exemplar each time: twice as long."""
    buckets = getattr(histogram, "_buckets", ())
    if len(buckets) != len(edges) + 1:
        histogram.observe(value, exemplar)
        return
    bucket = buckets[bisect_left(edges, value)]
    histogram._sum.inc(value)
    bucket.inc(1)
    if exemplar:
        bucket.set_exemplar(_exemplar_class()(exemplar, value, time.time()))


@functools.cache
def _exemplar_class() -> Any:
    return client(".samples").Exemplar


def add_counts(histogram: Any, edges: Sequence[float], counts: Sequence[int], total: float) -> None:
    """Add observations to a histogram with these edges, given how many fell into each bucket.

    One addition per bucket, not one search per observation.
    """
    if len(counts) != len(edges) + 1:
        raise ValueError("one count per bucket is needed")
    buckets = getattr(histogram, "_buckets", ())
    if len(buckets) != len(counts) or not hasattr(histogram, "_sum"):
        observe_each(histogram, edges, counts, total)
        return
    for bucket, count in zip(buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)


def add_linked(
    histogram: Any,
    edges: Sequence[float],
    counts: Sequence[int],
    total: float,
    *,
    largest: float,
    exemplar: dict[str, str],
) -> None:
    """The same, and an exemplar of the largest of them, if it is among them."""
    at = bisect_left(edges, largest)
    if at < len(counts) and counts[at] > 0 and total >= largest:
        observe(histogram, edges, largest, exemplar)
        counts = [*counts[:at], counts[at] - 1, *counts[at + 1 :]]
        total -= largest
    add_counts(histogram, edges, counts, total)


def observe_each(
    histogram: Any, edges: Sequence[float], counts: Sequence[int], total: float
) -> None:
    """The same with public means only: as many observations, in the same buckets, of the same sum.

    All lie equally far between the edges of their buckets, as far as the sum demands.
    """
    lows = (0.0, *edges)
    excess = total - sum(count * low for count, low in zip(counts, lows, strict=True))
    endless = counts[-1]
    widths = [high - low for low, high in itertools.pairwise(lows)]
    widths.append(excess / endless if endless else 0.0)
    room = sum(count * width for count, width in zip(counts, widths, strict=True))
    share = min(max(excess / room, 1e-9), 1.0) if room else 1.0
    for count, low, width in zip(counts, lows, widths, strict=True):
        for _ in range(count):
            histogram.observe(low + share * width)
