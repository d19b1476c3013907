"""OpenAI Responses, written: what OpenAI's own clients make of it, and our decoder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from support.clients import run_client
from support.live import live, speaking
from support.openai_oracle import client as official_client
from support.openai_oracle import responses_usage
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
from streamtrace.core.frames import MAX_FRAME_BYTES, Frame
from streamtrace.core.jsonio import clean_text
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode import openai_responses
from streamtrace.dialects.openai_responses import OpenAIResponses

RESPONSES = OpenAIResponses()
SMALL_RUNS = sorted(RUNS.keys() - {"huge"})

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def frames(events) -> list[Frame]:
    return frames_of(written(RESPONSES, events))


def decoded(events) -> list[ev.Event]:
    return [one for one in events_of(RESPONSES, frames(events)) if not isinstance(one, ev.Custom)]


def last_response(events) -> dict[str, Any]:
    return frames(events)[-1].json()["response"]


# --- official clients ----------------------------------------------------------------------


@dataclass
class Read:
    """What a client holds of one run when it has read it."""

    status: str | None = None
    said: Said = field(default_factory=Said)
    usage: dict[str, int | None] | None = None
    error: tuple[str | None, str] | None = None


def read_of(response: dict[str, Any] | None, error: tuple[str | None, str] | None = None) -> Read:
    if response is None:
        return Read(error=error)
    facts = Said()
    for item in response["output"]:
        match item["type"]:
            case "message":
                for part in item["content"]:
                    facts.text += part["text"]
                    for note in part["annotations"]:
                        facts.sources.append((note["url"] or None, note["title"] or None))
            case "reasoning":
                facts.reasoning += "".join(part["text"] for part in item["summary"])
            case "function_call":
                facts.calls[item["call_id"]] = (item["name"], item["arguments"])
            case "function_call_output":
                facts.results[item["call_id"]] = (item["output"], item["status"] != "completed")
    usage = response.get("usage") and responses_usage(response["usage"])
    return Read(response["status"], facts, usage, error)


COUNTED = {
    "input_tokens": 30,
    "output_tokens": 12,
    "cached_input_tokens": 8,
    "cache_write_tokens": 2,
    "reasoning_tokens": 5,
}
OUTCOMES: dict[str, Read] = {
    "answer": Read("completed", usage=COUNTED),
    "tools": Read(
        "completed",
        usage={**dict.fromkeys(COUNTED), "input_tokens": 30, "output_tokens": 7},
    ),
    "whole arguments": Read("completed"),
    "deltas only": Read("completed"),
    "interrupted": Read("completed", usage=COUNTED),
    "asking": Read("completed"),
    "too long": Read("incomplete", usage=COUNTED),
    "failed": Read(error=("overloaded_error", "try later")),
    "failed late": Read("failed", usage=COUNTED, error=("rate_limit", "slow down")),
    "failed at once": Read(error=("invalid_request_error", "no such model")),
    "cancelled": Read("cancelled"),
}


def expected(run: str) -> Read:
    """What the events of a run said; one that ends in an error has no last response."""
    outcome = OUTCOMES[run]
    facts = said(RUNS[run]) if outcome.status else Said()
    if run == "asking":
        facts.calls["interrupt"] = ("input_required", "{}")
    return replace(outcome, said=facts)


async def read_in_python(url: str, run: str) -> tuple[Read, Read]:
    """The end of the accumulated stream, and of the plain one."""
    async with openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0) as made:
        reads = []
        for open_stream in (
            made.responses.stream(model=run, input="hi"),
            made.responses.create(model=run, input="hi", stream=True),
        ):
            last, error = None, None
            try:
                manager = open_stream if hasattr(open_stream, "__aenter__") else await open_stream
                async with manager as stream:
                    async for event in stream:
                        if event.type.split(".")[-1] in ("completed", "incomplete", "failed"):
                            last = event.response.to_dict(mode="json", warnings=False)
            except openai.APIError as raised:
                error = (raised.code, raised.message)
            reads.append(read_of(last, error))
        return reads[0], reads[1]


@pytest.mark.parametrize("run", SMALL_RUNS)
async def test_the_client_for_python_accumulates_what_the_events_said(run):
    async with live(speaking(RESPONSES, lambda asked: RUNS[asked["model"]])) as url:
        accumulated, plain = await read_in_python(url, run)
    assert accumulated == expected(run)
    assert plain == expected(run)


async def test_the_client_for_javascript_accumulates_what_the_events_said():
    async with live(speaking(RESPONSES, lambda asked: RUNS[asked["model"]])) as url:
        plain = [f"plain:{run}" for run in SMALL_RUNS]
        made = await run_client("openai_responses.mjs", url, *SMALL_RUNS, *plain)
    for run in SMALL_RUNS:
        error = made[run]["error"]
        read = read_of(made[run]["response"], error and (error["code"], error["message"]))
        wanted = expected(run)
        if wanted.error is not None:  # its accumulator raises, and keeps nothing
            wanted = Read(error=wanted.error)
            assert made[f"plain:{run}"][-1] == "raised APIError"
        assert read == wanted, run
        if wanted.error is None:
            assert made[run]["text"] == wanted.said.text
            assert made[f"plain:{run}"] == made[run]["types"]
            deltas = {text for _, text in said(RUNS[run]).calls.values()}
            assert set(made[run]["arguments"].values()) <= deltas


async def test_both_clients_hold_all_of_a_text_that_is_larger_than_the_wire_repeats():
    events = RUNS["huge"]
    async with live(speaking(RESPONSES, events)) as url:
        javascript = (await run_client("openai_responses.mjs", url, "any"))["any"]["response"]
        async with (
            openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as made,
            made.responses.stream(model="any", input="hi") as stream,
        ):
            python = (await stream.get_final_response()).to_dict(mode="json", warnings=False)
    wanted = said(events)
    for response in (python, javascript):
        read = read_of(response)
        assert (read.status, read.said.text) == ("completed", wanted.text)
        assert (read.said.reasoning, read.said.results) == (wanted.reasoning, wanted.results)
        (cut,) = [item for item in response["output"] if item["type"] == "function_call"]
        assert cut["status"] == "incomplete"
        assert wanted.calls["call_1"][1].startswith(cut["arguments"])


def reads_without_complaint(body: bytes) -> str:
    """The text of the deltas, as the accumulating client reads them."""
    text = ""
    with (
        official_client(body) as made,
        suppress(openai.APIError),  # which an error event raises, and nothing that is ill-formed
        made.responses.stream(model="any", input="hi") as stream,
    ):
        for event in stream:
            if event.type == "response.output_text.delta":
                text += event.delta
    return text


@settings(slow, max_examples=60)
@given(events=any_events)
def test_no_events_make_what_the_client_for_python_refuses(events):
    body = written(RESPONSES, events)
    again = events_of(RESPONSES, frames_of(body))
    assert clean_text(reads_without_complaint(body)) == clean_text(text_of(again))
    ends = [at for at, one in enumerate(events) if isinstance(one, ev.TERMINAL)]
    assert clean_text(text_of(again)) == clean_text(text_of(events[: ends[0]] if ends else events))
    assert sum(isinstance(one, ev.TERMINAL) for one in again) == bool(ends)


async def test_no_events_make_what_the_client_for_javascript_refuses():
    runs = some(any_events, 80)
    made = await read_in_javascript(runs)
    for number, events in enumerate(runs):
        error = made[str(number)]["error"]
        if error is not None:
            failed = any(isinstance(one, ev.RunFailed) for one in events)
            is_empty = not frames(events) or error["message"].startswith("request ended without")
            assert failed or is_empty, (error, events)


async def test_what_any_dialect_tells_can_be_told_to_the_client_for_javascript():
    runs = [told_by(stream) for stream in richest_streams()]
    made = await read_in_javascript(runs)
    for number, events in enumerate(runs):
        read = made[str(number)]
        ends = [one for one in events if isinstance(one, ev.TERMINAL)]
        assert (read["error"] is None) == (not ends or not isinstance(ends[0], ev.RunFailed))


async def read_in_javascript(runs: list[list[ev.Event]]) -> Any:
    async with live(speaking(RESPONSES, lambda asked: runs[int(asked["model"])])) as url:
        return await run_client("openai_responses.mjs", url, *map(str, range(len(runs))))


# --- the types of the client ---------------------------------------------------------------

_event = TypeAdapter(ResponseStreamEvent)
_UNTYPED = ("keepalive", "error")  # the client for JavaScript knows the one; both raise the other


@pytest.mark.parametrize("run", ["answer", "whole arguments", "interrupted", "too long"])
def test_frames_have_the_types_that_the_client_names(run):
    for number, frame in enumerate(frames(RUNS[run])):
        body = frame.json()
        assert (body["type"], body["sequence_number"]) == (frame.event, number)
        if frame.event not in _UNTYPED:
            assert _event.validate_python(body).type == frame.event


# --- read again ----------------------------------------------------------------------------

_text = st.text(min_size=1, max_size=8)
_texts = st.lists(_text, min_size=1, max_size=3)


@st.composite
def own_runs(draw: st.DrawFn) -> list[ev.Event]:
    """Well-formed runs, of what this wire can say and in its words."""
    events: list[ev.Event] = [
        ev.RunStarted(run_id="r", thread_id=draw(st.none() | st.just("t"))),
        ev.GenerationStarted(response_id="r", model=draw(_text)),
    ]
    waiting = []
    kinds = st.sampled_from(("message", "reasoning", "call", "server call", "ping", "hop"))
    for number, kind in enumerate(draw(st.lists(kinds, max_size=6))):
        one = f"id_{number}"
        match kind:
            case "message":
                *most, end = message(*draw(_texts), message_id=one)
                sources = [ev.Source(url="u", title=title) for title in draw(_texts)]
                events += [*most, *draw(st.sampled_from(((), sources))), end]
            case "reasoning":
                events += reasoning(*draw(st.just([]) | _texts), message_id=one)
            case "call" | "server call":
                deltas = draw(st.just([]) | _texts)
                whole = "".join(deltas) or draw(st.none() | st.just("{}"))
                *most, _ = call(one, *deltas)
                events += [*most, ev.ToolCallReady(tool_call_id=one, arguments=whole)]
                if kind == "server call":
                    events.append(
                        result(one, draw(st.none() | _text), is_error=draw(st.booleans()))
                    )
                else:
                    waiting.append(one)
            case "ping":
                events.append(ev.Heartbeat())
            case "hop":
                events.append(ev.GenerationStarted(response_id="r", model=f"model-{number}"))
    usage = draw(st.sampled_from(((), (USAGE,), (ev.Usage(output_tokens=0),))))
    ended = ev.RunFinished(run_id="r")
    if waiting:
        ended = ev.RunInterrupted(reason="function_call", tool_call_id=waiting[0])
    failed = ev.RunFailed(type=draw(st.none() | _text), message=draw(st.none() | _text))
    ends = [
        (*usage, finish("completed"), ended),
        (*usage, finish("max_output_tokens"), ev.RunFinished(run_id="r")),
        (*usage, finish("incomplete"), ev.RunFinished(run_id="r")),
        (*usage, finish("failed"), failed),
        (*usage, finish("cancelled"), ev.RunCancelled()),
        (*usage, finish("why"), ev.RunCancelled(reason="why")),
        (failed,),
        (),
    ]
    return [*events, *draw(st.sampled_from(ends))]


@settings(slow, max_examples=150)
@given(events=own_runs())
def test_a_run_in_the_words_of_this_wire_is_read_as_it_was_told(events):
    assert decoded(events) == events


def kinds(events) -> list[str]:
    """The types of the frames, without their common beginning."""
    return [(frame.event or "").removeprefix("response.") for frame in frames(events)]


def test_a_whole_run_becomes_these_frames():
    events = [*START, *message("Hi"), *call("c", "{}"), result("c", "42"), FINISHED]
    assert kinds(events) == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "output_item.added", "output_item.done",
        "completed",
    ]  # fmt: skip


def test_the_response_waits_for_the_name_of_the_model():
    encoder = RESPONSES.encoder(Envelope(run_id="e", model="n", created_s=7))
    assert encoder.encode(ev.RunStarted(thread_id="t")) == []
    (ping,) = encoder.encode(ev.Heartbeat())
    assert ping.data is None
    created, _ = encoder.encode(ev.GenerationStarted(model="m"))
    response = created.json()["response"]
    assert (response["id"], response["model"]) == ("e", "m")
    assert (response["created_at"], response["conversation"]) == (7, {"id": "t"})


def test_what_nobody_said_comes_from_the_envelope_or_is_absent():
    encoder = RESPONSES.encoder(Envelope(run_id="e", model="n"))
    created, *_ = encoder.encode(ev.TextDelta(text="Hi"))
    response = created.json()["response"]
    assert (response["id"], response["model"]) == ("e", "n")
    assert (response["conversation"], response["usage"]) == (None, None)


def test_counts_that_nobody_told_are_null():
    usage = last_response([*START, ev.Usage(output_tokens=3), FINISHED])["usage"]
    assert usage == {
        "input_tokens": None,
        "input_tokens_details": {"cached_tokens": None, "cache_write_tokens": None},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": None},
        "total_tokens": None,
    }


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        ("stop", "completed", None),
        ("end_turn", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("max_tokens", "incomplete", "max_output_tokens"),
        ("refusal", "incomplete", "content_filter"),
        ("steered", "incomplete", "steered"),
        ("incomplete", "incomplete", None),
    ],
)
def test_the_reason_to_finish_is_told_in_the_words_of_this_wire(told, status, reason):
    response = last_response([*START, finish(told), FINISHED])
    assert response["status"] == status
    assert (response["incomplete_details"] or {}).get("reason") == reason


def test_nothing_is_written_after_the_end():
    body = written(RESPONSES, [*START, FINISHED])
    assert written(RESPONSES, [*START, FINISHED, *START, *message("Hi"), FINISHED]) == body


def test_a_stream_that_just_stops_is_left_without_an_end():
    assert kinds([*START, *message("Hi")[:-1]])[-1] == "output_text.delta"


@pytest.mark.parametrize(
    ("events", "last"),
    [
        ([*message("Hi")[:-1]], ["output_text.done", "content_part.done", "output_item.done"]),
        ([*reasoning()[:-1]], ["output_item.done"]),
        ([*call("c", "{")[:-1]], ["function_call_arguments.delta", "output_item.done"]),
        ([ev.ToolCallStarted(tool_call_id="c", name="f")], ["output_item.done"]),
    ],
)
def test_before_an_error_all_is_closed(events, last):
    assert kinds([*START, *events, ev.RunFailed()])[-len(last) - 1 :] == [*last, "error"]


def test_what_was_cut_is_incomplete():
    cut = [*message("Ha")[:-1], *call("c", "{")[:-1], USAGE, ev.RunFailed(message="no")]
    *_, failed, _ = frames([*START, *cut])
    items = failed.json()["response"]["output"]
    assert [(item["type"], item["status"]) for item in items] == [
        ("message", "incomplete"),
        ("function_call", "incomplete"),
    ]
    assert items[1]["arguments"] == "{"


def items(events) -> list[dict[str, Any]]:
    return last_response([*START, *events, FINISHED])["output"]


def text(item: dict[str, Any]) -> str:
    return "".join(part["text"] for part in item.get("content", item.get("summary")))


def think(text: str, message_id: str | None = None) -> ev.Event:
    return ev.ReasoningDelta(text=text, message_id=message_id)


def say(text: str, message_id: str | None = None) -> ev.Event:
    return ev.TextDelta(text=text, message_id=message_id)


@pytest.mark.parametrize(
    ("events", "texts"),
    [
        ([think("a"), say("b"), say("c")], ["reasoning a", "message bc"]),
        ([say("a"), think("b"), say("c")], ["message a", "reasoning b", "message c"]),
        ([say("a", "m"), say("b", "n"), say("c", "m")], ["message ac", "message b"]),
        ([*message("a"), say("b", "msg_1")], ["message a", "message b"]),
        ([ev.MessageStarted(message_id="m"), say("a"), say("b", "m")], ["message ab"]),
        ([*reasoning("a")[:-1], *message("b"), think("c")], ["reasoning ac", "message b"]),
        ([*message("a"), *message("b")], ["message a", "message b"]),
        ([ev.MessageStarted(message_id="m", role="user")], []),
        ([*message()], ["message "]),
        ([*reasoning("a", message_id="x"), *message("b", message_id="x")],
         ["reasoning a", "message b"]),
    ],
)  # fmt: skip
def test_texts_are_items_by_their_ids_and_by_what_comes_between(events, texts):
    assert [f"{item['type']} {text(item)}" for item in items(events)] == texts


@pytest.mark.parametrize(
    "events",
    [
        [*message("a"), *message("b")],
        [*reasoning("a", message_id="x"), *message("b", message_id="x")],
        [*call("c", "{}"), *call("c", "{}")],
        [result("c", "1"), result("c", "2")],
        [say("a", "msg_run_1_1"), say("b", "")],
        [*call("", "{}"), *call("", "{}")],
    ],
)
def test_no_two_items_share_an_id(events):
    made = items(events)
    assert all(item["id"] for item in made)
    assert len({item["id"] for item in made}) == len(made)
    calls = [item["call_id"] for item in made if item["type"] == "function_call"]
    assert len(set(calls)) == len(calls)


def test_a_repeated_call_gets_the_results_that_come_after_it():
    events = [*START, *call("c", "{}"), result("c", "1"), *call("c", "{}"), result("c", "2")]
    told = decoded([*events, FINISHED])
    first, second = (one.tool_call_id for one in told if isinstance(one, ev.ToolCallStarted))
    results = {one.tool_call_id: one.result for one in told if isinstance(one, ev.ToolCallResult)}
    assert results == {first: "1", second: "2"}
    assert isinstance(told[-1], ev.RunFinished)


def test_a_call_is_done_when_its_arguments_are_known():
    ready = ev.ToolCallReady(tool_call_id="c")
    known = ev.ToolCallReady(tool_call_id="c", arguments="{}")
    started = ev.ToolCallStarted(tool_call_id="c", name="f")
    arguments = "function_call_arguments.done"
    assert kinds([*START, *call("c", "{}")])[-2:] == [arguments, "output_item.done"]
    assert kinds([*START, started, ready])[-1] == arguments
    assert kinds([*START, started, ready, known])[-2:] == [arguments, "output_item.done"]
    assert kinds([*START, started, ready, result("c", "")])[-3:] == [
        "output_item.done", "output_item.added", "output_item.done"
    ]  # fmt: skip


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
    assert items([*call("c", "{}"), late]) == items([*call("c", "{}")])


INTERRUPTED = ev.RunInterrupted(reason="approval", tool_call_id="c")


@pytest.mark.parametrize(
    ("before", "interrupt", "waiting"),
    [
        (call("c", "{}"), INTERRUPTED, ("c", "find")),
        (call("c", "{}"), ev.RunInterrupted(), ("c", "find")),
        (call("c", "{}")[:-1], INTERRUPTED, ("c", "find")),
        ([], INTERRUPTED, ("c", "approval")),
        ([], ev.RunInterrupted(), ("interrupt", "input_required")),
        ([*call("c", "{}"), result("c", "")], INTERRUPTED, ("interrupt", "approval")),
        ([*call("b", "{}"), result("b", "")], INTERRUPTED, ("c", "approval")),
    ],
)
def test_an_interrupt_is_an_unanswered_call(before, interrupt, waiting):
    events = [*START, *before, interrupt]
    end = decoded(events)[-1]
    assert end == ev.RunInterrupted(reason="function_call", tool_call_id=waiting[0])
    names = {
        one.tool_call_id: one.name for one in decoded(events) if isinstance(one, ev.ToolCallStarted)
    }
    assert (end.tool_call_id, names[end.tool_call_id]) == waiting


def test_a_source_stands_where_it_was_told_in_the_last_message():
    (item,) = items([*message("Hello")[:-1], ev.Source(title="T"), say("!"), ev.Source(url="u")])
    assert item["content"][0]["annotations"] == [
        {"type": "url_citation", "url": "", "title": "T", "start_index": 5, "end_index": 5},
        {"type": "url_citation", "url": "u", "title": "", "start_index": 6, "end_index": 6},
    ]
    assert items([ev.Source()]) == []


# --- bounds --------------------------------------------------------------------------------


def test_no_frame_that_repeats_is_larger_than_our_own_parser_takes():
    made = frames(RUNS["huge"])
    repeating = [one for one in made if one.event and one.event.endswith((".done", "completed"))]
    outputs = [one for one in repeating if b'"function_call_output"' in (one.data or b"")]
    assert all(len(one.data or b"") < MAX_FRAME_BYTES for one in repeating if one not in outputs)
    assert text_of(events_of(RESPONSES, made)) == text_of(RUNS["huge"])
    assert isinstance(events_of(RESPONSES, made)[-1], ev.RunFinished)


@pytest.mark.parametrize(
    ("event", "most"),
    [
        (lambda n: ev.MessageStarted(message_id=f"m{n}"), openai_responses.MAX_OPEN_ITEMS),
        (lambda n: say("x", f"m{n}"), openai_responses.MAX_OPEN_ITEMS),
        (lambda n: ev.ToolCallStarted(tool_call_id=f"c{n}"), openai_responses.MAX_OPEN_ITEMS),
    ],
)
def test_of_too_many_open_items_the_oldest_is_done(event, most):
    told = [*START, *(event(number) for number in range(most + 3))]
    assert kinds(told).count("output_item.done") == 3


def test_ids_stay_unique_when_no_more_are_kept(monkeypatch):
    monkeypatch.setattr(openai_responses, "MAX_IDS", 4)
    events = [one for n in range(9) for one in (*call(f"c{n}", "{}"), result(f"c{n}", str(n)))]
    made = items(events)
    assert len({item["id"] for item in made}) == len(made) == 18
    for asked, answer in zip(made[::2], made[1::2], strict=True):
        assert asked["call_id"] == answer["call_id"]


def test_a_long_run_does_not_fill_memory(monkeypatch):
    monkeypatch.setattr(openai_responses, "MAX_IDS", 50)
    monkeypatch.setattr(openai_responses, "MAX_REPEATED_BYTES", 5_000)
    encoder = RESPONSES.encoder()
    sizes = []
    for _ in range(3):
        for number in range(200):
            told = [*message("Hi", message_id=f"m{len(sizes)}-{number}"), *call(f"c{number}", "{}")]
            for event in (*told, result(f"c{number}", "42")):
                encoder.encode(event)
        sizes.append(held_by(encoder))
    assert sizes[0] == sizes[1] == sizes[2]


def held_by(encoder: Any) -> int:
    """How many things an encoder holds, all collections counted."""
    return sum(len(held) for held in vars(encoder).values() if hasattr(held, "__len__"))
