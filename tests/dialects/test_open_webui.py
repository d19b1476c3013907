"""Open WebUI: chat as the decoder of chat reads it, and the frames that are its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.openai_frames import recorded
from support.recordings import STREAMS
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.open_webui import OpenWebUI
from streamtrace.dialects.openai_chat import OpenAIChat

OURS = {one.name: one for one in STREAMS if one.dialect == "open-webui"}
CHAT = recorded("openai-chat")


def said(*bodies: Any) -> list[ev.Event]:
    wire = "".join(f"data: {json.dumps(body)}\n\n" for body in bodies)
    return events_of(OpenWebUI(), frames_of(wire.encode()))


@pytest.mark.parametrize("name", CHAT)
def test_chat_reads_as_chat(name):
    frames = frames_of(CHAT[name])
    assert events_of(OpenWebUI(), frames) == events_of(OpenAIChat(), frames)


@pytest.mark.parametrize("name", OURS)
def test_a_stream_is_told_in_order(name):
    machine = RunMachine()
    for at_ns, event in enumerate(events_of(OpenWebUI(), OURS[name].frames())):
        machine.feed(event, at_ns)
    assert machine.issues == {}


def test_the_model_that_was_drawn_is_that_of_the_answer():
    chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"delta": {"content": "a"}}]}
    machine = RunMachine()
    for event in said({"selected_model_id": "m"}, chunk):
        machine.feed(event, 0)
    (generation,) = machine._generations
    assert (generation.model, generation.response_id) == ("m", "c")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"source": {"name": "a.pdf"}, "metadata": [{"name": "a.pdf", "source": "a.pdf"}] * 2},
         [ev.Source(title="a.pdf")]),
        ({"source": {"name": "s"}, "metadata": [{"source": "https://x/1"}, {"source": "https://x/2"}]},
         [ev.Source(url="https://x/1", title="s"), ev.Source(url="https://x/2", title="s")]),
        ({"source": {"name": "t", "url": "https://x"}, "document": ["t"]},
         [ev.Source(url="https://x", title="t")]),
        ({"metadata": [{"source": "tool/name"}]}, [ev.Source(title="tool/name")]),
        ({"metadata": "x"}, [ev.Source()]),
        (7, [ev.Source()]),
    ],
)  # fmt: skip
def test_sources_are_named_by_what_they_have(source, expected):
    assert said({"sources": [source]}) == expected
    assert said({"event": {"type": "source", "data": source}}) == expected


@pytest.mark.parametrize("sources", [None, [], "x", {"a": 1}])
def test_no_sources_tell_nothing(sources):
    assert said({"sources": sources}) == []


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "message", "data": {"content": "Hi"}}, ev.TextDelta(text="Hi")),
        ({"type": "chat:message:delta", "data": {"content": "Hi"}}, ev.TextDelta(text="Hi")),
        ({"type": "message", "data": {}}, ev.Custom(name="message", value={})),
        ({"type": "replace", "data": {"content": "Hi"}},
         ev.Custom(name="replace", value={"content": "Hi"})),
        ({"type": "status", "data": {"a": 1}}, ev.Custom(name="status", value={"a": 1})),
        ({}, ev.Custom(name="event", value=None)),
        (7, ev.Custom(name="event", value=None)),
    ],
)  # fmt: skip
def test_of_events_for_the_page_only_added_text_is_text(event, expected):
    assert said({"event": event}) == [expected]


def test_what_neither_knows_is_told_as_custom():
    assert said({"new": 1}, [1], "x") == [ev.Custom(name="unknown")] * 3


@pytest.mark.parametrize(
    ("body", "fit"),
    [
        ({"selected_model_id": "m"}, Fit.YES),
        ({"event": {"type": "status", "data": {}}}, Fit.YES),
        ({"sources": [{"source": {}, "document": [], "metadata": []}]}, Fit.YES),
        ({"sources": [{"url": "u"}]}, Fit.MAYBE),
        ({"sources": []}, Fit.MAYBE),
        ({"sources": "x"}, Fit.NO),
        ({"event": {"contentBlockDelta": {}}}, Fit.NO),
        ({"event": "status", "data": {}}, Fit.NO),
        ({"selected_model_id": "m", "type": "x"}, Fit.NO),
        ({"object": "chat.completion.chunk", "choices": []}, Fit.NO),
        ([1], Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(body, fit):
    assert OpenWebUI().recognise(Head(), Frame(data=json.dumps(body).encode())) is fit
