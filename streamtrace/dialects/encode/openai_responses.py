"""Writer of OpenAI Responses: all of a run as one response with its output items.

Rules that hold here (what `openai` for Python 3.51 and for JavaScript 7.55 accumulates is what the
events said; both refuse a stream that breaks their order of events):

* A stream holds one response. So the response is the run: it bears the run's id and thread, its
  usage is the sum over the run's generations, and of a later generation only a new model is told.
* `response.created` names id and model: it waits for the first event that tells more than these.
* A message or a reasoning that was told to start is open until it is told to be finished. One of
  which only deltas are told ends where something else begins. What bears no id belongs to the one
  that was opened last.
* A call is a `function_call` item, done as soon as its arguments are known. Its result is a
  `function_call_output` item; before it, at the latest, the call is done. What comes for a call
  that is done or was never told is not written.
* What the clients want unique is: an id that was used, or is none, gives way to a made one.
* The wire repeats all text. A text beyond `MAX_REPEATED_BYTES` goes on in another item. Arguments
  beyond it are repeated up to it, as `incomplete`. An output beyond it is left out of the last
  event: clients then put it together from the items that they were told.
* An interrupt is a completed response with an unanswered call. One that waits for no call in this
  response gets a call of its own, named for the reason. And a run that finishes with a call
  unanswered is an interrupted one: so this wire means it.
* An error is the nested event that official clients raise. `response.failed` stands before it where
  usage or a finish reason is left to tell.
* What a failure or a cancel has cut is closed as `incomplete`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import dump_json
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode.base import TableEncoder, json_frame
from streamtrace.dialects.encode.tally import Tally

MAX_REPEATED_BYTES = 256 * 1024
"""What is kept to be said again, as JSON, of one item and of the whole output. Readers bound a
frame (ours at 512 KiB), and the last event holds it all."""
MAX_OPEN_ITEMS = 32
"""Texts that are open at once, and calls; of more, the oldest is done."""
MAX_IDS = 4096
"""Ids that are kept to be unique, and calls that may be answered; after that all ids are made."""

_INCOMPLETE: Mapping[str, str | None] = {
    "incomplete": None,
    **{own: own for own in ("max_output_tokens", "max_messages", "content_filter", "steered")},
    **dict.fromkeys(("length", "max_tokens", "MAX_TOKENS"), "max_output_tokens"),
    **dict.fromkeys(("model_context_window_exceeded",), "max_output_tokens"),
    **dict.fromkeys(("refusal", "SAFETY"), "content_filter"),
}
"""Why a generation stopped short, in this wire's words and in those of others."""


class _Kind(msgspec.Struct, frozen=True, eq=False):
    """How an item of text is written."""

    prefix: str
    body: Mapping[str, Any]
    parts: str
    part: str
    part_type: str
    text: str
    index: str
    beside: Mapping[str, Any]


_MESSAGE = _Kind(
    prefix="msg",
    body={"type": "message", "role": "assistant"},
    parts="content",
    part="content_part",
    part_type="output_text",
    text="output_text",
    index="content_index",
    beside={"logprobs": []},
)
_REASONING = _Kind(
    prefix="rs",
    body={"type": "reasoning"},
    parts="summary",
    part="reasoning_summary_part",
    part_type="summary_text",
    text="reasoning_summary_text",
    index="summary_index",
    beside={},
)


class _Item(msgspec.Struct):
    """An open item of the output, and its text so far."""

    index: int
    body: dict[str, Any]
    is_told: bool = True
    is_ready: bool = False
    is_whole: bool = True
    has_part: bool = False
    pieces: list[str] = []
    chars: int = 0
    kept_bytes: int = 0
    annotations: list[dict[str, Any]] = []

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self.chars += len(text)
        self.kept_bytes += len(dump_json(text)) - 2

    def text(self) -> str:
        self.pieces = ["".join(self.pieces)]
        return self.pieces[0]


class OpenAIResponsesEncoder(TableEncoder):
    """One response, from `response.created` to its end or an error."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._run = ev.RunStarted()
        self._generation_id: str | None = None
        self._model: str | None = None
        self._tally = Tally()
        self._finish_reason: str | None = None
        self._response_id = ""  # once it is created
        self._sequence_number = 0
        self._items = 0
        self._ids: set[tuple[str, str]] = set()
        self._output: dict[int, Any] | None = {}  # of items that are done; none if it is too large
        self._output_bytes = 0
        self._texts: dict[tuple[_Kind, str | None], _Item] = {}
        self._calls: dict[str, _Item] = {}
        self._call_ids: dict[str, str] = {}  # where the wire's differ
        self._unanswered: dict[str, None] = {}
        self._is_ended = False

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say, and none after the end."""
        return () if self._is_ended else list(super().encode(event))

    def close(self) -> Iterable[Frame]:
        """The response, if all that was told is that its run began."""
        has_begun = self._run != ev.RunStarted() and not self._is_ended
        return list(self._create()) if has_begun else ()

    # --- the response ----------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> Iterable[Frame]:
        if self._run == ev.RunStarted():
            self._run = event
        return ()

    def _generation_started(self, event: ev.GenerationStarted) -> Iterator[Frame]:
        if self._tally.generation(event):
            self._finish_reason = None
        self._generation_id = self._generation_id or event.response_id
        is_news = event.model not in (None, self._model)
        self._model = event.model or self._model
        if not self._response_id:
            yield from self._create()
        elif is_news:
            yield self._lifecycle("in_progress")

    def _generation_finished(self, event: ev.GenerationFinished) -> Iterable[Frame]:
        if event.finish_reasons:
            self._finish_reason = event.finish_reasons[0]
        return ()

    def _report(self, event: ev.Usage) -> Iterable[Frame]:
        self._tally.usage(event)
        return ()

    def _heartbeat(self, event: ev.Heartbeat) -> Iterator[Frame]:
        """A comment before the response is there, since the clients know no other event then."""
        yield self._frame("keepalive") if self._response_id else Frame(comment=b"keepalive")

    def _create(self) -> Iterator[Frame]:
        if not self._response_id:
            said = self._run.run_id or self._generation_id
            self._response_id = said or self._envelope.run_id
            self._model = self._model or self._envelope.model
            yield self._lifecycle("created", "in_progress")
            yield self._lifecycle("in_progress")

    def _lifecycle(self, stage: str, status: str | None = None, **facts: Any) -> Frame:
        thread_id = self._run.thread_id
        response = {
            "id": self._response_id,
            "object": "response",
            "created_at": self._envelope.created_s,
            "status": status or stage,
            "model": self._model,
            "conversation": {"id": thread_id} if thread_id else None,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            **facts,
        }
        return self._frame(f"response.{stage}", response=response)

    def _frame(self, kind: str, **body: Any) -> Frame:
        body = {"type": kind, "sequence_number": self._sequence_number, **body}
        self._sequence_number += 1
        return json_frame(body, event=kind)

    # --- items -----------------------------------------------------------------------------

    def _add(self, prefix: str, said_id: str | None, body: Mapping[str, Any]) -> _Adding:
        """Begin an item."""
        yield from self._create()
        index, self._items = self._items, self._items + 1
        item_id = self._unique("id", said_id, f"{prefix}_{self._response_id}_{index}")
        item = _Item(index, {"id": item_id, **body})
        yield self._frame("response.output_item.added", output_index=index, item=item.body)
        return item

    def _done(self, item: _Item, status: str, **facts: Any) -> Frame:
        item.body = {**item.body, **facts, "status": status}
        frame = self._frame("response.output_item.done", output_index=item.index, item=item.body)
        self._output_bytes += len(frame.data or b"")
        if self._output_bytes > MAX_REPEATED_BYTES:
            self._output = None
        elif self._output is not None:
            self._output[item.index] = item.body
        return frame

    def _inside(self, item: _Item, kind: str, **body: Any) -> Frame:
        place = {"item_id": item.body["id"], "output_index": item.index}
        return self._frame(f"response.{kind}", **place, **body)

    def _unique(self, of: str, said: str | None, made: str) -> str:
        """The id that was said, if it can be had."""
        is_free = bool(said) and len(self._ids) < MAX_IDS and (of, said) not in self._ids
        taken = said if said and is_free else made
        while (of, taken) in self._ids:
            taken += "_"
        self._take(of, taken)
        return taken

    def _take(self, of: str, taken: str) -> None:
        if len(self._ids) < MAX_IDS:
            self._ids.add((of, taken))

    # --- messages and reasoning ------------------------------------------------------------

    def _message_started(self, event: ev.MessageStarted) -> Iterator[Frame]:
        if (event.role or "assistant") == "assistant":  # what others say is no output
            yield from self._open(_MESSAGE, event.message_id)

    def _message_finished(self, event: ev.MessageFinished) -> Iterator[Frame]:
        yield from self._close(*self._key(_MESSAGE, event.message_id))

    def _reasoning_started(self, event: ev.ReasoningStarted) -> Iterator[Frame]:
        yield from self._open(_REASONING, event.message_id)

    def _reasoning_finished(self, event: ev.ReasoningFinished) -> Iterator[Frame]:
        yield from self._close(*self._key(_REASONING, event.message_id))

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        yield from self._grow(_MESSAGE, event.message_id, event.text)

    def _reasoning(self, event: ev.ReasoningDelta) -> Iterator[Frame]:
        yield from self._grow(_REASONING, event.message_id, event.text)

    def _source(self, event: ev.Source) -> Iterator[Frame]:
        if not (event.url or event.title):
            return
        item = self._texts.get(self._key(_MESSAGE, None))
        item = item or (yield from self._imply(_MESSAGE, None))
        yield from self._open_part(_MESSAGE, item)
        annotation = {
            "type": "url_citation",
            "url": event.url or "",
            "title": event.title or "",
            "start_index": item.chars,  # where it was told: the wire wants a place
            "end_index": item.chars,
        }
        index = len(item.annotations)
        item.annotations = [*item.annotations, annotation]
        item.kept_bytes += len(dump_json(annotation))
        yield self._inside(
            item,
            "output_text.annotation.added",
            content_index=0,
            annotation_index=index,
            annotation=annotation,
        )

    def _open(self, kind: _Kind, message_id: str | None) -> _Adding:
        yield from self._close(kind, message_id)
        yield from self._close_implied()
        return (yield from self._begin(kind, message_id))

    def _imply(self, kind: _Kind, message_id: str | None) -> _Adding:
        """Begin an item of which only deltas are told."""
        other = _REASONING if kind is _MESSAGE else _MESSAGE
        before = self._texts.get((other, message_id))
        if before is not None and not before.is_told:
            yield from self._close(other, message_id)
        item = yield from self._begin(kind, message_id)
        item.is_told = False
        return item

    def _begin(self, kind: _Kind, message_id: str | None) -> _Adding:
        if len(self._texts) >= MAX_OPEN_ITEMS:
            yield from self._close(*next(iter(self._texts)))
        body = {**kind.body, kind.parts: [], "status": "in_progress"}
        item = yield from self._add(kind.prefix, message_id, body)
        self._texts[kind, message_id] = item
        return item

    def _grow(self, kind: _Kind, message_id: str | None, text: str) -> Iterator[Frame]:
        if not text:
            return
        self._tally.output()
        _, message_id = key = self._key(kind, message_id)
        item = self._texts.get(key)
        if item is not None and item.kept_bytes >= MAX_REPEATED_BYTES:
            yield from self._close(*key)
            item = None
        item = item or (yield from self._imply(kind, message_id))
        yield from self._open_part(kind, item)
        item.add(text)
        yield self._inside(item, f"{kind.text}.delta", **{kind.index: 0}, delta=text, **kind.beside)

    def _open_part(self, kind: _Kind, item: _Item) -> Iterator[Frame]:
        if not item.has_part:
            item.has_part = True
            part = _part(kind, item)
            yield self._inside(item, f"{kind.part}.added", **{kind.index: 0}, part=part)

    def _close(
        self, kind: _Kind, message_id: str | None, status: str = "completed"
    ) -> Iterator[Frame]:
        item = self._texts.pop((kind, message_id), None)
        if item is None:
            return
        parts = [_part(kind, item)] if item.has_part else []
        for part in parts:
            at = {kind.index: 0}
            yield self._inside(item, f"{kind.text}.done", **at, text=part["text"], **kind.beside)
            yield self._inside(item, f"{kind.part}.done", **at, part=part)
        yield self._done(item, status, **{kind.parts: parts})

    def _key(self, kind: _Kind, message_id: str | None) -> tuple[_Kind, str | None]:
        """Whose text it is: without an id, of the item that was opened last."""
        opened = (key for key in reversed(self._texts) if key[0] is kind)
        return (kind, message_id) if message_id is not None else next(opened, (kind, None))

    def _close_implied(self) -> Iterator[Frame]:
        for key in [key for key, item in self._texts.items() if not item.is_told]:
            yield from self._close(*key)

    # --- tool calls ------------------------------------------------------------------------

    def _call_started(self, event: ev.ToolCallStarted) -> Iterator[Frame]:
        if event.tool_call_id not in self._calls:
            yield from self._call(event.tool_call_id, event.name or "")

    def _call(self, said_id: str, name: str) -> _Adding:
        yield from self._close_implied()
        if len(self._calls) >= MAX_OPEN_ITEMS:
            yield from self._complete(next(iter(self._calls)))
        call_id = self._unique("call_id", said_id, f"call_{self._items}")
        if call_id != said_id:
            remember(self._call_ids, said_id, call_id, MAX_IDS)
        call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        item = yield from self._add("fc", None, {**call, "status": "in_progress"})
        self._calls[said_id] = item
        remember(self._unanswered, call_id, None, MAX_IDS)
        return item

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterator[Frame]:
        call = self._calls.get(event.tool_call_id)
        if call is not None and event.delta:
            self._tally.output()
            if call.kept_bytes >= MAX_REPEATED_BYTES:
                call.is_whole = False
            else:
                call.add(event.delta)
            yield self._inside(call, "function_call_arguments.delta", delta=event.delta)

    def _ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        call = self._calls.get(event.tool_call_id)
        if call is None:
            return
        if event.arguments and not call.chars:
            self._tally.output()
            call.add(event.arguments)
        if call.is_whole:
            call.is_ready = True
            yield self._inside(call, "function_call_arguments.done", arguments=call.text())
        if call.chars:  # else they may come yet: the tool is a server's, and already works
            yield from self._complete(event.tool_call_id)

    def _complete(self, tool_call_id: str, status: str = "completed") -> Iterator[Frame]:
        call = self._calls.pop(tool_call_id)
        if not call.is_whole:
            status = "incomplete"
        elif not call.is_ready and status == "completed":
            yield self._inside(call, "function_call_arguments.done", arguments=call.text())
        yield self._done(call, status, arguments=call.text())

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        if event.tool_call_id in self._calls:
            yield from self._complete(event.tool_call_id)
        self._tally.result()
        yield from self._close_implied()
        call_id = self._call_ids.get(event.tool_call_id, event.tool_call_id)
        self._take("call_id", call_id)
        self._unanswered.pop(call_id, None)
        body = {"type": "function_call_output", "call_id": call_id, "output": ""}
        item = yield from self._add("fco", None, {**body, "status": "in_progress"})
        status = "incomplete" if event.is_error else "completed"  # the types know no failure here
        yield self._done(item, status, output=event.result or "")

    # --- the end ---------------------------------------------------------------------------

    def _finished(self, event: ev.RunFinished) -> Iterator[Frame]:
        yield from self._create()
        yield from self._close_all("completed")
        if (told := self._finish_reason or "") in _INCOMPLETE:
            reason = _INCOMPLETE[told]
            details = {"reason": reason} if reason else None
            yield self._end("incomplete", incomplete_details=details)
        else:
            yield self._end("completed")

    def _interrupted(self, event: ev.RunInterrupted) -> Iterator[Frame]:
        yield from self._create()
        asked = event.tool_call_id
        call_id = self._call_ids.get(asked, asked) if asked is not None else None
        if not self._unanswered or call_id not in (None, *self._unanswered):
            is_new = ("call_id", call_id) not in self._ids
            is_new = ("call_id", call_id) not in self._ids
            made_id = asked if asked and is_new else "interrupt"
            made = ev.ToolCallReady(tool_call_id=made_id, arguments="{}")
            yield from self._call(made.tool_call_id, event.reason or "input_required")
            yield from self._ready(made)
        yield from self._close_all("completed")
        yield self._end("completed")

    def _cancelled(self, event: ev.RunCancelled) -> Iterator[Frame]:
        yield from self._create()
        yield from self._close_all("incomplete")
        details = {"reason": event.reason} if event.reason else None
        yield self._end("incomplete", "cancelled", incomplete_details=details)

    def _failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        error = {"code": event.type, "message": event.message, "param": None}
        has_more = self._finish_reason is not None or bool(self._tally.total())
        if has_more or self._run != ev.RunStarted():
            yield from self._create()
        yield from self._close_all("incomplete")
        if has_more:
            yield self._end("failed", error=error)
        yield self._frame("error", error=error)
        self._is_ended = True

    def _close_all(self, status: str) -> Iterator[Frame]:
        for key in list(self._texts):
            yield from self._close(*key, status)
        for tool_call_id, call in list(self._calls.items()):
            yield from self._complete(tool_call_id, "completed" if call.is_ready else status)

    def _end(self, stage: str, status: str | None = None, **facts: Any) -> Frame:
        self._is_ended = True
        done = self._output
        output = None if done is None else [done[index] for index in sorted(done)]
        usage = _usage(self._tally.total())
        return self._lifecycle(stage, status, output=output, usage=usage, **facts)

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


_Adding = Generator[Frame, None, _Item]


def _part(kind: _Kind, item: _Item) -> dict[str, Any]:
    more = {"annotations": item.annotations, "logprobs": []} if kind is _MESSAGE else {}
    return {"type": kind.part_type, "text": item.text(), **more}


def _usage(total: dict[str, int]) -> dict[str, Any] | None:
    """Every field that the types name; what nobody counted is null."""
    if not total:
        return None
    given, made = total.get("input_tokens"), total.get("output_tokens")
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": total.get("cached_input_tokens"),
            "cache_write_tokens": total.get("cache_write_tokens"),
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": total.get("reasoning_tokens")},
        "total_tokens": None if given is None or made is None else given + made,
    }
