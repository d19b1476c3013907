"""Mistral Conversations: agents that answer, use connectors and hand over to each other.

Rules that hold here:

* Dispatch is on the JSON `type`; the `event:` line repeats it.
* A conversation is the thread. The run has no id.
* What follows the start, a tool's end or a handoff is the next call of the model: the id of its
  first output names it.
* Content is a piece of text, or one chunk: text, reasoning, a reference, a file.
* A connector's arguments are whole when it starts, unless they are missing their end: then more of
  them follows, and it is ready when it is done. A function's arguments end where other output
  begins, and at the end.
* Usage is that of all calls. What connectors put in is counted beside the prompt, which the total
  shows: it is input here.
* A conversation that ends on calls of functions waits for the client: that interrupts the run.
* Each agent after a handoff is a step.

Source: `mistralai` 3.7 (`client.models.ConversationEvents`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import (
    as_count,
    as_id,
    as_object,
    as_string,
    as_word,
    dump_json,
    load_json,
)
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

PROVIDER = "mistral_ai"
MAX_REMEMBERED = 256
"""Tool calls that one stream keeps in mind; of more, the oldest is forgotten."""

_Fields: TypeAlias = dict[str, Any]
_Events: TypeAlias = list[ev.Event]


class MistralConversations(Dialect):
    """The Conversations API of Mistral's agents."""

    name = "mistral-conversations"
    marks = marks("type")
    says = says(
        "thread text reasoning tool_start arguments result step model usage "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of its types, whose words no other vocabulary joins like this."""
        kind = as_object(frame.json()).get("type")
        is_ours = isinstance(kind, str) and kind in _HANDLERS
        return Fit.YES if is_ours and frame.event in (None, "", "message", kind) else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _ConversationDecoder()


# The hot frame: a piece of text.


class _Output(msgspec.Struct, gc=False):
    type: Literal["message.output.delta"]
    id: str
    content: str
    model: str | None = None
    agent_id: str | None = None


_output_decoder = msgspec.json.Decoder(_Output)


class _Call(msgspec.Struct):
    id: str
    is_ready: bool = False


class _ConversationDecoder:
    def __init__(self) -> None:
        self._thread_id: str | None = None
        self._agent: str | None = None
        self._step: str | None = None
        self._message_id: str | None = None
        self._begin()

    def _begin(self) -> None:
        self._turn: tuple[str | None, str | None] | None = None  # the open one: its id and model
        self._hot: tuple[str, str | None, str | None] | None = None  # who said the last text
        self._models: dict[str, None] = {}
        self._executions: dict[str, _Call] = {}  # open ones, by what the wire calls them
        self._functions: dict[str, _Call] = {}
        self._unanswered: dict[str, str] = {}  # what the client must do, by tool call
        self._unnamed = 0
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None and self._hot is not None:
            more = _read_output(frame.data)
            if more is not None and (more.id, more.model, more.agent_id) == self._hot:
                return (ev.TextDelta(text=more.content, message_id=more.id),)
        value = frame.json()
        if frame.data is None or (value is None and not frame.complete):
            return ()
        events: _Events = []
        fields = as_object(value)
        kind = as_id(fields.get("type"))
        handler = _HANDLERS.get(kind or "")
        if handler is not None:
            self._hot = None
            handler(self, fields, events)
        elif fields.get("error") or frame.event == "error":
            self._error(fields or {"message": value or frame.text}, events)
        elif frame.data != b"[DONE]":
            events.append(ev.Custom(name=kind or as_id(frame.event) or "unknown", value=value))
        return events

    def close(self) -> Iterable[ev.Event]:
        return ()

    # --- the run ---------------------------------------------------------------------------

    def _started(self, fields: _Fields, events: _Events) -> None:
        self._begin()
        self._thread_id = as_id(fields.get("conversation_id"))
        events.append(ev.RunStarted(thread_id=self._thread_id))

    def _done(self, fields: _Fields, events: _Events) -> None:
        self._tell_functions_ready(events)
        self._open_message(None, events)
        self._open_step(None, events)
        usage = _usage(as_object(fields.get("usage")), self._models)
        if usage is not None:
            events.append(usage)
        if self._ended:
            return
        self._ended = True
        if self._unanswered:
            call_id, reason = next(iter(self._unanswered.items()))
            events.append(ev.RunInterrupted(reason=reason, tool_call_id=call_id))
        else:
            events.append(ev.RunFinished(thread_id=self._thread_id))

    def _error(self, fields: _Fields, events: _Events) -> None:
        if not self._ended:
            self._ended = True
            error = fields.get("error") or fields
            facts = error if isinstance(error, dict) else {"message": error}
            kind = as_id(facts.get("code")) or as_id(fields.get("code"))
            if kind is None and facts is not fields:
                kind = as_id(facts.get("type"))
            events.append(ev.RunFailed(type=kind, message=as_word(facts.get("message"))))

    # --- agents and calls of the model -----------------------------------------------------

    def _open_turn(self, fields: _Fields, events: _Events) -> None:
        """This output was made by a model: by the call that is open, or the next one."""
        self._name_agent(as_id(fields.get("agent_id")), events)
        turn_id, known = self._turn or (as_id(fields.get("id")), None)
        model = as_id(fields.get("model")) or known
        if self._turn != (turn_id, model):
            self._turn = (turn_id, model)
            if model is not None:
                remember(self._models, model, None, MAX_REMEMBERED)
            events.append(ev.GenerationStarted(response_id=turn_id, model=model, provider=PROVIDER))

    def _name_agent(self, agent: str | None, events: _Events) -> None:
        if agent is not None and self._agent is None:
            self._agent = agent
            events.append(ev.RunStarted(thread_id=self._thread_id, agent=agent))

    def _handoff_started(self, fields: _Fields, events: _Events) -> None:
        self._tell_functions_ready(events)
        name = as_id(fields.get("previous_agent_name")) or as_id(fields.get("previous_agent_id"))
        self._name_agent(name, events)
        self._open_step(None, events)

    def _handoff_done(self, fields: _Fields, events: _Events) -> None:
        name = as_id(fields.get("next_agent_name")) or as_id(fields.get("next_agent_id"))
        self._open_step(name or "agent", events)
        self._turn = None

    def _open_step(self, name: str | None, events: _Events) -> None:
        step, self._step = self._step, name
        if step is not None:
            events.append(ev.StepFinished(name=step))
        if name is not None:
            events.append(ev.StepStarted(name=name))

    # --- messages --------------------------------------------------------------------------

    def _output(self, fields: _Fields, events: _Events) -> None:
        self._tell_functions_ready(events)
        self._open_turn(fields, events)
        message_id = as_id(fields.get("id"))
        if message_id != self._message_id:
            self._open_message(message_id, events)
            role = as_id(fields.get("role"))
            events.append(ev.MessageStarted(message_id=message_id, role=role))
        content = fields.get("content")
        for chunk in content if isinstance(content, list) else [content]:
            self._chunk(message_id, chunk, events)
        if message_id is not None and message_id == fields["id"]:
            model, agent = as_string(fields.get("model")), as_string(fields.get("agent_id"))
            self._hot = (message_id, model, agent)

    def _open_message(self, message_id: str | None, events: _Events) -> None:
        known, self._message_id = self._message_id, message_id
        if known is not None:
            events.append(ev.MessageFinished(message_id=known))

    def _chunk(self, message_id: str | None, chunk: Any, events: _Events) -> None:
        match chunk:
            case str(text) | {"type": "text", "text": str(text)}:
                if text:
                    events.append(ev.TextDelta(text=text, message_id=message_id))
            case {"type": "thinking", "thinking": thinking}:
                parts = thinking if isinstance(thinking, list) else [thinking]
                text = "".join(as_string(_text_of(part)) or "" for part in parts)
                if text:
                    events.append(ev.ReasoningDelta(text=text, message_id=message_id))
            case {"type": "tool_reference"}:
                url, title = as_word(chunk.get("url")), as_word(chunk.get("title"))
                events.append(ev.Source(url=url, title=title))
            case {"type": "document_url"}:
                url, title = as_word(chunk.get("document_url")), as_word(chunk.get("document_name"))
                events.append(ev.Source(url=url, title=title))
            case dict():
                events.append(ev.Custom(name=as_id(chunk.get("type")) or "chunk", value=chunk))

    # --- tools -----------------------------------------------------------------------------

    def _execution(self, fields: _Fields, events: _Events) -> None:
        """A connector starts, or more of its arguments comes."""
        self._tell_functions_ready(events)
        self._open_turn(fields, events)
        key, name = _names(fields)
        call = self._executions.get(key)
        if call is None:
            call = _Call(as_id(fields.get("id")) or self._counted())
            remember(self._executions, key, call, MAX_REMEMBERED)
            events.append(ev.ToolCallStarted(tool_call_id=call.id, name=name))
            given = fields.get("arguments")
            if isinstance(given, str):
                given = load_json(given.encode("utf-8", "replace"))
            if "arguments" not in fields or isinstance(given, dict):
                _tell_arguments(call, fields, events)
                _tell_ready(call, events)
                return
        _tell_arguments(call, fields, events)

    def _executed(self, fields: _Fields, events: _Events) -> None:
        key, name = _names(fields)
        call = self._executions.pop(key, None)
        if call is None:
            call = _Call(as_id(fields.get("id")) or self._counted())
            events.append(ev.ToolCallStarted(tool_call_id=call.id, name=name))
        _tell_ready(call, events)
        info = fields.get("info")
        result = dump_json(info) if info else None
        events.append(ev.ToolCallResult(tool_call_id=call.id, result=result))
        self._turn = None

    def _function(self, fields: _Fields, events: _Events) -> None:
        self._open_turn(fields, events)
        key = as_id(fields.get("tool_call_id")) or as_id(fields.get("id")) or "function"
        call = self._functions.get(key)
        if call is None:
            call = _Call(as_id(fields.get("tool_call_id")) or self._counted())
            remember(self._functions, key, call, MAX_REMEMBERED)
            name = as_id(fields.get("name"))
            events.append(ev.ToolCallStarted(tool_call_id=call.id, name=name))
        _tell_arguments(call, fields, events)
        status = fields.get("confirmation_status")
        if status in ("allowed", "denied"):
            self._unanswered.pop(call.id, None)
        else:
            reason = "function_call" if status is None else "confirmation"
            remember(self._unanswered, call.id, reason, MAX_REMEMBERED)

    def _counted(self) -> str:
        self._unnamed += 1
        return f"tool-{self._unnamed}"

    def _tell_functions_ready(self, events: _Events) -> None:
        for call in self._functions.values():
            _tell_ready(call, events)


_Handler: TypeAlias = Callable[[_ConversationDecoder, _Fields, _Events], None]
_HANDLERS: Mapping[str, _Handler] = {
    "conversation.response.started": _ConversationDecoder._started,
    "conversation.response.done": _ConversationDecoder._done,
    "conversation.response.error": _ConversationDecoder._error,
    "message.output.delta": _ConversationDecoder._output,
    "tool.execution.started": _ConversationDecoder._execution,
    "tool.execution.delta": _ConversationDecoder._execution,
    "tool.execution.done": _ConversationDecoder._executed,
    "agent.handoff.started": _ConversationDecoder._handoff_started,
    "agent.handoff.done": _ConversationDecoder._handoff_done,
    "function.call.delta": _ConversationDecoder._function,
}


def _read_output(data: bytes) -> _Output | None:
    try:
        output = _output_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return output if output.content else None


def _names(fields: _Fields) -> tuple[str, str | None]:
    """What tells this call of a connector from others, and the connector's name."""
    name = as_id(fields.get("name"))
    return as_id(fields.get("id")) or name or "tool", name


def _tell_arguments(call: _Call, fields: _Fields, events: _Events) -> None:
    given = fields.get("arguments")
    text = given if isinstance(given, str) else "" if given is None else dump_json(given)
    if text:
        events.append(ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=text))


def _tell_ready(call: _Call, events: _Events) -> None:
    if not call.is_ready:
        call.is_ready = True
        events.append(ev.ToolCallReady(tool_call_id=call.id))


def _text_of(part: Any) -> Any:
    return part.get("text") if isinstance(part, dict) else part


def _usage(wire: _Fields, models: Mapping[str, None]) -> ev.Usage | None:
    given, made = as_count(wire.get("prompt_tokens")), as_count(wire.get("completion_tokens"))
    if given is None and made is None:
        return None
    connected = as_count(wire.get("connector_tokens")) or 0
    if given is not None and as_count(wire.get("total_tokens")) == given + (made or 0) + connected:
        given += connected
    cached = as_count(as_object(wire.get("prompt_tokens_details")).get("cached_tokens"))
    return ev.Usage(
        input_tokens=given,
        output_tokens=made,
        cached_input_tokens=cached,
        model=next(iter(models)) if len(models) == 1 else None,
        provider=PROVIDER,
        scope="run",
    )
