"""Anthropic's stream, decoded, against what Anthropic's own client accumulates from the bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import anthropic_oracle
from support.anthropic_oracle import Message
from support.strategies import cuts, single_bytes
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, FrameParser
from streamtrace.dialects import anthropic
from streamtrace.dialects.anthropic import Anthropic
from streamtrace.dialects.base import Fit, Head

RECORDINGS = Path(__file__).parents[1] / "recordings"
STREAMS = {
    meta.name.removesuffix(".meta.json"): meta.with_name(
        meta.name.replace(".meta.json", ".sse")
    ).read_bytes()
    for meta in sorted(RECORDINGS.glob("*.meta.json"))
    if json.loads(meta.read_bytes())["dialect"] == "anthropic"
}
FRAMES = [frame for body in STREAMS.values() for frame in FrameParser().feed(body)]

# A server restarted its answer in the middle of the stream. The client has no rule for that: it
# keeps the first id and appends the second attempt to the blocks of the first, by index.
CLIENT_IS_WRONG = {"anthropic__ai__spliced_message_start"}


def decode(chunks: Iterable[bytes]) -> list[ev.Event]:
    return events_of(Anthropic(), frames_of(*chunks))


def wire(*messages: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {message['type']}\ndata: {json.dumps(message)}\n\n".encode()
        for message in messages
    )


def said(*messages: dict[str, Any]) -> list[ev.Event]:
    return decode([wire(*messages)])


def start(**message: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 1}
    return {
        "type": "message_start",
        "message": {
            "id": "msg", "type": "message", "role": "assistant", "model": "claude", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage, **message,
        },
    }  # fmt: skip


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, **piece: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": piece}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(stop_reason: str = "end_turn", **usage: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    change = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = {"output_tokens": 5, **usage}
    return (
        {"type": "message_delta", "delta": change, "usage": usage},
        {"type": "message_stop"},
    )


def fold(events: Iterable[ev.Event]) -> Message:
    """The facts that our events tell of the last response."""
    facts = Message()
    arguments: dict[str, str] = {}
    names: dict[str, str | None] = {}
    for event in events:
        match event:
            case ev.GenerationStarted():
                if facts.response_id not in (None, event.response_id):
                    facts, arguments, names = Message(), {}, {}
                facts.response_id, facts.model = event.response_id, event.model
            case ev.TextDelta():
                facts.text += event.text
            case ev.ReasoningStarted():
                facts.reasoning_blocks += 1
            case ev.ReasoningDelta():
                facts.reasoning += event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id] = event.name
                arguments[event.tool_call_id] = ""
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady():
                text = event.arguments or arguments[event.tool_call_id]
                facts.calls[event.tool_call_id] = (
                    names[event.tool_call_id],
                    json.loads(text) if text else {},
                )
            case ev.ToolCallResult():
                facts.results[event.tool_call_id] = json.loads(event.result or "null")
            case ev.Source():
                facts.cited.append(event.url)
            case ev.Usage():
                facts.usage = {name: getattr(event, name) for name in USAGE}
            case ev.GenerationFinished():
                (facts.stop_reason,) = event.finish_reasons
            case ev.RunFailed():
                facts.error = event.type
    return facts


USAGE = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


# --- against the official client -------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STREAMS.keys() - CLIENT_IS_WRONG))
def test_says_of_a_recorded_stream_what_the_official_client_accumulates(name: str) -> None:
    assert fold(decode([STREAMS[name]])) == anthropic_oracle.read(STREAMS[name])


@pytest.mark.parametrize("name", sorted(CLIENT_IS_WRONG))
def test_the_streams_excused_from_the_oracle_still_need_the_excuse(name: str) -> None:
    assert fold(decode([STREAMS[name]])) != anthropic_oracle.read(STREAMS[name])


def test_a_restarted_answer_is_a_new_generation_of_the_same_run() -> None:
    events = decode([STREAMS["anthropic__ai__spliced_message_start"]])
    assert fold(events) == Message(
        response_id="msg_second",
        model="claude-3-haiku-20240307",
        reasoning="Let me call the tool.",
        reasoning_blocks=1,
        calls={"toolu_second": ("test-tool", {"value": "Sparkle Day"})},
        usage={**dict.fromkeys(USAGE), "input_tokens": 17, "output_tokens": 65},
        stop_reason="tool_use",
    )
    assert [event for event in events if isinstance(event, ev.RunStarted | ev.RunFinished)] == [
        ev.RunStarted(run_id="msg_first"),
        ev.RunFinished(run_id="msg_first"),
    ]
    ready = [event.tool_call_id for event in events if isinstance(event, ev.ToolCallReady)]
    assert ready == ["toolu_second"]  # the first call was cut: its arguments never were complete


def test_a_restarted_answer_inherits_nothing() -> None:
    first = start(id="a", usage={"input_tokens": 1, "cache_read_input_tokens": 7})
    tool = block(1, type="tool_use", id="t", name="f", input={})
    second = start(id="b", usage={"input_tokens": 2})
    *_, usage = said(first, tool, second, stop(1))
    assert usage == ev.Usage(input_tokens=2)


json_objects = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)
counts = st.none() | st.integers(0, 2**40)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A well-formed stream of any blocks, in any order."""
    messages = []
    kinds = ("text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "mcp_tool_use",
             "web_search_tool_result", "mcp_tool_result", "fallback", "compaction")  # fmt: skip
    for index, kind in enumerate(draw(st.lists(st.sampled_from(kinds), max_size=6))):
        pieces = draw(st.lists(st.text(max_size=8), max_size=3))
        match kind:
            case "text":
                messages.append(block(index, type=kind, text=draw(st.text(max_size=3))))
                messages += [delta(index, type="text_delta", text=piece) for piece in pieces]
            case "thinking":
                messages.append(block(index, type=kind, thinking="", signature=""))
                messages += [delta(index, type="thinking_delta", thinking=one) for one in pieces]
                messages.append(delta(index, type="signature_delta", signature="s"))
            case "redacted_thinking":
                messages.append(block(index, type=kind, data="x"))
            case "tool_use" | "server_tool_use" | "mcp_tool_use":
                given = draw(json_objects) if draw(st.booleans()) else {}
                more = {"server_name": "s"} if kind == "mcp_tool_use" else {}
                messages.append(
                    block(
                        index, type=kind, id=f"call{index}", name="web_fetch", input=given, **more
                    )
                )
                if draw(st.booleans()):
                    text = json.dumps(draw(json_objects))
                    cut = draw(st.integers(0, len(text)))
                    messages += [
                        delta(index, type="input_json_delta", partial_json=piece)
                        for piece in ("", text[:cut], text[cut:])
                    ]
            case "web_search_tool_result" | "mcp_tool_result":
                parts = [{"type": "text", "text": draw(st.text(max_size=5))}]
                error = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
                more = {"is_error": False} if kind == "mcp_tool_result" else {}
                content = parts if kind == "mcp_tool_result" else error
                messages.append(
                    block(index, type=kind, tool_use_id=f"call{index}", content=content, **more)
                )
            case "fallback":
                messages.append(
                    block(
                        index, type=kind, trigger={"type": "refusal"},
                        **{"from": {"model": "claude"}, "to": {"model": f"claude-{index}"}},
                    )
                )  # fmt: skip
            case "compaction":
                messages.append(block(index, type=kind, content=None))
                messages.append(delta(index, type="compaction_delta", content="short"))
        messages.append(stop(index))
        if draw(st.booleans()):
            messages.append({"type": "ping"})
    first = start(
        usage={
            "input_tokens": draw(st.integers(0, 2**40)),
            "output_tokens": 1,
            "cache_read_input_tokens": draw(counts),
            "cache_creation_input_tokens": draw(counts),
        }
    )
    last = end(
        input_tokens=draw(counts),
        output_tokens=draw(st.integers(0, 2**40)),
        cache_read_input_tokens=draw(counts),
        output_tokens_details=draw(st.none() | st.just({"thinking_tokens": 3})),
    )
    return wire(first, *messages, *last)


@settings(max_examples=40, deadline=None)
@given(body=responses())
def test_says_of_any_response_what_the_official_client_accumulates(body: bytes) -> None:
    assert fold(decode([body])) == anthropic_oracle.read(body)


# --- single rules ----------------------------------------------------------------------------


def test_a_whole_stream_becomes_these_events() -> None:
    assert decode([STREAMS["anthropic_ok.synthetic"]]) == [
        ev.RunStarted(run_id="msg_1"),
        ev.GenerationStarted(response_id="msg_1", model="claude-x", provider="anthropic"),
        ev.MessageStarted(message_id="msg_1", role="assistant"),
        ev.Usage(
            input_tokens=14, output_tokens=1, cached_input_tokens=4, cache_write_tokens=0
        ),
        ev.ReasoningStarted(message_id="msg_1"),
        ev.ReasoningDelta(text="hm", message_id="msg_1"),
        ev.ReasoningFinished(message_id="msg_1"),
        ev.Heartbeat(),
        ev.TextDelta(text="Hi", message_id="msg_1"),
        ev.ToolCallStarted(tool_call_id="toolu_1", name="f"),
        ev.ToolCallArgumentsDelta(tool_call_id="toolu_1", delta='{"a":1}'),
        ev.ToolCallReady(tool_call_id="toolu_1"),
        ev.Usage(
            input_tokens=14, output_tokens=20, cached_input_tokens=4, cache_write_tokens=0,
            reasoning_tokens=3,
        ),
        ev.GenerationFinished(finish_reasons=("tool_use",)),
        ev.MessageFinished(message_id="msg_1"),
        ev.RunFinished(run_id="msg_1"),
    ]  # fmt: skip


def test_an_error_in_the_stream_fails_the_run() -> None:
    events = decode([STREAMS["anthropic_err.synthetic"]])
    assert events[-1] == ev.RunFailed(type="overloaded_error", message="Overloaded")
    assert not [event for event in events if isinstance(event, ev.RunFinished)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'event: error\ndata: {"type":"error","error":"plain"}\n\n', "plain"),
        (b"event: error\ndata: upstream timed out\n\n", "upstream timed out"),
    ],
)
def test_an_error_of_a_gateway_fails_the_run_too(body: bytes, message: str) -> None:
    assert decode([body]) == [ev.RunFailed(message=message)]


def test_a_stop_reason_without_message_stop_is_no_end() -> None:
    change, _ = end()
    events = said(start(), change)
    assert events[-1] == ev.GenerationFinished(finish_reasons=("end_turn",))


def test_usage_that_was_not_said_is_absent() -> None:
    usages = [
        event
        for event in said(start(usage={"output_tokens": 3}), *end(output_tokens=None))
        if isinstance(event, ev.Usage)
    ]
    assert usages == [ev.Usage(output_tokens=3)]


@pytest.mark.parametrize("bad", [-1, True, 1.5, "7", [], {}, 2**60])
def test_a_count_that_is_none_is_ignored_and_the_others_are_kept(bad: Any) -> None:
    events = said(start(usage={"input_tokens": bad, "output_tokens": 3}))
    assert events[-1] == ev.Usage(output_tokens=3)


def test_two_responses_in_one_stream_are_two_runs() -> None:
    events = said(start(id="a"), *end(), start(id="b"), *end())
    ids = [event.run_id for event in events if isinstance(event, ev.RunStarted | ev.RunFinished)]
    assert ids == ["a", "a", "b", "b"]


def test_a_fallback_block_names_the_model_that_goes_on() -> None:
    hop = block(0, type="fallback", to={"model": "claude-b"}, trigger={"type": "refusal"})
    assert said(start(), hop)[-1] == ev.GenerationStarted(
        response_id="msg", model="claude-b", provider="anthropic"
    )


def test_arguments_given_whole_come_when_the_block_ends() -> None:
    events = said(block(0, type="tool_use", id="t", name="f", input={"a": [1]}), stop(0))
    assert events == [
        ev.ToolCallStarted(tool_call_id="t", name="f"),
        ev.ToolCallReady(tool_call_id="t", arguments='{"a":[1]}'),
    ]


def test_a_tool_call_without_an_id_gets_one_that_its_arguments_find() -> None:
    events = said(
        block(0, type="tool_use", name="f", input={}),
        block(1, type="tool_use", name="g", input={}),
        delta(0, type="input_json_delta", partial_json="{}"),
    )
    first, second, arguments = events
    assert isinstance(arguments, ev.ToolCallArgumentsDelta)
    assert first == ev.ToolCallStarted(tool_call_id=arguments.tool_call_id, name="f")
    assert isinstance(second, ev.ToolCallStarted)
    assert second.tool_call_id != arguments.tool_call_id


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ([{"type": "text", "text": "no"}], {"is_error": True}),
        ({"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}, {}),
        ({"type": "code_execution_tool_result_error", "error_code": "unavailable"}, {}),
    ],
)
def test_a_failed_server_tool_is_an_error(content: Any, flags: dict[str, bool]) -> None:
    (event,) = said(block(0, type="x_tool_result", tool_use_id="t", content=content, **flags))
    assert isinstance(event, ev.ToolCallResult)
    assert event.is_error


@pytest.mark.parametrize(
    ("content", "result"),
    [("42", "42"), ("", None), ([{"a": 1}], '[{"a":1}]'), ({"a": 1}, '{"a":1}')],
)
def test_a_result_is_text_or_json_as_the_block_holds_it(content: Any, result: str | None) -> None:
    (event,) = said(block(0, type="mcp_tool_result", tool_use_id="t", content=content))
    assert event == ev.ToolCallResult(tool_call_id="t", result=result)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "ping"}, [ev.Heartbeat()]),
        ({"type": "new", "a": 1}, [ev.Custom(name="new", value={"type": "new", "a": 1})]),
        (block(0, type="new"), [ev.Custom(name="new", value={"type": "new"})]),
        (delta(0, type="new"), [ev.Custom(name="new", value={"type": "new"})]),
        (delta(0, type="signature_delta", signature="s"), []),
        (
            delta(9, type="input_json_delta", partial_json="{"),
            [ev.Custom(name="input_json_delta", value="{")],
        ),
        (
            delta(0, type="citations_delta", citation={"url": "u", "title": "t"}),
            [ev.Source(url="u", title="t")],
        ),
        (
            delta(0, type="citations_delta", citation={"document_title": "d"}),
            [ev.Source(title="d")],
        ),
        (stop(3), []),
    ],
)
def test_what_stands_beside_the_text(message: dict[str, Any], expected: list[ev.Event]) -> None:
    assert said(message) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: [DONE]\n\n", []),
        (b": comment\n\n", []),
        (b"event: ping\n\n", [ev.Heartbeat()]),
        (b"event: note\ndata: hello\n\n", [ev.Custom(name="note", value="hello")]),
        (b"data: [1]\n\n", [ev.Custom(name="unknown", value=[1])]),
        (b'event: message_stop\ndata: {"type":"mess', []),
        (b'data: {"type":"ping"}', [ev.Heartbeat()]),
    ],
)
def test_frames_that_are_no_message(body: bytes, expected: list[ev.Event]) -> None:
    assert decode([body]) == expected


def test_text_with_half_an_emoji_is_passed_on() -> None:
    body = wire(delta(0, type="text_delta", text="\ud83d"))
    assert b"\\ud83d" in body
    assert decode([body]) == [ev.TextDelta(text="\ud83d")]


def test_blocks_that_never_stop_are_forgotten_oldest_first() -> None:
    decoder = Anthropic().decoder()

    def feed(message: dict[str, Any]) -> list[ev.Event]:
        return list(decoder.decode(Frame(data=json.dumps(message).encode())))

    for index in range(anthropic.MAX_OPEN_BLOCKS + 1):
        feed(block(index, type="tool_use", id=str(index), name="f", input={}))
    assert feed(stop(0)) == []
    assert feed(stop(1)) == [ev.ToolCallReady(tool_call_id="1")]


# --- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_the_first_frame_of_a_recorded_stream_is_enough(name: str) -> None:
    assert Anthropic().recognise(Head(), FrameParser().feed(STREAMS[name])[0]) is Fit.YES


@pytest.mark.parametrize(
    ("event", "data", "fit"),
    [
        (None, b'{"type":"message_start","message":{}}', Fit.YES),
        (None, b'{"type":"content_block_stop","index":0}', Fit.MAYBE),
        ("ping", b'{"type":"ping"}', Fit.MAYBE),
        ("error", b'{"type":"error","error":{"type":"t","message":"m"}}', Fit.MAYBE),
        ("error", b'{"type":"error","errorText":"m"}', Fit.NO),
        ("message", b'{"type":"message_stop"}', Fit.MAYBE),
        ("other", b'{"type":"message_stop"}', Fit.NO),
        ("response.created", b'{"type":"response.created"}', Fit.NO),
        (None, b'{"type":"RUN_STARTED"}', Fit.NO),
        (None, b'{"type":["message_start"]}', Fit.NO),
        (None, b"[]", Fit.NO),
        (None, None, Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(event: str | None, data: bytes | None, fit: Fit) -> None:
    assert Anthropic().recognise(Head(), Frame(event=event, data=data)) is fit


# --- robustness ------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@st.composite
def spoiled_messages(draw: st.DrawFn) -> Frame:
    """A real frame with one of its values, however deep, dropped or replaced."""
    frame = draw(st.sampled_from(FRAMES))
    value = json.loads(frame.data or b"{}")
    node = value
    while True:
        key = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.just(0))
        inner = node[key]
        if not (isinstance(inner, dict | list) and inner) or draw(st.booleans()):
            break
        node = inner
    if isinstance(node, dict) and draw(st.booleans()):
        del node[key]
    else:
        node[key] = draw(anything)
    event = draw(st.sampled_from((frame.event, None)))
    return Frame(event=event, data=json.dumps(value).encode())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(spoiled_messages() | st.sampled_from(FRAMES), min_size=1, max_size=8))
def test_no_json_makes_it_raise_and_the_quick_reading_is_only_quicker(frames: list[Frame]) -> None:
    quick, thorough = Anthropic().decoder(), Anthropic().decoder()
    for frame in frames:
        Anthropic().recognise(Head(), frame)
        events = list(quick.decode(frame))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(anthropic, "_read_block_delta", lambda data: None)
            assert repr(events) == repr(list(thorough.decode(frame)))
        assert all(isinstance(event, ev.Event) for event in events)


@pytest.mark.parametrize("name", STREAMS)
def test_single_bytes_give_the_same_events(name: str) -> None:
    assert decode(single_bytes(STREAMS[name])) == decode([STREAMS[name]])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_same_events(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(sorted(STREAMS.values(), key=len)))
    assert decode(data.draw(cuts(body))) == decode([body])
