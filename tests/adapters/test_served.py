"""Agents of frameworks, served: what the adapters tell passes the strict machine of `serve`, and
arrives at a client that the middleware observes."""

from __future__ import annotations

from typing import Any

import pytest
from producers.langgraph_server.graph import builder
from producers.test_pydantic_ai import approving, forecaster, weather
from starlette.testclient import TestClient
from support.adapted import generations, tool_calls

from streamtrace import StreamTraceMiddleware
from streamtrace.adapters import langchain_events, langgraph_events, pydantic_ai_events
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.testing import RecordingSink

GRAPH = builder.compile()


def by_modes(run: RunContext) -> Any:
    modes = ["messages", "updates", "values", "custom"]
    return langgraph_events(GRAPH.astream(run.input, stream_mode=modes, subgraphs=True))


def by_events(run: RunContext) -> Any:
    return langchain_events(GRAPH.astream_events(run.input, version="v2"))


def by_pydantic_ai(run: RunContext) -> Any:
    agent = approving() if "send" in str(run.input) else forecaster(tools=[weather])
    return pydantic_ai_events(agent.run_stream_events("hi"))


@pytest.mark.parametrize("agent", [by_modes, by_events, by_pydantic_ai])
def test_an_agent_is_served_whole(agent):
    sink = RecordingSink()
    router = AgentRouter().stream("/chat", agent)
    app = StreamTraceMiddleware(router.app(), sinks=[sink], content="full")
    with TestClient(app) as client:
        for text in ("weather", "send"):
            question = {"messages": [{"role": "user", "content": text}]}
            assert client.post("/chat", json=question).status_code == 200
    told, asked = sink.wait(2)
    assert (told.status, asked.status) == ("completed", "input_required")
    [(name, status, arguments, result)] = tool_calls(told)
    assert (name in ("search", "weather"), status) == (True, "completed")
    assert arguments["city"] in ("Oslo", "Bern")
    assert "21" in result
    assert any(text and "21 °C" in text for _, text, *_ in generations(told))
    assert told.issues == {}
