"""MCP, decoded, against what the official types read in the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import mcp_oracle
from support.mcp_oracle import Facts
from support.recordings import RECORDED
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.mcp import MAX_BATCH, Mcp

STREAMS = {one.name: one for one in RECORDED if one.dialect == "mcp"}


def fold(events: Iterable[ev.Event]) -> Facts:
    """The facts that our events tell."""
    facts = Facts()
    for event in events:
        match event:
            case ev.RunStarted(agent=str(name)):
                facts.server = name
            case ev.ToolCallStarted():
                facts.tool = event.name
            case ev.ToolCallReady(arguments=str(text)):
                facts.arguments = json.loads(text)
            case ev.ToolCallResult():
                facts.text, facts.is_error = event.result, event.is_error
            case ev.Custom():
                facts.notices.append(event.name)
            case ev.RunInterrupted():
                facts.asks = event.reason
            case ev.RunCancelled():
                facts.error = ("-32800", "Request cancelled")
            case ev.RunFailed():
                facts.error = (event.type or "", event.message or "")
    return facts


# --- against the official types ----------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_says_of_a_recorded_stream_what_the_official_types_read(name: str) -> None:
    stream = STREAMS[name]
    version = name.split("_")[1] if name.startswith("mcp_") else "2025-11-25"
    ours = fold(events_of(Mcp(), stream.frames(), stream.head))
    theirs = mcp_oracle.read(stream.body, stream.head.request, version)
    if "picture" in name:  # what is more than text is kept as JSON
        assert [part["type"] for part in json.loads(ours.text or "")] == ["text", "image"]
        theirs.text = ours.text
    if "url_elicitation" in name:  # an error of this code is a question
        ours.error = ("-32042", "URL elicitation required")
        theirs.asks = mcp_oracle.ASK
    elif theirs.error is not None and theirs.error[0] != "-32800":  # it fails the call as well
        theirs.text, theirs.is_error = theirs.error[1], True
    if theirs.server is None:  # 2026-07-28 names it in every result
        ours.server = None
    answers = ("initialize", "tools/list", "result")  # results of other methods are passed on
    ours.notices = [one for one in ours.notices if one not in answers]
    assert ours == theirs


# --- single rules ----------------------------------------------------------------------------


def request(request_id: Any = 1, method: str = "tools/call", **params: Any) -> dict[str, Any]:
    params = params or {"name": "search", "arguments": {"q": "x"}}
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def note(method: str = "notifications/progress", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def answer(result: Any = None, request_id: Any = 1) -> dict[str, Any]:
    result = {"content": [{"type": "text", "text": "found"}]} if result is None else result
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error(code: Any, message: Any = "no", request_id: Any = 1) -> dict[str, Any]:
    facts = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": request_id, "error": facts}


def said(*values: Any, asked: Any = None, **headers: str) -> list[ev.Event]:
    frames = [Frame(data=json.dumps(value).encode(), event="message") for value in values]
    return events_of(Mcp(), frames, Head(request=asked, headers=headers))


STARTED = ev.RunStarted(run_id="1")
FINISHED = ev.RunFinished(run_id="1")
CALLED = [
    ev.ToolCallStarted(tool_call_id="1", name="search"),
    ev.ToolCallReady(tool_call_id="1", arguments='{"q":"x"}', requested=True),
]
RESULT = ev.ToolCallResult(tool_call_id="1", result="found")


def test_a_tool_call_becomes_these_events() -> None:
    progress = note(progressToken=1, progress=1)
    headers = {"mcp-session-id": "s"}
    assert said(progress, answer(), asked=request(), **headers) == [
        ev.RunStarted(run_id="1", thread_id="s"),
        *CALLED,
        ev.Custom(name="notifications/progress", value={"progressToken": 1, "progress": 1}),
        RESULT,
        ev.RunFinished(run_id="1", thread_id="s"),
    ]


def test_without_its_request_a_result_tells_that_there_was_a_call() -> None:
    assert said(note("notifications/message", data="x"), answer(request_id=7)) == [
        ev.Custom(name="notifications/message", value={"data": "x"}),
        ev.RunStarted(run_id="7"),
        ev.ToolCallStarted(tool_call_id="7"),
        ev.ToolCallReady(tool_call_id="7", requested=True),
        ev.ToolCallResult(tool_call_id="7", result="found"),
        ev.RunFinished(run_id="7"),
    ]


def test_without_the_requests_every_response_is_a_run_and_the_first_began_with_the_stream() -> None:
    runs = said(answer(request_id=1), answer({}, request_id=2), answer(request_id=3))
    ends = [one.run_id for one in runs if isinstance(one, ev.RunStarted | ev.RunFinished)]
    assert ends == ["1", "1", "2", "2", "3", "3"]
    assert [one.tool_call_id for one in runs if isinstance(one, ev.ToolCallReady)] == ["1"]


@pytest.mark.parametrize(
    ("ours", "theirs", "matches"),
    [(1, 1, True), ("1", 1, True), (1, "1", True), (1, 2, False), (1, None, False),
     ("a", "a", True), (1, 1.5, False), (1, True, False)],
)  # fmt: skip
def test_only_the_response_with_the_id_of_the_request_ends_the_run(
    ours: Any, theirs: Any, matches: bool
) -> None:
    events = said(answer(request_id=theirs), asked=request(ours))
    assert any(isinstance(one, ev.RunFinished) for one in events) is matches
    assert any(isinstance(one, ev.ToolCallResult) for one in events) is matches
    if not matches:
        assert events[-1] == ev.Custom(name="response", value=answer(request_id=theirs))


def test_a_request_of_the_server_is_no_answer_whatever_its_id() -> None:
    asks = request(1, "elicitation/create", message="which city?")
    assert said(asks, answer(), asked=request())[3:] == [
        ev.Custom(name="elicitation/create", value={"message": "which city?"}),
        RESULT,
        FINISHED,
    ]


def test_an_error_that_could_not_read_the_request_is_its_answer() -> None:
    assert said(error(-32700, request_id=None), asked=request())[-1] == ev.RunFailed(
        type="-32700", message="no"
    )


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(), [RESULT, FINISHED]),
        (
            answer({"content": [{"type": "text", "text": "no"}], "isError": True}),
            [ev.ToolCallResult(tool_call_id="1", result="no", is_error=True), FINISHED],
        ),
        (
            answer({"content": [], "structuredContent": {"n": 1}, "resultType": "complete"}),
            [ev.ToolCallResult(tool_call_id="1", result='{"n":1}'), FINISHED],
        ),
        (answer({"content": []}), [ev.ToolCallResult(tool_call_id="1"), FINISHED]),
        (
            answer({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            [ev.ToolCallResult(tool_call_id="1", result="a\nb"), FINISHED],
        ),
        (
            answer({"content": [{"type": "image", "data": "aGk="}]}),
            [
                ev.ToolCallResult(tool_call_id="1", result='[{"type":"image","data":"aGk="}]'),
                FINISHED,
            ],
        ),
        (
            error(-32602, "Unknown tool"),
            [
                ev.ToolCallResult(tool_call_id="1", result="Unknown tool", is_error=True),
                ev.RunFailed(type="-32602", message="Unknown tool"),
            ],
        ),
        (error(-32800, "Request cancelled"), [ev.RunCancelled()]),
        (error(0, "Request cancelled"), [ev.RunCancelled()]),
        (
            error(-32042, "URL elicitation required"),
            [ev.RunInterrupted(reason="elicitation/create", tool_call_id="1")],
        ),
        (
            answer({
                "resultType": "input_required",
                "inputRequests": {"k": {"method": "sampling/createMessage", "params": {}}},
            }),
            [ev.RunInterrupted(reason="sampling/createMessage", tool_call_id="1")],
        ),
        (
            answer({"resultType": "input_required", "requestState": "s"}),
            [ev.RunInterrupted(tool_call_id="1")],
        ),
        (
            answer({"resultType": "task", "taskId": "t"}),
            [ev.Custom(name="task", value={"resultType": "task", "taskId": "t"}), FINISHED],
        ),
        (
            answer({"task": {"taskId": "t", "status": "working"}}),
            [
                ev.Custom(name="tools/call", value={"task": {"taskId": "t", "status": "working"}}),
                FINISHED,
            ],
        ),
    ],
)  # fmt: skip
def test_every_kind_of_response_ends_the_run(response: Any, expected: list[ev.Event]) -> None:
    assert said(response, asked=request()) == [STARTED, *CALLED, *expected]


@pytest.mark.parametrize("method", ["initialize", "tools/list", "tasks/result"])
def test_other_methods_are_runs_without_a_call(method: str) -> None:
    result = {"content": [], "serverInfo": {"name": "demo", "version": "1"}}
    assert said(answer(result), asked=request(1, method)) == [
        STARTED,
        ev.RunStarted(run_id="1", agent="demo"),
        ev.Custom(name=method, value=result),
        FINISHED,
    ]


def test_the_server_names_itself_in_the_metadata_of_a_result() -> None:
    named = {"content": [], "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "demo"}}}
    assert ev.RunStarted(run_id="1", agent="demo") in said(answer(named), asked=request())


def test_a_batch_ends_when_all_of_it_is_answered() -> None:
    asked = [request(1), request(2, "tools/list"), note("notifications/cancelled")]
    first, second = answer({"tools": []}, 2), [note(), answer()]
    assert said(first, asked=asked)[-1] == ev.Custom(name="tools/list", value={"tools": []})
    assert said(first, second, asked=asked)[-2:] == [RESULT, FINISHED]
    for responses in ([first, error(-1)], [error(-1), first]):
        assert said(responses, asked=asked)[-1] == ev.RunFailed(type="-1", message="no")


def test_the_responses_of_an_unknown_batch_end_one_run() -> None:
    events = said([answer(request_id=1), answer(request_id=2)])
    assert len([one for one in events if isinstance(one, ev.ToolCallResult)]) == 2
    assert len([one for one in events if isinstance(one, ev.RunFinished)]) == 1


def test_a_larger_batch_is_followed_in_part() -> None:
    asked = [request(number) for number in range(MAX_BATCH + 9)]
    calls = [one for one in said(note(), asked=asked) if isinstance(one, ev.ToolCallStarted)]
    assert len(calls) == MAX_BATCH


def test_arguments_that_the_request_does_not_give_are_absent() -> None:
    asked = request(name="f")
    assert said(note(), asked=asked)[2] == ev.ToolCallReady(tool_call_id="1", requested=True)


def test_signs_of_life() -> None:
    primed, comment = Frame(id="7", data=b"", retry=500), Frame(comment=b"ping")
    assert events_of(Mcp(), [primed, comment]) == [ev.Heartbeat()]
    assert said(request(3, "ping")) == [ev.Heartbeat()]


def test_what_is_no_message_is_passed_on() -> None:
    endpoint = Frame(event="endpoint", data=b"/messages?session=1")
    assert events_of(Mcp(), [endpoint]) == [ev.Custom(name="endpoint", value="/messages?session=1")]
    assert said({"jsonrpc": "2.0"}, [7]) == [
        ev.Custom(name="unknown", value={"jsonrpc": "2.0"}),
        ev.Custom(name="unknown", value={"message": 7}),
    ]


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(("x", "2.0")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("jsonrpc", "id", "method", "params", "result", "error", "code", "message", "name",
                 "arguments", "content", "type", "text", "isError", "resultType", "inputRequests",
                 "structuredContent", "serverInfo", "_meta", "task", "taskId")
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(asked=odd, values=st.lists(odd, max_size=5))
def test_no_message_makes_the_decoder_raise(asked: Any, values: list[Any]) -> None:
    for event in said(*values, asked=asked):
        assert all(
            value is None or isinstance(value, str | bool)
            for name in event.__struct_fields__
            if name != "value" and (value := getattr(event, name)) is not None
        )
    for value in values:
        frame = Frame(data=json.dumps(value).encode(), event="message")
        assert Mcp().recognise(Head(request=asked), frame) in Fit


# --- recognised ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "event", "asked", "fit"),
    [
        (note(), "message", None, Fit.YES),
        (note(), None, None, Fit.YES),
        (note("notifications/new"), None, None, Fit.YES),
        (request(1, "sampling/createMessage"), "message", None, Fit.YES),
        (answer(), "message", None, Fit.YES),
        ([note(), answer()], "message", None, Fit.YES),
        (answer({}), "message", None, Fit.MAYBE),
        (answer({"task": {"taskId": "t"}}), None, None, Fit.YES),
        (error(1), "message", None, Fit.MAYBE),
        (request(1, "session/update"), "message", None, Fit.MAYBE),
        (error(1), "message", request(), Fit.YES),
        (answer({}), None, [request()], Fit.YES),
        (error(1), None, request(1, "SendStreamingMessage"), Fit.MAYBE),
        (note(), "error", None, Fit.NO),
        ({"method": "notifications/progress"}, "message", None, Fit.NO),
        (answer({"kind": "task"}), None, None, Fit.NO),
        (answer({"statusUpdate": {}}), None, None, Fit.NO),
        ([], "message", None, Fit.NO),
        ([note(), 7], "message", None, Fit.NO),
        ("/messages", "endpoint", None, Fit.MAYBE),
    ],
)
def test_recognises_the_messages_of_the_protocol(
    value: Any, event: str | None, asked: Any, fit: Fit
) -> None:
    frame = Frame(data=json.dumps(value).encode(), event=event)
    assert Mcp().recognise(Head(request=asked), frame) is fit
