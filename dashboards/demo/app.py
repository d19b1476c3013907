"""The demo's agent, and beside it streams that break in the ways it does not.

    uvicorn dashboards.demo.app:app

    POST /chat                the agent of `streamtrace demo`, in any dialect
    POST /replay/{recording}  a recorded stream
    GET  /timeout             gives up in the middle
    GET  /odd                 goes on after its end
    GET  /flood               sends more than its tap holds, without a pause
    GET  /large               8 MB, for clients that read slowly
    GET  /drop, /coalesce     an agent served by `streamtrace.serve`, under these policies
    POST /agents/runs         an agent whose runs outlive their connection, in a log that keeps
                              little, and fails runs whose ids begin with `away` or `lost`
    GET  /endless             until the client leaves, or /drain is called
    POST /drain               ends what is open as a shutdown does
    GET  /metrics             Prometheus

One sink takes what it can (OpenTelemetry, where `OTEL_EXPORTER_OTLP_ENDPOINT` is set), one refuses
everything, and one is slower than the load.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from streamtrace import Event, RunSummary, StreamTraceMiddleware, TextDelta, sinks_from_env
from streamtrace.cli.demo import build_app
from streamtrace.core.errors import LeaseLost, LogUnavailable
from streamtrace.serve import AgentRouter, Endpoint, LogBounds, MemoryLog, RunContext, Settings
from streamtrace.serve.log.base import RunKey, Written
from streamtrace.sinks.prometheus import PrometheusSink, metrics_app
from streamtrace.sinks.queued import QueuedSink

TAP_BYTES = 256 * 1024
PIECE = "word " * 4000
PIECES, PIECE_S = 250, 0.01
"""Of the served agent: 5 MB, since a kernel holds up to 4 for a client that does not read."""
STEPS, STEP_S = 40, 0.04
"""Of the agent whose runs are resumed: longer than the lease of its log."""
TOKEN = b'data: {"type":"token","content":"word "}\n\n'
DONE = b'data: {"type":"done"}\n\n'


class Refusing(QueuedSink):
    """A back end that takes nothing."""

    name = "refusing"

    def export(self, batch: list[RunSummary]) -> None:
        """Fails."""
        raise ConnectionRefusedError


class Overloaded(QueuedSink):
    """A back end that is slower than the load, behind a queue that is too short."""

    name = "overloaded"

    def export(self, batch: list[RunSummary]) -> None:
        """Takes its time."""
        time.sleep(0.5)


class Unsteady(MemoryLog):
    """A log that cannot be reached by some runs, and that others lose."""

    async def append(
        self, key: RunKey, owner: str, entries: Sequence[bytes], *, after: int
    ) -> Written:
        """As the id of the run says."""
        if key.run_id.startswith("away"):
            raise LogUnavailable
        if key.run_id.startswith("lost"):
            raise LeaseLost
        return await super().append(key, owner, entries, after=after)

    async def finish(self, key: RunKey, owner: str, outcome: bytes, *, last_id: int) -> None:
        """As the id of the run says."""
        if key.run_id.startswith("lost"):
            raise LeaseLost
        await super().finish(key, owner, outcome, last_id=last_id)


async def timeout(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield TOKEN
        await asyncio.sleep(0.05)
        raise TimeoutError

    return _stream(body())


async def odd(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield TOKEN + DONE + TOKEN

    return _stream(body())


async def flood(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield TOKEN * 400
        yield DONE

    return _stream(body())


async def large(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield TOKEN * 400
            await asyncio.sleep(0)
        yield DONE

    return _stream(body())


async def endless(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield TOKEN
            await asyncio.sleep(0.05)

    return _stream(body())


async def talker(run: RunContext) -> AsyncIterator[Event]:
    for _ in range(PIECES):
        yield TextDelta(text=PIECE, message_id=run.message_id)
        await asyncio.sleep(PIECE_S)


async def walker(run: RunContext) -> AsyncIterator[Event]:
    for _ in range(STEPS):
        yield TextDelta(text="word ", message_id=run.message_id)
        await asyncio.sleep(STEP_S)


async def drain(request: Request) -> Response:
    await app.drain()
    return Response(status_code=204)


def _stream(body: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(body, media_type="text/event-stream")


def _sinks(registry: CollectorRegistry) -> list[Any]:
    return [
        *(sink for sink in sinks_from_env() if not isinstance(sink, PrometheusSink)),
        Refusing(interval_s=0.2),
        Overloaded(interval_s=0, batch_runs=1, max_queued_runs=4),
        PrometheusSink(registry=registry),
    ]


registry = CollectorRegistry()
ProcessCollector(registry=registry)
inner = build_app(metrics_app(registry))
inner.router.routes += [
    Route("/timeout", timeout),
    Route("/odd", odd),
    Route("/flood", flood),
    Route("/large", large),
    *(
        Route(f"/{policy}", Endpoint(talker, "generic", settings=settings, allow_get=True))
        for policy, settings in (
            ("drop", Settings(policy="drop")),
            ("coalesce", Settings(policy="coalesce")),
        )
    ),
    *AgentRouter()
    .resumable("/agents", walker, log=Unsteady(LogBounds(max_events=8, lease_s=1.0)))
    .routes,
    Route("/endless", endless),
    Route("/drain", drain, methods=["POST"]),
]
app = StreamTraceMiddleware(
    inner, sinks=_sinks(registry), max_tap_bytes=TAP_BYTES, flush_timeout_s=1
)
