"""One set of metrics per registry, and labels that stay bounded and empty of secrets."""

from __future__ import annotations

import gc
import importlib
import random
import sys
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from support import summaries
from support.prometheus import by_label, record, scrape, value

from streamtrace.core import metrics
from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.sinks.prometheus import PrometheusSink

STREAM = {"route": "/agents/{name}/runs", "dialect": "ag-ui"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> PrometheusSink:
    return PrometheusSink(registry=registry)


def test_strangers_cannot_make_series_without_end(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    """25,000 runs, each with a new route, dialect, model, tool and kind of issue."""
    noise = random.Random(7)
    run = summaries.completed_run(steps=[], issues={})
    call, entry = run.tool_calls[0], run.usage_by_model[0]
    info = summaries.stream_info(run)
    for number in range(25_000):
        info.route = f"/{noise.getrandbits(64):x}"
        run.dialect = f"d{noise.getrandbits(64):x}"
        entry.model = run.generations[0].model = f"m{noise.getrandbits(64):x}"
        call.name = f"t{noise.getrandbits(64):x}"
        run.issues = {f"k{number}": 1}
        sink.start(info)
        sink.end(info, run)
    samples = scrape(registry)
    assert sink.stats().exported == 25_000
    per_label: dict[str, set[str]] = {}
    for sample in (one for group in samples.values() for one in group):
        for label, text in sample.labels.items():
            per_label.setdefault(label, set()).add(text)
    assert len(per_label["route"]) == metrics.MAX_ROUTES + 1
    assert len(per_label["dialect"]) == metrics.MAX_LABEL_VALUES + 1
    assert len(per_label["model"]) == metrics.MAX_LABEL_VALUES + 1
    assert len(per_label["tool"]) == metrics.MAX_LABEL_VALUES + 1
    assert len(per_label["kind"]) == metrics.MAX_LABEL_VALUES + 1
    pairs = {tuple(sorted(one.labels.items())) for one in samples["streamtrace_events_total"]}
    assert len(pairs) <= metrics.MAX_STREAM_KINDS + 1
    totals = [
        one.value for one in samples["streamtrace_tokens_total"] if one.labels["type"] == "input"
    ]
    assert sum(totals) == 25_000 * 240


def test_the_cap_is_shared_by_all_sinks_of_a_registry(registry: CollectorRegistry) -> None:
    for number in range(30):
        sink = PrometheusSink(registry=registry, max_label_values=5)
        run = summaries.completed_run()
        run.tool_calls[0].name = f"tool-{number}"
        record(sink, run)
    tools = by_label(registry, "streamtrace_tool_calls_total", "tool")
    assert tools == {**{f"tool-{number}": 1 for number in range(5)}, "other": 25}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (None, "unknown"),
        ("", "unknown"),
        ("gpt-4o", "gpt-4o"),
        ("modèle-é", "modèle-é"),
        ('a"} 1\nb{c="', 'a"} 1_b{c="'),
        ("tab\there\x00\x7f", "tab_here__"),
        ("\ud800 lone surrogate \u202e", "_ lone surrogate _"),
        ("m" * 5000, "m" * 80),
    ],
)
def test_label_values_are_short_and_printable(
    sink: PrometheusSink, registry: CollectorRegistry, said: str | None, shown: str
) -> None:
    run = summaries.completed_run()
    run.usage_by_model[0].model = said
    record(sink, run)
    assert set(by_label(registry, "streamtrace_tokens_total", "model")) == {shown}


def test_no_content_and_no_id_is_in_a_scrape(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    run = summaries.lossy_run()
    sink.track([sink])
    record(sink, run, summaries.failed_run())
    text = generate_latest(registry).decode()
    said = [summaries.CANARY, run.run_id, run.thread_id, run.tool_calls[0].id]
    said += [run.generations[0].response_id, run.labels.user, run.labels.session, "acme"]
    assert run.trace is not None
    said += [run.trace.trace_id, run.trace.span_id, "user-from-request"]
    for word in said:
        assert word is not None
        assert word not in text


def test_a_hundred_apps_in_one_process_share_their_metrics() -> None:
    run = summaries.completed_run(route="/of-a-hundred-apps")
    before = prometheus_client.REGISTRY.get_sample_value(
        "streamtrace_streams_started_total", {"route": run.route}
    )
    for _ in range(100):
        sink = PrometheusSink()
        sink.track([sink])
        record(sink, run)
    after = prometheus_client.REGISTRY.get_sample_value(
        "streamtrace_streams_started_total", {"route": run.route}
    )
    assert (before, after) == (None, 100)


def test_a_module_that_is_loaded_again_adopts_the_metrics_of_the_registry(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    record(sink, summaries.completed_run())
    names = [name for name in sys.modules if name.startswith("streamtrace.sinks.prometheus")]
    saved = {name: sys.modules.pop(name) for name in names}
    try:
        again = importlib.import_module("streamtrace.sinks.prometheus")
        assert again.PrometheusSink is not PrometheusSink
        record(again.PrometheusSink(registry=registry), summaries.completed_run())
    finally:
        sys.modules.update(saved)
    assert value(registry, "streamtrace_streams_total", **STREAM, status="completed") == 2


def test_a_registry_goes_when_its_app_goes() -> None:
    registry = CollectorRegistry()
    sink = PrometheusSink(registry=registry)
    record(sink, summaries.completed_run())
    before = len(importlib.import_module("streamtrace.sinks.prometheus.series")._ALL)
    del registry, sink
    gc.collect()
    after = len(importlib.import_module("streamtrace.sinks.prometheus.series")._ALL)
    assert after < before


def test_a_name_that_somebody_else_has_taken_is_an_error(registry: CollectorRegistry) -> None:
    Counter("streamtrace_streams_total", "mine", ["mine"], registry=registry)
    with pytest.raises(ConfigError, match="another metric with the name streamtrace_streams_total"):
        PrometheusSink(registry=registry)


def test_buckets_can_be_chosen_per_metric(registry: CollectorRegistry) -> None:
    name = metrics.TIME_TO_FIRST_TOKEN.name
    sink = PrometheusSink(registry=registry, buckets={name: [0.5, 1]})
    record(sink, summaries.completed_run())
    edges = [one.labels["le"] for one in scrape(registry)[f"{name}_bucket"]]
    assert edges == ["0.5", "1.0", "+Inf"]
    PrometheusSink(registry=registry, buckets={name: [0.5, 1]})
    with pytest.raises(ConfigError, match="registered already"):
        PrometheusSink(registry=registry, buckets={name: [0.5, 2]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"buckets": {"nonesuch": [1]}}, "nonesuch is no histogram"),
        ({"buckets": {metrics.EVENT_GAP.name: [1]}}, "fixed buckets"),
        ({"buckets": {metrics.SEND_STALL.name: []}}, "rising edges"),
        ({"buckets": {metrics.SEND_STALL.name: [2, 1]}}, "rising edges"),
        ({"buckets": {metrics.SEND_STALL.name: list(range(20))}}, "1 to 19"),
        ({"max_label_values": 0}, "max_label_values must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_told_at_construction(
    registry: CollectorRegistry, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrometheusSink(registry=registry, **arguments)


def test_without_the_client_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"streamtrace\[prometheus\]"):
        PrometheusSink()
