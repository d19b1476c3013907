"""Laws over all dialects that can be written, any run, and all streams that we have.

faithful    what a run says, as far as the wire has words for it, is read in what was written
stable      what was read can be written, and reads the same: decode(encode(e)) == e
orderly     whatever comes, what is written is in order: parts are closed, ends told once
streaming   text is out as soon as its event came
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.recordings import STREAMS, Stream
from support.runs import (
    Run,
    agent_runs,
    any_events,
    facts,
    given_up,
    left_to_the_client,
    open_steps,
    until_the_end,
)
from support.scripted_runs import waiting_by_a_call
from support.strategies import cuts, single_bytes
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.errors import EncodeError
from streamtrace.core.frames import encode_frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects.base import Dialect, Head
from streamtrace.dialects.detect import BUILT_IN, Detector, by_name
from streamtrace.dialects.encode.vercel_ui import CUT_SHORT

NAMES = {dialect.name for dialect in BUILT_IN}
WRITTEN = [dialect for dialect in BUILT_IN if dialect.encodes]
OURS = [stream for stream in STREAMS if stream.dialect in NAMES]
each_written = pytest.mark.parametrize("dialect", WRITTEN, ids=lambda one: one.name)
law = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# --- what each dialect carries ---------------------------------------------------------------

CARRIED_WITH: dict[str, set[type[ev.Event]]] = {
    "text": {ev.TextDelta},
    "reasoning": {ev.ReasoningDelta},
    "calls": {ev.ToolCallStarted},
    "arguments": {ev.ToolCallArgumentsDelta, ev.ToolCallReady},
    "results": {ev.ToolCallResult},
    "steps": {ev.StepStarted},
    "tokens": {ev.Usage},
    "sources": {ev.Source},
    "state": {ev.State},
    "custom": {ev.Custom},
    "error": {ev.RunFailed},
}
"""What a dialect carries if it writes one of these events, unless `NOT_CARRIED` says why not."""

ALSO_CARRIED = {
    "a2a": "run thread error_type",
    "ag-ui": "run thread messages call_ids error_type usage token_parts",
    "agentflow": "errors call_ids error_type token_parts",
    "anthropic": "run call_ids error_type",
    "cognis": "errors call_ids error_type token_parts",
    "generic": "errors run thread call_ids error_type token_parts",
    "openai-chat": "call_ids error_type token_parts",
    "openai-responses": "run thread messages call_ids error_type token_parts",
    "vercel-ui": "run errors call_ids usage token_parts",
}
"""Ids, and what else not every wire that has the event has a word for."""

NOT_CARRIED = {
    ("vercel-ui", "custom"): "clients reject parts that they do not know, but for those of an app",
}
"""(dialect, word) -> why."""

WITH_THE_END = {"tokens", "token_parts", "usage"}
"""What some wires tell at the end only, so that a cut run does not tell it."""


def with_sources_as_custom(run: Run) -> Run:
    return [
        ev.Custom(name="source", value=msgspec.to_builtins(_Told(one.url, one.title)))
        if isinstance(one, ev.Source)
        else one
        for one in run
    ]


class _Told(msgspec.Struct, omit_defaults=True):
    url: str | None = None
    title: str | None = None


SEEN_AS: dict[str, Callable[[Run], Run]] = {
    "ag-ui": with_sources_as_custom,
    "openai-chat": left_to_the_client,
    "openai-responses": waiting_by_a_call,
    "vercel-ui": partial(given_up, why=CUT_SHORT),
}
"""What a dialect shows its clients of a run, where that is not all of it, or not as it was."""

MAY_END_AS: dict[tuple[str, type[ev.Event]], type[ev.Event]] = {
    # A call without a result is the client's, and the run waits for it:
    ("openai-responses", ev.RunFinished): ev.RunInterrupted,
    ("vercel-ui", ev.RunFinished): ev.RunInterrupted,
}
"""(dialect, end) -> what else it may be read as. What a dialect cannot write is RunFinished."""

READ_AS_CUSTOM = {
    "a2a": {"working"},  # the state of a task before anything is said
    # Text of a message that is not the assistant's, and sources:
    "ag-ui": {"TEXT_MESSAGE_CONTENT", "source"},
    **{name: {"source", "custom"} for name in ("agentflow", "cognis", "generic")},
    "openai-responses": {  # that a part begins, which the first of its text tells
        "response.content_part.added",
        "response.reasoning_summary_part.added",
    },
}
"""What a dialect writes and reads as nothing of the vocabulary."""


def carried(dialect: Dialect) -> set[str]:
    words = {word for word, kinds in CARRIED_WITH.items() if kinds & dialect.encodes}
    words |= set(ALSO_CARRIED.get(dialect.name, "").split())
    return words - {word for name, word in NOT_CARRIED if name == dialect.name}


def test_the_tables_name_dialects_that_are_written():
    in_pairs = {name for name, _ in (*NOT_CARRIED, *MAY_END_AS)}
    named = {*ALSO_CARRIED, *SEEN_AS, *READ_AS_CUSTOM, *in_pairs}
    assert named <= {dialect.name for dialect in WRITTEN}


# --- there and back --------------------------------------------------------------------------


def written(dialect: Dialect, events: Iterable[ev.Event]) -> bytes:
    """The bytes of a stream that says this. What cannot be said at all is passed over."""
    encoder = dialect.encoder()
    body = b""
    for event in events:
        try:
            frames = list(encoder.encode(event))
        except EncodeError:
            continue
        body += b"".join(map(encode_frame, frames))
    return body + b"".join(map(encode_frame, encoder.close()))


def read(dialect: Dialect, *chunks: bytes) -> Run:
    frames = frames_of(*chunks)
    assert all(frame.complete and frame.stray is None for frame in frames)
    return events_of(dialect, frames)


def check_faithful(dialect: Dialect, run: Run, again: Run, words: set[str]) -> None:
    """The facts of the run under these words are those of what was read, and so is its end."""
    run = until_the_end(run)
    expected, found = facts(run), facts(again)
    if dialect.name in SEEN_AS:
        tokens = {word: expected[word] for word in WITH_THE_END}
        expected = facts(SEEN_AS[dialect.name](run)) | tokens
    end = expected["end"]
    is_cut = end is None
    for word in sorted(words - (WITH_THE_END if is_cut else set())):
        if word == "messages":  # ids that only deltas bear may be shared, so their messages not
            assert expected[word].items() <= found[word].items()
        elif word in expected:
            assert found.get(word) == expected[word], word
    own = end if is_cut or end in dialect.encodes else ev.RunFinished
    assert found["end"] in (own, MAY_END_AS.get((dialect.name, end), own))


@each_written
@law
@given(run=agent_runs())
def test_what_a_run_says_is_read_in_what_was_written(dialect, run):
    check_faithful(dialect, run, read(dialect, written(dialect, run)), carried(dialect))


@settings(law, max_examples=200)
@given(run=agent_runs())
def test_the_runs_of_these_tests_are_such_as_a_strict_machine_takes(run):
    machine = RunMachine(strict=True)
    for event in run:
        machine.feed(event, 0)


@each_written
@law
@given(run=agent_runs())
def test_what_was_read_can_be_written_and_reads_the_same(dialect, run):
    once = read(dialect, written(dialect, run))
    assert read(dialect, written(dialect, once)) == once


@each_written
@law
@given(run=agent_runs(), data=st.data())
def test_how_it_is_cut_changes_nothing(dialect, run, data):
    body = written(dialect, run)
    whole = read(dialect, body)
    assert read(dialect, *data.draw(cuts(body))) == whole
    assert read(dialect, *single_bytes(body)) == whole


@each_written
@law
@given(run=agent_runs())
def test_text_is_out_as_soon_as_its_event_came(dialect, run):
    encoder, decoder = dialect.encoder(), dialect.open(Head())
    given: Run = []
    out: Run = []
    for event in until_the_end(run):
        given.append(event)
        for frame in frames_of(b"".join(map(encode_frame, encoder.encode(event)))):
            out += decoder.decode(frame)
        for kind in {ev.TextDelta, ev.ReasoningDelta} & dialect.encodes:
            assert spoken(kind, out) == spoken(kind, given)


def spoken(kind: type[Any], events: Run) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


# --- whatever comes --------------------------------------------------------------------------


@each_written
@settings(law, max_examples=200)
@given(events=any_events)
def test_whatever_comes_what_is_written_is_in_order(dialect, events):
    encoder = dialect.encoder()
    for event in events:
        try:
            frames = list(encoder.encode(event))
        except EncodeError:
            continue
        assert frames_of(b"".join(map(encode_frame, frames))) == frames
    out = read(dialect, written(dialect, events))
    machine = RunMachine()
    for event in out:
        machine.feed(event, 0)
    assert machine.issues.keys() <= {"tool_call_unknown"}  # the result of an earlier run's call
    named = {event.name for event in events if isinstance(event, ev.Custom)}
    named |= READ_AS_CUSTOM.get(dialect.name, set())
    assert {event.name for event in out if isinstance(event, ev.Custom)} <= named
    runs = ends = 0
    for at, event in enumerate(out):
        runs += isinstance(event, ev.RunStarted)
        if isinstance(event, ev.TERMINAL):
            ends += 1
            assert left_open(out[:at], ENDED_BY_AN_ERROR.get(dialect.name)) == []
    assert ends <= max(runs, 1)


PAIRS: list[tuple[type[Any], tuple[type[Any], ...], str]] = [
    (ev.MessageStarted, (ev.MessageFinished,), "message_id"),
    (ev.ReasoningStarted, (ev.ReasoningFinished,), "message_id"),
    (ev.ToolCallStarted, (ev.ToolCallReady, ev.ToolCallResult), "tool_call_id"),
]


ENDED_BY_AN_ERROR: dict[str, type[ev.Event]] = {"anthropic": ev.MessageStarted}
"""What an error ends without a word."""


def left_open(events: Run, excused: type[ev.Event] | None) -> list[Any]:
    """What was started and not finished."""
    found: list[Any] = list(open_steps(events))
    for start, ends, key in [pair for pair in PAIRS if pair[0] is not excused]:
        open_ids = []
        for event in events:
            if isinstance(event, start):
                open_ids.append(getattr(event, key))
            elif isinstance(event, ends) and getattr(event, key) in open_ids:
                open_ids.remove(getattr(event, key))
        found += open_ids
    return found


# --- real streams ----------------------------------------------------------------------------

TEXT_IS_OPEN = "the text is open when the run ends; the encoder closes it first"
NOT_IN_AI_6 = "has parts that only `ai` 7 reads"
WHICH_CALL = "which call waits is not written"
NOT_AS_IT_WAS = {
    "a2a10_adk_input_required": WHICH_CALL,
    "a2a10_adk_v2_input_required": WHICH_CALL,
    "a2a10_jsonrpc_message": "what we write is always a task",
    "agui10_runerror": "it failed with parts open, which an encoder closes",
    "ai7_abort": TEXT_IS_OPEN,
    "ai7_auto_approval": NOT_IN_AI_6,
    "ai7_preliminary": "the encoder is given results, not the progress towards them",
    "ai7_stream_error": TEXT_IS_OPEN,
    "openai-chat__pydantic-ai__openrouter_stream_error": "it has a finish reason beside its error",
    "openai-chat__pydantic-ai__snowflake_thinking_streaming": "its chunks have no id",
    "anthropic__ai__spliced_message_start": "it began again, which is a second message",
    "openai-responses__ai__parallel_tool_call_wrapper.1": "it has no beginning",
    "openai-responses__ai__xai_x_search_tool": "it has calls that nobody answers",
    "openai_responses_err.synthetic": "it failed with a message open, which an encoder closes",
    "openai_responses_err2.synthetic": "it failed with a message open, which an encoder closes",
    "openai_responses_failed.synthetic": "it failed with a message open, which an encoder closes",
    "openai_responses_ok.synthetic": "it ends with a message open",
    "sample-openai-responses-conversation": "it ends with a message open",
    "sample-vercel-ui-broken": TEXT_IS_OPEN,
    "sample-vercel-ui-retried": NOT_IN_AI_6,
    "vercel-ui__ai__langgraph_hitl_request_1": "asks about a call that is not ready",
    "vercel_ui_abort.synthetic": TEXT_IS_OPEN,
    "vercel_ui_error.synthetic": TEXT_IS_OPEN,
}
"""Streams whose events are not what an encoder would be given, with the reason."""

ROUND_TRIPS = {
    stream.name: (dialect, stream)
    for dialect in WRITTEN
    for stream in OURS
    if stream.dialect == dialect.name
}


def there_and_back(dialect: Dialect, stream: Stream) -> tuple[Run, Run]:
    events = [event for event in said(stream) if type(event) in dialect.encodes]
    again = read(dialect, written(dialect, events))
    return joined(event for event in again if type(event) in dialect.encodes), joined(events)


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [trip for name, trip in ROUND_TRIPS.items() if name not in NOT_AS_IT_WAS],
    ids=lambda one: one.name,
)
def test_what_a_stream_says_can_be_written_and_read_again(dialect, stream):
    again, events = there_and_back(dialect, stream)
    assert again == events


@pytest.mark.parametrize("name", NOT_AS_IT_WAS)
def test_the_streams_excused_from_that_still_need_the_excuse(name):
    again, events = there_and_back(*ROUND_TRIPS[name])
    assert again != events


def joined(events: Iterable[ev.Event]) -> Run:
    """Deltas of one thing that follow each other, as one."""
    run: Run = []
    for event in events:
        field = next((name for name in ("text", "delta") if hasattr(event, name)), None)
        last = run[-1] if field is not None and run and type(run[-1]) is type(event) else None
        if last is not None and replace(last, **{field: ""}) == replace(event, **{field: ""}):
            run[-1] = replace(last, **{field: getattr(last, field) + getattr(event, field)})
        else:
            run.append(event)
    return run


def said(stream: Stream) -> Run:
    return events_of(by_name(stream.dialect), stream.frames(), stream.head)


OF_ANY = {"text", "reasoning", "calls", "call_ids", "results", "errors", "tokens"}
"""What of any stream is kept. Some write arguments as other text for the same JSON, and some
vocabularies tell them once the call is ready.
"""


@each_written
@pytest.mark.parametrize("stream", OURS, ids=str)
def test_what_any_stream_says_can_be_written_in_any_dialect(dialect, stream):
    events = said(stream)
    body = written(dialect, events)
    again = read(dialect, body)
    check_faithful(dialect, events, again, carried(dialect) & OF_ANY)
    if again and isinstance(again[-1], ev.TERMINAL):
        detector = Detector(Head())
        found = next(filter(None, map(detector.offer, frames_of(body))), None)
        assert (found or detector.settle()).name == dialect.name
