"""OpenAI Chat Completions, and the many servers that speak it.

Rules that hold here (what `openai` 3.51 accumulates from the same bytes, and what recorded servers
send beyond its types):

* The typed reading is total: every JSON value fits, since a leaf is `Any` and an object may also be
  something else. Each value is looked at where it is used; the rest of the frame stays good.
* A generation is an id. An id that changes before all choices have finished is the same answer
  (some gateways number every chunk); one that changes afterwards is the next call of an agent.
* A message is a choice: the first bears the id of the chunk, choice k is `id:k`.
* The wire never says that arguments are complete: the next call, the finish or the end does. A new
  id at a known index opens a call only if it brings a name (some servers make an id per chunk).
* A choice with `text` in place of `delta` is one of the older completions, and reads the same.
* Finish reasons wait for each other, so that they come once and in the order of the choices.
* The end is `[DONE]`, or a finish reason for every choice. It is told once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_word, dump_json, load_json, typed_reader
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.openai_chat import ENCODES, OpenAIChatEncoder

MAX_REMEMBERED = 1024
"""Choices of a generation, and its tool calls, that one stream keeps in mind, of each."""

_DONE = b"[DONE]"
_OLD_INDEX = -1
"""Where the one call of the old `function_call` field stands among the calls."""


class OpenAIChat(Dialect):
    """`data:` frames with `chat.completion.chunk` objects, ended by `[DONE]`."""

    name = "openai-chat"
    marks = marks("object choices error")
    plain_deltas = True
    says = says("run text reasoning tool_start arguments model usage finish error terminal")
    objects: ClassVar[tuple[str, ...]] = ("chat.completion.chunk",)
    """What its chunks call themselves."""
    encodes = ENCODES

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a chunk; an error, `[DONE]` or a chunk without `object` may be another's."""
        if frame.data is None:
            return Fit.NO if _stray_error(frame.stray) is None else Fit.MAYBE
        if frame.event == "error" or frame.data.startswith(_DONE):
            return Fit.MAYBE
        chunk = _read(frame.data)
        if not isinstance(chunk, _Chunk):
            return Fit.NO
        if chunk.object in self.objects:
            return Fit.YES
        return Fit.MAYBE if _is_chunk(chunk, self.objects) else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _ChatDecoder(self.objects)

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return OpenAIChatEncoder(envelope)


_NotObject: TypeAlias = list[Any] | str | int | float | bool | None
_NotList: TypeAlias = dict[str, Any] | str | int | float | bool | None


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: _Function | _NotObject = None


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: list[_ToolCall | _NotObject] | _NotList = None
    function_call: _Function | _NotObject = None
    audio: Any = None
    annotations: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: Any = None
    delta: _Delta | _NotObject = None
    text: Any = None
    finish_reason: Any = None
    usage: Any = None
    error: Any = None


class _Chunk(msgspec.Struct, gc=False):
    id: Any = None
    object: Any = None
    model: Any = None
    provider: Any = None
    choices: list[_Choice | _NotObject] | _NotList = None
    usage: Any = None
    x_groq: Any = None
    moderation: Any = None
    error: Any = None


_Wire: TypeAlias = _Chunk | _NotObject
_read = typed_reader(_Wire)


_Events: TypeAlias = list[ev.Event]


class _Call(msgspec.Struct, gc=False):
    id: str
    wire_id: str | None
    name: str | None = None
    started: bool = False


class _Answer(msgspec.Struct, gc=False):
    """One choice of the open generation."""

    message_id: str | None
    calls: int = 0
    last_index: int = 0
    open_call: _Call | None = None
    finished: bool = False


class _ChatDecoder:
    def __init__(self, objects: tuple[str, ...]) -> None:
        self._objects = objects
        self._seen: tuple[Any, Any, Any] | None = None
        self._told: tuple[str | None, str | None, str | None] = (None, None, None)
        self._id: str | None = None
        self._answers: dict[int, _Answer] = {}
        self._finish_reasons: dict[int, str] = {}  # not told yet
        self._calls: dict[tuple[int, int], _Call] = {}
        self._had_error = False
        self._ended = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        events: list[ev.Event] = []
        if frame.data is not None:
            chunk = None if frame.data.startswith(_DONE) else _read(frame.data)
            if frame.stray is None and frame.event != "error":
                text = self._only_text(chunk)
                if text is not None:
                    return (text,)
            self._read_data(frame, frame.data, chunk, events)
        error = _stray_error(frame.stray)
        if error is not None:
            self._fail(error, events)
        elif frame.stray is not None:
            events.append(ev.Custom(name="stray"))
        return events

    def close(self) -> Iterable[ev.Event]:
        events: list[ev.Event] = []
        if self._is_finished():
            self._end(events)
        else:
            self._tell_finish_reasons(events)
        return events

    def _only_text(self, chunk: _Wire) -> ev.TextDelta | None:
        """The hot chunk: a piece of text in a known choice, and nothing else."""
        if not isinstance(chunk, _Chunk) or chunk.object not in self._objects:
            return None
        choices = chunk.choices
        if (chunk.id, chunk.model, chunk.provider) != self._seen or not isinstance(choices, list):
            return None
        choice = choices[0] if len(choices) == 1 else None
        if not isinstance(choice, _Choice) or type(choice.index) is not int:
            return None
        delta, answer = choice.delta, self._answers.get(choice.index)
        if isinstance(delta, _Delta):
            text = delta.content
            has_more = (
                delta.reasoning_content
                or delta.reasoning
                or delta.reasoning_details
                or delta.refusal
                or delta.tool_calls
                or delta.function_call
                or delta.audio
                or delta.annotations
            )
        else:
            text, has_more = choice.text, None
        has_more = (
            has_more
            or choice.finish_reason
            or choice.usage
            or choice.error
            or chunk.usage
            or chunk.x_groq
            or chunk.moderation
            or chunk.error
        )
        if has_more or not text or type(text) is not str or answer is None:
            return None
        return ev.TextDelta(text=text, message_id=answer.message_id)

    def _read_data(self, frame: Frame, data: bytes, chunk: _Wire, events: _Events) -> None:
        if frame.event == "error":
            document = load_json(data)
            error = document.get("error") if isinstance(document, dict) else None
            self._fail(error or document or frame.text, events)
        elif isinstance(chunk, _Chunk) and _is_chunk(chunk, self._objects):
            self._read_chunk(chunk, events)
        elif data.startswith(_DONE):
            self._end(events)
        else:
            kind = as_id(chunk.object) if isinstance(chunk, _Chunk) else None
            events.append(ev.Custom(name=kind or frame.event or "unknown"))

    def _read_chunk(self, chunk: _Chunk, events: _Events) -> None:
        choices = chunk.choices if isinstance(chunk.choices, list) else []
        if (chunk.id, chunk.model, chunk.provider) != self._seen:
            self._read_identity(chunk, bool(choices), events)
        usage, error = chunk.usage, chunk.error
        for choice in choices:
            if isinstance(choice, _Choice):
                self._read_choice(choice, events)
                usage = usage or choice.usage
                error = error or choice.error
        if not usage and isinstance(chunk.x_groq, dict):
            usage = chunk.x_groq.get("usage")
        if usage and isinstance(usage, dict):
            events.append(_usage(usage))
        if chunk.moderation:
            events.append(ev.Custom(name="moderation", value=chunk.moderation))
        if error:
            self._fail(error, events)

    def _read_identity(self, chunk: _Chunk, has_choices: bool, events: _Events) -> None:
        chunk_id = as_id(chunk.id)
        if has_choices and chunk_id not in (None, self._id) and self._is_finished():
            self._tell_finish_reasons(events)
            self._answers.clear()
            self._calls.clear()
            self._id = chunk_id
            self._had_error = False
            if self._ended:
                self._ended = False
                events.append(ev.RunStarted())
        elif self._id is None and not self._answers:
            self._id = chunk_id
        if self._id is None and not has_choices:
            return  # Azure's first chunk speaks of the prompt; the generation begins with its id
        self._seen = (chunk.id, chunk.model, chunk.provider)
        _, model, provider = self._told
        facts = (self._id, as_id(chunk.model) or model, as_id(chunk.provider) or provider)
        if facts != self._told:
            if self._told[0] is None and self._id is not None:
                events.append(ev.RunStarted(run_id=self._id))
            self._told = facts
            events.append(
                ev.GenerationStarted(response_id=facts[0], model=facts[1], provider=facts[2])
            )

    def _read_choice(self, choice: _Choice, events: _Events) -> None:
        index = _index(choice.index) or 0
        answer = self._answers.get(index)
        if answer is None:
            other = f"{self._id}:{index}" if self._id else str(index)
            answer = _Answer(other if index else self._id)
            if len(self._answers) < MAX_REMEMBERED:
                self._answers[index] = answer
        delta = choice.delta
        if isinstance(delta, _Delta):
            _read_texts(delta, answer.message_id, events)
            for wire in delta.tool_calls if isinstance(delta.tool_calls, list) else ():
                if isinstance(wire, _ToolCall):
                    self._read_tool_call(index, answer, wire, events)
            if isinstance(delta.function_call, _Function):
                old = _ToolCall(index=_OLD_INDEX, function=delta.function_call)
                self._read_tool_call(index, answer, old, events)
        elif choice.text and isinstance(choice.text, str):
            events.append(ev.TextDelta(text=choice.text, message_id=answer.message_id))
        reason = choice.finish_reason
        if reason and isinstance(reason, str) and not answer.finished:
            answer.finished = True
            if index in self._answers:
                self._finish_reasons[index] = reason
            _close_call(answer, events)
            if self._is_finished():
                self._tell_finish_reasons(events)

    def _read_tool_call(
        self, choice_index: int, answer: _Answer, wire: _ToolCall, events: _Events
    ) -> None:
        function = wire.function if isinstance(wire.function, _Function) else _Function()
        wire_id, name, arguments = as_id(wire.id), as_id(function.name), function.arguments
        index = wire.index if wire.index == _OLD_INDEX else _index(wire.index)
        if index is None:
            last = self._calls.get((choice_index, answer.last_index))
            is_next = last is not None and _opens_another(last, wire_id, name)
            index = answer.calls if is_next else answer.last_index
        key = (choice_index, index)
        call = self._calls.get(key)
        if call is None or _opens_another(call, wire_id, name):
            _close_call(answer, events)
            made_id = f"{self._id or 'call'}:{choice_index}:{answer.calls}"
            call = answer.open_call = _Call(wire_id or made_id, wire_id)
            answer.calls += 1
            remember(self._calls, key, call, MAX_REMEMBERED)
        answer.last_index = index
        if call.wire_id is None and wire_id is not None:
            call.wire_id = wire_id
            call.id = call.id if call.started else wire_id
        call.name = call.name or name
        if arguments is not None and not isinstance(arguments, str):
            arguments = dump_json(arguments)
        if name or arguments:
            _start_call(call, events)
        if arguments:
            events.append(ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=arguments))

    def _is_finished(self) -> bool:
        answers = self._answers.values()
        return bool(answers) and all(answer.finished for answer in answers)

    def _tell_finish_reasons(self, events: _Events) -> None:
        reasons = (*dict(sorted(self._finish_reasons.items())).values(),)
        self._finish_reasons.clear()
        self._had_error = self._had_error or "error" in reasons
        if reasons and not self._ended:
            events.append(ev.GenerationFinished(finish_reasons=reasons))

    def _end(self, events: _Events) -> None:
        for answer in self._answers.values():
            _close_call(answer, events)
        self._tell_finish_reasons(events)
        if self._had_error:
            self._fail({"code": "error"}, events)
        elif not self._ended:
            self._ended = True
            events.append(ev.RunFinished())

    def _fail(self, error: Any, events: _Events) -> None:
        if not self._ended:
            self._ended = True
            facts = error if isinstance(error, dict) else {"message": error}
            kind = as_id(facts.get("code")) or as_id(facts.get("type"))
            text = as_word(facts.get("message")) or as_word(facts.get("detail"))
            events.append(ev.RunFailed(type=kind, message=text))


def _is_chunk(chunk: _Chunk, objects: tuple[str, ...]) -> bool:
    is_nameless = not chunk.object and isinstance(chunk.choices, list)
    return chunk.object in objects or bool(chunk.error) or is_nameless


def _stray_error(line: bytes | None) -> Any:
    """The error in a line that is no SSE field: `error: {…}`, or a bare JSON document."""
    if line is None:
        return None
    is_named = line.startswith(b"error:")
    text = line.removeprefix(b"error:").strip()
    document = load_json(text)
    if isinstance(document, dict):
        return document.get("error") or (document if is_named else None)
    return text.decode("utf-8", "replace") if is_named else None


def _read_texts(delta: _Delta, message_id: str | None, events: _Events) -> None:
    for value in (delta.reasoning_content, delta.reasoning, delta.reasoning_details):
        reasoning = _plain(value) if value else ""
        if reasoning:
            events.append(ev.ReasoningDelta(text=reasoning, message_id=message_id))
            break  # a server that fills several of them says the same words in each
    content = delta.content
    for part in content if isinstance(content, list) else [content] if content else ():
        text = part if isinstance(part, str) else _plain([part])
        if text and isinstance(part, dict) and part.get("type") == "thinking":
            events.append(ev.ReasoningDelta(text=text, message_id=message_id))
        elif text:
            events.append(ev.TextDelta(text=text, message_id=message_id))
    if delta.refusal or delta.audio:
        spoken = delta.audio.get("transcript") if isinstance(delta.audio, dict) else None
        for said in (delta.refusal, spoken):
            if said and isinstance(said, str):
                events.append(ev.TextDelta(text=said, message_id=message_id))
    if delta.annotations and isinstance(delta.annotations, list):
        events.extend(_source(note) for note in delta.annotations if isinstance(note, dict))


def _source(note: dict[str, Any]) -> ev.Event:
    page = note.get("url_citation")
    if not isinstance(page, dict):
        return ev.Custom(name="annotation", value=note)
    return ev.Source(url=as_word(page.get("url")), title=as_word(page.get("title")))


def _plain(value: Any, depth: int = 3) -> str:
    """The text of a string, or of a list of parts, which may hold lists again."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not depth:
        return ""
    parts = [part if isinstance(part, dict) else {"text": part} for part in value]
    fields = ("text", "summary", "thinking")
    return "".join(_plain(part.get(name), depth - 1) for part in parts for name in fields)


def _opens_another(call: _Call, wire_id: str | None, name: str | None) -> bool:
    if name is None:
        return False
    if wire_id is None or call.wire_id is None:
        return call.name is not None and name != call.name
    return wire_id != call.wire_id


def _start_call(call: _Call, events: _Events) -> None:
    if not call.started:
        call.started = True
        events.append(ev.ToolCallStarted(tool_call_id=call.id, name=call.name))


def _close_call(answer: _Answer, events: _Events) -> None:
    call, answer.open_call = answer.open_call, None
    if call is not None:
        _start_call(call, events)
        events.append(ev.ToolCallReady(tool_call_id=call.id))


_COUNTS = {  # the places where a count may stand; the first that has one counts
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "cached_input_tokens": "prompt_tokens_details.cached_tokens prompt_cache_hit_tokens",
    "cache_write_tokens": "prompt_tokens_details.cache_write_tokens",
    "reasoning_tokens": "completion_tokens_details.reasoning_tokens",
}


def _usage(wire: dict[str, Any]) -> ev.Usage:
    counts = {name: _count(wire, places) for name, places in _COUNTS.items()}
    given, made, reasoned = (counts[f"{of}_tokens"] or 0 for of in ("input", "output", "reasoning"))
    if reasoned and _count(wire, "total_tokens") == given + made + reasoned:
        counts["output_tokens"] = made + reasoned  # xAI counts the reasoning beside the output
    return ev.Usage(**counts)  # type: ignore[arg-type]


def _count(wire: dict[str, Any], places: str) -> int | None:
    for place in places.split():
        value: Any = wire
        for key in place.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if (count := as_count(value)) is not None:
            return count
    return None


def _index(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None
