"""Frames that come by the thousand are read a quick way; it must say what the general way says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.openai_frames import altered
from support.recordings import STREAMS
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects import ag_ui, anthropic, openai_chat, openai_responses
from streamtrace.dialects.detect import by_name

QUICK_WAYS: dict[str, tuple[Any, str]] = {
    "ag-ui": (ag_ui, "_read_piece"),
    "anthropic": (anthropic, "_read_block_delta"),
    "openai-chat": (openai_chat._ChatDecoder, "_only_text"),
    "openai-responses": (openai_responses._ResponsesDecoder, "_more_text"),
}
"""Where each dialect tries the quick way; it answers `None` where that is not for the frame."""

each_dialect = pytest.mark.parametrize("name", QUICK_WAYS)


def decoded(name: str, frames: list[Frame], *, quickly: bool = True) -> list[ev.Event]:
    with pytest.MonkeyPatch.context() as patch:
        if not quickly:
            patch.setattr(*QUICK_WAYS[name], lambda *_: None)
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
def test_most_text_goes_the_quick_way(name, monkeypatch):
    owner, way = QUICK_WAYS[name]
    ask = getattr(owner, way)
    answers: list[Any] = []

    def noted(*arguments: Any) -> Any:
        answers.append(ask(*arguments))
        return answers[-1]

    monkeypatch.setattr(owner, way, noted)
    texts = 0
    for frames in frames_of(name):
        texts += sum(isinstance(e, ev.TextDelta) for e in events_of(by_name(name), frames))
    assert sum(one is not None for one in answers) > texts / 2 > 0


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
