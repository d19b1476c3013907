"""Inside and outside OpenTelemetry's own ASGI instrumentation: one unbroken trace."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from support.asgi import Server, body, http_scope, start

from streamtrace import StreamTraceMiddleware, instrument
from streamtrace.sinks.otel import OTelSink

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DONE = b'data: {"type":"done"}\n\n'


class Traces:
    """A provider of the app's own, and what came out of it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.sink = OTelSink(tracer_provider=self.provider)

    def spans(self) -> dict[str, Any]:
        self.sink.close(20)
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def traces() -> Traces:
    return Traces()


def generate(provider: TracerProvider) -> Any:
    """A stream whose app makes spans before, between and after the chunks."""
    tracer = provider.get_tracer("app")

    async def pieces() -> Any:
        for name in ("before", "between"):
            with tracer.start_as_current_span(name):
                await asyncio.sleep(0)
            yield b'data: {"type":"token","content":"a"}\n\n'
        yield DONE
        with tracer.start_as_current_span("after"):
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="text/event-stream")


def fastapi_app(provider: TracerProvider, **options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.post("/chat")(lambda: generate(provider))
    return app


class Other(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


def assert_one_trace(spans: dict[str, Any]) -> None:
    """All spans share a trace, and the run and the app's own spans hang under the server span."""
    server = spans["POST /chat"]
    assert {span.context.trace_id for span in spans.values()} == {server.context.trace_id}
    for name in ("invoke_agent", "before", "between", "after"):
        assert spans[name].parent.span_id == server.context.span_id, name
    assert spans["invoke_agent"].end_time >= spans["invoke_agent"].start_time


def test_the_helper_puts_both_in_the_order_that_joins_them(traces: Traces) -> None:
    app = instrument(
        fastapi_app(traces.provider), sinks=[traces.sink], tracer_provider=traces.provider
    )
    TestClient(app).post("/chat", headers={"traceparent": PARENT})
    spans = traces.spans()
    spans["POST /chat"] = spans.pop("POST /chat", None) or spans.pop("POST")
    assert_one_trace(spans)
    assert not [name for name in spans if "http send" in name or "http receive" in name]
    assert f"{spans['invoke_agent'].context.trace_id:032x}" == PARENT.split("-")[1]


@pytest.mark.parametrize("ours_first", [True, False])
def test_inside_the_fastapi_instrumentation(traces: Traces, ours_first: bool) -> None:
    ours, other = Middleware(StreamTraceMiddleware, sinks=[traces.sink]), Middleware(Other)
    app = fastapi_app(traces.provider, middleware=[ours, other] if ours_first else [other, ours])
    FastAPIInstrumentor.instrument_app(app, tracer_provider=traces.provider)
    TestClient(app).post("/chat")
    assert_one_trace(traces.spans())


def test_outside_the_fastapi_instrumentation(traces: Traces) -> None:
    app = fastapi_app(traces.provider)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=traces.provider)
    TestClient(StreamTraceMiddleware(app, sinks=[traces.sink])).post("/chat")
    assert_one_trace(traces.spans())


def test_without_any_server_span_the_callers_trace_is_joined(traces: Traces) -> None:
    app = StreamTraceMiddleware(fastapi_app(traces.provider), sinks=[traces.sink])
    TestClient(app).post("/chat", headers={"traceparent": PARENT})
    run = traces.spans()["invoke_agent"]
    assert f"{run.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{run.parent.span_id:016x}" == PARENT.split("-")[2]


def test_spans_of_a_generator_in_a_thread_join_the_trace(traces: Traces) -> None:
    tracer = traces.provider.get_tracer("app")

    def blocking() -> Any:
        for name in ("before", "between", "after"):
            with tracer.start_as_current_span(name):
                pass
            yield DONE if name == "after" else b'data: {"type":"token","content":"a"}\n\n'

    app = FastAPI()
    app.post("/chat")(lambda: StreamingResponse(blocking(), media_type="text/event-stream"))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=traces.provider)
    TestClient(StreamTraceMiddleware(app, sinks=[traces.sink])).post("/chat")
    spans = traces.spans()
    assert_one_trace(spans)
    assert spans["invoke_agent"].end_time >= spans["after"].end_time


def test_the_global_provider_is_never_touched(traces: Traces) -> None:
    before = trace.get_tracer_provider()
    app = instrument(fastapi_app(traces.provider), sinks=[traces.sink])
    TestClient(app).post("/chat")
    traces.spans()
    assert trace.get_tracer_provider() is before


@pytest.mark.parametrize("end", ["read", "disconnect", "cancel", "drop", "raise"])
async def test_no_end_of_a_stream_fails_to_detach(
    traces: Traces, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    caplog.set_level(logging.DEBUG, "opentelemetry.context")
    sent = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        sent.set()
        if end in ("cancel", "drop"):
            await asyncio.Event().wait()
        if end == "disconnect":
            await receive()
            await receive()
        if end == "raise":
            raise ValueError("x")
        await send(body(more=False))

    wrapped = OpenTelemetryMiddleware(
        StreamTraceMiddleware(app, sinks=[traces.sink]), tracer_provider=traces.provider
    )
    server = Server()
    server.gone.set()
    scope = http_scope()
    if end == "drop":
        coroutine = wrapped(scope, server.receive, server.send)
        coroutine.send(None)  # runs to the wait, in a context of its own making
        coroutine.close()
        del coroutine
    else:
        task = asyncio.create_task(wrapped(scope, server.receive, server.send))
        await sent.wait()
        if end == "cancel":
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
    gc.collect()
    inner: Any = wrapped.app
    await inner.drain()
    spans = traces.spans()
    assert spans["invoke_agent"].end_time is not None
    assert [r for r in caplog.records if r.name == "opentelemetry.context"] == []
