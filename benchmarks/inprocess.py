"""Requests to an app in this process, without a server: shared by all that measures that way.

Rules: what drives the app is the same for every variant, so that it cancels; a piece of work is
over when its records are with the receivers; and what was lost or dropped is an error, since
nothing may be won by work that was not done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from prometheus_client import CollectorRegistry

from benchmarks.receivers import Receivers
from streamtrace import StreamTraceMiddleware
from streamtrace.core.sink import ContentMode, Sink, StreamInfo
from streamtrace.core.summary import RunSummary
from streamtrace.observe import pump
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus import PrometheusSink

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
LAST: Message = {"type": "http.response.body", "body": b"", "more_body": False}
ASKED = json.dumps(
    {
        "model": "gpt-4o",
        "stream": True,
        "messages": [{"role": "user", "content": "How long is a piece of string?"}],
    }
).encode()

FLUSH_S = 60.0
POLL_S = 0.005
LOOKS_EVERY_S = 0.02
QUEUED_RUNS = 16384
"""Room for all that ends at once: a benchmark ends its streams as no server does."""


class Setup(NamedTuple):
    """What a middleware is given, apart from the app."""

    sinks: Callable[[Receivers], list[Sink]]
    content: ContentMode = "off"


def otel(receivers: Receivers) -> Sink:
    exporter = OTLPSpanExporter(endpoint=receivers.otlp_url)
    return OTelSink(exporter=exporter, max_queued_runs=QUEUED_RUNS)


def langfuse(receivers: Receivers) -> Sink:
    return LangfuseSink(
        public_key="pk-lf-benchmark",
        secret_key="sk-lf-benchmark",
        base_url=receivers.langfuse_host,
        max_queued_runs=QUEUED_RUNS,
    )


def prometheus(_: Receivers) -> Sink:
    return PrometheusSink(registry=CollectorRegistry())


def every_sink(receivers: Receivers) -> list[Sink]:
    return [otel(receivers), langfuse(receivers), prometheus(receivers)]


SETUPS = {
    "no sinks": Setup(lambda _: []),
    "otel": Setup(lambda receivers: [otel(receivers)]),
    "langfuse": Setup(lambda receivers: [langfuse(receivers)]),
    "prometheus": Setup(lambda receivers: [prometheus(receivers)]),
    "all sinks": Setup(every_sink),
    "all sinks, content full": Setup(every_sink, "full"),
}


class Witness(Sink):
    """Adds up what the records say, to be held against what was sent."""

    name = "witness"

    def __init__(self) -> None:
        self.runs = self.frames = self.events = self.lost_chunks = 0

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        self.runs += 1
        self.frames += summary.frames
        self.events += summary.events
        self.lost_chunks += summary.lost_chunks


def traced(app: App, setup: Setup, receivers: Receivers, *more: Sink) -> StreamTraceMiddleware:
    """The app, observed; `more` are sinks beside those of the setup."""
    sinks = [*setup.sinks(receivers), *more]
    return StreamTraceMiddleware(app, sinks=sinks, content=setup.content)


def passing_through(app: App) -> App:
    """The least that a middleware with a `send` of its own can do."""

    async def middleware(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def forward(message: Message) -> None:
            await send(message)

        await app(scope, receive, forward)

    return middleware


async def settled(middleware: App) -> None:
    """Until all that was sent has been decoded, and its records exported. Nothing may be dropped.

    For an app that is not observed this is at once.
    """
    if not isinstance(middleware, StreamTraceMiddleware):
        return
    await _rested()  # streams that ended wait for no round of the pump
    while middleware.active():
        await asyncio.sleep(POLL_S)
        await _rested()
    await asyncio.to_thread(_flush, middleware.sinks)
    for name, stats in middleware.stats().items():
        if stats.dropped or stats.queued:
            raise RuntimeError(f"{name} did not export everything: {stats}")


@contextlib.contextmanager
def looking_often() -> Iterator[None]:
    """Apps that are made inside of the block have a pump that waits for LOOKS_EVERY_S only."""
    before = pump.INTERVAL_S, pump.NEW_INTERVAL_S, pump.LISTENED_INTERVAL_S
    pump.INTERVAL_S = pump.NEW_INTERVAL_S = pump.LISTENED_INTERVAL_S = LOOKS_EVERY_S
    try:
        yield
    finally:
        pump.INTERVAL_S, pump.NEW_INTERVAL_S, pump.LISTENED_INTERVAL_S = before


async def caught_up() -> None:
    """Until the pump has decoded all that came so far: it begins within its interval."""
    await asyncio.sleep(1.1 * pump.INTERVAL_S)
    await _rested()


async def _rested() -> None:
    """Until the pump has no more to do in this round. To ask the middleware would cost too much.

    It works at each turn of the loop for a slice at most: so a turn that is much shorter than a
    slice is its last, or one without it.
    """
    while True:
        began_ns = time.perf_counter_ns()
        await asyncio.sleep(0)
        if time.perf_counter_ns() - began_ns < pump.SLICE_NS / 4:
            return
        await asyncio.sleep(POLL_S)


def close(middleware: App) -> None:
    """Give back the threads and connections of its sinks."""
    for sink in middleware.sinks if isinstance(middleware, StreamTraceMiddleware) else ():
        sink.close(FLUSH_S)


def body(chunk: bytes) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": True}


def scope() -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/chat",
        "raw_path": b"/chat",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"accept", b"text/event-stream")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


async def receive() -> Message:
    """A client that sent its question, and stays."""
    return {"type": "http.request", "body": ASKED, "more_body": False}


async def take(message: Message) -> None:
    """The server, as far as we time it."""


def _flush(sinks: Sequence[Sink]) -> None:
    for sink in sinks:
        if not sink.flush(FLUSH_S):
            raise RuntimeError(f"{sink.name} did not flush within {FLUSH_S} s: {sink.stats()}")
