"""PrometheusSink: what a scrape shows of runs."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from support import summaries
from support.prometheus import by_label, record, scrape, value

from streamtrace.core import metrics
from streamtrace.core.summary import ModelUsage, RunSummary, Status, TokenCounts
from streamtrace.sinks.prometheus import PrometheusSink
from streamtrace.sinks.queued import QueuedSink

STREAM = {"route": "/agents/{name}/runs", "dialect": "ag-ui"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> PrometheusSink:
    return PrometheusSink(registry=registry)


class Nowhere(QueuedSink):
    """Exports well, to no place."""

    def export(self, batch: list[RunSummary]) -> None:
        """Nothing is left to do."""


def test_a_scrape_shows_the_metrics_of_the_table_with_their_labels_and_nothing_else(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    exporter = Nowhere(interval_s=0)
    sink.track([sink, exporter])
    exporter.end(summaries.stream_info(summaries.minimal_run()), summaries.minimal_run())
    assert exporter.flush(10)
    exporter.close(10)
    record(sink, summaries.completed_run(), summaries.lossy_run())
    samples = scrape(registry)
    names = [name for name in samples if not name.endswith("_created")]
    shown = {re.sub(r"_(count|sum|bucket)$", "", name) for name in names}
    assert shown == {one.name for one in metrics.METRICS}
    for metric in metrics.METRICS:
        suffix = "_count" if metric.kind == "histogram" else ""
        assert samples[metric.name + suffix], metric.name
        for one in samples[metric.name + suffix]:
            assert set(one.labels) == set(metric.labels)


@pytest.mark.parametrize("status", Status)
def test_a_run_counts_under_its_outcome_and_all_others_are_there_at_zero(
    sink: PrometheusSink, registry: CollectorRegistry, status: Status
) -> None:
    record(sink, summaries.run_with_status(status))
    ended = {
        one.labels["status"]: one.value for one in scrape(registry)["streamtrace_streams_total"]
    }
    assert ended == {str(other): float(other is status) for other in Status}
    name = "streamtrace_stream_duration_seconds_sum"
    assert value(registry, name, **STREAM, status=str(status)) == 2.5


def test_a_stream_is_active_from_its_start_to_its_end(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    run = summaries.completed_run()
    info = summaries.stream_info(run)
    active = ("streamtrace_streams_active", STREAM["route"])
    sink.start(info)
    sink.start(info)
    assert value(registry, active[0], route=active[1]) == 2
    sink.end(info, run)
    assert value(registry, active[0], route=active[1]) == 1
    assert value(registry, "streamtrace_streams_started_total", route=active[1]) == 2


def test_times_are_seconds_and_each_is_its_own_field(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    record(sink, summaries.completed_run())
    expected = {
        "time_to_first_byte": 0.04,
        "time_to_first_event": 0.045,
        "time_to_first_token": 0.35,
        "time_to_first_visible_token": 1.6,
        "time_per_output_token": 0.011,
        "event_gap": 2.1,
        "longest_gap": 0.7,
        "send_stall": 0.012,
        "longest_send_stall": 0.009,
        "client_lag": 0.25,
    }
    for name, seconds in expected.items():
        total = value(registry, f"streamtrace_{name}_seconds_sum", **STREAM)
        assert total == pytest.approx(seconds), name
    tool_s = value(registry, "streamtrace_tool_duration_seconds_sum", tool="get_weather")
    assert tool_s == pytest.approx(0.7)


def test_what_is_not_known_is_not_recorded(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    record(sink, summaries.minimal_run())
    samples = scrape(registry)
    known = {"stream_duration", "send_stall", "longest_send_stall"}
    for metric in metrics.METRICS:
        if metric.kind == "histogram":
            count = sum(one.value for one in samples.get(f"{metric.name}_count", []))
            short = metric.name.removeprefix("streamtrace_").removesuffix("_seconds")
            assert count == (short in known), metric.name
    for name in ("tokens", "cost_usd", "tool_calls", "issues"):
        assert f"streamtrace_{name}_total" not in samples


def test_sizes_and_losses_add_up(sink: PrometheusSink, registry: CollectorRegistry) -> None:
    record(sink, summaries.completed_run(), summaries.lossy_run())
    expected = {
        "events": 122,
        "frames": 128,
        "bytes": 19752,
        "lost_chunks": 12,
        "lost_bytes": 4096,
        "events_dropped": 40,
        "events_joined": 0,
    }
    for name, total in expected.items():
        assert value(registry, f"streamtrace_{name}_total", **STREAM) == total, name
    issues = ("streamtrace_issues_total", STREAM["dialect"])
    assert value(registry, issues[0], dialect=issues[1], kind="unknown_event") == 3
    assert value(registry, issues[0], dialect=issues[1], kind="bad_json") == 1


@pytest.mark.parametrize(("longest_ms", "stalled"), [(999, 0), (1000, 1)])
def test_a_stream_is_stalled_when_one_send_took_a_second(
    sink: PrometheusSink, registry: CollectorRegistry, longest_ms: int, stalled: int
) -> None:
    record(sink, summaries.completed_run(longest_send_stall_ns=longest_ms * summaries.MS))
    assert value(registry, "streamtrace_streams_stalled_total", **STREAM) == stalled


def test_unfinished_tool_calls_are_told_by_their_status(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    record(sink, summaries.completed_run(), summaries.disconnected_run())
    calls = "streamtrace_tool_calls_total"
    assert value(registry, calls, tool="get_weather", status="completed") == 1
    assert value(registry, calls, tool="get_weather", status="ready") == 1
    assert value(registry, "streamtrace_tool_duration_seconds_count", tool="get_weather") == 1


def test_tokens_are_counted_by_model_and_type(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    record(sink, summaries.completed_run(), summaries.disconnected_run())
    tokens = {one.labels["type"]: one.value for one in scrape(registry)["streamtrace_tokens_total"]}
    assert tokens == {"input": 240, "output": 96, "cached_input": 128, "reasoning": 32}


@pytest.mark.parametrize("tokens", [metrics.MAX_TOKENS + 1, 10**400, -1])
def test_counts_that_cannot_be_true_are_left_out(
    sink: PrometheusSink, registry: CollectorRegistry, tokens: int
) -> None:
    run = summaries.completed_run()
    run.usage_by_model[0].usage = TokenCounts(input_tokens=tokens, output_tokens=5)
    record(sink, run)
    model = "gpt-5-mini-2025-08-07"
    name = "streamtrace_tokens_total"
    assert value(registry, name, model=model, type="output") == 5
    assert value(registry, name, model=model, type="input") is None
    assert sink.stats().dropped == {}


def test_known_costs_belong_to_their_models_and_unknown_ones_to_none(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    run = summaries.completed_run(cost_usd=None)
    run.usage_by_model = [
        ModelUsage(model=model, provider=None, usage=TokenCounts(input_tokens=1), cost_usd=cost_usd)
        for model, cost_usd in (("a", 1.0), ("b", 0.5), ("a", 0.25), ("c", None))
    ]
    record(sink, run)
    assert by_label(registry, "streamtrace_cost_usd_total", "model") == {"a": 1.25, "b": 0.5}


def test_what_nobody_counted_has_no_series_and_what_was_counted_as_none_has(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    names = ("streamtrace_events_dropped_total", "streamtrace_events_joined_total")
    record(sink, summaries.completed_run(dropped_events=None, joined_events=None))
    assert not any(name in scrape(registry) for name in names)
    record(sink, summaries.completed_run(dropped_events=0, joined_events=3))
    assert [value(registry, name, **STREAM) for name in names] == [0, 3]


@pytest.mark.parametrize(("sampled", "linked"), [(True, True), (None, True), (False, False)])
def test_exemplars_link_to_traces_that_may_exist(
    sink: PrometheusSink, registry: CollectorRegistry, sampled: bool | None, linked: bool
) -> None:
    trace = summaries.trace_ids(1, sampled=sampled)
    record(sink, summaries.completed_run(trace=trace))
    families = parse_openmetrics(openmetrics.generate_latest(registry).decode())
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    expected = {one.name: {trace.trace_id} for one in metrics.METRICS if one.exemplar}
    assert found == (expected if linked else {})


def test_a_run_that_cannot_be_recorded_is_dropped_and_counted_and_no_longer_active(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    record(sink, summaries.completed_run(gap_counts=[1]), summaries.completed_run())
    stats = sink.stats()
    assert (stats.accepted, stats.exported, stats.dropped) == (2, 1, {"record_error": 1})
    assert value(registry, "streamtrace_streams_active", route=STREAM["route"]) == 0


def test_after_close_runs_are_dropped_and_no_stream_stays_active(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    run = summaries.completed_run()
    sink.start(summaries.stream_info(run))
    sink.close(1)
    sink.end(summaries.stream_info(run), run)
    stats = sink.stats()
    assert (stats.accepted, stats.exported, stats.dropped) == (1, 0, {"shutdown": 1})
    assert value(registry, "streamtrace_streams_active", route=STREAM["route"]) == 0


@given(run=summaries.summaries(hostile=True))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_whatever_a_stream_says_is_accounted_for_and_can_be_scraped(run: RunSummary) -> None:
    registry = CollectorRegistry()
    sink = PrometheusSink(registry=registry)
    record(sink, run)
    stats = sink.stats()
    assert stats.accepted == 1 == stats.exported + sum(stats.dropped.values())
    assert value(registry, "streamtrace_streams_active", route=run.route) == 0
    openmetrics.generate_latest(registry).decode()
