"""Events of Google's Agent Development Kit, decoded, against the whole events of its server.

The recordings come from the server itself. It sends every answer twice: in fragments, which the
decoder tells as they come, and whole, which are folded here on their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.recordings import RECORDED, STREAMS, Stream
from support.spoiled import spoiled_frames, without_hot_frames
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.dialects import google_adk
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.google_adk import GoogleAdk

OURS = [stream for stream in STREAMS if stream.dialect == "google-adk"]
FRAMES = [frame for stream in OURS for frame in stream.frames() if isinstance(frame.json(), dict)]


def said(*events: Any) -> list[ev.Event]:
    body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    return events_of(GoogleAdk(), frames_of(body))


def event(*parts: Any, author: str = "a", role: str = "model", **fields: Any) -> dict[str, Any]:
    content = {"content": {"parts": list(parts), "role": role}} if parts else {}
    return {"invocationId": "i", "author": author, "id": "e1", **content, **fields}


def piece(text: str, **fields: Any) -> dict[str, Any]:
    return event({"text": text}, partial=True, modelVersion="m", **fields)


def whole(*parts: Any, **fields: Any) -> dict[str, Any]:
    return event(*parts, **{"finishReason": "STOP", "modelVersion": "m", **fields})


def told(events: list[ev.Event], *kinds: type[ev.Event]) -> list[ev.Event]:
    return [one for one in events if isinstance(one, kinds)]


# --- against the whole events ----------------------------------------------------------------


@dataclass
class Facts:
    text: str = ""
    thoughts: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    tokens: int = 0


def of_whole_events(stream: Stream) -> Facts:
    """What the events that are not partial hold, in the order of the wire."""
    facts = Facts()
    for value in (frame.json() for frame in stream.frames()):
        if value is None or value.get("partial") or "author" not in value:
            continue
        for part in value.get("content", {}).get("parts", ()):
            if "text" in part and part.get("thought"):
                facts.thoughts += part["text"]
            elif "text" in part:
                facts.text += part["text"]
            if call := part.get("functionCall"):
                facts.calls.append((call["id"], call["name"], call["args"]))
            if response := part.get("functionResponse"):
                asked = value["actions"]
                waits = {**asked["requestedAuthConfigs"], **asked["requestedToolConfirmations"]}
                if response["id"] not in waits:
                    facts.results[response["id"]] = response["response"]
        if usage := value.get("usageMetadata"):
            facts.models.append(value["modelVersion"])
            facts.tokens += usage["totalTokenCount"]
    return facts


OTHERWISE = {
    "google_adk_1.18_tool_call": "two whole events make an answer",
    "google_adk_1.18_error": "two whole events make a call",
    "google_adk_1.28_tool_call": "whole events do not name the model",
    "google_adk_parallel": "the fragments of two answers alternate",
    "google_adk_model_error": "the answer stopped before it was whole",
    "google_adk_code_execution": "the model's tool is not one of the agent's",
}
WHOLE = [one for one in RECORDED if one.dialect == "google-adk" and one.name not in OTHERWISE]


@pytest.mark.parametrize("stream", WHOLE, ids=str)
def test_the_fragments_say_what_the_whole_events_say(stream: Stream) -> None:
    facts, names, tokens = Facts(), {}, 0
    for one in events_of(GoogleAdk(), stream.frames()):
        match one:
            case ev.TextDelta():
                facts.text += one.text
            case ev.ReasoningDelta():
                facts.thoughts += one.text
            case ev.ToolCallStarted():
                names[one.tool_call_id] = one.name or ""
            case ev.ToolCallReady(arguments=str(arguments)):
                call_id = one.tool_call_id
                facts.calls.append((call_id, names[call_id], json.loads(arguments)))
            case ev.ToolCallResult(result=str(result)):
                facts.results[one.tool_call_id] = json.loads(result)
            case ev.GenerationStarted(model=str(model)):
                facts.models.append(model)
            case ev.Usage():
                tokens += (one.input_tokens or 0) + (one.output_tokens or 0)
    facts.tokens = tokens
    assert facts == of_whole_events(stream)


@pytest.mark.parametrize("version", ["1.18_tool_call", "1.28_tool_call", "without_streaming"])
def test_all_versions_and_modes_of_the_server_tell_the_same_run(version: str) -> None:
    def run(name: str) -> Any:
        (stream,) = (one for one in RECORDED if one.name == f"google_adk_{name}")
        machine = RunMachine()
        for at_ns, one in enumerate(events_of(GoogleAdk(), stream.frames())):
            machine.feed(one, at_ns)
        return machine.summary(StreamEnd(at_ns=99, final=True), started_at_ns=0)

    old, new = run(version), run("tool_call")
    assert (old.status, old.usage, old.issues) == (new.status, new.usage, new.issues)
    assert [one.finish_reasons for one in old.generations] == [["STOP"], ["STOP"]]
    assert [one.name for one in old.tool_calls] == ["get_weather"]
    assert [one.name for one in old.steps] == ["weather"]


# --- fragments and whole events --------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([piece("a"), piece("b"), whole({"text": "ab"})], "ab"),
        ([piece("a"), whole({"text": "ab"})], "ab"),  # a fragment was not sent, or lost
        ([piece("a"), whole({"text": "a"}, {"text": "b"})], "ab"),
        ([piece("ab"), whole({"text": "a"})], "ab"),  # cut behind what was told
        ([piece("a"), whole({"text": "xyz"})], "a"),  # replaced by a callback
        ([piece("a"), whole()], "a"),
        ([whole({"text": "a"}), whole({"text": "a"})], "aa"),  # two answers, none streamed
        ([piece("a"), whole({"text": "a"}), piece("a"), whole({"text": "a"})], "aa"),
        ([piece("a"), whole({"text": "a"}, finishReason=None), piece("a")], "aa"),
        ([piece(""), whole({"text": "a"})], "a"),
        ([event({"text": "a"})], "a"),  # an agent that is no model
        ([piece("a", role="user")], ""),
        ([event({"text": "a"}, author="user")], ""),
    ],
)
def test_text_is_told_once(events: list[Any], text: str) -> None:
    assert text_of(said(*events)) == text


def test_thoughts_are_kept_apart_from_the_text() -> None:
    thought = {"text": "a", "thought": True}
    events = said(event(thought, partial=True), piece("a"), whole(thought, {"text": "ab"}))
    assert told(events, ev.TextDelta, ev.ReasoningDelta) == [
        ev.ReasoningDelta(text="a", message_id="e1"),
        ev.TextDelta(text="a", message_id="e1"),
        ev.TextDelta(text="b", message_id="e1"),
    ]


CALL = {"functionCall": {"id": "c", "name": "f", "args": {}}}


def test_a_call_counts_when_it_is_whole() -> None:
    fragment = event({"functionCall": {"id": "other", "name": "f"}}, partial=True)
    events = said(fragment, whole(CALL))
    assert told(events, ev.Custom, ev.ToolCallStarted, ev.ToolCallReady) == [
        ev.Custom(name="functionCall", value={"id": "other", "name": "f"}),
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c", arguments="{}"),
    ]


USAGE = {"promptTokenCount": 3, "candidatesTokenCount": 2}
TOLD = ev.Usage(input_tokens=3, output_tokens=2)
RESULT = event({"functionResponse": {"id": "c", "name": "f", "response": {}}}, role="user")


@pytest.mark.parametrize(
    ("events", "generations"),
    [
        ([piece("a", id="1"), piece("b", id="2"), whole({"text": "ab"}, id="3")], ["1"]),
        # 1.18: a text, and then the call or nothing with the finish reason
        ([piece("a", id="1"), event({"text": "a"}, id="2"), whole(CALL, id="3")], ["1"]),
        # the reason stood in the last fragment
        (
            [
                piece("a", id="1", finishReason="STOP"),
                event({"text": "a"}, id="2"),
                whole(CALL, id="3"),
            ],
            ["1", "3"],
        ),
        # no reason at all: other models
        ([event({"text": "a"}, id="1", usageMetadata=USAGE), piece("b", id="2")], ["1", "2"]),
        (
            [
                event(CALL, id="1", usageMetadata=USAGE),
                RESULT,
                event({"text": "b"}, id="2", usageMetadata=USAGE),
            ],
            ["1", "2"],
        ),
        # not by a model
        ([event({"text": "a"}), RESULT], []),
    ],
)
def test_a_turn_is_a_generation(events: list[Any], generations: list[str]) -> None:
    starts = told(said(*events), ev.GenerationStarted)
    assert [one.response_id for one in starts] == generations  # type: ignore[attr-defined]


def test_the_last_usage_of_a_turn_counts_once() -> None:
    events = said(piece("a", usageMetadata={"promptTokenCount": 1}), whole(usageMetadata=USAGE))
    assert told(events, ev.Usage, ev.GenerationFinished) == [
        TOLD,
        ev.GenerationFinished(finish_reasons=("STOP",)),
    ]
    assert told(said(piece("a", usageMetadata=USAGE)), ev.Usage) == [TOLD]  # cut


def test_usage_of_agents_side_by_side_is_told_for_the_run() -> None:
    left, right = {"author": "l", "branch": "b.l"}, {"author": "r", "branch": "b.r"}
    events = said(
        whole({"text": "0"}, usageMetadata=USAGE),
        piece("1", **left),
        piece("2", **right),
        whole({"text": "1"}, usageMetadata=USAGE, **left),
        whole({"text": "2"}, usageMetadata=USAGE, modelVersion="m2", **right),
    )
    runs = [one for one in events if isinstance(one, ev.Usage) and one.scope == "run"]
    last = {one.model: (one.input_tokens, one.output_tokens) for one in runs}
    assert last == {"m": (6, 4), "m2": (3, 2)}
    assert text_of(events) == "012"


def test_sources_are_told_once() -> None:
    grounding = {"groundingChunks": [{"web": {"uri": "u", "title": "t"}}]}
    events = said(piece("a", groundingMetadata=grounding), whole(groundingMetadata=grounding))
    assert told(events, ev.Source) == [ev.Source(url="u", title="t")]


# --- agents ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "agent"),
    [
        ({}, "a"),
        ({"branch": "root.a"}, "root"),
        ({"nodeInfo": {"path": "top@1/a@2"}, "branch": "root.a"}, "top"),
        ({"nodeInfo": {"path": ""}}, "a"),
        ({"author": "user"}, None),
    ],
)
def test_the_agent_of_the_run_is_the_outermost(fields: Any, agent: str | None) -> None:
    assert said(event(**fields))[0] == ev.RunStarted(run_id="i", agent=agent)


def test_the_session_stands_in_the_request() -> None:
    frames = [Frame(data=json.dumps(event()).encode())]
    for key in ("sessionId", "session_id"):
        head = Head(path="/run_sse", request={"appName": "x", key: "s-1"})
        assert events_of(GoogleAdk(), frames, head)[0] == ev.RunStarted(
            run_id="i", thread_id="s-1", agent="a"
        )


def test_an_author_is_a_step_until_another_speaks_in_its_branch() -> None:
    events = said(
        event(author="a"),
        event(author="b"),
        event(author="c", branch="x"),
        event(author="b", actions={"endOfAgent": True}),
        event(author="a"),
    )
    assert told(events, ev.StepStarted, ev.StepFinished) == [
        ev.StepStarted(name="a", step_id="a"),
        ev.StepFinished(name="a", step_id="a"),
        ev.StepStarted(name="b", step_id="b"),
        ev.StepStarted(name="c", step_id="x/c"),
        ev.StepFinished(name="b", step_id="b"),
        ev.StepStarted(name="a", step_id="a"),
        ev.StepFinished(name="c", step_id="x/c"),
        ev.StepFinished(name="a", step_id="a"),
    ]


# --- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([whole({"text": "a"})], []),
        ([event(errorCode="X", errorMessage="m")], [ev.RunFailed(type="X", message="m")]),
        ([whole(finishReason="SAFETY", errorCode="SAFETY")], []),
        (  # a fragment fails, the whole repeats it, and the server adds its own words
            [event(errorCode="X", partial=True), event(errorCode="X"), {"error": "ServerError: m"}],
            [ev.RunFailed(type="X")],
        ),
        (
            [{"error": "E: m", "error_details": {"error_type": "E", "error_message": "m"}}],
            [ev.RunFailed(type="E", message="m")],
        ),
        ([{"error": "m"}], [ev.RunFailed(message="m")]),
        (  # another agent goes on
            [event(errorCode="X"), event({"text": "a"}, author="b")],
            [ev.RunFailed(type="X"), ev.RunStarted(run_id="i", agent="b")],
        ),
        (
            [whole(CALL, longRunningToolIds=["c"]), RESULT, whole({"text": "later"})],
            [ev.RunInterrupted(reason="long_running", tool_call_id="c")],
        ),
        ([event(CALL, partial=True, longRunningToolIds=["c"]), whole({"text": "a"})], []),
        ([whole(CALL, longRunningToolIds=["other"])], []),
        ([whole(CALL, longRunningToolIds=["c"]), {"error": "m"}], [ev.RunFailed(message="m")]),
    ],
)
def test_how_a_run_ends(events: list[Any], expected: list[ev.Event]) -> None:
    start, *rest = told(said(event(), *events), ev.RunStarted, *ev.TERMINAL)
    assert start == ev.RunStarted(run_id="i", agent="a")
    assert rest == expected


@pytest.mark.parametrize("reason", ["credential", "confirmation", "input"])
def test_what_the_user_is_asked_for_interrupts(reason: str) -> None:
    ask = {"functionCall": {"id": "q", "name": f"adk_request_{reason}", "args": {}}}
    events = said(event(ask, longRunningToolIds=["q"]))
    assert events[-1] == ev.RunInterrupted(reason=reason, tool_call_id="q")


@pytest.mark.parametrize(
    ("action", "reason"),
    [("requestedAuthConfigs", "credential"), ("requestedToolConfirmations", "confirmation")],
)
def test_a_tool_that_asks_did_not_run(action: str, reason: str) -> None:
    events = said(whole(CALL), {**RESULT, "actions": {action: {"c": {"hint": "?"}}}})
    assert not told(events, ev.ToolCallResult)
    assert events[-1] == ev.RunInterrupted(reason=reason, tool_call_id="c")


def test_an_error_with_a_line_end_in_it_was_no_json_up_to_1_x() -> None:
    body = b'data: {"error": "Tool not found.\nAvailable tools: order"}\n\n'
    events = events_of(GoogleAdk(), frames_of(body))
    assert told(events, ev.RunFailed) == [ev.RunFailed(message="Tool not found.")]


# --- the rest --------------------------------------------------------------------------------


def test_the_state_is_told_as_a_patch() -> None:
    events = said(event(actions={"stateDelta": {"a/b~": [1], "user:n": None}}))
    assert told(events, ev.State) == [
        ev.State(
            value=[
                {"op": "add", "path": "/a~1b~0", "value": [1]},
                {"op": "add", "path": "/user:n", "value": None},
            ],
            is_delta=True,
        )
    ]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"actions": {"escalate": True, "artifactDelta": {"f": 1}}}, ["escalate", "artifactDelta"]),
        ({"actions": {"escalate": None, "artifactDelta": {}, "stateDelta": {}}}, []),
        ({"output": 1, "interrupted": True}, ["interrupted", "output"]),
        ({"author": "user"}, ["user"]),
    ],
)
def test_what_is_not_known_is_passed_on(fields: Any, names: list[str]) -> None:
    assert [one.name for one in told(said(event(**fields)), ev.Custom)] == names  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b": ping\n\n", []),
        (b"data: hello\n\n", [ev.Custom(name="unknown", value="hello")]),
        (b"hello\n\n", [ev.Custom(name="stray", value="hello")]),
        (b'data: {"invocationId":"i","aut', []),
    ],
)
def test_frames_that_are_no_event(body: bytes, expected: list[ev.Event]) -> None:
    assert events_of(GoogleAdk(), frames_of(body)) == expected


@pytest.mark.parametrize(
    ("value", "fit"),
    [
        (event(), Fit.YES),
        ({"invocation_id": "i", "author": "a"}, Fit.YES),
        ({"invocationId": "i", "author": 7}, Fit.NO),
        ({"error": "m", "error_details": {}}, Fit.MAYBE),
        ({"error": "m"}, Fit.NO),
        ({"candidates": []}, Fit.NO),
        ([], Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(value: Any, fit: Fit) -> None:
    assert GoogleAdk().recognise(Head(), Frame(data=json.dumps(value).encode())) is fit


# --- robustness ------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(spoiled_frames(FRAMES) | st.sampled_from(FRAMES), min_size=1, max_size=8))
def test_no_json_makes_it_raise_and_the_quick_reading_is_only_quicker(frames: list[Frame]) -> None:
    for frame in frames:
        GoogleAdk().recognise(Head(), frame)
    events = events_of(GoogleAdk(), frames)
    with without_hot_frames(google_adk):
        assert repr(events_of(GoogleAdk(), frames)) == repr(events)


def test_the_fragments_of_a_new_speaker_open_its_step() -> None:
    events = said(piece("1"), piece("2", actions={"endOfAgent": True}), piece("3"))
    assert [one.name for one in told(events, ev.StepStarted)] == ["a", "a"]  # type: ignore[attr-defined]


def test_another_invocation_is_another_run() -> None:
    asked = whole(CALL, longRunningToolIds=["c"])
    events = said(asked, piece("a", invocationId="j", usageMetadata=USAGE))
    assert told(events, ev.RunStarted, ev.StepFinished, *ev.TERMINAL) == [
        ev.RunStarted(run_id="i", agent="a"),
        ev.StepFinished(name="a", step_id="a"),
        ev.RunStarted(run_id="j", agent="a"),
        ev.StepFinished(name="a", step_id="a"),
    ]


def test_authors_are_remembered_up_to_a_limit_and_forgotten_with_their_usage() -> None:
    decoder, usages = GoogleAdk().decoder(), 0
    for number in range(2 * google_adk.MAX_LANES):
        value = piece("a", author=f"a{number}", branch=f"b{number}", usageMetadata=USAGE)
        events = list(decoder.decode(Frame(data=json.dumps(value).encode())))
        usages += len(told(events, ev.Usage))
    assert usages == google_adk.MAX_LANES
    assert len(decoder._lanes) == google_adk.MAX_LANES  # type: ignore[attr-defined]
    assert len(decoder._speakers) == google_adk.MAX_LANES  # type: ignore[attr-defined]
