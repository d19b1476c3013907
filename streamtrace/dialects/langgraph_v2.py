"""LangGraph's thread events: the protocol `langchain-protocol`, over SSE or a WebSocket.

Rules that hold here (langchain-protocol 0.0.20, as langgraph-api 0.16 speaks it):

* The stream is the thread's: it stays open, and runs follow each other. A run lasts from the root's
  `lifecycle` that it runs to the one that it is completed, failed or interrupted.
* Interrupted is a run that waits for an answer. One that did not ask (`input.requested`) before was
  stopped, unless the client did not subscribe to `input` and so could not see it.
* Of a message only its start has the id, unless a server adds it. What follows goes by namespace: a
  piece belongs to the message begun last there, an end to the one begun first. Two written at the
  same time in one namespace cannot be told apart; the client drops them, here totals are right.
* What was streamed is not repeated: a block's end tells only what no delta did. States (`values`,
  `updates`) tell the messages that no event of `messages` told, as in `langgraph`.
* A tool's result comes as an event of `tools`, mirrored as a message of role tool, or in a state.
* A namespace that lives is a step, named as its graph is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, as_string, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.langchain import (
    Json,
    as_list,
    counts_of,
    messages_in,
    parts_of,
)
from streamtrace.dialects.langchain_messages import (
    Call,
    Events,
    Facts,
    Messages,
    Told,
)

MAX_NAMESPACES = 256
MAX_OPEN = 64
"""Messages under way in one namespace, and blocks of one message; of more, the oldest is left."""
MAX_PLACE_CHARS = 1024

_SOURCE = "messages"
_NO_FACTS = Facts()
_IN_PATH = re.compile(r"/threads/([^/]+)/stream/events$")
_IN_EVENT_ID = re.compile(r"synth:([^:]+):lc\|")
"""The server makes the id of a lifecycle event from that of the run; nothing else has it."""


class LangGraphV2(Dialect):
    """The events of a thread: `/threads/…/stream/events`."""

    name = "langgraph-v2"
    marks = marks("type")
    says = says(
        "run thread text reasoning tool_start arguments result step model usage finish "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of `"type": "event"` with a method and its params."""
        value = as_object(frame.json())
        if value.get("type") != "event" or not isinstance(value.get("method"), str):
            return Fit.NO
        return Fit.YES if isinstance(value.get("params"), dict) else Fit.MAYBE

    def open(self, head: Head) -> Decoder:
        """The path names the thread, and the request what the client wants to see."""
        path = _IN_PATH.search(head.path)
        channels = as_object(head.request).get("channels")
        hears_questions = not isinstance(channels, list) or "input" in channels
        return _ThreadDecoder(path[1] if path else None, hears_questions)

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return self.open(Head())


# The hot frames: a piece of text, reasoning or arguments.


class _Text(msgspec.Struct, tag_field="type", tag="text-delta", gc=False):
    piece: str = msgspec.field(name="text")


class _Reasoning(msgspec.Struct, tag_field="type", tag="reasoning-delta", gc=False):
    piece: str = msgspec.field(name="reasoning")


class _Arguments(msgspec.Struct, tag_field="type", tag="tool-call-delta", gc=False):
    piece: str = msgspec.field(name="args")


_Piece: TypeAlias = _Text | _Reasoning | _Arguments


class _DeltaData(msgspec.Struct, gc=False):
    event: Literal["content-block-delta"]
    delta: _Piece
    index: int | None = None
    id: Any = None
    message_id: Any = None


class _DeltaParams(msgspec.Struct, gc=False):
    namespace: list[str]
    data: _DeltaData


class _DeltaEvent(msgspec.Struct, gc=False):
    type: Literal["event"]
    method: Literal["messages"]
    params: _DeltaParams


_hot_decoder = msgspec.json.Decoder(_DeltaEvent)


def _read_hot(data: bytes) -> _DeltaEvent | None:
    try:
        return _hot_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _Writing(msgspec.Struct):
    """A message under way. `blocks` says of each whether its content was told in pieces."""

    wire_id: str | None
    told: Told | None  # none if the AI does not say it
    tool_call_id: str | None = None
    is_mixed: bool = False  # with another of its namespace
    blocks: dict[Any, bool] = {}


class _ThreadDecoder:
    def __init__(self, thread_id: str | None, hears_questions: bool) -> None:
        self._thread_id = thread_id
        self._hears_questions = hears_questions
        self._run_id: str | None = None
        self._runs = False
        self._ended = False
        self._question: ev.RunInterrupted | None = None
        self._messages = Messages()
        self._writing: dict[str, list[_Writing]] = {}  # by namespace
        self._steps: dict[str, str] = {}  # names by id
        self._shown: dict[str, None] = {}  # namespaces whose state was shown in this run

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is None or not frame.complete:
            return ()
        hot = _read_hot(frame.data)
        if hot is not None and (pieces := self._grow(hot.params)):
            return pieces
        value = frame.json()
        event = value if isinstance(value, dict) and value.get("type") == "event" else {}
        method, params = event.get("method"), as_object(event.get("params"))
        handler = _METHODS.get(method) if isinstance(method, str) else None
        if handler is None:
            name = as_id(method) or frame.event or "unknown"
            return (ev.Custom(name=name, value=frame.text if value is None else value),)
        names = [name for name in as_list(params.get("namespace")) if isinstance(name, str)]
        place = "|".join(names)[:MAX_PLACE_CHARS]
        return handler(self, event, place, as_object(params.get("data")))

    def close(self) -> Iterable[ev.Event]:
        """That a question is open is known without a `lifecycle` that the client did not want."""
        return () if self._ended or self._question is None else (self._question,)

    # The run.

    def _lifecycle(self, event: Json, place: str, data: Json) -> Iterable[ev.Event]:
        status, name = data.get("event"), as_id(data.get("graph_name"))
        if place:
            return self._step(place, status, name)
        run = _IN_EVENT_ID.match(as_string(event.get("event_id")) or "")
        run_id = as_id(run[1]) if run else None
        if status in ("started", "running"):
            return self._begin_run(run_id, name)
        self._ended, self._runs = status in _ENDS, False
        if status == "completed":
            return (ev.RunFinished(run_id=run_id or self._run_id, thread_id=self._thread_id),)
        if status == "failed":
            return (ev.RunFailed(message=as_string(data.get("error"))),)
        if status == "interrupted":
            was_stopped = self._question is None and self._hears_questions
            return (ev.RunCancelled() if was_stopped else self._question or ev.RunInterrupted(),)
        return (ev.Custom(name="lifecycle", value=data),)

    def _begin_run(self, run_id: str | None, agent: str | None) -> Iterator[ev.Event]:
        if not self._runs or run_id != self._run_id:
            self._runs, self._ended, self._run_id = True, False, run_id
            self._question = None
            self._shown.clear()
            yield ev.RunStarted(run_id=run_id, thread_id=self._thread_id, agent=agent)

    def _learn(self, metadata: Json, events: Events) -> None:
        """Of which run a message is, if its server says so."""
        thread_id, run_id = as_id(metadata.get("thread_id")), as_id(metadata.get("run_id"))
        if (thread_id and not self._thread_id) or (run_id and not self._run_id):
            self._thread_id = self._thread_id or thread_id
            self._run_id = self._run_id or run_id
            events.append(ev.RunStarted(run_id=self._run_id, thread_id=self._thread_id))

    def _step(self, place: str, status: Any, name: str | None) -> Iterator[ev.Event]:
        last = place.rpartition("|")[2]
        node, _, task_id = last.partition(":")
        if status in ("started", "running"):
            yield from self._start_step(task_id or last, name or node)
        elif status in _ENDS:
            yield from self._finish_step(task_id or last)

    def _start_step(self, step_id: str, name: str) -> Iterator[ev.Event]:
        if step_id not in self._steps:
            remember(self._steps, step_id, name, MAX_NAMESPACES)
            yield ev.StepStarted(name=name, step_id=step_id)

    def _finish_step(self, step_id: str) -> Iterator[ev.Event]:
        if step_id in self._steps:
            yield ev.StepFinished(name=self._steps.pop(step_id), step_id=step_id)

    def _requested(self, event: Json, place: str, data: Json) -> Iterator[ev.Event]:
        payload = data.get("payload")
        reason = payload if payload is None or isinstance(payload, str) else dump_json(payload)
        self._question = ev.RunInterrupted(reason=reason)
        yield ev.Custom(name="input.requested", value=data)

    # Messages.

    def _message(self, event: Json, place: str, data: Json) -> Iterable[ev.Event]:
        moment = data.get("event")
        if moment == "message-start":
            return self._begin_message(place, data)
        writing = self._find_writing(place, data, ends=moment in ("message-finish", "error"))
        handler = _MOMENTS.get(moment) if isinstance(moment, str) else None
        if writing is None or handler is None:
            return (ev.Custom(name=as_id(moment) or "messages", value=data),)
        events: Events = []
        handler(self, writing, data, events)
        return events

    def _begin_message(self, place: str, data: Json) -> Events:
        events: Events = []
        wire_id, metadata = as_id(data.get("id")), as_object(data.get("metadata"))
        writing = _Writing(wire_id, None, as_id(data.get("tool_call_id")))
        if data.get("role", "ai") in ("ai", "assistant"):
            self._learn(metadata, events)
            model, provider = as_id(metadata.get("model")), as_id(metadata.get("provider"))
            facts = Facts(f"{place} {wire_id}", None, model, provider)
            message = {"id": wire_id, "content": ""}
            writing.told = self._messages.find(message, facts, under_way=True)
            if writing.told.source not in (None, _SOURCE):
                writing.told = None  # a state told it
            else:
                writing.told.source, writing.told.in_chunks = _SOURCE, True
                self._messages.open(writing.told, events)
        open_here = self._writing.get(place, [])
        for other in open_here:
            other.is_mixed = writing.is_mixed = True
        open_here.append(writing)
        del open_here[:-MAX_OPEN]
        remember(self._writing, place, open_here, MAX_NAMESPACES)
        return events

    def _find_writing(self, place: str, data: Json, ends: bool) -> _Writing | None:
        open_here = self._writing.get(place, [])
        wire_id = as_id(data.get("id")) or as_id(data.get("message_id"))
        fitting = [one for one in open_here if wire_id is None or one.wire_id == wire_id]
        if not fitting:
            return None
        if ends:
            open_here.remove(fitting[0])
        return fitting[0 if ends else -1]

    def _grow(self, params: _DeltaParams) -> tuple[ev.Event] | None:
        """The quick way of a piece that goes on with a block of the message that speaks."""
        data, names = params.data, params.namespace
        open_here = self._writing.get("|".join(names)[:MAX_PLACE_CHARS] if names else "")
        if not open_here or data.id is not None or data.message_id is not None:
            return None
        writing, piece = open_here[-1], data.delta.piece
        told = writing.told
        if told is None or told is not self._messages.speaking:
            return None
        if not piece or data.index not in writing.blocks:
            return None
        writing.blocks[data.index] = True
        if isinstance(data.delta, _Text):
            return (ev.TextDelta(text=piece, message_id=told.id),)
        if isinstance(data.delta, _Reasoning):
            return (ev.ReasoningDelta(text=piece, message_id=told.id),)
        call = told.calls.get(str(data.index))
        return None if call is None else (_more_arguments(call, piece),)

    def _add_piece(
        self, writing: _Writing, told: Told, index: Any, piece: _Piece, events: Events
    ) -> None:
        if piece.piece:
            remember(writing.blocks, index, True, MAX_OPEN)
            if isinstance(piece, _Arguments):
                call = {"index": index, "args": piece.piece}
                self._messages.tell(told, ("call", call), events)
            else:
                kind = "text" if isinstance(piece, _Text) else "reasoning"
                self._messages.tell(told, (kind, piece.piece), events)

    def _begin_block(self, writing: _Writing, data: Json, events: Events) -> None:
        content, index = as_object(data.get("content")), _index(data)
        if writing.told is None:
            return
        remember(writing.blocks, index, False, MAX_OPEN)
        kind = content.get("type")
        if kind == "reasoning":
            events.append(ev.ReasoningStarted(message_id=writing.told.id))
        if kind in _CALLS:
            call = {**content, "index": index}
            call["args"] = content["args"] if isinstance(content.get("args"), str) else None
            self._messages.tell(writing.told, ("call", call), events)
            writing.blocks[index] = bool(call["args"])
        elif kind in ("text", "reasoning") and isinstance(text := content.get(kind), str) and text:
            writing.blocks[index] = True
            self._messages.tell(writing.told, (kind, text), events)

    def _delta(self, writing: _Writing, data: Json, events: Events) -> None:
        delta = as_object(data.get("delta"))
        try:
            piece: _Piece = msgspec.convert(delta, _Piece)
        except (msgspec.ValidationError, UnicodeError):
            if writing.told is not None:
                name = as_string(delta.get("type")) or "content-block-delta"
                events.append(ev.Custom(name=name, value=data))
            return
        if writing.told is not None:
            self._add_piece(writing, writing.told, _index(data), piece, events)

    def _end_block(self, writing: _Writing, data: Json, events: Events) -> None:
        content, index = as_object(data.get("content")), _index(data)
        told, kind = writing.told, content.get("type")
        if told is None:
            if writing.tool_call_id is not None:
                result = {"content": content.get("text"), "tool_call_id": writing.tool_call_id}
                events += self._messages.result(result)
            return
        if writing.blocks.pop(index, False) or writing.is_mixed:
            content = {**content, "text": "", "reasoning": "", "args": None}
        if kind in _CALLS:
            self._messages.end_call(told, {**content, "index": index}, events)
        else:
            for part in parts_of({"content": [content]}):
                self._messages.tell(told, part, events)
        if kind == "reasoning":
            events.append(ev.ReasoningFinished(message_id=told.id))

    def _end_message(self, writing: _Writing, data: Json, events: Events) -> None:
        if writing.told is not None:
            self._messages.count(writing.told, counts_of(data.get("usage")), events)
            self._messages.read_metadata(writing.told, as_object(data.get("metadata")), events)
            self._messages.complete(writing.told, events)

    def _fail_message(self, writing: _Writing, data: Json, events: Events) -> None:
        events.append(ev.Custom(name="message_error", value=data))
        self._end_message(writing, data, events)

    # The rest.

    def _values(self, event: Json, place: str, data: Json) -> Iterator[ev.Event]:
        yield ev.Custom(name="values", value=data) if self._ended else ev.State(value=data)
        if place in self._shown:
            yield from self._messages.state(messages_in(data), "values", _NO_FACTS)
        else:
            remember(self._shown, place, None, MAX_NAMESPACES)
            self._messages.remember(messages_in(data))

    def _updates(self, event: Json, place: str, data: Json) -> Iterator[ev.Event]:
        yield ev.Custom(name="updates", value=data)
        yield from self._messages.added(messages_in(data.get("values")), "updates", _NO_FACTS)

    def _tasks(self, event: Json, place: str, data: Json) -> Iterator[ev.Event]:
        step_id, name = as_id(data.get("id")), as_id(data.get("name"))
        if step_id is None or name is None:
            yield ev.Custom(name="tasks", value=data)
        elif "result" not in data and "error" not in data:
            yield from self._start_step(step_id, name)
        else:
            yield from self._messages.added(messages_in(data.get("result")), "tasks", _NO_FACTS)
            if data.get("error") is not None:
                yield ev.Custom(name="task_error", value=data["error"])
            yield from self._finish_step(step_id)

    def _tools(self, event: Json, place: str, data: Json) -> Events:
        return self._messages.tool_event(data)

    def _custom(self, event: Json, place: str, data: Json) -> Iterator[ev.Event]:
        value = as_object(event.get("params")).get("data")  # of any type
        name = as_id(as_object(value).get("name"))
        yield ev.Custom(name=name or "custom", value=as_object(value).get("payload", value))


_ENDS = ("completed", "failed", "interrupted")
_CALLS = ("tool_call", "tool_call_chunk", "invalid_tool_call")

_METHODS: Mapping[str, Callable[[_ThreadDecoder, Json, str, Json], Iterable[ev.Event]]] = {
    "lifecycle": _ThreadDecoder._lifecycle,
    "messages": _ThreadDecoder._message,
    "tools": _ThreadDecoder._tools,
    "input.requested": _ThreadDecoder._requested,
    "values": _ThreadDecoder._values,
    "updates": _ThreadDecoder._updates,
    "tasks": _ThreadDecoder._tasks,
    "custom": _ThreadDecoder._custom,
}

_MOMENTS: Mapping[str, Callable[[_ThreadDecoder, _Writing, Json, Events], None]] = {
    "content-block-start": _ThreadDecoder._begin_block,
    "content-block-delta": _ThreadDecoder._delta,
    "content-block-finish": _ThreadDecoder._end_block,
    "message-finish": _ThreadDecoder._end_message,
    "error": _ThreadDecoder._fail_message,
}


def _more_arguments(call: Call, piece: str) -> ev.Event:
    return ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=piece)


def _index(data: Json) -> int | None:
    index = data.get("index")
    return index if isinstance(index, int) else None
