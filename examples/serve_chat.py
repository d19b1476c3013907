"""A chat with tools: an agent, its endpoint, and a page with the tools at its side.

    python examples/serve_chat.py [PORT]        # then open http://127.0.0.1:8000

    curl -N http://127.0.0.1:8000/chat -H 'content-type: application/json' \
        -d '{"message": "What is the weather in Oslo and Tokyo?"}'

Ask for the weather, or say "fail". Each run is printed as a line of JSON. Needs uvicorn and
streamtrace[serve].
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from streamtrace import (
    Event,
    StreamTraceMiddleware,
    TextDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
)
from streamtrace.serve import AgentRouter, Limits, PublicError, RunContext, Settings
from streamtrace.sinks.jsonl import JsonLinesSink

FORECASTS = {"Lisbon": "clear, 22 °C", "Oslo": "snow, -2 °C", "Tokyo": "sunny, 19 °C"}


async def agent(run: RunContext) -> AsyncIterator[Event]:
    """A script. A real model goes here: give its stream to one of `streamtrace.adapters`."""
    asked = run.messages[-1]["content"] if run.messages else ""
    if "fail" in asked:
        raise PublicError("The weather service does not answer. Please ask again.")
    places = [place for place in FORECASTS if place.lower() in asked.lower()]
    async for word in spoken("Let me look." if places else "I know the weather of"):
        yield word
    for number, place in enumerate(places):
        call = f"{run.message_id}-{number}"
        yield ToolCallStarted(tool_call_id=call, name="get_forecast")
        yield ToolCallReady(tool_call_id=call, arguments=json.dumps({"place": place}))
        await asyncio.sleep(0.3)
        yield ToolCallResult(tool_call_id=call, result=FORECASTS[place])
    found = [f"{place}: {FORECASTS[place]}." for place in places]
    async for word in spoken(" ".join(found) or f"{', '.join(FORECASTS)}."):
        yield word


async def spoken(text: str) -> AsyncIterator[Event]:
    for word in text.split():
        yield TextDelta(text=f"{word} ")
        await asyncio.sleep(0.03)


async def page(request: Request) -> FileResponse:
    return FileResponse(Path(__file__).with_suffix(".html"))


router = AgentRouter(settings=Settings(policy="coalesce", limits=Limits(timeout_s=120)))
router.stream("/chat", agent, "cognis")
served = Starlette(routes=[Route("/", page), *router.routes], lifespan=router.lifespan)
app = StreamTraceMiddleware(served, sinks=[JsonLinesSink("-")])


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
