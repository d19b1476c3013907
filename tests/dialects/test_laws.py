"""Laws over all dialects, and all streams that we have of them."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.laws import not_invented, well_formed
from support.recordings import RECORDED, STREAMS, Stream
from support.strategies import cuts, single_bytes, spoiled, streams
from support.wire import events_of, frames_of, text_of

from streamtrace.core.events import Event
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects.base import Dialect, Fit, Head
from streamtrace.dialects.detect import BUILT_IN, MAX_FRAMES, UNKNOWN, Detector, by_name

NAMES = {dialect.name for dialect in BUILT_IN}
OURS = [stream for stream in STREAMS if stream.dialect in NAMES]
SMALL = [stream for stream in OURS if len(stream.body) < 64_000]
each_of_ours = pytest.mark.parametrize("stream", OURS, ids=str)

slow = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def detect(stream: Stream) -> tuple[Dialect, int]:
    """The dialect, and after how many frames with data it was found."""
    detector = Detector(stream.head)
    count = 0
    for frame in stream.frames():
        count += frame.data is not None
        if found := detector.offer(frame):
            return found, count
    return detector.settle(), count


def decoded(stream: Stream, *chunks: bytes) -> list[Event]:
    return events_of(by_name(stream.dialect), stream.frames(*chunks))


# --- recognised ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_every_stream_is_recognised_for_what_it_is(stream):
    found, frames = detect(stream)
    assert found.name == (stream.dialect if stream.dialect in NAMES else "unknown")
    assert frames <= MAX_FRAMES


WITHIN = {"open-webui": {"openai-chat"}}
"""Dialects that hold the frames of another: their own come first."""


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_no_other_dialect_is_sure_of_any_frame_of_a_stream(stream):
    for frame in stream.frames()[:200]:
        sure = {one.name for one in BUILT_IN if one.recognise(stream.head, frame) is Fit.YES}
        assert sure <= {stream.dialect} | WITHIN.get(stream.dialect, set()), frame


# --- cuts change nothing -------------------------------------------------------------------


@pytest.mark.parametrize("stream", SMALL, ids=str)
def test_single_bytes_decode_to_the_same_events(stream):
    assert decoded(stream, *single_bytes(stream.body)) == decoded(stream)


@each_of_ours
@settings(slow, max_examples=3)
@given(data=st.data())
def test_any_cuts_decode_to_the_same_events(stream, data):
    assert decoded(stream, *data.draw(cuts(stream.body))) == decoded(stream)


# --- nothing raises ------------------------------------------------------------------------

EVERY: tuple[Dialect, ...] = (*BUILT_IN, UNKNOWN)
every_dialect = pytest.mark.parametrize("dialect", EVERY, ids=lambda dialect: dialect.name)

# Keys and values of all vocabularies, put together as nobody would.
_WORDS = (
    "type", "event", "object", "data", "content", "text", "delta", "id", "name", "index", "usage",
    "choices", "message", "response", "item", "error", "role", "code", "tool_calls", "function",
    "arguments", "content_block", "partial_json", "messageId", "toolCallId", "threadId", "runId",
    "outcome", "finish_reason", "stop_reason", "output", "status", "sequence_number", "item_id",
    "output_index", "call_id", "tool", "args", "result", "input_tokens", "prompt_tokens", "tokens",
)  # fmt: skip


def kinds() -> list[str]:
    """Every word that stands under a discriminator in a recording."""
    found = {"token", "done", "error", "status", "tool_call", "tool_result", "usage", "start"}
    for stream in STREAMS:
        for frame in stream.frames()[:400]:
            value = frame.json()
            if isinstance(value, dict):
                found |= {
                    v for k in ("type", "object", "event") if isinstance(v := value.get(k), str)
                }
    return sorted(found)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(
    ("", "x", "assistant", "tool", "[DONE]", "function_call", "message", "text", "text_delta")
)  # fmt: skip
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
_bodies = st.builds(
    lambda kind, key, fields: {**fields, key: kind},
    st.sampled_from(kinds()) | _scalars,
    st.sampled_from(("type", "object", "event")),
    st.dictionaries(st.sampled_from(_WORDS), _values, max_size=6),
)
_frames = st.builds(
    Frame,
    data=st.none() | st.binary(max_size=12)
    | (_bodies | _values).map(lambda body: json.dumps(body).encode()),
    event=st.none() | st.sampled_from(["", *kinds()]),
    stray=st.none() | st.sampled_from((b"error: {}", b"error: 7", b'{"error":[]}', b"\xff")),
    complete=st.booleans(),
)  # fmt: skip


@every_dialect
@settings(slow, max_examples=200)
@given(frames=st.lists(_frames, max_size=12))
def test_no_frame_makes_a_decoder_raise(dialect, frames):
    well_formed(events_of(dialect, frames))
    for frame in frames:
        dialect.recognise(Head(), frame)


@every_dialect
@settings(slow, max_examples=100)
@given(stream=streams())
def test_no_bytes_make_a_decoder_raise(dialect, stream):
    well_formed(events_of(dialect, frames_of(stream)))


@each_of_ours
@settings(slow, max_examples=10)
@given(data=st.data())
def test_no_spoiled_stream_makes_its_decoder_raise(stream, data):
    well_formed(decoded(stream, data.draw(spoiled(data.draw(pieces(stream.body))))))


def pieces(body: bytes) -> st.SearchStrategy[bytes]:
    starts = st.integers(0, max(0, len(body) - 8_000))
    return starts.map(lambda start: body[start : start + 8_000])


# --- text is never invented ----------------------------------------------------------------


@each_of_ours
def test_a_stream_cut_at_any_byte_tells_a_prefix_of_its_text(stream):
    body = stream.body
    full = text_of(decoded(stream))
    step = max(1, len(body) // 60) if stream in RECORDED else 1
    for end in {*range(0, len(body), step), len(body) - 1, len(body) - 2, len(body) // 2 + 1}:
        assert full.startswith(text_of(decoded(stream, body[:end])))


@each_of_ours
@settings(slow, max_examples=10)
@given(data=st.data())
def test_every_character_of_the_text_stood_on_the_wire(stream, data):
    frames = stream.frames(data.draw(spoiled(data.draw(pieces(stream.body)))))
    not_invented(events_of(by_name(stream.dialect), frames), frames)


@pytest.mark.parametrize("dialect", BUILT_IN, ids=lambda dialect: dialect.name)
def test_long_ids_do_not_fill_memory(dialect):
    """What a stream says of itself is remembered in words, not in megabytes."""
    big = "x" * 200_000
    shapes = [
        '{"type":"TEXT_MESSAGE_START","messageId":"%s","role":"user"}',
        '{"type":"SUBAGENT_STARTED","subagentRunId":"%s","name":"n"}',
        '{"type":"STEP_STARTED","stepName":"%s"}',
        '{"type":"TEXT_MESSAGE_CHUNK","messageId":"%s","delta":"a"}',
        '{"type":"content_block_start","index":%d,"content_block":{"type":"tool_use","id":"%s"}}',
        '{"object":"chat.completion.chunk","choices":[{"delta":{"tool_calls":[%t]}}]}',
        '{"type":"response.output_item.added","output_index":%d,"item":%i}',
        '{"type":"tool_start","name":"%s"}',
        '{"type":"tool-input-available","toolCallId":"%s","toolName":"%s"}',
        '{"type":"text-end","id":"%s"}',
        'b:{"toolCallId":"%s","toolName":"%s"}',
    ]
    machine, decoder = RunMachine(), dialect.decoder()
    tracemalloc.start()
    for number in range(60):
        for shape in shapes:
            text = shape.replace("%t", '{"index":%d,"id":"%s","function":{"name":"%s"}}')
            text = text.replace("%i", '{"type":"function_call","id":"%s","call_id":"%s"}')
            text = text.replace("%d", str(number)).replace("%s", f"{number}{big}")
            for event in decoder.decode(Frame(data=text.encode(), event=None)):
                machine.feed(event, number)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4_000_000
