"""What stands around the agent, by name: nothing, streamtrace, or one of the peers.

Rules that hold here:

* Each is set up as its documentation says, and outside of the agent's app where it is middleware.
* Each that exports does so for every stream, over HTTP to the same receivers. The queues of the
  peers are long enough to lose nothing: who drops what it was to tell would look cheap.
* What needs FastAPI is compared with the bare agent on FastAPI (`BASES`), all else with the bare
  agent on Starlette; and "collector tuned" with the bare agent in a server that is tuned alike.

The peers:

    OpenTelemetry ASGI      opentelemetry-instrumentation-asgi with its defaults: a span per send
    … without send/receive  the same with `exclude_spans=["send", "receive"]`
    Starlette OpenTelemetry the middleware that Starlette brings along
    FastAPI OpenTelemetry   the telemetry that FastAPI brings along, traces only
    BaseHTTPMiddleware      one that does nothing but to pass on
    FastAPI instrumentator  prometheus-fastapi-instrumentator
    Langfuse observe        `@observe` on the handler that returns the stream; its frames are text,
                            which is what the SDK joins to an output
    Langfuse generation     a generation around the agent's generator, in the handler
    naive tee               json.loads, a span event and a histogram per token, on the path
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import langfuse
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from prometheus_client import CollectorRegistry, Histogram
from prometheus_fastapi_instrumentator import PrometheusFastApiInstrumentator
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as StarletteTelemetry
from starlette.responses import Response

from benchmarks import agent
from benchmarks.inprocess import passing_through
from streamtrace import StreamTraceMiddleware
from streamtrace.core.sink import Sink
from streamtrace.sinks.langfuse.sink import LangfuseSink
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus.sink import PrometheusSink

FLUSH_S = 30.0
GC_THRESHOLD = "BENCHMARK_GC_THRESHOLD"
"""Variable of a server's environment: how many objects more make a young collection."""
SMALL_TAP_BYTES = 4096
_LANGFUSE = {"public_key": "pk-lf-benchmark", "secret_key": "sk-lf-benchmark"}


async def _nothing() -> None:
    """Nothing was put off."""


def _no_counts() -> dict[str, Any]:
    return {}


class Variant(NamedTuple):
    """An app, how many streams are still to be told, what waits for all exports, and counts."""

    app: Any
    untold: Callable[[], int] = int
    flush: Callable[[], Awaitable[None]] = _nothing
    counts: Callable[[], dict[str, Any]] = _no_counts


# --- ours --------------------------------------------------------------------------------------


def _ours(
    *names: str, content: str = "off", max_tap_bytes: int | None = None
) -> Callable[[str], Variant]:
    def build(collector: str) -> Variant:
        registry = CollectorRegistry()
        make: dict[str, Callable[[], Sink]] = {
            "otel": lambda: OTelSink(exporter=OTLPSpanExporter(endpoint=f"{collector}/v1/traces")),
            "langfuse": lambda: LangfuseSink(base_url=collector, **_LANGFUSE),
            "prometheus": lambda: PrometheusSink(registry=registry),
        }
        options = {} if max_tap_bytes is None else {"max_tap_bytes": max_tap_bytes}
        app = StreamTraceMiddleware(
            agent.starlette(), [make[name]() for name in names], content=content, **options
        )

        async def flush() -> None:
            for sink in app.sinks:
                await asyncio.to_thread(sink.flush, FLUSH_S)

        def counts() -> dict[str, Any]:
            return {
                "sinks": {
                    name: {
                        "accepted": one.accepted,
                        "exported": one.exported,
                        "dropped": one.dropped,
                        "queued": one.queued,
                    }
                    for name, one in app.stats().items()
                },
                "metrics": {
                    metric.name: sum(
                        one.value for one in metric.samples if one.name.endswith("_total")
                    )
                    for metric in registry.collect()
                    if metric.name in ("streamtrace_lost_chunks", "streamtrace_sink_dropped")
                },
            }

        return Variant(app, lambda: len(app.active()), flush, counts)

    return build


# --- peers -------------------------------------------------------------------------------------


class Counting(OTLPSpanExporter):
    """The exporter, which also says how much it exported."""

    exported = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self.exported += len(spans)
        return result


def _tracing(wrap: Callable[[TracerProvider], Any]) -> Callable[[str], Variant]:
    """An app that writes its spans with the provider that it is given."""

    def build(collector: str) -> Variant:
        exporter = Counting(endpoint=f"{collector}/v1/traces")
        provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=1 << 20))

        async def flush() -> None:
            await asyncio.to_thread(provider.force_flush, round(FLUSH_S * 1000))

        return Variant(wrap(provider), flush=flush, counts=lambda: {"spans": exporter.exported})

    return build


async def _pass_on(request: Any, call_next: Callable[[Any], Awaitable[Response]]) -> Response:
    return await call_next(request)


def _instrumentator(collector: str) -> Variant:
    app = agent.fastapi()
    PrometheusFastApiInstrumentator(registry=CollectorRegistry()).instrument(app)
    return Variant(app)


def _langfuse(
    respond_with: Callable[[langfuse.Langfuse], agent.Respond],
) -> Callable[[str], Variant]:
    def build(collector: str) -> Variant:
        exporter = Counting(
            endpoint=f"{collector}/api/public/otel/v1/traces", compression=Compression.Gzip
        )
        client = langfuse.Langfuse(base_url=collector, span_exporter=exporter, **_LANGFUSE)

        async def flush() -> None:
            await asyncio.to_thread(client.flush)

        return Variant(
            agent.starlette(respond_with(client)),
            flush=flush,
            counts=lambda: {"spans": exporter.exported},
        )

    return build


def _observed(client: langfuse.Langfuse) -> agent.Respond:
    async def as_text(frames: agent.Frames) -> AsyncIterator[str]:
        async for frame in frames:
            yield frame.decode()

    @langfuse.observe()
    async def answer(asked: Any, frames: Any) -> Response:
        return await agent.respond(asked, frames)

    async def respond(asked: Any, frames: agent.Frames) -> Response:
        return await answer(asked, as_text(frames))

    return respond


def _generation(client: langfuse.Langfuse) -> agent.Respond:
    async def generated(asked: Any, frames: agent.Frames) -> agent.Frames:
        generation = client.start_observation(
            name="chat", as_type="generation", model=asked["model"], input=asked["messages"]
        )
        try:
            async for frame in frames:
                yield frame
        finally:
            generation.end()

    async def respond(asked: Any, frames: agent.Frames) -> Response:
        return await agent.respond(asked, generated(asked, frames))

    return respond


def _naive(provider: TracerProvider) -> Any:
    """What one writes first: everything at once, where the chunk passes."""
    app = agent.starlette()
    tracer = provider.get_tracer("naive")
    gaps = Histogram("gap_seconds", "Between tokens.", registry=CollectorRegistry())

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        last = time.perf_counter()
        with tracer.start_as_current_span("stream") as span:

            async def tee(message: Any) -> None:
                nonlocal last
                for line in message.get("body", b"").splitlines():
                    if line.startswith(b"data: {"):
                        event = json.loads(line[6:])
                        now = time.perf_counter()
                        gaps.observe(now - last)
                        last = now
                        span.add_event("token", {"keys": len(event)})
                await send(message)

            await app(scope, receive, tee)

    return middleware


# --- all of them -------------------------------------------------------------------------------

ALL_SINKS = ("otel", "langfuse", "prometheus")

OURS: dict[str, Callable[[str], Variant]] = {
    "no sinks": _ours(),
    **{name: _ours(name) for name in ALL_SINKS},
    "all sinks": _ours(*ALL_SINKS),
    "all sinks, content full": _ours(*ALL_SINKS, content="full"),
    "all sinks, not compiled": _ours(*ALL_SINKS),
}
SETTINGS = {
    "all sinks, not compiled": {"STREAMTRACE_PURE_PYTHON": "1"},
    "bare, collector tuned": {GC_THRESHOLD: "50000"},
    "all sinks, collector tuned": {GC_THRESHOLD: "50000"},
}
"""Variables of the server's environment, by variant."""

PEERS: dict[str, Callable[[str], Variant]] = {
    "OpenTelemetry ASGI": _tracing(
        lambda provider: OpenTelemetryMiddleware(agent.starlette(), tracer_provider=provider)
    ),
    "OpenTelemetry ASGI, without send/receive": _tracing(
        lambda provider: OpenTelemetryMiddleware(
            agent.starlette(), tracer_provider=provider, exclude_spans=["send", "receive"]
        )
    ),
    "Starlette OpenTelemetry": _tracing(
        lambda provider: StarletteTelemetry(agent.starlette(), tracer_provider=provider)
    ),
    "FastAPI OpenTelemetry": _tracing(
        lambda provider: agent.fastapi(
            telemetry={"tracer_provider": provider, "metrics": False, "logs": False}
        )
    ),
    "BaseHTTPMiddleware": lambda _: Variant(
        BaseHTTPMiddleware(agent.starlette(), dispatch=_pass_on)
    ),
    "FastAPI instrumentator": _instrumentator,
    "Langfuse observe": _langfuse(_observed),
    "Langfuse generation": _langfuse(_generation),
    "naive tee": _tracing(_naive),
}

VARIANTS: dict[str, Callable[[str], Variant]] = {
    "bare": lambda _: Variant(agent.starlette()),
    "bare, collector tuned": lambda _: Variant(agent.starlette()),
    "all sinks, collector tuned": _ours(*ALL_SINKS),
    "pass-through": lambda _: Variant(passing_through(agent.starlette())),
    **OURS,
    "bare FastAPI": lambda _: Variant(agent.fastapi()),
    **PEERS,
    "all sinks, small taps": _ours(*ALL_SINKS, max_tap_bytes=SMALL_TAP_BYTES),
}

BASES = {
    "FastAPI OpenTelemetry": "bare FastAPI",
    "FastAPI instrumentator": "bare FastAPI",
    "all sinks, collector tuned": "bare, collector tuned",
}


def base_of(variant: str) -> str:
    """What the variant is compared with."""
    return BASES.get(variant, "bare")
