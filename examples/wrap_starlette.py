"""A Starlette app, wrapped, with Prometheus metrics beside it.

    python examples/wrap_starlette.py [PORT]
    curl -N http://127.0.0.1:8000/v1/chat/completions -d '{"model": "parrot-1"}'
    curl -s http://127.0.0.1:8000/metrics | grep ^streamtrace

Needs uvicorn and streamtrace[prometheus].
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamtrace import StreamTraceMiddleware
from streamtrace.sinks.prometheus import PrometheusSink, metrics_app


def chunk(**fields: Any) -> str:
    known = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "parrot-1"}
    return f"data: {json.dumps({**known, 'choices': [], **fields})}\n\n"


async def answer() -> AsyncIterator[str]:
    for word in ("Hello", " there", "."):
        yield chunk(choices=[{"index": 0, "delta": {"content": word}, "finish_reason": None}])
        await asyncio.sleep(0.03)
    yield chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    yield chunk(usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12})
    yield "data: [DONE]\n\n"


async def completions(request: Request) -> StreamingResponse:
    await request.body()
    return StreamingResponse(answer(), media_type="text/event-stream")


routes = [
    Route("/v1/chat/completions", completions, methods=["POST"]),
    Route("/metrics", metrics_app()),
]
app = StreamTraceMiddleware(Starlette(routes=routes), sinks=[PrometheusSink()])  # this line


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
