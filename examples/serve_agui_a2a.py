"""One agent on one router, for users by AG-UI and for other agents by A2A.

    python examples/serve_agui_a2a.py [PORT]
    curl -N http://127.0.0.1:8000/agui/v1/runs -H 'content-type: application/json' -d '{
        "threadId": "t-1", "runId": "r-1", "state": {}, "tools": [], "context": [],
        "forwardedProps": {}, "messages": [{"id": "m", "role": "user", "content": "Book Oslo"}]}'
    curl http://127.0.0.1:8000/.well-known/agent-card.json
    curl -N http://127.0.0.1:8000/jsonrpc -H 'content-type: application/json' \
        -H 'a2a-version: 1.0' -d '{"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage",
        "params": {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "Hi"}]}}}'

The agent asks before it books: the answer begins the next run. Each run is printed as a line of
JSON. Needs uvicorn and streamtrace[a2a,agui].
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, AgentSkill

from streamtrace import (
    Event,
    RunInterrupted,
    StreamTraceMiddleware,
    TextDelta,
    ToolCallReady,
    ToolCallStarted,
)
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.sinks.jsonl import JsonLinesSink

PORT = int(sys.argv[1]) if sys.argv[1:] else 8000


async def agent(run: RunContext) -> AsyncIterator[Event]:
    """A script. A real agent goes here, by one of `streamtrace.adapters`."""
    if run.resume is not None:
        answer = run.resume if isinstance(run.resume, str) else run.resume[0]["payload"]
        yield TextDelta(text=f"Your answer was {answer!r}.")
    elif "book" in text_of(run.messages[-1]).lower():
        yield TextDelta(text="This costs 240 EUR. Shall I?")
        call = f"{run.run_id}-booking"
        yield ToolCallStarted(tool_call_id=call, name="book_trip")
        yield ToolCallReady(tool_call_id=call, arguments=json.dumps({"price_eur": 240}))
        yield RunInterrupted(reason="confirmation", tool_call_id=call)
    else:
        for word in ("Tell", " me", " what", " to", " book."):
            yield TextDelta(text=word)


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else json.dumps(content)


card = AgentCard(
    name="Travel agent",
    description="Books trips, after it has asked.",
    version="1.0.0",
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    capabilities=AgentCapabilities(streaming=True),
    skills=[AgentSkill(id="book", name="Book", description="Books a trip.", tags=["travel"])],
    supported_interfaces=[  # the URL is that of your deployment
        AgentInterface(
            url=f"http://127.0.0.1:{PORT}/jsonrpc",
            protocol_binding="JSONRPC",
            protocol_version="1.0",
        )
    ],
)
router = AgentRouter().agui(agent).a2a(agent, card)
app = StreamTraceMiddleware(router.app(), sinks=[JsonLinesSink("-")])


if __name__ == "__main__":
    uvicorn.run(app, port=PORT)
