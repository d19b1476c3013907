"""Agents of the OpenAI Agents SDK. Its models ask a server that says what a script says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from scenarios import documented, run_all, tasks_left, told

from streamtrace.adapters import openai_agents_events
from streamtrace.core import events as ev
from streamtrace.core.frames import encode_frame
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.openai_chat import OpenAIChat
from streamtrace.dialects.openai_responses import OpenAIResponses

Script = list[list[ev.Event]]
"""What the model says in each of its turns."""

WIRES = {"responses": OpenAIResponses(), "chat": OpenAIChat()}
MODELS: dict[str, Any] = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}


def says(*words: str) -> list[ev.Event]:
    texts = [ev.TextDelta(text=word, message_id="m") for word in words]
    usage = ev.Usage(input_tokens=30, output_tokens=len(words), cached_input_tokens=8)
    return [*texts, usage, ev.GenerationFinished(finish_reasons=("stop",)), ev.RunFinished()]


def thinks_and_calls(name: str, *arguments: str, call_id: str = "call-1") -> list[ev.Event]:
    return [
        ev.ReasoningDelta(text="Where is it?"),
        ev.ToolCallStarted(tool_call_id=call_id, name=name),
        *(ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=text) for text in arguments),
        ev.ToolCallReady(tool_call_id=call_id),
        ev.Usage(input_tokens=20, output_tokens=9, reasoning_tokens=4),
        ev.GenerationFinished(finish_reasons=("tool_calls",)),
        ev.RunInterrupted(),
    ]


class Server:
    """Answers as many requests as the script has turns, and refuses all others."""

    def __init__(self, wire: str, script: Script, *, hangs: bool = False) -> None:
        self.wire, self.script, self.hangs = wire, script, hangs
        self.asked = 0

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.asked == len(self.script):
            body = {"error": {"message": "no more to say", "code": "silent"}}
            return httpx2.Response(400, json=body)
        self.asked += 1
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=self.body())

    async def body(self) -> AsyncIterator[bytes]:
        encoder = WIRES[self.wire].encoder(
            Envelope(run_id=f"resp_{self.asked}", model="scripted-1")
        )
        for event in self.script[self.asked - 1]:
            for frame in encoder.encode(event):
                yield encode_frame(frame)
            if self.hangs and isinstance(event, ev.TextDelta):
                await asyncio.Event().wait()
        for frame in encoder.close():
            yield encode_frame(frame)

    def model(self) -> Any:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        client = AsyncOpenAI(
            api_key="any", base_url="http://model.test", http_client=http, max_retries=0
        )
        return MODELS[self.wire](model="scripted-1", openai_client=client)


@function_tool
def weather(city: str) -> str:
    """The weather there."""
    return f"21 °C in {city}"


@function_tool
def broken(city: str) -> str:
    """Never works."""
    raise ValueError("no such table")


@function_tool(needs_approval=True)
def delete(city: str) -> str:
    """Asks before."""
    return "gone"


ASKS = ('{"city": ', '"Oslo"}')


def running(
    script: Script, *tools: Any, wire: str = "responses", hangs: bool = False, **options: Any
) -> Any:
    model = Server(wire, script, hangs=hangs).model()
    agent = Agent(name="forecaster", model=model, tools=[*tools])
    return Runner.run_streamed(agent, "How is it?", **options)


def tools_by(wire: str) -> Callable[[], Any]:
    async def run() -> Any:
        script = [thinks_and_calls("weather", *ASKS), says("It is ", "warm.")]
        return await told(openai_agents_events(running(script, weather, wire=wire)))

    return run


async def handoff() -> Any:
    script = [thinks_and_calls("transfer_to_poet", "{}"), says("Warm ", "Oslo.")]
    model = Server("responses", script).model()
    poet = Agent(name="poet", model=model)
    router = Agent(name="router", model=model, handoffs=[poet])
    return await told(openai_agents_events(Runner.run_streamed(router, "A poem")))


async def approval() -> Any:
    """And then the answer, as the application would give it."""
    script = [thinks_and_calls("delete", *ASKS), says("Done.")]
    model = Server("responses", script).model()
    agent = Agent(name="cleaner", model=model, tools=[delete])
    result = Runner.run_streamed(agent, "Delete it")
    asked = await told(openai_agents_events(result))
    state = result.to_state()
    state.approve(result.interruptions[0])
    answered = await told(openai_agents_events(Runner.run_streamed(agent, state)))
    return [*asked, *answered]


async def failing_tool() -> Any:
    script = [thinks_and_calls("broken", *ASKS), says("Sorry.")]
    return await told(openai_agents_events(running(script, broken)))


async def too_many_turns() -> Any:
    script = [thinks_and_calls("weather", *ASKS)] * 2
    return await told(openai_agents_events(running(script, weather, max_turns=1)))


async def refused() -> Any:
    return await told(openai_agents_events(running([])))


async def cancelled() -> Any:
    result = running([thinks_and_calls("weather", *ASKS), says("Never")], weather)
    events = []
    async for event in openai_agents_events(result):
        events.append(event)
        if isinstance(event, ev.ToolCallReady):
            result.cancel()
    return events


async def closed() -> Any:
    return await tasks_left(openai_agents_events(running([says("Hm", "m")], hangs=True)))


async def in_the_docs() -> Any:
    model = Server("responses", [says("It is ", "warm.")]).model()
    return await documented("OpenAI Agents", forecaster=Agent(name="forecaster", model=model))


if __name__ == "__main__":
    set_tracing_disabled(True)
    run_all(
        {
            **{f"tools by {wire}": tools_by(wire) for wire in WIRES},
            "handoff": handoff,
            "approval": approval,
            "failing tool": failing_tool,
            "too many turns": too_many_turns,
            "refused": refused,
            "cancelled": cancelled,
            "closed": closed,
            "docs": in_the_docs,
        }
    )
