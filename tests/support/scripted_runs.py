"""Runs to be written: by hand for clients, and drawn at random, well-formed or not.

`said` folds events into what a client should hold when it has read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from streamtrace.core import events as ev
from streamtrace.core.events import Event
from streamtrace.core.frames import encode_frame
from streamtrace.dialects.base import Dialect, Envelope


def written(
    dialect: Dialect,
    events: Iterable[Event],
    envelope: Envelope = Envelope(),  # noqa: B008
) -> bytes:
    """The body of a stream that tells the events."""
    encoder = dialect.encoder(envelope)
    frames = [frame for event in events for frame in encoder.encode(event)]
    return b"".join(map(encode_frame, [*frames, *encoder.close()]))


@dataclass
class Said:
    """What one run said, whatever the wire. Calls are names and arguments, in their order."""

    text: str = ""
    reasoning: str = ""
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    results: dict[str, tuple[str, bool]] = field(default_factory=dict)
    sources: list[tuple[str | None, str | None]] = field(default_factory=list)


def said(events: Iterable[Event]) -> Said:
    facts = Said()
    for event in events:
        match event:
            case ev.TextDelta():
                facts.text += event.text
            case ev.ReasoningDelta():
                facts.reasoning += event.text
            case ev.ToolCallStarted(tool_call_id=call_id):
                facts.calls[call_id] = (event.name or "", "")
            case ev.ToolCallArgumentsDelta(tool_call_id=call_id):
                name, arguments = facts.calls[call_id]
                facts.calls[call_id] = (name, arguments + event.delta)
            case ev.ToolCallReady(tool_call_id=call_id):
                name, arguments = facts.calls[call_id]
                facts.calls[call_id] = (name, arguments or event.arguments or "")
            case ev.ToolCallResult(tool_call_id=call_id):
                facts.results[call_id] = (event.result or "", event.is_error)
            case ev.Source():
                facts.sources.append((event.url, event.title))
    return facts


def waiting_by_its_calls(run: list[Event]) -> list[Event]:
    """As OpenAI Responses tells it: a run waits if a call is unanswered, and by no other sign."""
    *told, end = run or [None]
    marks = [
        one
        for one in told
        if isinstance(one, ev.GenerationFinished)
        or (isinstance(one, ev.GenerationStarted) and one.response_id)
    ]
    stopped_short = marks[-1:] == [finish("length")] and isinstance(end, ev.RunFinished)
    if stopped_short or not isinstance(end, ev.RunFinished | ev.RunInterrupted):
        return run
    answered = {one.tool_call_id for one in told if isinstance(one, ev.ToolCallResult)}
    calls = [one.tool_call_id for one in told if isinstance(one, ev.ToolCallStarted)]
    waiting = [call_id for call_id in calls if call_id not in answered]
    asked = getattr(end, "tool_call_id", None)
    if isinstance(end, ev.RunInterrupted) and (not waiting or asked not in (None, *waiting)):
        made = asked or "interrupt"
        told += [
            ev.ToolCallStarted(tool_call_id=made, name=end.reason or "input_required"),
            ev.ToolCallReady(tool_call_id=made, arguments="{}"),
        ]
        waiting = [made]
    return [*told, ev.RunInterrupted(tool_call_id=waiting[0]) if waiting else end]


def with_objects_for_arguments(run: list[Event]) -> list[Event]:
    """As Anthropic tells it: arguments are an object, or one holds them, or part of them is one."""
    calls = said(run).calls
    whole: list[Event] = []
    for event in run:
        if isinstance(event, ev.ToolCallStarted):
            _, arguments = calls[event.tool_call_id]
            given = as_object_text(arguments)
            whole += [event, ev.ToolCallReady(tool_call_id=event.tool_call_id, arguments=given)]
        elif not isinstance(event, ev.ToolCallArgumentsDelta | ev.ToolCallReady):
            whole.append(event)
    return whole


def as_object_text(arguments: str) -> str:
    if arguments and not arguments.startswith("{"):
        return json.dumps({"input": arguments}, ensure_ascii=False, separators=(",", ":"))
    try:
        json.loads(arguments)
    except json.JSONDecodeError as broken:
        return arguments[: broken.pos] if broken.msg == "Extra data" else arguments
    return arguments


# --- by hand -------------------------------------------------------------------------------

START = (
    ev.RunStarted(run_id="run_1", thread_id="thread_1"),
    ev.GenerationStarted(response_id="gen_1", model="model-1"),
)
FINISHED = ev.RunFinished(run_id="run_1", thread_id="thread_1")
USAGE = ev.Usage(
    input_tokens=30,
    output_tokens=12,
    cached_input_tokens=8,
    cache_write_tokens=2,
    reasoning_tokens=5,
)


def message(*texts: str, message_id: str = "msg_1") -> list[Event]:
    return [
        ev.MessageStarted(message_id=message_id, role="assistant"),
        *(ev.TextDelta(text=text, message_id=message_id) for text in texts),
        ev.MessageFinished(message_id=message_id),
    ]


def reasoning(*texts: str, message_id: str = "thought_1") -> list[Event]:
    return [
        ev.ReasoningStarted(message_id=message_id),
        *(ev.ReasoningDelta(text=text, message_id=message_id) for text in texts),
        ev.ReasoningFinished(message_id=message_id),
    ]


def call(call_id: str, *deltas: str, name: str = "find") -> list[Event]:
    return [
        ev.ToolCallStarted(tool_call_id=call_id, name=name),
        *(ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta) for delta in deltas),
        ev.ToolCallReady(tool_call_id=call_id),
    ]


def result(call_id: str, text: str | None, *, is_error: bool = False) -> Event:
    return ev.ToolCallResult(tool_call_id=call_id, result=text, is_error=is_error)


def finish(reason: str) -> Event:
    return ev.GenerationFinished(finish_reasons=(reason,))


def interleaved(first: list[Event], second: list[Event]) -> list[Event]:
    return [event for pair in zip(first, second, strict=True) for event in pair]


RUNS: dict[str, list[Event]] = {
    "answer": [
        *START,
        *reasoning("Let me ", "think."),
        ev.Heartbeat(),
        *message("Hel", "lo ", "wörld 🙂")[:-1],
        ev.Source(url="https://example.com/a", title="A"),
        ev.TextDelta(text="!", message_id="msg_1"),
        ev.Source(url="https://example.com/b"),
        ev.MessageFinished(message_id="msg_1"),
        USAGE,
        finish("stop"),
        FINISHED,
    ],
    "tools": [
        *START,
        *message("Looking."),
        *interleaved(call("call_1", '{"a":', "1}"), call("call_2", '{"b":"é', '"}', name="get")),
        ev.Usage(input_tokens=10, output_tokens=4),
        finish("tool_calls"),
        result("call_2", "no route", is_error=True),
        result("call_1", '{"found":[1,2]}'),
        ev.GenerationStarted(response_id="gen_2", model="model-2"),
        *message("Found.", message_id="msg_2"),
        ev.Usage(input_tokens=20, output_tokens=3),
        finish("stop"),
        FINISHED,
    ],
    "whole arguments": [
        *START,
        ev.ToolCallStarted(tool_call_id="call_1", name="find"),
        ev.ToolCallReady(tool_call_id="call_1", arguments='{"a":[1]}'),
        result("call_1", None),
        finish("stop"),
        FINISHED,
    ],
    "deltas only": [
        ev.ReasoningDelta(text="hm"),
        ev.TextDelta(text="one "),
        ev.TextDelta(text="two"),
        ev.ToolCallStarted(tool_call_id="call_1", name="find"),
        ev.ToolCallArgumentsDelta(tool_call_id="call_1", delta="{}"),
        result("call_1", "42"),
        ev.TextDelta(text=" three"),
        ev.RunFinished(),
    ],
    "interrupted": [
        *START,
        *message("May I?"),
        *call("call_1", '{"x":1}', name="delete"),
        USAGE,
        finish("tool_calls"),
        ev.RunInterrupted(reason="approval", tool_call_id="call_1"),
    ],
    "asking": [
        *START,
        *message("Where to?"),
        ev.RunInterrupted(reason="input_required"),
    ],
    "too long": [*START, *message("And so"), USAGE, finish("length"), FINISHED],
    "failed": [
        *START,
        *message("Half a")[:-1],
        ev.RunFailed(type="overloaded_error", message="try later"),
    ],
    "failed late": [
        *START,
        *message("Half a")[:-1],
        *call("call_1", '{"x":')[:-1],
        USAGE,
        ev.RunFailed(type="rate_limit", message="slow down"),
    ],
    "failed at once": [ev.RunFailed(type="invalid_request_error", message="no such model")],
    "cancelled": [
        *START,
        *message("Half a")[:-1],
        *call("call_1", '{"x":')[:-1],
        ev.RunCancelled(),
    ],
    "huge": [
        *START,
        *reasoning(*["hm, " * 50_000] * 3),
        *message(*["blah " * 20_000] * 9),
        *call("call_1", '{"text":"', *["x" * 90_000] * 4, '"}'),
        result("call_1", "y" * 300_000),
        finish("stop"),
        FINISHED,
    ],
}

# --- at random -----------------------------------------------------------------------------

_ids = st.sampled_from(("a", "b", "c"))
_maybe_ids = st.none() | _ids
_texts = st.text(max_size=6) | st.sampled_from(('{"x":', "1}", "{}", "[", " ", "\ud83d", "\ude00"))
_words = st.none() | st.text(max_size=4)
_counts = st.none() | st.integers(0, 10**6)

EVENTS: dict[type[Event], st.SearchStrategy[Event]] = {
    ev.RunStarted: st.builds(ev.RunStarted, run_id=_maybe_ids, thread_id=_maybe_ids),
    ev.RunFinished: st.builds(ev.RunFinished, run_id=_maybe_ids),
    ev.RunFailed: st.builds(ev.RunFailed, type=_words, message=_words),
    ev.RunInterrupted: st.builds(ev.RunInterrupted, reason=_words, tool_call_id=_maybe_ids),
    ev.RunCancelled: st.builds(ev.RunCancelled, reason=_words),
    ev.StepStarted: st.builds(ev.StepStarted, name=_ids),
    ev.StepFinished: st.builds(ev.StepFinished, name=_ids),
    ev.GenerationStarted: st.builds(ev.GenerationStarted, response_id=_maybe_ids, model=_words),
    ev.GenerationFinished: st.builds(
        ev.GenerationFinished,
        finish_reasons=st.lists(
            st.sampled_from(("stop", "length", "tool_use", "failed", "x", "")), max_size=2
        ).map(tuple),
    ),
    ev.Usage: st.builds(
        ev.Usage,
        input_tokens=_counts,
        output_tokens=_counts,
        cached_input_tokens=_counts,
        cache_write_tokens=_counts,
        reasoning_tokens=_counts,
        model=_words,
        scope=st.sampled_from(("generation", "run")),
    ),
    ev.MessageStarted: st.builds(ev.MessageStarted, message_id=_maybe_ids, role=_words),
    ev.TextDelta: st.builds(ev.TextDelta, text=_texts, message_id=_maybe_ids),
    ev.MessageFinished: st.builds(ev.MessageFinished, message_id=_maybe_ids),
    ev.ReasoningStarted: st.builds(ev.ReasoningStarted, message_id=_maybe_ids),
    ev.ReasoningDelta: st.builds(ev.ReasoningDelta, text=_texts, message_id=_maybe_ids),
    ev.ReasoningFinished: st.builds(ev.ReasoningFinished, message_id=_maybe_ids),
    ev.ToolCallStarted: st.builds(ev.ToolCallStarted, tool_call_id=_ids, name=_words),
    ev.ToolCallArgumentsDelta: st.builds(
        ev.ToolCallArgumentsDelta, tool_call_id=_ids, delta=_texts
    ),
    ev.ToolCallReady: st.builds(ev.ToolCallReady, tool_call_id=_ids, arguments=_words),
    ev.ToolCallResult: st.builds(
        ev.ToolCallResult, tool_call_id=_ids, result=_words, is_error=st.booleans()
    ),
    ev.Source: st.builds(ev.Source, url=_words, title=_words),
    ev.State: st.builds(ev.State, value=st.integers()),
    ev.Custom: st.builds(ev.Custom, name=_ids),
    ev.Heartbeat: st.just(ev.Heartbeat()),
}
_ENDS = frozenset(ev.TERMINAL)

in_any_order = st.lists(
    st.one_of(*(one for kind, one in EVENTS.items() if kind not in _ENDS)), max_size=25
).flatmap(
    lambda before: st.lists(st.one_of(*EVENTS.values()), max_size=4).map(
        lambda after: [*before, *after]
    )
)
"""Events of every kind as no agent would send them; few of them stand behind an end."""
