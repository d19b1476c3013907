"""What the real servers serve: the same streams twice, bare and observed.

`mounted` has the observer around one mounted part, `whole` around everything (so that it also sees
the server's lifespan). Records go to the file named by STREAMTRACE_TEST_RECORDS.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from streamtrace import StreamTraceMiddleware
from streamtrace.sinks.jsonl import JsonLinesSink

RECORDINGS = Path(__file__).parent.parent / "recordings"
ODD_SIZES = (1, 2, 3, 5, 7, 64, 113, 1024, 4093)


def frame(**event: str) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def started(request: Request) -> bytes:
    return frame(type="RUN_STARTED", threadId="t", runId=request.path_params["run_id"])


def token(number: int) -> bytes:
    return frame(type="TEXT_MESSAGE_CONTENT", messageId="m", delta=f"token {number} ")


def finished(request: Request) -> bytes:
    return frame(type="RUN_FINISHED", threadId="t", runId=request.path_params["run_id"])


def event_stream(body: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(body, media_type="text/event-stream")


async def ready(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ready")


async def recording(request: Request) -> StreamingResponse:
    """A recorded stream in pieces that respect no frame, line or character."""
    data = (RECORDINGS / f"{request.path_params['name']}.sse").read_bytes()

    async def pieces() -> AsyncIterator[bytes]:
        at = 0
        for size in itertools.cycle(ODD_SIZES):
            if at >= len(data):
                return
            yield data[at : at + size]
            at += size

    return event_stream(pieces())


async def tokens(request: Request) -> StreamingResponse:
    """A run that ends well after `count` tokens, or fails after them."""
    count = request.path_params["count"]

    async def body() -> AsyncIterator[bytes]:
        yield started(request)
        for number in range(count):
            yield token(number)
            await asyncio.sleep(0)
        if "raise" in request.query_params:
            raise RuntimeError("the agent broke")
        if "stop" not in request.query_params:
            yield finished(request)

    return event_stream(body())


async def endless(request: Request) -> StreamingResponse:
    """A run that only its client can end; silent after the first tokens if `idle`."""

    async def body() -> AsyncIterator[bytes]:
        yield started(request)
        for number in itertools.count():
            yield token(number)
            if "idle" in request.query_params and number == 2:
                await asyncio.Event().wait()
            await asyncio.sleep(0.01)

    return event_stream(body())


streams = Starlette(
    routes=[
        Route("/ready", ready),
        Route("/recording/{name}", recording),
        Route("/tokens/{run_id}/{count:int}", tokens),
        Route("/endless/{run_id}", endless),
    ]
)
sink = JsonLinesSink(os.environ["STREAMTRACE_TEST_RECORDS"])

mounted = Starlette(
    routes=[
        Route("/ready", ready),
        Mount("/bare", streams),
        Mount("/observed", StreamTraceMiddleware(streams, sinks=[sink])),
    ]
)
whole = StreamTraceMiddleware(streams, sinks=[sink])
