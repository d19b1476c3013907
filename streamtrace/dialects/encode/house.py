"""The house styles, written: named events (Cognis, AgentFlow), and typed JSON.

Rules that hold here:

* A tool call is written once its arguments are complete, or its result or the end comes before
  that, in the order in which the calls began. What comes in pieces is written whole.
* `done` has the usage of the whole run. Where that was not told, those of its generations are added
  up: of each the last report, as providers repeat running totals.
* Questions and stops end the run like anything else: these styles have one word for the end.
* The first frame says which style it is. Where others have its kind too, an empty text goes before.
* Arguments and results that are JSON objects or lists are written as such if that is the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import dump_json, load_json
from streamtrace.dialects.encode.base import TableEncoder, json_frame
from streamtrace.dialects.house import HEARTBEATS, MAX_OPEN_CALLS

_COUNTS = (
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens",
    "reasoning_tokens",
)  # fmt: skip
_LABELS = ("model", "provider")


class _Call(msgspec.Struct):
    """A call that was not written yet."""

    id: str
    name: str | None
    pieces: list[str]
    arguments: str | None = None
    is_ready: bool = False


class _HouseEncoder(TableEncoder):
    text_kind: ClassVar[str] = "token"
    call_kind: ClassVar[str] = "tool_start"
    result_kind: ClassVar[str] = "tool_end"
    name_key: ClassVar[str] = "tool"
    result_key: ClassVar[str] = "result"
    telling_kinds: ClassVar[frozenset[str]]
    """Kinds that say which style it is."""

    def __init__(self) -> None:
        self._opened = False
        self._ended = False
        self._waiting: dict[str, _Call] = {}  # until their arguments are complete
        self._open: dict[str, str | None] = {}  # until their result
        self._usage = _Usages()

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say, and none after the end."""
        return () if self._ended else super().encode(event)

    def close(self) -> Iterable[Frame]:
        """The calls that wait, where no end was told."""
        return () if self._ended else self._write_waiting()

    def _frame(self, kind: str, fields: dict[str, Any]) -> Frame:
        raise NotImplementedError

    def _say(self, kind: str, **fields: Any) -> Iterator[Frame]:
        """A frame with the fields that are known, and before the first what tells the style."""
        if not self._opened:
            self._opened = True
            if kind not in self.telling_kinds:
                yield self._frame(self.text_kind, {"content": ""})
        yield self._frame(kind, _known(fields))

    def _text(self, event: ev.TextDelta) -> Iterable[Frame]:
        return self._say(self.text_kind, content=event.text) if event.text else ()

    # Tool calls.

    def _call_started(self, event: ev.ToolCallStarted) -> Iterator[Frame]:
        if event.tool_call_id in self._waiting or len(self._waiting) >= MAX_OPEN_CALLS:
            yield from self._write_waiting()
        self._waiting[event.tool_call_id] = _Call(event.tool_call_id, event.name, [])

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterable[Frame]:
        call = self._waiting.get(event.tool_call_id)
        if call is not None:
            call.pieces.append(event.delta)
        return ()

    def _call_ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        call = self._waiting.get(event.tool_call_id)
        if call is not None:
            call.is_ready = True
            streamed = "".join(call.pieces) or None
            call.arguments = streamed if event.arguments is None else event.arguments
        while self._waiting and (first := next(iter(self._waiting.values()))).is_ready:
            yield from self._write_call(first)

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        self._usage.tool_returned()
        while event.tool_call_id in self._waiting:
            yield from self._write_call(next(iter(self._waiting.values())))
        if event.tool_call_id in self._open:
            said = {self.name_key: self._open.pop(event.tool_call_id)}
            said[self.result_key] = _value(event.result)
            is_error = True if event.is_error else None
            yield from self._say(self.result_kind, id=event.tool_call_id, **said, is_error=is_error)

    def _write_waiting(self) -> Iterator[Frame]:
        while self._waiting:
            yield from self._write_call(next(iter(self._waiting.values())))

    def _write_call(self, call: _Call) -> Iterator[Frame]:
        del self._waiting[call.id]
        if len(self._open) >= MAX_OPEN_CALLS:
            del self._open[next(iter(self._open))]
        self._open[call.id] = call.name
        said = {self.name_key: call.name, "args": _value(call.arguments)}
        yield from self._say(self.call_kind, id=call.id, **said)

    # Usage, and the end.

    def _generation_started(self, event: ev.GenerationStarted) -> Iterable[Frame]:
        self._usage.generation_started(event)
        return ()

    def _tell_usage(self, event: ev.Usage) -> Iterable[Frame]:
        self._usage.tell(event)
        return ()

    def _finished(self, event: ev.RunFinished) -> Iterator[Frame]:
        yield from self._done(run_id=event.run_id, thread_id=event.thread_id)

    def _stopped(self, event: ev.Event) -> Iterator[Frame]:
        yield from self._done()

    def _done(self, **ids: str | None) -> Iterator[Frame]:
        yield from self._write_waiting()
        self._ended = True
        yield from self._say("done", **ids, usage=_counts(self._usage.total()))

    def _failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        yield from self._write_waiting()
        self._ended = True
        yield from self._say("error", code=event.type, message=event.message)

    def _ping(self, event: ev.Heartbeat) -> Iterator[Frame]:
        yield self._frame("ping", {})


_Write: TypeAlias = Callable[[Any, Any], Iterable[Frame]]

_TABLE: Mapping[type[ev.Event], _Write] = {
    ev.TextDelta: _HouseEncoder._text,
    ev.ToolCallStarted: _HouseEncoder._call_started,
    ev.ToolCallArgumentsDelta: _HouseEncoder._arguments,
    ev.ToolCallReady: _HouseEncoder._call_ready,
    ev.ToolCallResult: _HouseEncoder._result,
    ev.GenerationStarted: _HouseEncoder._generation_started,
    ev.Usage: _HouseEncoder._tell_usage,
    ev.RunFinished: _HouseEncoder._finished,
    ev.RunInterrupted: _HouseEncoder._stopped,
    ev.RunCancelled: _HouseEncoder._stopped,
    ev.RunFailed: _HouseEncoder._failed,
}
_NOT_AS_THEY_ARE = frozenset(
    (ev.ToolCallArgumentsDelta, ev.GenerationStarted, ev.RunInterrupted, ev.RunCancelled)
)
"""Events of the table that are heard, and not found again by a reader."""


class AgentFlowEncoder(_HouseEncoder):
    """Named events whose data is a JSON object."""

    text_kind = "message_chunk"
    name_key = "name"
    result_key = "output"
    telling_kinds = frozenset({text_kind})
    table: ClassVar[Mapping[type[ev.Event], _Write]] = _TABLE
    encodes = frozenset(table) - _NOT_AS_THEY_ARE

    def _frame(self, kind: str, fields: dict[str, Any]) -> Frame:
        if kind == self.text_kind:
            fields = {"role": "assistant", **fields}
        elif kind == "error":
            fields = fields or {"message": None}  # a reader takes an empty object for text
        return json_frame(fields, kind)


class CognisEncoder(_HouseEncoder):
    """Named events; text is plain where a reader finds the same text again."""

    telling_kinds = frozenset({"token"})
    table: ClassVar[Mapping[type[ev.Event], _Write]] = {
        **_TABLE,
        ev.Heartbeat: _HouseEncoder._ping,
    }
    encodes = frozenset(table) - _NOT_AS_THEY_ARE

    def _frame(self, kind: str, fields: dict[str, Any]) -> Frame:
        text = fields.get("content")
        if kind == self.text_kind and isinstance(text, str) and _is_plain(text):
            return Frame(event=kind, data=text.encode())
        if kind == "error":
            fields = fields or {"message": None}  # a reader takes an empty object for text
        return json_frame(fields, kind)


class TypedJsonEncoder(_HouseEncoder):
    """`{"type": "token", "content": ...}` and its like, without event names."""

    call_kind = "tool_call"
    result_kind = "tool_result"
    name_key = "name"
    telling_kinds = frozenset({"token", "thinking", "tool_call", "tool_result", "run_started"})

    def _frame(self, kind: str, fields: dict[str, Any]) -> Frame:
        return json_frame({"type": kind, **fields})

    def _started(self, event: ev.RunStarted) -> Iterable[Frame]:
        ids = {"run_id": event.run_id, "thread_id": event.thread_id, "agent": event.agent}
        return self._say("run_started", **ids) if _known(ids) else ()

    def _reasoning(self, event: ev.ReasoningDelta) -> Iterable[Frame]:
        return self._say("thinking", content=event.text) if event.text else ()

    def _tell_usage(self, event: ev.Usage) -> Iterable[Frame]:
        """Of a generation at once, of the run with its end."""
        if event.scope == "run":
            return super()._tell_usage(event)
        counts = _counts(event)
        return self._say("usage", usage=counts) if counts else ()

    table: ClassVar[Mapping[type[ev.Event], _Write]] = {
        **_TABLE,
        ev.RunStarted: _started,
        ev.ReasoningDelta: _reasoning,
        ev.Usage: _tell_usage,
        ev.Heartbeat: _HouseEncoder._ping,
    }
    encodes = frozenset(table) - _NOT_AS_THEY_ARE


class _Usages:
    """Reports of usage, as one of the run."""

    def __init__(self) -> None:
        self._run: dict[tuple[str | None, ...], ev.Usage] = {}  # by provider and model
        self._before: ev.Usage | None = None
        self._generation: ev.Usage | None = None
        self._started: ev.GenerationStarted | None = None

    def tell(self, usage: ev.Usage) -> None:
        if usage.scope == "run":
            self._run[usage.provider, usage.model] = usage
        else:
            old = self._generation or ev.Usage()
            known = _known(msgspec.structs.asdict(usage))
            self._generation = msgspec.structs.replace(old, **known)

    def generation_started(self, event: ev.GenerationStarted) -> None:
        before = self._started
        if before is not None and event.response_id not in (None, before.response_id):
            self._next()
        self._started = event

    def tool_returned(self) -> None:
        """Where generations are not shown, this ends one."""
        if self._started is None:
            self._next()

    def total(self) -> ev.Usage | None:
        if not self._run:
            self._next()
            return self._before
        total: ev.Usage | None = None
        for usage in self._run.values():
            total = _sum(total, usage)
        return total

    def _next(self) -> None:
        if self._generation is not None:
            self._before = _sum(self._before, self._generation)
        self._generation = None


def _sum(one: ev.Usage | None, other: ev.Usage) -> ev.Usage:
    if one is None:
        return other
    counts, labels = {}, {}
    for name in _COUNTS:
        known = [count for of in (one, other) if (count := getattr(of, name)) is not None]
        counts[name] = sum(known) if known else None
    for name in _LABELS:
        label = getattr(one, name)
        labels[name] = label if label == getattr(other, name) else None
    return ev.Usage(**counts, **labels, scope="run")


def _counts(usage: ev.Usage | None) -> dict[str, Any] | None:
    """What a reader takes for usage: something went in or came out."""
    if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    return _known({name: getattr(usage, name) for name in (*_COUNTS, *_LABELS)})


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _value(text: str | None) -> Any:
    """The JSON object or list that reads back as this very text, else the text."""
    if text is None or not text.startswith(("{", "[")):
        return text
    value = load_json(text.encode("utf-8", "surrogatepass"))
    return value if isinstance(value, dict | list) and dump_json(value) == text else text


def _is_plain(text: str) -> bool:
    """Whether a reader finds this text again: no JSON object, no line end of another kind."""
    if text.startswith("{") or "\r" in text or text.strip().lower() in HEARTBEATS:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
