"""Writer of Anthropic Messages: all of a run as one message with its content blocks.

Rules that hold here:

* A stream holds one message, and its clients refuse a second. So the message is the run: it bears
  the run's id, the generations after the first are not told, usage is the sum over all of them, and
  the stop reason is that of the last. It is told at the end, in this wire's words.
* `message_start` names the id, the model and the first usage: it waits for the first event that
  tells more than these.
* One block of text or reasoning is open at a time, and it is the last block: that is the one which
  clients take for the one that grows. Every message begins a block.
* A call is a `tool_use` block, the only one of which official clients gather the arguments that
  stream. They parse them as an object while they grow: arguments that do not begin as one are told
  as its member `input`, and what follows where they stop being one is not written.
* A call is closed as soon as its arguments are known; before its result, or the end, at the latest.
* A result is an `mcp_tool_result` that names the call: the one result whose content is any text.
* The wire knows no interrupt and no cancel. Both end the message: `tool_use` says that a call
  waits, `pause_turn` that the answer was stopped before its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import clean_text, dump_json
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode.base import TableEncoder, json_frame
from streamtrace.dialects.encode.json_object import JsonObject
from streamtrace.dialects.encode.tally import Tally

MAX_CALLS = 1024
"""Calls that are open, that wait and that were, of each; of more, the oldest is forgotten."""

_STOP_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("stop", "STOP", "completed"), "end_turn"),
    **dict.fromkeys(("length", "MAX_TOKENS", "max_output_tokens", "incomplete"), "max_tokens"),
    **dict.fromkeys(("tool_calls", "function_call"), "tool_use"),
    **dict.fromkeys(("content_filter", "SAFETY"), "refusal"),
}
"""Other wires' words for why a generation stopped; all else is taken for a word of this wire."""


class _Block(msgspec.Struct):
    """The open block of text or reasoning, and whose it is."""

    kind: str
    index: int
    message_id: str | None

    def is_of(self, message_id: str | None) -> bool:
        return None in (message_id, self.message_id) or message_id == self.message_id


class _Call:
    """An open call, and how far its arguments have come."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.has_arguments = False
        self._object: JsonObject | None = None
        self._held = ""  # space in front of all, or half an emoji, until more comes

    def argue(self, text: str) -> str:
        """What of the text can be written now."""
        text = self._held + text
        is_half = "\ud800" <= text[-1:] <= "\udbff"
        self._held = text[-1:] if is_half else ""
        text = clean_text(text.removesuffix(self._held))
        begins = not self.has_arguments
        if begins and (not text or text.isspace()):
            self._held = text + self._held
            return ""
        self.has_arguments = True
        if begins and text.lstrip().startswith("{"):
            self._object = JsonObject()
        if self._object is not None:
            return self._object.take(text)
        return '{"input":"' * begins + dump_json(text)[1:-1]

    def end(self) -> str:
        """What completes the arguments."""
        return '"}' if self.has_arguments and self._object is None else ""


class AnthropicEncoder(TableEncoder):
    """One message, from `message_start` to `message_stop` or an error."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._run_id: str | None = None
        self._response_id: str | None = None
        self._message_id: str | None = None
        self._model: str | None = None
        self._tally = Tally()
        self._stop_reason: str | None = None
        self._has_news = False  # for `message_delta`
        self._blocks = 0
        self._block: _Block | None = None
        self._calls: dict[str, _Call] = {}  # that are open
        self._call_ids: dict[str, str] = {}  # as they were written: a repeated one is another's
        self._unanswered: dict[str, None] = {}
        self._is_pending = False  # `message_start` has something to tell
        self._is_started = self._is_ended = False

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say, and none after the end."""
        return () if self._is_ended else list(super().encode(event))

    def close(self) -> Iterable[Frame]:
        """What was told, and waits for an end that did not come."""
        return () if self._is_ended else list(self._tell_rest())

    # --- the message -----------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> Iterable[Frame]:
        self._run_id = self._run_id or event.run_id
        self._is_pending = not self._is_started
        return ()

    def _generation_started(self, event: ev.GenerationStarted) -> Iterable[Frame]:
        if self._tally.generation(event):
            self._stop_reason = None
        self._response_id = self._response_id or event.response_id
        self._model = self._model or event.model
        self._is_pending = not self._is_started
        return ()

    def _generation_finished(self, event: ev.GenerationFinished) -> Iterable[Frame]:
        if event.finish_reasons:
            reason = event.finish_reasons[0]
            self._stop_reason = _STOP_REASONS.get(reason, reason)
            self._has_news = True
        return ()

    def _report(self, event: ev.Usage) -> Iterator[Frame]:
        if self._tally.total():
            yield from self._start()
        self._tally.usage(event)
        self._is_pending = not self._is_started
        self._has_news = self._has_news or self._is_started

    def _message_started(self, event: ev.MessageStarted) -> Iterator[Frame]:
        if (event.role or "assistant") == "assistant":  # what others say is no part of the answer
            self._message_id = self._message_id or event.message_id
            self._is_pending = not self._is_started
            yield from self._close_block()

    def _message_finished(self, event: ev.MessageFinished) -> Iterator[Frame]:
        if self._block is not None and self._block.kind == "text":
            yield from self._close_block()

    def _heartbeat(self, event: ev.Heartbeat) -> Iterator[Frame]:
        if self._model or self._message_id:
            yield from self._start()
        yield _frame("ping")

    def _start(self) -> Iterator[Frame]:
        if self._is_started:
            return
        self._is_started, self._is_pending = True, False
        message: dict[str, Any] = {
            "id": self._run_id or self._response_id or self._message_id or self._envelope.run_id,
            "type": "message",
            "role": "assistant",
            "model": self._model or self._envelope.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": None, "output_tokens": None, **self._counts()},
        }
        yield _frame("message_start", message=message)

    # --- text and reasoning ----------------------------------------------------------------

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        yield from self._grow("text", event.message_id, type="text_delta", text=event.text)

    def _reasoning(self, event: ev.ReasoningDelta) -> Iterator[Frame]:
        yield from self._grow(
            "thinking", event.message_id, type="thinking_delta", thinking=event.text
        )

    def _reasoning_started(self, event: ev.ReasoningStarted) -> Iterator[Frame]:
        yield from self._open_block("thinking", event.message_id)

    def _reasoning_finished(self, event: ev.ReasoningFinished) -> Iterator[Frame]:
        if self._block is not None and self._block.kind == "thinking":
            yield from self._close_block()

    def _source(self, event: ev.Source) -> Iterator[Frame]:
        if event.url or event.title:
            citation = {
                "type": "web_search_result_location",
                "url": event.url or "",
                "title": event.title,
                "cited_text": "",
                "encrypted_index": "",
            }
            yield from self._grow("text", None, type="citations_delta", citation=citation)

    def _grow(self, kind: str, message_id: str | None, **delta: Any) -> Iterator[Frame]:
        if delta.get("text") or delta.get("thinking"):
            self._tally.output()
        block = self._block
        if block is None or block.kind != kind or not block.is_of(message_id):
            yield from self._open_block(kind, message_id)
        yield _frame("content_block_delta", index=self._blocks - 1, delta=delta)

    def _open_block(self, kind: str, message_id: str | None) -> Iterator[Frame]:
        more = {"signature": ""} if kind == "thinking" else {}
        yield from self._add({"type": kind, kind: "", **more})
        self._block = _Block(kind, self._blocks - 1, message_id)

    def _close_block(self) -> Iterator[Frame]:
        if self._block is not None:
            yield _frame("content_block_stop", index=self._block.index)
            self._block = None

    def _add(self, block: dict[str, Any]) -> Iterator[Frame]:
        yield from self._start()
        yield from self._close_block()
        yield _frame("content_block_start", index=self._blocks, content_block=block)
        self._blocks += 1

    # --- tool calls ------------------------------------------------------------------------

    def _call_started(self, event: ev.ToolCallStarted) -> Iterator[Frame]:
        said_id = event.tool_call_id
        if said_id not in self._calls:
            is_free = bool(said_id) and said_id not in self._call_ids
            call_id = said_id if is_free else f"{said_id or 'call'}_{self._blocks}"
            call = {"type": "tool_use", "id": call_id, "name": event.name or "", "input": {}}
            yield from self._add(call)
            remember(self._calls, said_id, _Call(self._blocks - 1), MAX_CALLS)
            remember(self._call_ids, said_id, call_id, MAX_CALLS)
            remember(self._unanswered, call_id, None, MAX_CALLS)

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterator[Frame]:
        call = self._calls.get(event.tool_call_id)
        if call is not None and event.delta:
            self._tally.output()
            yield from _argued(call, call.argue(event.delta))

    def _ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            if event.arguments and not call.has_arguments:
                self._tally.output()
                yield from _argued(call, call.argue(event.arguments))
            if call.has_arguments:  # else they may come yet: the tool is a server's, and works
                yield from self._complete(event.tool_call_id)

    def _complete(self, said_id: str) -> Iterator[Frame]:
        call = self._calls.pop(said_id, None)
        if call is not None:
            yield from _argued(call, call.end())
            yield _frame("content_block_stop", index=call.index)

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        said_id = event.tool_call_id
        yield from self._close_block()
        yield from self._complete(said_id)
        self._tally.result()
        if said_id not in self._call_ids:
            remember(self._call_ids, said_id, said_id or "call", MAX_CALLS)
        call_id = self._call_ids[said_id]
        self._unanswered.pop(call_id, None)
        yield from self._add(
            {
                "type": "mcp_tool_result",
                "tool_use_id": call_id,
                "is_error": event.is_error,
                "content": event.result or "",
            }
        )
        yield _frame("content_block_stop", index=self._blocks - 1)

    # --- the end ---------------------------------------------------------------------------

    def _finished(self, event: ev.RunFinished) -> Iterator[Frame]:
        default = "tool_use" if self._unanswered else "end_turn"
        yield from self._stop(self._stop_reason or default)

    def _interrupted(self, event: ev.RunInterrupted) -> Iterator[Frame]:
        told = self._stop_reason or "end_turn"
        yield from self._stop("tool_use" if self._unanswered else told)

    def _cancelled(self, event: ev.RunCancelled) -> Iterator[Frame]:
        yield from self._stop(self._stop_reason or "pause_turn")

    def _failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        yield from self._close_all()
        yield from self._tell_rest()
        yield _frame("error", error={"type": event.type, "message": event.message})
        self._is_ended = True

    def _tell_rest(self) -> Iterator[Frame]:
        if self._is_pending:
            yield from self._start()
        if self._has_news:
            yield self._message_delta(self._stop_reason)

    def _close_all(self) -> Iterator[Frame]:
        """Calls without arguments last: a call that is ready without any is kept open as well."""
        yield from self._close_block()
        for said_id in sorted(self._calls, key=lambda one: not self._calls[one].has_arguments):
            yield from self._complete(said_id)

    def _stop(self, stop_reason: str) -> Iterator[Frame]:
        yield from self._start()
        yield from self._close_all()
        yield self._message_delta(stop_reason)
        yield _frame("message_stop")
        self._is_ended = True

    def _message_delta(self, stop_reason: str | None) -> Frame:
        return _frame(
            "message_delta",
            delta={"stop_reason": stop_reason, "stop_sequence": None},
            usage={"output_tokens": None, **self._counts()},
        )

    def _counts(self) -> dict[str, Any]:
        """The counts that are known; the wire counts cached input beside the input."""
        total = self._tally.total()
        wire: dict[str, Any] = {
            name: total[ours] for ours, name in _COUNTS.items() if ours in total
        }
        if "input_tokens" in total:
            cached = total.get("cached_input_tokens", 0) + total.get("cache_write_tokens", 0)
            wire["input_tokens"] = max(0, total["input_tokens"] - cached)
        if "reasoning_tokens" in total:
            wire["output_tokens_details"] = {"thinking_tokens": total["reasoning_tokens"]}
        return wire

    table: ClassVar = {
        ev.RunStarted: _run_started,
        ev.RunFinished: _finished,
        ev.RunFailed: _failed,
        ev.RunInterrupted: _interrupted,
        ev.RunCancelled: _cancelled,
        ev.GenerationStarted: _generation_started,
        ev.GenerationFinished: _generation_finished,
        ev.Usage: _report,
        ev.MessageStarted: _message_started,
        ev.TextDelta: _text,
        ev.MessageFinished: _message_finished,
        ev.ReasoningStarted: _reasoning_started,
        ev.ReasoningDelta: _reasoning,
        ev.ReasoningFinished: _reasoning_finished,
        ev.ToolCallStarted: _call_started,
        ev.ToolCallArgumentsDelta: _arguments,
        ev.ToolCallReady: _ready,
        ev.ToolCallResult: _result,
        ev.Source: _source,
        ev.Heartbeat: _heartbeat,
    }


_COUNTS = {
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}


def _frame(kind: str, **body: Any) -> Frame:
    return json_frame({"type": kind, **body}, event=kind)


def _argued(call: _Call, text: str) -> Iterator[Frame]:
    if text:
        delta = {"type": "input_json_delta", "partial_json": text}
        yield _frame("content_block_delta", index=call.index, delta=delta)
