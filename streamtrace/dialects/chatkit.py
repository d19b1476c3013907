"""ChatKit: the events of a thread, as OpenAI's chat component and its Python server speak.

Rules that hold here:

* A run is one response. It has no id, and says what thread it belongs to. No model and no usage.
* The wire never says that a response is complete: it stops, or ends with an error.
* Text comes as deltas and again, whole, up to twice. Whole text counts only for a part of which
  nothing was told; the same holds for what it cites.
* Thoughts are repeated whole as they grow, inside the tasks of a workflow. A workflow that is no
  reasoning is a step.
* An item that waits for the client (a tool of the page, a form) is the last of its response, which
  is then interrupted. That is told at the end of the stream, since an error may still follow.
* What the user said, and what is only shown (widgets, progress, notices), is `Custom`; the text
  that streams into a widget is text.

Source: `openai-chatkit` 1.6.5 (`chatkit.types.ThreadStreamEvent`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.accumulated import Accumulated
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_REMEMBERED = 1024
"""Parts of messages, tasks and items that one stream keeps in mind, of each."""

_Fields: TypeAlias = dict[str, Any]
_Events: TypeAlias = list[ev.Event]


class ChatKit(Dialect):
    """What a ChatKit server streams to its component."""

    name = "chatkit"
    marks = marks("type")
    says = says("thread text reasoning tool_start arguments result step input_required error")
    needs_terminal = False

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of what is about a thread; effects, notices and errors need more to be sure."""
        value = as_object(frame.json())
        kind = as_string(value.get("type")) or ""
        if kind in _ABOUT:
            return Fit.YES if isinstance(value.get(_ABOUT[kind]), dict) else Fit.NO
        is_error = kind == "error" and isinstance(value.get("allow_retry"), bool)
        return Fit.MAYBE if is_error or kind in _SHARED else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _ChatKitDecoder()


# The hot frame: more text of a message.


class _TextDelta(msgspec.Struct, gc=False):
    type: Literal["assistant_message.content_part.text_delta"]
    content_index: int
    delta: str


class _Updated(msgspec.Struct, gc=False):
    type: Literal["thread.item.updated"]
    item_id: str
    update: _TextDelta


_updated_decoder = msgspec.json.Decoder(_Updated)


class _ChatKitDecoder:
    def __init__(self) -> None:
        self._thread_id: str | None = None
        self._messages: dict[str | None, None] = {}  # told to have started
        self._told: dict[tuple[str | None, int], None] = {}  # parts of which text was told
        self._cited: dict[tuple[str | None, int], None] = {}  # parts of which a source was told
        self._thoughts = Accumulated()
        self._sources: dict[tuple[str | None, int], int] = {}  # told of a task: how many
        self._workflows: dict[str | None, bool] = {}  # open ones: whether they opened here
        self._calls: dict[str, bool] = {}  # whether they were answered
        self._waiting: dict[str | None, tuple[str, str | None]] = {}  # for the client, by item
        self._has_failed = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None:
            more = _read_updated(frame.data)
            if more is not None and (more.item_id, more.update.content_index) in self._told:
                return (ev.TextDelta(text=more.update.delta, message_id=more.item_id),)
        value = frame.json()
        if frame.data is None or (value is None and not frame.complete):
            return ()
        events: _Events = []
        fields = as_object(value)
        kind = as_id(fields.get("type"))
        handler = _HANDLERS.get(kind or "")
        if handler is None:
            events.append(ev.Custom(name=kind or as_id(frame.event) or "unknown", value=value))
        else:
            handler(self, fields, events)
        return events

    def close(self) -> Iterable[ev.Event]:
        """That the response waits for the client, if it does."""
        if self._has_failed or not self._waiting:
            return ()
        reason, call_id = next(iter(self._waiting.values()))
        return (ev.RunInterrupted(reason=reason, tool_call_id=call_id),)

    def _identify(self, thread_id: Any, events: _Events) -> None:
        if self._thread_id is None and (known := as_id(thread_id)) is not None:
            self._thread_id = known
            events.append(ev.RunStarted(thread_id=known))

    def _thread(self, fields: _Fields, events: _Events) -> None:
        self._identify(as_object(fields.get("thread")).get("id"), events)
        if fields["type"] != "thread.created":
            events.append(ev.Custom(name=fields["type"], value=fields))

    def _item(self, fields: _Fields, events: _Events) -> None:
        item = as_object(fields.get("item"))
        self._identify(item.get("thread_id"), events)
        kind = as_id(item.get("type")) or "item"
        is_done = fields["type"] != "thread.item.added"
        handler = _ITEMS.get(kind)
        if handler is None:
            events.append(ev.Custom(name=kind, value=item))
        else:
            handler(self, item, is_done, events)

    def _update(self, fields: _Fields, events: _Events) -> None:
        update = as_object(fields.get("update"))
        handler = _UPDATES.get(as_string(update.get("type")) or "")
        if handler is None:
            kind = as_id(update.get("type")) or fields["type"]
            events.append(ev.Custom(name=kind, value=fields))
        else:
            handler(self, as_id(fields.get("item_id")), update, events)

    def _error(self, fields: _Fields, events: _Events) -> None:
        if not self._has_failed:
            self._has_failed = True
            code, text = as_id(fields.get("code")), as_word(fields.get("message"))
            events.append(ev.RunFailed(type=code, message=text))

    # --- messages --------------------------------------------------------------------------

    def _message(self, item: _Fields, is_done: bool, events: _Events) -> None:
        item_id = as_id(item.get("id"))
        if item_id not in self._messages:
            remember(self._messages, item_id, None, MAX_REMEMBERED)
            events.append(ev.MessageStarted(message_id=item_id, role="assistant"))
        for index, part in enumerate(_list(item.get("content"))):
            self._tell_part(item_id, index, as_object(part), events)
        if is_done:
            events.append(ev.MessageFinished(message_id=item_id))

    def _text_delta(self, item_id: str | None, update: _Fields, events: _Events) -> None:
        text = as_string(update.get("delta"))
        if text:
            remember(self._told, (item_id, _index(update, "content_index")), None, MAX_REMEMBERED)
            events.append(ev.TextDelta(text=text, message_id=item_id))

    def _part(self, item_id: str | None, update: _Fields, events: _Events) -> None:
        index = _index(update, "content_index")
        self._tell_part(item_id, index, as_object(update.get("content")), events)

    def _annotation(self, item_id: str | None, update: _Fields, events: _Events) -> None:
        remember(self._cited, (item_id, _index(update, "content_index")), None, MAX_REMEMBERED)
        events.append(_source(as_object(update.get("annotation")).get("source")))

    def _tell_part(self, item_id: str | None, index: int, part: _Fields, events: _Events) -> None:
        """The whole text of a part, and what it cites, if nothing was told of them."""
        key, text = (item_id, index), as_string(part.get("text"))
        if text and key not in self._told:
            remember(self._told, key, None, MAX_REMEMBERED)
            events.append(ev.TextDelta(text=text, message_id=item_id))
        cited = _list(part.get("annotations"))
        if cited and key not in self._cited:
            remember(self._cited, key, None, MAX_REMEMBERED)
            events.extend(_source(as_object(one).get("source")) for one in cited)

    # --- workflows and their tasks ---------------------------------------------------------

    def _workflow(self, item: _Fields, is_done: bool, events: _Events) -> None:
        item_id, workflow = as_id(item.get("id")), as_object(item.get("workflow"))
        is_reasoning = workflow.get("type") == "reasoning"
        name = as_id(as_object(workflow.get("summary")).get("title")) or "workflow"
        if item_id not in self._workflows:
            remember(self._workflows, item_id, True, MAX_REMEMBERED)
            events.append(
                ev.ReasoningStarted(message_id=item_id)
                if is_reasoning
                else ev.StepStarted(name=name, step_id=item_id)
            )
        opened_here = self._workflows[item_id]
        for index, task in enumerate(map(as_object, _list(workflow.get("tasks")))):
            # What a response before this one thought is repeated in a workflow that goes on.
            if opened_here or self._thoughts.knows((item_id, index)):
                self._task(item_id, index, task, events)
        if is_done:
            del self._workflows[item_id]
        if is_done and opened_here:
            events.append(
                ev.ReasoningFinished(message_id=item_id)
                if is_reasoning
                else ev.StepFinished(name=name, step_id=item_id)
            )

    def _task_update(self, item_id: str | None, update: _Fields, events: _Events) -> None:
        if item_id not in self._workflows:
            remember(self._workflows, item_id, False, MAX_REMEMBERED)
        task = as_object(update.get("task"))
        self._task(item_id, _index(update, "task_index"), task, events)
        if task.get("type") != "thought":
            events.append(ev.Custom(name=as_id(task.get("type")) or "task", value=task))

    def _lone_task(self, item: _Fields, is_done: bool, events: _Events) -> None:
        self._task(as_id(item.get("id")), 0, as_object(item.get("task")), events)
        events.append(ev.Custom(name="task", value=item))

    def _task(self, item_id: str | None, index: int, task: _Fields, events: _Events) -> None:
        """What is new of a task's thought and sources."""
        thought = as_string(task.get("content"))
        if thought and task.get("type") == "thought":
            delta = self._thoughts.delta((item_id, index), thought)
            if delta:
                events.append(ev.ReasoningDelta(text=delta, message_id=item_id))
        sources, told = _list(task.get("sources")), self._sources.get((item_id, index), 0)
        if len(sources) > told:
            remember(self._sources, (item_id, index), len(sources), MAX_REMEMBERED)
            events.extend(map(_source, sources[told:]))

    # --- what waits for the client, and what is only shown ---------------------------------

    def _call(self, item: _Fields, is_done: bool, events: _Events) -> None:
        item_id = as_id(item.get("id"))
        call_id = as_id(item.get("call_id")) or item_id or f"call-{len(self._calls)}"
        if call_id not in self._calls:
            remember(self._calls, call_id, False, MAX_REMEMBERED)
            name, given = as_id(item.get("name")), item.get("arguments")
            events.append(ev.ToolCallStarted(tool_call_id=call_id, name=name))
            arguments = None if given is None else _text(given)
            events.append(ev.ToolCallReady(tool_call_id=call_id, arguments=arguments))
        if item.get("status") != "completed":
            remember(self._waiting, item_id, ("client_tool_call", call_id), MAX_REMEMBERED)
            return
        self._waiting.pop(item_id, None)
        if not self._calls[call_id]:
            self._calls[call_id] = True
            output = item.get("output")
            result = None if output is None else _text(output)
            events.append(ev.ToolCallResult(tool_call_id=call_id, result=result))

    def _form(self, item: _Fields, is_done: bool, events: _Events) -> None:
        item_id = as_id(item.get("id"))
        if item.get("status") == "pending":
            remember(self._waiting, item_id, ("structured_input", None), MAX_REMEMBERED)
        else:
            self._waiting.pop(item_id, None)
        events.append(ev.Custom(name="structured_input", value=item))


_Handler: TypeAlias = Callable[[_ChatKitDecoder, _Fields, _Events], None]
_HANDLERS: Mapping[str, _Handler] = {
    "thread.created": _ChatKitDecoder._thread,
    "thread.updated": _ChatKitDecoder._thread,
    "thread.item.added": _ChatKitDecoder._item,
    "thread.item.done": _ChatKitDecoder._item,
    "thread.item.replaced": _ChatKitDecoder._item,
    "thread.item.updated": _ChatKitDecoder._update,
    "error": _ChatKitDecoder._error,
}
"""Every other type, such as `progress_update`, is told as custom."""

_ITEMS: Mapping[str, Callable[[_ChatKitDecoder, _Fields, bool, _Events], None]] = {
    "assistant_message": _ChatKitDecoder._message,
    "workflow": _ChatKitDecoder._workflow,
    "task": _ChatKitDecoder._lone_task,
    "client_tool_call": _ChatKitDecoder._call,
    "structured_input": _ChatKitDecoder._form,
}

_UPDATES: Mapping[str, Callable[[_ChatKitDecoder, str | None, _Fields, _Events], None]] = {
    "assistant_message.content_part.added": _ChatKitDecoder._part,
    "assistant_message.content_part.text_delta": _ChatKitDecoder._text_delta,
    "assistant_message.content_part.annotation_added": _ChatKitDecoder._annotation,
    "assistant_message.content_part.done": _ChatKitDecoder._part,
    "widget.streaming_text.value_delta": _ChatKitDecoder._text_delta,
    "workflow.task.added": _ChatKitDecoder._task_update,
    "workflow.task.updated": _ChatKitDecoder._task_update,
}

_ABOUT = {
    "thread.created": "thread",
    "thread.updated": "thread",
    "thread.item.added": "item",
    "thread.item.done": "item",
    "thread.item.replaced": "item",
    "thread.item.updated": "update",
    "stream_options": "stream_options",
}
"""What each type is about: the key of an object."""
_SHARED = ("thread.item.removed", "progress_update", "client_effect", "notice")


def _read_updated(data: bytes) -> _Updated | None:
    try:
        updated = _updated_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return updated if updated.update.delta else None


def _source(source: Any) -> ev.Source:
    about = as_object(source)
    title = as_word(about.get("title")) or as_word(about.get("filename"))
    return ev.Source(url=as_word(about.get("url")), title=title)


def _index(update: _Fields, key: str) -> int:
    index = update.get(key)
    return index if type(index) is int else 0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dump_json(value)
