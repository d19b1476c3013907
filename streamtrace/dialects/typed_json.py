"""Typed JSON as small back ends send it: `{"type": "token", "content": ...}`, or keyed by `event`.

Rules that hold here:

* The kind is a lower-case word under `type`, else under `event`; the rest is flat, or in `data`.
* The stream is ours only by a kind of the table that no other known vocabulary has. Vocabularies
  with dots, dashes or capitals in their kinds, or with marks of their own, are left alone.
* An answer said whole is text only where it was not streamed before.
* Nothing here asks for SSE: lines of JSON and WebSocket messages read the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from streamtrace.core.events import Custom, Event, Heartbeat, ReasoningDelta, RunFinished, TextDelta
from streamtrace.core.frames import Frame
from streamtrace.dialects import house
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.house import TypedJsonEncoder

_SENTINEL = b"[DONE]"

_VERCEL_HEADER = "x-vercel-ai-ui-message-stream"

_FOREIGN_KEYS = frozenset(("errorText", "allow_retry", "task_id"))  # Vercel UI, ChatKit, Dify


class TypedJson(Dialect):
    """The last resort among those with text: a table of the kinds in common use."""

    name = "generic"
    marks = marks("type event")
    plain_deltas = True
    says = says("run thread text reasoning tool_start arguments result model usage error terminal")
    encodes = TypedJsonEncoder.encodes

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """By a kind of the table; kinds that others have too need a second frame."""
        if frame.event not in (None, "", "message") or _VERCEL_HEADER in head.headers:
            return Fit.NO
        if frame.data == _SENTINEL:
            return Fit.MAYBE
        body = frame.json()
        if not isinstance(body, dict) or not _FOREIGN_KEYS.isdisjoint(body):
            return Fit.NO
        kind, _ = _read(body)
        if kind not in _HANDLERS:
            return Fit.NO
        return Fit.MAYBE if kind in _SHARED else Fit.YES

    def decoder(self) -> Decoder:
        """A decoder that knows its open tool calls."""
        return _TypedJsonDecoder()

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return TypedJsonEncoder()


# The hot frame: a piece of text.

_Delta: TypeAlias = Literal[
    "token", "text", "content", "delta", "chunk", "message_chunk",
    "text_delta", "text_chunk", "content_delta",
]  # fmt: skip


class _Piece(msgspec.Struct, gc=False):
    type: _Delta
    content: str
    role: Literal["assistant", "ai"] | None = None
    data: None = None


_piece_decoder = msgspec.json.Decoder(_Piece)


def _read_text(data: bytes) -> str | None:
    try:
        return _piece_decoder.decode(data).content
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _TypedJsonDecoder:
    def __init__(self) -> None:
        self._calls = house.ToolCalls()
        self._streamed = False
        self._told = False
        self._model: str | None = None

    def decode(self, frame: Frame) -> Iterable[Event]:
        """What the frame says; one that was cut off says nothing, but for the sentinel."""
        if frame.data is not None and frame.complete and frame.stray is None:
            text = _read_text(frame.data)
            if text:
                self._streamed = self._told = True
                return (TextDelta(text=text),)
        return self._decode(frame)

    def _decode(self, frame: Frame) -> Iterator[Event]:
        failure = house.stray_failure(frame)
        if failure is not None:
            yield failure
        if frame.data == _SENTINEL:
            yield RunFinished()
            return
        if frame.data is None or not frame.complete:
            return
        body = frame.json()
        if not isinstance(body, dict):
            yield Custom(name=frame.event or "message")
            return
        kind, fields = _read(body)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            yield from handler(self, kind, fields)
        elif not kind and body.get("error"):
            yield house.failed(body)
        else:
            yield Custom(name=kind or frame.event or "message", value=fields)

    def close(self) -> Iterable[Event]:
        """Nothing: this style says when it is done."""
        return ()

    def delta(self, kind: str, fields: house.Json) -> Iterator[Event]:
        if house.is_foreign(fields):
            yield Custom(name=kind, value=fields)
        elif text := house.text_of(fields):
            self._streamed = self._told = True
            yield TextDelta(text=text)

    def whole(self, kind: str, fields: house.Json) -> Iterator[Event]:
        text = house.text_of(fields) or house.whole_text_of(fields)
        if text and not self._streamed:
            self._told = True
            yield TextDelta(text=text)
        else:
            yield Custom(name=kind, value=fields)

    def reasoning(self, kind: str, fields: house.Json) -> Iterator[Event]:
        text = house.text_of(fields, house.REASONING_TEXT)
        if text:
            yield ReasoningDelta(text=text)

    def tool_start(self, kind: str, fields: house.Json) -> Iterator[Event]:
        yield from self._calls.start(fields)

    def tool_end(self, kind: str, fields: house.Json) -> Iterator[Event]:
        yield from self._calls.end(fields)

    def usage(self, kind: str, fields: house.Json) -> Iterator[Event]:
        usage = house.usage_of(fields, "generation", self._model)
        yield usage or Custom(name=kind, value=fields)

    def start(self, kind: str, fields: house.Json) -> Iterator[Event]:
        self._model = house.model_of(fields) or self._model
        yield house.started(fields) or Custom(name=kind, value=fields)

    def done(self, kind: str, fields: house.Json) -> Iterator[Event]:
        if not self._told and (text := house.whole_text_of(fields)):
            self._told = True
            yield TextDelta(text=text)
        yield from house.ended(house.finished(fields), fields, self._model)

    def error(self, kind: str, fields: house.Json) -> Iterator[Event]:
        yield from house.ended(house.failed(fields), fields, self._model)

    def ping(self, kind: str, fields: house.Json) -> Iterator[Event]:
        yield Heartbeat()

    def other(self, kind: str, fields: house.Json) -> Iterator[Event]:
        yield Custom(name=kind, value=fields)


_Handler = Callable[[_TypedJsonDecoder, str, house.Json], Iterator[Event]]


def _all(handler: _Handler, kinds: Iterable[str]) -> dict[str, _Handler]:
    return dict.fromkeys(kinds, handler)


_decoder = _TypedJsonDecoder

_SHARED: Mapping[str, _Handler] = {
    **_all(_decoder.start, ("start", "started", "run_started", "metadata", "init", "session")),
    **_all(_decoder.whole, ("message",)),
    **_all(_decoder.usage, ("usage", "token_usage")),
    **_all(_decoder.done, ("done", "end", "complete", "completed", "finish", "finished", "final")),
    **_all(_decoder.error, ("error", "run_error")),
    **_all(_decoder.ping, house.HEARTBEATS),
}

_HANDLERS: Mapping[str, _Handler] = {
    **_SHARED,
    **_all(_decoder.delta, get_args(_Delta)),
    **_all(_decoder.whole, ("answer", "final_answer", "response")),
    **_all(_decoder.reasoning, ("thinking", "reasoning", "thought")),
    **_all(_decoder.reasoning, ("thinking_delta", "reasoning_delta")),
    **_all(_decoder.tool_start, ("tool_call", "tool_start", "tool_call_start", "tool_use")),
    **_all(_decoder.tool_end, ("tool_result", "tool_end", "tool_call_result", "tool_output")),
    **_all(_decoder.other, ("status", "progress")),
}


def _read(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The kind, and the fields beside it and inside `data`."""
    key = "type" if isinstance(body.get("type"), str) else "event"
    fields = dict(body)
    kind = fields.pop(key, None)
    data = fields.get("data")
    if isinstance(data, dict):
        fields |= data
    return kind if isinstance(kind, str) else "", fields
