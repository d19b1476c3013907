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


CHUNK = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
BESIDE_TEXT: dict[str, list[dict[str, Any]]] = {
    "delta": [
        {"reasoning_content": "r"},
        {"reasoning": "r"},
        {"reasoning_details": [{"text": "r"}]},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f"}}]},
        {"function_call": {"name": "f"}},
        {"audio": {"transcript": "hi"}},
        {"content": [{"text": "hi"}]},
    ],
    "choice": [
        {"finish_reason": "stop"},
        {"usage": {"prompt_tokens": 1}},
        {"error": {"message": "no"}},
        {"index": 1},
        {"index": True},
        {"index": 0.0},
    ],
    "chunk": [
        {"usage": {"prompt_tokens": 1}},
        {"x_groq": {"usage": {"prompt_tokens": 1}}},
        {"error": {"message": "no"}},
        {"id": "d"},
        {"model": "n"},
        {"provider": "p"},
        {"object": None},
    ],
}


@pytest.mark.parametrize(
    ("where", "more"),
    [(where, more) for where, ways in BESIDE_TEXT.items() for more in ways],
)
def test_a_chunk_that_says_more_than_text_says_all_of_it(where, more):
    def chunk(**beside: Any) -> Frame:
        delta = {"content": "Hi", **beside.get("delta", {})}
        choice = {"index": 0, "delta": delta, **beside.get("choice", {})}
        body = {**CHUNK, "choices": [choice], **beside.get("chunk", {})}
        return Frame(data=json.dumps(body).encode())

    frames = [chunk(), chunk(**{where: more}), chunk()]
    assert decoded("openai-chat", frames) == decoded("openai-chat", frames, quickly=False)


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
