"""Anthropic Messages: one model response as a stream of content blocks.

Rules that hold here (what `anthropic` 2.10 accumulates from the same bytes, unless said otherwise):

* Dispatch is on the JSON `type`, never on the `event:` line, which some proxies drop.
* All blocks of a response share its id as `message_id`: the text of one answer joins.
* Usage is that of `message_start`, overlaid field by field by each `message_delta`; nothing is
  summed. The wire counts cached input beside the input, so the total is put together here.
* A second `message_start` before the end restarts the response (a server that retried). The SDK
  appends the retry to the first attempt; here it is a generation of its own.
* A response without `message_stop` was cut, whatever stop reason it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.anthropic import AnthropicEncoder

PROVIDER = "anthropic"
_NO_NAMES = (None, "", "message")
"""Event names that mean none: what a reader takes for granted, some writers write down."""
_HOT_NAMES = (*_NO_NAMES, "content_block_delta")
MAX_OPEN_BLOCKS = 64
"""Blocks of one response that may be open at once; of more, the oldest is forgotten."""


class Anthropic(Dialect):
    """The Messages API of Anthropic, as providers and gateways stream it."""

    name = "anthropic"
    marks = marks("type")
    plain_deltas = True
    says = says("run text reasoning tool_start arguments result model usage finish error terminal")
    encodes = frozenset(AnthropicEncoder.table) - {ev.RunInterrupted, ev.RunCancelled}
    """Both are written, as the end of a message: the wire has no word for them."""

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a named event whose name repeats its type, and of any `message_start`.

        `ping` and `error` may be anyone's.
        """
        value = as_object(frame.json())
        kind = value.get("type")
        if not isinstance(kind, str) or kind not in _HANDLERS:
            return Fit.NO
        if frame.event not in (*_NO_NAMES, kind):
            return Fit.NO
        if kind == "error":
            error = as_object(value.get("error"))
            return Fit.MAYBE if {"type", "message"} <= error.keys() else Fit.NO
        named = frame.event == kind and kind != "ping"
        return Fit.YES if named or isinstance(value.get("message"), dict) else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _AnthropicDecoder()

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return AnthropicEncoder(envelope)


# The hot frames: a piece of text, reasoning or arguments.


class _TextPiece(msgspec.Struct, tag_field="type", tag="text_delta", gc=False):
    piece: str = msgspec.field(name="text")


class _ReasoningPiece(msgspec.Struct, tag_field="type", tag="thinking_delta", gc=False):
    piece: str = msgspec.field(name="thinking")


class _ArgumentsPiece(msgspec.Struct, tag_field="type", tag="input_json_delta", gc=False):
    piece: str = msgspec.field(name="partial_json")


_Piece: TypeAlias = _TextPiece | _ReasoningPiece | _ArgumentsPiece


class _BlockDelta(msgspec.Struct, gc=False):
    type: Literal["content_block_delta"]
    delta: _Piece
    index: int | None = None


_block_delta_decoder = msgspec.json.Decoder(_BlockDelta)


class _AnthropicDecoder:
    def __init__(self) -> None:
        self._run_id: str | None = None
        self._run_open = False
        self._message_id: str | None = None
        self._usage: dict[str, int] = {}
        self._at_stop: dict[int | None, ev.Event] = {}  # by block index
        self._unnamed_tools = 0

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.event in _HOT_NAMES and frame.data is not None:
            quick = _read_block_delta(frame.data)
            if quick is not None:
                return self._grow(quick.index, quick.delta)
        value = frame.json()
        if isinstance(value, dict) and isinstance(kind := value.get("type"), str):
            handler = _HANDLERS.get(kind)
            return (ev.Custom(name=kind, value=value),) if handler is None else handler(self, value)
        return _without_type(frame, value)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _message_start(self, value: dict[str, Any]) -> Iterator[ev.Event]:
        message = as_object(value.get("message"))
        self._message_id = as_id(message.get("id"))
        self._at_stop.clear()
        self._usage.clear()
        if not self._run_open:
            self._run_open = True
            self._run_id = self._message_id
            yield ev.RunStarted(run_id=self._run_id)
        yield ev.GenerationStarted(
            response_id=self._message_id, model=as_string(message.get("model")), provider=PROVIDER
        )
        yield ev.MessageStarted(message_id=self._message_id, role=as_string(message.get("role")))
        yield from self._report_usage(message.get("usage"))

    def _message_delta(self, value: dict[str, Any]) -> Iterator[ev.Event]:
        yield from self._report_usage(value.get("usage"))
        stop_reason = as_string(as_object(value.get("delta")).get("stop_reason"))
        if stop_reason is not None:
            yield ev.GenerationFinished(finish_reasons=(stop_reason,))

    def _message_stop(self, value: dict[str, Any]) -> Iterator[ev.Event]:
        self._run_open = False
        yield ev.MessageFinished(message_id=self._message_id)
        yield ev.RunFinished(run_id=self._run_id)

    def _error(self, value: dict[str, Any]) -> Iterator[ev.Event]:
        self._run_open = False
        error = value.get("error")
        yield ev.RunFailed(
            type=as_string(as_object(error).get("type")),
            message=as_string(as_object(error).get("message")) or as_string(error),
        )

    def _ping(self, value: dict[str, Any]) -> Iterator[ev.Event]:
        yield ev.Heartbeat()

    def _report_usage(self, usage: Any) -> Iterator[ev.Event]:
        usage = as_object(usage)
        details = as_object(usage.get("output_tokens_details"))
        given = {**usage, "thinking_tokens": details.get("thinking_tokens")}
        news = {key: count for key in _COUNTS if (count := as_count(given.get(key))) is not None}
        if not news:
            return
        total = self._usage
        total.update(news)
        cached = total.get("cache_read_input_tokens")
        written = total.get("cache_creation_input_tokens")
        uncached = total.get("input_tokens")
        yield ev.Usage(
            input_tokens=None if uncached is None else uncached + (cached or 0) + (written or 0),
            output_tokens=total.get("output_tokens"),
            cached_input_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=total.get("thinking_tokens"),
        )

    def _block_start(self, value: dict[str, Any]) -> Iterable[ev.Event]:
        block = as_object(value.get("content_block"))
        kind = as_string(block.get("type")) or "content_block_start"
        handler = _BLOCKS.get(kind)
        if handler is not None:
            return handler(self, _index(value), block)
        call_id = as_id(block.get("tool_use_id"))
        if kind.endswith("_tool_result") and call_id is not None:
            return (_tool_result(call_id, block),)
        return (ev.Custom(name=kind, value=block),)

    def _block_delta(self, value: dict[str, Any]) -> Iterable[ev.Event]:
        delta = as_object(value.get("delta"))
        piece = _read_piece(delta)
        if piece is not None:
            return self._grow(_index(value), piece)
        match delta:
            case {"type": "signature_delta"}:
                return ()
            case {"type": "citations_delta", "citation": dict(citation)}:
                return (_source(citation),)
        return (ev.Custom(name=as_string(delta.get("type")) or "content_block_delta", value=delta),)

    def _block_stop(self, value: dict[str, Any]) -> Iterable[ev.Event]:
        closing = self._at_stop.pop(_index(value), None)
        return () if closing is None else (closing,)

    def _grow(self, index: int | None, piece: _Piece) -> tuple[ev.Event, ...]:
        text = piece.piece
        if isinstance(piece, _TextPiece):
            return (ev.TextDelta(text=text, message_id=self._message_id),)
        if isinstance(piece, _ReasoningPiece):
            return (ev.ReasoningDelta(text=text, message_id=self._message_id),)
        if not text:
            return ()
        closing = self._at_stop.get(index)
        if not isinstance(closing, ev.ToolCallReady):
            return (ev.Custom(name="input_json_delta", value=text),)
        if closing.arguments is not None:  # what is streamed replaces what was given whole
            self._at_stop[index] = ev.ToolCallReady(tool_call_id=closing.tool_call_id)
        return (ev.ToolCallArgumentsDelta(tool_call_id=closing.tool_call_id, delta=text),)

    def _text_block(self, index: int | None, block: dict[str, Any]) -> Iterator[ev.Event]:
        if text := as_string(block.get("text")):
            yield ev.TextDelta(text=text, message_id=self._message_id)
        citations = block.get("citations")
        for citation in citations if isinstance(citations, list) else ():
            yield _source(as_object(citation))

    def _reasoning_block(self, index: int | None, block: dict[str, Any]) -> Iterator[ev.Event]:
        self._await_stop(index, ev.ReasoningFinished(message_id=self._message_id))
        yield ev.ReasoningStarted(message_id=self._message_id)
        if text := as_string(block.get("thinking")):
            yield ev.ReasoningDelta(text=text, message_id=self._message_id)

    def _tool_block(self, index: int | None, block: dict[str, Any]) -> Iterator[ev.Event]:
        call_id = as_id(block.get("id"))
        if call_id is None:
            self._unnamed_tools += 1
            call_id = f"tool-{self._unnamed_tools}"
        given = block.get("input")
        arguments = dump_json(given) if given else None
        self._await_stop(index, ev.ToolCallReady(tool_call_id=call_id, arguments=arguments))
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(block.get("name")))

    def _fallback_block(self, index: int | None, block: dict[str, Any]) -> Iterator[ev.Event]:
        model = as_string(as_object(block.get("to")).get("model"))
        yield ev.GenerationStarted(response_id=self._message_id, model=model, provider=PROVIDER)

    def _await_stop(self, index: int | None, closing: ev.Event) -> None:
        remember(self._at_stop, index, closing, MAX_OPEN_BLOCKS)


_Handler: TypeAlias = Callable[[_AnthropicDecoder, dict[str, Any]], Iterable[ev.Event]]
_BlockHandler: TypeAlias = Callable[
    [_AnthropicDecoder, int | None, dict[str, Any]], Iterable[ev.Event]
]

_HANDLERS: Mapping[str, _Handler] = {
    "message_start": _AnthropicDecoder._message_start,
    "content_block_start": _AnthropicDecoder._block_start,
    "content_block_delta": _AnthropicDecoder._block_delta,
    "content_block_stop": _AnthropicDecoder._block_stop,
    "message_delta": _AnthropicDecoder._message_delta,
    "message_stop": _AnthropicDecoder._message_stop,
    "ping": _AnthropicDecoder._ping,
    "error": _AnthropicDecoder._error,
}

_BLOCKS: Mapping[str, _BlockHandler] = {
    "text": _AnthropicDecoder._text_block,
    "thinking": _AnthropicDecoder._reasoning_block,
    "redacted_thinking": _AnthropicDecoder._reasoning_block,
    "tool_use": _AnthropicDecoder._tool_block,
    "server_tool_use": _AnthropicDecoder._tool_block,
    "mcp_tool_use": _AnthropicDecoder._tool_block,
    "fallback": _AnthropicDecoder._fallback_block,
}

_COUNTS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "thinking_tokens",
)


def _read_block_delta(data: bytes) -> _BlockDelta | None:
    try:
        return _block_delta_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _read_piece(delta: dict[str, Any]) -> _Piece | None:
    try:
        piece: _Piece = msgspec.convert(delta, _Piece)
    except (msgspec.ValidationError, UnicodeError):
        return None
    return piece


def _without_type(frame: Frame, value: Any) -> tuple[ev.Event, ...]:
    """Frames that are no message of ours: gateways add such."""
    if frame.event == "ping":
        return (ev.Heartbeat(),)
    if frame.data is None or not frame.complete or frame.data == b"[DONE]":
        return ()
    if frame.event == "error":
        return (ev.RunFailed(message=frame.text),)
    return (ev.Custom(name=frame.event or "unknown", value=frame.text if value is None else value),)


def _tool_result(call_id: str, block: dict[str, Any]) -> ev.ToolCallResult:
    content = block.get("content")
    content_type = as_string(as_object(content).get("type")) or ""
    return ev.ToolCallResult(
        tool_call_id=call_id,
        result=(content or None) if isinstance(content, str) else dump_json(content),
        is_error=block.get("is_error") is True or content_type.endswith("_error"),
    )


def _source(citation: dict[str, Any]) -> ev.Source:
    return ev.Source(
        url=as_word(citation.get("url")),
        title=as_word(citation.get("title")) or as_word(citation.get("document_title")),
    )


def _index(value: dict[str, Any]) -> int | None:
    index = value.get("index")
    return index if isinstance(index, int) else None
