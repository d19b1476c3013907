"""What the Langfuse SDK adds to spans is learned from it; if that cannot be, it makes the spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from langfuse._client.span_processor import LangfuseSpanProcessor
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.id_generator import IdGenerator
from support.otlp import OtlpReceiver
from support.recordings import RECORDED
from support.summaries import (
    EXAMPLES,
    completed_run,
    content,
    generation,
    minimal_run,
    stream_info,
    summaries,
    trace_ids,
)

from streamtrace.core.summary import RunSummary, TraceIds
from streamtrace.observe.offline import summarize
from streamtrace.sinks.langfuse import LangfuseSink, pipe
from streamtrace.sinks.langfuse.observations import observations
from streamtrace.sinks.langfuse.pipe import Pipe

KEYS = {"public_key": "pk-lf-1", "secret_key": "sk-lf-1"}
FLUSH_S = 30.0
IS_APP_ROOT = "langfuse.internal.is_app_root"


class Counted(IdGenerator):
    """The same ids in the same order, on both ways."""

    last = 0

    def generate_span_id(self) -> int:
        self.last += 1
        return self.last

    def generate_trace_id(self) -> int:
        return self.generate_span_id() << 64

    def is_trace_id_random(self) -> bool:
        return True


@pytest.fixture
def make_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Pipe]]:
    monkeypatch.setattr(pipe, "RandomIdGenerator", Counted)
    made: list[Pipe] = []

    def make_one() -> Pipe:
        made.append(Pipe(KEYS["public_key"], KEYS["secret_key"], "http://127.0.0.1:9", 1.0))
        return made[-1]

    yield make_one
    for one in made:
        one.close()


def assert_equal(made_by: Pipe, run: RunSummary) -> None:
    assert made_by._http is not None
    told = observations(run, "prod", "r1")
    made_by._made_ids.last = 0
    expected = encode_spans(made_by.spans(run.trace, told))
    made_by._made_ids.last = 0
    ours, _ = made_by.made(run.trace, told)
    found = type(expected).FromString(made_by._http.request(ours))
    assert found.SerializeToString() == expected.SerializeToString()


# --- the same spans ------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_the_same_on_both_ways(
    example: str, make_pipe: Callable[[], Pipe]
) -> None:
    run, one = EXAMPLES[example](), make_pipe()
    for ids in (
        None,
        trace_ids(parent_span_id=None, sampled=None),
        trace_ids(),
        trace_ids(sampled=False),
        TraceIds(trace_id="0" * 32, span_id="0" * 16, parent_span_id="1" * 16),
        TraceIds(trace_id="1" * 32, span_id="0" * 16, parent_span_id="0" * 16),
    ):
        run.trace = ids
        assert_equal(one, run)


def test_any_run_is_the_same_on_both_ways(make_pipe: Callable[[], Pipe]) -> None:
    one = make_pipe()

    @given(run=summaries(hostile=True))
    @settings(deadline=None)
    def check(run: RunSummary) -> None:
        assert_equal(one, run)

    check()


def test_every_recorded_stream_is_the_same_on_both_ways(make_pipe: Callable[[], Pipe]) -> None:
    one = make_pipe()
    for stream in RECORDED:
        assert_equal(one, summarize([stream.body], dialect=stream.dialect))


def test_what_is_learned_is_the_mark_of_the_root(make_pipe: Callable[[], Pipe]) -> None:
    root = {IS_APP_ROOT: True}
    assert make_pipe()._added == {
        (True, True): root,
        (True, False): root,
        (False, False): {},
    }


# --- a processor that does something else --------------------------------------------------------


def on_start(change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    original = LangfuseSpanProcessor.on_start

    def changed(self: Any, span: Any, parent_context: Any = None) -> None:
        original(self, span, parent_context)
        change(span)

    monkeypatch.setattr(LangfuseSpanProcessor, "on_start", changed)


OTHERS: dict[str, Callable[[Any], None]] = {
    "the id of the span": lambda span: span.set_attribute("x", f"{span.context.span_id:x}"),
    "a value where there is none": lambda span: (
        None if "user.id" in span.attributes else span.set_attribute("user.id", "nobody")
    ),
    "another value": lambda span: (
        span.set_attribute("langfuse.observation.output", "masked")
        if "langfuse.observation.output" in span.attributes
        else None
    ),
    "another name": lambda span: span.update_name("another"),
    "an event": lambda span: span.add_event("started"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_version_that_does_more_than_add_makes_every_span(
    what: str, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_start(OTHERS[what], monkeypatch)
    sink = LangfuseSink(**KEYS, base_url=receiver.url)
    sink.open()
    assert sink._pipe is not None
    assert sink._pipe._http is None
    run = minimal_run()
    expected = encode_spans(sink._pipe.spans(run.trace, observations(run)))
    [by_sdk] = expected.resource_spans[0].scope_spans[0].spans
    assert sink.export([run]) == {}
    sink.release()
    [arrived] = receiver.spans
    assert (arrived["name"], len(arrived["events"])) == (by_sdk.name, len(by_sdk.events))
    assert set(arrived["attributes"]) == {one.key for one in by_sdk.attributes}


def test_a_version_that_adds_the_same_to_every_span_is_learned(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_start(lambda span: span.set_attribute("langfuse.internal.n", [1, 2]), monkeypatch)
    sink = LangfuseSink(**KEYS, base_url=receiver.url)
    sink.open()
    assert sink.export([completed_run()]) == {}
    sink.release()
    assert [one["attributes"]["langfuse.internal.n"] for one in receiver.spans] == [[1, 2]] * 4


def test_a_processor_that_fails_now_and_then_costs_only_its_runs(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LangfuseSpanProcessor.on_end

    def sometimes(self: Any, span: Any) -> None:
        if "user.id" in span.attributes:
            original(self, span)

    monkeypatch.setattr(LangfuseSpanProcessor, "on_end", sometimes)
    sink = LangfuseSink(**KEYS, base_url=receiver.url)
    sink.open()
    assert sink.export([completed_run(), minimal_run()]) == {"export_error": 1}
    sink.release()
    assert len(receiver.spans) == 4


# --- requests ------------------------------------------------------------------------------------


def test_internal_metrics_of_the_sdk_still_count_its_spans(
    make_pipe: Callable[[], Pipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    assert make_pipe()._http is None


@pytest.mark.parametrize("way", ["straight"], indirect=True)
def test_a_run_that_is_longer_than_any_request_still_goes_in_one(receiver: OtlpReceiver) -> None:
    text = content("x" * 3_000_000)
    run = completed_run(generations=[generation(text=text)], tool_calls=[])
    sink = LangfuseSink(**KEYS, base_url=receiver.url, interval_s=0, timeout_s=FLUSH_S)
    sink.end(stream_info(run), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert sink.stats().exported == 1
    assert [len(one.spans) for one in receiver.requests] == [2]
