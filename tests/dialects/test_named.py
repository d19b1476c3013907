"""Named events, as Cognis and AgentFlow send them."""

from __future__ import annotations

import json

import pytest
from support.wire import events_of, frames_of, text_of

from streamtrace.core.events import (
    Custom,
    Event,
    Heartbeat,
    RunFailed,
    RunFinished,
    TextDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
from streamtrace.core.frames import Frame
from streamtrace.dialects import house
from streamtrace.dialects.named import AgentFlow, Cognis

COGNIS = b"""\
event: ping
data:

event: token
data: The

event: token
data:  answer

event: tool_start
data: {"tool":"search","args":{"q":"life"}}

event: tool_end
data: {"tool":"search","result":[42]}

event: token
data: 42

event: done
data: "The answer42"

"""

AGENTFLOW = b"""\
event: message_chunk
data: {"role": "assistant", "content": "Looking up "}

event: message_chunk
data: {"role": "assistant", "content": "the weather"}

event: tool_start
data: {"name": "get_weather", "args": {"location": "Tokyo"}}

event: tool_end
data: {"name": "get_weather", "output": "Sunny"}

event: message_chunk
data: {"role": "assistant", "content": "Tokyo is sunny..."}

event: done
data: {"thread_id": "user-1", "tokens": 124}

"""


def decode(stream: bytes | str) -> list[Event]:
    return events_of(Cognis(), frames_of(stream if isinstance(stream, bytes) else stream.encode()))


def sent(event: str, data: object) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def test_a_cognis_run_reads_from_start_to_end():
    assert events_of(Cognis(), frames_of(COGNIS)) == [
        Heartbeat(),
        TextDelta(text="The"),
        TextDelta(text=" answer"),
        ToolCallStarted(tool_call_id="search-1", name="search"),
        ToolCallReady(tool_call_id="search-1", arguments='{"q":"life"}'),
        ToolCallResult(tool_call_id="search-1", result="[42]"),
        TextDelta(text="42"),
        RunFinished(),
    ]


def test_an_agentflow_run_reads_from_start_to_end():
    assert events_of(AgentFlow(), frames_of(AGENTFLOW)) == [
        TextDelta(text="Looking up "),
        TextDelta(text="the weather"),
        ToolCallStarted(tool_call_id="get_weather-1", name="get_weather"),
        ToolCallReady(tool_call_id="get_weather-1", arguments='{"location":"Tokyo"}'),
        ToolCallResult(tool_call_id="get_weather-1", result="Sunny"),
        TextDelta(text="Tokyo is sunny..."),
        RunFinished(thread_id="user-1"),
    ]


# --- text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [
    "42", "-0.5", "true", "null", '"x"', "[1]", "[DONE]", "  two spaces", "tail ", "{", "{}",
    '{"answer": 42}', '{"cut": ', "\u2028", "line\nline", "\n",
])  # fmt: skip
def test_a_token_is_text_as_it_stands_on_the_wire(token):
    lines = "".join(f"data: {line}\n" for line in token.split("\n"))
    assert decode(f"event: token\n{lines}\n") == [TextDelta(text=token)]


@pytest.mark.parametrize("data", [
    {"content": "hi"}, {"text": "hi"}, {"token": "hi"}, {"delta": "hi"}, {"data": "hi"},
    {"delta": {"text": "hi"}}, {"content": ["h", {"type": "text", "text": "i"}]},
    {"content": [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": "hi"}, {"role": None, "content": "hi"},
    {"text": 7, "content": "hi"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("event", ["token", "message_chunk"])
def test_the_text_of_an_object_is_under_a_usual_key(event, data):
    assert decode(sent(event, data)) == [TextDelta(text="hi")]


@pytest.mark.parametrize("role", ["user", "tool", "system", 7])
def test_what_others_say_is_no_output(role):
    (event,) = decode(sent("message_chunk", {"role": role, "content": "hi"}))
    assert event == Custom(name="message_chunk")


@pytest.mark.parametrize("stream", [
    b"event: token\ndata:\n\n", b"event: token\n\n", sent("token", {"content": ""}),
    sent("message_chunk", {"content": None}),
], ids=repr)  # fmt: skip
def test_no_text_is_no_token(stream):
    assert decode(stream) == []


def test_a_frame_that_was_cut_says_nothing():
    for end in range(len(COGNIS)):
        events = decode(COGNIS[:end])
        assert "The answer42".startswith(text_of(events))
        assert RunFinished() not in events


# --- tools ---------------------------------------------------------------------------------


def test_calls_without_ids_end_in_the_order_of_their_name():
    events = decode(
        sent("tool_start", {"tool": "a"}) + sent("tool_start", {"tool": "b"})
        + sent("tool_start", {"tool": "a"})
        + sent("tool_end", {"tool": "a", "result": "1"})
        + sent("tool_end", {"tool": "a", "result": "3"})
        + sent("tool_end", {"tool": "b", "result": "2"})
    )  # fmt: skip
    results = [event for event in events if isinstance(event, ToolCallResult)]
    assert [(r.tool_call_id, r.result) for r in results] == [
        ("a-1", "1"),
        ("a-3", "3"),
        ("b-2", "2"),
    ]


@pytest.mark.parametrize("key", ["id", "tool_call_id", "call_id", "toolCallId"])
def test_ids_of_the_wire_are_kept(key):
    events = decode(
        sent("tool_start", {key: "c1", "name": "f", "input": {}})
        + sent("tool_end", {key: "c1", "name": "f", "content": "ok"})
    )
    assert events == [
        ToolCallStarted(tool_call_id="c1", name="f"),
        ToolCallReady(tool_call_id="c1", arguments="{}"),
        ToolCallResult(tool_call_id="c1", result="ok"),
    ]


def test_a_result_without_its_start_tells_of_the_call():
    assert decode(sent("tool_end", {"tool": "f", "result": None})) == [
        ToolCallStarted(tool_call_id="f-1", name="f"),
        ToolCallResult(tool_call_id="f-1"),
    ]


@pytest.mark.parametrize(("data", "result"), [
    ({"error": "boom"}, "boom"),
    ({"is_error": True, "result": "boom"}, "boom"),
    ({"status": "error", "output": {"why": 1}}, '{"why":1}'),
    ({"error": {"code": 1}}, '{"code":1}'),
])  # fmt: skip
def test_a_tool_that_failed_is_told(data, result):
    *_, event = decode(sent("tool_end", {"tool": "f"} | data))
    assert event == ToolCallResult(tool_call_id="f-1", result=result, is_error=True)


def test_calls_that_never_end_are_bounded():
    decoder = Cognis().decoder()
    start, end = sent("tool_start", {"tool": "f"}), sent("tool_end", {"tool": "f"})
    for frame in frames_of(start * (house.MAX_OPEN_CALLS + 10)):
        list(decoder.decode(frame))
    (frame,) = frames_of(end)
    (event,) = decoder.decode(frame)
    assert event == ToolCallResult(tool_call_id="f-11")


# --- the end -------------------------------------------------------------------------------


@pytest.mark.parametrize(("usage", "expected"), [
    ({"usage": {"input_tokens": 3, "output_tokens": 4}}, Usage(input_tokens=3, output_tokens=4)),
    ({"usage": {"promptTokens": 3}, "model": "m"}, Usage(input_tokens=3, model="m")),
    ({"tokens": {"completion_tokens": 4}}, Usage(output_tokens=4)),
    ({"prompt_tokens": 0, "completion_tokens": 4}, Usage(input_tokens=0, output_tokens=4)),
    (
        {"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}},
        Usage(input_tokens=3, cached_input_tokens=2),
    ),
])  # fmt: skip
def test_usage_comes_with_done(usage, expected):
    events = decode(sent("done", {"run_id": "r"} | usage))
    expected = Usage(
        **{f: getattr(expected, f) for f in expected.__struct_fields__} | {"scope": "run"}
    )
    assert events == [expected, RunFinished(run_id="r")]


@pytest.mark.parametrize("data", [
    {"tokens": 124}, {"usage": 7}, {"usage": {"total_tokens": 7}}, {"usage": {"input_tokens": -1}},
    {"usage": {"input_tokens": True}}, {"usage": {"input_tokens": "3"}}, {"output": "", "input": 3},
], ids=str)  # fmt: skip
def test_counts_of_no_known_side_are_absent(data):
    assert decode(sent("done", data)) == [RunFinished()]


@pytest.mark.parametrize("output", [
    "hi", {"output": "hi"}, {"output": {"role": "assistant", "content": "hi"}}, {"answer": "hi"},
    {"content": [{"type": "text", "text": "hi"}]},
], ids=str)  # fmt: skip
def test_an_answer_in_done_is_text_only_if_none_was_streamed(output):
    assert decode(sent("done", output)) == [TextDelta(text="hi"), RunFinished()]
    events = decode(sent("token", "x") + sent("done", output))
    assert events == [TextDelta(text='"x"'), RunFinished()]


@pytest.mark.parametrize("data", [
    "", "\ndata: [DONE]", "\ndata: ok", "\ndata: {}", "\ndata: 7",
    '\ndata: {"message": "all done"}', '\ndata: {"status": "ok"}',
])  # fmt: skip
def test_words_for_the_client_in_done_are_no_text(data):
    assert decode(f"event: done{data}\n\n") == [RunFinished()]


@pytest.mark.parametrize(("data", "expected"), [
    ("boom", RunFailed(message="boom")),
    ('{"message": "boom"}', RunFailed(message="boom")),
    ('{"error": "boom", "code": 503}', RunFailed(type="503", message="boom")),
    ('{"error": {"type": "busy", "message": "boom"}}', RunFailed(type="busy", message="boom")),
    ('{"type": "error", "detail": "boom"}', RunFailed(message="boom")),
    ("", RunFailed()),
])  # fmt: skip
def test_an_error_is_told_in_any_of_its_shapes(data, expected):
    assert decode(f"event: error\ndata: {data}\n\n") == [expected]


def test_usage_is_told_with_an_error_as_well():
    assert decode(sent("error", {"message": "boom", "usage": {"output_tokens": 2}})) == [
        Usage(output_tokens=2, scope="run"),
        RunFailed(message="boom"),
    ]


@pytest.mark.parametrize("stream", [
    b'error: {"message": "boom"}\n\n', b'{"error": {"message": "boom"}}', b'{"error": "boom"}\n',
])  # fmt: skip
def test_an_error_without_framing_is_told(stream):
    assert decode(b"event: token\ndata: x\n\n" + stream) == [
        TextDelta(text="x"),
        RunFailed(message="boom"),
    ]


def test_what_is_not_in_the_table_still_counts():
    assert decode("event: plan\ndata: x\n\ndata: y\n\nevent: end\n\n: note\n\nid: 3\n\n") == [
        Custom(name="plan"),
        Custom(name="message"),
        Custom(name="end"),
    ]


def test_a_frame_that_was_too_long_says_nothing():
    assert list(Cognis().decoder().decode(Frame(oversized=True))) == []
