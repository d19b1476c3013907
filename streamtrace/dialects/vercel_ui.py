"""Vercel AI SDK: the UI message stream of `ai` 5 to 7, which `useChat` reads.

Rules that hold here (as `readUIMessageStream` of `ai` 7.0 builds a message, unless said otherwise):

* A step is one call of the model. A step that begins while tools are still at work (LangGraph's
  adapter gives their results a step of its own) is one only when the model speaks in it.
* Ids of text may be used again once their part has ended; later parts of the same id are numbered.
* The protocol knows neither usage nor model: they are read from `messageMetadata`, at the paths
  that the user gives, else where it is common. `totalUsage`, and whatever comes with `start` or
  `finish`, counts the run; the rest the step. A model holds until another is named.
* A model named between two steps is that of the step before, if that one was given none of its own
  (`ai` 6 sends a step's metadata behind the step), else of the next.
* Input is required if at `finish` a tool waits for approval, or has its arguments and no result:
  then the client is to run it. What the provider runs, or has sent preliminary results, waits for
  nobody; nor does what was called before the model went on.
* The end is `finish`, `abort` or `error`; what follows is usage at most. `[DONE]` is the end of a
  run that said none of these, unless a step was open: then it was stopped.
* Preliminary results are progress, and become `Custom`. The result of a call that an earlier
  response announced (it was approved meanwhile) begins that call here, without its name.

Source: https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol, and the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import (
    MAX_ID_CHARS,
    as_id,
    as_object,
    as_string,
    dump_json,
)
from streamtrace.dialects import house
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.vercel_ui import (
    APPROVAL,
    DONE,
    INTERRUPT,
    TOOL_CALL,
    VercelUIEncoder,
)
from streamtrace.dialects.vercel_metadata import Counted, MetadataReader, Model

MAX_REMEMBERED = 1024
"""Tool calls and ids of text that one stream keeps in mind, of each."""

HEADER = "x-vercel-ai-ui-message-stream"
_Fields: TypeAlias = dict[str, Any]


class VercelUI(Dialect):
    """The UI message stream.

    usage_path, model_path   where an app's `messageMetadata` holds them, as dotted paths such as
                             "custom.tokens". By default they are looked for where they usually are.

    Raises ConfigError for a path that is none.
    """

    name = "vercel-ui"
    marks = marks(f"type {HEADER}")
    plain_deltas = True
    says = says(
        "run text reasoning tool_start arguments result model usage finish input_required "
        "error terminal"
    )
    encodes = frozenset(VercelUIEncoder.table)
    response_headers: ClassVar[Mapping[str, str]] = {
        HEADER: "v1",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
    }

    def __init__(self, *, usage_path: str | None = None, model_path: str | None = None) -> None:
        self._metadata = MetadataReader(usage_path, model_path)

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure by the header, and by kinds that have the keys that only this protocol gives them.

        assistant-ui has a `text-delta` and an `error` too, with a `path`.
        """
        if frame.data is None:
            return Fit.NO
        if HEADER in head.headers:
            return Fit.YES
        if frame.event not in (None, "", "message"):
            return Fit.NO
        value = as_object(frame.json())
        kind = value.get("type")
        if not isinstance(kind, str):
            return Fit.MAYBE if frame.data.strip() == DONE else Fit.NO
        needs = ("data",) if kind.startswith("data-") else _SURE.get(kind)
        if needs is not None and value.keys() >= {*needs} and "path" not in value:
            return Fit.YES
        return Fit.MAYBE if value.keys() <= _PERHAPS.get(kind, frozenset()) else Fit.NO

    def open(self, head: Head) -> Decoder:
        """A decoder. The id of the chat stands in the request of the SDK's own transport."""
        request = as_object(head.request)
        chat = as_id(request.get("id")) if isinstance(request.get("messages"), list) else None
        return _VercelUIDecoder(self._metadata, chat)

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return self.open(Head())

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream, for clients with `ai` 6 or 7. Send `response_headers` too."""
        return VercelUIEncoder()


_SURE: Mapping[str, tuple[str, ...]] = {
    "start-step": (),
    "finish-step": (),
    "reset-step": (),
    "text-start": ("id",),
    "text-delta": ("id", "delta"),
    "text-end": ("id",),
    "reasoning-start": ("id",),
    "reasoning-delta": ("id", "delta"),
    "reasoning-end": ("id",),
    "tool-input-start": ("toolCallId", "toolName"),
    "tool-input-delta": ("toolCallId", "inputTextDelta"),
    "tool-input-available": ("toolCallId", "toolName"),
    "tool-input-error": ("toolCallId", "errorText"),
    "tool-output-available": ("toolCallId",),
    "tool-output-error": ("toolCallId", "errorText"),
    "tool-output-denied": ("toolCallId",),
    "tool-approval-request": ("approvalId", "toolCallId"),
    "tool-approval-response": ("approvalId", "approved"),
    "source-url": ("sourceId", "url"),
    "source-document": ("sourceId", "mediaType"),
    "message-metadata": ("messageMetadata",),
    "error": ("errorText",),
}
_PERHAPS: Mapping[str, frozenset[str]] = {
    "start": frozenset(("type", "messageId", "messageMetadata")),
    "finish": frozenset(("type", "finishReason", "messageMetadata")),
    "abort": frozenset(("type", "reason")),
    "file": frozenset(("type", "url", "mediaType", "providerMetadata")),
    "custom": frozenset(("type", "kind", "providerMetadata")),
}
"""Kinds that others have as well, and the only keys they have here."""


# The hot frames: a piece of text, reasoning or arguments.

_Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]


class _Text(msgspec.Struct, tag_field="type", tag="text-delta", gc=False):
    id: _Id
    delta: str


class _Reasoning(msgspec.Struct, tag_field="type", tag="reasoning-delta", gc=False):
    id: _Id
    delta: str


class _Arguments(
    msgspec.Struct, tag_field="type", tag="tool-input-delta", rename="camel", gc=False
):
    tool_call_id: _Id
    input_text_delta: str


_Piece: TypeAlias = _Text | _Reasoning | _Arguments
_piece_decoder: msgspec.json.Decoder[_Piece] = msgspec.json.Decoder(_Piece)


class _Call(msgspec.Struct):
    waits: str | None = None  # for whom: APPROVAL or TOOL_CALL, if for the user's side
    approval_id: str | None = None
    streamed: bool = False  # its arguments came in deltas
    ready: bool = False  # its arguments are complete
    settled: bool = False  # its result came, or the model went on without
    invalid: bool = False  # its arguments were refused, which was its result


class _VercelUIDecoder:
    def __init__(self, metadata: MetadataReader, thread_id: str | None) -> None:
        self._metadata = metadata
        self._thread_id = thread_id
        self._run_id: str | None = None
        self._ended = False
        self._steps = 0
        self._in_step = False
        self._announced = False  # the step under way is a call of the model
        self._model: Model | None = None
        self._model_is_own = False  # it was named for this very step
        self._model_is_next = False  # it was named for the step to come
        self._total: dict[str, int] = {}
        self._calls: dict[str, _Call] = {}
        self._question: ev.RunInterrupted | None = None
        self._texts: dict[str, int] = {}  # how many parts of that id have ended
        self._numbered: dict[str, str] = {}

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None and frame.stray is None:
            piece = _read_piece(frame.data)
            if piece is not None:
                return (self._grown(piece),)
        failure = house.stray_failure(frame)
        if failure is not None:
            return (*self._decode(frame), self._failed(failure))
        return self._decode(frame)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is None:
            return () if frame.comment is None else (ev.Heartbeat(),)
        value = frame.json()
        if not isinstance(value, dict):
            return self._without_type(frame, value)
        kind = value.get("type")
        if not isinstance(kind, str):
            if value.get("error"):
                return (self._failed(house.failed(value)),)
            return (ev.Custom(name=frame.event or "unknown", value=value),)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, kind, value)
        return (ev.Custom(name=kind, value=value["data"] if _is_data(kind, value) else value),)

    def _without_type(self, frame: Frame, value: Any) -> Iterator[ev.Event]:
        if frame.data is not None and frame.data.strip() == DONE:
            if not self._ended and not self._in_step:
                yield self._end()
        elif frame.complete:
            value = frame.text if value is None else value
            yield ev.Custom(name=frame.event or "unknown", value=value)

    # --- the run -----------------------------------------------------------------------------

    def _start(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        if self._ended:  # several runs may share a stream
            self._ended = self._in_step = False
            self._run_id = None
            self._calls.clear()
            self._total.clear()
            self._question = None
        self._run_id = as_id(value.get("messageId")) or self._run_id
        yield ev.RunStarted(run_id=self._run_id, thread_id=self._thread_id)
        yield from self._read_metadata(kind, value)

    def _finish(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        yield from self._read_metadata(kind, value)
        if self._ended:
            return
        metadata = as_object(value.get("messageMetadata"))
        reason = as_string(value.get("finishReason")) or as_string(metadata.get("finishReason"))
        if reason:
            yield ev.GenerationFinished(finish_reasons=(reason,))
        yield self._failed(ev.RunFailed()) if reason == "error" else self._end()

    def _end(self) -> ev.Event:
        self._ended = True
        self._in_step = False
        if self._question is not None:
            return self._question
        for reason in (APPROVAL, TOOL_CALL):
            for call_id, call in self._calls.items():
                if call.waits == reason:
                    return ev.RunInterrupted(reason=reason, tool_call_id=call_id)
        return ev.RunFinished(run_id=self._run_id)

    def _abort(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        if not self._ended:
            self._ended = True
            yield ev.RunCancelled(reason=as_string(value.get("reason")))

    def _error(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        text = as_string(value.get("errorText"))
        failure = house.failed(value) if text is None else ev.RunFailed(message=text or None)
        yield self._failed(failure)

    def _failed(self, failure: ev.RunFailed) -> ev.RunFailed:
        self._ended = True
        return failure

    def _ask(self, kind: str, value: _Fields) -> Iterable[ev.Event]:
        """Our own encoder's: the protocol has no question but those of tools."""
        data = as_object(value.get("data"))
        self._question = ev.RunInterrupted(
            reason=as_string(data.get("reason")), tool_call_id=as_id(data.get("toolCallId"))
        )
        return ()

    # --- steps, model and usage --------------------------------------------------------------

    def _start_step(self, kind: str, value: _Fields) -> Iterable[ev.Event]:
        self._in_step, self._announced = True, False
        self._model_is_own, self._model_is_next = self._model_is_next, False
        at_work = any(not call.settled for call in self._calls.values())
        return () if at_work else self._announce()

    def _finish_step(self, kind: str, value: _Fields) -> Iterable[ev.Event]:
        self._in_step = False
        return ()

    def _reset_step(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        """What the step said is taken back: another call of the model follows."""
        yield ev.Custom(name=kind, value=value)
        self._announced = False
        yield from self._announce()

    def _announce(self) -> Iterable[ev.Event]:
        """The model speaks, or is about to."""
        if self._announced or not self._in_step:
            return ()
        self._announced = True
        self._steps += 1
        for call in self._calls.values():
            call.waits, call.settled = None, True
        return (self._generation(),)

    def _generation(self) -> ev.GenerationStarted:
        model, provider = self._model or (None, None)
        return ev.GenerationStarted(key=str(self._steps), model=model, provider=provider)

    def _read_metadata(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        metadata = value.get("messageMetadata")
        known = False
        if isinstance(metadata, dict):
            model = self._metadata.model(metadata)
            if model is not None:
                known = True
                yield from self._name_the_model(model, kind == "finish")
            usages = self._metadata.usages(metadata)
            for one in usages if kind == "message-metadata" else usages[-1:]:
                known = True
                yield self._usage(one, "run" if kind != "message-metadata" else one.scope)
        if not known and kind == "message-metadata":
            yield ev.Custom(name=kind, value=metadata)

    def _name_the_model(self, model: Model, at_end: bool) -> Iterable[ev.Event]:
        is_news, self._model = model != self._model, model
        if self._ended:
            return ()
        if self._in_step or (self._steps and (at_end or not self._model_is_own)):
            self._model_is_own = True
            return (self._generation(),) if is_news and self._announced else ()
        self._model_is_next = True
        return ()

    def _usage(self, counted: Counted, scope: str) -> ev.Usage:
        counts, named = counted.counts, counted.model
        if scope == "run" and named is None:
            named = self._model
            self._total.update(counts)
            counts = self._total
        model, provider = named or (None, None)
        return ev.Usage(**counts, model=model, provider=provider, scope=scope)

    # --- output ------------------------------------------------------------------------------

    def _grown(self, piece: _Piece) -> ev.Event:
        if isinstance(piece, _Text):
            return ev.TextDelta(text=piece.delta, message_id=self._text_id(piece.id))
        if isinstance(piece, _Reasoning):
            return ev.ReasoningDelta(text=piece.delta, message_id=piece.id)
        call = self._calls.get(piece.tool_call_id)
        if call is not None:
            call.streamed = True
        return ev.ToolCallArgumentsDelta(
            tool_call_id=piece.tool_call_id, delta=piece.input_text_delta
        )

    def _delta(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        """Pieces that are odd in some way."""
        arguments = kind == "tool-input-delta"
        piece_id = as_id(value.get("toolCallId" if arguments else "id"))
        text = value.get("inputTextDelta" if arguments else "delta")
        if not isinstance(text, str) or (arguments and piece_id is None):
            yield ev.Custom(name=kind, value=value)
        elif arguments:
            assert piece_id is not None
            yield self._grown(_Arguments(tool_call_id=piece_id, input_text_delta=text))
        elif kind == "text-delta":
            yield ev.TextDelta(text=text, message_id=self._text_id(piece_id))
        else:
            yield ev.ReasoningDelta(text=text, message_id=piece_id)

    def _text_id(self, wire_id: str | None) -> str | None:
        return self._numbered.get(wire_id, wire_id) if wire_id and self._numbered else wire_id

    def _text_start(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        wire_id = as_id(value.get("id"))
        yield from self._announce()
        if wire_id is not None and (ended := self._texts.get(wire_id)):
            remember(self._numbered, wire_id, f"{wire_id}:{ended + 1}", MAX_REMEMBERED)
        yield ev.MessageStarted(message_id=self._text_id(wire_id), role="assistant")

    def _text_end(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        wire_id = as_id(value.get("id"))
        citations = value.get("citations")
        for citation in citations if isinstance(citations, list) else ():
            yield _source(as_object(as_object(citation).get("source")))
        yield ev.MessageFinished(message_id=self._text_id(wire_id))
        if wire_id is not None:
            remember(self._texts, wire_id, self._texts.get(wire_id, 0) + 1, MAX_REMEMBERED)

    def _reasoning_start(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        yield from self._announce()
        yield ev.ReasoningStarted(message_id=as_id(value.get("id")))

    def _reasoning_end(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        yield ev.ReasoningFinished(message_id=as_id(value.get("id")))

    def _source(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        yield _source(value)

    # --- tools -------------------------------------------------------------------------------

    def _tool(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        """Everything of a tool's call: those that read a part of it are in `_TOOL_HANDLERS`."""
        call_id = as_id(value.get("toolCallId"))
        if call_id is None:
            yield ev.Custom(name=kind, value=value)
        else:
            yield from _TOOL_HANDLERS[kind](self, call_id, value)

    def _tool_start(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        yield from self._announce()
        remember(self._calls, call_id, _Call(), MAX_REMEMBERED)
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(value.get("toolName")))

    def _tool_available(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        call = self._calls.get(call_id)
        if call is None or (call.settled and call.ready):
            yield from self._tool_start(call_id, value)
        call = self._calls[call_id]
        call.ready = True
        if value.get("providerExecuted") is not True:
            call.waits = TOOL_CALL
        arguments = None if call.streamed else _json_text(value.get("input"))
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=arguments)

    def _tool_input_error(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        yield from self._tool_available(call_id, value)
        yield from self._tool_error(call_id, value)
        self._calls[call_id].invalid = True

    def _tool_output(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        if value.get("preliminary") is True:
            if call_id in self._calls:
                self._calls[call_id].waits = None
            yield ev.Custom(name="tool-output-available", value=value)
            return
        yield from self._settle(call_id)
        yield ev.ToolCallResult(tool_call_id=call_id, result=_json_text(value.get("output")))

    def _tool_error(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        call = self._calls.get(call_id)
        if call is not None and call.invalid:  # `ai` 6 tells of it once more
            return
        yield from self._settle(call_id)
        text = as_string(value.get("errorText")) or None
        yield ev.ToolCallResult(tool_call_id=call_id, result=text, is_error=True)

    def _settle(self, call_id: str) -> Iterator[ev.Event]:
        """The result of a call; one that an earlier response announced is told of here."""
        if call_id not in self._calls:
            remember(self._calls, call_id, _Call(), MAX_REMEMBERED)
            yield ev.ToolCallStarted(tool_call_id=call_id)
        self._calls[call_id] = _Call(ready=True, settled=True)

    def _approval_request(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        if value.get("isAutomatic") is True:
            yield ev.Custom(name="tool-approval-request", value=value)
            return
        call = self._calls.get(call_id) or _Call()
        call.waits, call.approval_id = APPROVAL, as_id(value.get("approvalId"))
        remember(self._calls, call_id, call, MAX_REMEMBERED)

    def _approval_response(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        approval_id = as_id(value.get("approvalId"))
        for call in self._calls.values():
            if approval_id is not None and call.approval_id == approval_id:
                call.waits = None
        yield ev.Custom(name=kind, value=value)


_decoder = _VercelUIDecoder
_Handler: TypeAlias = Callable[[_VercelUIDecoder, str, _Fields], Iterable[ev.Event]]

_TOOL_HANDLERS: Mapping[str, _Handler] = {
    "tool-input-start": _decoder._tool_start,
    "tool-input-available": _decoder._tool_available,
    "tool-input-error": _decoder._tool_input_error,
    "tool-output-available": _decoder._tool_output,
    "tool-output-error": _decoder._tool_error,
    "tool-output-denied": _decoder._tool_error,
    "tool-approval-request": _decoder._approval_request,
}
_HANDLERS: Mapping[str, _Handler] = {
    "start": _decoder._start,
    "finish": _decoder._finish,
    "abort": _decoder._abort,
    "error": _decoder._error,
    INTERRUPT: _decoder._ask,
    "start-step": _decoder._start_step,
    "finish-step": _decoder._finish_step,
    "reset-step": _decoder._reset_step,
    "message-metadata": _decoder._read_metadata,
    "text-start": _decoder._text_start,
    "text-delta": _decoder._delta,
    "text-end": _decoder._text_end,
    "reasoning-start": _decoder._reasoning_start,
    "reasoning-delta": _decoder._delta,
    "reasoning-end": _decoder._reasoning_end,
    "tool-input-delta": _decoder._delta,
    "tool-approval-response": _decoder._approval_response,
    "source-url": _decoder._source,
    "source-document": _decoder._source,
    **dict.fromkeys(_TOOL_HANDLERS, _decoder._tool),
}


# --- the rest ---------------------------------------------------------------------------------


def _read_piece(data: bytes) -> _Piece | None:
    try:
        return _piece_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _source(source: _Fields) -> ev.Source:
    title = as_string(source.get("title")) or as_string(source.get("filename"))
    return ev.Source(url=as_string(source.get("url")), title=title)


def _json_text(value: Any) -> str | None:
    """Text as it is, all else as JSON; null is nothing."""
    return value if value is None or isinstance(value, str) else dump_json(value)


def _is_data(kind: str, value: _Fields) -> bool:
    return kind.startswith("data-") and "data" in value
