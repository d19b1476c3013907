"""Agno's agents, teams and workflows: against what the wire repeats of itself, rule by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.hot import both_ways, frames_like
from support.recordings import STREAMS
from support.wire import events_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects import agno
from streamtrace.dialects.agno import MAX_REMEMBERED, Agno
from streamtrace.dialects.base import Fit, Head
from streamtrace.observe.pipeline import Pipeline

OURS = {stream.name: stream for stream in STREAMS if stream.dialect == "agno"}
ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)


def frame(event: str, run_id: str | None = "r", **fields: Any) -> dict[str, Any]:
    return {"created_at": 1, "event": event, "agent_name": "A", "run_id": run_id, **fields}


def inner(event: str, run_id: str = "inner", **fields: Any) -> dict[str, Any]:
    return frame(event, run_id, parent_run_id="r", agent_name="B", **fields)


def tool(event: str, **facts: Any) -> dict[str, Any]:
    known = {"tool_call_id": "c", "tool_name": "f", "tool_args": {"q": 1}}
    return frame(event, tool={**known, **facts})


def said(*values: Any) -> list[ev.Event]:
    """The events, without the start of the run that every first frame tells."""
    return events_of(Agno(), [Frame(data=json.dumps(value).encode()) for value in values])[1:]


def told(name: str) -> list[ev.Event]:
    return events_of(Agno(), OURS[name].frames())


def kinds(events: list[ev.Event], *types: type[ev.Event]) -> list[ev.Event]:
    return [event for event in events if isinstance(event, types)]


def wire(name: str) -> list[dict[str, Any]]:
    return [value for one in OURS[name].frames() if isinstance(value := one.json(), dict)]


# --- against what the server says at the end ------------------------------------------------

COMPLETED = [name for name in OURS if OURS[name].body.count(b"RunCompleted\n")]


@pytest.mark.parametrize("name", sorted(set(COMPLETED) - {"agno_agent_cancelled"}))
def test_the_deltas_of_each_run_are_what_its_end_repeats(name):
    events = told(name)
    for end in wire(name):
        if end["event"].endswith("RunCompleted"):
            run_id = end["run_id"]
            texts = [one.text for one in kinds(events, ev.TextDelta) if one.message_id == run_id]
            thoughts = [
                one.text for one in kinds(events, ev.ReasoningDelta) if one.message_id == run_id
            ]
            assert "".join(texts) == end["content"]
            assert "".join(thoughts) == end.get("reasoning_content", "")


@pytest.mark.parametrize("name", ["agno_agent", "agno_tool_error", "agno_reasoning", "agno_team"])
def test_the_usage_of_all_generations_is_that_of_all_runs(name):
    usages = [one for one in told(name) if isinstance(one, ev.Usage)]
    for count in ("input_tokens", "output_tokens", "reasoning_tokens", "cached_input_tokens"):
        sums = {
            scope: sum(getattr(one, count) or 0 for one in usages if one.scope == scope)
            for scope in ("generation", "run")
        }
        assert sums["generation"] == sums["run"], count


@pytest.mark.parametrize("name", OURS)
def test_no_run_is_out_of_order(name):
    pipeline = Pipeline(OURS[name].head)
    pipeline.feed(OURS[name].body, 0)
    issues = pipeline.close(StreamEnd(at_ns=1, final=True), started_at_ns=0).issues
    assert issues.keys() <= {"usage_partial"}


# --- runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "end"), [
    ("agno_agent_error", ev.RunFailed(type="RuntimeError", message="model is overloaded")),
    ("agno_agent_paused", ev.RunInterrupted(reason="requires_confirmation", tool_call_id="call_1")),
])  # fmt: skip
def test_a_run_ends_as_its_server_said(name, end):
    assert kinds(told(name), *ENDS) == [end]


def test_a_cancelled_run_is_completed_as_well_and_is_cancelled():
    [end] = kinds(told("agno_agent_cancelled"), *ENDS)
    assert isinstance(end, ev.RunCancelled)
    assert text_of(told("agno_agent_cancelled")) == "word0 word1 word2 word3 "


def test_a_team_is_the_run_and_its_members_are_steps():
    events = told("agno_team")
    start = events[0]
    assert isinstance(start, ev.RunStarted)
    assert (start.agent, start.thread_id) == ("Weather Team", "session-1")
    [step] = kinds(events, ev.StepStarted)
    assert isinstance(step, ev.StepStarted)
    assert step.name == "Weather Agent"
    assert kinds(events, ev.StepFinished, *ENDS) == [
        ev.StepFinished(name="Weather Agent", step_id=step.step_id),
        ev.RunFinished(run_id=start.run_id, thread_id="session-1"),
    ]
    assert [one.model for one in kinds(events, ev.Usage) if one.scope == "run"] == [
        "scripted-1", "leader-1",
    ]  # fmt: skip


def test_a_workflow_is_the_run_and_tells_what_its_last_step_made():
    events = told("agno_workflow")
    assert text_of(events) == "Draft done.Looks good.2 words"
    names = [one.name for one in kinds(events, ev.StepStarted)]
    assert names == ["Write", "Writer", "Checks", "Review", "Reviewer", "Count"]
    assert sorted(one.name for one in kinds(events, ev.StepFinished)) == sorted(names)


def test_the_first_frame_may_be_of_an_inner_run():
    events = events_of(Agno(), [Frame(data=json.dumps(inner("RunContent", content="x")).encode())])
    assert events == [ev.RunStarted(run_id="r"), ev.TextDelta(text="x", message_id="inner")]


@pytest.mark.parametrize(("value", "end"), [
    (frame("RunError", content="no", error_type="T"), ev.RunFailed(type="T", message="no")),
    (frame("TeamRunError", content="no", error_id="i"), ev.RunFailed(type="i", message="no")),
    (frame("RunError", None, content="no"), ev.RunFailed(message="no")),
    (frame("WorkflowError", error="no", error_type="T"), ev.RunFailed(type="T", message="no")),
    ({"event": "error", "error": "no"}, ev.RunFailed(message="no")),
    (frame("RunCancelled", reason="why"), ev.RunCancelled(reason="why")),
    (frame("WorkflowCancelled", reason="why"), ev.RunCancelled(reason="why")),
    (frame("WorkflowPaused", pause_kind="router"), ev.RunInterrupted(reason="router")),
])  # fmt: skip
def test_an_end_is_told_in_each_of_its_shapes(value, end):
    assert said(frame("RunStarted"), value) == [end]


@pytest.mark.parametrize("event", ["RunError", "RunCancelled", "RunPaused", "RunCompleted"])
def test_the_end_of_an_inner_run_is_not_the_end(event):
    events = said(frame("TeamRunStarted"), inner("RunStarted"), inner(event))
    assert events[-1] == ev.StepFinished(name="B", step_id="inner")
    assert not kinds(events, *ENDS)


def test_a_run_that_is_continued_is_the_next():
    assert said(frame("RunPaused"), frame("RunContinued"), frame("RunCompleted")) == [
        ev.RunInterrupted(),
        ev.RunStarted(run_id="r", agent="A"),
        ev.RunFinished(run_id="r"),
    ]


def test_the_tools_of_a_question_may_stand_in_its_requirements():
    asked = {"tool_call_id": "c", "tool_name": "f", "requires_user_input": True}
    requirements = [{"tool_execution": asked}]
    assert said(frame("TeamRunPaused", requirements=requirements)) == [
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c"),
        ev.RunInterrupted(reason="requires_user_input", tool_call_id="c"),
    ]


def test_a_step_of_a_workflow_may_fail():
    step = {"step_name": "S", "step_id": "s"}
    failed = frame("StepError", error="no", **step)
    assert said(frame("StepStarted", **step), failed) == [
        ev.StepStarted(name="S", step_id="s"),
        ev.Custom(name="StepError", value=failed),
        ev.StepFinished(name="S", step_id="s"),
    ]


# --- output ---------------------------------------------------------------------------------


def test_content_said_whole_is_text_where_no_delta_was():
    assert text_of(said(frame("RunCompleted", content="Hi"))) == "Hi"
    events = said(frame("RunContent", content="Hi"), frame("RunCompleted", content="Hi"))
    assert text_of(events) == "Hi"


def test_content_with_a_schema_is_its_json():
    assert text_of(said(frame("RunContent", content={"a": 1}, content_type="City"))) == '{"a":1}'


@pytest.mark.parametrize(("answer", "text"), [("Hi", "Hi"), ("2 words", "Hi2 words"), (None, "Hi")])
def test_a_workflow_repeats_what_its_last_run_answered(answer, text):
    run = {"workflow_run_id": "r"}
    events = said(
        frame("WorkflowStarted"),
        frame("RunContent", "inner", content="Hi", **run),
        frame("RunCompleted", "inner", content="Hi", **run),
        frame("WorkflowCompleted", content=answer),
    )
    assert text_of(events) == text


def test_reasoning_steps_repeat_the_reasoning_so_far():
    steps = [frame("ReasoningStep", reasoning_content=text) for text in ("a\n", "a\nb\n")]
    assert said(*steps) == [
        ev.ReasoningDelta(text="a\n", message_id="r"),
        ev.ReasoningDelta(text="b\n", message_id="r"),
    ]
    streamed = said(frame("ReasoningContentDelta", reasoning_content="a\n"), steps[0])
    assert streamed[1:] == [ev.Custom(name="ReasoningStep", value=steps[0])]


def test_citations_are_told_once():
    citations = {
        "urls": [{"url": "u", "title": "t"}],
        "documents": [{"document_title": "d", "cited_text": "x"}, 7],
    }
    events = said(
        frame("RunContent", citations=citations), frame("RunCompleted", citations=citations)
    )
    assert kinds(events, ev.Source) == [ev.Source(url="u", title="t"), ev.Source(title="d")]
    assert kinds(said(frame("RunCompleted", citations=citations)), ev.Source)


def test_pictures_and_sounds_are_told_as_such():
    assert said(frame("RunContent", image={"id": "i"})) == [
        ev.Custom(name="image", value={"id": "i"})
    ]


# --- tools ----------------------------------------------------------------------------------


def test_a_tool_that_failed_is_told_once():
    result = {"result": "no", "tool_call_error": True}
    failed = tool("ToolCallError", **result)
    assert said(tool("ToolCallStarted"), tool("ToolCallCompleted", **result), failed) == [
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c", arguments='{"q":1}'),
        ev.ToolCallResult(tool_call_id="c", result="no", is_error=True),
        ev.Custom(name="ToolCallError", value=failed),
    ]
    assert said(tool("ToolCallStarted"), {**failed, "error": "why"})[-1] == ev.ToolCallResult(
        tool_call_id="c", result="no", is_error=True
    )


def test_a_call_without_an_id_gets_one_and_a_result_without_a_start_tells_of_the_call():
    nameless = {"tool_call_id": None}
    assert said(tool("ToolCallStarted", **nameless), tool("ToolCallCompleted", **nameless)) == [
        ev.ToolCallStarted(tool_call_id="tool-1", name="f"),
        ev.ToolCallReady(tool_call_id="tool-1", arguments='{"q":1}'),
        ev.ToolCallResult(tool_call_id="tool-1"),
    ]
    assert said(tool("ToolCallCompleted", result="ok"))[-1] == ev.ToolCallResult(
        tool_call_id="c", result="ok"
    )
    assert said(tool("ToolCallCompleted", **nameless))[-1] == ev.ToolCallResult(
        tool_call_id="tool-1"
    )


def test_open_calls_are_bounded():
    starts = [tool("ToolCallStarted", tool_call_id=f"c{n}") for n in range(MAX_REMEMBERED + 1)]
    first = tool("ToolCallError", tool_call_id="c0")
    last = tool("ToolCallError", tool_call_id="c1")
    events = said(*starts, first, last)
    assert isinstance(events[-2], ev.Custom)
    assert isinstance(events[-1], ev.ToolCallResult)


# --- models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("provider", "expected"), [
    ("OpenAI", ev.Usage(input_tokens=10, output_tokens=5, cached_input_tokens=8,
                        cache_write_tokens=1, reasoning_tokens=2)),
    ("Anthropic", ev.Usage(input_tokens=19, output_tokens=5, cached_input_tokens=8,
                           cache_write_tokens=1, reasoning_tokens=2)),
    ("Google", ev.Usage(input_tokens=10, output_tokens=7, cached_input_tokens=8,
                        cache_write_tokens=1, reasoning_tokens=2)),
])  # fmt: skip
def test_totals_hold_their_parts_whatever_the_provider_counts(provider, expected):
    counts = {
        "input_tokens": 10, "output_tokens": 5, "cache_read_tokens": 8,
        "cache_write_tokens": 1, "reasoning_tokens": 2,
    }  # fmt: skip
    [usage] = said(frame("ModelRequestCompleted", model="m", model_provider=provider, **counts))
    assert usage == ev.Usage(
        **{field: getattr(expected, field) for field in expected.__struct_fields__}
        | {"model": "m", "provider": provider}
    )


def test_a_count_of_zero_says_nothing():
    counts = {"input_tokens": 3, "output_tokens": 0, "reasoning_tokens": 0}
    assert said(frame("ModelRequestCompleted", **counts)) == [ev.Usage(input_tokens=3)]
    assert said(frame("ModelRequestCompleted", input_tokens=0, output_tokens=0)) == []


def test_each_request_to_a_model_is_a_generation():
    started = frame("ModelRequestStarted", model="m", model_provider="p")
    assert said(started, started) == [
        ev.GenerationStarted(key="r:1", model="m", provider="p"),
        ev.GenerationStarted(key="r:2", model="m", provider="p"),
    ]


def test_runs_that_were_not_streamed_count_and_none_counts_twice():
    def metrics(count: int, model: str | None = "m") -> dict[str, Any]:
        entry = {"id": model, "input_tokens": count}
        details = {"details": {"model": [entry]}} if model else {}
        return {"metrics": {"input_tokens": count, **details}}

    shown = inner("RunCompleted", **metrics(1))
    members = [shown, inner("", "hidden", member_responses=[inner("", "deep", **metrics(4))])]
    end = frame("TeamRunCompleted", member_responses=members, **metrics(8))
    usages = kinds(said(frame("TeamRunStarted"), shown, end), ev.Usage)
    assert usages == [ev.Usage(input_tokens=13, model="m", scope="run")]
    old = said(frame("RunStarted", model="m"), frame("RunCompleted", **metrics(2, None)))
    assert kinds(old, ev.Usage) == [ev.Usage(input_tokens=2, model="m", scope="run")]


# --- recognised -----------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "value", "fit"), [
    ("RunStarted", frame("RunStarted"), Fit.YES),
    (None, frame("TeamRunContent"), Fit.YES),
    ("WorkflowStarted", frame("WorkflowStarted"), Fit.YES),
    ("CustomEvent", frame("CustomEvent"), Fit.MAYBE),
    (None, frame("CustomEvent"), Fit.NO),
    ("RunStarted", {"event": "RunStarted"}, Fit.NO),
    ("token", frame("RunStarted"), Fit.NO),
    ("error", {"event": "error", "error": "no"}, Fit.NO),
    (None, {"event": "", "run_id": "r"}, Fit.NO),
    (None, {"event": 7, "run_id": "r"}, Fit.NO),
    (None, ["RunStarted"], Fit.NO),
])  # fmt: skip
def test_a_known_event_of_a_run_is_sure(event, value, fit):
    one = Frame(data=json.dumps(value).encode(), event=event)
    assert Agno().recognise(Head(), one) is fit


def test_what_is_not_known_is_kept():
    custom = frame("CustomEvent", progress=7)
    assert said(frame("RunStarted"), custom) == [ev.Custom(name="CustomEvent", value=custom)]
    assert events_of(Agno(), [Frame(event="x", data=b"[1]"), Frame(event="x")]) == [
        ev.Custom(name="x", value=[1])
    ]


# --- the fast path --------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_hot_frames_of_a_stream_read_as_the_others_do(name):
    fast, slow = both_ways(Agno(), agno, "_read_content", OURS[name].frames())
    assert fast == slow


def test_hot_frames_of_any_shape_read_as_the_others_do():
    first = Frame(data=json.dumps(frame("RunStarted")).encode())
    hot = frame("RunContent", content="x", reasoning_content="y", citations=None, image=None)
    for one in frames_like(hot):
        fast, slow = both_ways(Agno(), agno, "_read_content", [first, one, one])
        assert fast == slow
