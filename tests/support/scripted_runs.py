"""Runs written by hand, for clients to read, and what a client should hold when it has.

Runs at random are in `support.runs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from support.recordings import STREAMS, Stream
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.core.events import Event
from streamtrace.core.frames import encode_frame
from streamtrace.dialects.base import Dialect, Envelope
from streamtrace.dialects.detect import BUILT_IN, by_name

NAMES = {dialect.name for dialect in BUILT_IN}


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


def waiting_by_a_call(run: list[Event]) -> list[Event]:
    """As OpenAI Responses tells it: an interrupt that waits for no call is a call itself."""
    *told, end = run or [None]
    if not isinstance(end, ev.RunInterrupted):
        return run
    answered = {one.tool_call_id for one in told if isinstance(one, ev.ToolCallResult)}
    calls = {one.tool_call_id for one in told if isinstance(one, ev.ToolCallStarted)}
    waiting = calls - answered
    if waiting and end.tool_call_id in (None, *waiting):
        return run
    made = "interrupt" if end.tool_call_id in (None, *calls) else end.tool_call_id
    return [
        *told,
        ev.ToolCallStarted(tool_call_id=made, name=end.reason or "input_required"),
        ev.ToolCallReady(tool_call_id=made, arguments="{}"),
        end,
    ]


def richest_streams() -> list[Stream]:
    """Of each dialect the stream that says the most kinds of things."""
    best: dict[str, tuple[int, Stream]] = {}
    for stream in STREAMS:
        if stream.dialect in NAMES:
            kinds = len({type(event) for event in told_by(stream)})
            if kinds > best.get(stream.dialect, (0, stream))[0]:
                best[stream.dialect] = (kinds, stream)
    return [stream for _, stream in best.values()]


def told_by(stream: Stream) -> list[Event]:
    return events_of(by_name(stream.dialect), stream.frames(), stream.head)


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
