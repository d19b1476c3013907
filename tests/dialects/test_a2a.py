"""A2A, decoded and encoded, against what the official clients read in the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.transports.jsonrpc import JsonRpcTransport
from a2a.client.transports.rest import RestTransport
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3.jsonrpc_transport import CompatJsonRpcTransport
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from support import a2a_oracle
from support.a2a_oracle import Facts
from support.clients import run_client
from support.live import live
from support.recordings import RECORDED
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.dialects import a2a, repeated
from streamtrace.dialects.a2a import A2A
from streamtrace.dialects.a2a_03 import A2A03
from streamtrace.dialects.base import Dialect, Envelope, Fit, Head
from streamtrace.dialects.detect import by_name
from streamtrace.dialects.encode.a2a import MAX_ARTIFACTS, MAX_CALLS, A2AToolsEncoder

STREAMS = {one.name: one for one in RECORDED if one.dialect in ("a2a", "a2a-0.3")}
SAID_TWICE = {
    # The client shows each message and artifact; ADK's say the same again in another.
    "a2a03_adk_pieces": ["Let me look. ", "It is sunny."],
    "a2a03_adk_tool": ["Let me look. ", "It is sunny."],
    "a2a10_adk_failed": [],  # and the error's text as a message, before the error
    "a2a10_adk_pieces": ["Let me look. ", "It is sunny."],
    "a2a10_adk_tool": ["Let me look. ", "It is sunny."],
}


def fold(events: Iterable[ev.Event]) -> Facts:
    """The facts that our events tell."""
    facts = Facts()
    for event in events:
        match event:
            case ev.RunStarted():
                facts.task_id, facts.context_id = event.run_id or "", event.thread_id or ""
            case ev.TextDelta():
                key = event.message_id or ""
                facts.texts[key] = facts.texts.get(key, "") + event.text
            case ev.RunFinished():
                facts.end = "TASK_STATE_COMPLETED"
            case ev.RunCancelled():
                facts.end = "TASK_STATE_CANCELED"
            case ev.RunInterrupted():
                facts.end = f"TASK_STATE_{event.reason}".upper()
            case ev.RunFailed():
                is_state = event.type in ("failed", "rejected", "SAFETY")
                kind = "FAILED" if event.type == "SAFETY" else str(event.type).upper()
                facts.end = f"TASK_STATE_{kind}" if is_state else "error"
                facts.error = event.message
    return facts


def recorded(name: str) -> list[ev.Event]:
    return events_of(by_name(STREAMS[name].dialect), STREAMS[name].frames())


def client_reads(name: str) -> Facts:
    transport = next(one for of, one in a2a_oracle.TRANSPORTS.items() if name.startswith(of))
    return a2a_oracle.read(transport, STREAMS[name].body)


# --- against the official client -------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_says_of_a_recorded_stream_what_the_official_client_reads(name: str) -> None:
    ours, theirs = fold(recorded(name)), client_reads(name)
    assert (ours.task_id, ours.context_id) == (theirs.task_id, theirs.context_id)
    assert ours.end == theirs.end
    assert (ours.error or "") in (theirs.error or "")  # a client may show all of the error's JSON
    if name in SAID_TWICE:
        assert list(ours.texts.values()) == SAID_TWICE[name]
        assert list(theirs.texts.values()) != SAID_TWICE[name]
    elif "adk" in name:  # its event ids join the messages that belong together
        assert list(ours.texts.values()) == list(theirs.texts.values())
    else:
        assert ours.texts == theirs.texts


STATES = {
    "TASK_STATE_COMPLETED": "", "TASK_STATE_FAILED": "no", "TASK_STATE_CANCELED": "",
    "TASK_STATE_REJECTED": "no", "TASK_STATE_INPUT_REQUIRED": "?", "TASK_STATE_AUTH_REQUIRED": "?",
}  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> list[pb.StreamResponse]:
    """The objects of a stream; each of its texts is another one."""
    ids = {"task_id": "task", "context_id": "context"}
    pieces = 0

    def part() -> pb.Part:
        nonlocal pieces
        pieces += 1
        return pb.Part(text=f"{pieces}{draw(st.text(max_size=6))}")

    def message() -> pb.Message:
        return pb.Message(message_id=f"m{pieces}", role=pb.ROLE_AGENT, parts=[part()], **ids)

    stream = [
        pb.StreamResponse(
            task=pb.Task(
                id="task", context_id="context", status=pb.TaskStatus(state="TASK_STATE_SUBMITTED")
            )
        )
    ]
    artifacts: set[str] = set()
    for kind in draw(st.lists(st.sampled_from("wwaadd"), max_size=8)):
        if kind == "w":
            status = pb.TaskStatus(state="TASK_STATE_WORKING")
            if draw(st.booleans()):
                status.message.CopyFrom(message())
            update = pb.TaskStatusUpdateEvent(status=status, **ids)
            stream.append(pb.StreamResponse(status_update=update))
            continue
        artifact_id = draw(st.sampled_from("xyz"))
        parts = [part() for _ in range(draw(st.integers(1, 3)))] if kind == "a" else [pb.Part()]
        if kind == "d":
            parts[0].data.struct_value.update({"n": 1})
        artifact = pb.Artifact(artifact_id=artifact_id, parts=parts)
        update = pb.TaskArtifactUpdateEvent(
            artifact=artifact,
            append=artifact_id in artifacts,
            last_chunk=draw(st.booleans()),
            **ids,
        )
        artifacts.add(artifact_id)
        stream.append(pb.StreamResponse(artifact_update=update))
    state = draw(st.none() | st.sampled_from(sorted(STATES)))
    if state is not None:
        status = pb.TaskStatus(state=state)
        if STATES[state]:
            status.message.CopyFrom(message())
        update = pb.TaskStatusUpdateEvent(status=status, **ids)
        stream.append(pb.StreamResponse(status_update=update))
    return stream


def as_rpc(response: pb.StreamResponse) -> Any:
    return {"jsonrpc": "2.0", "id": 1, "result": MessageToDict(response)}


def as_03(response: pb.StreamResponse) -> Any:
    compat = conversions.to_compat_stream_response(response, request_id=1)
    return compat.model_dump(mode="json", by_alias=True, exclude_none=True)


BINDINGS: list[tuple[Dialect, Any, Callable[[pb.StreamResponse], Any]]] = [
    (A2A(), JsonRpcTransport, as_rpc),
    (A2A(), RestTransport, MessageToDict),
    (A2A03(), CompatJsonRpcTransport, as_03),
]
each_binding = pytest.mark.parametrize(
    ("dialect", "transport", "write"), BINDINGS, ids=["jsonrpc", "rest", "0.3"]
)


@each_binding
@settings(max_examples=40, deadline=None)
@given(stream=streams())
def test_says_of_any_stream_what_the_official_client_reads(
    dialect: Dialect, transport: Any, write: Any, stream: list[pb.StreamResponse]
) -> None:
    body = b"".join(f"data: {json.dumps(write(one))}\r\n\r\n".encode() for one in stream)
    ours, theirs = fold(events_of(dialect, frames_of(body))), a2a_oracle.read(transport, body)
    if theirs.end in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"):
        theirs.end = None
    assert ours == theirs


# --- single rules ----------------------------------------------------------------------------

IDS = {"taskId": "t", "contextId": "c"}
STARTED = ev.RunStarted(run_id="t", thread_id="c")
FINISHED = ev.RunFinished(run_id="t", thread_id="c")


def task(state: str = "SUBMITTED", **fields: Any) -> dict[str, Any]:
    return {"task": {"id": "t", "contextId": "c", "status": status(state), **fields}}


def status(state: str, *texts: str, message_id: str = "m", **message: Any) -> dict[str, Any]:
    said = {"messageId": message_id, "role": "ROLE_AGENT", "parts": parts(*texts), **message}
    return {"state": f"TASK_STATE_{state}", **({"message": said} if texts or message else {})}


def update(state: str, *texts: str, **message: Any) -> dict[str, Any]:
    return {"statusUpdate": {**IDS, "status": status(state, *texts, **message)}}


def artifact(artifact_id: str, *texts: str, **flags: Any) -> dict[str, Any]:
    body = {"artifactId": artifact_id, "parts": parts(*texts)}
    return {"artifactUpdate": {**IDS, "artifact": body, **flags}}


def more(artifact_id: str, *texts: str, **flags: Any) -> dict[str, Any]:
    return artifact(artifact_id, *texts, append=True, **flags)


def parts(*texts: Any) -> list[Any]:
    return [{"text": text} if isinstance(text, str) else text for text in texts]


def said(*values: Any, dialect: Dialect = A2A(), event: str | None = None) -> list[ev.Event]:  # noqa: B008
    frames = [Frame(data=json.dumps(value).encode(), event=event) for value in values]
    return events_of(dialect, frames)


def texts(events: Iterable[ev.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, ev.TextDelta)]


def test_a_whole_stream_becomes_these_events() -> None:
    events = said(
        task(),
        update("WORKING"),
        artifact("a", "Hel"),
        more("a", "lo"),
        more("a", "!", lastChunk=True),
        update("COMPLETED", "Bye."),
    )
    assert events == [
        STARTED,
        ev.Custom(name="working", value=status("WORKING")),
        ev.TextDelta(text="Hel", message_id="a"),
        ev.TextDelta(text="lo", message_id="a"),
        ev.TextDelta(text="!", message_id="a"),
        ev.MessageFinished(message_id="a"),
        ev.TextDelta(text="Bye.", message_id="m"),
        FINISHED,
    ]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # whole under the same id
        ([artifact("a", "Hel"), more("a", "lo"), artifact("a", "Hello")], ["Hel", "lo"]),
        ([artifact("a", "H"), artifact("a", "Hi"), artifact("a", "Hi!")], ["H", "i", "!"]),
        ([artifact("a", "Hello"), artifact("a", "Bye"), more("a", " now")], ["Hello", " now"]),
        ([update("WORKING", "Wait"), update("INPUT_REQUIRED", "Wait")], ["Wait"]),
        # in another message or artifact
        ([artifact("a", "Hel"), more("a", "lo"), update("COMPLETED", "Hello")], ["Hel", "lo"]),
        (
            [artifact("a", "Hel"), artifact("b", "lo"), update("COMPLETED", "Hello")],
            ["Hel", "lo"],
        ),
        ([update("WORKING", "Hello"), artifact("a", "Hello")], ["Hello"]),
        (
            [update("WORKING", "So: ", message_id="1"), update("WORKING", "Hel", message_id="2"),
             update("WORKING", "lo", message_id="3"), update("WORKING", "Hello", message_id="4"),
             artifact("a", "Hello")],
            ["So: ", "Hel", "lo"],
        ),
        # no repetitions
        ([artifact("a", "no"), artifact("b", "no")], ["no", "no"]),
        ([artifact("a", "yes"), update("COMPLETED", "es")], ["yes", "es"]),
        ([artifact("a", "Hello"), update("COMPLETED", "Hello!")], ["Hello", "Hello!"]),
        ([artifact("a", "Hello"), more("b", "Hello")], ["Hello", "Hello"]),
        ([artifact("a", "One"), artifact("b", "Two"), update("COMPLETED", "One")],
         ["One", "Two", "One"]),
    ],
)  # fmt: skip
def test_what_is_said_again_is_not_told_again(stream: list[Any], expected: list[str]) -> None:
    assert texts(said(task(), *stream)) == expected


def test_texts_without_an_id_are_told_and_not_mixed_up() -> None:
    nameless = {"artifactUpdate": {**IDS, "artifact": {"parts": parts("x")}}}
    assert texts(said(task(), nameless, nameless)) == ["x", "x"]


HELD = {"artifacts": [{"artifactId": "a", "parts": parts("Hel")}], "status": status("WORKING", "m")}


def test_a_task_under_way_at_the_start_was_told_to_whoever_asked_first() -> None:
    events = said(task(**HELD), more("a", "lo"), artifact("a", "Hello!"), update("WORKING", "m"))
    assert [one for one in events if not isinstance(one, ev.Custom)] == [
        STARTED,
        ev.TextDelta(text="lo", message_id="a"),
        ev.TextDelta(text="!", message_id="a"),
    ]


@pytest.mark.parametrize("state", ["COMPLETED", "INPUT_REQUIRED", "CANCELED"])
def test_a_task_that_is_over_or_waits_at_the_start_is_the_answer(state: str) -> None:
    events = said(task(state, artifacts=HELD["artifacts"], history=[{"parts": parts("old")}]))
    assert texts(events) == ["Hel"]
    assert isinstance(events[-1], ev.RunFinished | ev.RunInterrupted | ev.RunCancelled)


def test_a_task_later_in_the_stream_tells_what_is_new() -> None:
    events = said(task(), artifact("a", "H"), task(**HELD), task("COMPLETED", **HELD | {
        "status": status("COMPLETED", "m"),
        "artifacts": [*HELD["artifacts"], {"artifactId": "b", "parts": parts("!")}],
    }))  # fmt: skip
    assert texts(events) == ["H", "el", "m", "!"]
    assert events[-1] == FINISHED


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("COMPLETED", FINISHED),
        ("CANCELED", ev.RunCancelled()),
        ("CANCELLED", ev.RunCancelled()),
        ("INPUT_REQUIRED", ev.RunInterrupted(reason="input_required")),
        ("AUTH_REQUIRED", ev.RunInterrupted(reason="auth_required")),
        ("FAILED", ev.RunFailed(type="failed", message="why")),
        ("REJECTED", ev.RunFailed(type="rejected", message="why")),
    ],
)
def test_the_state_of_the_task_ends_the_run(state: str, end: ev.Event) -> None:
    word = state.lower().replace("_", "-")
    old = {
        "kind": "status-update",
        **IDS,
        "status": {"state": word, "message": {"role": "agent", "parts": parts("why")}},
    }
    failed = isinstance(end, ev.RunFailed)
    for events in (
        said(update(state, "why")),
        said({"jsonrpc": "2.0", "id": 1, "result": old}, dialect=A2A03()),
    ):
        assert events[0] == STARTED
        assert events[-1] == end
        assert texts(events) == ([] if failed else ["why"])


@pytest.mark.parametrize("state", ["SUBMITTED", "WORKING", "UNSPECIFIED", "NEW_IN_2_0"])
def test_other_states_go_on(state: str) -> None:
    assert said(update(state)) == [STARTED, ev.Custom(name=state.lower(), value=status(state))]


def test_a_failure_without_a_message_has_none() -> None:
    assert said(update("FAILED"))[-1] == ev.RunFailed(type="failed")


@pytest.mark.parametrize("state", ["working", "unknown"])
def test_a_final_status_ends_the_run_whatever_its_state(state: str) -> None:
    final = {**IDS, "status": {"state": state}, "final": True}
    rpc = {"jsonrpc": "2.0", "id": 1, "result": {"kind": "status-update", **final}}
    assert said(rpc, dialect=A2A03())[-1] == FINISHED
    assert said({"statusUpdate": final})[-1] == FINISHED
    assert FINISHED not in said({"statusUpdate": {**final, "final": False}})


def test_a_final_status_that_ends_the_task_ends_it_once() -> None:
    final = {**IDS, "status": {"state": "input-required"}, "final": True}
    assert said({"statusUpdate": final})[1:] == [ev.RunInterrupted(reason="input_required")]


def test_a_task_that_waited_goes_on_when_more_comes() -> None:
    events = said(task(), update("INPUT_REQUIRED"), artifact("a", "x"), more("a", "y"))
    assert events == [
        STARTED,
        ev.RunInterrupted(reason="input_required"),
        STARTED,
        ev.TextDelta(text="x", message_id="a"),
        ev.TextDelta(text="y", message_id="a"),
    ]


def message(**fields: Any) -> dict[str, Any]:
    said = {"messageId": "m", "contextId": "c", "role": "ROLE_AGENT", "parts": parts("Hi")}
    return {"message": {**said, **fields}}


def test_a_message_is_a_run_of_its_own_where_there_is_no_task() -> None:
    assert said(message()) == [
        ev.RunStarted(thread_id="c"),
        ev.TextDelta(text="Hi", message_id="m"),
        ev.RunFinished(thread_id="c"),
    ]
    assert said(task(), message()) == [STARTED, ev.TextDelta(text="Hi", message_id="m")]


def test_what_the_user_said_is_no_output() -> None:
    events = said(task(), message(role="ROLE_USER"))
    assert texts(events) == []
    assert isinstance(events[-1], ev.Custom)


ERROR = {"code": -32603, "message": "kaput"}
REASON = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TASK_NOT_FOUND"}]


@pytest.mark.parametrize(
    ("event", "value", "expected"),
    [
        ("error", {"jsonrpc": "2.0", "id": 1, "error": ERROR}, ("-32603", "kaput")),
        (None, {"jsonrpc": "2.0", "id": 1, "error": ERROR}, ("-32603", "kaput")),
        ("error", {"error": {**ERROR, "data": REASON}}, ("TASK_NOT_FOUND", "kaput")),
        (
            "error",
            {"error": {"code": 404, "status": "NOT_FOUND", "message": "m", "details": REASON}},
            ("TASK_NOT_FOUND", "m"),
        ),
        (
            "error",
            {"error": {"code": 500, "status": "INTERNAL", "message": "m"}},
            ("INTERNAL", "m"),
        ),
        ("error", {"code": 500, "message": "bare"}, ("500", "bare")),
        ("error", {"error": "plain"}, (None, "plain")),
        ("error", {"error": {"code": None, "data": [7], "message": 7}}, (None, "7")),
        ("error", "a text", (None, '"a text"')),
    ],
)
def test_errors_fail_the_run(event: str | None, value: Any, expected: tuple[Any, Any]) -> None:
    kind, text = expected
    assert said(value, event=event) == [ev.RunFailed(type=kind, message=text)]


def test_other_parts_are_told_once() -> None:
    data, file = {"data": {"n": 1.0}}, {"url": "http://x", "mediaType": "text/html"}
    events = said(task(), artifact("a", "x", data, file), artifact("a", "x", data, file))
    assert events[2:] == [ev.Custom(name="data", value=data), ev.Custom(name="part", value=file)]


def test_nothing_else_is_lost() -> None:
    other, cut = Frame(data=b"[1]", event="x"), Frame(data=b'{"task":', complete=False)
    assert events_of(A2A(), [other, cut]) == [ev.Custom(name="x", value=[1])]
    assert said({"new": {}}) == [ev.Custom(name="unknown", value={"new": {}})]
    rpc = {"jsonrpc": "2.0", "result": {"kind": "new"}}
    assert said(rpc, dialect=A2A03()) == [ev.Custom(name="new", value=rpc)]


# --- the words of Google's ADK ---------------------------------------------------------------


def call(**data: Any) -> dict[str, Any]:
    return {"data": data, "metadata": {"adk_type": "function_call"}}


def response(**data: Any) -> dict[str, Any]:
    return {"data": data, "metadata": {"adk_type": "function_response"}}


def test_thoughts_are_reasoning_and_no_text() -> None:
    def thought(text: str) -> Any:
        return {"text": text, "metadata": {"adk_thought": True}}

    events = said(task(), artifact("a", thought("h"), "A"), more("a", thought("m")),
                  artifact("a", thought("hm"), "A!"))  # fmt: skip
    assert events[1:] == [
        ev.ReasoningDelta(text="h", message_id="a"),
        ev.TextDelta(text="A", message_id="a"),
        ev.ReasoningDelta(text="m", message_id="a"),
        ev.TextDelta(text="!", message_id="a"),
    ]


def test_tool_calls_and_their_results_are_told_once() -> None:
    both = (call(id="1", name="f", args={"x": 1.0}), response(id="1", response={"y": [2.0]}))
    events = said(task(), update("WORKING", *both, message_id="1"), artifact("a", *both))
    assert [one for one in events[1:] if not isinstance(one, ev.Custom)] == [
        ev.ToolCallStarted(tool_call_id="1", name="f"),
        ev.ToolCallReady(tool_call_id="1", arguments='{"x":1.0}'),
        ev.ToolCallResult(tool_call_id="1", result='{"y":[2.0]}'),
    ]


def test_a_tool_call_without_an_id_gets_one() -> None:
    events = said(task(), artifact("a", call(name="f"), call(name="g"), response(name="f")))
    assert [one.tool_call_id for one in events if isinstance(one, ev.ToolCallStarted)] == [
        "tool-1",
        "tool-2",
    ]
    assert events[-1] == ev.Custom(name="function_response", value={"name": "f"})


def test_a_question_names_the_call_that_waits() -> None:
    asks = {**call(id="7", name="approve"), "metadata": {"adk_is_long_running": True}}
    end = said(update("INPUT_REQUIRED", "May I?", asks))[-1]
    assert end == ev.RunInterrupted(reason="input_required", tool_call_id="7")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (
            {"promptTokenCount": 10.0, "candidatesTokenCount": 5.0, "thoughtsTokenCount": 3.0,
             "toolUsePromptTokenCount": 2.0, "cachedContentTokenCount": 4.0},
            ev.Usage(input_tokens=12, output_tokens=8, cached_input_tokens=4, reasoning_tokens=3),
        ),
        ({"promptTokenCount": 7}, ev.Usage(input_tokens=7)),
        ({"promptTokenCount": 7.5, "candidatesTokenCount": True}, ev.Usage()),
    ],
)  # fmt: skip
def test_usage_is_counted_as_gemini_counts(counts: Any, expected: ev.Usage) -> None:
    hints = {"adk_usage_metadata": counts}
    of_update = {"statusUpdate": {**IDS, "status": status("WORKING", "x"), "metadata": hints}}
    assert expected in said(of_update)
    assert expected in said(update("WORKING", "x", metadata=hints))
    assert expected in said(task(), artifact("a", "x"), more("a", "y", metadata=hints))


def test_the_code_of_an_error_names_it_and_its_text_is_no_answer() -> None:
    hints = {"metadata": {"adk_error_code": "SAFETY"}}
    events = said(update("WORKING", "blocked", **hints), update("FAILED", "blocked", **hints))
    assert texts(events) == []
    assert events[-1] == ev.RunFailed(type="SAFETY", message="blocked")


# --- the two ways through the decoder, and its bounds -----------------------------------------


class _Slow(a2a.A2ADecoder):
    def hot(self, data: bytes) -> None:
        return None


ODD = st.sampled_from((None, "", "x", 1, True, [], {}, [1], {"adk_usage_metadata": {}}, {"k": 1}))
ODD_PARTS = st.lists(
    st.sampled_from(("", "x", "y\ud83d", {"data": 1}, {"text": 1}, {"text": "z", "metadata": {}})),
    max_size=2,
).map(lambda texts: parts(*texts))
updates = st.builds(
    lambda artifact_id, content, append, last, metadata, inner, envelope: {
        **envelope,
        "artifactUpdate": {
            **IDS,
            "artifact": {"artifactId": artifact_id, "parts": content, "metadata": inner},
            "append": append,
            "lastChunk": last,
            "metadata": metadata,
        },
    },
    st.sampled_from(("a", "b", "", 7, None, "x" * 300)),
    ODD_PARTS | ODD,
    st.booleans() | ODD,
    st.booleans() | ODD,
    ODD,
    ODD,
    st.sampled_from(({}, {"error": None}, {"error": "e"}, {"result": None}, {"jsonrpc": "2.0"})),
)


@settings(max_examples=200, deadline=None)
@given(stream=st.lists(updates, max_size=8))
def test_the_quick_way_says_what_the_long_way_says(stream: list[Any]) -> None:
    frames = [Frame(data=json.dumps(value).encode()) for value in (task(), *stream)]
    decoder = _Slow()
    assert events_of(A2A(), frames) == [one for frame in frames for one in decoder.decode(frame)]


def test_what_is_remembered_is_bounded() -> None:
    decoder = a2a.A2ADecoder()
    for number in range(repeated.MAX_TEXTS + 9):
        value = artifact(f"{number}", "x", call(id=f"{number}"), response(id=f"{number}"))
        list(decoder.decode(Frame(data=json.dumps(value).encode())))
    assert len(decoder._said.texts) == repeated.MAX_TEXTS
    assert len(decoder._calls) == a2a.MAX_CALLS


# --- recognised ------------------------------------------------------------------------------

RPC_ERROR = {"jsonrpc": "2.0", "id": 1, "error": ERROR}


def rpc(result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


def asked(method: str) -> Head:
    return Head(request={"jsonrpc": "2.0", "id": 1, "method": method})


@pytest.mark.parametrize(
    ("value", "event", "head", "fits"),
    [
        (rpc(task()), None, Head(), (Fit.YES, Fit.NO)),
        (task(), None, Head(), (Fit.YES, Fit.NO)),
        (message(), None, Head(), (Fit.YES, Fit.NO)),
        ({**message(), "more": 1}, None, Head(), (Fit.NO, Fit.NO)),
        ({"message": {"role": "assistant", "content": "x"}}, None, Head(), (Fit.NO, Fit.NO)),
        ({"task": {"taskId": "t", "status": "working"}}, None, Head(), (Fit.NO, Fit.NO)),
        (rpc({"kind": "message"}), None, Head(), (Fit.NO, Fit.YES)),
        (rpc({"content": []}), "message", Head(), (Fit.NO, Fit.NO)),
        (RPC_ERROR, None, Head(), (Fit.MAYBE, Fit.MAYBE)),
        (RPC_ERROR, "error", Head(), (Fit.MAYBE, Fit.MAYBE)),
        (RPC_ERROR, "message", Head(), (Fit.NO, Fit.NO)),
        (RPC_ERROR, None, asked("SendStreamingMessage"), (Fit.YES, Fit.NO)),
        (RPC_ERROR, None, asked("message/stream"), (Fit.NO, Fit.YES)),
        (RPC_ERROR, None, asked("tools/call"), (Fit.NO, Fit.NO)),
        ({"error": {"code": 500}}, "error", Head(path="/v1/message:stream"), (Fit.YES, Fit.NO)),
        ({"error": {"code": 500}}, "error", Head(), (Fit.NO, Fit.NO)),
        ([rpc(task())], None, Head(), (Fit.NO, Fit.NO)),
    ],
)
def test_recognises_the_objects_of_the_protocol(
    value: Any, event: str | None, head: Head, fits: tuple[Fit, Fit]
) -> None:
    frame = Frame(data=json.dumps(value).encode(), event=event)
    assert (A2A().recognise(head, frame), A2A03().recognise(head, frame)) == fits


# --- written ---------------------------------------------------------------------------------

ENVELOPES = [Envelope(run_id="t", thread_id="c", request_id=one) for one in (None, 7, "r1")]
each_envelope = pytest.mark.parametrize("envelope", ENVELOPES, ids=["rest", "rpc", "rpc text"])


def write(events: Iterable[ev.Event], envelope: Envelope) -> bytes:
    encoder = A2A().encoder(envelope)
    frames = [frame for event in events for frame in encoder.encode(event)]
    return b"".join(map(encode_frame, [*frames, *encoder.close()]))


words = st.text(min_size=1, max_size=8)
ids = st.text(min_size=1, max_size=4)
ends = (
    st.builds(ev.RunFinished, run_id=st.just("t"), thread_id=st.just("c"))
    | st.just(ev.RunCancelled())
    | st.builds(ev.RunInterrupted, reason=st.sampled_from(("input_required", "auth_required")))
    | st.builds(
        ev.RunFailed,
        type=st.sampled_from(("failed", "rejected")) | words,
        message=st.none() | words,
    )
)


@st.composite
def runs(draw: st.DrawFn) -> list[ev.Event]:
    """What A2A can say: texts, each of which may be finished, and an end."""
    events: list[ev.Event] = [STARTED]
    growing: dict[str, bool] = {}
    for message_id, text in draw(st.lists(st.tuples(ids, words | st.none()), max_size=12)):
        if text is not None and growing.setdefault(message_id, True):
            events.append(ev.TextDelta(text=text, message_id=message_id))
        elif growing.get(message_id):
            events.append(ev.MessageFinished(message_id=message_id))
            growing[message_id] = False
    return events + draw(st.lists(ends, max_size=1))


@each_envelope
@settings(max_examples=100, deadline=None)
@given(events=runs())
def test_what_is_written_is_read_again(envelope: Envelope, events: list[ev.Event]) -> None:
    again = events_of(A2A(), frames_of(write(events, envelope)))
    assert [event for event in again if type(event) in A2A.encodes] == events


@pytest.mark.parametrize("number", [0, 1])
@settings(max_examples=25, deadline=None)
@given(events=runs())
def test_what_is_written_says_the_same_to_the_official_client(
    number: int, events: list[ev.Event]
) -> None:
    transport = (RestTransport, JsonRpcTransport)[number]
    theirs = a2a_oracle.read(transport, write(events, ENVELOPES[number]))
    ours = fold(events)
    assert theirs.texts == ours.texts
    assert (theirs.task_id, theirs.context_id) == ("t", "c")
    last = events[-1]
    if isinstance(last, ev.RunFailed):
        rejected = last.type == "rejected"
        assert theirs.end == f"TASK_STATE_{'REJECTED' if rejected else 'FAILED'}"
        assert theirs.error == (last.message or "")
    else:
        assert theirs.end == (ours.end or "TASK_STATE_WORKING")


def test_a_run_is_written_as_these_frames() -> None:
    said = (ev.TextDelta(text="Hi", message_id="a"), ev.MessageFinished(message_id="a"))
    frames = frames_of(write([STARTED, *said, FINISHED], ENVELOPES[0]))
    assert [frame.json() for frame in frames] == [
        task(),
        update("WORKING"),
        artifact("a", "Hi"),
        more("a", "", lastChunk=True),
        update("COMPLETED"),
    ]


def test_a_call_of_json_rpc_is_answered_under_its_id() -> None:
    frames = frames_of(write([STARTED], ENVELOPES[2]))
    assert frames[0].json() == {"jsonrpc": "2.0", "id": "r1", "result": task()}


@pytest.mark.parametrize(
    "events",
    [
        [ev.TextDelta(text="")],
        [ev.MessageFinished(message_id="never begun")],
        [ev.Usage(input_tokens=1), ev.ReasoningDelta(text="hm"), ev.StepStarted(name="s")],
        [ev.ToolCallStarted(tool_call_id="1"), ev.GenerationStarted(model="m")],
    ],
)
def test_what_a2a_has_no_words_for_is_not_written(events: list[ev.Event]) -> None:
    assert write(events, Envelope()) == b""


def test_the_first_event_that_says_something_begins_the_task() -> None:
    again = events_of(A2A(), frames_of(write([ev.TextDelta(text="x")], ENVELOPES[0])))
    assert [one for one in again if not isinstance(one, ev.Custom)] == [
        STARTED,
        ev.TextDelta(text="x", message_id="text"),
    ]


def test_nothing_is_written_after_the_end() -> None:
    assert write([FINISHED, ev.TextDelta(text="x"), STARTED], ENVELOPES[0]) == write(
        [FINISHED], ENVELOPES[0]
    )


def test_artifacts_that_are_remembered_are_bounded() -> None:
    encoder: Any = A2A().encoder()
    for number in range(MAX_ARTIFACTS + 9):
        list(encoder.encode(ev.TextDelta(text="x", message_id=str(number))))
    assert len(encoder._artifacts) == len(encoder._open) == MAX_ARTIFACTS


@pytest.mark.parametrize("message_id", [None, "a"])
def test_text_of_a_message_that_was_finished_is_another_artifact(message_id) -> None:
    given = message_id or "text"
    part = [
        ev.TextDelta(text="x", message_id=message_id),
        ev.MessageFinished(message_id=message_id),
    ]
    again = events_of(A2A(), frames_of(write(part * 3, ENVELOPES[0])))
    told = [one.message_id for one in again if isinstance(one, ev.TextDelta | ev.MessageFinished)]
    assert told == [one for one in (given, f"{given}-1", f"{given}-2") for _ in part]


@pytest.mark.parametrize(
    ("pieces", "whole", "told"),
    [
        (['{"a":', "1}"], None, '{"a":1}'),
        ([], '{"a":1}', '{"a":1}'),
        ([], None, "{}"),
        (["[1]"], None, '{"arguments":"[1]"}'),
    ],
)
def test_tools_are_written_as_adk_does_for_those_who_want_them(
    pieces: list[str], whole: str | None, told: str
) -> None:
    encoder = A2AToolsEncoder(ENVELOPES[0])
    events = [
        STARTED,
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        *[ev.ToolCallArgumentsDelta(tool_call_id="c", delta=piece) for piece in pieces],
        ev.ToolCallReady(tool_call_id="c", arguments=whole),
        ev.ToolCallReady(tool_call_id="c", arguments="again"),
        ev.ToolCallResult(tool_call_id="c", result="sunny"),
        ev.ToolCallResult(tool_call_id="d", result='{"b":2}', is_error=True),
        FINISHED,
    ]
    written = b"".join(encode_frame(frame) for one in events for frame in encoder.encode(one))
    again = events_of(A2A(), frames_of(written))
    assert [one for one in again if not isinstance(one, ev.Custom)] == [
        STARTED,
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c", arguments=told),
        ev.ToolCallResult(tool_call_id="c", result='{"result":"sunny"}'),
        ev.ToolCallResult(tool_call_id="d", result='{"b":2}'),
        FINISHED,
    ]


def test_calls_that_are_not_ready_are_bounded() -> None:
    encoder: Any = A2AToolsEncoder(ENVELOPES[0])
    for number in range(MAX_CALLS + 9):
        list(encoder.encode(ev.ToolCallStarted(tool_call_id=str(number))))
    assert len(encoder._calls) == MAX_CALLS


# --- read by the real clients, over the network ------------------------------------------------

RUNS: dict[str, list[ev.Event]] = {
    "completed": [
        STARTED,
        ev.TextDelta(text="Hel", message_id="a"),
        ev.TextDelta(text="lo\u2028\x85 \N{GRINNING FACE}", message_id="a"),
        ev.MessageFinished(message_id="a"),
        ev.TextDelta(text="More", message_id="b"),
        FINISHED,
    ],
    "input_required": [
        STARTED,
        ev.TextDelta(text="Which city?", message_id="a"),
        ev.RunInterrupted(reason="input_required"),
    ],
    "auth_required": [STARTED, ev.RunInterrupted(reason="auth_required")],
    "canceled": [STARTED, ev.TextDelta(text="x", message_id="a"), ev.RunCancelled()],
    "failed": [
        STARTED,
        ev.TextDelta(text="x", message_id="a"),
        ev.RunFailed(type="overloaded", message="too much"),
    ],
    "rejected": [STARTED, ev.RunFailed(type="rejected", message="not me")],
    "silent failure": [STARTED, ev.RunFailed(type="timeout")],
}
PROTOCOLS = ("JSONRPC", "HTTP+JSON")


def agent(events: list[ev.Event], protocol: str) -> Starlette:
    """An agent with a card that answers every message with this run."""

    async def card(request: Request) -> Response:
        interface = pb.AgentInterface(
            url=f"{request.base_url}a2a", protocol_binding=protocol, protocol_version="1.0"
        )
        made = pb.AgentCard(
            name="agent", description="d", version="1", supported_interfaces=[interface],
            default_input_modes=["text/plain"], default_output_modes=["text/plain"],
            capabilities=pb.AgentCapabilities(streaming=True),
        )  # fmt: skip
        return JSONResponse(MessageToDict(made))

    async def answer(request: Request) -> Response:
        message = await request.json()
        if protocol == "JSONRPC":
            assert message["method"] == "SendStreamingMessage"
        envelope = Envelope(run_id="t", thread_id="c", request_id=message.get("id"))
        return StreamingResponse(iter([write(events, envelope)]), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/.well-known/agent-card.json", card),
            Route("/a2a" if protocol == "JSONRPC" else "/a2a/message:stream", answer,
                  methods=["POST"]),
        ]
    )  # fmt: skip


async def python_client(url: str, protocol: str) -> Facts:
    facts = Facts()
    async with httpx.AsyncClient() as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[protocol])
        request = pb.SendMessageRequest(
            message=pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text="hi")])
        )
        async for response in ClientFactory(config).create(card).send_message(request):
            a2a_oracle.fold(facts, response)
    return facts


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", RUNS)
async def test_the_clients_in_python_and_javascript_understand_a_run(
    name: str, protocol: str
) -> None:
    events = RUNS[name]
    ours = fold(events)
    async with live(agent(events, protocol)) as url:
        in_python, in_javascript = await asyncio.gather(
            python_client(url, protocol), run_client("a2a.mjs", url)
        )
    state = "TASK_STATE_FAILED" if ours.end == "error" else ours.end
    assert in_python == Facts("t", "c", ours.texts, state, ours.error or in_python.error)
    assert in_javascript == {
        "ids": ["t", "c"],
        "texts": ours.texts,
        "states": ["TASK_STATE_SUBMITTED", "TASK_STATE_WORKING", state],
        "closed": [one.message_id for one in events if isinstance(one, ev.MessageFinished)],
        "said": ours.error if ours.error or name != "silent failure" else "",
    }
