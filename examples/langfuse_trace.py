"""Runs as traces in Langfuse, with their texts, a user, a session and tags.

    export LANGFUSE_PUBLIC_KEY=pk-lf-... LANGFUSE_SECRET_KEY=sk-lf-... LANGFUSE_BASE_URL=https://...
    python examples/langfuse_trace.py [PORT]
    curl -N http://127.0.0.1:8000/chat -d '{"message": "What is the weather in Oslo?"}'

The agent speaks AG-UI, and calls a tool. Needs uvicorn, starlette and streamtrace[langfuse].
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

from streamtrace import StreamTraceMiddleware, annotate
from streamtrace.sinks.langfuse import LangfuseSink


def event(kind: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n"


async def agent() -> AsyncIterator[str]:
    run = {"threadId": "thread-1", "runId": "run-1"}
    yield event("RUN_STARTED", **run)
    yield event("TOOL_CALL_START", toolCallId="call-1", toolCallName="get_forecast")
    yield event("TOOL_CALL_ARGS", toolCallId="call-1", delta='{"place": "Oslo"}')
    yield event("TOOL_CALL_END", toolCallId="call-1")
    await asyncio.sleep(0.2)
    yield event("TOOL_CALL_RESULT", messageId="m-1", toolCallId="call-1", content="snow until noon")
    yield event("TEXT_MESSAGE_START", messageId="m-2", role="assistant")
    for word in ("Snow", " until", " noon."):
        yield event("TEXT_MESSAGE_CONTENT", messageId="m-2", delta=word)
        await asyncio.sleep(0.03)
    yield event("TEXT_MESSAGE_END", messageId="m-2")
    yield event("RUN_FINISHED", **run)


async def chat(request: Request) -> StreamingResponse:
    await request.body()
    annotate(agent="forecaster", user="user-7", session="thread-1", tags=["example"])
    return StreamingResponse(agent(), media_type="text/event-stream")


app = StreamTraceMiddleware(
    Starlette(routes=[Route("/chat", chat, methods=["POST"])]),
    sinks=[LangfuseSink(content="full")],  # this line; without content= no text leaves the process
)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
