"""LangGraph's server: what a graph's runs stream, in one or more modes at a time.

Rules that hold here (langgraph-api 0.16, and LangGraph.js in the same words):

* The event names the mode, and behind `|` the way to the subgraph it comes from. All modes tell of
  the same messages: each is told once, whichever mode is first (see `langchain`).
* `messages` are pairs of a chunk and who makes it; `messages/partial` repeat a message as it grows;
  `updates` and `tasks` hold what nodes add, `values` the whole state. The first `values` of a run
  is what it began with.
* A step is a task of the graph: a node that runs once. Chunks show that it runs; its result, its
  update, or a chunk of a later step of the same graph shows that it ended. An update of a node that
  was not seen is a step without length.
* `__interrupt__` means that the run will wait for an answer. Other branches may go on until the
  stream ends, so it is told there. Modes of messages alone do not show it.
* No end is sent: a stream that stops is taken for whole unless it told an error. Streams of a
  thread say of each run that it is done, and old servers sent `end`: these are the end of a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, as_string
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.langchain import (
    Json,
    as_list,
    failure_of,
    interrupted_by,
    is_ai,
    is_tools,
    message_of,
    messages_in,
)
from streamtrace.dialects.langchain_events import EventReader, is_event
from streamtrace.dialects.langchain_messages import (
    Events,
    Facts,
    HotChunk,
    Messages,
    facts_of,
)

MAX_REMEMBERED = 1024
"""Steps, subgraphs, and messages whose maker is known, of each."""

MAX_PLACE_CHARS = 1024
MAX_TAIL_BYTES = 16 * 1024
MAX_DEPTH = 16
"""Of subgraphs in subgraphs that are looked at."""

_STOPPED = ("UserInterrupt", "UserRollback")
"""Errors that mean a stop on request, as some servers tell it."""
_IN_LOCATION = re.compile(r"(?:/threads/([^/]+))?(?:/runs/([^/]+))?(?:/stream)?")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


class LangGraph(Dialect):
    """Runs of LangGraph's server: `/runs/stream`, `/threads/…/runs/stream`, and joined ones."""

    name = "langgraph"
    marks = marks("metadata error messages values updates tasks events custom checkpoints debug")
    needs_terminal = False
    says = says(
        "run thread text reasoning tool_start arguments result step model usage finish "
        "input_required error"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a mode's name with that mode's shape, and of a run's number of attempts."""
        mode = (frame.event or "").partition("|")[0]
        value = frame.json()
        looks_right = _SHAPES.get(mode)
        if looks_right is not None and looks_right(value):
            return Fit.YES
        keys = value.keys() if isinstance(value, dict) else set()
        if mode in _KEYS:
            return Fit.MAYBE if _KEYS[mode] <= keys else Fit.NO
        is_mode = mode in _SHAPES or mode in _SHAPELESS
        return Fit.MAYBE if is_mode and not {"type", "method"} <= keys else Fit.NO

    def open(self, head: Head) -> Decoder:
        """The response's header tells thread and run before the first frame."""
        location = _IN_LOCATION.fullmatch(head.headers.get("content-location", ""))
        thread_id, run_id = location.groups() if location else (None, None)
        asked = as_id(as_object(head.request).get("assistant_id"))
        agent = None if asked is None or _UUID.fullmatch(asked) else asked
        return _LangGraphDecoder(ev.RunStarted(run_id=run_id, thread_id=thread_id, agent=agent))

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return self.open(Head())


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and message_of(value[0]) is not None
        and any(key.startswith("langgraph_") for key in as_object(value[1]))
    )


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and (
        isinstance(value.get("__interrupt__"), list) or bool(messages_in(value))
    )


_KEYS = {"metadata": {"run_id"}, "error": {"error", "message"}}
_SHAPELESS = ("custom", "checkpoints", "debug", "messages/metadata")
_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "metadata": lambda value: {"run_id", "attempt"} <= as_object(value).keys(),
    "messages": _is_pair,
    "messages/partial": lambda value: bool(messages_in(value)),
    "messages/complete": lambda value: bool(messages_in(value)),
    "values": _is_state,
    "updates": lambda value: _is_state(value) or any(map(_is_state, as_object(value).values())),
    "tasks": lambda value: {"id", "name"} < as_object(value).keys(),
    "events": is_event,
}


# The hot frames: a piece of text, beside the same long words on who makes it.


class _Hot(msgspec.Struct, gc=False):
    event: str
    tail: bytes
    """From behind the chunk to the end."""


_hot_decoder = msgspec.json.Decoder(HotChunk)
_pair_decoder = msgspec.json.Decoder(tuple[msgspec.Raw, msgspec.Raw])


def _read_hot(data: bytes) -> HotChunk | None:
    try:
        return _hot_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _tail_of(data: bytes) -> bytes | None:
    """What stands behind the first of a pair. Whatever value stands before it, it is the first."""
    try:
        _, metadata = _pair_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    tail = b"," + bytes(metadata) + b"]"
    return tail if data.startswith(b"[") and data.endswith(tail) else None


class _Step(msgspec.Struct):
    name: str
    graph: str
    number: int | None = None


class _Steps:
    """The tasks that run. A task's place is `name:id`, behind the place of its graph and `|`."""

    def __init__(self) -> None:
        self.all_are_shown = False
        """Whether some mode shows every task from its begin to its end."""
        self._open: dict[str, _Step] = {}
        self._seen: dict[str, None] = {}

    def runs(self, place: str, number: Any = None) -> Iterator[ev.Event]:
        """A task at that place runs, and so do those whose subgraphs it is in."""
        graph = ""
        for segment in place.split("|")[:MAX_DEPTH]:
            name, _, step_id = segment.partition(":")
            inner = f"{graph}|{segment}" if graph else segment
            if step_id and step_id not in self._seen:
                own = number if inner == place and isinstance(number, int) else None
                yield from self._end_before(graph, own)
                yield from self.start(step_id, name, graph, own)
            graph = inner

    def start(
        self, step_id: str, name: str, graph: str, number: int | None = None
    ) -> Iterator[ev.Event]:
        """A task, unless it was seen before."""
        if step_id not in self._seen:
            remember(self._seen, step_id, None, MAX_REMEMBERED)
            remember(self._open, step_id, _Step(name, graph, number), MAX_REMEMBERED)
            yield ev.StepStarted(name=name, step_id=step_id)

    def finish(self, step_id: str) -> Iterator[ev.Event]:
        """It is done, if it ran."""
        step = self._open.pop(step_id, None)
        if step is not None:
            yield ev.StepFinished(name=step.name, step_id=step_id)

    def update(self, name: str, graph: str) -> Iterator[ev.Event]:
        """A node is done: of those with that name the one that began first."""
        for step_id, step in self._open.items():
            if (step.name, step.graph) == (name, graph):
                return self.finish(step_id)
        if self.all_are_shown:
            return iter(())
        return iter((ev.StepStarted(name=name), ev.StepFinished(name=name)))

    def _end_before(self, graph: str, number: int | None) -> Iterator[ev.Event]:
        for step_id, step in list(self._open.items()):
            if number and step.number and step.graph == graph and step.number < number:
                yield from self.finish(step_id)


class _LangGraphDecoder:
    def __init__(self, run: ev.RunStarted) -> None:
        self._run = run  # what is known of it
        self._told = ev.RunStarted()
        self._interrupt: ev.RunInterrupted | None = None
        self._ended = False
        self._messages = Messages()
        self._events = EventReader(self._messages)
        self._steps = _Steps()
        self._shown: dict[str, None] = {}  # graphs whose state was shown in this run
        self._makers: dict[str | None, Facts] = {}  # of messages that grow, by id
        self._hot: _Hot | None = None

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        hot, data = self._hot, frame.data
        if hot is not None and frame.event == hot.event and data and data.endswith(hot.tail):
            chunk = _read_hot(data[1 : -len(hot.tail)])
            if chunk is not None and (text := self._messages.more(chunk, "messages")):
                return text
        mode, _, graph = (frame.event or "").partition("|")
        handler = _MODES.get(mode)
        if handler is None or not frame.complete:
            return _pass_on(frame)
        was_over = self._ended
        events = list(handler(self, frame, graph[:MAX_PLACE_CHARS]))
        if self._told != self._run and not was_over:
            self._told = self._run
            events.insert(0, self._run)
        return events

    def close(self) -> Iterable[ev.Event]:
        return () if self._interrupt is None else self._end_run()

    # The run.

    def _metadata(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        value = as_object(frame.json())
        run_id = as_id(value.get("run_id"))
        if value.get("status") == "run_done":
            yield from self._end_run()
        elif run_id is not None and (self._ended or self._run.run_id not in (None, run_id)):
            yield from self.close()  # the stream of a thread: its next run
            self._ended, self._interrupt = False, None
            self._shown.clear()
            self._run = self._told = msgspec.structs.replace(self._run, run_id=run_id)
            yield self._run
        elif run_id is not None:
            self._run = msgspec.structs.replace(self._run, run_id=run_id)

    def _end(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        return self._end_run()

    def _end_run(self) -> Iterator[ev.Event]:
        if not self._ended:
            self._ended = True
            finished = ev.RunFinished(run_id=self._run.run_id, thread_id=self._run.thread_id)
            yield self._interrupt or finished
        self._interrupt = None

    def _error(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        self._ended, self._interrupt = True, None
        failure = failure_of(frame)
        was_stopped = failure.type in _STOPPED
        yield ev.RunCancelled(reason=failure.message) if was_stopped else failure

    def _learn(self, metadata: Json) -> str:
        """Who runs, as it stands beside most of what a run says. Returns the task's place."""
        if self._run.agent is None or self._run.thread_id is None:
            self._run = msgspec.structs.replace(
                self._run,
                thread_id=self._run.thread_id or as_id(metadata.get("thread_id")),
                agent=self._run.agent or as_id(metadata.get("graph_id")),
            )
        return (as_string(metadata.get("langgraph_checkpoint_ns")) or "")[:MAX_PLACE_CHARS]

    def _read_interrupts(self, interrupts: Any) -> None:
        self._interrupt = interrupted_by(interrupts) or self._interrupt

    # Messages.

    def _pair(self, frame: Frame, graph: str) -> Iterable[ev.Event]:
        value = frame.json()
        pair = value if isinstance(value, list) and len(value) == 2 else (None, None)
        message, metadata = message_of(pair[0]), as_object(pair[1])
        if message is None:
            return _pass_on(frame)
        place = self._learn(metadata)
        events = list(self._steps.runs(place, metadata.get("langgraph_step")))
        if is_ai(message) or is_tools(message):
            events += self._messages.chunk(message, "messages", facts_of(metadata, place))
            self._expect_more(frame)
        else:
            events.append(ev.Custom(name=message["type"], value=message))
        return events

    def _expect_more(self, frame: Frame) -> None:
        data, hot = frame.data or b"", self._hot
        if hot is None or hot.event != frame.event or not data.endswith(hot.tail):
            tail = _tail_of(data)
            is_kept = tail is not None and len(tail) <= MAX_TAIL_BYTES
            self._hot = _Hot(frame.event or "", tail) if tail and is_kept else None

    def _makers_of(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        for message_id, value in as_object(frame.json()).items():
            metadata = as_object(as_object(value).get("metadata"))
            place = self._learn(metadata)
            remember(self._makers, as_id(message_id), facts_of(metadata, place), MAX_REMEMBERED)
            yield from self._steps.runs(place, metadata.get("langgraph_step"))

    def _grown(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        is_partial = (frame.event or "").startswith("messages/partial")
        for message in messages_in(frame.json()):
            maker = self._makers.get(as_id(message.get("id")) or "", Facts())
            if is_partial:
                yield from self._messages.grown(message, "partial", maker)
            else:
                yield from self._messages.whole(message, "complete", maker)

    # States.

    def _values(self, frame: Frame, graph: str) -> Iterable[ev.Event]:
        state = frame.json()
        if not isinstance(state, dict):
            return _pass_on(frame)
        self._read_interrupts(state.get("__interrupt__"))
        events: Events = [ev.State(value=state)]
        if state.keys() == {"__interrupt__"}:
            return events
        messages = messages_in(state)
        if graph in self._shown:
            events += self._messages.state(messages, "values", Facts())
        else:
            remember(self._shown, graph, None, MAX_REMEMBERED)
            self._messages.remember(messages)
        return events

    def _updates(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        for node, added in as_object(frame.json()).items():
            if node == "__interrupt__":
                self._read_interrupts(added)
            elif not node.startswith("__"):
                yield from self._added(added, "updates")
                yield from self._steps.update(node, graph)
        yield from _pass_on(frame)

    def _added(self, added: Any, source: str) -> Iterator[ev.Event]:
        for one in added if isinstance(added, list) else (added,):
            yield from self._messages.added(messages_in(one), source, Facts())

    def _checkpoints(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        yield ev.State(value=as_object(frame.json()).get("values"))

    # Tasks.

    def _tasks(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        return self._task(as_object(frame.json()), graph)

    def _task(self, task: Json, graph: str) -> Iterator[ev.Event]:
        self._steps.all_are_shown = True
        step_id, name = as_id(task.get("id")), as_id(task.get("name"))
        if step_id is None or name is None:
            yield ev.Custom(name="tasks", value=task)
        elif "result" not in task and "error" not in task:
            self._learn(as_object(task.get("metadata")))
            yield from self._steps.start(step_id, name, graph)
        else:
            self._read_interrupts(task.get("interrupts"))
            yield from self._added(task.get("result"), "tasks")
            if task.get("error") is not None:
                yield ev.Custom(name="task_error", value=task["error"])
            yield from self._steps.finish(step_id)

    def _debug(self, frame: Frame, graph: str) -> Iterator[ev.Event]:
        value = as_object(frame.json())
        payload = as_object(value.get("payload"))
        if value.get("type") in ("task", "task_result"):
            yield from self._task(payload, graph)
        elif value.get("type") == "checkpoint":
            yield ev.State(value=payload.get("values"))
        else:
            yield from _pass_on(frame)

    def _event(self, frame: Frame, graph: str) -> Iterable[ev.Event]:
        event = frame.json()
        if not is_event(event):
            return _pass_on(frame)
        metadata, kind = as_object(event.get("metadata")), event["event"]
        place = self._learn(metadata)
        if not kind.startswith("on_chain_"):
            return self._events.read(event)
        is_task = event.get("name") == metadata.get("langgraph_node") and any(
            isinstance(tag, str) and tag.startswith("graph:step:")
            for tag in as_list(event.get("tags"))
        )
        self._steps.all_are_shown = True
        if is_task and kind == "on_chain_start":
            return self._steps.runs(place, metadata.get("langgraph_step"))
        if is_task and kind == "on_chain_end":
            return self._steps.finish(place.rpartition("|")[2].partition(":")[2])
        return ()

    def _tools(self, frame: Frame, graph: str) -> Iterable[ev.Event]:
        return self._messages.tool_event(as_object(frame.json()))

    def _other(self, frame: Frame, graph: str) -> Iterable[ev.Event]:
        return _pass_on(frame)


_MODES: Mapping[str, Callable[[_LangGraphDecoder, Frame, str], Iterable[ev.Event]]] = {
    "metadata": _LangGraphDecoder._metadata,
    "messages": _LangGraphDecoder._pair,
    "messages/metadata": _LangGraphDecoder._makers_of,
    "messages/partial": _LangGraphDecoder._grown,
    "messages/complete": _LangGraphDecoder._grown,
    "values": _LangGraphDecoder._values,
    "updates": _LangGraphDecoder._updates,
    "custom": _LangGraphDecoder._other,
    "events": _LangGraphDecoder._event,
    "tasks": _LangGraphDecoder._tasks,
    "checkpoints": _LangGraphDecoder._checkpoints,
    "debug": _LangGraphDecoder._debug,
    "tools": _LangGraphDecoder._tools,
    "feedback": _LangGraphDecoder._other,
    "error": _LangGraphDecoder._error,
    "end": _LangGraphDecoder._end,
}


def _pass_on(frame: Frame) -> tuple[ev.Event, ...]:
    """What says nothing of messages and tasks."""
    if frame.data is None or not frame.complete or frame.data == b"[DONE]":
        return ()
    value, name = frame.json(), (frame.event or "unknown").partition("|")[0]
    return (ev.Custom(name=name, value=frame.text if value is None else value),)
