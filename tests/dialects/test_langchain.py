"""Messages of LangChain, in whichever dialect they come: against LangChain's own code, and laws."""

from __future__ import annotations

import copy
import itertools
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import langchain_oracle as oracle
from support.langchain_oracle import Said
from support.recordings import STREAMS, Stream
from support.wire import events_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects import langchain_events, langgraph, langgraph_v2, langserve
from streamtrace.dialects.base import Dialect
from streamtrace.dialects.detect import by_name
from streamtrace.dialects.langchain import message_of, messages_in, parts_of, result_text
from streamtrace.dialects.langchain_messages import (
    MAX_MESSAGES,
    Facts,
    Messages,
)

MODULES = {
    "langchain-events": langchain_events,
    "langgraph": langgraph,
    "langgraph-v2": langgraph_v2,
    "langserve": langserve,
}
OURS = [stream for stream in STREAMS if stream.dialect in MODULES]
each_of_ours = pytest.mark.parametrize("stream", OURS, ids=str)
each_dialect = pytest.mark.parametrize(
    "dialect", [*map(by_name, MODULES)], ids=lambda one: one.name
)
by_stream = {str(stream): stream for stream in OURS}
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def told(stream: Stream, frames: Iterable[Frame] | None = None) -> list[ev.Event]:
    frames = stream.frames() if frames is None else frames
    return events_of(by_name(stream.dialect), frames, stream.head)


# --- against LangChain ---------------------------------------------------------------------------


def chunks_of_pairs(frame: Frame) -> Iterable[tuple[str, dict[str, Any]]]:
    if (frame.event or "").partition("|")[0] == "messages":
        message, metadata = frame.json()
        if "AIMessageChunk" in (message["type"], *message["id"]):
            yield metadata["langgraph_checkpoint_ns"], message


def chunks_of_data(frame: Frame) -> Iterable[tuple[str, dict[str, Any]]]:
    value = frame.json()
    if isinstance(value, dict) and value.get("type") == "AIMessageChunk":
        yield "the one call", value


def chunks_of_events(frame: Frame) -> Iterable[tuple[str, dict[str, Any]]]:
    value = frame.json()
    if isinstance(value, dict) and value.get("event") == "on_chat_model_stream":
        yield value["run_id"], value["data"]["chunk"]


CHUNKS: dict[str, Callable[[Frame], Iterable[tuple[str, dict[str, Any]]]]] = {
    "langgraph": chunks_of_pairs,
    "langserve": chunks_of_data,
    "langchain-events": chunks_of_events,
}

NOT_AS_LANGCHAIN = {
    "langgraph__ai__fixtures_langgraph_LANGGRAPH_RESPONSE_1": (
        "the Python package does not read the reasoning that LangChain.js keeps beside the content"
    ),
    "langgraph_v2_parallel": "the client drops what two messages of one namespace say together",
    "langgraph_v2_stopped": "the client has no message that was not finished",
    "sample-langgraph-v2-failed": "the same",
}


def as_langchain_has_it(stream: Stream) -> list[Said]:
    if stream.dialect == "langgraph-v2":
        return oracle.of_thread(
            frame.json() for frame in stream.frames() if frame.event == "messages"
        )
    calls: dict[str, list[dict[str, Any]]] = {}
    for frame in stream.frames():
        for call, chunk in CHUNKS[stream.dialect](frame):
            calls.setdefault(call, []).append(chunk)
    return [said for said in map(oracle.of_chunks, calls.values()) if said != Said()]


@pytest.mark.parametrize("name", sorted(by_stream.keys() - NOT_AS_LANGCHAIN))
def test_says_what_langchain_makes_of_the_same_chunks(name):
    expected = as_langchain_has_it(by_stream[name])
    if expected:  # others hold no chunks; the next test reads them
        assert oracle.of_events(told(by_stream[name])) == expected


@pytest.mark.parametrize("name", sorted(NOT_AS_LANGCHAIN))
def test_the_streams_excused_from_the_oracle_still_need_the_excuse(name):
    try:
        expected = as_langchain_has_it(by_stream[name])
    except RuntimeError:  # of a stream without an end
        return
    assert oracle.of_events(told(by_stream[name])) != expected


def test_enough_streams_stand_before_the_oracle():
    names = [name for name, one in by_stream.items() if name not in NOT_AS_LANGCHAIN]
    assert sum(bool(as_langchain_has_it(by_stream[name])) for name in names) >= 18


@pytest.mark.parametrize(("name", "mode"), [
    ("langgraph_values", "values"),
    ("langgraph_values_history", "values"),
    ("langgraph_updates_subgraph", "updates"),
    ("langgraph_messages", "messages/partial"),
    ("langgraph_messages_subgraph", "messages/partial"),
    ("langgraph_tasks_checkpoints", "tasks"),
])  # fmt: skip
def test_says_of_whole_messages_what_langchain_has_in_them(name, mode):
    stream = by_stream[name]
    values = [one.json() for one in stream.frames() if (one.event or "").partition("|")[0] == mode]
    if mode == "values":
        before = {message["id"] for message in values[0]["messages"]}
        whole = [message for message in values[-1]["messages"] if message["id"] not in before]
    elif mode == "updates":
        whole = [
            message for value in values for one in value.values() for message in one["messages"]
        ]
    elif mode == "tasks":
        whole = [
            message for value in values for message in value.get("result", {}).get("messages", ())
        ]
    else:
        whole = [message for value in values for message in value]
    by_id = {message["id"]: message for message in whole if message["type"] == "ai"}
    assert oracle.of_events(told(stream)) == [
        said for said in map(oracle.of_message, by_id.values()) if said != Said()
    ]


# --- the way does not matter ---------------------------------------------------------------------

MODES = ("messages", "updates", "values", "tasks", "debug", "events")
MIXED = ("langgraph_all_modes", "langgraph_subgraph_modes", "langgraph_parallel")


def facts(events: Iterable[ev.Event]) -> dict[str, Any]:
    """What a stream tells, whatever the order of its messages."""
    events = list(events)
    said = [asdict(one) for one in oracle.of_events(events)]
    results = [one for one in events if isinstance(one, ev.ToolCallResult)]
    return {
        "calls": {key: call for one in said for key, call in one.pop("calls").items()},
        "said": Counter(json.dumps(one, sort_keys=True) for one in said),
        "starts": Counter(one.name for one in events if isinstance(one, ev.ToolCallStarted)),
        "results": Counter((one.tool_call_id, one.result) for one in results),
    }


def by_mode(stream: Stream) -> dict[str, list[Frame]]:
    frames: dict[str, list[Frame]] = {}
    for frame in stream.frames():
        frames.setdefault((frame.event or "").partition("|")[0], []).append(frame)
    return frames


@pytest.mark.parametrize("name", MIXED)
def test_each_set_of_modes_tells_the_same(name):
    stream = by_stream[name]
    modes = [mode for mode in MODES if mode in by_mode(stream)]
    expected = facts(told(stream))
    assert sum(expected["said"].values()) >= 2
    for size in range(1, len(modes) + 1):
        for chosen in itertools.combinations(modes, size):
            frames = [
                one for one in stream.frames() if (one.event or "").partition("|")[0] in chosen
            ]
            assert facts(told(stream, frames)) == expected, chosen


@pytest.mark.parametrize("name", MIXED)
@settings(slow, max_examples=60)
@given(data=st.data())
def test_modes_in_any_order_tell_the_same(name, data):
    """Each mode keeps its own order; how they are mixed is the server's business.

    But for what events tell without an id: that a model is called, which is before its first word,
    and that a tool runs, which takes the call that waits.
    """
    stream = by_stream[name]
    frames_of = by_mode(stream)
    frames_of["events"] = [
        frame
        for frame in frames_of.get("events", ())
        if not frame.json()["event"].startswith(("on_tool_", "on_chat_model_start"))
    ]
    of_modes = {mode: iter(frames) for mode, frames in frames_of.items()}
    order = [mode for mode, frames in frames_of.items() for _ in frames]
    mixed = [next(of_modes[mode]) for mode in data.draw(st.permutations(order))]
    assert facts(told(stream, mixed)) == facts(told(stream))


@each_of_ours
def test_hot_frames_tell_what_they_would_tell_in_the_general_way(stream, monkeypatch):
    expected = told(stream)
    monkeypatch.setattr(MODULES[stream.dialect], "_read_hot", lambda data: None)
    assert told(stream) == expected


@pytest.mark.parametrize(("name", "pieces"), [
    ("langgraph_subgraph_modes", 12), ("langgraph_v2_subgraph", 13),
    ("langchain_events_v2", 6), ("langserve_stream", 2),
])  # fmt: skip
def test_most_pieces_are_hot(name, pieces, monkeypatch):
    """Else a change of the wire could turn the quick way off, and nobody would know."""
    stream, hot = by_stream[name], 0
    module = MODULES[stream.dialect]
    read = module._read_hot

    def count(data: bytes) -> Any:
        nonlocal hot
        chunk = read(data)
        hot += chunk is not None
        return chunk

    monkeypatch.setattr(module, "_read_hot", count)
    told(stream)
    assert hot >= pieces


# --- whatever comes ------------------------------------------------------------------------------

_odd = st.sampled_from(
    (None, True, -1, 1.5, 2**70, "", "x", [], {}, [[]], [{}], {"type": "text"}, {"text": 7},
     [{"type": "AIMessageChunk", "content": 3}], {"id": []}, "lc_run--x", ["a", "b"])
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value, as its container and its key."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, Any]] = []
    for key, inner in pairs:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


@each_of_ours
@settings(slow, max_examples=15)
@given(data=st.data())
def test_any_value_may_have_any_type(stream, data):
    frames = stream.frames()
    at = data.draw(st.integers(0, len(frames) - 1))
    value = copy.deepcopy(frames[at].json())
    if not isinstance(value, dict | list) or not value:
        return
    container, key = data.draw(st.sampled_from(places(value)))
    container[key] = data.draw(_odd)
    frames[at] = Frame(data=json.dumps(value).encode(), event=frames[at].event)
    events = told(stream, frames)
    assert all(isinstance(one.text, str) for one in events if isinstance(one, ev.TextDelta))


def floods(number: int) -> list[Frame]:
    """Frames whose every id is new and long."""
    long = f"{number}-" + "x" * 20_000
    chunk = {
        "type": "AIMessageChunk", "content": "a", "id": long,
        "tool_call_chunks": [{"index": n, "id": f"{n}{long}", "name": long} for n in range(3)],
    }  # fmt: skip
    metadata = {"langgraph_checkpoint_ns": f"n:{long}|m:{long}", "langgraph_step": number,
                "ls_model_name": long, "graph_id": long, "langgraph_node": long}  # fmt: skip
    whole = {"type": "ai", "content": "b", "id": f"w{long}", "tool_calls": [{"id": f"w{long}"}]}
    grown = {**whole, "id": f"g{long}", "tool_calls": [{"name": "f", "args": {"a": "y" * 9_000}}]}
    event = {"event": "on_tool_start", "run_id": long, "name": long, "metadata": metadata}
    v2 = {"type": "event", "method": "messages", "event_id": long}
    start = {"event": "message-start", "id": long, "metadata": {"model": long}}
    block = {"event": "content-block-start", "index": number,
             "content": {"type": "tool_call_chunk", "id": long, "name": long}}  # fmt: skip
    bodies: list[tuple[str | None, Any]] = [
        (f"messages|{long}", [chunk, metadata]),
        ("messages/metadata", {long: {"metadata": metadata}}),
        ("messages/partial", [grown]),
        (f"values|{long}", {"messages": [whole]}),
        (f"values|{long}", {"messages": [{**whole, "id": f"v{long}"}]}),
        (f"tasks|{long}", {"id": long, "name": long}),
        ("updates", {long: {"messages": [{**whole, "id": f"u{long}"}]}}),
        ("events", event),
        (None, event),
        (None, {"event": "on_chain_start", "run_id": f"c{long}", "name": long}),
        (None, {"event": "on_chat_model_stream", "run_id": f"m{long}", "data": {"chunk": chunk}}),
        ("data", chunk),
        ("messages", {**v2, "params": {"namespace": [long], "data": start}}),
        ("messages", {**v2, "params": {"namespace": [long], "data": block}}),
        ("lifecycle", {**v2, "method": "lifecycle",
                       "params": {"namespace": [long], "data": {"event": "started"}}}),
    ]  # fmt: skip
    return [Frame(data=json.dumps(body).encode(), event=event) for event, body in bodies]


@each_dialect
def test_what_a_stream_says_does_not_fill_memory(dialect: Dialect):
    decoder = dialect.decoder()
    frames = [floods(number) for number in range(120)]
    tracemalloc.start()
    for frame in itertools.chain.from_iterable(frames):
        for _ in decoder.decode(frame):
            pass
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4_000_000


# --- single rules --------------------------------------------------------------------------------

FLAT = {"type": "ai", "content": "Hi", "id": "m"}


@pytest.mark.parametrize("wire", [
    FLAT,
    {"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "AIMessage"],
     "kwargs": {"content": "Hi", "id": "m"}},
    {"type": "ai", "data": {"content": "Hi", "id": "m"}},
    {"role": "assistant", "content": "Hi", "id": "m"},
])  # fmt: skip
def test_a_message_is_read_in_each_shape(wire):
    message = message_of(wire)
    assert message is not None
    assert Messages().whole(message, "any", Facts())[1:] == [
        ev.MessageStarted(message_id="m", role="assistant"),
        ev.TextDelta(text="Hi", message_id="m"),
        ev.MessageFinished(message_id="m"),
    ]


@pytest.mark.parametrize("value", [
    None, 7, "ai", [], {}, {"type": "ai"}, {"type": "token", "content": "x"}, {"content": "x"},
    {"type": ["ai"], "content": "x"}, {"id": ["a"], "kwargs": 7, "content": "x"},
])  # fmt: skip
def test_what_is_no_message_is_read_as_none(value):
    assert message_of(value) is None


def test_messages_are_found_under_any_key_of_a_state():
    state = {"chat": [FLAT, "x", {"a": 1}], "answer": {**FLAT, "id": "n"}, "n": 7}
    assert [one["id"] for one in messages_in(state)] == ["m", "n"]


@pytest.mark.parametrize(("content", "parts"), [
    ("Hi", [("text", "Hi")]),
    (["Hi", {"type": "text", "text": " you"}], [("text", "Hi"), ("text", " you")]),
    ([{"type": "reasoning", "reasoning": "hm"}], [("reasoning", "hm")]),
    ([{"type": "thinking", "thinking": "hm", "signature": "s"}], [("reasoning", "hm")]),
    ([{"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]}], [("reasoning", "ab")]),
    ([{"type": "reasoning_content", "reasoning_content": {"text": "hm"}}], [("reasoning", "hm")]),
    ([{"type": "refusal", "refusal": "No."}], [("text", "No.")]),
    ([{"type": "tool_use", "id": "t"}, {"type": "input_json_delta"}], []),
    ([{"type": "image", "url": "u"}], [("image", {"type": "image", "url": "u"})]),
    (None, []),
    (7, []),
])  # fmt: skip
def test_content_is_read_as_providers_leave_it(content, parts):
    assert list(parts_of({"content": content})) == parts


@pytest.mark.parametrize(("extra", "content", "reasoning"), [
    ({"reasoning_content": "hm"}, "", ["hm"]),
    ({"reasoning": {"summary": [{"text": "hm"}]}}, [], ["hm"]),
    ({"reasoning_content": "hm"}, [{"type": "reasoning", "reasoning": "hm"}], ["hm"]),
])  # fmt: skip
def test_reasoning_beside_the_content_counts_if_there_is_none_in_it(extra, content, reasoning):
    parts = list(parts_of({"content": content, "additional_kwargs": extra}))
    assert [value for kind, value in parts if kind == "reasoning"] == reasoning


@pytest.mark.parametrize(("content", "text"), [
    ("21", "21"), ([{"type": "text", "text": "2"}, "1"], "21"), (None, None),
    ({"t": 21}, '{"t":21}'), ([{"type": "image"}], '[{"type":"image"}]'), ([], "[]"), (7, "7"),
])  # fmt: skip
def test_a_result_is_text_or_json(content, text):
    assert result_text(content) == text


def chunk(content: Any = "", message_id: str | None = "m", **fields: Any) -> dict[str, Any]:
    return {"type": "AIMessageChunk", "content": content, "id": message_id, **fields}


def said_by(messages: Messages, *chunks: dict[str, Any], lane: str = "") -> list[Said]:
    events = [one for wire in chunks for one in messages.chunk(wire, "stream", Facts(lane))]
    return oracle.of_events(events)


LC, LC_2 = (f"lc_run--0199f1a2-0000-7000-8000-00000000000{n}" for n in (1, 2))


@pytest.mark.parametrize("ids", [
    ("resp_1", LC, LC), (LC, LC, "resp_1"), ("resp_1", LC, "resp_1"), (LC, "resp_1", LC),
    ("run-0199f1a2-0000-7000-8000-000000000001", "chatcmpl-1", "chatcmpl-1"),
])  # fmt: skip
def test_a_message_with_two_ids_is_one(ids):
    chunks = [chunk(text, one) for text, one in zip("abc", ids, strict=True)]
    assert said_by(Messages(), *chunks) == [Said(text="abc")]


def test_the_state_may_know_a_message_by_either_id():
    for final in ("resp_1", LC):
        messages = Messages()
        said_by(messages, chunk([], "resp_1"), chunk("Hi", LC))
        assert messages.whole({**FLAT, "id": final}, "values", Facts()) == [
            ev.MessageFinished(message_id="resp_1")
        ]


def test_calls_of_a_model_at_the_same_time_are_apart():
    """Both in one lane: the first chunks bear the provider's ids, the others LangChain's."""
    wires = [chunk([], "resp_1"), chunk([], "resp_2"), chunk("a", LC), chunk("x", LC_2),
             chunk("b", LC), chunk("y", LC_2)]  # fmt: skip
    messages = Messages()
    assert said_by(messages, *wires) == [Said(text="ab"), Said(text="xy")]
    for final in ("resp_1", "resp_2"):
        assert text_of(messages.whole({**FLAT, "id": final}, "values", Facts())) == ""


def test_an_empty_chunk_ends_the_message_that_gave_its_reason():
    stop = {"finish_reason": "stop"}
    wires = [chunk("a", "chatcmpl-1"), chunk("x", "chatcmpl-2"),
             chunk("", "chatcmpl-2", response_metadata=stop),
             chunk("", LC_2, chunk_position="last"), chunk("b", "chatcmpl-1")]  # fmt: skip
    messages = Messages()
    events = [one for wire in wires for one in messages.chunk(wire, "stream", Facts())]
    finished = [one for one in events if isinstance(one, ev.MessageFinished)]
    assert finished == [ev.MessageFinished(message_id="chatcmpl-2")]
    assert oracle.of_events(events) == [Said(text="ab"), Said(text="x", finish_reason="stop")]


def test_what_follows_a_finish_reason_is_the_next_message():
    """Older servers do not say which chunk is the last."""
    stop = {"finish_reason": "stop"}
    wires = [chunk("a", "chatcmpl-1"), chunk("", "chatcmpl-1", response_metadata=stop),
             chunk("x", LC)]  # fmt: skip
    assert said_by(Messages(), *wires) == [Said(text="a", finish_reason="stop"), Said(text="x")]


def test_lanes_are_apart():
    messages = Messages()
    left = messages.chunk(chunk("a", "resp_1"), "stream", Facts("left"))
    right = messages.chunk(chunk("x", LC), "stream", Facts("right"))
    assert oracle.of_events([*left, *right]) == [Said(text="a"), Said(text="x")]


def test_a_call_that_began_may_turn_out_to_be_a_message_that_is_known():
    messages, facts = Messages(), Facts("lane", LC.removeprefix("lc_run--"))
    assert messages.begin(facts) == [ev.GenerationStarted(response_id=facts.run_id)]
    assert text_of(messages.whole({**FLAT, "id": "resp_1"}, "updates", Facts())) == "Hi"
    for message_id in ("resp_1", LC):
        assert messages.chunk(chunk("Hi", message_id), "events", facts) == []


def test_what_the_owner_left_out_is_added_once():
    messages = Messages()
    call = {"index": 0, "id": "c", "name": "f", "args": "{}"}
    said_by(messages, chunk("Hi", tool_call_chunks=[call]))
    whole = {**FLAT, "content": "Hi", "usage_metadata": {"input_tokens": 1, "output_tokens": 2},
             "response_metadata": {"finish_reason": "stop", "model_name": "m-1"},
             "tool_calls": [{"id": "c", "name": "f", "args": {}}]}  # fmt: skip
    assert messages.whole(whole, "updates", Facts()) == [
        ev.Usage(input_tokens=1, output_tokens=2),
        ev.GenerationStarted(response_id="m", model="m-1"),
        ev.ToolCallReady(tool_call_id="c"),
        ev.GenerationFinished(finish_reasons=("stop",)),
        ev.MessageFinished(message_id="m"),
    ]
    assert messages.whole(whole, "values", Facts()) == []


def test_usage_of_chunks_adds_up():
    """As when a provider tells what went in first, and what came out last."""
    first = {"input_tokens": 10, "output_tokens": 1, "input_token_details": {"cache_read": 4}}
    second = {"input_tokens": 0, "output_tokens": 3}
    messages = Messages()
    wires = [chunk("a", usage_metadata=first), chunk("b", usage_metadata=second)]
    events = [one for wire in wires for one in messages.chunk(wire, "stream", Facts())]
    assert [one for one in events if isinstance(one, ev.Usage)][-1] == ev.Usage(
        input_tokens=10, output_tokens=4, cached_input_tokens=4
    )
    whole = {**FLAT, "usage_metadata": {"input_tokens": 99}}
    assert messages.whole(whole, "values", Facts()) == [ev.MessageFinished(message_id="m")]


@pytest.mark.parametrize(("details", "written"), [
    ({"cache_creation": 7}, 7),
    ({"cache_creation": 0, "ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 2}, 7),
    ({"cache_creation": 0}, 0),
    ({}, None),
    ({"cache_creation": -1, "ephemeral_5m_input_tokens": "5"}, None),
])  # fmt: skip
def test_what_was_written_to_the_cache_is_told_whichever_way_it_is_counted(details, written):
    wire = {**FLAT, "usage_metadata": {"input_tokens": 9, "input_token_details": details}}
    [usage] = [one for one in Messages().whole(wire, "any", Facts()) if isinstance(one, ev.Usage)]
    assert usage == ev.Usage(input_tokens=9, cache_write_tokens=written)


def part(**fields: Any) -> dict[str, Any]:
    return {"index": None, "id": None, "name": None, "args": None, **fields}


@pytest.mark.parametrize(("parts", "calls"), [
    ([part(index=0, id="a", name="f"), part(index=0, args="{}")], {"a": ("f", {})}),
    ([part(id="a", name="f", args='{"x'), part(args='":1}')], {"a": ("f", {"x": 1})}),
    ([part(id="a", name="f", args="{}"), part(id="b", name="g", args="{}")],
     {"a": ("f", {}), "b": ("g", {})}),
    ([part(index=0, id="a", name="f", args="{}"), part(index=0, id="b", name="f", args="{}")],
     {"a": ("f", {}), "b": ("f", {})}),
    ([part(index=0, name="f", args="{}"), part(index=1, name="f", args="{}")],
     {"m:0": ("f", {}), "m:1": ("f", {})}),
    ([part(index=0, id="a", name="f"), part(index=1, id="b", name="g"), part(index=0, args="{}"),
      part(index=1, args='{"y":2}')], {"a": ("f", {}), "b": ("g", {"y": 2})}),
])  # fmt: skip
def test_calls_are_put_together_by_their_place(parts, calls):
    wires = [chunk("", tool_call_chunks=[one]) for one in parts]
    last = chunk("", chunk_position="last")
    assert said_by(Messages(), *wires, last) == [Said(calls=calls)]


def test_a_call_of_the_provider_itself_is_a_call():
    wires = [
        chunk([{"type": "server_tool_call_chunk", "id": "s", "name": "web_search", "args": "",
                "index": 0}]),
        chunk([{"type": "server_tool_call_chunk", "args": '{"q":"x"}', "index": 0}]),
        chunk([{"type": "server_tool_result", "tool_call_id": "s", "status": "success",
                "output": {"hits": 3}, "index": 1}]),
    ]  # fmt: skip
    messages = Messages()
    events = [one for wire in wires for one in messages.chunk(wire, "stream", Facts())]
    assert events[2:] == [
        ev.ToolCallStarted(tool_call_id="s", name="web_search"),
        ev.ToolCallArgumentsDelta(tool_call_id="s", delta='{"q":"x"}'),
        ev.ToolCallReady(tool_call_id="s"),
        ev.ToolCallResult(tool_call_id="s", result='{"hits":3}'),
    ]


def test_arguments_that_grow_wait_until_they_are_whole():
    messages = Messages()

    def grown(args: dict[str, Any], **fields: Any) -> list[ev.Event]:
        wire = {**FLAT, "content": "", "tool_calls": [{"id": "c", "name": "f", "args": args}]}
        return messages.grown({**wire, **fields}, "partial", Facts())

    assert grown({})[-1] == ev.ToolCallStarted(tool_call_id="c", name="f")
    assert grown({"q": "x"}) == []
    assert grown({"q": "xy"}, response_metadata={"finish_reason": "tool_calls"}) == [
        ev.ToolCallReady(tool_call_id="c", arguments='{"q":"xy"}'),
        ev.GenerationFinished(finish_reasons=("tool_calls",)),
    ]


def test_arguments_that_could_not_be_read_are_told_as_they_came():
    wire = {
        **FLAT,
        "invalid_tool_calls": [{"id": "c", "name": "f", "args": '{"q": ', "error": "e"}],
    }
    events = Messages().whole(wire, "any", Facts())
    assert ev.ToolCallReady(tool_call_id="c", arguments='{"q": ') in events


RESULT = {"type": "tool", "content": "21", "tool_call_id": "c", "name": "f", "status": "success"}


def test_a_result_is_told_once_and_tells_of_its_call():
    messages = Messages()
    assert messages.whole(RESULT, "messages", Facts()) == [
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c"),
        ev.ToolCallResult(tool_call_id="c", result="21"),
    ]
    assert messages.whole({**RESULT, "content": "22"}, "updates", Facts()) == []


def test_an_id_that_is_used_again_is_another_call():
    """Small servers count the calls of each answer anew."""
    messages = Messages()
    for message_id in ("a", "b"):
        call = {"id": "call_0", "name": "f", "args": {}}
        events = messages.whole({**FLAT, "id": message_id, "tool_calls": [call]}, "any", Facts())
        assert ev.ToolCallStarted(tool_call_id="call_0", name="f") in events
        [*_, result] = messages.whole({**RESULT, "tool_call_id": "call_0"}, "any", Facts())
        assert result == ev.ToolCallResult(tool_call_id="call_0", result="21")


def test_what_was_said_before_is_not_told():
    messages = Messages()
    messages.remember([FLAT, RESULT])
    assert messages.state([FLAT, RESULT], "values", Facts()) == []
    assert messages.chunk(chunk("Hi"), "stream", Facts()) == []


def test_what_a_node_adds_before_the_last_question_is_older():
    human = {"type": "human", "content": "?", "id": "h"}
    new = {**FLAT, "content": "new", "id": "n"}
    assert text_of(Messages().added([FLAT, human, new], "updates", Facts())) == "new"
    assert text_of(Messages().added([FLAT, new], "updates", Facts())) == "Hinew"


def test_of_a_state_without_ids_nothing_is_told_again():
    messages = Messages()
    assert messages.state([{"type": "ai", "content": "Hi"}], "values", Facts()) == []


def test_a_state_that_is_longer_than_memory_is_not_told_again():
    messages = Messages()
    state = [{**FLAT, "id": f"m{number}"} for number in range(2 * MAX_MESSAGES)]
    messages.remember(state)
    for number in range(5):
        state.append({**FLAT, "content": str(number), "id": f"n{number}"})
        assert text_of(messages.state(state, "values", Facts())) == str(number)


@pytest.mark.parametrize("kind", ["human", "system", "developer", "chat", "remove"])
def test_what_others_say_is_no_output(kind):
    assert Messages().whole({"type": kind, "content": "x", "id": "h"}, "any", Facts()) == []
