"""OTelSink against a real OTLP receiver over HTTP, and against the SDK of the app."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from support.otlp import OtlpReceiver, free_port
from support.summaries import (
    CANARY,
    EXAMPLES,
    completed_run,
    generation,
    minimal_run,
    stream_info,
    trace_ids,
    without_content,
)

from streamtrace.core import names
from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import SinkStats
from streamtrace.core.spans import project
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.otel import OTelSink

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def sinks() -> Iterator[list[OTelSink]]:
    """Sinks put here are closed at the end."""
    made: list[OTelSink] = []
    yield made
    for one in made:
        one.close(WAIT_S)


def sink_to(receiver: OtlpReceiver, sinks: list[OTelSink], **options: Any) -> OTelSink:
    sink = OTelSink(
        exporter=OTLPSpanExporter(endpoint=receiver.traces_url),
        **{"interval_s": 0.0, **options},
    )
    sinks.append(sink)
    return sink


def tell(sink: OTelSink, *runs: RunSummary) -> None:
    for run in runs:
        info = stream_info(run)
        sink.start(info)
        sink.end(info, run)


def balance(stats: SinkStats) -> bool:
    return stats.accepted == stats.exported + sum(stats.dropped.values()) + stats.queued


def root_of(spans: list[dict[str, Any]]) -> dict[str, Any]:
    [root] = [span for span in spans if span["name"].startswith("invoke_agent")]
    return root


# --- the trace, as it arrives --------------------------------------------------------------------


def test_a_run_arrives_as_a_tree_below_its_caller(receiver, sinks):
    """Root, generations and tool call: right kinds, one trace, the caller's span as parent."""
    run = completed_run()
    sink = sink_to(receiver, sinks)
    tell(sink, run)
    spans = receiver.wait_for_spans(4)

    assert run.trace is not None
    assert {span["trace_id"] for span in spans} == {run.trace.trace_id}
    root = root_of(spans)
    assert root["span_id"] == run.trace.span_id
    assert root["parent_span_id"] == run.trace.parent_span_id
    children = [span for span in spans if span is not root]
    assert {span["parent_span_id"] for span in children} == {run.trace.span_id}
    assert len({span["span_id"] for span in spans}) == 4
    assert [(span["name"], span["kind"]) for span in spans] == [
        ("chat gpt-5-mini", "CLIENT"),
        ("execute_tool get_weather", "INTERNAL"),
        ("chat gpt-5-mini", "CLIENT"),
        ("invoke_agent weather-agent", "INTERNAL"),
    ]
    assert {span["scope"] for span in spans} == {"streamtrace"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_arrives_is_what_was_projected(example, receiver, sinks):
    """Names, times to the nanosecond, attributes, events and status survive the way."""
    run = EXAMPLES[example]()
    records = project(run)
    tell(sink_to(receiver, sinks), run)
    spans = receiver.wait_for_spans(len(records))

    assert len(spans) == len(records)
    for record, span in zip([*records[1:], records[0]], spans, strict=True):
        assert span["name"] == record.name
        assert (span["start_ns"], span["end_ns"]) == (record.start_ns, record.end_ns)
        assert span["attributes"] == record.attributes
        assert [(e["name"], e["at_ns"], e["attributes"]) for e in span["events"]] == [
            (e.name, e.at_ns, e.attributes) for e in record.events
        ]
        assert (span["status"], span["status_message"]) == (
            ("UNSET", "") if record.error is None else ("ERROR", record.error)
        )


def test_a_run_without_a_caller_is_a_root_with_the_promised_ids(receiver, sinks):
    """Nobody called with a traceparent: no parent, and the ids that others already logged."""
    run = completed_run(trace=trace_ids(parent_span_id=None, sampled=None))
    tell(sink_to(receiver, sinks), run)
    root = root_of(receiver.wait_for_spans(4))

    assert run.trace is not None
    assert (root["trace_id"], root["span_id"]) == (run.trace.trace_id, run.trace.span_id)
    assert root["parent_span_id"] is None


def test_runs_without_ids_get_traces_of_their_own(receiver, sinks):
    """Ids promised to one run are never given to another."""
    promised = completed_run()
    tell(sink_to(receiver, sinks), promised, minimal_run(), minimal_run())
    spans = receiver.wait_for_spans(6)

    roots = [span for span in spans if span["name"].startswith("invoke_agent")]
    assert len({span["trace_id"] for span in roots}) == 3
    assert len({span["span_id"] for span in spans}) == 6


def test_no_baggage_and_no_current_span_comes_along(receiver, sinks):
    """A span that is current where the run ended is not its parent."""
    provider = TracerProvider(shutdown_on_exit=False)
    run = minimal_run(trace=None)
    with provider.get_tracer("app").start_as_current_span("unrelated"):
        token = context.attach(context.set_value("langfuse_user_id", "attacker"))
        tell(sink_to(receiver, sinks), run)
        context.detach(token)
    root = root_of(receiver.wait_for_spans(1))

    assert root["parent_span_id"] is None
    assert b"attacker" not in receiver.raw_bytes


def test_the_context_of_the_worker_is_neither_parent_nor_seen_by_the_apps_processors():
    """Threads may inherit the context of their starter, and processors take an empty one for it."""
    memory = InMemorySpanExporter()
    seen: list[object] = []

    class Reads(SimpleSpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            seen.append(context.get_value("user", parent_context or context.get_current()))

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Reads(memory))
    sink = OTelSink(tracer_provider=provider)
    sink.open()
    token = context.attach(context.set_value("user", "of another request"))
    with TracerProvider(shutdown_on_exit=False).get_tracer("app").start_as_current_span("app"):
        assert sink.export([completed_run(trace=None)]) == {}
    context.detach(token)

    *children, root = memory.get_finished_spans()
    assert root.parent is None
    assert len(children) == 3
    assert seen == [None] * 4


def test_the_random_flag_is_claimed_only_for_ids_that_were_made_here():
    """W3C level 2: who made a promised trace id is not known."""
    memory = InMemorySpanExporter()
    sink = OTelSink(exporter=memory)
    sink.open()
    promised = minimal_run(trace=trace_ids(parent_span_id=None, sampled=None))
    assert sink.export([promised, minimal_run(trace=None)]) == {}

    flags = [span.context.trace_flags for span in memory.get_finished_spans()]
    assert [(one.sampled, one.random_trace_id) for one in flags] == [(True, False), (True, True)]


def test_with_content_off_no_text_leaves(receiver, sinks):
    """A run whose texts were withheld: not one attribute of content, not one canary."""
    runs = [without_content(make()) for make in EXAMPLES.values()]
    tell(sink_to(receiver, sinks), *runs)
    spans = receiver.wait_for_spans(sum(len(project(run)) for run in runs))

    keys = {key for span in spans for key in span["attributes"]}
    keys |= {key for span in spans for event in span["events"] for key in event["attributes"]}
    assert keys.isdisjoint(
        {
            names.INPUT_MESSAGES,
            names.OUTPUT_MESSAGES,
            names.TOOL_CALL_ARGUMENTS,
            names.TOOL_CALL_RESULT,
            names.ERROR_MESSAGE,
        }
    )
    assert CANARY.encode() not in receiver.raw_bytes


def test_with_content_on_the_texts_arrive(receiver, sinks):
    """The counterpart of the test above: it would pass if nothing ever arrived."""
    tell(sink_to(receiver, sinks), completed_run())
    receiver.wait_for_spans(4)

    for kind in ("input", "text", "reasoning", "arguments", "result"):
        assert f"{CANARY}-{kind}".encode() in receiver.raw_bytes


def test_a_strangers_bytes_do_not_cost_other_runs_their_trace(receiver, sinks):
    """Half a surrogate and a number of 100 digits in one run: all runs of the batch arrive."""
    hostile = completed_run(
        run_id="\ud800",
        generations=[generation(model="m\udfff" * 5_000, response_id="\ud83d")],
        frames=10**100,
    )
    sink = sink_to(receiver, sinks, batch_runs=3, interval_s=WAIT_S)
    tell(sink, completed_run(), hostile, completed_run())
    spans = receiver.wait_for_spans(11)

    assert len(spans) == 11
    assert sink.flush(WAIT_S)
    assert sink.stats() == SinkStats(accepted=3, exported=3)
    assert max(len(span["name"]) for span in spans) < 1_100


def test_requests_are_small_and_hold_whole_runs(receiver, sinks, way):
    """160 runs of 4 spans: at most 512 in a request, of the SDK's 128, and no run is cut in two."""
    sink = sink_to(receiver, sinks, batch_runs=160, interval_s=WAIT_S)
    tell(sink, *(completed_run() for _ in range(160)))
    receiver.wait_for_spans(640)

    sizes = [len(request.spans) for request in receiver.requests]
    assert sizes == ([512, 128] if way == "straight" else [128] * 5)
    for request in receiver.requests:
        assert len({span["trace_id"] for span in request.spans}) * 4 == len(request.spans)


# --- sampling ------------------------------------------------------------------------------------


def test_a_caller_that_does_not_sample_is_followed(receiver, sinks):
    """Flag 00 of the caller: nothing is sent, and the run counts as dropped with its reason."""
    sink = sink_to(receiver, sinks)
    tell(sink, completed_run(trace=trace_ids(sampled=False)), completed_run())
    receiver.wait_for_spans(4)

    assert sink.flush(WAIT_S)
    assert sink.stats() == SinkStats(accepted=2, exported=1, dropped={"unsampled": 1})
    assert len(receiver.spans) == 4


def test_the_sampler_of_the_environment_holds(receiver, sinks, monkeypatch):
    """OTEL_TRACES_SAMPLER decides where no caller has decided."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    sink = sink_to(receiver, sinks)
    tell(sink, completed_run(trace=trace_ids(parent_span_id=None, sampled=None)))

    assert sink.flush(WAIT_S)
    assert sink.stats().dropped == {"unsampled": 1}


def test_a_disabled_sdk_sends_nothing(receiver, sinks, monkeypatch):
    """OTEL_SDK_DISABLED=true gives tracers that make no spans."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    sink = sink_to(receiver, sinks)
    tell(sink, completed_run())

    assert sink.flush(WAIT_S)
    assert sink.stats().dropped == {"unsampled": 1}
    assert receiver.requests == []


# --- where the spans go --------------------------------------------------------------------------


def test_the_apps_provider_gets_the_same_tree_and_ids(sinks):
    """With tracer_provider=: its resource, its processors, and still the promised ids."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    sinks += [OTelSink(tracer_provider=provider, interval_s=0.0) for _ in range(2)]
    runs = [
        completed_run(),
        completed_run(trace=trace_ids(parent_span_id=None, sampled=None)),
        minimal_run(),
    ]
    for sink in sinks:
        tell(sink, *runs)
    for sink in sinks:
        assert sink.flush(WAIT_S)
        assert sink.stats() == SinkStats(accepted=3, exported=3)

    spans = memory.get_finished_spans()
    assert len(spans) == 2 * 9
    assert {span.resource.attributes["service.name"] for span in spans} == {"shop"}
    for run in runs[:2]:
        assert run.trace is not None
        mine = [span for span in spans if span.context.trace_id == int(run.trace.trace_id, 16)]
        roots = [span for span in mine if span.name.startswith("invoke_agent")]
        assert [span.context.span_id for span in roots] == [int(run.trace.span_id, 16)] * 2
        assert {span.parent.span_id for span in mine if span not in roots and span.parent} == {
            int(run.trace.span_id, 16)
        }


def test_the_apps_other_spans_keep_their_own_ids(sinks):
    """The ids of a run are handed out to that run only, though the provider is shared."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    sinks.append(OTelSink(tracer_provider=provider, interval_s=0.0))
    run = completed_run()
    tell(sinks[0], run)
    assert sinks[0].flush(WAIT_S)
    provider.get_tracer("streamtrace").start_span("other").end()
    provider.get_tracer("app").start_span("another").end()

    assert run.trace is not None
    for span in memory.get_finished_spans()[-2:]:
        assert span.context.trace_id != int(run.trace.trace_id, 16)
        assert span.context.span_id != int(run.trace.span_id, 16)


def test_close_does_not_shut_down_the_apps_provider():
    """The provider is the app's: it still exports after the sink was closed."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    sink = OTelSink(tracer_provider=provider, interval_s=0.0)
    tell(sink, minimal_run())
    sink.close(WAIT_S)
    provider.get_tracer("app").start_span("after").end()

    assert [span.name for span in memory.get_finished_spans()] == ["invoke_agent", "after"]


def test_a_processor_of_the_app_that_raises_costs_only_its_run(sinks):
    """One run in the batch fails in the app's provider; the others are handed over."""

    class Raises(SimpleSpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.attributes.get(names.RUN_ID) == "bad":
                raise RuntimeError("processor of the app")

    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raises(memory))
    sinks.append(OTelSink(tracer_provider=provider, batch_runs=3, interval_s=WAIT_S))
    tell(sinks[0], minimal_run(), minimal_run(run_id="bad"), minimal_run())

    assert sinks[0].flush(WAIT_S)
    assert sinks[0].stats() == SinkStats(accepted=3, exported=2, dropped={"export_error": 1})


def test_both_a_provider_and_an_exporter_are_refused():
    """Which of them should hold would be a guess."""
    with pytest.raises(ConfigError, match="not both"):
        OTelSink(tracer_provider=TracerProvider(), exporter=InMemorySpanExporter())


def run_python(code: str, **environment: str) -> str:
    """A fresh interpreter, for what is global or forks. Its output, after it ended well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("OTEL_")},
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TELL_ONE = """
from opentelemetry import trace
from streamtrace.sinks.otel import OTelSink
from support.summaries import completed_run, stream_info
sink = OTelSink()
{app}
run = completed_run()
sink.end(stream_info(run), run)
assert sink.flush(20)
sink.close(5)
print(sink.stats())
print(type(trace.get_tracer_provider()).__name__)
"""


def test_the_standard_endpoint_variable_is_enough(receiver):
    """OTelSink() with OTEL_* set: an own provider, and the global one stays untouched."""
    out = run_python(
        TELL_ONE.format(app=""),
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_EXPORTER_OTLP_HEADERS="x-tenant=acme",
        OTEL_SERVICE_NAME="weather",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging",
    )

    assert out.splitlines() == [
        "SinkStats(accepted=1, exported=1, dropped={}, queued=0)",
        "ProxyTracerProvider",
    ]
    [request] = receiver.requests
    assert request.path == "/v1/traces"
    assert request.headers["x-tenant"] == "acme"
    assert request.spans[0]["resource"]["service.name"] == "weather"
    assert request.spans[0]["resource"]["deployment.environment.name"] == "staging"


APP_PROVIDER = """
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter, SpanExporter
class Counting(SpanExporter):
    def export(self, spans):
        print("app", len(spans))
provider = TracerProvider(resource=Resource({"service.name": "shop"}))
provider.add_span_processor(SimpleSpanProcessor(Counting()))
trace.set_tracer_provider(provider)
"""


def test_a_global_provider_of_the_app_is_used_if_nothing_else_is_said():
    """It may be set after the sink was made, as long as it is before the first run ended."""
    out = run_python(TELL_ONE.format(app=APP_PROVIDER))

    assert out.splitlines() == [
        *["app 1"] * 4,
        "SinkStats(accepted=1, exported=1, dropped={}, queued=0)",
        "TracerProvider",
    ]


def test_an_endpoint_in_the_environment_is_sent_to_directly_as_the_same_service(receiver):
    """Said by variable where: there, once, under the service name that the app gave itself."""
    out = run_python(
        TELL_ONE.format(app=APP_PROVIDER), OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=receiver.traces_url
    )

    assert "app" not in out
    assert {span["resource"]["service.name"] for span in receiver.wait_for_spans(4)} == {"shop"}


def test_an_unknown_protocol_is_refused_at_construction(monkeypatch):
    """A typing error in the environment is told when the app starts, with what is accepted."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/xml")
    with pytest.raises(ConfigError, match="http/protobuf"):
        OTelSink()


@pytest.mark.skipif(
    find_spec("opentelemetry.exporter.otlp.proto.grpc") is not None, reason="it is installed"
)
def test_a_missing_exporter_is_named_at_construction(monkeypatch):
    """gRPC is asked for and its exporter, which is in no extra, is not installed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="pip install opentelemetry-exporter-otlp-proto-grpc"):
        OTelSink()


@pytest.mark.parametrize("said", ["HTTP/PROTOBUF", " http/protobuf ", ""])
def test_a_protocol_is_read_as_others_read_it(said, monkeypatch):
    """Spaces around it and the case of its letters mean nothing."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", said)
    OTelSink().close(0)


def test_a_provider_of_ours_leaves_nothing_for_the_exit(monkeypatch):
    """Sinks are closed at exit, within a limit; a provider would shut down on its own, without."""
    left: list[object] = []
    monkeypatch.setattr(atexit, "register", left.append)
    sink = OTelSink(exporter=InMemorySpanExporter())
    sink.open()
    assert left == []


def test_without_opentelemetry_the_module_imports_and_construction_names_the_extra():
    """Importing costs nothing and fails nowhere; making the sink says what to install."""
    out = run_python(
        "import sys\n"
        "import streamtrace.sinks.otel as module\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "sys.modules['opentelemetry'] = None\n"
        "try: module.OTelSink()\n"
        "except module.MissingExtra as error: print(error)\n"
    )

    assert "streamtrace[otel]" in out


# --- a collector that does not work --------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 413, 500])
def test_a_refusal_counts_as_export_error(status, receiver, sinks):
    """What the collector did not take was not exported; later runs are tried again."""
    sink = sink_to(receiver, sinks)
    receiver.answer(status)
    tell(sink, completed_run())
    assert sink.flush(WAIT_S)
    assert sink.stats() == SinkStats(accepted=1, dropped={"export_error": 1})

    receiver.answer(200)
    tell(sink, completed_run())
    assert sink.flush(WAIT_S)
    assert sink.stats() == SinkStats(accepted=2, exported=1, dropped={"export_error": 1})


def test_a_refused_request_costs_only_the_runs_in_it(sinks):
    """Three requests of one batch, the second fails: exactly its 32 runs are dropped."""

    class SecondFails(SpanExporter):
        calls = 0

        def export(self, spans: Any) -> SpanExportResult:
            self.calls += 1
            if self.calls == 2:
                raise OSError("connection reset")
            return SpanExportResult.SUCCESS

    sinks.append(OTelSink(exporter=SecondFails(), batch_runs=80, interval_s=WAIT_S))
    tell(sinks[0], *(completed_run() for _ in range(80)))

    assert sinks[0].flush(WAIT_S)
    assert sinks[0].stats() == SinkStats(accepted=80, exported=48, dropped={"export_error": 32})


def test_nobody_listens_at_the_endpoint(sinks):
    """Connection refused: dropped and counted, `end` returned, the balance held throughout."""
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{free_port()}/v1/traces", timeout=0.5)
    sinks.append(OTelSink(exporter=exporter, interval_s=0.0, max_queued_runs=2))
    for _ in range(5):
        tell(sinks[0], minimal_run())
        assert balance(sinks[0].stats())

    assert sinks[0].flush(WAIT_S)
    stats = sinks[0].stats()
    assert stats.accepted == 5
    assert stats.exported == 0
    assert set(stats.dropped) <= {"export_error", "queue_full"}
    assert balance(stats)


def test_close_is_bounded_while_the_collector_hangs(receiver):
    """The request is never answered: close returns with what was left counted as `shutdown`."""
    exporter = OTLPSpanExporter(endpoint=receiver.traces_url, timeout=3_600)
    sink = OTelSink(exporter=exporter, interval_s=0.0)
    receiver.hang()
    tell(sink, completed_run())
    receiver.wait_for_requests(1)
    tell(sink, completed_run(), completed_run())
    assert sink.stats() == SinkStats(accepted=3, queued=3)

    sink.close(0.05)

    assert receiver.requests[0].status is None, "it returned although no answer was given"
    assert sink.stats() == SinkStats(accepted=3, dropped={"shutdown": 3})
    tell(sink, completed_run())
    assert sink.stats() == SinkStats(accepted=4, dropped={"shutdown": 4})


def test_flush_gives_up_at_its_time_limit(receiver, sinks):
    """A hanging collector: `False`, the run is still queued, and goes out when it recovers."""
    sink = sink_to(receiver, sinks)
    receiver.hang()
    tell(sink, completed_run())
    receiver.wait_for_requests(1)
    assert sink.flush(0.05) is False
    assert sink.stats().queued == 1

    receiver.release()
    assert sink.flush(WAIT_S) is True
    assert sink.stats() == SinkStats(accepted=1, exported=1)


def test_close_shuts_the_exporter_down_on_the_workers_thread():
    """Once, after the last export, and not on the thread that closes."""
    calls: list[tuple[str, str]] = []

    class Noting(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            calls.append(("export", threading.current_thread().name))
            assert not is_instrumentation_enabled(), "its requests would become spans"
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            calls.append(("shutdown", threading.current_thread().name))

    sink = OTelSink(exporter=Noting(), interval_s=0.0)
    tell(sink, minimal_run())
    sink.close(WAIT_S)
    sink.close(WAIT_S)

    assert calls == [("export", "streamtrace-otel"), ("shutdown", "streamtrace-otel")]
    assert sink.stats() == SinkStats(accepted=1, exported=1)


def test_an_exporter_that_hangs_in_shutdown_does_not_hold_close():
    """Its thread is left behind; close returns."""
    entered, leave = threading.Event(), threading.Event()

    class Hangs(InMemorySpanExporter):
        def shutdown(self) -> None:
            entered.set()
            leave.wait(WAIT_S)

    sink = OTelSink(exporter=Hangs(), interval_s=0.0)
    tell(sink, minimal_run())
    sink.close(0.5)

    assert entered.wait(WAIT_S)
    assert not leave.is_set()
    assert sink.stats() == SinkStats(accepted=1, exported=1)
    leave.set()


def test_nothing_is_started_before_the_first_run():
    """No thread and no connection at construction; close of an unused sink has nothing to do."""
    before = threading.active_count()
    sink = OTelSink(exporter=InMemorySpanExporter())
    assert threading.active_count() == before
    sink.close(3_600)
    assert threading.active_count() == before


FORK = """
import os, sys, threading
from streamtrace.sinks.otel import OTelSink
from support.summaries import completed_run, stream_info
def tell(run_id):
    run = completed_run(run_id=run_id)
    sink.end(stream_info(run), run)
sink = OTelSink(interval_s=0.0)
tell("parent-before")
assert sink.flush(20)
child = os.fork()
if child == 0:
    assert sink.stats().accepted == 0
    tell("child")
    ok = sink.flush(20) and sink.stats().exported == 1
    sink.close(5)
    os._exit(0 if ok else 1)
tell("parent-after")
assert sink.flush(20)
assert sink.stats().exported == 2
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
sink.close(5)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_exports_its_own_runs(receiver):
    """Preloaded before the fork, used on both sides: every run arrives once."""
    run_python(FORK, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    spans = receiver.wait_for_spans(12)

    runs = [
        span["attributes"][names.RUN_ID]
        for span in spans
        if span["kind"] == "INTERNAL" and names.RUN_ID in span["attributes"]
    ]
    assert sorted(runs) == ["child", "parent-after", "parent-before"]


def test_an_unsampling_provider_of_the_app_is_followed(sinks):
    """ALWAYS_OFF in the app: the runs count as unsampled, not as exported."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    sinks.append(OTelSink(tracer_provider=provider, interval_s=0.0))
    tell(sinks[0], completed_run())

    assert sinks[0].flush(WAIT_S)
    assert sinks[0].stats() == SinkStats(accepted=1, dropped={"unsampled": 1})


def test_the_global_provider_is_never_set():
    """After every test above, in this very process."""
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
