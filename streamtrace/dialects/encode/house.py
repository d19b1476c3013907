"""The house styles, written: named events (Cognis, AgentFlow), and typed JSON.

Rules that hold here:

* A tool call is written once its arguments are complete, or with what is known of them when its
  result or the end comes before that, in the order in which the calls began; never twice.
* `done` and `error` have the usage of the whole run, added up where it was not told.
* Questions and stops end the run like anything else: these styles have one word for the end.
* The first frame says which style it is. Where others have its kind too, an empty text goes before.
* What an app tells of its progress is written as such (`status`, `progress`), sources as `source`,
  and what else it has to say as `custom`, so that no name can be taken for an end.
* Arguments and results that are JSON objects or lists are written as such if that is the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, dump_json, load_json
from streamtrace.dialects.encode.base import Held, TableEncoder, json_frame
from streamtrace.dialects.encode.tally import COUNTS, Tally
from streamtrace.dialects.house import HEARTBEATS, MAX_OPEN_CALLS

MAX_CALLS = 1024
"""Calls that are known by their id; of more, the oldest is forgotten."""

_WORDS_OF_APPS = ("status", "progress", "source", "custom")
_KIND_KEYS = frozenset({"type", "event"})
"""Fields that say what a frame is."""
_SHARED_KINDS = frozenset({"run_started"})
"""Kinds of other vocabularies as well."""


class _Call(msgspec.Struct):
    """A call that was not written yet."""

    id: str
    name: str | None
    pieces: Held = msgspec.field(default_factory=Held)
    arguments: str | None = None  # if told whole
    is_ready: bool = False


class _HouseEncoder(TableEncoder):
    text_kind: ClassVar[str] = "token"
    call_kind: ClassVar[str] = "tool_start"
    result_kind: ClassVar[str] = "tool_end"
    name_key: ClassVar[str] = "tool"
    result_key: ClassVar[str] = "result"
    telling_kinds: ClassVar[frozenset[str]]
    """Kinds that say which style it is, alone or with what follows."""

    def __init__(self) -> None:
        self._opened = False
        self._is_shown = False
        self._ended = False
        self._begun: dict[str, None] = {}
        self._waiting: dict[str, _Call] = {}  # until their arguments are complete
        self._open: dict[str, str | None] = {}  # until their result
        self._tally = Tally()

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
        if not self._opened and kind not in self.telling_kinds:
            yield from self._show_style()
        self._opened = True
        self._is_shown = self._is_shown or kind in self.telling_kinds - _SHARED_KINDS
        yield self._frame(kind, _known(fields))

    def _show_style(self) -> Iterator[Frame]:
        self._is_shown = True
        yield self._frame(self.text_kind, {"content": ""})

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        if event.text:
            self._tally.output()
            yield from self._say(self.text_kind, content=event.text)

    def _reasoning(self, event: ev.ReasoningDelta) -> Iterable[Frame]:
        if event.text:
            self._tally.output()
        return ()

    # Tool calls.

    def _call_started(self, event: ev.ToolCallStarted) -> Iterator[Frame]:
        call_id = event.tool_call_id
        if call_id in self._begun:
            return
        remember(self._begun, call_id, None, MAX_CALLS)
        if len(self._waiting) >= MAX_OPEN_CALLS:
            yield from self._write_waiting()
        self._waiting[call_id] = _Call(call_id, event.name)

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterable[Frame]:
        if event.delta:
            self._tally.output()
        call = self._waiting.get(event.tool_call_id)
        if call is not None and not call.is_ready:
            call.pieces.add(event.delta)
        return ()

    def _call_ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        if event.arguments:
            self._tally.output()
        call = self._waiting.get(event.tool_call_id)
        if call is not None and not call.is_ready:
            call.is_ready, call.arguments = True, event.arguments
        while self._waiting and (first := next(iter(self._waiting.values()))).is_ready:
            yield from self._write_call(first)

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        self._tally.result()
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
        remember(self._open, call.id, call.name, MAX_OPEN_CALLS)
        arguments = call.pieces.take() or call.arguments
        said = {self.name_key: call.name, "args": _value(arguments)}
        yield from self._say(self.call_kind, id=call.id, **said)

    # Usage, and the end.

    def _generation_started(self, event: ev.GenerationStarted) -> Iterable[Frame]:
        self._tally.generation(event)
        return ()

    def _used(self, event: ev.Usage) -> Iterable[Frame]:
        self._tally.usage(event)
        return ()

    def _finished(self, event: ev.RunFinished) -> Iterable[Frame]:
        return self._end("done", run_id=event.run_id, thread_id=event.thread_id)

    def _stopped(self, event: ev.Event) -> Iterable[Frame]:
        return self._end("done")

    def _failed(self, event: ev.RunFailed) -> Iterable[Frame]:
        return self._end("error", code=event.type, message=event.message)

    def _end(self, kind: str, **fields: str | None) -> Iterator[Frame]:
        yield from self._write_waiting()
        self._ended = True
        yield from self._say(kind, **fields, usage=self._total())

    def _total(self) -> dict[str, Any] | None:
        return _usage(*self._tally.by_model())

    # What these styles have few words for.

    def _source(self, event: ev.Source) -> Iterator[Frame]:
        yield from self._say_aside("source", {"url": event.url, "title": event.title})

    def _custom(self, event: ev.Custom) -> Iterator[Frame]:
        value = {} if event.value is None else event.value
        is_word = event.name in _WORDS_OF_APPS and isinstance(value, dict)
        if is_word and _KIND_KEYS.isdisjoint(value):
            yield from self._say_aside(event.name, value)
        else:
            yield from self._say_aside("custom", {"name": event.name, "value": event.value})

    def _say_aside(self, kind: str, fields: dict[str, Any]) -> Iterator[Frame]:
        """A kind that tells of no style, and so comes behind one that does."""
        if not self._is_shown:
            yield from self._show_style()
        self._opened = True
        yield self._frame(kind, _known(fields))

    def _ping(self, event: ev.Heartbeat) -> Iterator[Frame]:
        yield self._frame("ping", {})


_Write: TypeAlias = Callable[[Any, Any], Iterable[Frame]]

_TABLE: Mapping[type[ev.Event], _Write] = {
    ev.TextDelta: _HouseEncoder._text,
    ev.ReasoningDelta: _HouseEncoder._reasoning,
    ev.ToolCallStarted: _HouseEncoder._call_started,
    ev.ToolCallArgumentsDelta: _HouseEncoder._arguments,
    ev.ToolCallReady: _HouseEncoder._call_ready,
    ev.ToolCallResult: _HouseEncoder._result,
    ev.GenerationStarted: _HouseEncoder._generation_started,
    ev.Usage: _HouseEncoder._used,
    ev.Source: _HouseEncoder._source,
    ev.Custom: _HouseEncoder._custom,
    ev.RunFinished: _HouseEncoder._finished,
    ev.RunInterrupted: _HouseEncoder._stopped,
    ev.RunCancelled: _HouseEncoder._stopped,
    ev.RunFailed: _HouseEncoder._failed,
}
_HEARD = frozenset(
    (
        ev.ToolCallArgumentsDelta,
        ev.GenerationStarted,
        ev.Source,
        ev.Custom,
        ev.RunInterrupted,
        ev.RunCancelled,
    )
)
"""Events of the table that a reader does not find again."""


class AgentFlowEncoder(_HouseEncoder):
    """Named events whose data is a JSON object."""

    text_kind = "message_chunk"
    name_key = "name"
    result_key = "output"
    telling_kinds = frozenset({text_kind})
    table: ClassVar[Mapping[type[ev.Event], _Write]] = _TABLE
    encodes = frozenset(table) - _HEARD - {ev.ReasoningDelta}

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
    encodes = frozenset(table) - _HEARD - {ev.ReasoningDelta}

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

    def __init__(self) -> None:
        super().__init__()
        self._tells_total = False

    def _frame(self, kind: str, fields: dict[str, Any]) -> Frame:
        return json_frame({"type": kind, **fields})

    def _started(self, event: ev.RunStarted) -> Iterable[Frame]:
        given = {"run_id": event.run_id, "thread_id": event.thread_id, "agent": event.agent}
        ids = {name: value for name, value in given.items() if value}
        return self._say("run_started", **ids) if ids else ()

    def _thought(self, event: ev.ReasoningDelta) -> Iterator[Frame]:
        if event.text:
            self._tally.output()
            yield from self._say("thinking", content=event.text)

    def _generation_started(self, event: ev.GenerationStarted) -> Iterable[Frame]:
        self._tells_total = True  # a reader cannot tell one generation from the next
        return super()._generation_started(event)

    def _used(self, event: ev.Usage) -> Iterator[Frame]:
        """Of a generation at once, of the run with its end."""
        yield from super()._used(event)
        if event.scope == "run":
            self._tells_total = True
        elif usage := _usage(event):
            yield from self._say("usage", usage=usage)

    def _total(self) -> dict[str, Any] | None:
        return super()._total() if self._tells_total else None

    table: ClassVar[Mapping[type[ev.Event], _Write]] = {
        **_TABLE,
        ev.RunStarted: _started,
        ev.ReasoningDelta: _thought,
        ev.GenerationStarted: _generation_started,
        ev.Usage: _used,
        ev.Heartbeat: _HouseEncoder._ping,
    }
    encodes = frozenset(table) - _HEARD


def _usage(*reports: ev.Usage) -> dict[str, Any] | None:
    """Their sum, if it is what a reader takes for usage: something went in or came out."""
    usage: dict[str, Any] = {}
    for name in COUNTS:
        counts = [count for one in reports if (count := as_count(getattr(one, name))) is not None]
        usage[name] = sum(counts) if counts else None
    if usage["input_tokens"] is usage["output_tokens"] is None:
        return None
    for name in ("model", "provider"):
        given = {getattr(one, name) for one in reports}
        usage[name] = given.pop() if len(given) == 1 else None
    return _known(usage)


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _value(text: str | None) -> Any:
    """The JSON object or list that reads back as this very text, else the text."""
    if text is None or not text.startswith(("{", "[")):
        return text
    value = load_json(text.encode("utf-8", "surrogatepass"))
    return value if isinstance(value, dict | list) and dump_json(value) == text else text


_LINE_END = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Line ends to `str.splitlines`, but for LF, at which text is written in lines."""


def _is_plain(text: str) -> bool:
    """Whether any reader finds this text again: no JSON object, no line end of another kind."""
    if text.startswith("{") or _LINE_END.search(text) or text.strip().lower() in HEARTBEATS:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
