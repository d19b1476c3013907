"""Generic typed JSON: the kinds in common use, flat or in `data`, keyed by `type` or `event`."""

from __future__ import annotations

import json

import pytest
from support.wire import events_of, frames_of, text_of

from streamtrace.core.events import (
    Custom,
    Event,
    Heartbeat,
    ReasoningDelta,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
from streamtrace.core.frames import LineParser
from streamtrace.dialects.typed_json import TypedJson

FASTAPI = b"""\
data: {"type": "status", "content": "Thinking..."}

data: {"type": "token", "content": "The "}

data: {"type": "status", "content": "Using search..."}

data: {"type": "tool_result", "tool": "search", "content": "42"}

data: {"type": "token", "content": "answer"}

data: {"type": "done"}

"""


def decode(*bodies: object) -> list[Event]:
    stream = b"".join(b"data: %s\n\n" % json.dumps(body).encode() for body in bodies)
    return events_of(TypedJson(), frames_of(stream))


def test_a_run_reads_from_start_to_end():
    assert events_of(TypedJson(), frames_of(FASTAPI)) == [
        Custom(name="status", value={"content": "Thinking..."}),
        TextDelta(text="The "),
        Custom(name="status", value={"content": "Using search..."}),
        ToolCallStarted(tool_call_id="search-1", name="search"),
        ToolCallResult(tool_call_id="search-1", result="42"),
        TextDelta(text="answer"),
        RunFinished(),
    ]


def test_lines_of_json_read_the_same():
    lines = FASTAPI.replace(b"data: ", b"").replace(b"\n\n", b"\n")
    frames = frames_of(lines, parser=LineParser())
    assert events_of(TypedJson(), frames) == events_of(TypedJson(), frames_of(FASTAPI))


@pytest.mark.parametrize(
    "kind", ["token", "text", "delta", "content", "chunk", "message_chunk", "text_delta"]
)
@pytest.mark.parametrize("fields", [
    {"content": "42"}, {"text": "42"}, {"data": "42"}, {"token": "42"}, {"delta": "42"},
    {"data": {"content": "42"}}, {"delta": {"text": "42"}}, {"data": {"delta": {"content": "42"}}},
], ids=str)  # fmt: skip
def test_text_is_found_wherever_it_is_usually_put(kind, fields):
    assert decode({"type": kind} | fields) == [TextDelta(text="42")]
    assert decode({"event": kind} | fields) == [TextDelta(text="42")]


@pytest.mark.parametrize("fields", [{}, {"content": ""}, {"content": 42}, {"content": None}])
def test_no_text_is_no_token(fields):
    assert decode({"type": "token"} | fields) == []


def test_what_others_say_is_no_output():
    body = {"role": "user", "content": "hi"}
    assert decode({"type": "message"} | body) == [Custom(name="message", value=body)]
    assert decode({"type": "delta"} | body) == [Custom(name="delta", value=body)]


@pytest.mark.parametrize("kind", ["thinking", "reasoning", "thought", "reasoning_delta"])
@pytest.mark.parametrize("key", ["content", "thinking", "text", "delta"])
def test_reasoning_is_not_the_answer(kind, key):
    assert decode({"type": kind, key: "hm"}) == [ReasoningDelta(text="hm")]


def test_an_answer_said_whole_is_text_only_if_it_was_not_streamed():
    answer, done = {"type": "answer", "content": "hi"}, {"type": "done", "output": "hi"}
    assert text_of(decode(answer, answer)) == "hihi"
    assert text_of(decode({"type": "token", "content": "hi"}, answer, done)) == "hi"
    assert text_of(decode(answer, done)) == "hi"
    assert text_of(decode(done)) == "hi"


@pytest.mark.parametrize("body", [
    {"type": "tool_call", "id": "c", "name": "f", "args": {"a": 1}},
    {"type": "tool_start", "data": {"tool_call_id": "c", "tool": "f", "input": {"a": 1}}},
    {"type": "tool_use", "id": "c", "name": "f", "input": '{"a":1}'},
    {"event": "tool_call", "data": {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}},
], ids=str)  # fmt: skip
def test_tool_calls_are_read_in_their_usual_shapes(body):
    assert decode(body, {"type": "tool_result", "result": {"b": 2}}) == [
        ToolCallStarted(tool_call_id="c", name="f"),
        ToolCallReady(tool_call_id="c", arguments='{"a":1}'),
        ToolCallResult(tool_call_id="c", result='{"b":2}'),
    ]


def test_start_says_who_runs_and_its_model_goes_with_the_usage():
    assert decode(
        {"type": "start", "run_id": "r", "conversation_id": "t", "agent": "a", "model": "m"},
        {"type": "usage", "usage": {"input_tokens": 1, "output_tokens": 2}},
        {"type": "done", "run_id": "r", "usage": {"input_tokens": 1}},
    ) == [
        RunStarted(run_id="r", thread_id="t", agent="a"),
        Usage(input_tokens=1, output_tokens=2, model="m", scope="generation"),
        Usage(input_tokens=1, model="m", scope="run"),
        RunFinished(run_id="r"),
    ]


def test_start_and_usage_that_say_nothing_still_count():
    assert decode({"type": "start"}, {"type": "usage", "total": 3}) == [
        Custom(name="start", value={}),
        Custom(name="usage", value={"total": 3}),
    ]


@pytest.mark.parametrize("kind", ["done", "end", "complete", "finish", "final"])
def test_the_run_ends_by_any_of_the_usual_words(kind):
    assert decode({"type": kind}) == [RunFinished()]
    assert decode({"event": kind, "data": {"run_id": "r"}}) == [RunFinished(run_id="r")]


@pytest.mark.parametrize("stream", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE]"])
def test_the_sentinel_ends_the_run_even_without_its_blank_line(stream):
    assert events_of(TypedJson(), frames_of(stream)) == [RunFinished()]


@pytest.mark.parametrize(("body", "expected"), [
    ({"type": "error", "message": "no", "code": "E1"}, RunFailed(type="E1", message="no")),
    ({"type": "error", "content": "no"}, RunFailed(message="no")),
    ({"type": "error", "error": {"type": "x", "message": "no"}}, RunFailed(type="x", message="no")),
    ({"event": "error", "data": "no"}, RunFailed(message="no")),
    ({"event": "error", "data": {"type": "x", "detail": "no"}}, RunFailed(type="x", message="no")),
    ({"error": "no"}, RunFailed(message="no")),
    ({"type": "run_error"}, RunFailed()),
])  # fmt: skip
def test_an_error_is_told_in_any_of_its_shapes(body, expected):
    assert decode(body) == [expected]


def test_usage_is_told_with_an_error_as_well():
    assert decode({"type": "error", "message": "no", "usage": {"output_tokens": 2}}) == [
        Usage(output_tokens=2, scope="run"),
        RunFailed(message="no"),
    ]


@pytest.mark.parametrize("kind", ["ping", "heartbeat", "keepalive", "keep-alive"])
def test_heartbeats_are_no_output(kind):
    assert decode({"type": kind}) == [Heartbeat()]


def test_what_is_not_in_the_table_still_counts():
    assert decode({"type": "plan", "x": 1}, {"a": 1}, [1], "text", 7) == [
        Custom(name="plan", value={"x": 1}),
        Custom(name="message", value={"a": 1}),
        Custom(name="message"),
        Custom(name="message"),
        Custom(name="message"),
    ]


def test_a_frame_that_was_cut_says_nothing():
    for end in range(len(FASTAPI)):
        events = events_of(TypedJson(), frames_of(FASTAPI[:end]))
        assert "The answer".startswith(text_of(events))
        assert RunFinished() not in events
