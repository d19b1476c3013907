"""Anthropic Messages, written: what Anthropic's own clients make of it, and our decoder."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anthropic
import httpx2
import jiter
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from support.clients import run_client
from support.live import live, speaking
from support.runs import any_events, some
from support.scripted_runs import (
    FINISHED,
    RUNS,
    START,
    USAGE,
    Said,
    call,
    finish,
    message,
    reasoning,
    result,
    richest_streams,
    said,
    told_by,
    written,
)
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import clean_text
from streamtrace.dialects.anthropic import Anthropic
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode import anthropic as encoding

ANTHROPIC = Anthropic()
HI = [{"role": "user", "content": "hi"}]

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def frames(events) -> list[Frame]:
    return frames_of(written(ANTHROPIC, events))


def bodies(events) -> list[dict[str, Any]]:
    return [frame.json() for frame in frames(events)]


def decoded(events) -> list[ev.Event]:
    return events_of(ANTHROPIC, frames(events))


# --- official clients ----------------------------------------------------------------------


@dataclass
class Read:
    """What a client holds of one run when it has read it."""

    stop_reason: str | None = None
    said: Said = field(default_factory=Said)
    usage: dict[str, int | None] | None = None
    error: tuple[str | None, str | None] | None = None


def read_of(message: dict[str, Any] | None, error: Any = None) -> Read:
    if message is None:
        return Read(error=error)
    facts = Said()
    for block in message["content"]:
        match block["type"]:
            case "text":
                facts.text += block["text"]
                for one in block.get("citations") or ():
                    facts.sources.append((one["url"] or None, one["title"]))
            case "thinking":
                facts.reasoning += block["thinking"]
            case "tool_use":
                facts.calls[block["id"]] = (block["name"], block["input"])
            case "mcp_tool_result":
                facts.results[block["tool_use_id"]] = (block["content"], block["is_error"])
    wire = message["usage"]
    cached = wire.get("cache_read_input_tokens")
    written = wire.get("cache_creation_input_tokens")
    uncached = wire["input_tokens"]
    usage = {
        "input_tokens": uncached and uncached + (cached or 0) + (written or 0),
        "output_tokens": wire["output_tokens"],
        "cached_input_tokens": cached,
        "cache_write_tokens": written,
        "reasoning_tokens": (wire.get("output_tokens_details") or {}).get("thinking_tokens"),
    }
    return Read(message["stop_reason"], facts, usage if any(usage.values()) else None, error)


COUNTED = {
    "input_tokens": 30,
    "output_tokens": 12,
    "cached_input_tokens": 8,
    "cache_write_tokens": 2,
    "reasoning_tokens": 5,
}
OUTCOMES: dict[str, Read] = {
    "answer": Read("end_turn", usage=COUNTED),
    "tools": Read(
        "end_turn", usage={**dict.fromkeys(COUNTED), "input_tokens": 30, "output_tokens": 7}
    ),
    "whole arguments": Read("end_turn"),
    "deltas only": Read("end_turn"),
    "interrupted": Read("tool_use", usage=COUNTED),
    "asking": Read("end_turn"),
    "too long": Read("max_tokens", usage=COUNTED),
    "failed": Read(error=("overloaded_error", "try later")),
    "failed late": Read(usage=COUNTED, error=("rate_limit", "slow down")),
    "failed at once": Read(error=("invalid_request_error", "no such model")),
    "cancelled": Read("pause_turn"),
    "huge": Read("end_turn"),
}


def expected(run: str) -> Read:
    """What the events of a run said. Of arguments that were cut clients keep what is whole."""
    facts = said(RUNS[run])
    for call_id, (name, arguments) in facts.calls.items():
        given = jiter.from_json(arguments.encode(), partial_mode=True) if arguments else {}
        facts.calls[call_id] = (name, given)
    return replace(OUTCOMES[run], said=facts)


async def read_in_python(url: str, run: str) -> Read:
    """What the accumulating client holds at the end, or at the error."""
    error = None
    async with (
        anthropic.AsyncAnthropic(api_key="none", base_url=url, max_retries=0) as made,
        made.messages.stream(model=run, max_tokens=9, messages=HI) as stream,
    ):
        try:
            await stream.until_done()
        except anthropic.APIStatusError as raised:
            error = (raised.body["error"]["type"], raised.body["error"]["message"])
        if run == "failed at once":
            return Read(error=error)
        held = stream.current_message_snapshot.to_dict(mode="json", warnings=False)
    return read_of(held, error)


@pytest.mark.parametrize("run", RUNS)
async def test_the_client_for_python_accumulates_what_the_events_said(run):
    async with live(speaking(ANTHROPIC, lambda asked: RUNS[asked["model"]])) as url:
        assert await read_in_python(url, run) == expected(run)


async def test_the_plain_stream_of_the_client_yields_every_frame_but_pings():
    async with (
        live(speaking(ANTHROPIC, RUNS["answer"])) as url,
        anthropic.AsyncAnthropic(api_key="none", base_url=url, max_retries=0) as made,
    ):
        stream = await made.messages.create(model="m", max_tokens=9, messages=HI, stream=True)
        types = [event.type async for event in stream]
    assert types == [one["type"] for one in bodies(RUNS["answer"]) if one["type"] != "ping"]


async def test_the_client_for_javascript_accumulates_what_the_events_said():
    async with live(speaking(ANTHROPIC, lambda asked: RUNS[asked["model"]])) as url:
        made = await run_client("anthropic.mjs", url, *RUNS)
    for run in RUNS:
        wanted, error = expected(run), made[run]["error"]
        assert (error is None) == (wanted.error is None), run
        assert (made[run]["text"], made[run]["thinking"]) == (
            wanted.said.text,
            wanted.said.reasoning,
        )
        if error is None:
            assert read_of(made[run]["message"]) == wanted, run
            told = [(one["url"] or None, one["title"]) for one in made[run]["citations"]]
            assert told == wanted.said.sources
        else:
            assert error["type"] == wanted.error[0]
            assert wanted.error[1] in error["message"]


def reads_without_complaint(body: bytes) -> str:
    """The text of the deltas, as the accumulating client reads them."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    text = ""
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        anthropic.Anthropic(
            api_key="none", base_url="http://127.0.0.1", http_client=http, max_retries=0
        ) as client,
        client.messages.stream(model="any", max_tokens=1, messages=HI) as stream,
        suppress(anthropic.APIStatusError),  # which an error event raises
    ):
        for event in stream:
            if event.type == "text":
                text += event.text
    return text


@settings(slow, max_examples=60)
@given(events=any_events)
def test_no_events_make_what_the_client_for_python_refuses(events):
    body = written(ANTHROPIC, events)
    again = events_of(ANTHROPIC, frames_of(body))
    assert clean_text(reads_without_complaint(body)) == clean_text(text_of(again))
    ends = [at for at, one in enumerate(events) if isinstance(one, ev.TERMINAL)]
    assert clean_text(text_of(again)) == clean_text(text_of(events[: ends[0]] if ends else events))
    assert sum(isinstance(one, ev.TERMINAL) for one in again) == bool(ends)


async def test_no_events_make_what_the_client_for_javascript_refuses():
    runs = some(any_events, 80)
    made = await read_in_javascript(runs)
    for number, events in enumerate(runs):
        error = made[str(number)]["error"]
        if any(one["type"] == "message_stop" for one in bodies(events)):
            assert error is None, (error, events)


async def test_what_any_dialect_tells_can_be_told_to_the_client_for_javascript():
    runs = [told_by(stream) for stream in richest_streams()]
    made = await read_in_javascript(runs)
    for number, events in enumerate(runs):
        ends = [one for one in events if isinstance(one, ev.TERMINAL)]
        if ends:
            failed = isinstance(ends[0], ev.RunFailed)
            assert (made[str(number)]["error"] is not None) == failed, made[str(number)]


async def read_in_javascript(runs: list[list[ev.Event]]) -> Any:
    async with live(speaking(ANTHROPIC, lambda asked: runs[int(asked["model"])])) as url:
        return await run_client("anthropic.mjs", url, *map(str, range(len(runs))))


_event = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("run", ["answer", "interrupted", "too long"])
def test_frames_have_the_types_that_the_client_names(run):
    events = [*RUNS[run][:2], USAGE, *RUNS[run][2:]]
    for frame in frames(events):
        body = frame.json()
        assert body["type"] == frame.event
        if frame.event != "ping":
            assert _event.validate_python(body).type == frame.event


# --- read again ----------------------------------------------------------------------------

_text = st.text(min_size=1, max_size=8)
_texts = st.lists(_text, min_size=1, max_size=3)
_arguments = st.dictionaries(_text, _text | st.integers(), max_size=3).flatmap(
    lambda given: st.integers(0, 99).map(lambda at: halves(json.dumps(given), at))
)
OWN_START = (
    ev.RunStarted(run_id="r"),
    ev.GenerationStarted(response_id="r", model="m", provider="anthropic"),
    ev.MessageStarted(message_id="r", role="assistant"),
)
OWN_END = (ev.MessageFinished(message_id="r"), ev.RunFinished(run_id="r"))
EARLY = ev.Usage(input_tokens=30, output_tokens=1, cached_input_tokens=8)


def halves(text: str, at: int) -> list[str]:
    return [half for half in (text[:at], text[at:]) if half]


@st.composite
def own_runs(draw: st.DrawFn) -> list[ev.Event]:
    """Well-formed runs, of what this wire can say and in its words."""
    early, late = draw(st.sampled_from((((), ()), ((EARLY,), (USAGE,)))))
    events: list[ev.Event] = [*OWN_START, *early]
    kinds = st.sampled_from(("text", "reasoning", "call", "server call", "ping", "source"))
    for number, kind in enumerate(draw(st.lists(kinds, max_size=6))):
        one = f"id_{number}"
        match kind:
            case "text":
                events += [ev.TextDelta(text=text, message_id="r") for text in draw(_texts)]
            case "reasoning":
                events += reasoning(*draw(st.just([]) | _texts), message_id="r")
            case "call" | "server call":
                events += call(one, *draw(_arguments))
                if kind == "server call":
                    answer = draw(st.none() | _text | st.just('[{"a":1}]'))
                    events.append(result(one, answer, is_error=draw(st.booleans())))
            case "ping":
                events.append(ev.Heartbeat())
            case "source":
                events.append(ev.Source(url=draw(st.none() | _text), title=draw(_text)))
    failed = ev.RunFailed(type=draw(st.none() | _text), message=draw(st.none() | _text))
    reason = finish(draw(st.sampled_from(("end_turn", "tool_use", "pause_turn", "x"))))
    ends = [(*late, reason, *OWN_END), (*late, reason), (*late, failed)]
    return [*events, *draw(st.sampled_from(ends))]


@settings(slow, max_examples=150)
@given(events=own_runs())
def test_a_run_in_the_words_of_this_wire_is_read_as_it_was_told(events):
    assert decoded(events) == events


def shown(events) -> list[str]:
    """The frames in short: what begins, grows and ends, and where."""
    lines = []
    for body in bodies(events):
        inner = body.get("content_block") or body.get("delta") or {}
        words = [body["type"].removeprefix("content_block_"), inner.get("type"), body.get("index")]
        lines.append(" ".join(str(word) for word in words if word is not None))
    return lines


def test_a_whole_run_becomes_these_frames():
    events = [*START, *reasoning("hm"), *message("Hi"), *call("c", "{}"), result("c", "42")]
    assert shown([*events, FINISHED]) == [
        "message_start",
        "start thinking 0", "delta thinking_delta 0", "stop 0",
        "start text 1", "delta text_delta 1", "stop 1",
        "start tool_use 2", "delta input_json_delta 2", "stop 2",
        "start mcp_tool_result 3", "stop 3",
        "message_delta", "message_stop",
    ]  # fmt: skip


# --- the message ---------------------------------------------------------------------------


def test_the_message_waits_for_the_first_event_that_tells_more():
    encoder = ANTHROPIC.encoder()
    for event in (*OWN_START, EARLY):
        assert encoder.encode(event) == []
    start, _, _ = (frame.json() for frame in encoder.encode(ev.TextDelta(text="Hi")))
    assert start["message"]["usage"] == {
        "input_tokens": 22,
        "output_tokens": 1,
        "cache_read_input_tokens": 8,
    }


@pytest.mark.parametrize(
    ("events", "written"),
    [
        ([], ["ping"]),
        ([ev.RunStarted(run_id="r")], ["ping"]),
        ([*START], ["message_start", "ping"]),
    ],
)
def test_a_ping_waits_for_nothing(events, written):
    encoder = ANTHROPIC.encoder()
    assert not [frame for event in events for frame in encoder.encode(event)]
    assert [frame.event for frame in encoder.encode(ev.Heartbeat())] == written


@pytest.mark.parametrize(
    ("events", "message_id"),
    [
        ([*START], "run_1"),
        ([ev.GenerationStarted(response_id="g"), *message()], "g"),
        ([*message()], "msg_1"),
        ([ev.TextDelta(text="a", message_id="m")], "e"),
    ],
)
def test_the_message_bears_the_id_of_the_run_or_what_comes_next_to_it(events, message_id):
    body = written(ANTHROPIC, events, Envelope(run_id="e", model="n"))
    start = frames_of(body)[0].json()["message"]
    assert start["id"] == message_id
    assert start["model"] == ("model-1" if events[0] == START[0] else "n")


def test_a_count_that_nobody_told_is_null():
    *_, delta, _ = bodies([*START, ev.Usage(input_tokens=5), FINISHED])
    assert delta["usage"] == {"output_tokens": None, "input_tokens": 5}


@pytest.mark.parametrize(
    ("usage", "wire"),
    [
        (USAGE,
         {"input_tokens": 20, "output_tokens": 12, "cache_read_input_tokens": 8,
          "cache_creation_input_tokens": 2, "output_tokens_details": {"thinking_tokens": 5}}),
        (ev.Usage(output_tokens=0), {"output_tokens": 0}),
        (ev.Usage(input_tokens=3, cached_input_tokens=9),
         {"input_tokens": 0, "cache_read_input_tokens": 9, "output_tokens": None}),
    ],
)  # fmt: skip
def test_the_input_is_counted_beside_what_was_cached(usage, wire):
    *_, delta, _ = bodies([*START, *message("Hi"), usage, FINISHED])
    assert delta["usage"] == wire


def test_a_running_total_is_not_summed_but_generations_are():
    first = [EARLY, *message("Hi"), ev.Usage(input_tokens=30, output_tokens=9)]
    second = [ev.GenerationStarted(response_id="g2"), ev.Usage(input_tokens=40, output_tokens=2)]
    usages = [one for one in decoded([*START, *first, *second, FINISHED]) if type(one) is ev.Usage]
    assert usages == [EARLY, ev.Usage(input_tokens=70, output_tokens=11, cached_input_tokens=8)]


@pytest.mark.parametrize(
    ("told", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("completed", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("pause_turn", "pause_turn"),
        ("refusal", "refusal"),
    ],
)
def test_the_reason_to_stop_is_told_in_the_words_of_this_wire(told, stop_reason):
    *_, delta, _ = bodies([*START, finish(told), FINISHED])
    assert delta["delta"] == {"stop_reason": stop_reason, "stop_sequence": None}


INTERRUPTED = ev.RunInterrupted(reason="approval", tool_call_id="c")


@pytest.mark.parametrize(
    ("events", "stop_reason"),
    [
        ([*call("c", "{}"), FINISHED], "tool_use"),
        ([*call("c", "{}"), result("c", ""), FINISHED], "end_turn"),
        ([*call("c", "{}"), finish("stop"), FINISHED], "end_turn"),
        ([*call("c", "{}"), finish("stop"), INTERRUPTED], "tool_use"),
        ([*call("c", "{}")[:-1], INTERRUPTED], "tool_use"),
        ([*message("Where?"), ev.RunInterrupted()], "end_turn"),
        ([*message("And"), ev.RunCancelled()], "pause_turn"),
        ([finish("tool_calls"), ev.GenerationStarted(response_id="g2"), FINISHED], "end_turn"),
    ],
)
def test_a_message_stops_for_a_tool_while_a_call_waits(events, stop_reason):
    *_, delta, stop = bodies([*START, *events])
    assert (delta["delta"]["stop_reason"], stop["type"]) == (stop_reason, "message_stop")


def test_calls_without_arguments_are_closed_last():
    """As they are where each says that it is ready: the same run makes the same frames."""
    calls = [ev.ToolCallStarted(tool_call_id=one, name="search") for one in ("a", "b")]
    argued = ev.ToolCallArgumentsDelta(tool_call_id="b", delta="{}")
    ready = [ev.ToolCallReady(tool_call_id=one) for one in ("a", "b")]
    end = ev.RunCancelled()
    told = bodies([*calls, argued, end])
    closed = [one["index"] for one in told if one["type"] == "content_block_stop"]
    assert closed == [1, 0]
    assert bodies([*calls, argued, *ready, end]) == told


def test_nothing_is_written_after_the_end():
    body = written(ANTHROPIC, [*START, FINISHED])
    assert written(ANTHROPIC, [*START, FINISHED, *START, *message("Hi"), FINISHED]) == body


def test_a_stream_that_just_stops_tells_what_was_held_back_but_no_end():
    assert shown([*START]) == ["message_start"]
    assert shown([*START, *message("Hi")[:-1], USAGE, finish("stop")])[-1] == "message_delta"
    assert shown([ev.Custom(name="x")]) == []


@pytest.mark.parametrize(
    ("events", "last"),
    [
        ([*message("Hi")[:-1]], ["stop 0"]),
        ([*reasoning("hm")[:-1]], ["stop 0"]),
        ([*message("Hi")[:-1], USAGE], ["stop 0", "message_delta"]),
        ([*call("c", "{")[:-1]], ["stop 0"]),
        ([*call("c"), *message("Hi")[:-1]], ["stop 1", "stop 0"]),
    ],
)
def test_before_an_error_all_is_closed(events, last):
    assert shown([*START, *events, ev.RunFailed()])[-len(last) - 1 :] == [*last, "error"]


# --- blocks --------------------------------------------------------------------------------


def think(text: str, message_id: str | None = None) -> ev.Event:
    return ev.ReasoningDelta(text=text, message_id=message_id)


def say(text: str, message_id: str | None = None) -> ev.Event:
    return ev.TextDelta(text=text, message_id=message_id)


@pytest.mark.parametrize(
    ("events", "blocks"),
    [
        ([think("a"), say("b"), say("c")], ["thinking a", "text bc"]),
        ([say("a"), think("b"), say("c")], ["text a", "thinking b", "text c"]),
        ([say("a", "m"), say("b", "n"), say("c", "m")], ["text a", "text b", "text c"]),
        ([say("a", "m"), say("b"), say("c", "m")], ["text abc"]),
        ([*message("a"), *message("b")], ["text a", "text b"]),
        ([*reasoning("a"), *reasoning("b")], ["thinking a", "thinking b"]),
        ([*reasoning("a")[:-1], *message("b"), think("c")], ["thinking a", "text b", "thinking c"]),
        ([*reasoning()], ["thinking "]),
        ([*message()], []),
        ([say("a"), *call("c", "{}"), say("b")], ["text a", "tool_use ", "text b"]),
        ([ev.Source(url="u"), say("a")], ["text a"]),
        ([ev.Source()], []),
    ],
)
def test_one_block_of_text_or_reasoning_is_open_at_a_time(events, blocks):
    made: list[str] = []
    growing = None
    for body in bodies([*START, *events, FINISHED]):
        if body["type"] == "content_block_start":
            assert growing is None
            growing = body["index"]
            made.append(body["content_block"]["type"] + " ")
            assert growing == len(made) - 1
        elif body["type"] == "content_block_delta":
            assert growing == body["index"]
            made[-1] += body["delta"].get("text", body["delta"].get("thinking", ""))
        elif body["type"] == "content_block_stop":
            assert growing == body["index"]
            growing = None
    assert made == blocks


@pytest.mark.parametrize(
    ("deltas", "given"),
    [
        (['{"a":', "1}"], {"a": 1}),
        ([' {"a":1}'], {"a": 1}),
        (["print(", '"hi")\n'], {"input": 'print("hi")\n'}),
        (["[1]"], {"input": "[1]"}),
        (["1"], {"input": "1"}),
        (["\ud83d", "\ude00"], {"input": "😀"}),
        (['{"a":"\ud83d', '\ude00"}'], {"a": "😀"}),
        (['{"a":"\ud83d', '"}'], {"a": "\ufffd"}),
        ([" ", '{"a":1}'], {"a": 1}),
        ([" ", "x"], {"input": " x"}),
        ([" "], {}),
        (["{}", '{"b":1}'], {}),
        (['{"a":1}', "\n"], {"a": 1}),
        ([], {}),
    ],
)
def test_arguments_are_an_object_whatever_they_were(deltas, given):
    pieces = [
        body["delta"]["partial_json"]
        for body in bodies([*START, *call("c", *deltas), FINISHED])
        if body["type"] == "content_block_delta"
    ]
    assert (json.loads("".join(pieces)) if pieces else {}) == given


@pytest.mark.parametrize(
    "late",
    [
        ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{}"),
        ev.ToolCallReady(tool_call_id="c", arguments="{}"),
        ev.ToolCallArgumentsDelta(tool_call_id="unknown", delta="{}"),
        ev.ToolCallReady(tool_call_id="unknown"),
    ],
)
def test_what_comes_for_a_call_that_is_not_open_is_not_written(late):
    events = [*START, *call("c", "{}")]
    assert bodies([*events, late]) == bodies(events)


def test_of_too_many_calls_the_oldest_is_forgotten(monkeypatch):
    monkeypatch.setattr(encoding, "MAX_CALLS", 2)
    started = [ev.ToolCallStarted(tool_call_id=f"c{n}", name="f") for n in range(3)]
    ready = [ev.ToolCallReady(tool_call_id=f"c{n}", arguments="{}") for n in range(3)]
    told = [one for one in decoded([*START, *started, *ready]) if type(one) is ev.ToolCallReady]
    assert [one.tool_call_id for one in told] == ["c1", "c2"]


def test_a_repeated_call_gets_the_results_that_come_after_it():
    calls = [*call("c", "{}"), result("c", "1"), *call("c", "{}"), result("c", "2")]
    told = decoded([*START, *calls, *call("", "{}"), result("", "3"), FINISHED])
    results = {one.tool_call_id: one.result for one in told if isinstance(one, ev.ToolCallResult)}
    started = [one.tool_call_id for one in told if isinstance(one, ev.ToolCallStarted)]
    assert list(results) == started == ["c", "c_2", "call_4"]
    assert list(results.values()) == ["1", "2", "3"]


def test_a_call_is_closed_when_its_arguments_are_known():
    started = ev.ToolCallStarted(tool_call_id="c", name="f")
    ready = ev.ToolCallReady(tool_call_id="c")
    known = ev.ToolCallReady(tool_call_id="c", arguments="{}")
    assert shown([*START, *call("c", "{}")])[-1] == "stop 0"
    assert shown([*START, started, ready])[-1] == "start tool_use 0"
    assert shown([*START, started, ready, known])[-2:] == ["delta input_json_delta 0", "stop 0"]
    assert shown([*START, started, ready, result("c", "")])[-3:] == [
        "stop 0", "start mcp_tool_result 1", "stop 1"
    ]  # fmt: skip
    assert shown([*START, started, ready, FINISHED])[-3:] == [
        "stop 0", "message_delta", "message_stop"
    ]  # fmt: skip
