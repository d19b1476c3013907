"""LangGraph's server. What it shares with other servers of LangChain is in test_langchain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Head
from streamtrace.dialects.langgraph import LangGraph

RECORDINGS = Path(__file__).parents[1] / "recordings"
LANGGRAPH = LangGraph()
RUN = ("metadata", {"run_id": "run-1", "attempt": 1})
ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)


def recorded(name: str) -> list[ev.Event]:
    return events_of(LANGGRAPH, frames_of((RECORDINGS / f"langgraph_{name}.sse").read_bytes()))


def said(*frames: tuple[str, Any], head: Head | None = None) -> list[ev.Event]:
    body = "".join(f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n" for name, data in frames)
    return events_of(LANGGRAPH, frames_of(body.encode()), head)


def folded(events: list[ev.Event]) -> RunSummary:
    machine = RunMachine()
    for event in events:
        machine.feed(event, 1)
    return machine.summary(StreamEnd(at_ns=2, final=True), started_at_ns=0, needs_terminal=False)


def of(kind: type[ev.Event] | tuple[type[ev.Event], ...], events: list[ev.Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def pair(
    text: str, node: str = "agent", task: str = "t1", step: int = 1, message_id: str = "m1"
) -> tuple[str, Any]:
    *graph, task = task.split("|")
    place = "|".join([*graph, f"{node}:{task}"])
    metadata = {
        "graph_id": "weather", "thread_id": "thread-1", "langgraph_node": node,
        "langgraph_step": step, "langgraph_checkpoint_ns": place,
    }  # fmt: skip
    return "messages", [{"type": "AIMessageChunk", "content": text, "id": message_id}, metadata]


def ai(text: str, message_id: str) -> dict[str, Any]:
    return {"type": "ai", "content": text, "id": message_id}


HUMAN = {"type": "human", "content": "?", "id": "h1"}


# --- the run -------------------------------------------------------------------------------------


def test_a_run_with_a_tool_becomes_these_events():
    run_id, thread_id = (
        "01a1f6b3-979b-734d-a4fd-c01f9e4f9dda", "01a1f6b3-979b-734d-a4fd-c020d4119a60",
    )  # fmt: skip
    agent, tools, again = (
        "0b70685a-639c-ed69-d474-b5125fdc9181", "27125767-949a-19d4-0057-a7287da1b4a7",
        "c4304ae2-d4f3-9e29-86b8-e922bb54460e",
    )  # fmt: skip
    events = recorded("messages_tuple_updates_custom")
    assert [event for event in events if not isinstance(event, ev.Custom)] == [
        ev.RunStarted(run_id=run_id),
        ev.RunStarted(run_id=run_id, thread_id=thread_id, agent="agent"),
        ev.StepStarted(name="agent", step_id=agent),
        ev.GenerationStarted(response_id="run-x", provider="m"),
        ev.MessageStarted(message_id="run-x", role="assistant"),
        ev.ToolCallStarted(tool_call_id="call_1", name="search"),
        ev.ToolCallArgumentsDelta(tool_call_id="call_1", delta='{"q": "x"}'),
        ev.Usage(input_tokens=5, output_tokens=3),
        ev.GenerationStarted(response_id="run-x", model="fake-1", provider="m"),
        ev.ToolCallReady(tool_call_id="call_1"),
        ev.GenerationFinished(finish_reasons=("tool_calls",)),
        ev.MessageFinished(message_id="run-x"),
        ev.StepFinished(name="agent", step_id=agent),
        ev.StepStarted(name="tools", step_id=tools),
        ev.ToolCallResult(tool_call_id="call_1", result="result for x"),
        ev.StepFinished(name="tools", step_id=tools),
        ev.StepStarted(name="agent", step_id=again),
        ev.GenerationStarted(response_id="run-x2", provider="m"),
        ev.MessageStarted(message_id="run-x2", role="assistant"),
        ev.TextDelta(text="Hel", message_id="run-x2"),
        ev.TextDelta(text="lo", message_id="run-x2"),
        ev.Usage(input_tokens=9, output_tokens=2, cached_input_tokens=4),
        ev.GenerationStarted(response_id="run-x2", model="fake-1", provider="m"),
        ev.GenerationFinished(finish_reasons=("stop",)),
        ev.MessageFinished(message_id="run-x2"),
        ev.StepFinished(name="agent", step_id=again),
    ]
    assert [event.name for event in of(ev.Custom, events)] == ["updates", "custom"] + [
        "updates"
    ] * 2


@pytest.mark.parametrize(("location", "run_id", "thread_id"), [
    ("/threads/t/runs/r", "r", "t"), ("/runs/r", "r", None), ("/threads/t", None, "t"),
    ("/threads/t/runs/r/stream", "r", "t"), ("/elsewhere", None, None), ("", None, None),
])  # fmt: skip
def test_the_header_names_thread_and_run_before_the_first_frame(location, run_id, thread_id):
    head = Head(headers={"content-location": location})
    started = of(ev.RunStarted, said(("custom", 1), head=head))
    expected = ev.RunStarted(run_id=run_id, thread_id=thread_id)
    assert started == ([] if location in ("", "/elsewhere") else [expected])


@pytest.mark.parametrize(("asked", "agent"), [
    ("weather", "weather"), ("fe096781-5601-53d2-b2f6-0d3403f7e9ca", None), (7, "7"), (None, None),
])  # fmt: skip
def test_the_request_may_name_the_graph(asked, agent):
    head = Head(request={"assistant_id": asked})
    assert said(RUN, head=head)[0] == ev.RunStarted(run_id="run-1", agent=agent)


def test_the_run_is_told_once_unless_more_is_known_of_it():
    events = said(RUN, ("custom", 1), pair("Hi"), pair(" you"))
    assert of(ev.RunStarted, events) == [
        ev.RunStarted(run_id="run-1"),
        ev.RunStarted(run_id="run-1", thread_id="thread-1", agent="weather"),
    ]


@pytest.mark.parametrize(("data", "event"), [
    ({"error": "ValueError", "message": "kaput"}, ev.RunFailed(type="ValueError", message="kaput")),
    ({"error": "NotImplementedError", "message": ""},
     ev.RunFailed(type="NotImplementedError")),
    ("kaput", ev.RunFailed(message="kaput")),
    ({"message": "no", "code": 503}, ev.RunFailed(type="503", message="no")),
    ({"detail": "Not found"}, ev.RunFailed(message="Not found")),
    ({"error": "UserInterrupt", "message": "stop"}, ev.RunCancelled(reason="stop")),
    ({"error": "UserRollback", "message": "stop"}, ev.RunCancelled(reason="stop")),
])  # fmt: skip
def test_an_error_ends_the_run(data, event):
    assert said(RUN, ("error", data))[-1] == event


def test_a_stream_that_stops_says_nothing_of_its_end():
    assert of(ENDS, said(RUN, pair("Hi"))) == []
    assert folded(said(RUN, pair("Hi"))).status == "completed"


INTERRUPT = [{"value": {"question": "Which?"}, "id": "i"}]
QUESTION = ev.RunInterrupted(reason='{"question":"Which?"}')


@pytest.mark.parametrize("frame", [
    ("updates", {"__interrupt__": INTERRUPT}),
    ("values", {"__interrupt__": INTERRUPT}),
    ("values", {"messages": [], "__interrupt__": INTERRUPT}),
    ("updates|a:1", {"__interrupt__": INTERRUPT}),
    ("tasks", {"id": "t", "name": "n", "result": {}, "interrupts": INTERRUPT}),
    ("debug", {"type": "task_result",
               "payload": {"id": "t", "name": "n", "result": {}, "interrupts": INTERRUPT}}),
])  # fmt: skip
def test_a_question_is_told_when_the_stream_ends(frame):
    """Other branches go on until then."""
    events = said(RUN, frame, pair("Hi"), frame)
    assert of(ENDS, events) == [QUESTION]
    assert events[-1] == QUESTION
    assert folded(events).issues == {}


@pytest.mark.parametrize(("value", "reason"), [("Which?", "Which?"), (None, None), (7, "7")])
def test_the_question_is_the_reason(value, reason):
    frame = ("values", {"__interrupt__": [{"value": value}]})
    assert said(RUN, frame)[-1] == ev.RunInterrupted(reason=reason)


def test_an_error_is_stronger_than_a_question():
    events = said(RUN, ("updates", {"__interrupt__": INTERRUPT}), ("error", {"error": "E"}))
    assert of(ENDS, events) == [ev.RunFailed(type="E")]


DONE = ("metadata", {"status": "run_done", "run_id": "run-1"})


def test_the_stream_of_a_thread_holds_run_after_run():
    events = said(
        RUN, ("values", {"messages": [HUMAN]}), pair("One."), DONE,
        ("metadata", {"run_id": "run-2", "attempt": 1}),
        ("values", {"messages": [HUMAN, ai("One.", "m1"), ai("Before.", "m0")]}),
        ("values", {"messages": [HUMAN, ai("One.", "m1"), ai("Before.", "m0"), ai("Two.", "m2")]}),
        ("updates", {"__interrupt__": INTERRUPT}),
        ("metadata", {"status": "run_done", "run_id": "run-2"}),
        ("metadata", {"run_id": "run-3", "attempt": 1}),
        ("error", {"error": "E"}),
        ("metadata", {"status": "run_done", "run_id": "run-3"}),
        ("metadata", {"run_id": "run-4", "attempt": 1}), pair("Four.", task="t4", message_id="m4"),
        ("metadata", {"status": "run_done", "run_id": "run-4"}),
    )  # fmt: skip
    assert [getattr(event, "run_id", event) for event in of((ev.RunStarted, *ENDS), events)] == [
        "run-1", "run-1", "run-1", "run-2", QUESTION, "run-3", ev.RunFailed(type="E"), "run-4",
        "run-4",
    ]  # fmt: skip
    assert text_of(events) == "One.Two.Four."
    assert (folded(events).status, folded(events).issues) == ("completed", {})


def test_what_comes_after_the_end_begins_no_run():
    events = said(RUN, DONE, pair("Late."))
    assert of((ev.RunStarted, *ENDS), events) == [
        ev.RunStarted(run_id="run-1"), ev.RunFinished(run_id="run-1"),
    ]  # fmt: skip


def test_old_servers_say_that_the_run_is_over():
    body = b'event: metadata\r\ndata: {"run_id":"r"}\r\n\r\nevent: end\r\ndata: null\r\n\r\n'
    for end in (body, body.replace(b"data: null\r\n", b"")):
        assert events_of(LANGGRAPH, frames_of(end))[-1] == ev.RunFinished(run_id="r")


# --- modes ---------------------------------------------------------------------------------------


def test_the_first_state_of_a_run_is_what_it_began_with():
    """Of each graph by itself."""
    before, after = [ai("Old.", "m0"), HUMAN], [ai("Old.", "m0"), HUMAN, ai("New.", "m1")]
    inner = [*after, ai("Inner.", "m2")]
    events = said(
        RUN, ("values", {"messages": before}), ("values", {"messages": after}),
        ("values|sub:1", {"messages": after}), ("values|sub:1", {"messages": inner}),
        ("values", {"messages": inner}),
    )  # fmt: skip
    assert text_of(events) == "New.Inner."


def test_a_question_alone_is_no_state():
    events = said(
        RUN, ("values", {"__interrupt__": INTERRUPT}), ("values", {"messages": [ai("Old.", "m0")]})
    )
    assert text_of(events) == ""


def test_updates_may_be_lists_or_empty():
    events = said(
        RUN, ("updates", {"a": [{"messages": [ai("1", "m1")]}, None], "b": None, "__start__": {}})
    )
    assert text_of(events) == "1"
    assert [step.name for step in of(ev.StepStarted, events)] == ["a", "b"]


def test_checkpoints_are_states_and_tell_no_messages():
    events = said(RUN, ("checkpoints", {"values": {"messages": [ai("Hi", "m")]}}),
                  ("debug", {"type": "checkpoint", "payload": {"values": {"a": 1}}}))  # fmt: skip
    assert [state.value for state in of(ev.State, events)] == [
        {"messages": [ai("Hi", "m")]}, {"a": 1},
    ]  # fmt: skip
    assert text_of(events) == ""


@pytest.mark.parametrize(("frame", "name"), [
    (("custom", {"a": 1}), "custom"), (("custom|a:1", "x"), "custom"),
    (("feedback", {"key": "url"}), "feedback"), (("brand_new", {}), "brand_new"),
    (("messages", {"odd": 1}), "messages"), (("messages", [1, 2, 3]), "messages"),
    (("events", {"odd": 1}), "events"), (("debug", {"type": "odd"}), "debug"),
    (("tasks", {"odd": 1}), "tasks"), (("values", [1]), "values"),
    (("tools", {"event": "tool-output-delta", "tool_call_id": "c", "delta": "x"}),
     "tool-output-delta"),
    (("tasks", {"id": "t", "name": "n", "error": "boom"}), "task_error"),
])  # fmt: skip
def test_what_nobody_knows_is_passed_on(frame, name):
    assert [event.name for event in of(ev.Custom, said(RUN, frame))] == [name]


def test_tools_tell_of_their_calls():
    call = {"tool_call_id": "c", "tool_name": "search", "input": {"q": 1}}
    events = said(
        RUN, ("tools", {"event": "tool-started", **call}),
        ("tools", {"event": "tool-error", "tool_call_id": "c", "message": "no"}),
    )  # fmt: skip
    assert events[1:] == [
        ev.ToolCallStarted(tool_call_id="c", name="search"),
        ev.ToolCallReady(tool_call_id="c", arguments='{"q":1}'),
        ev.ToolCallResult(tool_call_id="c", result="no", is_error=True),
    ]


def test_what_a_user_says_in_a_node_is_passed_on():
    events = said(RUN, ("messages", [{**HUMAN, "content": "And?"}, {}]))
    assert of(ev.Custom, events) == [ev.Custom(name="human", value={**HUMAN, "content": "And?"})]


# --- steps ---------------------------------------------------------------------------------------


def steps(events: list[ev.Event]) -> list[str]:
    marks = {ev.StepStarted: "+", ev.StepFinished: "-"}
    return [marks[type(event)] + event.name for event in of((*marks,), events)]


@pytest.mark.parametrize(("frames", "expected"), [
    ([pair("a"), pair("b")], ["+agent"]),
    ([pair("a"), ("updates", {"agent": {}})], ["+agent", "-agent"]),
    ([pair("a"), pair("b", node="tools", task="t2", step=2)], ["+agent", "-agent", "+tools"]),
    ([pair("a"), pair("b", node="side", task="t2", step=1)], ["+agent", "+side"]),
    ([pair("a", node="draft", task="write:w1|t1")], ["+write", "+draft"]),
    ([pair("a"), pair("b", node="draft", task="write:w1|t9", step=5)],
     ["+agent", "+write", "+draft"]),
    ([pair("a", node="draft", task="write:w1|t1", step=9), ("updates|write:w1", {"draft": {}}),
      ("updates", {"write": {}})], ["+write", "+draft", "-draft", "-write"]),
    ([("updates", {"agent": {}})], ["+agent", "-agent"]),
    ([("tasks", {"id": "t", "name": "n", "input": {}}), ("tasks", {"id": "t", "name": "n",
      "result": {}}), ("updates", {"n": {}})], ["+n", "-n"]),
    ([("tasks", {"id": "t1", "name": "agent", "input": {}}), pair("a"), ("debug", {"type": "task",
      "payload": {"id": "t1", "name": "agent"}})], ["+agent"]),
    ([("messages/metadata", {"m1": {"metadata": pair("")[1][1]}})], ["+agent"]),
    ([pair("a"), ("updates", {"agent": {}}), pair("b")], ["+agent", "-agent"]),
    ([pair("a", task="|".join(f"n:{n}" for n in range(400)))], ["+n"] * 16),
])  # fmt: skip
def test_nodes_are_steps(frames, expected):
    assert steps(said(RUN, *frames)) == expected


def test_branches_are_steps_side_by_side():
    assert steps(recorded("parallel")) == [
        "+agent", "-agent", "+left", "+right", "-left", "-right",
    ]  # fmt: skip


def test_of_events_only_tasks_of_the_graph_are_steps():
    assert steps(recorded("events")) == ["+agent", "-agent", "+tools", "-tools", "+agent", "-agent"]


# --- the hot frame -------------------------------------------------------------------------------


def test_words_of_another_message_with_the_same_tail_go_to_it():
    events = said(RUN, pair("a"), pair("b"), pair("x", message_id="m2"), pair("c"), pair("d"))
    assert [(one.text, one.message_id) for one in of(ev.TextDelta, events)] == [
        ("a", "m1"), ("b", "m1"), ("x", "m2"), ("c", "m1"), ("d", "m1"),
    ]  # fmt: skip


def test_generations_of_branches_keep_what_is_theirs():
    run = folded(recorded("parallel"))
    assert [one.usage.output_tokens for one in run.generations] == [6, 3, 3]
    assert run.usage.output_tokens == 12
    assert run.issues == {}
