"""LangServe's streams of chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.dialects.langserve import LangServe

RECORDINGS = Path(__file__).parents[1] / "recordings"
LANGSERVE = LangServe()


def recorded(name: str) -> list[ev.Event]:
    body = (RECORDINGS / f"langserve_stream_{name}.sse").read_bytes()
    return events_of(LANGSERVE, frames_of(body))


def said(*chunks: Any, last: str = "event: end\r\n\r\n") -> list[ev.Event]:
    frames = ['event: metadata\r\ndata: {"run_id": "r"}\r\n\r\n']
    frames += [f"event: data\r\ndata: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks]
    return events_of(LANGSERVE, frames_of("".join([*frames, last]).encode()))


def of(kind: type[ev.Event], events: list[ev.Event]) -> list[Any]:
    return [one for one in events if isinstance(one, kind)]


AI = {"type": "AIMessageChunk", "content": "Hi", "id": "m"}
DOCUMENT = {"page_content": "…", "metadata": {"source": "u", "title": "t"}, "type": "Document"}


@pytest.mark.parametrize(("chunk", "event"), [
    ("Hi", ev.TextDelta(text="Hi")),
    (AI, ev.TextDelta(text="Hi", message_id="m")),
    ({"answer": "Hi"}, ev.TextDelta(text="Hi")),
    ({"output": "Hi"}, ev.TextDelta(text="Hi")),
    ({"context": [DOCUMENT]}, ev.Source(url="u", title="t")),
    ({"question": "Where?"}, ev.Custom(name="data", value={"question": "Where?"})),
    ({"answer": {"a": 1}}, ev.Custom(name="data", value={"answer": {"a": 1}})),
    ([1], ev.Custom(name="data", value=[1])),
    (None, ev.Custom(name="data", value="null")),
])  # fmt: skip
def test_a_chunk_is_what_the_runnable_makes(chunk, event):
    assert said(chunk, last="")[-1] == event


@pytest.mark.parametrize(("name", "text"), [
    ("text", "It is 21 °C in Oslo."), ("sources", "It is 21 °C in Oslo."),
    ("log", "It is 21 °C in Oslo."), ("graph", "It is 21 °C in Oslo."), ("tool_call", ""),
    ("error", ""),
])  # fmt: skip
def test_recorded_streams_tell_their_text(name, text):
    assert text_of(recorded(name)) == text


def test_a_whole_stream_becomes_these_events():
    assert recorded("sources") == [
        ev.RunStarted(run_id=recorded("sources")[0].run_id),
        ev.Custom(name="data", value={"question": "Where?"}),
        ev.Source(url="https://example.com/oslo", title="Oslo"),
        ev.Source(url="notes.txt"),
        *(ev.TextDelta(text=word) for word in ("It", " is", " 21", " °C", " in", " Oslo.")),
        ev.RunFinished(run_id=recorded("sources")[0].run_id),
    ]


def test_an_answer_that_a_message_repeats_is_told_once():
    final = {"output": "Hi", "messages": [{"type": "ai", "content": "Hi"}]}
    assert text_of(said(final)) == "Hi"


def test_what_nodes_of_a_graph_add_is_told():
    events = recorded("graph")
    assert [call.name for call in of(ev.ToolCallStarted, events)] == ["search"]
    assert [call.result for call in of(ev.ToolCallResult, events)] == ["21 °C in Oslo"]
    assert [usage.output_tokens for usage in of(ev.Usage, events)] == [9, 6]


def test_patches_of_the_log_are_state_and_hold_the_chunks():
    events = recorded("log")
    assert events[0] == ev.RunStarted(run_id=events[-1].run_id)
    assert all(state.is_delta for state in of(ev.State, events))
    assert len(of(ev.State, events)) == 46


@pytest.mark.parametrize(("last", "event"), [
    ("event: end\r\n\r\n", ev.RunFinished(run_id="r")),
    ("event: end\r\n\r\nevent: end\r\n\r\n", ev.RunFinished(run_id="r")),
    ('event: error\r\ndata: {"status_code": 500, "message": "no"}\r\n\r\n',
     ev.RunFailed(type="500", message="no")),
    ("event: error\r\ndata: no\r\n\r\n", ev.RunFailed(message="no")),
    ("event: error\r\ndata: {}\r\n\r\nevent: end\r\n\r\n", ev.RunFailed()),
])  # fmt: skip
def test_a_stream_ends_once(last, event):
    events = said("Hi", last=last)
    assert events == [ev.RunStarted(run_id="r"), ev.TextDelta(text="Hi"), event]


def test_a_cut_stream_has_no_end():
    assert said("Hi", last="event: end") == [ev.RunStarted(run_id="r"), ev.TextDelta(text="Hi")]


def test_what_nobody_knows_is_passed_on():
    events = said(last="event: odd\r\ndata: x\r\n\r\n")
    assert events[-1] == ev.Custom(name="odd", value="x")
