"""Google's Interactions API, decoded, against what Google's own client yields from the bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import google_oracle
from support.recordings import STREAMS
from support.spoiled import spoiled_frames, without_hot_frames
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects import gemini_interactions
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.gemini_interactions import GeminiInteractions

OURS = {stream.name: stream for stream in STREAMS if stream.dialect == "gemini-interactions"}
FRAMES = [
    frame for stream in OURS.values() for frame in stream.frames() if isinstance(frame.json(), dict)
]


def said(*events: dict[str, Any]) -> list[ev.Event]:
    body = b"".join(
        b"event: %s\ndata: %s\n\n" % (event["event_type"].encode(), json.dumps(event).encode())
        for event in events
    )
    return events_of(GeminiInteractions(), frames_of(body))


def created(**facts: Any) -> dict[str, Any]:
    facts = {"id": "v1", "status": "in_progress", "model": "m", **facts}
    return {"event_type": "interaction.created", "interaction": facts}


def completed(status: str | None = "completed", **facts: Any) -> dict[str, Any]:
    facts = {"id": "v1", "model": "m", **({"status": status} if status else {}), **facts}
    return {"event_type": "interaction.completed", "interaction": facts}


def update(status: str, **fields: Any) -> dict[str, Any]:
    return {"event_type": "interaction.status_update", "status": status, **fields}


def start(index: int, kind: str, **step: Any) -> dict[str, Any]:
    return {"event_type": "step.start", "index": index, "step": {"type": kind, **step}}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"event_type": "step.delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int, **fields: Any) -> dict[str, Any]:
    return {"event_type": "step.stop", "index": index, **fields}


STARTED = [
    ev.RunStarted(run_id="v1"),
    ev.GenerationStarted(response_id="v1", model="m", provider="gcp.gemini"),
]


def after_start(*events: dict[str, Any]) -> list[ev.Event]:
    told = said(created(), *events)
    assert told[:2] == STARTED
    return told[2:]


# --- against the official client -------------------------------------------------------------

DEPRECATED = "sample-gemini-interactions-deprecated_names"  # the client has forgotten these names


@pytest.mark.parametrize("name", sorted(OURS.keys() - {DEPRECATED}))
def test_says_of_a_stream_what_the_official_client_yields(name: str) -> None:
    body = OURS[name].body
    theirs = google_oracle.read_interaction(body)
    ours = google_oracle.told(events_of(GeminiInteractions(), frames_of(body)))
    if theirs.error is not None:  # an error is the end, whatever status comes behind it
        assert theirs.finish == {0: "failed"}
        theirs.finish = {}
    elif theirs.finish == {0: "failed"}:  # why, stands in the step that failed
        assert ours.error is not None
        ours.error = None
    assert ours == theirs


def test_the_deprecated_names_say_the_same() -> None:
    names = {
        "interaction.created": "interaction.start",
        "interaction.completed": "interaction.complete",
    }
    today = [
        created(),
        start(0, "thought"),
        delta(0, "thought_summary", content={"type": "text", "text": "hm"}),
        stop(0),
        start(1, "model_output"),
        delta(1, "text", text="Hi"),
        stop(1),
        completed(),
    ]
    old = []
    for event in today:
        kind = event["event_type"]
        step = {"content": {**event["step"]}} if "step" in event else {}
        if step.get("content") == {"type": "model_output"}:
            step["content"]["type"] = "text"
        renamed = names.get(kind, kind.replace("step.", "content."))
        old.append({**event, **step, "event_type": renamed})
        old[-1].pop("step", None)
    assert said(*old) == said(*today)


# --- how it ends -----------------------------------------------------------------------------

USAGE = {"total_input_tokens": 3, "total_output_tokens": 4, "total_thought_tokens": 5}
TOLD = ev.Usage(input_tokens=3, output_tokens=9, reasoning_tokens=5)


def finished(status: str) -> ev.GenerationFinished:
    return ev.GenerationFinished(finish_reasons=(status,))


DONE = ev.RunFinished(run_id="v1")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([completed()], [finished("completed"), DONE]),
        ([completed(None)], [finished("completed"), DONE]),
        ([update("incomplete"), completed(None)], [finished("incomplete"), DONE]),
        ([completed("budget_exceeded")], [finished("budget_exceeded"), DONE]),
        ([completed("requires_continuation")], [finished("requires_continuation"), DONE]),
        ([completed("cancelled")], [finished("cancelled"), ev.RunCancelled()]),
        ([completed("failed")], [finished("failed"), ev.RunFailed(type="failed")]),
        (
            [start(0, "model_output", error={"code": 13, "message": "no"}), completed("failed")],
            [finished("failed"), ev.RunFailed(type="13", message="no")],
        ),
        (
            [completed("requires_action")],
            [finished("requires_action"), ev.RunInterrupted(reason="requires_action")],
        ),
        ([completed(usage=USAGE)], [TOLD, finished("completed"), DONE]),
        # a status that ends the stream ends the run; one of a stream that goes on does not
        ([update("completed", usage=USAGE)], [TOLD, finished("completed"), DONE]),
        ([update("in_progress")], []),
        ([update("requires_action"), update("in_progress")], []),
        ([stop(0, usage=USAGE)], [TOLD]),
        # an error is the end, whatever comes behind it
        (
            [
                {"event_type": "error", "error": {"code": "gateway_timeout", "message": "late"}},
                completed("failed", usage=USAGE),
            ],
            [ev.RunFailed(type="gateway_timeout", message="late"), TOLD],
        ),
        ([{"event_type": "error", "error": "no"}], [ev.RunFailed(message="no")]),
        ([{"event_type": "error"}], [ev.RunFailed()]),
        # the next interaction is the next run
        (
            [completed(), created(id="v2"), completed(id="v2")],
            [
                finished("completed"), DONE,
                ev.RunStarted(run_id="v2"), finished("completed"), ev.RunFinished(run_id="v2"),
            ],
        ),
    ],
)  # fmt: skip
def test_the_end_is_a_status_that_is_one(events: list[Any], expected: list[ev.Event]) -> None:
    kinds = (ev.GenerationFinished, ev.Usage, ev.RunStarted, *ev.TERMINAL)
    assert [event for event in after_start(*events) if isinstance(event, kinds)] == expected


def test_the_first_function_without_a_result_is_asked_for() -> None:
    events = after_start(
        start(0, "function_call", id="a", name="f", arguments={}),
        stop(0),
        start(1, "function_call", id="b", name="g", arguments={}),
        stop(1),
        start(2, "function_result", call_id="a", result="done"),
        stop(2),
        completed("requires_action"),
    )
    assert events[-1] == ev.RunInterrupted(reason="requires_action", tool_call_id="b")


@pytest.mark.parametrize(
    "counts", [{}, [], {"total_input_tokens": "7"}, {"total_thought_tokens": 3}]
)
def test_usage_that_was_not_said_is_absent(counts: Any) -> None:
    assert not [e for e in said(completed(usage=counts)) if isinstance(e, ev.Usage)]


def test_tools_count_to_the_input() -> None:
    usage = {"total_input_tokens": 3, "total_tool_use_tokens": 40, "total_cached_tokens": 2}
    assert ev.Usage(input_tokens=43, cached_input_tokens=2) in said(completed(usage=usage))


def test_an_error_of_the_gateway_fails_the_run_too() -> None:
    error = {"code": 503, "message": "late", "status": "UNAVAILABLE"}
    frame = Frame(data=json.dumps({"error": error}).encode())
    events = events_of(GeminiInteractions(), [frame])
    assert events == [ev.RunFailed(type="UNAVAILABLE", message="late")]


def test_an_agent_is_named_where_no_model_is() -> None:
    events = said(created(agent="deep-research", model=None), completed(agent="deep-research"))
    assert events[0] == ev.RunStarted(run_id="v1", agent="deep-research")
    assert [type(event) for event in events].count(ev.RunStarted) == 1


def test_an_interaction_that_is_not_stored_has_no_id() -> None:
    events = said(created(id=""), start(0, "model_output"), delta(0, "text", text="a"))
    assert not [event for event in events if isinstance(event, ev.RunStarted)]
    assert events[-1] == ev.TextDelta(text="a", message_id="step:0")


# --- steps -----------------------------------------------------------------------------------


def test_a_message_and_a_thought_in_all_their_events() -> None:
    assert after_start(
        start(0, "thought", summary=[{"type": "text", "text": "h"}]),
        delta(0, "thought_summary", content={"type": "text", "text": "m"}),
        delta(0, "thought_signature", signature="c2ln"),
        stop(0),
        start(1, "model_output", content=[{"type": "text", "text": "H"}]),
        delta(1, "text", text="i"),
        stop(1),
    ) == [
        ev.ReasoningStarted(message_id="v1:0"),
        ev.ReasoningDelta(text="h", message_id="v1:0"),
        ev.ReasoningDelta(text="m", message_id="v1:0"),
        ev.ReasoningFinished(message_id="v1:0"),
        ev.MessageStarted(message_id="v1:1"),
        ev.TextDelta(text="H", message_id="v1:1"),
        ev.TextDelta(text="i", message_id="v1:1"),
        ev.MessageFinished(message_id="v1:1"),
    ]


@pytest.mark.parametrize(
    ("step", "deltas", "expected"),
    [
        (
            start(0, "function_call", id="c", name="f", arguments={}),
            [delta(0, "arguments_delta", arguments=text) for text in ('{"a"', ":1}")],
            ["f", '{"a"', ":1}", None],
        ),
        (start(0, "function_call", id="c", name="f", arguments={"a": 1}), [], ["f", '{"a":1}']),
        (start(0, "function_call", id="c", name="f"), [], ["f", None]),
        (
            start(0, "google_search_call", id="c"),
            [delta(0, "google_search_call", arguments={"queries": ["q"]})],
            ["google_search", '{"queries":["q"]}', None],
        ),
        (
            start(0, "mcp_server_tool_call"),
            [delta(0, "mcp_server_tool_call", id="c", name="look", arguments={})],
            ["look", "{}", None],
        ),
    ],
)  # fmt: skip
def test_arguments_come_in_pieces_or_as_an_object(
    step: Any, deltas: list[Any], expected: list[Any]
) -> None:
    told: list[Any] = []
    for event in after_start(step, *deltas, stop(0)):
        assert event.tool_call_id == "c"  # type: ignore[attr-defined]
        match event:
            case ev.ToolCallStarted():
                told.append(event.name)
            case ev.ToolCallArgumentsDelta():
                told.append(event.delta)
            case ev.ToolCallReady():
                told.append(event.arguments)
    assert told == expected


def test_arguments_that_come_twice_are_told_once() -> None:
    twice = delta(0, "google_search_call", arguments={"q": 1})
    events = after_start(start(0, "google_search_call", id="c"), twice, twice)
    assert events[-1] == ev.Custom(name="arguments", value={"q": 1})


RESULT = ev.ToolCallResult(tool_call_id="c", result="[1]")


@pytest.mark.parametrize(
    ("step", "deltas", "expected"),
    [
        (start(1, "x_result", call_id="c"), [delta(1, "x_result", result=[1])], [RESULT]),
        (start(1, "x_result", call_id="c", result=[1]), [], [RESULT]),
        (start(1, "x_result"), [delta(1, "x_result", call_id="c", result="[1]")], [RESULT]),
        (start(1, "x_result", call_id="c"), [], [ev.ToolCallResult(tool_call_id="c")]),
        (
            start(1, "x_result", call_id="c", is_error=True),
            [delta(1, "x_result", result="no")],
            [ev.ToolCallResult(tool_call_id="c", result="no", is_error=True)],
        ),
        (
            start(1, "x_result", call_id="other", result="[1]"),
            [],
            [
                ev.ToolCallStarted(tool_call_id="other", name="x"),
                ev.ToolCallResult(tool_call_id="other", result="[1]"),
            ],
        ),
    ],
)
def test_results_are_those_of_their_call(
    step: Any, deltas: list[Any], expected: list[ev.Event]
) -> None:
    call = [start(0, "x_call", id="c"), stop(0)]
    assert after_start(*call, step, *deltas, stop(1))[2:] == expected


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (start(0, "user_input", content=[{"type": "text", "text": "hi"}]), ["user_input"]),
        (start(0, "brand_new", a=1), ["brand_new"]),
        (delta(0, "image", data="AA=="), ["image"]),
        (delta(0, "video", uri="u"), ["video"]),
        (stop(0), []),
        ({"event_type": "brand.new"}, ["brand.new"]),
    ],
)
def test_what_is_not_known_is_passed_on(event: Any, names: list[str]) -> None:
    events = after_start(event)
    assert [event.name for event in events if isinstance(event, ev.Custom)] == names


def test_text_of_the_user_is_no_output() -> None:
    events = after_start(start(0, "user_input"), delta(0, "text", text="hi"))
    assert text_of(events) == ""
    assert events[-1] == ev.Custom(name="text", value={"type": "text", "text": "hi"})


def test_sources_are_told_once() -> None:
    notes = [
        {"type": "url_citation", "url": "u", "title": "t"},
        {"type": "file_citation", "document_uri": "d", "file_name": "n"},
        {"type": "word_info", "start": 1},
    ]
    cite = delta(0, "text_annotation_delta", annotations=notes)
    sources = [e for e in after_start(cite, cite) if isinstance(e, ev.Source)]
    assert sources == [ev.Source(url="u", title="t"), ev.Source(url="d", title="n")]


def test_a_resumed_stream_begins_anywhere() -> None:
    assert said(delta(3, "text", text="on"), stop(3)) == [
        ev.TextDelta(text="on", message_id="step:3"),
        ev.MessageFinished(message_id="step:3"),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"event: done\ndata: [DONE]\n\n", []),
        (b": ping\n\n", []),
        (b"data: hello\n\n", [ev.Custom(name="unknown", value="hello")]),
        (b"data: [1]\n\n", [ev.Custom(name="unknown", value=[1])]),
        (b'data: {"event_type":"step.st', []),
    ],
)
def test_frames_that_are_no_event(body: bytes, expected: list[ev.Event]) -> None:
    assert events_of(GeminiInteractions(), frames_of(body)) == expected


# --- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fit"),
    [
        (created(), Fit.YES),
        (update("queued"), Fit.YES),
        (delta(0, "text", text="a"), Fit.YES),
        ({"event_type": "step.start"}, Fit.NO),
        ({"event_type": "error", "error": {}}, Fit.MAYBE),
        ({"event_type": "text-generation", "text": "a"}, Fit.NO),
        ({"event_type": ["step.start"], "index": 0}, Fit.NO),
        ({"type": "error"}, Fit.NO),
        ([], Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(value: Any, fit: Fit) -> None:
    frame = Frame(data=json.dumps(value).encode())
    assert GeminiInteractions().recognise(Head(), frame) is fit


# --- robustness ------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(spoiled_frames(FRAMES) | st.sampled_from(FRAMES), min_size=1, max_size=8))
def test_no_json_makes_it_raise_and_the_quick_reading_is_only_quicker(frames: list[Frame]) -> None:
    for frame in frames:
        GeminiInteractions().recognise(Head(), frame)
    events = events_of(GeminiInteractions(), frames)
    with without_hot_frames(gemini_interactions):
        assert repr(events_of(GeminiInteractions(), frames)) == repr(events)


def test_steps_that_never_stop_are_forgotten_oldest_first() -> None:
    many = range(gemini_interactions.MAX_OPEN_STEPS + 1)
    events = after_start(
        *(start(index, "x_call", id=f"c{index}") for index in many), stop(0), stop(1)
    )
    assert events[-1] == ev.ToolCallReady(tool_call_id="c1")
    assert ev.ToolCallReady(tool_call_id="c0") not in events
