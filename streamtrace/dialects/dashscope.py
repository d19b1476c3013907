"""DashScope, Alibaba's model and application API, whose frames repeat the whole text.

Rules that hold here:

* A frame holds the whole text so far, unless the request asked for `incremental_output`. Where the
  request is not known, the second piece of a text tells: it begins with the first, or texts are
  deltas. Reasoning and arguments are judged apart: some models repeat arguments all the same.
* `finish_reason` is the word `null` until it is known. A reason for every choice ends the run, as
  does one for the output of an application.
* Usage grows with each frame. It is told once, when the run ends or the stream does.
* An application tells its thoughts: reasoning, and calls of tools with what they observed. A
  workflow tells its nodes, which are steps; the text of its end node is the answer, in deltas, and
  is repeated whole in the last frame.
* Chunks of OpenAI chat that repeat the whole text are read here as well, by the decoder of chat.
  Nothing in a first chunk tells them from others, so they are never recognised: name the dialect.

Source: `dashscope` 2.0.2, Alibaba Cloud Model Studio (API reference of Qwen and of applications).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import (
    MAX_ID_CHARS,
    as_count,
    as_id,
    as_object,
    as_string,
    as_word,
    dump_json,
    load_json,
)
from streamtrace.dialects.accumulated import Accumulated
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.openai_chat import OpenAIChat

MAX_REMEMBERED = 256
"""Choices, tool calls, nodes and sources that one stream keeps in mind, of each."""

_STATUS = b"HTTP_STATUS/"
_Fields: TypeAlias = dict[str, Any]
_Events: TypeAlias = list[ev.Event]
_Text: TypeAlias = type[ev.TextDelta] | type[ev.ReasoningDelta]


class DashScope(Dialect):
    """The native stream: `id:1`, `event:result`, `:HTTP_STATUS/200`, `data:{"output":...}`."""

    name = "dashscope"
    marks = marks("output code")
    says = says(
        "run thread text reasoning tool_start arguments result step model usage finish "
        "error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of an output or error with the HTTP status, and of an output of a request's id."""
        value = as_object(frame.json())
        is_output = isinstance(value.get("output"), dict)
        is_error = frame.event == "error" and {"code", "message"} <= value.keys()
        if not is_output and not is_error:
            return Fit.NO
        is_named = isinstance(value.get("request_id"), str)
        if (frame.comment or b"").startswith(_STATUS) or (is_output and is_named):
            return Fit.YES
        return Fit.MAYBE if is_named or frame.event == "result" else Fit.NO

    def open(self, head: Head) -> Decoder:
        """A decoder that knows what the request asked for."""
        parameters = as_object(as_object(head.request).get("parameters"))
        asked = parameters.get("incremental_output")
        return _DashScopeDecoder(not asked if isinstance(asked, bool) else None)

    def decoder(self) -> Decoder:
        """A decoder that finds out whether texts are repeated."""
        return _DashScopeDecoder(None)


# The hot frame: more text or reasoning of the one choice.


class _PlainPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    text: str


class _Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: Literal["assistant"]
    content: str | list[_PlainPart]
    reasoning_content: str = ""


class _Choice(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    message: _Message
    finish_reason: Literal["null"] | None = None
    index: Literal[0] = 0


class _Output(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    choices: tuple[_Choice]


class _More(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    output: _Output
    request_id: str
    usage: msgspec.Raw = msgspec.Raw(b"{}")


_more_decoder = msgspec.json.Decoder(_More)


class _Texts:
    """Texts of one kind, which a wire repeats whole, or does not: it becomes known."""

    def __init__(self, are_repeated: bool | None) -> None:
        self._are_repeated = are_repeated
        self._first: dict[object, tuple[int, str]] = {}  # its length and its beginning
        self._accumulated = Accumulated()

    def delta(self, key: object, text: str) -> str:
        """What `text` adds to the text of that key."""
        if self._are_repeated is None:
            length, beginning = self._first.get(key, (0, ""))
            if not length:
                remember(self._first, key, (len(text), text[:MAX_ID_CHARS]), MAX_REMEMBERED)
            elif len(text) != length or not text.startswith(beginning):
                self._are_repeated = len(text) > length and text.startswith(beginning)
                self._first.clear()
        return text if self._are_repeated is False else self._accumulated.delta(key, text)


class _Action(msgspec.Struct):
    """A tool called by an application, as its thoughts tell it."""

    id: str
    arguments: str = ""
    is_ready: bool = False
    answered: int | None = None
    """A hash of the arguments that were answered."""


class _DashScopeDecoder:
    def __init__(self, are_repeated: bool | None) -> None:
        self._are_repeated = are_repeated
        self._chat = OpenAIChat().decoder()
        self._id: str | None = None
        self._thread_id: str | None = None
        self._begin()

    def _begin(self) -> None:
        self._texts: dict[type[ev.Event], _Texts] = {
            ev.TextDelta: _Texts(self._are_repeated),
            ev.ReasoningDelta: _Texts(self._are_repeated),
            ev.ToolCallArgumentsDelta: _Texts(self._are_repeated or None),
        }
        self._finish_reasons: dict[int, str | None] = {}  # by choice
        self._calls: dict[tuple[int, int], str] = {}  # their ids, by choice and index
        self._actions: dict[tuple[int, str | None], _Action] = {}
        self._action_count = 0
        self._thoughts = 0
        self._nodes: dict[str, str] = {}  # open ones: their name, by id
        self._sources: dict[tuple[str | None, str | None], None] = {}
        self._usage: Any = None  # not told yet: an object, or its JSON
        self._was_answered = False  # by the end node of a workflow
        self._is_simple = False  # one choice, which has not finished
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None and frame.event in _RESULT_NAMES:
            more = self._read_more(frame.data)
            if more is not None:
                return more
        value = frame.json()
        if not isinstance(value, dict) or "choices" in value or "error" in value:
            return self._unrepeated(self._chat.decode(frame))
        events: _Events = []
        if frame.event == "error" or (value.get("code") and not value.get("output")):
            self._fail(value, events)
        elif isinstance(value.get("output"), dict):
            self._read(value, value["output"], events)
        else:
            events.append(ev.Custom(name=as_id(frame.event) or "unknown", value=value))
        return events

    def close(self) -> Iterable[ev.Event]:
        events = self._unrepeated(self._chat.close())
        self._tell_usage(events)
        return events

    def _read_more(self, data: bytes) -> _Events | None:
        """What a hot frame says; `None` if it is none."""
        try:
            more = _more_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        if more.request_id != self._id or not self._is_simple:
            return None
        if len(more.usage) > len(b"null"):
            self._usage = more.usage
        message = more.output.choices[0].message
        events: _Events = []
        if message.reasoning_content:
            self._tell(ev.ReasoningDelta, 0, message.reasoning_content, events)
        text = message.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        delta = text and self._texts[ev.TextDelta].delta(0, text)
        if delta:
            events.append(ev.TextDelta(text=delta, message_id=self._id))
        return events

    def _unrepeated(self, chat: Iterable[ev.Event]) -> _Events:
        """Events of OpenAI chat, with each text cut to what is new, and one end."""
        events: _Events = []
        for event in chat:
            match event:
                case ev.TextDelta(text=text) | ev.ReasoningDelta(text=text):
                    delta = self._texts[type(event)].delta(event.message_id, text)
                    if delta:
                        events.append(msgspec.structs.replace(event, text=delta))
                case ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=text):
                    delta = self._texts[type(event)].delta(call_id, text)
                    if delta:
                        events.append(msgspec.structs.replace(event, delta=delta))
                case _ if isinstance(event, ev.TERMINAL):
                    if not self._ended:
                        events.append(event)
                    self._ended = True
                case _:
                    self._ended = self._ended and not isinstance(event, ev.RunStarted)
                    events.append(event)
        return events

    def _fail(self, value: _Fields, events: _Events) -> None:
        if not self._ended:
            self._ended = True
            self._identify(value, {}, events)
            self._tell_usage(events)
            text = as_word(value.get("message")) or as_word(value.get("msg"))
            events.append(ev.RunFailed(type=as_id(value.get("code")), message=text))

    def _read(self, value: _Fields, output: _Fields, events: _Events) -> None:
        self._identify(value, output, events)
        self._usage = value.get("usage") or self._usage
        self._read_sources(output, events)
        self._read_thoughts(output, events)
        self._read_node(output, events)
        if output.get("audio"):
            events.append(ev.Custom(name="audio"))
        choices = output.get("choices")
        if isinstance(choices, list):
            for place, choice in enumerate(map(as_object, choices)):
                self._read_choice(_index(choice, place), choice, events)
        else:
            text = as_string(output.get("text"))
            if text and not self._was_answered:
                self._tell(ev.TextDelta, 0, text, events)
            self._note_finish(0, output)
        reasons = self._finish_reasons.values()
        if reasons and None not in reasons and not self._ended:
            self._end(events)

    def _identify(self, value: _Fields, output: _Fields, events: _Events) -> None:
        run_id = as_id(value.get("request_id"))
        if self._ended and run_id not in (None, self._id):
            self._begin()
            self._id = None
        thread_id = as_id(output.get("session_id")) or self._thread_id
        if (self._id or run_id, thread_id) != (self._id, self._thread_id):
            is_new = self._id is None and run_id is not None
            self._id, self._thread_id = self._id or run_id, thread_id
            events.append(ev.RunStarted(run_id=self._id, thread_id=thread_id))
            if is_new and output:
                events.append(ev.GenerationStarted(response_id=run_id))

    def _end(self, events: _Events) -> None:
        self._ended = True
        for call_id in self._calls.values():
            events.append(ev.ToolCallReady(tool_call_id=call_id))
        for action in self._actions.values():
            _tell_ready(action, events)
        reasons = tuple(reason for _, reason in sorted(self._finish_reasons.items()) if reason)
        events.append(ev.GenerationFinished(finish_reasons=reasons))
        self._tell_usage(events)
        events.append(ev.RunFinished(run_id=self._id, thread_id=self._thread_id))

    def _tell_usage(self, events: _Events) -> None:
        usage, self._usage = self._usage, None
        if isinstance(usage, msgspec.Raw):
            usage = load_json(bytes(usage))
        models = as_object(usage).get("models")
        if isinstance(models, list):
            for one in map(as_object, models):
                events.append(_counted(one, model=as_id(one.get("model_id")), scope="run"))
        elif usage and isinstance(usage, dict):
            events.append(_counted(usage))

    # --- choices ---------------------------------------------------------------------------

    def _read_choice(self, index: int, choice: _Fields, events: _Events) -> None:
        message = as_object(choice.get("message"))
        reasoning = as_string(message.get("reasoning_content"))
        if reasoning:
            self._tell(ev.ReasoningDelta, index, reasoning, events)
        text = _plain(message.get("content"))
        if text:
            self._tell(ev.TextDelta, index, text, events)
        for place, wire in enumerate(map(as_object, _list(message.get("tool_calls")))):
            self._read_call((index, _index(wire, place)), wire, events)
        self._note_finish(index, choice)

    def _tell(self, kind: _Text, index: int, text: str, events: _Events) -> None:
        delta = self._texts[kind].delta(index, text)
        if delta:
            message_id = f"{self._id}:{index}" if index and self._id else self._id
            events.append(kind(text=delta, message_id=message_id))

    def _read_call(self, place: tuple[int, int], wire: _Fields, events: _Events) -> None:
        function = as_object(wire.get("function"))
        call_id = self._calls.get(place)
        if call_id is None:
            call_id = as_id(wire.get("id")) or f"{self._id or 'call'}:{place[0]}:{place[1]}"
            remember(self._calls, place, call_id, MAX_REMEMBERED)
            name = as_id(function.get("name"))
            events.append(ev.ToolCallStarted(tool_call_id=call_id, name=name))
        text = _text(function.get("arguments"))
        delta = self._texts[ev.ToolCallArgumentsDelta].delta(place, text) if text else ""
        if delta:
            events.append(ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta))

    def _note_finish(self, index: int, choice: _Fields) -> None:
        reason = as_id(choice.get("finish_reason"))
        known = self._finish_reasons.get(index)
        if index in self._finish_reasons or len(self._finish_reasons) < MAX_REMEMBERED:
            self._finish_reasons[index] = known or (None if reason == "null" else reason)
        self._is_simple = self._finish_reasons == {0: None}

    # --- applications ----------------------------------------------------------------------

    def _read_sources(self, output: _Fields, events: _Events) -> None:
        searched = as_object(output.get("search_info")).get("search_results")
        for found in map(as_object, (*_list(searched), *_list(output.get("doc_references")))):
            url = as_word(found.get("url")) or as_word(found.get("doc_url"))
            title = as_word(found.get("title")) or as_word(found.get("doc_name"))
            key = (as_id(url), as_id(title))
            if (url or title) and key not in self._sources:
                remember(self._sources, key, None, MAX_REMEMBERED)
                events.append(ev.Source(url=url, title=title))

    def _read_thoughts(self, output: _Fields, events: _Events) -> None:
        thoughts = _list(output.get("thoughts"))
        for place, thought in enumerate(map(as_object, thoughts)):
            said = as_string(thought.get("thought")) or as_string(thought.get("response"))
            if thought.get("action_type") == "reasoning":
                if said:
                    self._tell(ev.ReasoningDelta, place, said, events)
            elif any(thought.get(key) for key in (*_ARGUMENTS, "observation")):
                self._read_action(place, thought, events)
            elif place >= self._thoughts:
                events.append(ev.Custom(name="thought", value=thought))
        self._thoughts = max(self._thoughts, len(thoughts))

    def _read_action(self, place: int, thought: _Fields, events: _Events) -> None:
        name = as_id(thought.get("action_name")) or as_id(thought.get("action"))
        arguments = _text(next((thought[key] for key in _ARGUMENTS if thought.get(key)), None))
        observed = thought.get("observation")
        action = self._actions.get((place, name))
        if action is None or (arguments and action.answered not in (None, hash(arguments))):
            self._action_count += 1
            action = _Action(f"{self._id or 'call'}:{name}:{self._action_count}")
            remember(self._actions, (place, name), action, MAX_REMEMBERED)
            events.append(ev.ToolCallStarted(tool_call_id=action.id, name=name))
        if action.answered is not None:
            return
        action.arguments = arguments or action.arguments
        if observed or isinstance(thought.get("action_input"), dict):
            _tell_ready(action, events)
        if observed:
            action.answered = hash(action.arguments)
            action.arguments = ""
            events.append(ev.ToolCallResult(tool_call_id=action.id, result=_text(observed)))

    def _read_node(self, output: _Fields, events: _Events) -> None:
        node = as_object(output.get("workflow_message"))
        node_id = as_id(node.get("node_id"))
        if node_id is None:
            return
        name = as_id(node.get("node_name")) or node_id
        if node_id not in self._nodes:
            remember(self._nodes, node_id, name, MAX_REMEMBERED)
            events.append(ev.StepStarted(name=name, step_id=node_id))
        text = as_string(as_object(node.get("message")).get("content"))
        if text and node.get("node_type") == "End":
            self._was_answered = True
            events.append(ev.TextDelta(text=text, message_id=self._id))
        elif text:
            events.append(ev.Custom(name="workflow_message", value=node))
        if node.get("node_is_completed") is True:
            del self._nodes[node_id]
            events.append(ev.StepFinished(name=name, step_id=node_id))


_RESULT_NAMES = ("result", None, "")
_ARGUMENTS = ("action_input", "arguments", "action_input_stream")


def _tell_ready(action: _Action, events: _Events) -> None:
    if not action.is_ready:
        action.is_ready = True
        arguments = action.arguments or None
        events.append(ev.ToolCallReady(tool_call_id=action.id, arguments=arguments))


def _counted(usage: _Fields, **more: Any) -> ev.Usage:
    given = as_object(usage.get("prompt_tokens_details"))
    made = as_object(usage.get("output_tokens_details"))
    return ev.Usage(
        input_tokens=as_count(usage.get("input_tokens")),
        output_tokens=as_count(usage.get("output_tokens")),
        cached_input_tokens=as_count(given.get("cached_tokens")),
        reasoning_tokens=as_count(made.get("reasoning_tokens")),
        **more,
    )


def _plain(content: Any) -> str:
    """The text of a message: a string, or parts of which some hold text."""
    if isinstance(content, list):
        return "".join(as_string(as_object(part).get("text")) or "" for part in content)
    return as_string(content) or ""


def _index(wire: _Fields, place: int) -> int:
    index = wire.get("index")
    return index if type(index) is int else place


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else dump_json(value)
