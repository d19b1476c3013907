"""The straight way to OTLP and the way through the SDK: the same spans, and when each is taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    StaticSampler,
)
from support.otlp import OtlpReceiver
from support.recordings import RECORDED
from support.summaries import (
    EXAMPLES,
    completed_run,
    content,
    generation,
    minimal_run,
    summaries,
    trace_ids,
)

from streamtrace.core.summary import RunSummary, TraceIds
from streamtrace.observe.offline import summarize
from streamtrace.sinks import otlp_http
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.otel_spans import SdkSpans, SpanWriter, own_provider
from streamtrace.sinks.otlp import MAX_BYTES_PER_REQUEST

WAIT_S = 20.0
NOWHERE = "http://127.0.0.1:9/v1/traces"


class Counted(IdGenerator):
    """The same ids in the same order, on both ways."""

    def __init__(self) -> None:
        self.last = 0

    def generate_span_id(self) -> int:
        self.last += 1
        return self.last

    def generate_trace_id(self) -> int:
        self.last += 1
        return self.last << 64 | self.last

    def is_trace_id_random(self) -> bool:
        return True


class Both:
    """The same runs on both ways, with the same ids."""

    def __init__(self) -> None:
        self._provider = own_provider(None)
        self._provider.id_generator = self.ids = Counted()
        self.writer = SpanWriter(self._provider, OTLPSpanExporter(endpoint=NOWHERE))
        self._sdk = SdkSpans(self.writer._tracer(), None)

    def assert_equal(self, runs: list[RunSummary]) -> int:
        straight = self.writer._straight
        assert straight is not None
        self.ids.last = 0
        by_sdk = [span for run in runs for span in self._sdk.spans(run)[0]]
        self.ids.last = 0
        ours = [span for run in runs for span in straight.spans(run)[0]]
        assert len(ours) == len(by_sdk)
        if ours:
            expected = encode_spans(by_sdk)
            found = type(expected).FromString(straight._http.request(ours))
            assert found.SerializeToString() == expected.SerializeToString()
        return len(ours)


def is_straight(exporter: Any, provider: Any = None) -> bool:
    return SpanWriter(provider or own_provider(None), exporter)._straight is not None


# --- the same spans ------------------------------------------------------------------------------


def test_any_run_is_the_same_on_both_ways() -> None:
    both = Both()

    @given(runs=st.lists(summaries(hostile=True), min_size=1, max_size=3))
    @settings(deadline=None)
    def check(runs: list[RunSummary]) -> None:
        assert both.assert_equal(runs) > 0

    check()


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_the_same_on_both_ways(example: str) -> None:
    run = EXAMPLES[example]()
    both = Both()
    for ids in (
        None,
        trace_ids(parent_span_id=None, sampled=None),
        trace_ids(),
        trace_ids(sampled=None),
        TraceIds(trace_id="0" * 32, span_id="0" * 16, parent_span_id="1" * 16),
        TraceIds(trace_id="1" * 32, span_id="0" * 16, parent_span_id="0" * 16),
    ):
        run.trace = ids
        assert both.assert_equal([run]) > 0
    run.trace = trace_ids(sampled=False)
    assert both.assert_equal([run]) == 0


def test_every_recorded_stream_is_the_same_on_both_ways() -> None:
    both = Both()
    runs = [summarize([one.body], dialect=one.dialect) for one in RECORDED]
    assert both.assert_equal(runs) > len(runs) > 200


@pytest.mark.parametrize(
    "sampler",
    [
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ],
)
def test_every_sampler_that_the_environment_can_name_decides_the_same(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a caller that sampled, one that did not, one that did not say, and without any."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.4")
    callers: list[dict[str, Any]] = [
        {"sampled": True},
        {"sampled": False},
        {"sampled": None},
        {"parent_span_id": None, "sampled": None},
    ]
    runs = [completed_run(trace=trace_ids(seed, **said)) for seed in range(20) for said in callers]
    both = Both()
    if both.writer._straight is None:  # it samples nothing, so there was nothing to compare
        assert sampler == "always_off"
        return
    for run in runs:
        both.assert_equal([run])


# --- which way -----------------------------------------------------------------------------------


def test_an_otlp_http_exporter_of_ours_is_gone_around() -> None:
    assert is_straight(OTLPSpanExporter(endpoint=NOWHERE))


class Another(OTLPSpanExporter):
    """Who makes a subclass may do anything in `export`."""


@pytest.mark.parametrize("exporter", [Another(endpoint=NOWHERE), InMemorySpanExporter(), None])
def test_any_other_exporter_is_given_spans(exporter: Any) -> None:
    assert not is_straight(exporter)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "50"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "50"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "0"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true"),
        ("OTEL_SDK_DISABLED", "true"),
    ],
)
def test_what_is_said_of_spans_of_the_sdk_is_kept_by_it(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert not is_straight(OTLPSpanExporter(endpoint=NOWHERE))


def test_limits_that_cut_nothing_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "500")
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "")
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    assert is_straight(OTLPSpanExporter(endpoint=NOWHERE))


class OfTheApp(Sampler):
    def should_sample(self, *args: Any, **options: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {"sampled.by": "the app"})

    def get_description(self) -> str:
        return "OfTheApp"


@pytest.mark.parametrize(
    "sampler", [OfTheApp(), ParentBased(OfTheApp()), StaticSampler(Decision.RECORD_ONLY)]
)
def test_a_sampler_that_is_not_the_sdks_own_is_asked_for_every_span(sampler: Sampler) -> None:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    assert not is_straight(OTLPSpanExporter(endpoint=NOWHERE), provider)
    known = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    assert is_straight(OTLPSpanExporter(endpoint=NOWHERE), known)


@pytest.mark.parametrize("moved", ["_client", "_max_request_size", "_shutdown", "_metrics"])
def test_a_version_of_the_exporter_that_moved_something_is_given_spans(moved: str) -> None:
    exporter = OTLPSpanExporter(endpoint=NOWHERE)
    delattr(exporter, moved)
    assert not is_straight(exporter)


def test_a_client_that_answers_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = OTLPSpanExporter(endpoint=NOWHERE)
    exporter._client = SimpleNamespace(export=lambda body: True)
    assert not is_straight(exporter)


def test_a_version_that_writes_spans_in_another_way_is_given_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For example with the flags of the trace, which the specification has and this does not."""

    def with_trace_flags(spans: Any) -> Any:
        message = encode_spans(spans)
        for one in message.resource_spans[0].scope_spans[0].spans:
            one.flags |= 1
        return message

    monkeypatch.setattr(otlp_http, "encode_spans", with_trace_flags)
    assert not is_straight(OTLPSpanExporter(endpoint=NOWHERE))


# --- requests ------------------------------------------------------------------------------------


def export(receiver: OtlpReceiver, runs: list[RunSummary], **options: Any) -> dict[str, int] | None:
    sink = OTelSink(exporter=OTLPSpanExporter(endpoint=receiver.traces_url, **options))
    sink.open()
    try:
        return sink.export(runs)
    finally:
        sink.release()


def long_run(chars: int) -> RunSummary:
    return completed_run(generations=[generation(text=content("x" * chars))], tool_calls=[])


def test_requests_are_cut_at_a_mebibyte(receiver: OtlpReceiver) -> None:
    """Each of these runs is of about 400 KiB: its text stands on two spans."""
    assert export(receiver, [long_run(200_000) for _ in range(5)]) == {}
    assert [len(one.spans) for one in receiver.requests] == [4, 4, 2]
    assert max(len(one.body) for one in receiver.requests) <= MAX_BYTES_PER_REQUEST + 2_000


@pytest.mark.parametrize("way", ["straight"], indirect=True)
def test_the_largest_request_of_the_exporter_is_not_exceeded(receiver: OtlpReceiver) -> None:
    """Runs are packed to fit into it; one that is longer all by itself is dropped, and counted."""
    runs = [long_run(10_000) for _ in range(8)]
    runs[3] = long_run(40_000)
    assert export(receiver, runs, max_request_size=50_000) == {"export_error": 1}
    assert len(receiver.spans) == 14
    assert len(receiver.requests) < 7
    assert max(len(one.body) for one in receiver.requests) <= 50_000


def test_a_limit_of_zero_is_none(receiver: OtlpReceiver) -> None:
    assert export(receiver, [long_run(200_000)], max_request_size=0) == {}


def test_compression_and_headers_are_those_of_the_exporter(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert export(receiver, [minimal_run()], headers={"x-tenant": "acme"}) == {}
    [request] = receiver.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["x-tenant"] == "acme"
    assert request.raw != request.body


def test_an_exporter_that_the_app_shut_down_sends_nothing(receiver: OtlpReceiver) -> None:
    exporter = OTLPSpanExporter(endpoint=receiver.traces_url)
    sink = OTelSink(exporter=exporter)
    sink.open()
    exporter.shutdown()
    assert sink.export([minimal_run()]) == {"export_error": 1}
    assert receiver.requests == []


@pytest.mark.parametrize("way", ["straight"], indirect=True)
def test_a_run_whose_ids_are_none_costs_no_other(receiver: OtlpReceiver) -> None:
    broken = completed_run(trace=TraceIds(trace_id="no hex", span_id="neither"))
    too_long = completed_run(trace=TraceIds(trace_id="1" * 33, span_id="1" * 16))
    assert export(receiver, [minimal_run(), broken, too_long, minimal_run()]) == {"export_error": 2}
    assert len(receiver.spans) == 2
