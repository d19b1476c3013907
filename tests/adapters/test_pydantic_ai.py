"""Pydantic AI with scripted models: its events must tell what they tell as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pydantic
import pytest
from producers.test_pydantic_ai import (
    approving,
    caller_of,
    deferring,
    failing,
    forecaster,
    refused,
    search,
    stopped,
    weather,
)
from pydantic_ai import Agent, AgentRunResultEvent, CancellationToken
from pydantic_ai.messages import AgentStreamEvent
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from support.adapted import Events, generations, run_of, told, tool_calls
from support.wire import events_of

from streamtrace.adapters import pydantic_ai_events
from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects.pydantic_ai import PydanticAi

JSON: Any = pydantic.TypeAdapter(AgentStreamEvent | AgentRunResultEvent[Any])
WAYS = ("run_stream_events", "iter")
each_way = pytest.mark.parametrize("way", WAYS)


class Weather(pydantic.BaseModel):
    city: str
    celsius: int


def typed() -> Agent[Any, Any]:
    return Agent(TestModel(), output_type=Weather, tools=[search])


AGENTS: dict[str, tuple[Any, str]] = {
    "tools": (lambda: forecaster(tools=[weather]), "completed"),
    "typed": (typed, "completed"),
    "approval": (approving, "input_required"),
    "deferred": (deferring, "input_required"),
}


async def events_by(way: str, agent: Agent[Any, Any], *given: Any, **options: Any) -> Events:
    return await told(pydantic_ai_events(getattr(agent, way)(*given or ("hi",), **options)))


@pytest.mark.parametrize("name", AGENTS)
async def test_events_tell_what_they_tell_as_json(name):
    make, status = AGENTS[name]
    agent, frames = make(), []

    @asynccontextmanager
    async def noted() -> AsyncIterator[Any]:
        async def both(events: Any) -> AsyncIterator[Any]:
            async for event in events:
                frames.append(Frame(data=JSON.dump_json(event)))
                yield event

        async with agent.run_stream_events("hi") as events:
            yield both(events)

    events = await told(pydantic_ai_events(noted()))
    on_the_wire = events_of(PydanticAi(), frames)
    ends = [event for event in on_the_wire if isinstance(event, ev.TERMINAL)]
    rest = [event for event in on_the_wire if not isinstance(event, ev.TERMINAL)]
    assert events == [*rest, ends[-1]]
    assert run_of(events).status == status


@each_way
async def test_both_ways_tell_the_whole_run(way):
    run = run_of(await events_by(way, forecaster(tools=[weather])))
    assert run.status == "completed"
    assert [said[:2] for said in generations(run)] == [
        ("I need the weather.", None),
        (None, "It is 21 °C."),
    ]
    result = '{"city":"Bern","celsius":21}'
    assert tool_calls(run) == [("weather", "completed", {"city": "Bern"}, result)]
    [usage] = run.usage_by_model
    assert usage.model == "function::forecast"
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (100, 16)
    assert run.run_id
    assert run.thread_id


@each_way
async def test_what_was_said_before_costs_nothing_now(way):
    agent = forecaster(tools=[weather])
    async with agent.run_stream_events("hi") as first:
        [*_, ended] = [event async for event in first]
    history = ended.result.all_messages()
    run = run_of(await events_by(way, agent, "and now?", message_history=history))
    assert [text for _, text, *_ in generations(run)] == ["It is 21 °C."]
    assert run.usage.output_tokens < ended.result.usage.output_tokens


@each_way
@pytest.mark.parametrize(("name", "reason"), [("approval", "approvals"), ("deferred", "calls")])
async def test_calls_that_wait_interrupt_the_run(name, reason, way):
    events = await events_by(way, AGENTS[name][0]())
    assert events[-1] == ev.RunInterrupted(reason=reason, tool_call_id="call-1")
    assert any(isinstance(event, ev.Usage) for event in events)


@each_way
async def test_a_failing_model_is_a_failed_run(way):
    events = await events_by(way, failing())
    assert events[-1] == ev.RunFailed(type="RuntimeError", message="the provider is down")
    assert generations(run_of(events))[0][1] == "Well"


@each_way
async def test_a_tool_that_gives_up_fails_the_run(way):
    events = await events_by(way, caller_of(refused))
    run = run_of(events)
    assert run.error.type == "UnexpectedModelBehavior"
    assert run.tool_calls[0].status == "error"


@each_way
async def test_a_run_that_is_cancelled_says_so(way, caplog):
    token = CancellationToken()
    events = await events_by(way, stopped(token), cancellation_token=token)
    assert isinstance(events[-1], ev.RunCancelled)
    assert run_of(events).status == "cancelled"
    assert caplog.text == ""


@each_way
async def test_who_closes_the_events_ends_the_run(way):
    before, ended = asyncio.all_tasks(), asyncio.Event()

    async def tell(messages: Any, info: Any) -> AsyncIterator[str]:
        try:
            yield "Once "
            await asyncio.Event().wait()
        finally:
            ended.set()

    events = pydantic_ai_events(getattr(Agent(FunctionModel(stream_function=tell)), way)("hi"))
    async for event in events:
        if isinstance(event, ev.TextDelta):
            break
    await events.aclose()
    assert ended.is_set()
    assert asyncio.all_tasks() == before
