"""AG-UI 1.0, written so that the checks of its own client (`verify` of `@ag-ui/client`) pass.

Rules that hold here, beside those of the folder:

* RUN_STARTED comes before anything else, and again only after an end.
* An id is one message to the client, whoever speaks in it. Text or reasoning under an id that a
  message of the other kind has, or one that has ended, gets an id of its own.
* Text without an id joins the message that was opened last, or opens one, which ends with its turn:
  at a tool's result, a step, or the next generation. The first of these has the envelope's id, if
  there is one. Reasoning that no event opened ends where anything else is generated. At most one
  span of reasoning is open.
* A step is known by its name. The id of a step only tells steps of one name apart: it is written
  as the subagent that owns the step where its form says so (`owner/name`), or where the name is
  taken.
* What cannot be said in order is left out: arguments of a call that was not started or that is
  complete, a second start or result (a later run's as well), a state delta that is no JSON Patch.
  A call that is ready while nothing of its arguments was said stays open, until they are or its
  result comes.
* Tokens are told with the end, per provider and model of the run. Generations are not written.
* The wire has no event for a source: it is a CUSTOM one of the name `source`.
* The wire has no word for why a run was cancelled, or that a tool's result is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode.base import TableEncoder, json_frame
from streamtrace.dialects.encode.tally import Tally

PROTOCOL_VERSION = "1.0"

MAX_OPEN = 1024
"""Messages, calls and steps open at a time; of more, the oldest is closed."""
MAX_REMEMBERED = 1024
"""Ids that are taken, and calls that were made; of more, the oldest is forgotten."""

_Fields: TypeAlias = dict[str, Any]
_Key: TypeAlias = tuple[str, str]

_SPAN: _Key = ("span", "")
_THOUGHT: _Key = ("thought", "")


class _Part(msgspec.Struct, frozen=True):
    """Something open: the event that closes it, its id as given, and whether its turn ends it."""

    end: _Fields
    given: str | None = None
    fleeting: bool = False

    @property
    def message_id(self) -> str:
        return str(self.end["messageId"])


class AgUiEncoder(TableEncoder):
    """Writes one stream, of one run or several."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._run = {"threadId": envelope.thread_id, "runId": envelope.run_id}
        self._begun = self._ended = False
        self._open: dict[_Key, _Part] = {}  # in the order of their opening
        self._taken: dict[str, None] = {}  # ids of messages
        self._first_message_id = envelope.message_id
        self._made_ids = 0
        self._parent: str | None = None  # the message that holds the calls of this turn
        self._calls: dict[str, str] = {}  # "named", "argued" or "answered", by id
        self._tally = Tally()

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none for what AG-UI cannot say, or not now."""
        write = self.table.get(type(event))
        if write is None or (self._ended and type(event) is not ev.RunStarted):
            return []
        frames = list(write(self, event))
        if frames and not self._begun:
            self._begun = True
            frames.insert(0, self._run_started_frame())
        return frames

    # --- the run ---------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> Iterator[Frame]:
        if self._begun and not self._ended:
            return
        self._begun, self._ended = True, False
        self._run = {
            "threadId": event.thread_id or self._envelope.thread_id,
            "runId": event.run_id or self._envelope.run_id,
        }
        self._tally = Tally()
        yield self._run_started_frame()

    def _run_started_frame(self) -> Frame:
        return _frame("RUN_STARTED", **self._run, protocolVersion=PROTOCOL_VERSION)

    def _run_finished(self, event: ev.RunFinished) -> Iterator[Frame]:
        yield from self._end("RUN_FINISHED", **self._run, outcome={"type": "success"})

    def _run_interrupted(self, event: ev.RunInterrupted) -> Iterator[Frame]:
        call_id = event.tool_call_id
        interrupt = {
            "id": call_id or f"{self._run['runId']}-interrupt",
            "reason": event.reason or ("tool_call" if call_id else "input_required"),
        }
        if call_id:
            interrupt["toolCallId"] = call_id
        outcome = {"type": "interrupt", "interrupts": [interrupt]}
        yield from self._end("RUN_FINISHED", **self._run, outcome=outcome)

    def _run_cancelled(self, event: ev.RunCancelled) -> Iterator[Frame]:
        yield from self._end("RUN_FINISHED", **self._run, outcome={"type": "cancelled"})

    def _run_failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        code = {"code": event.type} if event.type else {}
        yield from self._end("RUN_ERROR", message=event.message or "", **code)

    def _end(self, kind: str, **fields: Any) -> Iterator[Frame]:
        inner_first = list(self._open)[::-1]
        for key in sorted(inner_first, key=self._waits):
            yield from self._close(key)
        self._ended, self._parent = True, None
        usage = [_usage(entry) for entry in self._tally.by_model()]
        yield _frame(kind, **fields, **({"usage": usage} if usage else {}))

    # --- steps and generations -------------------------------------------------------------

    def _step_started(self, event: ev.StepStarted) -> Iterator[Frame]:
        key = ("step", event.step_id or event.name)
        yield from self._end_turn()
        if key in self._open:
            return
        for owner in (_owner(event), key[1]):
            step = _step(event.name, owner)
            end = {"type": "STEP_FINISHED", **step}
            if all(part.end != end for part in self._open.values()):
                yield from self._start(key, _Part(end), {"type": "STEP_STARTED", **step})
                return

    def _step_finished(self, event: ev.StepFinished) -> Iterator[Frame]:
        yield from self._end_turn()
        yield from self._close(("step", event.step_id or event.name))

    def _generation_started(self, event: ev.GenerationStarted) -> Iterator[Frame]:
        if self._tally.generation(event):
            yield from self._end_turn()

    def _used(self, event: ev.Usage) -> Iterable[Frame]:
        self._tally.usage(event)
        return ()

    def _end_turn(self) -> Iterator[Frame]:
        self._parent = None
        for key in [key for key, part in self._open.items() if part.fleeting][::-1]:
            yield from self._close(key)

    # --- messages --------------------------------------------------------------------------

    def _message_started(self, event: ev.MessageStarted) -> Iterator[Frame]:
        if not event.message_id or ("text", event.message_id) not in self._open:
            yield from self._open_text(event.message_id, role=event.role)

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        if not event.text:
            return
        self._tally.output()
        key = self._text_key(event.message_id)
        if key is None:
            yield from self._open_text(event.message_id, fleeting=not event.message_id)
            key = next(reversed(self._open))
        else:
            yield from self._end_thinking()
        message_id = self._open[key].message_id
        yield _frame("TEXT_MESSAGE_CONTENT", messageId=message_id, delta=event.text)

    def _message_finished(self, event: ev.MessageFinished) -> Iterator[Frame]:
        key = self._text_key(event.message_id)
        if key is not None:
            yield from self._close(key)

    def _text_key(self, message_id: str | None) -> _Key | None:
        if not message_id:  # the message that was opened last
            return next((key for key in reversed(self._open) if key[0] == "text"), None)
        key = ("text", message_id)
        return key if key in self._open else None

    def _open_text(
        self, given: str | None, role: str | None = None, *, fleeting: bool = False
    ) -> Iterator[Frame]:
        yield from self._end_thinking()
        message_id = self._take(given or self._first_message_id)
        if not given:
            self._first_message_id = None
        role = role if role in _ROLES else "assistant"
        if role == "assistant":
            self._parent = message_id
        yield from self._start(
            ("text", given or message_id),
            _Part({"type": "TEXT_MESSAGE_END", "messageId": message_id}, given, fleeting),
            {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": role},
        )

    # --- reasoning: a span, and in it one message at a time --------------------------------

    def _reasoning_started(self, event: ev.ReasoningStarted) -> Iterator[Frame]:
        span = self._open.get(_SPAN)
        if span is None or event.message_id not in (None, span.given):
            yield from self._open_span(event.message_id)

    def _reasoning(self, event: ev.ReasoningDelta) -> Iterator[Frame]:
        if not event.text:
            return
        self._tally.output()
        if _SPAN not in self._open:
            yield from self._open_span(event.message_id, fleeting=True)
        thought = self._open.get(_THOUGHT)
        if thought is None or event.message_id not in (None, thought.given):
            yield from self._open_thought(event.message_id)
            thought = self._open[_THOUGHT]
        yield _frame("REASONING_MESSAGE_CONTENT", messageId=thought.message_id, delta=event.text)

    def _reasoning_finished(self, event: ev.ReasoningFinished) -> Iterator[Frame]:
        span = self._open.get(_SPAN)
        if span is not None and event.message_id in (None, span.given):
            yield from self._end_span()

    def _open_span(self, given: str | None, *, fleeting: bool = False) -> Iterator[Frame]:
        yield from self._end_span()
        message_id = self._take(given)
        end = {"type": "REASONING_END", "messageId": message_id}
        start = {"type": "REASONING_START", "messageId": message_id}
        yield from self._start(_SPAN, _Part(end, given, fleeting), start)

    def _open_thought(self, given: str | None) -> Iterator[Frame]:
        span = self._open[_SPAN]
        shares_id = _THOUGHT not in self._open and given in (None, span.given)
        yield from self._close(_THOUGHT)
        message_id = span.message_id if shares_id else self._take(given)
        yield from self._start(
            _THOUGHT,
            _Part({"type": "REASONING_MESSAGE_END", "messageId": message_id}, given, span.fleeting),
            {"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"},
        )

    def _end_span(self) -> Iterator[Frame]:
        yield from self._close(_THOUGHT)
        yield from self._close(_SPAN)

    def _end_thinking(self) -> Iterator[Frame]:
        span = self._open.get(_SPAN)
        if span is not None and span.fleeting:
            yield from self._end_span()

    # --- tool calls ------------------------------------------------------------------------

    def _call_started(self, event: ev.ToolCallStarted) -> Iterator[Frame]:
        call_id = event.tool_call_id
        if call_id in self._calls:
            return
        yield from self._end_thinking()
        remember(self._calls, call_id, "named", MAX_REMEMBERED)
        remember(self._taken, call_id, None, MAX_REMEMBERED)
        parent = {"parentMessageId": self._parent} if self._parent else {}
        start = {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": event.name or ""}
        end = {"type": "TOOL_CALL_END", "toolCallId": call_id}
        yield from self._start(("call", call_id), _Part(end), start | parent)

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterator[Frame]:
        call_id = event.tool_call_id
        if event.delta and ("call", call_id) in self._open:
            self._tally.output()
            remember(self._calls, call_id, "argued", MAX_REMEMBERED)
            yield _frame("TOOL_CALL_ARGS", toolCallId=call_id, delta=event.delta)

    def _ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        call_id = event.tool_call_id
        if self._calls.get(call_id) == "named":
            if not event.arguments:  # they may still be told, with a second event of this kind
                return
            whole = ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=event.arguments)
            yield from self._arguments(whole)
        yield from self._close(("call", call_id))

    def _waits(self, key: _Key) -> bool:
        return key[0] == "call" and self._calls.get(key[1]) == "named"

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        call_id = event.tool_call_id
        if self._calls.get(call_id) == "answered":
            return
        remember(self._calls, call_id, "answered", MAX_REMEMBERED)
        self._tally.result()
        yield from self._end_turn()
        yield from self._close(("call", call_id))
        yield _frame(
            "TOOL_CALL_RESULT",
            messageId=self._take(f"{call_id}-result"),
            toolCallId=call_id,
            content=event.result or "",
            role="tool",
        )

    # --- the rest --------------------------------------------------------------------------

    def _state(self, event: ev.State) -> Iterator[Frame]:
        if not event.is_delta:
            yield _frame("STATE_SNAPSHOT", snapshot=event.value)
        elif _is_patch(event.value):
            yield _frame("STATE_DELTA", delta=event.value)

    def _source(self, event: ev.Source) -> Iterator[Frame]:
        told = {"url": event.url, "title": event.title}
        value = {name: text for name, text in told.items() if text is not None}
        yield _frame("CUSTOM", name="source", value=value)

    def _custom(self, event: ev.Custom) -> Iterator[Frame]:
        yield _frame("CUSTOM", name=event.name, value=event.value)

    # --- what is open, and ids -------------------------------------------------------------

    def _start(self, key: _Key, part: _Part, start: _Fields) -> Iterator[Frame]:
        if len(self._open) >= MAX_OPEN:
            yield from self._close(next(iter(self._open)))
        self._open[key] = part
        yield json_frame(start)

    def _close(self, key: _Key) -> Iterator[Frame]:
        part = self._open.pop(key, None)
        if part is not None:
            yield json_frame(part.end)

    def _take(self, given: str | None) -> str:
        """The id of a new message: the one that was given, if no other message has it."""
        message_id = given or ""
        while not message_id or message_id in self._taken:
            self._made_ids += 1
            message_id = f"{self._run['runId']}-{self._made_ids}"
        remember(self._taken, message_id, None, MAX_REMEMBERED)
        return message_id

    table: ClassVar = {
        ev.RunStarted: _run_started,
        ev.RunFinished: _run_finished,
        ev.RunInterrupted: _run_interrupted,
        ev.RunCancelled: _run_cancelled,
        ev.RunFailed: _run_failed,
        ev.StepStarted: _step_started,
        ev.StepFinished: _step_finished,
        ev.GenerationStarted: _generation_started,
        ev.Usage: _used,
        ev.MessageStarted: _message_started,
        ev.TextDelta: _text,
        ev.MessageFinished: _message_finished,
        ev.ReasoningStarted: _reasoning_started,
        ev.ReasoningDelta: _reasoning,
        ev.ReasoningFinished: _reasoning_finished,
        ev.ToolCallStarted: _call_started,
        ev.ToolCallArgumentsDelta: _arguments,
        ev.ToolCallReady: _ready,
        ev.ToolCallResult: _result,
        ev.State: _state,
        ev.Source: _source,
        ev.Custom: _custom,
    }


ENCODES = frozenset(AgUiEncoder.table) - {ev.GenerationStarted, ev.Source}

_ROLES = ("developer", "system", "assistant", "user")

_COUNTS = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cachedInputTokens": "cached_input_tokens",
    "cacheWriteInputTokens": "cache_write_tokens",
    "reasoningTokens": "reasoning_tokens",
}

_OPERATIONS = {
    "add": ("value",),
    "remove": (),
    "replace": ("value",),
    "move": ("from",),
    "copy": ("from",),
    "test": ("value",),
}
"""RFC 6902: what each operation needs beside its path."""

_POINTER = re.compile(r"(/([^/~]|~[01])*)*")


def _frame(kind: str, **fields: Any) -> Frame:
    return json_frame({"type": kind, **fields})


def _usage(entry: ev.Usage) -> _Fields:
    counts = {key: getattr(entry, name) for key, name in _COUNTS.items()}
    if entry.input_tokens is not None and entry.output_tokens is not None:
        counts["totalTokens"] = entry.input_tokens + entry.output_tokens
    labels = {"provider": entry.provider, "model": entry.model}
    return {key: label for key, label in labels.items() if label} | {
        key: count for key, count in counts.items() if as_count(count) is not None
    }


def _owner(event: ev.StepStarted) -> str | None:
    step_id, ending = event.step_id or "", f"/{event.name}"
    return step_id.removesuffix(ending) if step_id.endswith(ending) else None


def _step(name: str, owner: str | None) -> _Fields:
    return {"stepName": name} | ({"subagentRunId": owner} if owner else {})


def _is_patch(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_operation, value))


def _is_operation(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(name := value.get("op"), str):
        return False
    needs = ("path", *_OPERATIONS.get(name, ("op of RFC 6902",)))
    pointers = [value.get(key) for key in ("path", "from") if key in needs]
    return all(key in value for key in needs) and all(
        isinstance(pointer, str) and _POINTER.fullmatch(pointer) for pointer in pointers
    )
