"""OpenAI Assistants: runs on a thread, as OpenAI streamed them, and Azure's agents still do.

Rules that hold here:

* The kind is the `event:` line; the data does not repeat it. Apps that pass on the objects of a
  client send `{"event": ..., "data": ...}` as data: that is read the same.
* A step of a run is one call of the model, and its usage is that call's. The usage of the run comes
  with its last event, and is that of all steps.
* A step that this stream did not open belongs to the stream before, which ended when tool outputs
  were wanted: of its tool calls the results are told, and no arguments.
* What a tool was given and what it gave back stand under its type, or flat. A tool's calls are
  ready when the first result comes, when the step ends, or when the run asks for their outputs.
* Messages and steps are repeated whole at their end. A whole text counts only if none of it came in
  deltas, and never if the user said it.
* A run that wants tool outputs or an approval is interrupted; one that expired failed. `done` ends
  a run that has not said itself how it ended.

Source: `openai` 3.51 (`types.beta.AssistantStreamEvent`), `azure-ai-agents` 1.1 (its tools).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_REMEMBERED = 1024
"""Steps, tool calls and messages that one stream keeps in mind, of each."""

_DONE = b"[DONE]"

_Fields: TypeAlias = dict[str, Any]
_Events: TypeAlias = list[ev.Event]


class OpenAIAssistants(Dialect):
    """`thread.*` events about one run."""

    name = "openai-assistants"
    marks = marks("thread event")
    says = says(
        "run thread text tool_start arguments result step model usage finish "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a `thread.*` event whose data is an object of that kind."""
        kind, fields = _unwrap(frame, frame.json())
        if kind not in _HANDLERS or not kind.startswith("thread.") or "choices" in fields:
            return Fit.NO  # IBM's agents name their chunks of chat like this
        named = as_string(fields.get("object"))
        is_ours = "id" in fields if named is None else f"{kind}.".startswith(f"{named}.")
        return Fit.YES if is_ours else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _AssistantsDecoder()


# The hot frame: one piece of text.


class _Text(msgspec.Struct, gc=False):
    value: str
    annotations: list[Any] | None = None


class _Part(msgspec.Struct, gc=False):
    type: Literal["text"]
    text: _Text


class _Delta(msgspec.Struct, gc=False):
    content: list[_Part]


class _MessageDelta(msgspec.Struct, gc=False):
    id: str
    delta: _Delta


_message_delta_decoder = msgspec.json.Decoder(_MessageDelta)


class _Call(msgspec.Struct):
    id: str
    is_ready: bool = False
    has_arguments: bool = False


class _AssistantsDecoder:
    def __init__(self) -> None:
        self._run_id: str | None = None
        self._thread_id: str | None = None
        self._model: str | None = None
        self._steps: dict[str, str] = {}  # open ones: their kind, by id
        self._calls: dict[tuple[str, int], _Call] = {}
        self._told: dict[str | None, None] = {}  # messages of which some text was told
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.event == "thread.message.delta" and frame.data is not None:
            piece = _read_message_delta(frame.data)
            if piece is not None and piece.id in self._told:
                return (ev.TextDelta(text=piece.delta.content[0].text.value, message_id=piece.id),)
        value = frame.json()
        if frame.data is None or (value is None and not frame.complete and frame.data != _DONE):
            return ()
        events: _Events = []
        kind, fields = _unwrap(frame, value)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, kind, fields, events)
        elif fields.get("error"):
            self._error(kind, fields, events)
        elif frame.data != _DONE:
            events.append(ev.Custom(name=as_id(kind) or "unknown", value=value))
        return events

    def close(self) -> Iterable[ev.Event]:
        return ()

    # --- the run ---------------------------------------------------------------------------

    def _thread(self, kind: str, fields: _Fields, events: _Events) -> None:
        self._thread_id = as_id(fields.get("id"))
        events.append(ev.RunStarted(thread_id=self._thread_id))

    def _run(self, kind: str, fields: _Fields, events: _Events) -> None:
        self._identify(as_id(fields.get("id")), fields, events)
        model = as_id(fields.get("model"))
        self._model = model or self._model
        counts = _counts(fields.get("usage"))
        if counts:
            events.append(ev.Usage(**counts, model=model, scope="run"))
        ending = _ENDINGS.get(kind.rpartition(".")[2])
        if ending is not None and not self._ended:
            self._ended = True
            ending(self, fields, events)

    def _identify(self, run_id: str | None, fields: _Fields, events: _Events) -> None:
        if run_id is not None and run_id != self._run_id:
            self._run_id = run_id
            self._thread_id = as_id(fields.get("thread_id")) or self._thread_id
            agent = as_id(fields.get("assistant_id"))
            self._ended = False
            events.append(ev.RunStarted(run_id=run_id, thread_id=self._thread_id, agent=agent))

    def _completed(self, fields: _Fields, events: _Events) -> None:
        events.append(ev.RunFinished(run_id=self._run_id, thread_id=self._thread_id))

    def _incomplete(self, fields: _Fields, events: _Events) -> None:
        reason = as_word(as_object(fields.get("incomplete_details")).get("reason"))
        events.append(ev.GenerationFinished(finish_reasons=(reason or "incomplete",)))
        self._completed(fields, events)

    def _failed(self, fields: _Fields, events: _Events) -> None:
        error = as_object(fields.get("last_error"))
        status = as_id(fields.get("status"))
        events.append(
            ev.RunFailed(
                type=as_id(error.get("code")) or status, message=as_word(error.get("message"))
            )
        )

    def _cancelled(self, fields: _Fields, events: _Events) -> None:
        events.append(ev.RunCancelled())

    def _requires_action(self, fields: _Fields, events: _Events) -> None:
        action = as_object(fields.get("required_action"))
        reason = as_id(action.get("type"))
        wanted = _list(as_object(action.get(reason or "")).get("tool_calls"))
        known = {call.id: call for call in self._calls.values()}
        asked = None
        for wire in map(as_object, wanted):
            call_id = as_id(wire.get("id"))
            if call_id is None:
                continue
            asked = asked or call_id
            call = known.get(call_id)
            if call is None:
                call = _Call(call_id)
                events.append(ev.ToolCallStarted(tool_call_id=call_id, name=_tool(wire)[0]))
            self._tell_ready(call, wire, events)
        events.append(ev.RunInterrupted(reason=reason, tool_call_id=asked))

    def _error(self, kind: str, fields: _Fields, events: _Events) -> None:
        if not self._ended:
            self._ended = True
            error = fields.get("error") or fields
            facts = error if isinstance(error, dict) else {"message": error}
            code = as_id(facts.get("code")) or as_id(facts.get("type"))
            events.append(ev.RunFailed(type=code, message=as_word(facts.get("message"))))

    def _done(self, kind: str, fields: _Fields, events: _Events) -> None:
        if not self._ended:
            self._ended = True
            self._completed(fields, events)

    # --- steps and tool calls --------------------------------------------------------------

    def _step_opened(self, kind: str, fields: _Fields, events: _Events) -> None:
        self._identify(as_id(fields.get("run_id")), fields, events)
        step_id = as_id(fields.get("id"))
        if step_id is not None and step_id not in self._steps:
            step_kind = as_id(fields.get("type")) or "step"
            remember(self._steps, step_id, step_kind, MAX_REMEMBERED)
            events.append(ev.StepStarted(name=step_kind, step_id=step_id))
            events.append(ev.GenerationStarted(key=step_id, model=self._model))

    def _step_delta(self, kind: str, fields: _Fields, events: _Events) -> None:
        step_id = as_id(fields.get("id")) or "step"
        details = as_object(as_object(fields.get("delta")).get("step_details"))
        for place, wire in enumerate(map(as_object, _list(details.get("tool_calls")))):
            _, arguments, result = _tool(wire)
            call = self._call(step_id, _index(wire, place), wire, events)
            if arguments:
                call.has_arguments = True
                events.append(
                    ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=_text(arguments))
                )
            if result:
                self._tell_ready(call, {}, events)

    def _step_closed(self, kind: str, fields: _Fields, events: _Events) -> None:
        self._identify(as_id(fields.get("run_id")), fields, events)
        step_id = as_id(fields.get("id")) or "step"
        step_kind = self._steps.pop(step_id, None)
        has_failed = not kind.endswith(".completed")
        details = as_object(fields.get("step_details"))
        for place, wire in enumerate(map(as_object, _list(details.get("tool_calls")))):
            call = self._call(step_id, _index(wire, place), wire, events)
            self._tell_ready(call, {} if step_kind is None else wire, events)
            _, _, result = _tool(wire)
            if result or not has_failed:
                text = None if result is None else _text(result)
                events.append(
                    ev.ToolCallResult(tool_call_id=call.id, result=text, is_error=has_failed)
                )
        if step_kind is not None:
            counts = _counts(fields.get("usage"))
            if counts:
                events.append(ev.Usage(**counts))
            events.append(ev.StepFinished(name=step_kind, step_id=step_id))

    def _call(self, step_id: str, index: int, wire: _Fields, events: _Events) -> _Call:
        """The call at this place of the step, told when it is seen first."""
        call = self._calls.get((step_id, index))
        if call is None:
            call = _Call(as_id(wire.get("id")) or f"{step_id}:{index}")
            remember(self._calls, (step_id, index), call, MAX_REMEMBERED)
            events.append(ev.ToolCallStarted(tool_call_id=call.id, name=_tool(wire)[0]))
        return call

    def _tell_ready(self, call: _Call, wire: _Fields, events: _Events) -> None:
        if not call.is_ready:
            call.is_ready = True
            arguments = None if call.has_arguments else _tool(wire)[1]
            text = None if arguments is None else _text(arguments)
            events.append(ev.ToolCallReady(tool_call_id=call.id, arguments=text))

    # --- messages --------------------------------------------------------------------------

    def _message(self, kind: str, fields: _Fields, events: _Events) -> None:
        message_id = as_id(fields.get("id"))
        role = as_id(fields.get("role"))
        self._identify(as_id(fields.get("run_id")), fields, events)
        if kind.endswith(".created"):
            events.append(ev.MessageStarted(message_id=message_id, role=role))
        if role != "user" and message_id not in self._told:
            self._content(message_id, fields.get("content"), events)
        if kind.endswith((".completed", ".incomplete")):
            events.append(ev.MessageFinished(message_id=message_id))

    def _message_delta(self, kind: str, fields: _Fields, events: _Events) -> None:
        content = as_object(fields.get("delta")).get("content")
        self._content(as_id(fields.get("id")), content, events)

    def _content(self, message_id: str | None, content: Any, events: _Events) -> None:
        for part in map(as_object, _list(content)):
            text = as_object(part.get("text"))
            said = as_string(text.get("value")) or as_string(part.get("refusal"))
            if said:
                remember(self._told, message_id, None, MAX_REMEMBERED)
                events.append(ev.TextDelta(text=said, message_id=message_id))
            events.extend(map(_source, map(as_object, _list(text.get("annotations")))))
            if as_string(part.get("type")) in ("image_file", "image_url"):
                events.append(ev.Custom(name=part["type"], value=part))


_Handler: TypeAlias = Callable[[_AssistantsDecoder, str, _Fields, _Events], None]
_KINDS: Mapping[_Handler, str] = {
    _AssistantsDecoder._thread: "thread.created",
    _AssistantsDecoder._run: "thread.run.created thread.run.queued thread.run.in_progress "
    "thread.run.requires_action thread.run.completed thread.run.incomplete thread.run.failed "
    "thread.run.cancelling thread.run.cancelled thread.run.expired",
    _AssistantsDecoder._step_opened: "thread.run.step.created thread.run.step.in_progress",
    _AssistantsDecoder._step_delta: "thread.run.step.delta",
    _AssistantsDecoder._step_closed: "thread.run.step.completed thread.run.step.failed "
    "thread.run.step.cancelled thread.run.step.expired",
    _AssistantsDecoder._message: "thread.message.created thread.message.in_progress "
    "thread.message.completed thread.message.incomplete",
    _AssistantsDecoder._message_delta: "thread.message.delta",
    _AssistantsDecoder._error: "error",
    _AssistantsDecoder._done: "done",
}
_HANDLERS: Mapping[str, _Handler] = {
    kind: handler for handler, kinds in _KINDS.items() for kind in kinds.split()
}

_ENDINGS: Mapping[str, Callable[[_AssistantsDecoder, _Fields, _Events], None]] = {
    "completed": _AssistantsDecoder._completed,
    "incomplete": _AssistantsDecoder._incomplete,
    "failed": _AssistantsDecoder._failed,
    "expired": _AssistantsDecoder._failed,
    "cancelled": _AssistantsDecoder._cancelled,
    "requires_action": _AssistantsDecoder._requires_action,
}

_ARGUMENTS = ("arguments", "input")
_RESULTS = ("output", "outputs", "results")


def _unwrap(frame: Frame, value: Any) -> tuple[str, _Fields]:
    """The kind of a frame, and its data."""
    fields = as_object(value)
    inner, kind = fields.get("data"), as_string(fields.get("event"))
    if kind is not None and isinstance(inner, dict):
        return kind, inner
    if value is None or isinstance(value, str):
        fields = {"message": value or frame.text}
    return frame.event or "", fields


def _tool(wire: _Fields) -> tuple[str | None, Any, Any]:
    """The name of a tool, its arguments, and its result, as far as they are given."""
    kind = as_id(wire.get("type"))
    details = as_object(wire.get(kind or "")) or wire
    arguments = next((details[key] for key in _ARGUMENTS if details.get(key)), None)
    result = next((details[key] for key in _RESULTS if details.get(key)), None)
    if details is not wire and details.keys().isdisjoint((*_ARGUMENTS, *_RESULTS)):
        arguments = details  # such as the address that Bing was asked at
    return as_id(details.get("name")) or kind, arguments, result


def _counts(usage: Any) -> dict[str, Any]:
    given = as_object(usage)
    prompt = given.get("prompt_token_details") or given.get("prompt_tokens_details")
    found = {
        "input_tokens": as_count(given.get("prompt_tokens")),
        "output_tokens": as_count(given.get("completion_tokens")),
        "cached_input_tokens": as_count(as_object(prompt).get("cached_tokens")),
        "reasoning_tokens": as_count(
            as_object(given.get("completion_tokens_details")).get("reasoning_tokens")
        ),
    }
    return {name: count for name, count in found.items() if count is not None}


def _source(note: _Fields) -> ev.Source:
    """A citation of a page, or of a file, which has an id and no name here."""
    page = as_object(note.get("url_citation"))
    file = as_object(note.get("file_citation")) or as_object(note.get("file_path"))
    title = as_word(page.get("title")) or as_word(file.get("file_id"))
    return ev.Source(url=as_word(page.get("url")), title=title)


def _read_message_delta(data: bytes) -> _MessageDelta | None:
    """A single piece of text that cites nothing."""
    try:
        piece = _message_delta_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    content = piece.delta.content
    is_plain = len(content) == 1 and content[0].text.value and not content[0].text.annotations
    return piece if is_plain else None


def _index(wire: _Fields, place: int) -> int:
    index = wire.get("index")
    return index if type(index) is int else place


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dump_json(value)
