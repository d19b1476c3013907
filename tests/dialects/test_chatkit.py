"""ChatKit, decoded; the recordings come from its Python server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.recordings import STREAMS
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects import chatkit
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.chatkit import ChatKit

OURS = {one.name: one for one in STREAMS if one.dialect == "chatkit"}


def said(*bodies: Any) -> list[ev.Event]:
    wire = "".join(f"data: {json.dumps(body)}\n\n" for body in bodies)
    return events_of(ChatKit(), frames_of(wire.encode()))


def item(stage: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"thread.item.{stage}", "item": {"id": "it", "type": kind, **fields}}


def update(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "thread.item.updated", "item_id": "it", "update": {"type": kind, **fields}}


def part(text: str, *sources: Any) -> dict[str, Any]:
    return {"text": text, "annotations": [{"source": source} for source in sources]}


def delta(text: Any, index: Any = 0) -> dict[str, Any]:
    kind = "assistant_message.content_part.text_delta"
    return update(kind, delta=text, content_index=index)


def annotation(source: Any) -> dict[str, Any]:
    kind = "assistant_message.content_part.annotation_added"
    return update(kind, content_index=0, annotation_index=0, annotation={"source": source})


def whole(text: str, *sources: Any) -> dict[str, Any]:
    kind = "assistant_message.content_part.done"
    return update(kind, content_index=0, content=part(text, *sources))


def task(stage: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return update(f"workflow.task.{stage}", task_index=index, task=fields)


def call(status: str, **fields: Any) -> dict[str, Any]:
    given = {"call_id": "c", "name": "pick", "arguments": {"a": 1}, "status": status, **fields}
    return item("done", "client_tool_call", **given)


# --- the recordings ------------------------------------------------------------------------


def messages_of(stream) -> dict[str, str]:
    """The whole texts that the server repeats at the end of each message."""
    items = [(frame.json() or {}).get("item", {}) for frame in stream.frames()]
    done = [
        one
        for frame, one in zip(stream.frames(), items, strict=True)
        if one.get("type") == "assistant_message"
        and (frame.json() or {})["type"] == "thread.item.done"
    ]
    return {one["id"]: "".join(each["text"] for each in one["content"]) for one in done}


@pytest.mark.parametrize("name", [name for name in OURS if messages_of(OURS[name])])
def test_the_deltas_of_a_message_add_up_to_its_whole_text(name):
    told: dict[str | None, str] = {}
    for event in events_of(ChatKit(), OURS[name].frames()):
        if isinstance(event, ev.TextDelta):
            told[event.message_id] = told.get(event.message_id, "") + event.text
    assert told == messages_of(OURS[name])


@pytest.mark.parametrize("name", OURS)
def test_a_stream_is_told_in_order_and_knows_its_thread(name):
    machine = RunMachine()
    for at_ns, event in enumerate(events_of(ChatKit(), OURS[name].frames())):
        machine.feed(event, at_ns)
    assert machine.issues == {}
    assert (machine.thread_id or "").startswith("thr_")


# --- text and what it cites ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([delta("a"), delta("b"), whole("ab"),
          item("done", "assistant_message", content=[part("ab")])], "ab"),
        ([whole("ab"), item("done", "assistant_message", content=[part("ab")])], "ab"),
        ([item("done", "assistant_message", content=[part("ab"), part("c")])], "abc"),
        ([item("added", "assistant_message", content=[part("a")]), delta("b")], "ab"),
        ([delta("a", 0), delta("b", 1), whole("a")], "ab"),
        ([delta(""), delta(None), delta(7), whole("ab")], "ab"),
        ([item("done", "user_message", content=[part("secret")])], ""),
    ],
)  # fmt: skip
def test_text_is_told_once(frames, expected):
    assert text_of(said(*frames)) == expected


URL = {"type": "url", "title": "t", "url": "u"}
FILE = {"type": "file", "filename": "f.pdf"}


@pytest.mark.parametrize(
    "frames",
    [
        [annotation(URL), whole("a"), item("done", "assistant_message", content=[part("a", URL)])],
        [whole("a", URL), item("done", "assistant_message", content=[part("a", URL)])],
        [item("done", "assistant_message", content=[part("a", URL)])],
    ],
)
def test_what_a_text_cites_is_told_once(frames):
    sources = [event for event in said(*frames) if isinstance(event, ev.Source)]
    assert sources == [ev.Source(url="u", title="t")]


def test_a_message_begins_and_ends_once():
    frames = [item("added", "assistant_message"), delta("a"), item("done", "assistant_message")]
    assert said(*frames) == [
        ev.MessageStarted(message_id="it", role="assistant"),
        ev.TextDelta(text="a", message_id="it"),
        ev.MessageFinished(message_id="it"),
    ]


@pytest.mark.parametrize("text", ["b", "", None])
@pytest.mark.parametrize("index", [0, 1, "0", None])
def test_a_delta_says_the_same_read_quickly_or_in_full(text, index):
    body = delta(text, index)
    in_full = {**body, "update": {**body["update"], "type": "widget.streaming_text.value_delta"}}
    assert said(delta("a"), body) == said(delta("a"), in_full)


# --- workflows -----------------------------------------------------------------------------


def thoughts_of(events: list[ev.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, ev.ReasoningDelta)]


THOUGHT = {"type": "thought", "content": "Look first."}


def test_thoughts_grow_and_are_told_once():
    workflow = {"type": "reasoning", "tasks": [THOUGHT]}
    events = said(
        item("added", "workflow", workflow={"type": "reasoning", "tasks": []}),
        task("added", type="thought", content="Look"),
        task("updated", **THOUGHT),
        task("updated", **THOUGHT),
        item("done", "workflow", workflow=workflow),
    )
    assert thoughts_of(events) == ["Look", " first."]
    assert events[0] == ev.ReasoningStarted(message_id="it")
    assert events[-1] == ev.ReasoningFinished(message_id="it")


def test_thoughts_that_came_whole_are_told():
    workflow = {"type": "reasoning", "tasks": [THOUGHT]}
    assert thoughts_of(said(item("done", "workflow", workflow=workflow))) == ["Look first."]
    assert thoughts_of(said(item("done", "task", task=THOUGHT))) == ["Look first."]


def test_a_workflow_that_goes_on_repeats_no_thought_of_the_response_before():
    new = {"type": "thought", "content": "Then book."}
    workflow = {"type": "reasoning", "tasks": [THOUGHT, new]}
    events = said(task("added", 1, **new), item("done", "workflow", workflow=workflow))
    assert thoughts_of(events) == ["Then book."]


def test_a_workflow_that_is_no_reasoning_is_a_step():
    named = {"type": "custom", "tasks": [], "summary": {"title": "Research"}}
    frames = [item("added", "workflow", workflow=named), item("done", "workflow", workflow=named)]
    assert said(*frames) == [
        ev.StepStarted(name="Research", step_id="it"),
        ev.StepFinished(name="Research", step_id="it"),
    ]


def test_sources_of_a_task_are_told_as_they_come():
    events = said(
        task("added", type="web_search", sources=[URL]),
        task("updated", type="web_search", sources=[URL, FILE]),
    )
    assert [event for event in events if isinstance(event, ev.Source)] == [
        ev.Source(url="u", title="t"), ev.Source(title="f.pdf"),
    ]  # fmt: skip
    assert [event.name for event in events if isinstance(event, ev.Custom)] == ["web_search"] * 2


# --- what waits for the client -------------------------------------------------------------

INTERRUPTED = ev.RunInterrupted(reason="client_tool_call", tool_call_id="c")
FORM = item("done", "structured_input", status="pending")
ERROR = {"type": "error", "code": "custom", "message": "m", "allow_retry": False}


@pytest.mark.parametrize(
    ("frames", "ends"),
    [
        ([call("pending")], [INTERRUPTED]),
        ([call("pending"), call("pending")], [INTERRUPTED]),
        ([call("pending"), call("completed", output={})], []),
        ([FORM], [ev.RunInterrupted(reason="structured_input")]),
        ([FORM, item("replaced", "structured_input", status="answered")], []),
        ([call("pending"), ERROR], [ev.RunFailed(type="custom", message="m")]),
        ([ERROR, ERROR], [ev.RunFailed(type="custom", message="m")]),
        ([delta("a")], []),
    ],
)
def test_a_response_that_waits_for_the_client_is_interrupted(frames, ends):
    assert [event for event in said(*frames) if isinstance(event, ev.TERMINAL)] == ends


def test_a_tool_of_the_page_is_told_once_with_its_result():
    assert said(call("pending"), call("completed", output="x"), call("completed", output="x")) == [
        ev.ToolCallStarted(tool_call_id="c", name="pick"),
        ev.ToolCallReady(tool_call_id="c", arguments='{"a":1}'),
        ev.ToolCallResult(tool_call_id="c", result="x"),
    ]


def test_tools_without_ids_get_them():
    frames = [call("pending", id=None, call_id=None), call("completed", id=None, call_id=None)]
    ids = [event.tool_call_id for event in said(*frames) if isinstance(event, ev.ToolCallStarted)]
    assert ids == ["call-0", "call-1"]


# --- the rest ------------------------------------------------------------------------------


def test_the_thread_is_told_once_wherever_it_is_named_first():
    created = {"type": "thread.created", "thread": {"id": "t"}}
    message = item("done", "assistant_message", thread_id="t")
    for frames in ([created, message], [message, created], [{**created, "type": "thread.updated"}]):
        started = [event for event in said(*frames) if isinstance(event, ev.RunStarted)]
        assert started == [ev.RunStarted(thread_id="t")]


@pytest.mark.parametrize(
    "body",
    [
        {"type": "progress_update", "text": "t"},
        {"type": "client_effect", "name": "n"},
        {"type": "notice", "level": "info", "message": "m"},
        {"type": "thread.item.removed", "item_id": "it"},
        {"type": "brand.new"},
    ],
)
def test_what_is_only_shown_is_told_as_custom(body):
    assert said(body) == [ev.Custom(name=body["type"], value=body)]


def test_memory_is_bounded():
    decoder = ChatKit().decoder()
    for n in range(2 * chatkit.MAX_REMEMBERED):
        for body in (
            item("added", "assistant_message", id=f"m{n}", content=[part("a", URL)]),
            item("added", "workflow", id=f"w{n}", workflow={"tasks": [{"sources": [URL]}]}),
            call("pending", id=f"i{n}", call_id=f"c{n}"),
        ):
            list(decoder.decode(Frame(data=json.dumps(body).encode())))
    memories = (
        decoder._messages, decoder._told, decoder._cited, decoder._sources, decoder._workflows,
        decoder._calls, decoder._waiting,
    )  # fmt: skip
    assert all(len(memory) == chatkit.MAX_REMEMBERED for memory in memories)


@pytest.mark.parametrize(
    ("body", "fit"),
    [
        ({"type": "thread.created", "thread": {"id": "t"}}, Fit.YES),
        ({"type": "stream_options", "stream_options": {"allow_cancel": True}}, Fit.YES),
        (delta("a"), Fit.YES),
        (ERROR, Fit.MAYBE),
        ({"type": "notice", "message": "m"}, Fit.MAYBE),
        ({"type": "thread.item.done"}, Fit.NO),
        ({"type": "thread.item.new", "item": {}}, Fit.NO),
        ({"type": "error", "message": "m"}, Fit.NO),
        ({"type": 7}, Fit.NO),
        ([1], Fit.NO),
    ],
)
def test_recognises_its_own_events_only(body, fit):
    assert ChatKit().recognise(Head(), Frame(data=json.dumps(body).encode())) is fit
