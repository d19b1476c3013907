"""What a run costs once it has ended, however long it was: as spans, for each sink, as metrics.

Two runs, each with its content and without: a chat of 1,000 tokens, and an agent that called tools.
A sink is told of a batch and flushed, so the time is that of all its work, its queue, its worker
and its HTTP client included; what takes the requests runs in a process of its own. CPU time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from benchmarks import report, rounds
from benchmarks.inprocess import FLUSH_S, QUEUED_RUNS, langfuse, otel, prometheus
from benchmarks.receivers import Receivers
from benchmarks.streams import openai
from streamtrace.core.redact import redact
from streamtrace.core.sink import Sink, StreamInfo
from streamtrace.core.spans import project
from streamtrace.core.summary import RunSummary, TraceIds
from streamtrace.observe.offline import summarize
from streamtrace.sinks.otel import OTelSink

BATCH_RUNS = 64
AGENT = "ag-ui-tools.sse"
TRACE = TraceIds(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")
INFO = StreamInfo(
    started_at_ns=1_795_166_400_000_000_000,
    route="/chat",
    method="POST",
    transport="http",
    http_status=200,
    trace=TRACE,
)


class Discard(SpanExporter):
    """Takes the spans, and makes nothing of them: what is left is the making of spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def runs() -> dict[str, RunSummary]:
    """By name; with `content`, as a sink sees them that may see everything."""
    agent = (resources.files("streamtrace.cli.recordings") / AGENT).read_bytes()
    full = {
        "chat, 1 token": _run(openai(1)),
        "chat, 1,000 tokens": _run(openai()),
        "agent with tools": _run([agent]),
    }
    found = {name: redact(run, "off", None) for name, run in full.items()}
    return found | {
        f"{name}, content full": run for name, run in full.items() if name != "chat, 1 token"
    }


def _run(chunks: Sequence[bytes]) -> RunSummary:
    """As of a stream of 50 chunks per second."""
    run = summarize((number * 20_000_000, chunk) for number, chunk in enumerate(chunks))
    run.trace, run.route, run.method = TRACE, INFO.route, INFO.method
    run.started_at_ns = INFO.started_at_ns
    return run


def works(receivers: Receivers) -> tuple[dict[str, Callable[[RunSummary], None]], list[Sink]]:
    """What is done with a run, a batch of times; and the sinks, to be closed."""
    sinks: dict[str, Sink] = {
        "otel, spans discarded": OTelSink(exporter=Discard(), max_queued_runs=QUEUED_RUNS),
        "otel, exported": otel(receivers),
        "langfuse, exported": langfuse(receivers),
        "prometheus": prometheus(receivers),
    }

    def projected(run: RunSummary) -> None:
        for _ in range(BATCH_RUNS):
            project(run)

    def told(sink: Sink) -> Callable[[RunSummary], None]:
        def tell(run: RunSummary) -> None:
            for _ in range(BATCH_RUNS):
                sink.start(INFO)
                sink.end(INFO, run)
            if not sink.flush(FLUSH_S) or sink.stats().dropped:
                raise RuntimeError(f"{sink.name} did not export everything: {sink.stats()}")

        return tell

    work = {"project to spans": projected, **{name: told(sink) for name, sink in sinks.items()}}
    return work, list(sinks.values())


def measure(count: int, receivers: Receivers) -> dict[str, Any]:
    """`count` rounds: µs of CPU per run, by what is done with it and by the run."""
    told = runs()
    work, sinks = works(receivers)
    result: dict[str, Any] = {"spans": {name: len(project(run)) for name, run in told.items()}}
    result["us_per_run"] = {}
    for name, do in work.items():
        us: rounds.Samples = {one: [] for one in told}
        for number, one in rounds.turns(tuple(told), count):
            gc.collect()
            began_ns = time.process_time_ns()
            do(told[one])
            took_ns = time.process_time_ns() - began_ns
            if number:
                us[one].append(took_ns / BATCH_RUNS / 1e3)
        result["us_per_run"][name] = {one: rounds.quartiles(us[one]) for one in told}
    for sink in sinks:
        sink.close(FLUSH_S)
    return result


def table(result: dict[str, Any]) -> str:
    """Runs to the side, work downwards."""
    names = list(result["spans"])
    rows = [["spans", *result["spans"].values()]]
    rows += [
        [work, *(report.spread(one[name], 0) for name in names)]
        for work, one in result["us_per_run"].items()
    ]
    return report.table(["µs of CPU per run", *names], rows)
