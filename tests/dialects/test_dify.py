"""Dify's apps, rule by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.hot import both_ways, frames_like
from support.recordings import STREAMS
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects import dify
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.dify import MAX_TURN_CHARS, Dify
from streamtrace.observe.pipeline import Pipeline

OURS = {stream.name: stream for stream in STREAMS if stream.dialect == "dify"}


def frame(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, "task_id": "t", **fields}


def flow(event: str, **data: Any) -> dict[str, Any]:
    return frame(event, workflow_run_id="w", data=data)


def thought(thought_id: str = "th", **fields: Any) -> dict[str, Any]:
    return frame("agent_thought", id=thought_id, position=1, **fields)


def answer(text: str, event: str = "agent_message") -> dict[str, Any]:
    return frame(event, message_id="m", answer=text)


def said(*values: Any) -> list[ev.Event]:
    """The events, without the start of the run that every first frame tells."""
    events = events_of(Dify(), [Frame(data=json.dumps(value).encode()) for value in values])
    return events[1:] if isinstance(events[0], ev.RunStarted) else events


def told(name: str) -> list[ev.Event]:
    return events_of(Dify(), OURS[f"sample-dify-{name}"].frames())


def kinds(events: list[ev.Event], *types: type[ev.Event]) -> list[ev.Event]:
    return [event for event in events if isinstance(event, types)]


ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)


# --- whole runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text", "end"), [
    ("chatbot", "The iPhone 13 Pro Max 📱 has…", ev.RunFinished()),
    ("agent", "Let me look.It is 22 degrees at 09:00.", ev.RunFinished()),
    ("new_agent", "It is 22 degrees.", ev.RunFinished()),
    ("chatflow", "Hello there.", ev.RunFinished(
        run_id="fb47b2e6-5e43-4f90-be01-d5c5a088d156",
        thread_id="45701982-8118-4bc5-8e9b-64562b4555f2",
    )),
    ("workflow_not_streamed", "22 degrees", ev.RunFinished(
        run_id="fb47b2e6-5e43-4f90-be01-d5c5a088d156"
    )),
    ("paused", "", ev.RunInterrupted(reason="human_input_required")),
    ("agent_asks", "One question first.", ev.RunInterrupted(reason="human_input_required")),
    ("stopped", "22", ev.RunCancelled(reason="Workflow stopped by user.")),
    ("failed", "Hel", ev.RunFailed(type="completion_request_error", message="Rate limit reached")),
    ("moderated", "How to pick a ", ev.RunFinished()),
])  # fmt: skip
def test_a_run_has_its_text_and_its_end(name, text, end):
    events = told(name)
    assert text_of(events) == text
    assert kinds(events, *ENDS)[-1] == end


@pytest.mark.parametrize("stream", OURS.values(), ids=str)
def test_no_run_is_out_of_order(stream):
    pipeline = Pipeline(stream.head)
    pipeline.feed(stream.body, 0)
    assert pipeline.close(StreamEnd(at_ns=1, final=True), started_at_ns=0).issues == {}


def test_a_run_is_that_of_the_workflow_else_of_the_task():
    first = frame("message", workflow_run_id=None, conversation_id="c", answer="")
    assert events_of(Dify(), [Frame(data=json.dumps(first).encode())]) == [
        ev.RunStarted(run_id="t", thread_id="c")
    ]
    assert told("workflow")[0] == ev.RunStarted(run_id="fb47b2e6-5e43-4f90-be01-d5c5a088d156")


# --- the end --------------------------------------------------------------------------------

USAGE = {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
RUN_USAGE = ev.Usage(input_tokens=3, output_tokens=4, scope="run")


def test_the_message_of_a_chatflow_ends_before_its_workflow():
    events = said(flow("workflow_started"), frame("message_end", message_id="m", metadata=USAGE))
    assert events == [RUN_USAGE, ev.MessageFinished(message_id="m")]


def test_or_after_it_as_older_servers_have_it():
    message_end = frame("message_end", message_id="m", metadata=USAGE)
    events = said(
        flow("workflow_started"), flow("workflow_finished", status="succeeded"), message_end
    )
    assert events == [
        ev.RunFinished(run_id="w"), RUN_USAGE, ev.Custom(name="message_end", value=message_end)
    ]  # fmt: skip


@pytest.mark.parametrize(("status", "end"), [
    ("succeeded", ev.RunFinished(run_id="w")),
    ("partial-succeeded", ev.RunFinished(run_id="w")),
    ("failed", ev.RunFailed(message="boom")),
    ("exception", ev.RunFailed(message="boom")),
    ("stopped", ev.RunCancelled(reason="boom")),
    (7, ev.RunFinished(run_id="w")),
])  # fmt: skip
def test_a_workflow_ends_by_its_status(status, end):
    assert said(flow("workflow_finished", status=status, error="boom")) == [end]


@pytest.mark.parametrize("usage", [{}, {"total_tokens": 7}, {"prompt_tokens": "3"}, None, [1]])
def test_counts_of_no_known_side_are_absent(usage):
    assert kinds(said(frame("message_end", metadata={"usage": usage})), ev.Usage) == []


def test_a_run_that_was_asked_a_question_goes_on_as_the_next():
    assert kinds(told("resumed"), ev.RunStarted, *ENDS) == [
        ev.RunStarted(run_id="fb47b2e6-5e43-4f90-be01-d5c5a088d156"),
        ev.RunInterrupted(reason="human_input_required"),
        ev.RunStarted(),
        ev.RunFinished(run_id="fb47b2e6-5e43-4f90-be01-d5c5a088d156"),
    ]


@pytest.mark.parametrize(("data", "reason"), [
    ({"reasons": [{"TYPE": "scheduled_pause"}]}, "scheduled_pause"),
    ({"reasons": []}, "human_input_required"),
    ({"reasons": [7]}, "human_input_required"),
])  # fmt: skip
def test_a_pause_says_why_or_the_question_does(data, reason):
    events = said(flow("human_input_required"), flow("workflow_paused", **data))
    assert events[-1] == ev.RunInterrupted(reason=reason)


def test_an_error_has_no_task():
    error = {"event": "error", "status": 400, "code": "invalid_param", "message": "no"}
    assert said(error) == [ev.RunFailed(type="invalid_param", message="no")]
    assert said({"event": "error", "status": 500}) == [ev.RunFailed(type="500")]


def test_a_ping_is_a_name_without_data():
    assert events_of(Dify(), frames_of(b"event: ping\n\n")) == [ev.Heartbeat()]
    assert said(frame("ping")) == [ev.Heartbeat()]


# --- text -----------------------------------------------------------------------------------


def test_after_agent_messages_a_message_is_the_answer_once_more():
    assert text_of(said(answer("Hi"), answer(" you"), answer("Hi you", "message"))) == "Hi you"
    assert text_of(said(answer("Hi", "message"), answer(" you", "message"))) == "Hi you"


@pytest.mark.parametrize("kind", ["message_replace", "text_replace"])
def test_a_replaced_answer_is_text_only_where_none_was_told(kind):
    replace = frame(kind, answer="No.", data={"text": "No."})
    assert text_of(said(replace)) == "No."
    assert said(answer("Hi"), replace)[1:] == [ev.Custom(name=kind, value=replace)]


@pytest.mark.parametrize(("outputs", "text"), [
    ({"answer": "Hi"}, "Hi"), ({"a": "Hi", "b": "you"}, ""), ({"n": 7}, ""), ({}, ""), (None, ""),
])  # fmt: skip
def test_the_only_output_of_a_workflow_that_streamed_nothing_is_its_text(outputs, text):
    finished = flow("workflow_finished", status="succeeded", outputs=outputs)
    assert text_of(said(finished)) == text
    assert text_of(said(flow("text_chunk", text="x"), finished)) == "x"


# --- steps of an agent ----------------------------------------------------------------------


def test_a_thought_is_told_as_it_grows_and_once():
    grown = [thought(thought=text) for text in ("", "I", "I see", "I see")]
    assert said(*grown) == [ev.ReasoningDelta(text="I"), ev.ReasoningDelta(text=" see")]


def test_a_thought_that_was_streamed_as_the_answer_is_not_told():
    assert said(answer("I "), answer("see. "), thought(thought="I see."))[2:] == []
    long = answer("x" * MAX_TURN_CHARS)
    assert kinds(said(long, thought(thought="I see.")), ev.ReasoningDelta) == []


def test_a_result_ends_the_turn_in_which_a_thought_is_looked_for():
    call = {"tool": "f", "tool_input": "{}", "observation": "ok"}
    events = said(answer("I see"), thought("a", **call), thought("b", thought="I see"))
    assert kinds(events, ev.ReasoningDelta) == [ev.ReasoningDelta(text="I see")]


@pytest.mark.parametrize(("tool_input", "observation", "arguments", "result"), [
    ('{"f": {"q": 1}}', '{"f": "ok"}', '{"q":1}', "ok"),
    ('{"q": 1}', "plain", '{"q": 1}', "plain"),
    ('{"f": "x"}', '{"f": {"a": 1}}', "x", '{"a":1}'),
    ('{"f": ', "\ud83d", '{"f": ', "\ud83d"),
    ("", "ok", None, "ok"),
])  # fmt: skip
def test_a_tool_has_its_arguments_and_its_result(tool_input, observation, arguments, result):
    call = {"tool": "f", "tool_input": tool_input}
    assert said(thought(**call), thought(**call, observation=observation)) == [
        ev.ToolCallStarted(tool_call_id="th", name="f"),
        ev.ToolCallReady(tool_call_id="th", arguments=arguments),
        ev.ToolCallResult(tool_call_id="th", result=result),
    ]


@pytest.mark.parametrize("next_frame", [
    answer("Hi"), thought("other"), frame("message_end"), flow("workflow_finished"),
    {"event": "error"}, flow("text_chunk", text="x"),
], ids=lambda one: one["event"])  # fmt: skip
def test_arguments_are_complete_when_something_else_comes(next_frame):
    grown = [thought(tool="f", tool_input=text) for text in ('{"q"', '{"q": 1}')]
    assert said(*grown, next_frame)[:2] == [
        ev.ToolCallStarted(tool_call_id="th", name="f"),
        ev.ToolCallReady(tool_call_id="th", arguments='{"q": 1}'),
    ]


def test_a_call_whose_stream_was_cut_is_not_ready():
    assert said(thought(tool="f", tool_input='{"q"')) == [
        ev.ToolCallStarted(tool_call_id="th", name="f")
    ]


def test_several_tools_of_a_thought_are_several_calls():
    calls = kinds(told("agent"), ev.ToolCallStarted, ev.ToolCallReady, ev.ToolCallResult)
    assert calls == [
        ev.ToolCallStarted(tool_call_id="th-1:0", name="get_weather"),
        ev.ToolCallStarted(tool_call_id="th-1:1", name="get_time"),
        ev.ToolCallReady(tool_call_id="th-1:0", arguments='{"city":"Tokyo"}'),
        ev.ToolCallReady(tool_call_id="th-1:1", arguments='{"zone":"Asia/Tokyo"}'),
        ev.ToolCallResult(tool_call_id="th-1:0", result="22 degrees"),
        ev.ToolCallResult(tool_call_id="th-1:1", result="09:00"),
    ]
    unkeyed = {"tool": "f;g", "tool_input": "{}", "observation": "ok"}
    results = kinds(said(thought(**unkeyed)), ev.ToolCallResult)
    assert [one.result for one in results] == ["ok", None]


# --- steps of a workflow --------------------------------------------------------------------


def test_a_model_is_told_of_where_its_node_is_shown():
    assert kinds(told("workflow"), ev.GenerationStarted, ev.GenerationFinished, ev.Usage) == [
        ev.GenerationStarted(key="ne-1"),
        ev.GenerationStarted(key="ne-1", model="gpt-5.5-mini", provider="langgenius/openai/openai"),
        ev.Usage(input_tokens=31, output_tokens=19),
        ev.GenerationFinished(finish_reasons=("stop",)),
    ]


def test_of_two_models_side_by_side_only_the_last_that_began_is_told_of():
    facts = {"process_data": {"model_name": "m"}}
    events = said(
        flow("node_started", id="a", node_type="llm", title="A"),
        flow("node_started", id="b", node_type="llm", title="B"),
        flow("node_finished", id="a", title="A", **facts),
        flow("node_finished", id="b", title="B", **facts),
    )
    assert events[-3:] == [
        ev.StepFinished(name="A", step_id="a"),
        ev.GenerationStarted(key="b", model="m"),
        ev.StepFinished(name="B", step_id="b"),
    ]


@pytest.mark.parametrize(("data", "name", "step_id"), [
    ({"id": "e", "node_id": "n", "title": "T"}, "T", "e"),
    ({"node_id": "n", "title": "", "node_type": "code"}, "code", "n"),
    ({"title": 7}, "7", None),
    ({}, "node", None),
])  # fmt: skip
def test_a_node_is_a_step(data, name, step_id):
    assert said(flow("node_started", **data), flow("node_finished", **data)) == [
        ev.StepStarted(name=name, step_id=step_id),
        ev.StepFinished(name=name, step_id=step_id),
    ]


def test_separate_reasoning_is_told_and_ends():
    def chunk(text: str, final: bool) -> dict[str, Any]:
        return flow("reasoning_chunk", message_id="m", reasoning=text, is_final=final)

    assert said(chunk("", False), chunk("hm", False), chunk("", True), chunk("", True)) == [
        ev.ReasoningStarted(message_id="m"),
        ev.ReasoningDelta(text="hm", message_id="m"),
        ev.ReasoningFinished(message_id="m"),
    ]


def test_what_is_not_known_is_kept():
    assert said(flow("new_thing", x=1)) == [
        ev.Custom(name="new_thing", value=flow("new_thing", x=1))
    ]
    assert events_of(Dify(), frames_of(b"data: [1]\n\n")) == [ev.Custom(name="unknown", value=[1])]


# --- recognised -----------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "fit"), [
    (frame("message", answer="x"), Fit.YES),
    (flow("workflow_started"), Fit.YES),
    ({"event": "message", "answer": "x"}, Fit.NO),
    (frame("on_chain_start"), Fit.NO),
    ({"event": "error", "status": 400, "code": "x", "message": "y"}, Fit.MAYBE),
    ({"event": "error", "message": "y"}, Fit.NO),
    ({"event": "message", "task_id": 7}, Fit.NO),
    ({"event": ["message"], "task_id": "t"}, Fit.NO),
    ("message", Fit.NO),
])  # fmt: skip
def test_a_known_event_with_a_task_is_sure(value, fit):
    assert Dify().recognise(Head(), Frame(data=json.dumps(value).encode())) is fit


# --- the fast path --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", OURS.values(), ids=str)
def test_hot_frames_of_a_stream_read_as_the_others_do(stream):
    fast, slow = both_ways(Dify(), dify, "_read_hot", stream.frames())
    assert fast == slow


@pytest.mark.parametrize("before", [
    answer("a", "message"), answer("a"), thought(tool="f"), flow("workflow_finished"),
], ids=lambda one: one["event"])  # fmt: skip
def test_hot_frames_of_any_shape_read_as_the_others_do(before):
    hot = (answer("x"), answer("y", "message"), flow("text_chunk", text="z"))
    first = Frame(data=json.dumps(before).encode())
    for one in frames_like(*hot):
        fast, slow = both_ways(Dify(), dify, "_read_hot", [first, one])
        assert fast == slow
