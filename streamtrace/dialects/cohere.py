"""Cohere chat, version 2: one model response, with its plan, its tool calls and its citations.

Rules that hold here (what `cohere` 7.3 types and yields, unless said otherwise):

* Dispatch is on the JSON `type`. Cohere names its events by it; vLLM, which speaks this dialect as
  well, writes no names and ends with `[DONE]`.
* The plan that comes before tool calls is reasoning, like the content blocks of type `thinking`.
* Of the two counts the wire gives, `tokens` is what the model saw and wrote; `billed_units` is what
  it costs, and is not read. A cached token is one of the input. Servers that use Cohere's own types
  write counts as floats.
* `message-end` ends the run, whatever its reason; the reasons `ERROR` and `TIMEOUT` fail it.

Source: docs.cohere.com/v2/docs/streaming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

PROVIDER = "cohere"
MAX_OPEN = 256
"""Content blocks and tool calls that may be open at once, of each; the oldest is forgotten."""

_NO_NAMES = (None, "", "message")
_HOT_NAMES = (*_NO_NAMES, "content-delta")
_FAILURES = ("ERROR", "TIMEOUT")

_Fields: TypeAlias = dict[str, Any]


class Cohere(Dialect):
    """The chat API of Cohere, version 2."""

    name = "cohere"
    marks = marks("type")
    says = says("run text reasoning tool_start arguments usage finish error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a type of the table with a `delta`; what has only an index may be another's."""
        value = as_object(frame.json())
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in _HANDLERS:
            return Fit.NO
        if frame.event not in (*_NO_NAMES, kind):
            return Fit.NO
        return Fit.YES if isinstance(value.get("delta"), dict) else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _CohereDecoder()


# The hot frame: a piece of text or reasoning.


class _Content(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: _Content


class _Delta(msgspec.Struct, gc=False):
    message: _Message


class _ContentDelta(msgspec.Struct, gc=False):
    type: Literal["content-delta"]
    delta: _Delta


_content_delta_decoder = msgspec.json.Decoder(_ContentDelta)


class _CohereDecoder:
    def __init__(self) -> None:
        self._message_id: str | None = None
        self._thinking: dict[int | None, None] = {}  # open blocks by index
        self._calls: dict[int | None, str] = {}  # open calls: index -> id
        self._unnamed_calls = 0

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.event in _HOT_NAMES and frame.data is not None:
            quick = _read_content_delta(frame.data)
            if quick is not None:
                return self._pieces(quick.delta.message.content)
        value = frame.json()
        if isinstance(value, dict) and isinstance(kind := value.get("type"), str):
            handler = _HANDLERS.get(kind)
            return (ev.Custom(name=kind, value=value),) if handler is None else handler(self, value)
        return _without_type(frame, value)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _pieces(self, content: _Content) -> list[ev.Event]:
        events: list[ev.Event] = []
        if content.thinking:
            events.append(ev.ReasoningDelta(text=content.thinking, message_id=self._message_id))
        if content.text:
            events.append(ev.TextDelta(text=content.text, message_id=self._message_id))
        return events

    def _message_start(self, value: _Fields) -> Iterator[ev.Event]:
        self._message_id = as_id(value.get("id"))
        self._thinking.clear()
        self._calls.clear()
        yield ev.RunStarted(run_id=self._message_id)
        yield ev.GenerationStarted(response_id=self._message_id, provider=PROVIDER)
        role = as_string(_message(value).get("role"))
        yield ev.MessageStarted(message_id=self._message_id, role=role)

    def _content_start(self, value: _Fields) -> Iterator[ev.Event]:
        content = as_object(_message(value).get("content"))
        if content.get("type") == "thinking":
            remember(self._thinking, _index(value), None, MAX_OPEN)
            yield ev.ReasoningStarted(message_id=self._message_id)
        yield from self._content_delta(value)

    def _content_delta(self, value: _Fields) -> Iterable[ev.Event]:
        content = as_object(_message(value).get("content"))
        texts = {key: as_string(content.get(key)) for key in _Content.__struct_fields__}
        return self._pieces(_Content(**texts))

    def _content_end(self, value: _Fields) -> Iterator[ev.Event]:
        if _index(value) in self._thinking:
            del self._thinking[_index(value)]
            yield ev.ReasoningFinished(message_id=self._message_id)

    def _plan(self, value: _Fields) -> Iterator[ev.Event]:
        if text := as_string(_message(value).get("tool_plan")):
            yield ev.ReasoningDelta(text=text, message_id=self._message_id)

    def _call_start(self, value: _Fields) -> Iterator[ev.Event]:
        call = as_object(_message(value).get("tool_calls"))
        call_id = as_id(call.get("id"))
        if call_id is None:
            self._unnamed_calls += 1
            call_id = f"tool-{self._unnamed_calls}"
        remember(self._calls, _index(value), call_id, MAX_OPEN)
        name = as_id(as_object(call.get("function")).get("name"))
        yield ev.ToolCallStarted(tool_call_id=call_id, name=name)
        yield from self._call_delta(value)

    def _call_delta(self, value: _Fields) -> Iterator[ev.Event]:
        call = as_object(_message(value).get("tool_calls"))
        delta = as_string(as_object(call.get("function")).get("arguments"))
        call_id = self._calls.get(_index(value))
        if call_id is None:
            yield ev.Custom(name="tool-call-delta", value=value)
        elif delta:
            yield ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta)

    def _call_end(self, value: _Fields) -> Iterator[ev.Event]:
        call_id = self._calls.pop(_index(value), None)
        if call_id is not None:
            yield ev.ToolCallReady(tool_call_id=call_id)

    def _citation(self, value: _Fields) -> Iterator[ev.Event]:
        sources = as_object(_message(value).get("citations")).get("sources")
        for source in map(as_object, sources if isinstance(sources, list) else ()):
            facts = as_object(source.get("document") or source.get("tool_output"))
            yield ev.Source(url=as_string(facts.get("url")), title=as_string(facts.get("title")))

    def _message_end(self, value: _Fields) -> Iterator[ev.Event]:
        delta = as_object(value.get("delta"))
        usage = _usage(as_object(delta.get("usage")))
        if usage != ev.Usage():
            yield usage
        reason, error = as_id(delta.get("finish_reason")), as_string(delta.get("error"))
        if reason is not None:
            yield ev.GenerationFinished(finish_reasons=(reason,))
        if error is not None or reason in _FAILURES:
            yield ev.RunFailed(type=reason, message=error)
            return
        yield ev.MessageFinished(message_id=self._message_id)
        yield ev.RunFinished(run_id=self._message_id)

    def _as_custom(self, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=value["type"], value=value)

    def _nothing(self, value: _Fields) -> Iterable[ev.Event]:
        return ()


_Handler: TypeAlias = Callable[[_CohereDecoder, _Fields], Iterable[ev.Event]]

_HANDLERS: Mapping[str, _Handler] = {
    "message-start": _CohereDecoder._message_start,
    "content-start": _CohereDecoder._content_start,
    "content-delta": _CohereDecoder._content_delta,
    "content-end": _CohereDecoder._content_end,
    "tool-plan-delta": _CohereDecoder._plan,
    "tool-call-start": _CohereDecoder._call_start,
    "tool-call-delta": _CohereDecoder._call_delta,
    "tool-call-end": _CohereDecoder._call_end,
    "citation-start": _CohereDecoder._citation,
    "citation-end": _CohereDecoder._nothing,
    "message-end": _CohereDecoder._message_end,
    "debug": _CohereDecoder._as_custom,
}


def _read_content_delta(data: bytes) -> _ContentDelta | None:
    try:
        return _content_delta_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _message(value: _Fields) -> _Fields:
    return as_object(as_object(value.get("delta")).get("message"))


def _without_type(frame: Frame, value: Any) -> tuple[ev.Event, ...]:
    """Frames that are no event: the sentinel, and the error document of the API."""
    if frame.data is None or not frame.complete or frame.data == b"[DONE]":
        return ()
    message = as_string(as_object(value).get("message"))
    if message is not None or frame.event == "error":
        return (ev.RunFailed(message=message or frame.text),)
    return (ev.Custom(name=frame.event or "unknown", value=frame.text if value is None else value),)


def _usage(usage: _Fields) -> ev.Usage:
    tokens = as_object(usage.get("tokens"))
    return ev.Usage(
        input_tokens=_count(tokens.get("input_tokens")),
        output_tokens=_count(tokens.get("output_tokens")),
        cached_input_tokens=_count(usage.get("cached_tokens")),
    )


def _count(value: Any) -> int | None:
    return as_count(int(value) if isinstance(value, float) and value.is_integer() else value)


def _index(value: _Fields) -> int | None:
    index = value.get("index")
    return index if isinstance(index, int) else None
