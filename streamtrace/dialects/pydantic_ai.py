"""Pydantic AI: the events of an agent's run, written as JSON by those who stream them themselves.

Rules that hold here (what `pydantic-ai` 2.68.0 yields from `run_stream_events`, as pydantic dumps
it, unless said otherwise):

* Dispatch is on `event_kind`. The library's own wires are other dialects: AG-UI and Vercel's.
* A part may begin with content. Its end repeats all of it, and tells what was not streamed:
  arguments that came whole, and the citations.
* A call of a function or output tool repeats its part. It is told where no part was.
* Deferred requests end the run, as a question. Should a handler answer them, it goes on.
* Ids, models and counts come with `agent_run_result`. Its counts start from zero, so a zero says
  nothing; totals hold their parts. Of its messages, the run's begin at `new_message_index`.
* Failures are exceptions, and have no event: an `error` is what people write in their place.

Source: pydantic_ai.messages, AgentStreamEvent; pydantic_ai.run, AgentRunResultEvent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_REMEMBERED = 256
"""Open parts and known tool calls of one stream, of each; of more, the oldest is forgotten."""
_FAILED = ("failed", "retried")
"""Outcomes of a tool that are errors to the model; a denial is an ordinary result."""

_Fields: TypeAlias = dict[str, Any]


class PydanticAi(Dialect):
    """`AgentStreamEvent` and `AgentRunResultEvent` as JSON, in `data:` or line by line."""

    name = "pydantic-ai"
    marks = marks("event_kind")
    says = says(
        "run thread text reasoning tool_start arguments result model usage finish "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a known `event_kind`; others may be newer ones."""
        kind = as_object(frame.json()).get("event_kind")
        if not isinstance(kind, str):
            return Fit.NO
        return Fit.YES if kind in _HANDLERS else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _PydanticAiDecoder()


# The hot frame: a piece of text, reasoning or arguments.


class _TextPiece(msgspec.Struct, tag_field="part_delta_kind", tag="text", gc=False):
    piece: str = msgspec.field(name="content_delta")


class _ReasoningPiece(msgspec.Struct, tag_field="part_delta_kind", tag="thinking", gc=False):
    piece: str = msgspec.field(name="content_delta")


class _ArgumentsPiece(msgspec.Struct, tag_field="part_delta_kind", tag="tool_call", gc=False):
    piece: str = msgspec.field(name="args_delta")


_Piece: TypeAlias = _TextPiece | _ReasoningPiece | _ArgumentsPiece


class _PartDelta(msgspec.Struct, gc=False):
    event_kind: Literal["part_delta"]
    index: int
    delta: _Piece


_part_delta_decoder = msgspec.json.Decoder(_PartDelta)


class _Call(msgspec.Struct):
    """A tool call that is a part of the answer, or was told without one."""

    id: str
    has_arguments: bool = False
    ready: bool = False


class _PydanticAiDecoder:
    def __init__(self) -> None:
        self._parts: dict[int | None, _Call | None] = {}  # open, by index
        self._calls: dict[str, _Call] = {}
        self._unnamed_calls = 0
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None:
            quick = _read_part_delta(frame.data)
            if quick is not None:
                return self._grow(quick.index, quick.delta)
        value = frame.json()
        if isinstance(value, dict) and isinstance(kind := value.get("event_kind"), str):
            handler = _HANDLERS.get(kind)
            return (ev.Custom(name=kind, value=value),) if handler is None else handler(self, value)
        return _without_kind(frame, value)

    def close(self) -> Iterable[ev.Event]:
        return ()

    # Parts of an answer.

    def _part_start(self, value: _Fields) -> Iterator[ev.Event]:
        part, index = as_object(value.get("part")), _index(value)
        kind = as_id(part.get("part_kind")) or "part_start"
        remember(self._parts, index, None, MAX_REMEMBERED)
        if kind in ("tool-call", "builtin-tool-call"):
            call = self._new_call(part)
            self._parts[index] = call
            yield ev.ToolCallStarted(tool_call_id=call.id, name=as_id(part.get("tool_name")))
            if arguments := as_string(part.get("args")):
                yield from self._grow(index, _ArgumentsPiece(piece=arguments))
            return
        if kind == "thinking":
            yield ev.ReasoningStarted()
        content = as_string(part.get("content")) or ""
        if kind in _CONTENTS and content:
            yield from self._grow(index, _CONTENTS[kind](piece=content))
        elif kind == "builtin-tool-return":
            yield from self._result(part)
        elif kind not in _CONTENTS:
            yield ev.Custom(name=kind, value=part)

    def _part_delta(self, value: _Fields) -> Iterable[ev.Event]:
        delta = as_object(value.get("delta"))
        piece = _read_piece(delta)
        if piece is not None:
            return self._grow(_index(value), piece)
        if delta.get("part_delta_kind") in _KNOWN_DELTAS:  # no text: a signature, or citations
            return ()
        return (ev.Custom(name="part_delta", value=delta),)

    def _part_end(self, value: _Fields) -> Iterator[ev.Event]:
        part = as_object(value.get("part"))
        call = self._parts.pop(_index(value), None)
        if call is not None:
            yield from self._complete(call, part)
        elif part.get("part_kind") == "thinking":
            yield ev.ReasoningFinished()
        yield from _sources(part.get("citations"))

    def _grow(self, index: int | None, piece: _Piece) -> tuple[ev.Event, ...]:
        text = piece.piece
        if not text:
            return ()
        if isinstance(piece, _TextPiece):
            return (ev.TextDelta(text=text),)
        if isinstance(piece, _ReasoningPiece):
            return (ev.ReasoningDelta(text=text),)
        call = self._parts.get(index)
        if call is None:
            return (ev.Custom(name="part_delta", value=text),)
        call.has_arguments = True
        return (ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=text),)

    # Tool calls.

    def _new_call(self, part: _Fields) -> _Call:
        call_id = as_id(part.get("tool_call_id"))
        if call_id is None:
            self._unnamed_calls += 1
            call_id = f"tool-{self._unnamed_calls}"
        call = _Call(call_id)
        remember(self._calls, call_id, call, MAX_REMEMBERED)
        return call

    def _complete(self, call: _Call, part: _Fields) -> Iterator[ev.Event]:
        if not call.ready:
            call.ready = True
            arguments = None if call.has_arguments else _text(part.get("args"))
            yield ev.ToolCallReady(tool_call_id=call.id, arguments=arguments)

    def _tool_call(self, value: _Fields) -> Iterator[ev.Event]:
        yield from self._told_call(as_object(value.get("part")))

    def _told_call(self, part: _Fields) -> Iterator[ev.Event]:
        call = self._calls.get(as_id(part.get("tool_call_id")) or "")
        if call is None:
            call = self._new_call(part)
            yield ev.ToolCallStarted(tool_call_id=call.id, name=as_id(part.get("tool_name")))
        yield from self._complete(call, part)

    def _tool_result(self, value: _Fields) -> Iterator[ev.Event]:
        yield from self._result(as_object(value.get("part") or value.get("result")))

    def _result(self, part: _Fields) -> Iterator[ev.Event]:
        call = self._calls.get(as_id(part.get("tool_call_id")) or "")
        if call is None:
            call = self._new_call(part)
            yield ev.ToolCallStarted(tool_call_id=call.id, name=as_id(part.get("tool_name")))
        asks_again = part.get("part_kind") == "retry-prompt"
        yield ev.ToolCallResult(
            tool_call_id=call.id,
            result=_text(part.get("content")),
            is_error=asks_again or part.get("outcome") in _FAILED,
        )

    # The run.

    def _deferred(self, value: _Fields) -> Iterator[ev.Event]:
        requests = as_object(value.get("requests"))
        for part in _listed(requests, "calls", "approvals"):
            yield from self._told_call(part)
        self._ended = True
        yield _question(requests)

    def _resumed(self, value: _Fields) -> Iterator[ev.Event]:
        if self._ended:
            self._ended = False
            yield ev.RunStarted()
        yield ev.Custom(name=value["event_kind"], value=value)

    def _finished(self, value: _Fields) -> Iterator[ev.Event]:
        result = as_object(value.get("result"))
        run_id, thread_id = as_id(result.get("run_id")), as_id(result.get("conversation_id"))
        yield ev.RunStarted(run_id=run_id, thread_id=thread_id)
        responses = _responses(result)
        yield from _usages(result, responses)
        reason = as_id(responses[-1].get("finish_reason")) if responses else None
        if reason is not None:
            yield ev.GenerationFinished(finish_reasons=(reason,))
        output = as_object(result.get("output"))
        self._ended = True
        if {"calls", "approvals"} <= output.keys() and any(_listed(output, "calls", "approvals")):
            yield _question(output)
        else:
            yield ev.RunFinished(run_id=run_id, thread_id=thread_id)

    def _error(self, value: _Fields) -> Iterator[ev.Event]:
        yield _failure(value)

    def _nothing(self, value: _Fields) -> Iterable[ev.Event]:
        return ()

    def _as_custom(self, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=as_id(value.get("name")) or value["event_kind"], value=value)


_Handler: TypeAlias = Callable[[_PydanticAiDecoder, _Fields], Iterable[ev.Event]]

_HANDLERS: Mapping[str, _Handler] = {
    "part_start": _PydanticAiDecoder._part_start,
    "part_delta": _PydanticAiDecoder._part_delta,
    "part_end": _PydanticAiDecoder._part_end,
    "final_result": _PydanticAiDecoder._nothing,
    "function_tool_call": _PydanticAiDecoder._tool_call,
    "function_tool_result": _PydanticAiDecoder._tool_result,
    "output_tool_call": _PydanticAiDecoder._tool_call,
    "output_tool_result": _PydanticAiDecoder._tool_result,
    "deferred_tool_requests": _PydanticAiDecoder._deferred,
    "deferred_tool_results": _PydanticAiDecoder._resumed,
    "agent_run_result": _PydanticAiDecoder._finished,
    "error": _PydanticAiDecoder._error,
    **dict.fromkeys(
        (
            "custom", "capability", "enqueued_messages", "tool_availability_delta",
            "capability_load_delta", "model_settings_delta",
        ),
        _PydanticAiDecoder._as_custom,
    ),
}  # fmt: skip

_CONTENTS: Mapping[str, type[_TextPiece] | type[_ReasoningPiece]] = {
    "text": _TextPiece,
    "thinking": _ReasoningPiece,
}
_KNOWN_DELTAS = ("text", "thinking", "tool_call")

_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
}


def _read_part_delta(data: bytes) -> _PartDelta | None:
    try:
        return _part_delta_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _read_piece(delta: _Fields) -> _Piece | None:
    try:
        piece: _Piece = msgspec.convert(delta, _Piece)
    except (msgspec.ValidationError, UnicodeError):
        return None
    return piece


def _without_kind(frame: Frame, value: Any) -> tuple[ev.Event, ...]:
    """Frames that people put between the events, to end the stream or tell of an exception."""
    if frame.data is None or not frame.complete or frame.data == b"[DONE]":
        return ()
    fields = as_object(value)
    if frame.event == "error" or fields.get("error"):
        return (_failure(fields or {"error": frame.text}),)
    return (ev.Custom(name=frame.event or "unknown", value=frame.text if value is None else value),)


def _failure(value: _Fields) -> ev.RunFailed:
    facts = as_object(value.get("error")) or value
    message = as_string(facts.get("message")) or as_string(facts.get("error"))
    return ev.RunFailed(type=as_id(facts.get("type")) or as_id(facts.get("code")), message=message)


def _question(requests: _Fields) -> ev.RunInterrupted:
    """Calls wait to be made elsewhere, or to be approved."""
    for reason in ("approvals", "calls"):
        for part in _listed(requests, reason):
            call_id = as_id(part.get("tool_call_id"))
            return ev.RunInterrupted(reason=reason, tool_call_id=call_id)
    return ev.RunInterrupted()


def _responses(result: _Fields) -> list[_Fields]:
    """What the models of this run answered."""
    messages = result.get("messages")
    first = as_count(result.get("new_message_index")) or 0
    new = messages[first:] if isinstance(messages, list) else []
    return [one for one in new if isinstance(one, dict) and one.get("kind") == "response"]


def _usages(result: _Fields, responses: list[_Fields]) -> Iterator[ev.Usage]:
    """The run's usage by model, or all of it where the models are not told."""
    totals: dict[tuple[str | None, str | None], dict[str, int]] = {}
    for response in responses:
        key = (as_id(response.get("provider_name")), as_id(response.get("model_name")))
        total = totals.setdefault(key, dict.fromkeys(_COUNTS, 0))
        for name, count in _counts(response).items():
            total[name] += count
    if len(totals) < 2 and result.get("usage"):  # holds what dropped answers used as well
        totals = {next(iter(totals), (None, None)): _counts(result)}
    for (provider, model), total in totals.items():
        told = {name: count or None for name, count in total.items()}
        if told["input_tokens"] or told["output_tokens"]:
            yield ev.Usage(**told, provider=provider, model=model, scope="run")


def _counts(of: _Fields) -> dict[str, int]:
    usage = as_object(of.get("usage"))
    return {name: as_count(usage.get(key)) or 0 for name, key in _COUNTS.items()}


def _sources(citations: Any) -> Iterator[ev.Source]:
    for citation in citations if isinstance(citations, list) else ():
        for source in _listed(as_object(citation), "sources"):
            yield ev.Source(url=as_string(source.get("url")), title=as_string(source.get("title")))


def _listed(value: _Fields, *keys: str) -> Iterator[_Fields]:
    for key in keys:
        listed = value.get(key)
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict):
                yield one


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dump_json(value)


def _index(value: _Fields) -> int | None:
    index = value.get("index")
    return index if isinstance(index, int) else None
