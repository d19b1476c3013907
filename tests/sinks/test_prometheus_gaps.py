"""Gaps are added in bulk, and read as if they had been observed one by one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Histogram

from streamtrace.core.names import GAP_BUCKETS_S
from streamtrace.sinks.prometheus.counts import add_counts, add_linked, observe, observe_each

LINK = {"trace_id": "t"}


def count_gaps(gaps: list[float]) -> list[int]:
    counts = [0] * (len(GAP_BUCKETS_S) + 1)
    for gap in gaps:
        counts[sum(edge < gap for edge in GAP_BUCKETS_S)] += 1
    return counts


def buckets_and_sum(histogram: Histogram) -> tuple[list[float], float]:
    (family,) = histogram.collect()
    buckets = [one.value for one in family.samples if one.name.endswith("_bucket")]
    (total,) = [one.value for one in family.samples if one.name.endswith("_sum")]
    return buckets, total


gap_lists = st.lists(
    st.sampled_from(GAP_BUCKETS_S) | st.floats(1e-6, 400, allow_nan=False), max_size=60
)


@pytest.mark.parametrize("add", [add_counts, observe_each])
@given(gaps=gap_lists)
def test_gaps_in_bulk_read_like_gaps_observed_one_by_one(add: Any, gaps: list[float]) -> None:
    one_by_one = Histogram("gaps", "", buckets=GAP_BUCKETS_S, registry=None)
    in_bulk = Histogram("gaps", "", buckets=GAP_BUCKETS_S, registry=None)
    for gap in gaps:
        one_by_one.observe(gap)
    add(in_bulk, GAP_BUCKETS_S, count_gaps(gaps), sum(gaps))
    buckets, total = buckets_and_sum(in_bulk)
    assert buckets == buckets_and_sum(one_by_one)[0]
    assert total == pytest.approx(sum(gaps), abs=1e-6)


@given(values=gap_lists)
def test_a_value_is_observed_as_by_the_client_itself(values: list[float]) -> None:
    theirs = Histogram("values", "", buckets=GAP_BUCKETS_S, registry=None)
    ours = Histogram("values", "", buckets=GAP_BUCKETS_S, registry=None)
    for value in values:
        theirs.observe(value, LINK)
        observe(ours, GAP_BUCKETS_S, value, LINK)
    told, expected = (
        [
            (one.name, one.labels, one.value, one.exemplar and one.exemplar[:2])
            for family in histogram.collect()
            for one in family.samples
            if not one.name.endswith("_created")
        ]
        for histogram in (ours, theirs)
    )
    assert told == expected


@given(gaps=gap_lists.filter(bool))
def test_the_longest_gap_is_linked_in_its_bucket_and_counted_once(gaps: list[float]) -> None:
    plain = Histogram("gaps", "", buckets=GAP_BUCKETS_S, registry=None)
    linked = Histogram("gaps", "", buckets=GAP_BUCKETS_S, registry=None)
    counts, total, longest = count_gaps(gaps), sum(gaps), max(gaps)
    add_counts(plain, GAP_BUCKETS_S, counts, total)
    add_linked(linked, GAP_BUCKETS_S, counts, total, largest=longest, exemplar=LINK)
    buckets, held = buckets_and_sum(linked)
    assert buckets == buckets_and_sum(plain)[0]
    assert held == pytest.approx(total, abs=1e-6)
    (family,) = linked.collect()
    edges = [*GAP_BUCKETS_S, math.inf]
    found = {one.labels["le"]: one.exemplar.value for one in family.samples if one.exemplar}
    assert list(map(float, found)) == [next(edge for edge in edges if longest <= edge)]
    assert list(found.values()) == [longest]


@pytest.mark.parametrize("largest", [0.02, 400.0])
def test_a_longest_gap_that_is_not_among_them_is_not_linked(largest: float) -> None:
    histogram = Histogram("gaps", "", buckets=GAP_BUCKETS_S, registry=None)
    add_linked(histogram, GAP_BUCKETS_S, count_gaps([0.4]), 0.4, largest=largest, exemplar=LINK)
    assert buckets_and_sum(histogram)[0][-1] == 1
    (family,) = histogram.collect()
    assert not any(one.exemplar for one in family.samples)


def test_gaps_still_count_where_the_client_looks_different_inside() -> None:
    class Other:
        """A histogram without the insides that the bulk update knows."""

        def __init__(self) -> None:
            self.seen: list[float] = []

        def observe(self, amount: float) -> None:
            self.seen.append(amount)

    other = Other()
    gaps = [0.0005, 0.015, 0.015, 0.4, 45.0]
    add_counts(other, GAP_BUCKETS_S, count_gaps(gaps), sum(gaps))
    assert count_gaps(other.seen) == count_gaps(gaps)
    assert sum(other.seen) == pytest.approx(sum(gaps))


def test_a_wrong_number_of_buckets_adds_nothing() -> None:
    histogram = Histogram("gaps", "", buckets=GAP_BUCKETS_S, registry=None)
    with pytest.raises(ValueError, match="one count per bucket"):
        add_counts(histogram, GAP_BUCKETS_S, [1, 2, 3], 1.0)
    assert buckets_and_sum(histogram) == ([0.0] * 18, 0.0)
