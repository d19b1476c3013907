"""Frames that come by the thousand are read a quick way; it must say what the general way says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.openai_frames import altered
from support.recordings import STREAMS
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects import (
    a2a,
    a2a_03,
    ag_ui,
    agno,
    anthropic,
    chatkit,
    cohere,
    dashscope,
    dify,
    gemini,
    gemini_interactions,
    google_adk,
    mistral_conversations,
    named,
    ollama,
    openai_assistants,
    openai_chat,
    openai_responses,
    pydantic_ai,
    typed_json,
    vercel_ui,
)
from streamtrace.dialects.detect import by_name

QUICK_WAYS: dict[str, tuple[Any, str]] = {
    "a2a": (a2a.A2ADecoder, "hot"),
    "a2a-0.3": (a2a_03._A2A03Decoder, "hot"),
    "ag-ui": (ag_ui, "_read_piece"),
    "agentflow": (named, "_read_text"),
    "agno": (agno, "_read_content"),
    "anthropic": (anthropic, "_read_block_delta"),
    "chatkit": (chatkit, "_read_updated"),
    "cognis": (named, "_read_text"),
    "cohere": (cohere, "_read_content_delta"),
    "dashscope": (dashscope._DashScopeDecoder, "_read_more"),
    "dify": (dify, "_read_hot"),
    "gemini": (gemini, "_hot_decoder"),
    "gemini-interactions": (gemini_interactions, "_hot_decoder"),
    "generic": (typed_json, "_read_text"),
    "google-adk": (google_adk, "_hot_decoder"),
    "mistral-conversations": (mistral_conversations, "_read_output"),
    "ollama": (ollama, "_read_piece"),
    "open-webui": (openai_chat._ChatDecoder, "_only_text"),
    "openai-assistants": (openai_assistants, "_read_message_delta"),
    "openai-chat": (openai_chat._ChatDecoder, "_only_text"),
    "openai-completions": (openai_chat._ChatDecoder, "_only_text"),
    "openai-responses": (openai_responses._ResponsesDecoder, "_more_text"),
    "pydantic-ai": (pydantic_ai, "_read_part_delta"),
    "vercel-ui": (vercel_ui, "_read_piece"),
}
"""Where each dialect tries the quick way. A function answers `None`, and a typed decoder raises,
where that is not for the frame."""

each_dialect = pytest.mark.parametrize("name", QUICK_WAYS)


@contextmanager
def quick_way(name: str, answer: Callable[[Callable[..., Any]], Any]) -> Iterator[None]:
    """What `answer` makes of the quick way stands in its place."""
    owner, attribute = QUICK_WAYS[name]
    way = getattr(owner, attribute)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(way, msgspec.json.Decoder):
            patch.setattr(owner, attribute, SimpleNamespace(decode=answer(way.decode)))
        else:
            patch.setattr(owner, attribute, answer(way))
        yield


def closed(way: Callable[..., Any]) -> Callable[..., Any]:
    """A quick way that is for no frame."""

    def refuse(*_: Any) -> None:
        if isinstance(getattr(way, "__self__", None), msgspec.json.Decoder):
            raise msgspec.DecodeError

    return refuse


def decoded(name: str, frames: list[Frame], *, quickly: bool = True) -> list[ev.Event]:
    if quickly:
        return events_of(by_name(name), frames)
    with quick_way(name, closed):
        return events_of(by_name(name), frames)


def frames_of(name: str) -> list[list[Frame]]:
    return [stream.frames() for stream in STREAMS if stream.dialect == name]


@each_dialect
def test_both_ways_say_the_same_of_every_stream(name):
    for frames in frames_of(name):
        assert decoded(name, frames) == decoded(name, frames, quickly=False)


@each_dialect
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_both_ways_say_the_same_whatever_is_in_a_frame(name, data):
    frames = data.draw(st.sampled_from(frames_of(name)))[:60]
    objects = [at for at, frame in enumerate(frames) if frame.json()]
    for at in sorted(data.draw(st.sets(st.sampled_from(objects), max_size=4)), reverse=True):
        frames.insert(at, data.draw(altered([frames[at]])))
    assert decoded(name, frames) == decoded(name, frames, quickly=False)


@each_dialect
def test_text_that_goes_on_goes_the_quick_way(name):
    answers: list[Any] = []

    def noted(way: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            answers.append(way(*arguments))
            return answers[-1]

        return ask

    texts = 0
    with quick_way(name, noted):
        for frames in frames_of(name):
            events = events_of(by_name(name), frames)
            texts += sum(map(goes_on, events, events[1:]))
    assert sum(one is not None for one in answers) >= texts / 2 > 0


def goes_on(before: ev.Event, event: ev.Event) -> bool:
    """Whether both are text of one message."""
    if not isinstance(before, ev.TextDelta) or not isinstance(event, ev.TextDelta):
        return False
    return before.message_id == event.message_id


def in_delta(**fields: Any) -> dict[str, Any]:
    return in_choice(delta={"content": "Hi", **fields})


def in_choice(**fields: Any) -> dict[str, Any]:
    return in_chunk(choices=[{"index": 0, "delta": {"content": "Hi"}, **fields}])


def in_chunk(**fields: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {"content": "Hi"}}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices}
    return {**chunk, **fields}


TRUE_OF_ITS_FIELD: dict[str, Any] = {
    "annotations": [{"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}],
    "audio": {"transcript": "yes"},
    "choices": [],
    "content": [{"type": "text", "text": "yes"}],
    "delta": {"content": "yes", "refusal": "no"},
    "error": {"message": "no"},
    "function_call": {"name": "f"},
    "moderation": {"flagged": True},
    "reasoning_details": [{"text": "hm"}],
    "tool_calls": [{"index": 0, "id": "t", "function": {"name": "f"}}],
    "usage": {"prompt_tokens": 1},
    "x_groq": {"usage": {"prompt_tokens": 1}},
}
"""What the fields of a chunk hold; the others hold words or numbers."""


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (place, field)
        for place, struct in (
            (in_delta, openai_chat._Delta),
            (in_choice, openai_chat._Choice),
            (in_chunk, openai_chat._Chunk),
        )
        for field in struct.__struct_fields__
    ],
)
def test_a_chunk_that_says_more_than_text_says_all_of_it(place, field):
    for value in (TRUE_OF_ITS_FIELD.get(field, "word"), None, "", 1, True, 0.0, [], {}):
        bodies = (in_chunk(), in_chunk(), place(**{field: value}), in_chunk())
        frames = [Frame(data=json.dumps(body).encode()) for body in bodies]
        quick = decoded("openai-chat", frames)
        assert quick == decoded("openai-chat", frames, quickly=False), value


@pytest.mark.parametrize("output_index", [1, True, 1.0, 2, None])
@pytest.mark.parametrize("content_index", [0, False, 0.0, 1, None])
def test_a_part_is_named_by_whole_numbers(output_index, content_index):
    added = {
        "type": "response.output_item.added",
        "output_index": 1,
        "item": {"id": "m", "type": "message"},
    }
    delta = {"type": "response.output_text.delta", "delta": "Hi", "item_id": "i"}
    first = {**delta, "output_index": 1, "content_index": 0}
    other = {**delta, "output_index": output_index, "content_index": content_index}
    frames = [Frame(data=json.dumps(body).encode()) for body in (added, first, other)]
    read = decoded("openai-responses", frames)
    assert read == decoded("openai-responses", frames, quickly=False)
    assert isinstance(read[-1], ev.TextDelta)
