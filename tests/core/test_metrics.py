"""The table of metrics: complete, bounded, and the source of docs/metrics.md."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import pytest

from streamtrace.core import metrics
from streamtrace.core.metrics import LABELS, METRICS, Metric
from streamtrace.core.summary import RunSummary

by_name = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def test_the_reference_page_is_what_the_table_says(golden: Callable[[str, str], None]) -> None:
    golden("docs/metrics.md", metrics.reference())


def test_every_metric_of_the_module_is_in_the_table_once() -> None:
    declared = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert sorted(one.name for one in declared) == sorted(one.name for one in METRICS)
    assert len({one.name for one in METRICS}) == len(METRICS)


@by_name
def test_a_name_tells_the_kind_and_the_unit(metric: Metric) -> None:
    assert re.fullmatch(r"streamtrace(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    is_moment = metric.name.endswith("_timestamp_seconds")
    assert metric.name.endswith("_seconds") == (metric.kind == "histogram" or is_moment)
    assert metric.unit or metric is metrics.BUILD_INFO


@by_name
def test_labels_are_explained_and_none_is_an_id(metric: Metric) -> None:
    assert set(metric.labels) <= set(LABELS)
    assert not {"run_id", "thread_id", "trace_id", "user", "session"} & set(metric.labels)


@by_name
def test_a_time_says_when_its_clock_runs_and_when_it_is_absent(metric: Metric) -> None:
    is_time = metric.kind == "histogram"
    assert (metric.clock is not None) == is_time
    assert bool(metric.absent) or not is_time


@by_name
def test_a_field_is_one_of_the_summary(metric: Metric) -> None:
    fields = {one.name for one in msgspec.structs.fields(RunSummary)}
    assert metric.field is None or metric.field in fields
    if metric.field is not None:
        assert metric.labels == ("route", "dialect")
        assert metric.field.endswith("_ns") == (metric.unit == "seconds")


@by_name
def test_buckets_rise_and_are_at_most_twenty_with_the_last(metric: Metric) -> None:
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert len(metric.buckets) < 20


@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [
        (metrics.TIME_TO_FIRST_TOKEN, 0.01, 120),
        (metrics.EVENT_GAP, 0.001, 30),
        (metrics.STREAM_DURATION, 0.1, 3600),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_buckets_cover_what_streams_take(metric: Metric, least: float, most: float) -> None:
    assert metric.buckets[0] <= least
    assert metric.buckets[-1] >= most


def test_the_edges_of_common_promises_are_buckets() -> None:
    assert {1.0, 2.0, 5.0} <= set(metrics.TIME_TO_FIRST_TOKEN.buckets)
