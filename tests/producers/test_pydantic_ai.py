"""Agents of Pydantic AI, served by its own adapters: streams that somebody else writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, CancellationToken, DeferredToolRequests, ModelRetry
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ExternalToolset
from pydantic_ai.ui.ag_ui import AGUIAdapter
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.testing import RecordingSink

# --- agents ------------------------------------------------------------------------------------


async def forecast(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """A model that thinks, asks a tool, and tells what it said."""
    if not any(isinstance(part, ToolReturnPart) for one in messages for part in one.parts):
        yield {0: DeltaThinkingPart(content="I need ")}
        yield {0: DeltaThinkingPart(content="the weather.")}
        yield {1: DeltaToolCall(name="weather", json_args='{"city": ', tool_call_id="call-1")}
        yield {1: DeltaToolCall(json_args='"Bern"}')}
    else:
        yield "It is "
        yield "21 °C."


def weather(city: str) -> dict[str, Any]:
    """The weather of a city."""
    return {"city": city, "celsius": 21}


def search(q: str) -> str:
    """Finds it."""
    return "found"


def broken(q: str) -> str:
    """Never works."""
    raise ValueError("no such table")


def refused(q: str) -> str:
    """Asks for other arguments, and is asked no more."""
    raise ModelRetry("ask otherwise")


def forecaster(**more: Any) -> Agent[Any, Any]:
    return Agent(FunctionModel(stream_function=forecast), **more)


def caller_of(*tools: Any) -> Agent[Any, Any]:
    """Its model calls every tool, then tells that it is done."""
    return Agent(TestModel(custom_output_text="All done."), tools=tools)


def approving() -> Agent[Any, Any]:
    agent = forecaster(output_type=[str, DeferredToolRequests])
    agent.tool_plain(requires_approval=True)(weather)
    return agent


def deferring() -> Agent[Any, Any]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    elsewhere = ExternalToolset([ToolDefinition(name="weather", parameters_json_schema=schema)])
    return forecaster(output_type=[str, DeferredToolRequests], toolsets=[elsewhere])


def failing() -> Agent[Any, Any]:
    async def fail(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "Well"
        raise RuntimeError("the provider is down")

    return Agent(FunctionModel(stream_function=fail))


def stopped(token: CancellationToken) -> Agent[Any, Any]:
    async def tell(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "Once "
        token.cancel()
        await asyncio.Event().wait()  # until that reaches us

    return Agent(FunctionModel(stream_function=tell))


# --- served and observed -----------------------------------------------------------------------

WORDS = {"id": "m", "role": "user"}
ADAPTERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "vercel-ui": (
        VercelAIAdapter,
        {"sdk_version": 7},
        {
            "id": "thread-1",
            "trigger": "submit-message",
            "messages": [{**WORDS, "parts": [{"type": "text", "text": "Weather?"}]}],
        },
    ),
    "ag-ui": (
        AGUIAdapter,
        {},
        {
            "threadId": "thread-1",
            "runId": "run-1",
            "messages": [{**WORDS, "content": "Weather?"}],
            "state": {},
            "tools": [],
            "context": [],
            "forwardedProps": {},
        },
    ),
}
each_adapter = pytest.mark.parametrize("dialect", ADAPTERS)


def run_of(dialect: str, agent: Agent[Any, Any], **options: Any) -> RunSummary:
    """The record of one run of the agent, asked as the dialect's client asks."""
    adapter, more, question = ADAPTERS[dialect]

    async def chat(request: Request) -> Response:
        return await adapter.dispatch_request(request, agent=agent, **more, **options)

    sink = RecordingSink()
    app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    app.add_middleware(StreamTraceMiddleware, sinks=[sink])
    with TestClient(app) as client:
        assert client.post("/chat", json=question).status_code == 200
    (run,) = sink.runs
    assert run.dialect == dialect
    assert run.thread_id == "thread-1"
    assert run.terminal_seen
    assert not run.issues
    return run


def spoken(run: RunSummary) -> list[tuple[str | None, str | None]]:
    """Reasoning and text of each generation."""
    return [(one.reasoning.text, one.text.text) for one in run.generations]


def called(run: RunSummary) -> list[tuple[str | None, str, str | None, str | None]]:
    return [(one.name, one.status, one.arguments.text, one.result.text) for one in run.tool_calls]


@each_adapter
def test_a_run_with_reasoning_and_a_tool(dialect):
    run = run_of(dialect, forecaster(tools=[weather]))
    assert run.status == "completed"
    assert spoken(run) == [("I need the weather.", None), (None, "It is 21 °C.")]
    assert called(run) == [
        ("weather", "completed", '{"city": "Bern"}', '{"city":"Bern","celsius":21}')
    ]
    assert run.time_to_first_token_ns < run.time_to_first_visible_token_ns


@each_adapter
def test_a_run_of_the_test_model(dialect):
    run = run_of(dialect, caller_of(search))
    assert run.status == "completed"
    assert spoken(run) == [(None, None), (None, "All done.")]
    assert called(run) == [("search", "completed", '{"q":"a"}', "found")]


@each_adapter
def test_a_tool_that_needs_approval_asks_for_it(dialect):
    run = run_of(dialect, approving())
    assert run.status == "input_required"
    assert called(run) == [("weather", "ready", '{"city": "Bern"}', None)]


# AG-UI has no word for it: the adapter ends such a run as a success.
@pytest.mark.parametrize(
    ("dialect", "status"), [("vercel-ui", "input_required"), ("ag-ui", "completed")]
)
def test_a_tool_that_runs_elsewhere_leaves_its_call_open(dialect, status):
    run = run_of(dialect, deferring())
    assert run.status == status
    assert called(run) == [("weather", "ready", '{"city": "Bern"}', None)]


FAILED_CALL = {"vercel-ui": "error", "ag-ui": "completed"}
"""AG-UI has results, and no word for those that are errors."""


@each_adapter
def test_a_tool_that_raises_fails_the_run(dialect):
    run = run_of(dialect, caller_of(broken))
    assert run.status == "error"
    assert run.error.message.text == "no such table"
    assert called(run)[0][:3] == ("broken", FAILED_CALL[dialect], '{"q":"a"}')


def test_a_tool_that_refuses_its_arguments_has_an_error_each_time():
    run = run_of("vercel-ui", caller_of(refused))
    assert run.status == "error"
    assert [(name, status) for name, status, *_ in called(run)] == [("refused", "error")] * 2
    assert called(run)[0][3] == "ask otherwise"


@each_adapter
def test_a_model_that_raises_fails_the_run(dialect):
    run = run_of(dialect, failing())
    assert run.status == "error"
    assert run.error.message.text == "the provider is down"
    assert spoken(run) == [(None, "Well")]


# AG-UI of this adapter tells of a stop as of an end.
@pytest.mark.parametrize(
    ("dialect", "status"), [("vercel-ui", "cancelled"), ("ag-ui", "completed")]
)
def test_a_run_that_is_stopped(dialect, status):
    token = CancellationToken()
    run = run_of(dialect, stopped(token), cancellation_token=token)
    assert run.status == status
    assert spoken(run) == [(None, "Once ")]
