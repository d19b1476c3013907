"""Google's Interactions API: an interaction as numbered steps, of Gemini and of Google's agents.

Rules that hold here (what the client of `google-genai` 3.3 yields, unless said otherwise):

* Dispatch is on the JSON `event_type`; the `event:` line repeats it. The first names of the events
  (`content.delta` and so on, deprecated) are read as today's.
* A step is its index. One of type `*_call` or `*_result` is a tool's; a message or a thought has no
  id, and is told as `INTERACTION:INDEX`.
* What streams in deltas replaces what the start of the step held. Steps that only the last event
  holds are told then.
* Arguments come as pieces of text, or as an object at once. They are complete when the step stops.
* Usage is a running total: the last one counts, and is told with the end. Thoughts count to the
  output, the results of tools that went back to the model to the input.
* The end is a status that is one. `interaction.completed` says which; a status update does if the
  stream ends behind it. `requires_action` waits for the results of the client's functions. Behind
  `requires_continuation` the client asks for the rest in a request of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

PROVIDER = "gcp.gemini"
MAX_OPEN_STEPS = 64
MAX_REMEMBERED = 1024
"""Calls and sources that one stream keeps in mind, of each; of more, the oldest is forgotten."""

_Fields: TypeAlias = dict[str, Any]
_DONE = b"[DONE]"


class GeminiInteractions(Dialect):
    """`POST /interactions` with `stream: true`."""

    name = "gemini-interactions"
    marks = marks("event_type")
    says = says(
        "run text reasoning tool_start arguments result model usage finish "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of the API's own event types; an error may be another's."""
        value = as_object(frame.json())
        kind = value.get("event_type")
        if not isinstance(kind, str) or kind not in _EVENTS:
            return Fit.NO
        if kind == "error":
            return Fit.MAYBE
        return Fit.YES if kind.startswith("interaction.") or "index" in value else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _InteractionsDecoder()


# The hot frames: a piece of text, of a thought or of arguments.


class _Closed(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    pass


class _Text(_Closed, tag="text"):
    text: str


class _Summary(_Closed):
    type: Literal["text"]
    text: str


class _Thought(_Closed, tag="thought_summary"):
    content: _Summary


class _Arguments(_Closed, tag="arguments_delta"):
    arguments: str


class _Hot(_Closed):
    index: int
    delta: _Text | _Thought | _Arguments
    event_type: Literal["step.delta"]
    event_id: msgspec.Raw = msgspec.Raw()


_hot_decoder = msgspec.json.Decoder(_Hot)


class _Step(msgspec.Struct):
    """An open step. `whole` is what its start held: the arguments or the result."""

    kind: str
    role: str
    id: str
    whole: Any = None
    is_error: bool = False
    is_begun: bool = False
    is_streamed: bool = False


class _InteractionsDecoder:
    def __init__(self) -> None:
        self._sources: dict[int, None] = {}
        self._calls: dict[str, None] = {}
        self._id: str | None = None
        self._agent: str | None = None
        self._model: str | None = None
        self._ended = False
        self._begin()

    def _begin(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._had_steps = False
        self._unanswered: dict[str, None] = {}
        self._status: str | None = None
        self._usage: Any = None  # the last, if it is not told yet
        self._error: Any = None

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        try:
            hot = _hot_decoder.decode(frame.data or b"")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self._decode(frame)
        step = self._steps.get(hot.index)
        if step is not None:
            delta = hot.delta
            if isinstance(delta, _Text):
                if delta.text and step.role == "message":
                    return (ev.TextDelta(text=delta.text, message_id=step.id),)
            elif isinstance(delta, _Thought):
                if delta.content.text and step.role == "thought":
                    return (ev.ReasoningDelta(text=delta.content.text, message_id=step.id),)
            elif delta.arguments and step.is_begun and step.role == _CALL:
                step.is_streamed = True
                return (ev.ToolCallArgumentsDelta(tool_call_id=step.id, delta=delta.arguments),)
        return self._decode(frame)

    def close(self) -> Iterator[ev.Event]:
        if self._status in _ENDS:
            yield from self._end(self._status)
        yield from self._tell_usage()

    def _decode(self, frame: Frame) -> Iterator[ev.Event]:
        if frame.data is None or frame.data.startswith(_DONE):
            return
        value = frame.json()
        kind = value.get("event_type") if isinstance(value, dict) else None
        if kind is None and as_object(value).get("error"):
            kind = "error"
        handler = _EVENTS.get(kind) if isinstance(kind, str) else None
        if handler is not None:
            metadata = as_object(value.get("metadata"))
            self._usage = value.get("usage") or metadata.get("total_usage") or self._usage
            yield from handler(self, value)
        elif value is not None or frame.complete:
            value = frame.text if value is None else value
            yield ev.Custom(name=as_id(kind) or frame.event or "unknown", value=value)

    # --- the interaction -----------------------------------------------------------------------

    def _created(self, value: _Fields) -> Iterator[ev.Event]:
        yield from self._tell_usage()
        self._begin()
        yield from self._identity(as_object(value.get("interaction")))

    def _identity(self, facts: _Fields) -> Iterator[ev.Event]:
        """Who answers, if that is news."""
        response_id = as_id(facts.get("id")) or self._id
        model = as_id(facts.get("model")) or self._model
        agent = as_id(facts.get("agent")) or self._agent
        if (response_id, agent) != (self._id, self._agent) or self._ended:
            self._ended, self._agent = False, agent
            yield ev.RunStarted(run_id=response_id, agent=agent)
        if (response_id, model) != (self._id, self._model):
            self._id, self._model = response_id, model
            yield ev.GenerationStarted(response_id=response_id, model=model, provider=PROVIDER)

    def _status_update(self, value: _Fields) -> Iterator[ev.Event]:
        self._status = as_id(value.get("status")) or self._status
        yield from ()

    def _completed(self, value: _Fields) -> Iterator[ev.Event]:
        interaction = as_object(value.get("interaction"))
        self._usage = interaction.get("usage") or self._usage
        if self._ended:
            return
        yield from self._identity(interaction)
        steps = interaction.get("steps")
        if isinstance(steps, list) and not self._had_steps:
            for index, step in enumerate(steps):
                yield from self._step_start({"index": index, "step": step})
                yield from self._step_stop({"index": index})
        yield from self._end(as_id(interaction.get("status")) or self._status or "completed")

    def _end(self, status: str) -> Iterator[ev.Event]:
        if self._ended:
            return
        self._ended = True
        yield from self._tell_usage()
        yield ev.GenerationFinished(finish_reasons=(status,))
        if status == "failed":
            yield _failure(self._error or {"code": status})
        elif status == "cancelled":
            yield ev.RunCancelled()
        elif status == "requires_action":
            call_id = next(iter(self._unanswered), None)
            yield ev.RunInterrupted(reason=status, tool_call_id=call_id)
        else:
            yield ev.RunFinished(run_id=self._id)

    def _fail(self, value: _Fields) -> Iterator[ev.Event]:
        if not self._ended:
            self._ended = True
            yield from self._tell_usage()
            yield _failure(value.get("error"))

    def _tell_usage(self) -> Iterator[ev.Usage]:
        given, self._usage = as_object(self._usage), None
        inputs, tools, cached, outputs, thoughts = (as_count(given.get(name)) for name in _COUNTS)
        if inputs is not None or outputs is not None:
            yield ev.Usage(
                input_tokens=None if inputs is None else inputs + (tools or 0),
                output_tokens=None if outputs is None else outputs + (thoughts or 0),
                cached_input_tokens=cached,
                reasoning_tokens=thoughts,
            )

    # --- its steps -----------------------------------------------------------------------------

    def _open(self, value: _Fields, kind: str) -> _Step:
        index = as_count(value.get("index")) or 0
        step = _Step(kind, _role(kind), f"{self._id or 'step'}:{index}")
        remember(self._steps, index, step, MAX_OPEN_STEPS)
        return step

    def _step_start(self, value: _Fields) -> Iterator[ev.Event]:
        fields = as_object(value.get("step", value.get("content")))
        step = self._open(value, as_id(fields.get("type")) or "unknown")
        self._had_steps = True
        self._error = fields.get("error") or self._error
        begin = _STARTS.get(step.role, _InteractionsDecoder._other)
        yield from begin(self, step, fields)

    def _step_delta(self, value: _Fields) -> Iterator[ev.Event]:
        delta = as_object(value.get("delta"))
        kind = as_id(delta.get("type")) or "step.delta"
        step = self._steps.get(as_count(value.get("index")) or 0)
        if step is None:  # a stream that was resumed begins anywhere
            step = self._open(value, _STEP_OF.get(kind, kind))
        grow = _DELTAS.get(kind) or _DELTAS.get(_role(kind), _InteractionsDecoder._other)
        yield from grow(self, step, delta)

    def _step_stop(self, value: _Fields) -> Iterator[ev.Event]:
        step = self._steps.pop(as_count(value.get("index")) or 0, None)
        end = None if step is None else _STOPS.get(step.role)
        if step is not None and end is not None:
            yield from end(self, step, {})

    def _message(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.MessageStarted(message_id=step.id)
        old = step.kind == "text"  # deprecated: the step is its own content
        yield from self._contents(step, [fields] if old else fields.get("content"))

    def _message_end(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.MessageFinished(message_id=step.id)

    def _thought(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.ReasoningStarted(message_id=step.id)
        yield from self._contents(step, fields.get("summary"))

    def _thought_end(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.ReasoningFinished(message_id=step.id)

    def _text(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        return self._contents(step, [fields])

    def _summary(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        if step.role == "thought":
            yield from self._contents(step, [fields.get("content")])
        else:
            yield from self._other(step, fields)

    def _signature(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield from ()

    def _other(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=as_id(fields.get("type")) or step.kind, value=fields)

    def _call(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        step.whole = fields.get("arguments")
        if as_id(fields.get("id")) is not None:
            yield from self._begin_call(step, fields)

    def _call_end(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield from self._begin_call(step, fields)
        whole = None if step.is_streamed or step.whole is None else dump_json(step.whole)
        yield ev.ToolCallReady(tool_call_id=step.id, arguments=whole)

    def _begin_call(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        if step.is_begun:
            return
        step.is_begun = True
        step.id = as_id(fields.get("id")) or step.id
        remember(self._calls, step.id, None, MAX_REMEMBERED)
        if step.kind == "function_call":
            remember(self._unanswered, step.id, None, MAX_REMEMBERED)
        name = as_id(fields.get("name")) or step.kind.removesuffix(_CALL)
        yield ev.ToolCallStarted(tool_call_id=step.id, name=name)

    def _arguments(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield from self._begin_call(step, fields)
        given = fields.get("arguments")
        if isinstance(given, dict) and not step.is_streamed:
            given = dump_json(given)
        if given and isinstance(given, str):
            step.is_streamed = True
            yield ev.ToolCallArgumentsDelta(tool_call_id=step.id, delta=given)
        elif given:
            yield ev.Custom(name="arguments", value=given)

    def _result(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        step.id = as_id(fields.get("call_id")) or step.id
        step.is_error = step.is_error or fields.get("is_error") is True
        step.whole = fields.get("result")
        yield from ()

    def _result_delta(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        yield from self._result(step, {"result": step.whole, **fields})
        if fields.get("result") is not None:
            yield from self._tell_result(step)

    def _result_end(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        if not step.is_streamed:
            yield from self._tell_result(step)

    def _tell_result(self, step: _Step) -> Iterator[ev.Event]:
        step.is_streamed = True
        if step.id not in self._calls:
            remember(self._calls, step.id, None, MAX_REMEMBERED)
            name = step.kind.removesuffix(_RESULT)
            yield ev.ToolCallStarted(tool_call_id=step.id, name=name)
        self._unanswered.pop(step.id, None)
        value, step.whole = step.whole, None
        result = value if value is None or isinstance(value, str) else dump_json(value)
        yield ev.ToolCallResult(tool_call_id=step.id, result=result, is_error=step.is_error)

    def _contents(self, step: _Step, contents: Any) -> Iterator[ev.Event]:
        for one in contents if isinstance(contents, list) else ():
            content = as_object(one)
            kind, text = as_id(content.get("type")) or "content", as_string(content.get("text"))
            if kind != "text" or step.role not in _TELLS:
                yield ev.Custom(name=kind, value=content)
            elif text:
                yield _TELLS[step.role](text=text, message_id=step.id)
            yield from self._cited(step, content)

    def _cited(self, step: _Step, fields: _Fields) -> Iterator[ev.Event]:
        annotations = fields.get("annotations")
        for one in annotations if isinstance(annotations, list) else ():
            note = as_object(one)
            url = as_word(note.get("url")) or as_word(note.get("document_uri"))
            names = (as_word(note.get(key)) for key in ("title", "file_name", "name"))
            title = next(filter(None, names), None)
            key = hash((url, title))
            if (url or title) and key not in self._sources:
                remember(self._sources, key, None, MAX_REMEMBERED)
                yield ev.Source(url=url, title=title)


_CALL, _RESULT = "_call", "_result"
_ROLES = {"model_output": "message", "text": "message", "thought": "thought"}
_STEP_OF = {
    "text": "model_output",
    "text_annotation_delta": "model_output",
    "thought_summary": "thought",
    "thought_signature": "thought",
    "arguments_delta": "function_call",
}
_TELLS: Mapping[str, type[ev.TextDelta] | type[ev.ReasoningDelta]] = {
    "message": ev.TextDelta,
    "thought": ev.ReasoningDelta,
}
_ENDS = frozenset(
    (
        *("completed", "failed", "cancelled", "incomplete", "requires_action"),
        *("budget_exceeded", "requires_continuation"),
    )
)
_COUNTS = [f"total_{name}_tokens" for name in ("input", "tool_use", "cached", "output", "thought")]

_Handler: TypeAlias = Callable[[_InteractionsDecoder, _Fields], Iterator[ev.Event]]
_StepHandler: TypeAlias = Callable[[_InteractionsDecoder, _Step, _Fields], Iterator[ev.Event]]

_STARTS: Mapping[str, _StepHandler] = {
    "message": _InteractionsDecoder._message,
    "thought": _InteractionsDecoder._thought,
    _CALL: _InteractionsDecoder._call,
    _RESULT: _InteractionsDecoder._result,
}
_DELTAS: Mapping[str, _StepHandler] = {
    "text": _InteractionsDecoder._text,
    "text_annotation": _InteractionsDecoder._cited,
    "text_annotation_delta": _InteractionsDecoder._cited,
    "thought_summary": _InteractionsDecoder._summary,
    "thought_signature": _InteractionsDecoder._signature,
    "arguments_delta": _InteractionsDecoder._arguments,
    _CALL: _InteractionsDecoder._arguments,
    _RESULT: _InteractionsDecoder._result_delta,
}
_STOPS: Mapping[str, _StepHandler] = {
    "message": _InteractionsDecoder._message_end,
    "thought": _InteractionsDecoder._thought_end,
    _CALL: _InteractionsDecoder._call_end,
    _RESULT: _InteractionsDecoder._result_end,
}
_TODAY: Mapping[str, _Handler] = {
    "interaction.created": _InteractionsDecoder._created,
    "interaction.status_update": _InteractionsDecoder._status_update,
    "interaction.completed": _InteractionsDecoder._completed,
    "step.start": _InteractionsDecoder._step_start,
    "step.delta": _InteractionsDecoder._step_delta,
    "step.stop": _InteractionsDecoder._step_stop,
    "error": _InteractionsDecoder._fail,
}
_EVENTS: Mapping[str, _Handler] = {
    **_TODAY,
    "interaction.start": _TODAY["interaction.created"],
    "interaction.complete": _TODAY["interaction.completed"],
    "content.start": _TODAY["step.start"],
    "content.delta": _TODAY["step.delta"],
    "content.stop": _TODAY["step.stop"],
}


def _role(kind: str) -> str:
    """What steps of this type are to a reader: a message, a thought, a call, a result or none."""
    ending = next((one for one in (_CALL, _RESULT) if kind.endswith(one)), "")
    return _ROLES.get(kind, ending)


def _failure(error: Any) -> ev.RunFailed:
    facts = error if isinstance(error, dict) else {"message": error}
    kind = as_id(facts.get("status")) or as_id(facts.get("code"))
    return ev.RunFailed(type=kind, message=as_word(facts.get("message")))
