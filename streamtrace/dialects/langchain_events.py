"""LangChain's `astream_events`: a tree of runs (models, chains, tools, retrievers) as it unfolds.

Rules that hold here (langchain-core 1.7; versions v1 and v2, which differ in what an end holds):

* Objects come as bare `data:` JSON, or under `event: data` from LangServe's `/stream_events`, which
  adds an `event: end` without data, and `event: error`.
* The root is the first of `parent_ids`, else the first run that is seen. Its start names the agent,
  its end is that of the stream. v1 has no parents. Where a graph asks something, the root streams
  `__interrupt__` before it ends.
* Text comes from models only. What chains, prompts and parsers stream is the same text once more:
  of chains the steps are told, of the others nothing.
* A tool's run bears no id of its call until it ends. It takes the oldest call of that name which
  waits; if there is none, it is a call of its own.
* A model's text that was not serialised (its `repr` under `chunk`) is passed on, not read.
"""

from __future__ import annotations

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
    failure_of,
    interrupted_by,
    message_of,
    sources_in,
)
from streamtrace.dialects.langchain_messages import (
    Events,
    Facts,
    HotChunk,
    Messages,
    facts_of,
)

SOURCE = "events"
MAX_RUNS = 1024
"""Runs of tools and chains that are open; of more, the oldest is forgotten."""

_NAMES = (None, "", "message", "data")
"""Of SSE events that hold such objects."""


class LangChainEvents(Dialect):
    """The event objects of `astream_events`, as LangServe and others stream them."""

    name = "langchain-events"
    marks = marks("event")
    says = says(
        "run thread text reasoning tool_start arguments result step model usage finish "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of an object whose `event` is `on_…` of a run."""
        return Fit.YES if frame.event in _NAMES and is_event(frame.json()) else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _EventsDecoder()


def is_event(value: Any) -> bool:
    """Whether it is an object of `astream_events`."""
    if not isinstance(value, dict) or not isinstance(value.get("run_id"), str):
        return False
    kind = value.get("event")
    return isinstance(kind, str) and kind.startswith("on_")


class EventReader:
    """What the events say but for the tree: models, tools, retrievers."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self._calls: dict[str | None, str] = {}  # of tools that run, by run

    def read(self, event: Json) -> Iterable[ev.Event]:
        """What is new in it."""
        kind = event.get("event")
        handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is not None:
            return handler(self, event, as_object(event.get("data")))
        if kind in _TOLD_ELSEWHERE:
            return ()
        return (ev.Custom(name=as_id(kind) or "event", value=event),)

    def _model_start(self, event: Json, data: Json) -> Events:
        return self.messages.begin(_facts(event))

    def _model_stream(self, event: Json, data: Json) -> Iterable[ev.Event]:
        chunk = data.get("chunk")
        message = message_of(chunk)
        if message is not None:
            return self.messages.chunk(message, SOURCE, _facts(event))
        text = as_string(as_object(chunk).get("text"))
        if event["event"] == "on_llm_stream" and isinstance(text := text or chunk, str):
            return self._model_text(event, text)
        return (ev.Custom(name="on_chat_model_stream", value=event),)

    def _model_end(self, event: Json, data: Json) -> Iterable[ev.Event]:
        output = data.get("output")
        generations = as_list(as_object(output).get("generations"))
        first = as_object(next(iter(as_list(next(iter(generations), None))), None))
        message = message_of(output) or message_of(first.get("message"))
        if message is not None:
            return self.messages.whole(message, SOURCE, _facts(event))
        text = as_string(first.get("text"))
        if text is not None:
            return self._model_text(event, text, is_whole=True)
        return (ev.Custom(name="on_chat_model_end", value=event),)

    def _model_text(self, event: Json, text: str, is_whole: bool = False) -> Events:
        """Of a model that completes text, and knows no messages."""
        events: Events = []
        told = self.messages.find(None, _facts(event), under_way=True)
        if told.source is None or not is_whole:
            told.source = SOURCE
            self.messages.tell(told, ("text", text), events)
        if is_whole:
            self.messages.complete(told, events)
        return events

    def _tool_start(self, event: Json, data: Json) -> Events:
        run_id, name = event["run_id"], as_id(event.get("name"))
        call_id = self.messages.waiting_call(name, {*self._calls.values()}) or as_id(run_id) or ""
        remember(self._calls, as_id(run_id), call_id, MAX_RUNS)
        return self.messages.tool_started(call_id, name, data.get("input"))

    def _tool_end(self, event: Json, data: Json) -> Events:
        output = data.get("output")
        return self._tool_result(event, message_of(output) or {"content": output})

    def _tool_error(self, event: Json, data: Json) -> Events:
        error = data.get("error")
        text = error if isinstance(error, str) else dump_json(error)
        failed = {"content": text, "status": "error", "tool_call_id": data.get("tool_call_id")}
        return self._tool_result(event, failed)

    def _tool_result(self, event: Json, message: Json) -> Events:
        run_id = as_id(event["run_id"])
        call_id, said_id = self._calls.pop(run_id or "", None), as_id(message.get("tool_call_id"))
        if call_id is None or call_id != run_id:  # else the run is the call
            call_id = said_id or call_id or run_id
        named = {"name": event.get("name"), **message, "tool_call_id": call_id, "type": "tool"}
        events = self.messages.result(named)
        if said_id is not None:
            self.messages.remember([{**named, "tool_call_id": said_id}])
        return events

    def _retriever_start(self, event: Json, data: Json) -> Events:
        return [ev.StepStarted(name=name_of(event), step_id=as_id(event["run_id"]))]

    def _retriever_end(self, event: Json, data: Json) -> Events:
        output = data.get("output")
        documents = output if isinstance(output, list) else as_object(output).get("documents")
        step = ev.StepFinished(name=name_of(event), step_id=as_id(event["run_id"]))
        return [*sources_in(documents), step]

    def _custom_event(self, event: Json, data: Json) -> Events:
        return [ev.Custom(name=name_of(event), value=event.get("data"))]


_Handler: TypeAlias = Callable[[EventReader, Json, Json], Iterable[ev.Event]]

_HANDLERS: Mapping[str, _Handler] = {
    "on_chat_model_start": EventReader._model_start,
    "on_chat_model_stream": EventReader._model_stream,
    "on_chat_model_end": EventReader._model_end,
    "on_llm_start": EventReader._model_start,
    "on_llm_stream": EventReader._model_stream,
    "on_llm_end": EventReader._model_end,
    "on_tool_start": EventReader._tool_start,
    "on_tool_end": EventReader._tool_end,
    "on_tool_error": EventReader._tool_error,
    "on_retriever_start": EventReader._retriever_start,
    "on_retriever_end": EventReader._retriever_end,
    "on_custom_event": EventReader._custom_event,
}
_TOLD_ELSEWHERE = frozenset(
    f"on_{kind}_{moment}"
    for kind in ("chain", "prompt", "parser")
    for moment in ("start", "stream", "end")
)


class _HotData(msgspec.Struct, gc=False):
    chunk: HotChunk


class _HotEvent(msgspec.Struct, gc=False):
    event: Literal["on_chat_model_stream"]
    run_id: str
    data: _HotData


_hot_decoder = msgspec.json.Decoder(_HotEvent)


def _read_hot(data: bytes) -> _HotEvent | None:
    try:
        return _hot_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class _EventsDecoder:
    """A decoder of one stream of events."""

    def __init__(self) -> None:
        self._messages = Messages()
        self._reader = EventReader(self._messages)
        self._root: str | None = None
        self._steps: dict[str, None] = {}
        self._interrupt: ev.RunInterrupted | None = None
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.event in _NAMES and frame.data is not None:
            hot = _read_hot(frame.data)
            if hot is not None and (text := self._messages.more(hot.data.chunk, SOURCE)):
                return text
        value = frame.json()
        if frame.event in _NAMES and is_event(value):
            return self._read(value)
        handler = _FRAMES.get(frame.event or "")
        if handler is not None and frame.complete:
            return handler(self, frame)
        if frame.data is None or not frame.complete or frame.data == b"[DONE]":
            return ()
        return (
            ev.Custom(name=frame.event or "unknown", value=frame.text if value is None else value),
        )

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _read(self, event: Json) -> Iterator[ev.Event]:
        kind, run_id = event["event"], as_id(event["run_id"])
        if self._root is None:
            yield self._start(event)
        if run_id == self._root:
            yield from self._reader.read(event)
            chunk = as_object(as_object(event.get("data")).get("chunk"))
            self._interrupt = interrupted_by(chunk.get("__interrupt__")) or self._interrupt
            if kind.endswith("_end") and not self._ended:
                yield from self._end()
        elif kind == "on_chain_start" and run_id is not None:
            remember(self._steps, run_id, None, MAX_RUNS)
            yield ev.StepStarted(name=name_of(event), step_id=run_id)
        elif kind == "on_chain_end" and run_id in self._steps:
            del self._steps[run_id]
            yield ev.StepFinished(name=name_of(event), step_id=run_id)
        else:
            yield from self._reader.read(event)

    def _start(self, event: Json) -> ev.RunStarted:
        parents = as_list(event.get("parent_ids"))
        self._root = as_id(parents[0]) if parents else as_id(event["run_id"])
        return ev.RunStarted(
            run_id=self._root,
            thread_id=as_id(as_object(event.get("metadata")).get("thread_id")),
            agent=name_of(event) if event["event"] == "on_chain_start" and not parents else None,
        )

    def _metadata(self, frame: Frame) -> Iterator[ev.Event]:
        run_id = as_id(as_object(frame.json()).get("run_id"))
        if run_id is not None and self._root is None:
            self._root = run_id
            yield ev.RunStarted(run_id=run_id)

    def _end(self, frame: Frame | None = None) -> Iterator[ev.Event]:
        if not self._ended:
            self._ended = True
            yield self._interrupt or ev.RunFinished(run_id=self._root)

    def _error(self, frame: Frame) -> Iterator[ev.Event]:
        self._ended = True
        yield failure_of(frame)


_FRAMES: Mapping[str, Callable[[_EventsDecoder, Frame], Iterable[ev.Event]]] = {
    "metadata": _EventsDecoder._metadata,
    "end": _EventsDecoder._end,
    "error": _EventsDecoder._error,
}
"""The frames of LangServe that hold no event of LangChain."""


def name_of(event: Json) -> str:
    """What runs. A step needs a name."""
    return as_id(event.get("name")) or "run"


def _facts(event: Json) -> Facts:
    """Of a model's run. In a graph its lane is the node, as it is in the graph's other modes."""
    metadata, run_id = as_object(event.get("metadata")), as_id(event["run_id"])
    lane = as_id(metadata.get("langgraph_checkpoint_ns")) or run_id or ""
    return facts_of(metadata, lane, run_id)
