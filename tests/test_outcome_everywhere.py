"""One outcome, told alike by the span, by Langfuse and by the metric; and gauges that come back."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from prometheus_client import CollectorRegistry
from support.asgi import Server, body, settle, start, until
from support.otlp import OtlpReceiver

from streamtrace import StreamTraceMiddleware
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus import PrometheusSink

TOKEN = b'data: {"type":"token","content":"hi"}\n\n'
DONE = b'data: {"type":"done"}\n\n'
ERROR = b'data: {"type":"error","code":"overloaded"}\n\n'
ASK = (
    b'data: {"type":"RUN_STARTED","threadId":"t","runId":"r"}\n\n'
    b'data: {"type":"RUN_FINISHED","threadId":"t","runId":"r","outcome":'
    b'{"type":"interrupt","interrupts":[{"id":"i","reason":"confirmation"}]}}\n\n'
)

# What the app does: messages to send, or an exception. Then: status, span status, Langfuse level.
CASES: list[tuple[tuple[Any, ...], str, str, str]] = [
    ((body(TOKEN), body(DONE), body(more=False)), "completed", "UNSET", "DEFAULT"),
    ((body(TOKEN), body(ERROR), body(more=False)), "error", "ERROR", "ERROR"),
    ((body(TOKEN), ValueError("x")), "error", "ERROR", "ERROR"),
    ((body(TOKEN), body(more=False)), "truncated", "ERROR", "WARNING"),
    ((body(TOKEN), TimeoutError()), "timeout", "ERROR", "WARNING"),
    ((body(TOKEN), asyncio.CancelledError()), "cancelled", "UNSET", "DEFAULT"),
    ((body(TOKEN), "leave"), "disconnected", "UNSET", "DEFAULT"),
    ((body(ASK), body(more=False)), "input_required", "UNSET", "DEFAULT"),
]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(start())
    for step in scope["script"]:
        if isinstance(step, BaseException):
            raise step
        if step == "leave":
            await receive()
        else:
            await send(step)


async def play(middleware: StreamTraceMiddleware, script: tuple[Any, ...]) -> None:
    server = Server()
    server.gone.set()
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "script": script}
    await asyncio.wait([asyncio.create_task(server.run(middleware, scope))])


def test_every_sink_tells_the_same_outcome() -> None:
    for script, status, span_status, level in CASES:
        registry = CollectorRegistry()
        with OtlpReceiver() as otel, OtlpReceiver() as langfuse:
            sinks = [
                OTelSink(exporter=OTLPSpanExporter(endpoint=otel.traces_url)),
                LangfuseSink(public_key="pk", secret_key="sk", base_url=langfuse.url),
                PrometheusSink(registry=registry),
            ]
            middleware = StreamTraceMiddleware(app, sinks=sinks)

            async def main(m: StreamTraceMiddleware = middleware, s: Any = script) -> None:
                await play(m, s)
                await settle(m)

            asyncio.run(main())
            for sink in sinks:
                sink.close(20)
            [span] = [one for one in otel.spans if one["name"] == "invoke_agent"]
            [root] = [one for one in langfuse.spans if one["name"] == "invoke_agent"]
        assert span["attributes"]["streamtrace.status"] == status
        assert span["status"] == span_status, status
        assert root["attributes"].get("langfuse.observation.level", "DEFAULT") == level, status
        samples = {
            sample.labels["status"]: sample.value
            for metric in registry.collect()
            for sample in metric.samples
            if sample.name == "streamtrace_streams_total"
        }
        assert {name for name, value in samples.items() if value} == {status}


async def test_the_gauge_comes_back_after_aborts_anywhere() -> None:
    registry = CollectorRegistry()
    middleware = StreamTraceMiddleware(app, sinks=[PrometheusSink(registry=registry)])
    chance = random.Random(7)
    scripts = [script for script, *_ in CASES]
    await asyncio.gather(*(play(middleware, chance.choice(scripts)) for _ in range(1000)))
    await settle(middleware)
    values = {
        sample.name: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name in ("streamtrace_streams_active", "streamtrace_streams_started_total")
    }
    assert values == {"streamtrace_streams_active": 0, "streamtrace_streams_started_total": 1000}


async def test_a_thousand_open_streams_have_no_task_of_ours() -> None:
    go_on, open_streams = asyncio.Event(), 0

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        nonlocal open_streams
        await send(start())
        await send(body(TOKEN))
        open_streams += 1
        await go_on.wait()
        await send(body(more=False))

    middleware = StreamTraceMiddleware(waiting)
    before = len(asyncio.all_tasks())
    tasks = [asyncio.create_task(Server().run(middleware)) for _ in range(1000)]
    await until(lambda: open_streams == 1000)
    assert len(middleware.active()) == 1000
    assert len(asyncio.all_tasks()) == before + 1000
    go_on.set()
    await asyncio.wait(tasks)
    await settle(middleware)
