"""OpenAI Responses: typed events about one response and its output items.

Rules that hold here (what `openai` 3.51 types and accumulates from the same bytes):

* Dispatch is on the JSON `type`; the `event:` line may be missing. The typed reading is total:
  every JSON value fits, and each is looked at where it is used.
* An item is its `output_index`: gateways are known to change `item_id` from event to event. Its
  message or tool call bears the id that it was opened with.
* Text comes as deltas and again, whole, up to four times. Whole text counts only for a part of
  which nothing was told, and the output in the terminal event only if nothing was told at all.
* Arguments of a server's tool may be known before (code) or after (queries) it starts: it is ready
  when it starts to work, and said to be ready again where its arguments come later.
* A response that completed and left a call for the client to answer interrupts the run.
* Each response in a stream is told to end once; an error, then `response.failed`, is one end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_word, dump_json, typed_reader
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.openai_responses import OpenAIResponsesEncoder

MAX_REMEMBERED = 1024
"""Items, and parts of them, that one response keeps in mind, of each."""


class OpenAIResponses(Dialect):
    """The Responses API of OpenAI, as providers and gateways stream it."""

    name = "openai-responses"
    marks = marks("type")
    says = says(
        "run thread text reasoning tool_start arguments result model usage finish "
        "input_required error terminal"
    )
    encodes = frozenset(OpenAIResponsesEncoder.table)

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of `response.*` with a number, its event's name or a response; errors may be."""
        wire = None if frame.data is None else _read(frame.data)
        if not isinstance(wire, _Wire) or not isinstance(wire.type, str):
            return Fit.NO
        is_numbered = type(wire.sequence_number) is int
        if not wire.type.startswith("response."):
            return Fit.MAYBE if is_numbered and wire.type in ("error", "keepalive") else Fit.NO
        is_sure = is_numbered or wire.type == frame.event or isinstance(wire.response, _Response)
        return Fit.YES if is_sure else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _ResponsesDecoder()

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return OpenAIResponsesEncoder(envelope)


_TEXT_DELTA = "response.output_text.delta"
_ITEM_DONE = "response.output_item.done"
_ENDS = ("completed", "failed", "incomplete", "cancelled")
_NotObject: TypeAlias = list[Any] | str | int | float | bool | None


class _Response(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    status: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    error: Any = None
    incomplete_details: Any = None
    output: Any = None
    usage: Any = None


class _Wire(msgspec.Struct, gc=False):
    type: Any = None
    sequence_number: Any = None
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    delta: Any = None
    text: Any = None
    refusal: Any = None
    arguments: Any = None
    input: Any = None
    code: Any = None
    part: Any = None
    item: Any = None
    annotation: Any = None
    response: _Response | _NotObject = None
    error: Any = None
    message: Any = None


_read = typed_reader(_Wire | _NotObject)


_Events: TypeAlias = list[ev.Event]
_Key: TypeAlias = int | str | None
_Part: TypeAlias = tuple[_Key, str, int]
_Text: TypeAlias = type[ev.TextDelta] | type[ev.ReasoningDelta]


class _Item(msgspec.Struct):
    """One item of the output: a message, a reasoning, a tool call or another thing."""

    id: str
    kind: str
    is_ready: bool = False
    has_arguments: bool = False

    def is_call(self) -> bool:
        return self.kind.endswith("_call") or self.kind in ("mcp_approval_request", "program")


class _ResponsesDecoder:
    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, response_id: str | None) -> None:
        self._id = response_id
        self._model: str | None = None
        self._message_id: str | None = None
        self._items: dict[_Key, _Item] = {}
        self._told: dict[_Part, None] = {}
        self._last_part: _Part | None = None
        self._unanswered: dict[str, str] = {}  # what the client must do, by tool call
        self._nameless: dict[str, str] = {}  # the last call that had no call_id, by kind
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        events: list[ev.Event] = []
        if frame.data is not None and not frame.data.startswith(b"[DONE]"):
            wire = _read(frame.data)
            if isinstance(wire, _Wire):
                text = self._more_text(wire)
                if text is not None:
                    return (text,)
            self._read_data(frame, wire, events)
        return events

    def _more_text(self, wire: _Wire) -> ev.TextDelta | None:
        """The hot event: more text in the part that grew last."""
        part = (wire.output_index, "content", wire.content_index)
        if (
            wire.type != _TEXT_DELTA
            or part != self._last_part
            or type(wire.output_index) is not int
            or type(wire.content_index) is not int
            or type(wire.delta) is not str
            or not wire.delta
        ):
            return None
        item = self._items.get(wire.output_index)
        return None if item is None else ev.TextDelta(text=wire.delta, message_id=item.id)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _read_data(self, frame: Frame, wire: Any, events: _Events) -> None:
        if not isinstance(wire, _Wire):
            wire = _Wire(error=wire or frame.text) if frame.event == "error" else _Wire()
        handler = _HANDLERS.get(wire.type) if isinstance(wire.type, str) else None
        if handler is not None:
            handler(self, wire, events)
        elif wire.error or frame.event == "error":
            self._error(wire, events)
        else:
            events.append(ev.Custom(name=as_id(wire.type) or frame.event or "unknown"))

    def _lifecycle(self, wire: _Wire, events: _Events) -> None:
        response = wire.response if isinstance(wire.response, _Response) else _Response()
        stage = wire.type.rpartition(".")[2]
        response_id, model = as_id(response.id), as_id(response.model) or self._model
        is_next = self._id is None or self._ended or stage == "created"
        if response_id not in (None, self._id) and is_next:
            if self._id is not None:
                self._begin(response_id)
            self._id, self._model = response_id, model
            thread = response.conversation
            thread_id = as_id(thread.get("id") if isinstance(thread, dict) else thread)
            thread_id = thread_id or as_id(response.previous_response_id)
            events.append(ev.RunStarted(run_id=response_id, thread_id=thread_id))
            events.append(ev.GenerationStarted(response_id=response_id, model=model))
        elif model != self._model:
            self._model = model
            events.append(ev.GenerationStarted(response_id=self._id, model=model))
        if stage in _ENDS or response.status == "cancelled":
            status = response.status if response.status in _ENDS else stage
            self._end(response, status, events)

    def _end(self, response: _Response, status: str, events: _Events) -> None:
        if isinstance(response.output, list) and not (self._items or self._told):
            for index, item in enumerate(response.output):
                self._item(_Wire(type=_ITEM_DONE, output_index=index, item=item), events)
        if isinstance(response.usage, dict) and response.usage:
            events.append(_usage(response.usage))
        if self._ended:
            return
        details = response.incomplete_details
        reason = as_id(details.get("reason")) if isinstance(details, dict) else None
        events.append(ev.GenerationFinished(finish_reasons=(reason or status,)))
        if status == "failed":
            self._fail(response.error or {"code": status}, events)
        elif status == "cancelled":
            events.append(ev.RunCancelled(reason=reason))
        elif status == "completed" and self._unanswered:
            call_id, kind = next(iter(self._unanswered.items()))
            events.append(ev.RunInterrupted(reason=kind, tool_call_id=call_id))
        else:
            events.append(ev.RunFinished(run_id=self._id))
        self._ended = True

    def _error(self, wire: _Wire, events: _Events) -> None:
        self._fail(wire.error or {"code": wire.code, "message": wire.message}, events)

    def _fail(self, error: Any, events: _Events) -> None:
        if not self._ended:
            self._ended = True
            facts = error if isinstance(error, dict) else {"message": error}
            kind = as_id(facts.get("code")) or as_id(facts.get("type"))
            events.append(ev.RunFailed(type=kind, message=as_word(facts.get("message"))))

    def _text_delta(self, wire: _Wire, events: _Events) -> None:
        kind, channel = _PARTS[_middle(wire.type)]
        if wire.delta and isinstance(wire.delta, str):
            part = (_key(wire), channel, _part_index(wire))
            if part != self._last_part:
                self._last_part = part
                remember(self._told, part, None, MAX_REMEMBERED)
            message_id = self._message_of(part[0], wire.item_id)
            events.append(kind(text=wire.delta, message_id=message_id))

    def _text_done(self, wire: _Wire, events: _Events) -> None:
        part = wire.part or {"type": _middle(wire.type), "text": wire.text or wire.refusal}
        self._tell_part(_key(wire), _part_index(wire), part, wire.item_id, events)

    def _tell_part(self, key: _Key, index: int, wire: Any, item_id: Any, events: _Events) -> None:
        """The whole text of a part, if nothing was told of it."""
        known = _PARTS.get(as_id(wire.get("type")) or "") if isinstance(wire, dict) else None
        if known is None:
            return
        kind, channel = known
        text = wire.get("text") or wire.get("refusal")
        if text and isinstance(text, str) and (key, channel, index) not in self._told:
            remember(self._told, (key, channel, index), None, MAX_REMEMBERED)
            events.append(kind(text=text, message_id=self._message_of(key, item_id)))

    def _message_of(self, key: _Key, item_id: Any) -> str | None:
        item = self._items.get(key)
        return item.id if item is not None else as_id(item_id) or self._message_id

    def _annotation(self, wire: _Wire, events: _Events) -> None:
        note = wire.annotation if isinstance(wire.annotation, dict) else {}
        url, title = as_word(note.get("url")), as_word(note.get("title") or note.get("filename"))
        if url or title:
            events.append(ev.Source(url=url, title=title))

    def _item(self, wire: _Wire, events: _Events) -> None:
        if isinstance(wire.item, dict):
            key, known = _key(wire), self._open(_key(wire), wire.item, events)
            if wire.type == _ITEM_DONE:
                self._close(key, known, wire.item, events)

    def _close(self, key: _Key, known: _Item, item: dict[str, Any], events: _Events) -> None:
        for field in ("summary", "content"):
            parts = item.get(field)
            for index, part in enumerate(parts if isinstance(parts, list) else ()):
                self._tell_part(key, index, part, known.id, events)
        if known.kind == "message":
            events.append(ev.MessageFinished(message_id=known.id))
        elif known.kind == "reasoning":
            events.append(ev.ReasoningFinished(message_id=known.id))
        elif known.kind.endswith("_output"):
            events.append(_result(known.id, item))
        elif known.is_call():
            arguments = next((item[name] for name in _ARGUMENTS if item.get(name)), None)
            _tell_ready(known, arguments, events)
            if known.kind not in _ANSWERED_ELSEWHERE and item.get("status") != "incomplete":
                events.append(_result(known.id, item))

    def _open(self, key: _Key, item: dict[str, Any], events: _Events) -> _Item:
        """The item, told when it is seen first."""
        known = self._items.get(key)
        if known is not None:
            return known
        kind = as_id(item.get("type")) or "unknown"
        tool = kind.removesuffix("_output").removesuffix("_call")
        item_id = as_id(item.get("id")) or f"{self._id or 'item'}:{len(self._items)}"
        call_id = as_id(item.get("call_id"))
        known = _Item(call_id or item_id, kind)
        remember(self._items, key, known, MAX_REMEMBERED)
        if kind == "message":
            self._message_id = item_id
            events.append(ev.MessageStarted(message_id=item_id, role=as_id(item.get("role"))))
        elif kind == "reasoning":
            events.append(ev.ReasoningStarted(message_id=item_id))
        elif kind.endswith("_output"):
            known.id = call_id or self._nameless.get(tool) or item_id
        elif known.is_call():
            if call_id is None:
                remember(self._nameless, tool, known.id, MAX_REMEMBERED)
            name = as_id(item["name"]) if "name" in item else tool
            events.append(ev.ToolCallStarted(tool_call_id=known.id, name=name))
        else:
            events.append(ev.Custom(name=kind))
        self._settle(known, item)
        return known

    def _settle(self, known: _Item, item: dict[str, Any]) -> None:
        """Keep the list of what the client has to answer."""
        for_client = known.kind == "tool_search_call" and item.get("execution") == "client"
        if for_client or known.kind in _ANSWERED_BY_CLIENT:
            remember(self._unanswered, known.id, known.kind, MAX_REMEMBERED)
        elif known.kind.endswith("_output"):
            self._unanswered.pop(known.id, None)
        elif known.kind == "message":  # xAI runs its own custom calls, and then it answers
            waiting = self._unanswered.items()
            self._unanswered = {k: kind for k, kind in waiting if kind != "custom_tool_call"}

    def _arguments(self, wire: _Wire, events: _Events) -> None:
        call = self._items.get(_key(wire))
        if call is None or not call.is_call():
            events.append(ev.Custom(name=wire.type))
        elif not wire.type.endswith(".delta"):
            _tell_ready(call, wire.arguments or wire.input or wire.code, events)
        elif text := _text(wire.delta):
            call.has_arguments = True
            events.append(ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=text))


def _tell_ready(call: _Item, arguments: Any, events: _Events) -> None:
    text = _text(arguments)
    if not call.is_ready or (text and not call.has_arguments):
        call.is_ready, call.has_arguments = True, call.has_arguments or bool(text)
        events.append(ev.ToolCallReady(tool_call_id=call.id, arguments=text or None))


def _result(call_id: str, item: dict[str, Any]) -> ev.ToolCallResult:
    error = item.get("error")
    names = () if item.get("type") == "image_generation_call" else _RESULTS  # its bytes
    value = next((item[name] for name in names if item.get(name)), error)
    text = _text(value) or None
    is_error = bool(error) or item.get("status") in ("failed", "incomplete")
    return ev.ToolCallResult(tool_call_id=call_id, result=text, is_error=is_error)


def _usage(wire: dict[str, Any]) -> ev.Usage:
    return ev.Usage(
        input_tokens=_count(wire, "input_tokens"),
        output_tokens=_count(wire, "output_tokens"),
        cached_input_tokens=_count(wire.get("input_tokens_details"), "cached_tokens"),
        cache_write_tokens=_count(wire.get("input_tokens_details"), "cache_write_tokens"),
        reasoning_tokens=_count(wire.get("output_tokens_details"), "reasoning_tokens"),
    )


def _count(wire: Any, name: str) -> int | None:
    value = wire.get(name) if isinstance(wire, dict) else None
    return value if type(value) is int and 0 <= value < 2**63 else None


def _key(wire: _Wire) -> _Key:
    if type(wire.output_index) is int:
        return wire.output_index
    return as_id(wire.item.get("id") if isinstance(wire.item, dict) else wire.item_id)


def _part_index(wire: _Wire) -> int:
    index = wire.content_index if wire.content_index is not None else wire.summary_index
    return index if type(index) is int else 0


def _middle(kind: str) -> str:
    """`response.output_text.delta` is about `output_text`."""
    return kind[len("response.") : kind.rindex(".")]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else dump_json(value)


_ARGUMENTS = ("arguments", "input", "code", "action", "queries", "operation")
_RESULTS = ("output", "outputs", "results", "result", "tools")
_ANSWERED_BY_CLIENT = {
    *("function_call", "custom_tool_call", "mcp_approval_request", "computer_call"),
    *("local_shell_call", "shell_call", "apply_patch_call"),
}
_ANSWERED_ELSEWHERE = _ANSWERED_BY_CLIENT | {"tool_search_call", "program"}
"""Calls whose own item never holds the result."""

_PARTS: dict[str, tuple[_Text, str]] = {
    "output_text": (ev.TextDelta, "content"),
    "refusal": (ev.TextDelta, "content"),
    "audio.transcript": (ev.TextDelta, "audio"),
    "reasoning_text": (ev.ReasoningDelta, "content"),
    "reasoning_summary_text": (ev.ReasoningDelta, "summary"),
    "summary_text": (ev.ReasoningDelta, "summary"),
}

_Decode: TypeAlias = Callable[[_ResponsesDecoder, _Wire, _Events], None]
_TYPES: dict[_Decode, str] = {
    _ResponsesDecoder._lifecycle: "created queued in_progress "
    "completed failed incomplete cancelled",
    _ResponsesDecoder._item: "output_item.added output_item.done",
    _ResponsesDecoder._text_done: "content_part.done reasoning_summary_part.done",
    _ResponsesDecoder._annotation: "output_text.annotation.added",
    _ResponsesDecoder._arguments: "function_call_arguments.delta function_call_arguments.done "
    "custom_tool_call_input.delta custom_tool_call_input.done "
    "mcp_call_arguments.delta mcp_call_arguments.done shell_call_command.delta "
    "code_interpreter_call_code.delta code_interpreter_call_code.done "
    "code_interpreter_call.interpreting image_generation_call.generating "
    "web_search_call.searching file_search_call.searching",
}
_HANDLERS: dict[str, _Decode] = {
    "error": _ResponsesDecoder._error,
    "keepalive": lambda decoder, wire, events: events.append(ev.Heartbeat()),
    **{f"response.{part}.delta": _ResponsesDecoder._text_delta for part in _PARTS},
    **{f"response.{part}.done": _ResponsesDecoder._text_done for part in _PARTS},
    **{f"response.{name}": decode for decode, names in _TYPES.items() for name in names.split()},
}
"""Every other type, such as the progress of an item, is told as custom."""
