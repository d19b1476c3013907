"""A wire vocabulary of your own, taught to streamtrace in ten lines.

    python examples/custom_dialect.py [PORT]
    curl -N http://127.0.0.1:8000/ask

Each run is printed as a line of JSON: its dialect is `acme`, its tokens are counted. Needs uvicorn
and starlette.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamtrace import (
    Dialect,
    Event,
    Frame,
    RunFinished,
    StreamTraceMiddleware,
    TextDelta,
    Usage,
)
from streamtrace.sinks.jsonl import JsonLinesSink


class Acme(Dialect):
    name = "acme"

    def decode(self, frame: Frame) -> Iterator[Event]:
        match frame.json():
            case {"say": str(text)}:
                yield TextDelta(text=text)
            case {"bill": {"in": int(read), "out": int(written)}}:
                yield Usage(input_tokens=read, output_tokens=written)
            case {"over": True}:
                yield RunFinished()


async def answer() -> AsyncIterator[str]:
    for said in ({"say": "Hello"}, {"say": "."}, {"bill": {"in": 5, "out": 2}}, {"over": True}):
        yield f"data: {json.dumps(said)}\n\n"
        await asyncio.sleep(0.03)


async def ask(request: Request) -> StreamingResponse:
    return StreamingResponse(answer(), media_type="text/event-stream")


app = StreamTraceMiddleware(
    Starlette(routes=[Route("/ask", ask)]),
    sinks=[JsonLinesSink("-")],
    dialects=[Acme()],  # this line
)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
