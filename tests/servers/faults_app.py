"""An app whose backends are wherever the environment says: dead, slow or hanging."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from streamtrace import StreamTraceMiddleware, sinks_from_env

FRAMES = [f'data: {{"type":"token","content":"{n}"}}\n\n'.encode() for n in range(50)]
DONE = b'data: {"type":"done"}\n\n'


async def ready(_: Request) -> Response:
    return PlainTextResponse("ready")


async def chat(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for frame in FRAMES:
            yield frame
            await asyncio.sleep(0)
        yield DONE

    return StreamingResponse(body(), media_type="text/event-stream")


async def stats(_: Request) -> Response:
    return JSONResponse(
        {
            name: {
                "accepted": one.accepted,
                "exported": one.exported,
                "dropped": one.dropped,
                "queued": one.queued,
            }
            for name, one in app.stats().items()
        }
    )


routes: list[Any] = [Route("/ready", ready), Route("/chat", chat), Route("/stats", stats)]
app = StreamTraceMiddleware(
    Starlette(routes=routes),
    sinks=sinks_from_env(),
    flush_timeout_s=float(os.environ["FLUSH_TIMEOUT_S"]),
)
