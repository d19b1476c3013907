"""An agent as a model of OpenAI's API: any of its clients can talk to it.

    export AGENT_KEY=a-key-of-16-characters-or-more
    python examples/serve_openai.py [PORT]

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=os.environ["AGENT_KEY"])
    client.chat.completions.create(model="forecaster", stream=True, messages=[
        {"role": "user", "content": "How is the weather?"}])

The agent calls its own tool, which is its own business: the client sees the answer. Each run is
printed as a line of JSON. Needs uvicorn and streamtrace[limits,serve].
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator

import uvicorn

from streamtrace import (
    Event,
    GenerationStarted,
    StreamTraceMiddleware,
    TextDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
from streamtrace.serve import AgentRouter, ApiKeyAuth, Concurrency, RateLimit, RunContext, User
from streamtrace.sinks.jsonl import JsonLinesSink


async def agent(run: RunContext) -> AsyncIterator[Event]:
    """A script. A real model goes here, such as `openai_chat_events(client.chat.…)`."""
    call = f"{run.message_id}-forecast"
    yield GenerationStarted(model="script-1", key="first")
    yield ToolCallStarted(tool_call_id=call, name="get_forecast")
    yield ToolCallReady(tool_call_id=call, arguments="{}")
    yield Usage(input_tokens=20, output_tokens=5)
    yield ToolCallResult(tool_call_id=call, result="snow, -2 °C")
    yield GenerationStarted(model="script-1", key="second")
    for word in ("It", " snows,", f" {run.user.id}."):
        yield TextDelta(text=word)
    yield Usage(input_tokens=30, output_tokens=3)


router = AgentRouter(
    auth=ApiKeyAuth({os.environ["AGENT_KEY"]: User("alice")}),
    rate=RateLimit("30/minute"),
    concurrency=Concurrency(4),
)
router.openai({"forecaster": agent})
app = StreamTraceMiddleware(router.app(), sinks=[JsonLinesSink("-")])


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
