"""The SDKs of OpenAI and Anthropic read recorded streams over HTTP: what adapters tell of their
objects is what the decoder tells of the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from support.adapted import on_the_wire, run_of, told, without_order
from support.recordings import RECORDED, Stream

from streamtrace.adapters import (
    anthropic_events,
    openai_chat_events,
    openai_responses_events,
)
from streamtrace.core import events as ev
from streamtrace.dialects.anthropic import Anthropic
from streamtrace.dialects.openai_chat import OpenAIChat
from streamtrace.dialects.openai_responses import OpenAIResponses

CHAT: Any = {"model": "any", "messages": []}
MESSAGES: Any = {**CHAT, "max_tokens": 1}
RESPONSES: Any = {"model": "any", "input": "hi"}

DIALECTS = {
    "openai-chat": OpenAIChat(),
    "openai-responses": OpenAIResponses(),
    "anthropic": Anthropic(),
}
CLIENTS = {
    "openai": (openai.OpenAI, openai.AsyncOpenAI),
    "anthropic": (anthropic.Anthropic, anthropic.AsyncAnthropic),
}
CALLS: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
    "openai-chat": [
        ("create", lambda client: client.chat.completions.create(**CHAT, stream=True)),
        ("stream", lambda client: client.chat.completions.stream(**CHAT)),
    ],
    "openai-responses": [
        ("create", lambda client: client.responses.create(**RESPONSES, stream=True)),
        ("stream", lambda client: client.responses.stream(**RESPONSES)),
    ],
    "anthropic": [
        ("create", lambda client: client.messages.create(**MESSAGES, stream=True)),
        ("stream", lambda client: client.messages.stream(**MESSAGES)),
        ("beta stream", lambda client: client.beta.messages.stream(**MESSAGES)),
    ],
}
ADAPTERS = {
    "openai-chat": openai_chat_events,
    "openai-responses": openai_responses_events,
    "anthropic": anthropic_events,
}
UNREADABLE = {  # by the SDK, which is stricter
    "openai-chat__pydantic-ai__openrouter_stream_error",  # it drops the usage beside an error
    "openai-responses__ai__parallel_tool_call_wrapper.1",  # a frame is no JSON
}


def streams_of(*dialects: str) -> list[Stream]:
    return [one for one in RECORDED if one.dialect in dialects and one.name not in UNREADABLE]


def client_of(name: str, dialect: str, replay: str, *, is_async: bool) -> Any:
    make = CLIENTS[dialect.partition("-")[0]][is_async]
    return make(base_url=f"{replay}/{name}", api_key="any", max_retries=0)


async def replayed(
    name: str, dialect: str, replay: str, call: Callable[[Any], Any], *, is_async: bool = True
) -> list[ev.Event]:
    """What the adapter tells of a recording that the SDK reads."""
    client = client_of(name, dialect, replay, is_async=is_async)
    try:
        return await told(ADAPTERS[dialect](call(client)))
    finally:
        await client.close() if is_async else client.close()


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("stream", streams_of(*DIALECTS), ids=str)
async def test_the_objects_of_an_sdk_tell_what_the_bytes_tell(stream, is_async, replay):
    _, call = CALLS[stream.dialect][0]
    events = await replayed(stream.name, stream.dialect, replay, call, is_async=is_async)
    assert without_order(events) == without_order(on_the_wire(stream, DIALECTS[stream.dialect]))
    run_of(events)


HELPERS = {
    f"{dialect} {way}": (dialect, call)
    for dialect, calls in CALLS.items()
    for way, call in calls
    if way != "create"
}
NOT_FOR_HELPERS = {  # helpers add up what they read, and fail, or warn, on what is not OpenAI's
    "openai-chat__ai__anthropic_fallback_tool_call",
    "openai-chat__logfire__openrouter_streaming_reasoning",
    "openai-chat__pydantic-ai__mistral_model_thinking_part_iter",
    "openai-responses__ai__xai_x_search_tool",
    "openai_responses_ok.synthetic",
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("helper", HELPERS)
async def test_a_helper_tells_no_more_than_the_stream(helper, is_async, replay):
    dialect, call = HELPERS[helper]
    for stream in streams_of(dialect):
        if stream.name not in NOT_FOR_HELPERS:
            events = await replayed(stream.name, dialect, replay, call, is_async=is_async)
            expected = without_order(on_the_wire(stream, DIALECTS[dialect]))
            assert without_order(events) == expected, stream.name


async def test_what_a_server_refuses_is_a_failure(replay):
    """The call is awaited by the adapter, so its error is the run's as well."""
    client = client_of("nothing-of-that-name", "openai-chat", replay, is_async=True)
    async with client:
        events = await told(openai_chat_events(client.chat.completions.create(**CHAT, stream=True)))
    assert events == [ev.RunFailed(type="NotFoundError", message="no such recording")]


CUT = {  # what remains of a body of which the server sends no more
    "openai-responses": "openai-responses__logfire__voice_pipeline_i1",
    "anthropic": "anthropic_ok.synthetic",
}


@pytest.mark.parametrize("dialect", CUT)
async def test_a_model_that_stops_in_the_middle_has_failed(dialect, replay):
    _, call = CALLS[dialect][0]
    events = await replayed(f"cut:{CUT[dialect]}", dialect, replay, call)
    assert any(isinstance(event, ev.TextDelta) for event in events)
    assert isinstance(events[-1], ev.RunFailed)
    assert events[-1].type == "truncated"
    run_of(events)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_who_closes_the_events_closes_the_response(dialect, is_async, replay):
    name = streams_of(dialect)[0].name
    _, call = CALLS[dialect][0]
    client = client_of(name, dialect, replay, is_async=is_async)
    if is_async:
        async with client:
            stream = await call(client)
            events = ADAPTERS[dialect](stream)
            await anext(events)
            assert not stream.response.is_closed
            await events.aclose()
    else:
        with client:
            stream = call(client)
            events = ADAPTERS[dialect](stream)
            next(events)
            assert not stream.response.is_closed
            events.close()
    assert stream.response.is_closed
