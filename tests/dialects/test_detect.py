"""Detection: sure ones decide at once, doubt waits a little, and nobody guesses."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import STREAMS
from support.wire import events_of, frames_of

from streamtrace.core.errors import ConfigError
from streamtrace.core.events import Custom, Heartbeat, RunFinished, TextDelta
from streamtrace.core.frames import Frame, LineParser
from streamtrace.dialects.base import Dialect, Fit, Head
from streamtrace.dialects.detect import (
    BUILT_IN,
    MAX_FRAMES,
    MAX_HELD_BYTES,
    MAX_HELD_FRAMES,
    Detector,
    by_name,
)

SSE = Head()
PING = b"event: ping\ndata:\n\n"


def detected(stream: bytes, head: Head = SSE) -> str:
    detector = Detector(head)
    for frame in frames_of(stream):
        if dialect := detector.offer(frame):
            return dialect.name
    return detector.settle().name


def data(*bodies: str) -> bytes:
    return b"".join(b"data: %s\n\n" % body.encode() for body in bodies)


# --- the house dialects --------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "name"), [
    (b"event: token\ndata: 42\n\n", "cognis"),
    (PING * 9 + b"event: token\ndata: 42\n\n", "cognis"),
    (b'event: tool_start\ndata: {"tool":"f"}\n\nevent: token\ndata: x\n\n', "cognis"),
    (b"event: error\ndata: boom\n\n", "cognis"),
    (b'event: done\ndata: "hi"\n\n', "cognis"),
    (b"event: done\ndata: [DONE]\n\n", "cognis"),
    (b'event: error\ndata: {"message":"boom"}\n\n', "agentflow"),
    (b'event: error\ndata: {"error":{"message":"boom"}}\n\n', "openai-chat"),
    (b'event: tool_end\ndata: {"tool":"f","error":{"code":1}}\n\n', "agentflow"),
    (b'event: message_chunk\ndata: {"content":"x"}\n\n', "agentflow"),
    (b'event: tool_start\ndata: {"name":"f"}\n\nevent: message_chunk\ndata: {}\n\n', "agentflow"),
    (b"event: done\ndata: {}\n\n", "agentflow"),
    (data('{"type":"token","content":"x"}'), "generic"),
    (data('{"type":"start"}', '{"type":"token","content":"x"}'), "generic"),
    (data('{"event":"start"}', '{"event":"token","data":"x"}'), "generic"),
    (data('{"type":"hello"}', '{"type":"status"}'), "generic"),
    (data('{"type":"error","message":"x"}'), "generic"),
    (data('{"type":"done"}', "[DONE]"), "generic"),
    (b'event: message\ndata: {"type":"token","content":"x"}\n\n', "generic"),
    (b": hi\n\n" * 40 + data('{"type":"token","content":"x"}'), "generic"),
])  # fmt: skip
def test_house_dialects_are_recognised(stream, name):
    assert detected(stream) == name


METADATA = b'event: metadata\ndata: {"run_id":"r"}\n\n'


@pytest.mark.parametrize(("stream", "name"), [
    (b'event: metadata\ndata: {"run_id":"r","attempt":1}\n\n', "langgraph"),
    (METADATA + b'event: values|a:1\ndata: {"__interrupt__":[]}\n\n', "langgraph"),
    (b'event: messages/partial\ndata: [{"type":"ai","content":""}]\n\n', "langgraph"),
    (b'event: custom\ndata: {"a":1}\n\n' * MAX_FRAMES, "langgraph"),
    (b'event: values\ndata: {"type":"event","method":"values"}\n\n', "langgraph-v2"),
    (METADATA + b"event: end\n\n", "langserve"),
    (METADATA + b'event: data\ndata: "Hi"\n\n', "langserve"),
    (b'event: error\ndata: {"status_code":500,"message":"x"}\n\n', "langserve"),
    (METADATA + b'event: data\ndata: {"event":"on_llm_start","run_id":"r"}\n\n',
     "langchain-events"),
    (data('{"event":"on_chain_start","data":{},"run_id":"r"}'), "langchain-events"),
])  # fmt: skip
def test_servers_of_langchain_are_told_apart(stream, name):
    assert detected(stream) == name


def test_lines_of_json_are_recognised_as_well():
    detector = Detector(Head(media_type="application/x-ndjson"))
    (frame,) = frames_of(b'{"type":"token","content":"x"}\n', parser=LineParser())
    assert detector.offer(frame).name == "generic"


# --- nobody guesses ------------------------------------------------------------------------

FOREIGN = {
    "plain text": data("hello", "world"),
    "json without a kind": data("[1]", "2", '{"a":1}'),
    "comments": b": hi\n\n" * 3,
    "pings": PING * 3,
    "nothing": b"",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_the_vocabularies_of_others_are_unknown(name):
    assert detected(FOREIGN[name]) == "unknown"


def test_a_header_outweighs_kinds_that_others_have_as_well():
    head = Head(headers={"x-vercel-ai-ui-message-stream": "v1"})
    assert detected(data('{"type":"start"}', '{"type":"done"}'), head) == "vercel-ui"


def test_the_unknown_is_counted_and_timed_and_ends_well():
    unknown = by_name("unknown")
    assert not unknown.needs_terminal
    stream = (
        b": note\n\n"
        + PING
        + b"data: x\n\nevent: tick\ndata: {}\n\nevent: end\n\nid: 3\n\ndata: cut"
    )
    assert events_of(unknown, frames_of(stream)) == [
        Heartbeat(),
        Custom(name="message"),
        Custom(name="tick"),
        Custom(name="end"),
    ]


# --- how it decides ------------------------------------------------------------------------


class Scripted(Dialect):
    """Says what it was told to say, frame by frame, then no."""

    def __init__(self, name: str, *fits: Fit) -> None:
        self.name = name
        self._fits = list(fits)

    def recognise(self, head: Head, frame: Frame) -> Fit:
        return self._fits.pop(0) if self._fits else Fit.NO


NO, MAYBE, YES = Fit.NO, Fit.MAYBE, Fit.YES


def decide(*candidates: Dialect, frames: int = MAX_FRAMES) -> tuple[str, int]:
    """The name, and after how many frames it was known."""
    detector = Detector(SSE, candidates)
    for count in range(1, frames + 1):
        if dialect := detector.offer(Frame(data=b"x")):
            return dialect.name, count
    return detector.settle().name, frames


@pytest.mark.parametrize(("a", "b", "expected"), [
    ((YES,), (YES,), ("a", 1)),
    ((MAYBE,), (YES,), ("b", 1)),
    ((NO, NO, YES), (MAYBE,) * 5, ("a", 3)),
    ((MAYBE,) * 5, (MAYBE,) * 5, ("a", 5)),
    ((MAYBE,) * 4, (MAYBE,) * 5, ("b", 5)),
    ((NO, *(MAYBE,) * 4), (MAYBE, NO), ("unknown", 5)),
    ((NO,) * 5 + (YES,), (), ("unknown", 5)),
])  # fmt: skip
def test_the_first_that_is_sure_wins_else_the_first_that_never_said_no(a, b, expected):
    assert decide(Scripted("a", *a), Scripted("b", *b), frames=9) == expected


def test_the_end_of_the_stream_ends_the_doubt():
    assert decide(Scripted("a", MAYBE, MAYBE), frames=2) == ("a", 2)


def test_once_found_it_stays():
    detector = Detector(SSE)
    assert detector.offer(Frame(event="token", data=b"x")).name == "cognis"
    assert detector.offer(Frame(event="message_chunk", data=b"{}")).name == "cognis"
    assert detector.settle().name == "cognis"


def test_a_hint_decides_before_any_frame():
    detector = Detector(SSE, hint=by_name("generic"))
    assert detector.settle().name == "generic"
    assert detector.offer(Frame(event="token", data=b"x")).name == "generic"


def test_a_candidate_that_raises_says_no():
    class Broken(Dialect):
        name = "broken"

        def recognise(self, head: Head, frame: Frame) -> Fit:
            raise RuntimeError("broken")

    assert decide(Broken(), Scripted("b", NO, YES)) == ("b", 2)
    assert decide(Broken()) == ("unknown", MAX_FRAMES)


SIGNS_OF_LIFE = [
    b": ping\n\n",
    b"retry: 1000\n\n",
    b"id: 7\n\n",
    b"data:\n\n",
    b"event: ping\ndata: {}\n\n",
    b"event: heartbeat\n\n",
    b"data: ping\n\n",
    b'data: {"type":"ping"}\n\n',
    b'data: {"event":"keepalive","n":1}\n\n',
]


@pytest.mark.parametrize("sign", SIGNS_OF_LIFE, ids=repr)
@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (b'data: {"type":"token","content":"a"}\n\n', "generic"),
        (b'data: {"object":"chat.completion.chunk","choices":[]}\n\n', "openai-chat"),
        (b"event: token\ndata: a\n\n", "cognis"),
        (b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n', "openai-chat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_signs_of_life_say_nothing_however_many_there_are(sign, stream, name):
    assert detected(sign * 1000 + stream) == name
    detector = Detector(SSE)
    for frame in frames_of(sign * 1000):
        assert detector.offer(frame) is None
    assert detector.held == []


def test_events_without_data_rule_nobody_out():
    assert detected(b"event: open\n\n" * 5 + b"event: token\ndata: a\n\n") == "cognis"
    assert detected(b"event: done\n\n") == "agentflow"
    assert detected(b"event: open\n\n" * 100) == "unknown"


def test_what_is_held_is_bounded():
    detector = Detector(SSE)
    for _ in range(MAX_HELD_FRAMES - 1):
        assert detector.offer(Frame(event="open")) is None
    assert detector.offer(Frame(event="open")).name == "unknown"
    big = Frame(data=b"x" * MAX_HELD_BYTES)
    assert Detector(SSE).offer(big).name == "unknown"


def test_dialects_of_ones_own_come_first_and_need_no_more_than_decode():
    class Mine(Dialect):
        name = "mine"

        def decode(self, frame):
            match frame.json():
                case {"type": "token", "t": str(text)}:
                    yield TextDelta(text=text)

    detector = Detector(SSE, (Mine(), *BUILT_IN))
    assert detector.offer(Frame(data=b'{"type":"token","t":"x"}')).name == "mine"
    detector = Detector(SSE, (Mine(), *BUILT_IN))
    assert detector.offer(Frame(data=b'{"type":"token","content":"x"}')).name == "generic"


def test_a_dialect_of_ones_own_with_a_memory_is_recognised_by_a_new_decoder():
    class Memory:
        def decode(self, frame):
            return [RunFinished()] if frame.event == "fin" else []

        def close(self):
            return []

    class Mine(Dialect):
        name = "mine"

        def decoder(self):
            return Memory()

    assert Detector(SSE, [Mine()]).offer(Frame(event="fin")).name == "mine"


def test_dialects_are_found_by_name_and_a_wrong_name_tells_the_right_ones():
    assert [by_name(dialect.name) for dialect in BUILT_IN] == list(BUILT_IN)
    with pytest.raises(ConfigError, match=r"'openai'.*openai-chat.*unknown"):
        by_name("openai")


# --- who is not asked ----------------------------------------------------------------------

FRAMES = [frame for stream in STREAMS for frame in stream.frames()[:40] if frame.data]
OBJECTS = [value for frame in FRAMES if isinstance(value := frame.json(), dict)]
KEYS = sorted({key for value in OBJECTS for key in value}.union(*filter(None, (
    one.marks for one in BUILT_IN
))))  # fmt: skip
KINDS = sorted({
    value[key]
    for value in OBJECTS
    for key in ("type", "event", "event_type", "event_kind", "object", "jsonrpc")
    if isinstance(value.get(key), str)
})  # fmt: skip
EVENTS = [None, "", *sorted({frame.event for frame in FRAMES if frame.event})]
HEADS = [
    SSE,
    Head(path="/v1/message:stream"),
    Head(media_type="application/x-ndjson"),
    Head(request={"jsonrpc": "2.0", "method": "tools/call", "id": 1}),
    Head(headers={"x-vercel-ai-ui-message-stream": "v1"}),
    Head(headers={"x-vercel-ai-data-stream": "v1"}),
]
VALUES = [None, 1, True, "x", "2.0", [], {}, [{"text": "x"}], *KINDS]


class Asked(Dialect):
    """A built-in dialect that is asked of every frame."""

    def __init__(self, dialect: Dialect) -> None:
        self.name = dialect.name
        self.recognise = dialect.recognise


ALL_ASKED = tuple(map(Asked, BUILT_IN))


def found(head: Head, frames: list[Frame], candidates: tuple[Dialect, ...]) -> list[str | None]:
    """After each frame, and at the end."""
    detector = Detector(head, candidates)
    told = [detector.offer(frame) for frame in frames]
    return [one and one.name for one in (*told, detector.settle())]


@pytest.mark.parametrize("stream", STREAMS, ids=str)
def test_no_stream_is_found_otherwise_if_everybody_is_asked(stream):
    for start in range(0, min(len(stream.frames()), 200), 7):
        frames = stream.frames()[start : start + MAX_FRAMES]
        assert found(stream.head, frames, BUILT_IN) == found(stream.head, frames, ALL_ASKED)


def changed(value: dict, left_out: set[int], more: dict, event: str | None) -> Frame:
    kept = {key: one for number, (key, one) in enumerate(value.items()) if number not in left_out}
    return Frame(data=json.dumps({**kept, **more}).encode(), event=event)


likely_frames = st.builds(
    changed,
    st.sampled_from([{}, *OBJECTS]),
    st.sets(st.integers(0, 7), max_size=4),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from([*VALUES, *OBJECTS]), max_size=3),
    st.sampled_from(EVENTS),
)
"""Real frames, or none, with other keys, values and events."""


@settings(max_examples=400, deadline=None)
@given(head=st.sampled_from(HEADS), frames=st.lists(likely_frames, min_size=1, max_size=6))
def test_nothing_is_found_otherwise_if_everybody_is_asked(head, frames):
    assert found(head, frames, BUILT_IN) == found(head, frames, ALL_ASKED)


@pytest.mark.parametrize("frame", [
    Frame(data=b"[DONE]"), Frame(data=b"[1]"), Frame(data=b"null"), Frame(data=b'0:"x"'),
    Frame(stray=b'{"error":{"code":1,"status":"x"}}'), Frame(event="end"), Frame(data=b"{}"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("event", EVENTS)
def test_a_frame_without_an_object_is_for_everybody(event, frame):
    frame = msgspec.structs.replace(frame, event=event or frame.event)
    for head in HEADS:
        assert found(head, [frame], BUILT_IN) == found(head, [frame], ALL_ASKED)


def test_marks_are_not_inherited_since_a_subclass_may_recognise_more():
    class Mine(type(by_name("cognis"))):
        name = "mine"
        text_event = "tok"

    assert Mine.marks is None
    assert Detector(SSE, (Mine(), *BUILT_IN)).offer(Frame(event="tok", data=b"{}")).name == "mine"
