"""A FastAPI app, observed by one line. Each run is printed as a line of JSON.

    python examples/wrap_fastapi.py [PORT]
    curl -N http://127.0.0.1:8000/chat -H 'content-type: application/json' -d '{"message": "hi"}'

Needs fastapi and uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from streamtrace import StreamTraceMiddleware
from streamtrace.sinks.jsonl import JsonLinesSink

app = FastAPI()
app.add_middleware(StreamTraceMiddleware, sinks=[JsonLinesSink("-")])  # this line


class Ask(BaseModel):
    message: str
    thread_id: str | None = None


async def answer(message: str) -> AsyncIterator[str]:
    for word in f"You said: {message}".split():
        yield f"data: {json.dumps({'type': 'token', 'content': word + ' '})}\n\n"
        await asyncio.sleep(0.03)
    yield 'data: {"type": "done"}\n\n'


@app.post("/chat")
async def chat(ask: Ask) -> StreamingResponse:
    return StreamingResponse(answer(ask.message), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
