"""LangServe: what a LangChain runnable streams, chunk by chunk.

Rules that hold here (langserve 0.3, `/stream` and `/stream_log`):

* `event: metadata` names the run, `event: data` holds a chunk, `event: end` has no data, and
  `event: error` ends a stream as well.
* A chunk is what the runnable makes: text, a message's chunk, or an object that is added to those
  before it. Of an object, messages are told, the documents of its `context` are sources, and its
  answer is text, unless its messages said it.
* `/stream_log` says what to patch in a log of the run (RFC 6902). That is a change of state, and
  what it adds to `/streamed_output` are the same chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, load_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.langchain import (
    failure_of,
    is_ai,
    message_of,
    messages_in,
    sources_in,
)
from streamtrace.dialects.langchain_events import is_event
from streamtrace.dialects.langchain_messages import (
    Events,
    Facts,
    HotChunk,
    Messages,
)

_SOURCE = "stream"
_FACTS = Facts()
_ANSWERS = ("answer", "output")
"""Keys under which chains and agents put what they say."""


class LangServe(Dialect):
    """The streams of LangServe, but for `/stream_events`."""

    name = "langserve"
    marks = marks("end metadata error data")
    says = says("run text reasoning tool_start arguments result model usage finish error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a message's chunk or a patch of a log under `event: data`."""
        value = frame.json()
        if frame.event == "end":
            return Fit.MAYBE if frame.data is None else Fit.NO
        keys = value.keys() if isinstance(value, dict) else ()
        if frame.event in _KEYS:
            return Fit.MAYBE if keys == _KEYS[frame.event] else Fit.NO
        if frame.event != "data" or is_event(value):
            return Fit.NO
        is_chunk = isinstance(value, dict) and value.get("type") == "AIMessageChunk"
        return Fit.YES if is_chunk or keys == {"ops"} else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _LangServeDecoder()


_KEYS = {"metadata": {"run_id"}, "error": {"status_code", "message"}}


_FEWEST_BYTES = 100
"""A chunk of a message has more than this in its keys alone."""
_hot_decoder = msgspec.json.Decoder(HotChunk)


def _read_hot(data: bytes) -> HotChunk | None:
    try:
        return _hot_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _LangServeDecoder:
    def __init__(self) -> None:
        self._messages = Messages()
        self._run_id: str | None = None
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.event == "data" and frame.data is not None and frame.complete:
            if frame.data.startswith(b'"') and isinstance(text := load_json(frame.data), str):
                return (ev.TextDelta(text=text),) if text else ()
            hot = _read_hot(frame.data) if len(frame.data) > _FEWEST_BYTES else None
            if hot is not None and (events := self._messages.more(hot, _SOURCE)):
                return events
        handler = _FRAMES.get(frame.event or "")
        if handler is not None and frame.complete:
            return handler(self, frame)
        return _pass_on(frame)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _metadata(self, frame: Frame) -> Iterator[ev.Event]:
        self._run_id = as_id(as_object(frame.json()).get("run_id"))
        yield ev.RunStarted(run_id=self._run_id)

    def _data(self, frame: Frame) -> Iterable[ev.Event]:
        chunk = frame.json()
        if isinstance(chunk, dict) and isinstance(chunk.get("ops"), list):
            return self._patch(chunk["ops"])
        events = self._chunk(chunk)
        return _pass_on(frame) if events is None else events

    def _patch(self, ops: list[Any]) -> Iterator[ev.Event]:
        for op in map(as_object, ops):
            if op.get("path") == "" and self._run_id is None:
                self._run_id = as_id(as_object(op.get("value")).get("id"))
                yield ev.RunStarted(run_id=self._run_id)
            elif op.get("path") == "/streamed_output/-":
                yield from self._chunk(op.get("value")) or ()
        yield ev.State(value=ops, is_delta=True)

    def _chunk(self, chunk: Any) -> Events | None:
        """What it says, or `None` for what nobody knows."""
        message = message_of(chunk)
        if message is not None:
            return self._messages.chunk(message, _SOURCE, _FACTS)
        if isinstance(chunk, str):
            return [ev.TextDelta(text=chunk)] if chunk else []
        return self._read_object(as_object(chunk))

    def _read_object(self, chunk: dict[str, Any]) -> Events | None:
        """What a chain, an agent or a graph adds to its answer."""
        if len(chunk) == 1:
            [(key, only)] = chunk.items()
            if key in _ANSWERS and isinstance(only, str):
                return [ev.TextDelta(text=only)] if only else []
        parts = list(chunk.values())
        messages = messages_in(chunk) or [one for part in parts for one in messages_in(part)]
        events = [one for wire in messages for one in self._messages.chunk(wire, _SOURCE, _FACTS)]
        events += [source for part in parts for source in sources_in(part)]
        if any(map(is_ai, messages)):
            return events
        answers = [one for key in _ANSWERS if isinstance(one := chunk.get(key), str)]
        events += [ev.TextDelta(text=answer) for answer in answers if answer]
        return events if events or messages or answers else None

    def _end(self, frame: Frame) -> Iterator[ev.Event]:
        if not self._ended:
            self._ended = True
            yield ev.RunFinished(run_id=self._run_id)

    def _error(self, frame: Frame) -> Iterator[ev.Event]:
        self._ended = True
        yield failure_of(frame)


_FRAMES: Mapping[str, Callable[[_LangServeDecoder, Frame], Iterable[ev.Event]]] = {
    "metadata": _LangServeDecoder._metadata,
    "data": _LangServeDecoder._data,
    "end": _LangServeDecoder._end,
    "error": _LangServeDecoder._error,
}


def _pass_on(frame: Frame) -> tuple[ev.Event, ...]:
    if frame.data is None or not frame.complete:
        return ()
    value = frame.json()
    return (ev.Custom(name=frame.event or "unknown", value=frame.text if value is None else value),)
