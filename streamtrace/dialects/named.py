"""Named events with plain or JSON data, as Cognis and AgentFlow send them.

Rules that hold here:

* The event name decides. Two styles share one table and differ in the name of their text event.
* Text is what stands on the wire, space for space: `42`, `true` and `"x"` are words somebody said.
  Only a JSON object that holds text under a usual key is taken apart.
* `done` may repeat the answer. It is text only if none was streamed, and only as JSON: what people
  write there otherwise (`[DONE]`, `ok`) was said to the client's code and not to its user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from streamtrace.core.events import Custom, Event, Heartbeat, TextDelta
from streamtrace.core.frames import Frame
from streamtrace.dialects import house
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, says
from streamtrace.dialects.encode.house import AgentFlowEncoder, CognisEncoder

_TOKEN, _CHUNK = _TEXT_EVENTS = ("token", "message_chunk")
_MARKS = frozenset((*_TEXT_EVENTS, "tool_start", "tool_end", "done", "error", *house.HEARTBEATS))


class _Named(Dialect):
    text_event: ClassVar[str]
    says = says("run thread text tool_start arguments result model usage error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """By the event that carries text; the other names are shared."""
        if frame.event == self.text_event:
            return Fit.YES
        if frame.event not in _HANDLERS:
            return Fit.NO
        # Providers put their own errors under this name, one object inside the other.
        theirs = frame.event == "error" and isinstance(_object(frame).get("error"), dict)
        return Fit.NO if theirs else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder that knows its open tool calls."""
        return _NamedDecoder()


class Cognis(_Named):
    """`token` carries the text; `ping` says that something else happened."""

    name = "cognis"
    marks = _MARKS
    text_event = _TOKEN
    encodes = CognisEncoder.encodes

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return CognisEncoder()


class AgentFlow(_Named):
    """`message_chunk` carries the text, and all data is a JSON object."""

    name = "agentflow"
    marks = _MARKS
    text_event = _CHUNK
    encodes = AgentFlowEncoder.encodes

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return AgentFlowEncoder()

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """By the event that carries text; the other names are shared, but not with plain data."""
        plain = frame.data and not isinstance(frame.json(), dict)
        return Fit.NO if plain else super().recognise(head, frame)


# The hot frame: a piece of text, alone or in an object.


class _Piece(msgspec.Struct, gc=False):
    content: str
    role: Literal["assistant", "ai"] | None = None


_piece_decoder = msgspec.json.Decoder(_Piece)


def _read_text(data: bytes) -> str | None:
    if not data.startswith(b"{"):
        return data.decode("utf-8", "replace")
    try:
        return _piece_decoder.decode(data).content
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _NamedDecoder:
    def __init__(self) -> None:
        self._calls = house.ToolCalls()
        self._told = False

    def decode(self, frame: Frame) -> Iterable[Event]:
        """What the frame says; one that was cut off says nothing."""
        if frame.event in _TEXT_EVENTS and frame.data and frame.complete and frame.stray is None:
            text = _read_text(frame.data)
            if text:
                self._told = True
                return (TextDelta(text=text),)
        return self._decode(frame)

    def _decode(self, frame: Frame) -> Iterator[Event]:
        failure = house.stray_failure(frame)
        if failure is not None:
            yield failure
        if not frame.complete or (frame.event is None and frame.data is None):
            return
        handler = _HANDLERS.get(frame.event or "")
        if handler is None:
            yield Custom(name=frame.event or "message")
        else:
            yield from handler(self, frame)

    def close(self) -> Iterable[Event]:
        """Nothing: these styles say when they are done."""
        return ()

    def text(self, frame: Frame) -> Iterator[Event]:
        text = frame.text
        if text.startswith("{") and (body := _object(frame)):
            if house.is_foreign(body):
                yield Custom(name=frame.event or "message")
                return
            if house.has_text_key(body):
                text = house.text_of(body)
        if text:
            self._told = True
            yield TextDelta(text=text)

    def tool_start(self, frame: Frame) -> Iterator[Event]:
        yield from self._calls.start(_object(frame))

    def tool_end(self, frame: Frame) -> Iterator[Event]:
        yield from self._calls.end(_object(frame))

    def done(self, frame: Frame) -> Iterator[Event]:
        value = frame.json()
        body = value if isinstance(value, dict) else {}
        if not self._told and (text := house.whole_text_of(value)):
            self._told = True
            yield TextDelta(text=text)
        yield from house.ended(house.finished(body), body)

    def error(self, frame: Frame) -> Iterator[Event]:
        body = _object(frame)
        yield from house.ended(house.failed(body or frame.text), body)

    def ping(self, frame: Frame) -> Iterator[Event]:
        yield Heartbeat()


_HANDLERS: Mapping[str, Callable[[_NamedDecoder, Frame], Iterator[Event]]] = {
    **dict.fromkeys(_TEXT_EVENTS, _NamedDecoder.text),
    "tool_start": _NamedDecoder.tool_start,
    "tool_end": _NamedDecoder.tool_end,
    "done": _NamedDecoder.done,
    "error": _NamedDecoder.error,
    **dict.fromkeys(house.HEARTBEATS, _NamedDecoder.ping),
}


def _object(frame: Frame) -> dict[str, Any]:
    value = frame.json()
    return value if isinstance(value, dict) else {}
