"""What an adapter's events must be, whatever the framework."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import msgspec
from support.recordings import Stream
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.core.content import ContentPolicy
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Dialect

Events = list[ev.Event]


async def told(stream: Any) -> Events:
    """The events of an adapter. A sync one runs in a thread, as it does when it is served."""
    if hasattr(stream, "__aiter__"):
        return [event async for event in stream]
    return await asyncio.to_thread(list, stream)


def run_of(events: Events) -> RunSummary:
    """The run that a strict machine makes of them: one end, and that is last."""
    assert [type(one) for one in events if isinstance(one, ev.TERMINAL)] == [type(events[-1])]
    machine = RunMachine(strict=True, policy=ContentPolicy(keep=True, room_bytes=1 << 20))
    for at_ns, event in enumerate(events):
        machine.strict = event is not events[-1]  # an end may come within a step
        machine.feed(event, at_ns)
    return machine.summary(StreamEnd(at_ns=len(events), final=True), started_at_ns=0)


def generations(run: RunSummary) -> list[tuple[Any, ...]]:
    """Reasoning, text, tokens and reason of each call of a model."""
    return [
        (
            one.reasoning.text,
            one.text.text,
            None if one.usage is None else (one.usage.input_tokens, one.usage.output_tokens),
            "".join(one.finish_reasons),
        )
        for one in run.generations
    ]


def tool_calls(run: RunSummary) -> list[tuple[Any, ...]]:
    """Name, status, arguments and result of each call of a tool."""
    return [
        (one.name, one.status, json.loads(one.arguments.text or "null"), one.result.text)
        for one in run.tool_calls
    ]


def on_the_wire(stream: Stream, dialect: Dialect) -> Events:
    """What the decoder tells of the recorded bytes, as far as a client is shown it."""
    events = events_of(dialect, stream.frames(), stream.head)
    ends = [event for event in events if isinstance(event, ev.TERMINAL)]
    return [one for one in events if not isinstance(one, (*ev.TERMINAL, ev.Heartbeat))] + ends[-1:]


def without_order(events: Iterable[ev.Event]) -> Events:
    """JSON that passed through objects has its keys in another order: put them in one."""
    return [_sorted(event) for event in events]


def _sorted(event: ev.Event) -> ev.Event:
    for field in ("result", "arguments"):
        text = getattr(event, field, None)
        if text is not None and text[:1] in ("{", "["):
            changed = {field: json.dumps(json.loads(text), sort_keys=True)}
            return msgspec.structs.replace(event, **changed)
    return event
