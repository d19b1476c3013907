"""LangChain's messages, told: each of them once, in whichever ways a stream repeats it.

Rules that hold here (langchain-core 1.7: `AIMessageChunk.__add__` says what chunks add up to):

* A message comes in chunks, grown, whole, or inside a state; often in several ways at a time. The
  way that brings it first owns it. The others may only close it, with what is still missing: usage,
  finish reason, that its calls are complete. So the order of the ways does not matter.
* A message may bear two ids, one of the provider and one of LangChain (`lc_run-…`, once `run-…`),
  each on some of its chunks. What follows in the same lane (a model's call, or the node it is made
  in) under an id of the other kind is the same message. It keeps the id that came first.
* Usage of chunks adds up. Grown messages repeat all; their arguments are JSON read by half, and
  wait until the message, or the tool, is done.
* Only what the AI says is output. A result is told once per call, and tells of the call as well if
  nothing else did.
* What a state held when it was first shown was said before this run: it is known, and not told.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.jsonio import as_id, as_object, dump_json
from streamtrace.dialects.accumulated import Accumulated
from streamtrace.dialects.langchain import (
    Json,
    Part,
    as_list,
    counts_of,
    is_ai,
    is_chunk,
    is_humans,
    is_tools,
    message_of,
    parts_of,
    result_text,
)

Events: TypeAlias = list[ev.Event]

MAX_MESSAGES = 2048
"""Ids of messages that a stream keeps in mind; of more, the one not seen for longest is forgotten.
Of a state only that many messages are looked at, from its end, so that none is told again."""
MAX_UNDER_WAY = 64
"""Messages under way; of more, the oldest is taken for done."""
MAX_CALLS = 1024
MAX_CALLS_OF_MESSAGE = 128
"""Tool calls kept in mind."""


# The hot chunk: one piece of text or reasoning, and nothing else. No other chunk reads as one.


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model_provider: Any = None  # told with the model's name, on the last chunk


class _Block(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, gc=False):
    index: Any = None


class _TextBlock(_Block, tag="text"):
    text: str = ""


class _ReasoningBlock(_Block, tag="reasoning"):
    reasoning: str = ""


class _ThinkingBlock(_Block, tag="thinking"):
    thinking: str = ""


class HotChunk(msgspec.Struct, gc=False):
    """As most servers write most of their frames."""

    content: str | tuple[_TextBlock | _ReasoningBlock | _ThinkingBlock]
    type: Literal["AIMessageChunk"]
    id: str
    additional_kwargs: _Nothing = _Nothing()
    response_metadata: _Nothing = _Nothing()
    tool_call_chunks: tuple[()] = ()
    usage_metadata: None = None
    chunk_position: None = None


class Facts(msgspec.Struct, frozen=True):
    """What stands beside a message. `run_id` is that of the model's call, where it is known."""

    lane: str = ""
    run_id: str | None = None
    model: str | None = None
    provider: str | None = None


def facts_of(metadata: Json, lane: str = "", run_id: str | None = None) -> Facts:
    """From the metadata that LangChain puts beside what a model says."""
    model, provider = as_id(metadata.get("ls_model_name")), as_id(metadata.get("ls_provider"))
    return Facts(lane, run_id, model, provider)


class Call(msgspec.Struct):
    """A tool call. `arguments` wait here where they do not come as deltas."""

    id: str
    name: str | None = None
    id_is_made: bool = False
    arguments: str | None = None
    started: bool = False
    announced: bool = False  # by a message
    told_whole: bool = False  # its arguments
    ready: bool = False
    answered: bool = False


class Told(msgspec.Struct):
    """What was told of a message. `response_id` is what its generation goes by."""

    lane: str
    response_id: str
    id: str | None = None
    run_id: str | None = None
    model: str | None = None
    provider: str | None = None
    source: str | None = None
    usage: dict[str, int] = {}
    added: dict[str, int] = {}  # of usage, by its chunks
    calls: dict[str, Call] = {}  # by their place in the message
    has_ids: tuple[bool, ...] = ()  # of LangChain, of the provider
    in_chunks: bool = False
    under_way: bool = False  # more of it may come, under whichever id
    ends: bool = False  # but nothing that says something
    opened: bool = False
    named: bool = False  # by the response, and not by the request only
    finished: bool = False
    complete: bool = False


_HISTORY = "history"
_RUN_ID = re.compile(r"(?:lc_)?run-{1,2}([0-9a-f-]{36})(?:-\d+)?")
"""The id that LangChain makes, from that of the model's call."""


class Messages:
    """The messages of one stream, and what was told of them. Its methods return what is new."""

    def __init__(self) -> None:
        self.speaking: Told | None = None
        """Whose generation is open."""
        self._told: dict[str, Told] = {}  # by each id of the message, and by that of its run
        self._under_way: list[Told] = []
        self._calls: dict[str, Call] = {}
        self._grown = Accumulated()
        self._made_ids = 0

    # Ways to bring a message.

    def more(self, chunk: HotChunk, source: str) -> tuple[ev.Event] | None:
        """What `chunk` says, if it goes on with the message that speaks."""
        told = self.speaking
        if told is None or self._told.get(chunk.id) is not told:
            return None
        if told.source != source or not (told.opened and told.in_chunks):
            return None
        content = chunk.content
        if isinstance(content, str):
            return (ev.TextDelta(text=content, message_id=told.id),) if content else None
        block = content[0]
        if isinstance(block, _TextBlock):
            return (ev.TextDelta(text=block.text, message_id=told.id),) if block.text else None
        text = block.reasoning if isinstance(block, _ReasoningBlock) else block.thinking
        return (ev.ReasoningDelta(text=text, message_id=told.id),) if text else None

    def begin(self, facts: Facts) -> Events:
        """A model is called. Its message has no id yet."""
        events: Events = []
        self._begin(self.find(None, facts, under_way=True), events)
        return events

    def chunk(self, message: Json, source: str, facts: Facts) -> Events:
        """More of a message, or all of it if the server has it whole."""
        if not is_chunk(message):
            return self.whole(message, source, facts)
        events: Events = []
        told = self.find(message, facts, under_way=True)
        metadata, is_last = as_object(message.get("response_metadata")), _is_last(message)
        told.ends = told.ends or is_last or _reason_in(metadata) is not None
        if told.source in (None, source):
            told.source, told.in_chunks = source, True
            for part in parts_of(message):
                self.tell(told, part, events)
            for call in as_list(message.get("tool_call_chunks")):
                self.tell(told, ("call", as_object(call)), events)
            for name, count in counts_of(message.get("usage_metadata")).items():
                told.added[name] = told.added.get(name, 0) + count
            self.count(told, {**told.added}, events)
            self.read_metadata(told, metadata, events)
            if is_last:
                self.complete(told, events)
        if is_last and (told.source == source or not told.in_chunks):
            self._leave(told)
        return events

    def grown(self, message: Json, source: str, facts: Facts) -> Events:
        """All of a message so far, once more."""
        if not is_ai(message):
            return self.whole(message, source, facts)
        events: Events = []
        told = self.find(message, facts, under_way=True)
        if told.source not in (None, source):
            return events
        told.source = source
        texts = [part for part in parts_of(message) if isinstance(part[1], str)]
        for kind in ("reasoning", "text"):
            if so_far := "".join(text for of, text in texts if of == kind):
                more = self._grown.delta((told.response_id, kind), so_far)
                self.tell(told, (kind, more), events)
        self._tell_rest(told, message, events)
        return events

    def whole(self, message: Json, source: str, facts: Facts) -> Events:
        """A message that is complete."""
        if is_tools(message):
            return self.result(message)
        events: Events = []
        if not is_ai(message):
            return events
        told = self.find(message, facts)
        if told.source is None:
            told.source = source
            for part in parts_of(message):
                self.tell(told, part, events)
        if not told.complete:
            self._tell_rest(told, message, events)
            self.complete(told, events)
        return events

    def added(self, messages: list[Json], source: str, facts: Facts) -> Events:
        """What a node adds to a state. One that is a graph adds what it was given, too: all before
        the last question is older than this run."""
        asked = [at for at, message in enumerate(messages) if is_humans(message)]
        start = asked[-1] if asked else 0
        self.remember(messages[:start])
        return [event for one in messages[start:] for event in self.whole(one, source, facts)]

    def state(self, messages: list[Json], source: str, facts: Facts) -> Events:
        """A whole state. What has no id cannot be known from the last time, and is not told."""
        events: Events = []
        for message in messages[-MAX_MESSAGES:]:
            message_id = as_id(message.get("id"))
            if message_id is None:
                continue
            if (told := self._told.pop(message_id, None)) is not None:
                self._told[message_id] = told  # seen again: the last to be forgotten
            if told is None or not told.complete:
                events += self.whole(message, source, facts)
        return events

    def remember(self, messages: list[Json]) -> None:
        """Said before this run: what was not told yet never will be."""
        for message in messages[-MAX_MESSAGES:]:
            message_id, call_id = as_id(message.get("id")), as_id(message.get("tool_call_id"))
            if is_ai(message) and message_id is not None and message_id not in self._told:
                told = Told(lane="", response_id=message_id, source=_HISTORY, complete=True)
                remember(self._told, message_id, told, MAX_MESSAGES)
            elif is_tools(message) and call_id is not None:
                self._call(call_id).answered = True

    # Tools.

    def tool_started(self, call_id: str, name: str | None, arguments: Any = None) -> Events:
        """A tool runs. If no message called for it, this tells of the call."""
        events: Events = []
        call = self._call(call_id, name)
        if not call.started:
            call.started, call.arguments = True, _arguments(arguments)
            events.append(ev.ToolCallStarted(tool_call_id=call_id, name=name))
        _ready(call, events)
        return events

    def result(self, message: Json) -> Events:
        """What a tool returned, as the message it became."""
        call_id = as_id(message.get("tool_call_id")) or self.made_id("tool")
        known = self._calls.get(call_id)
        if known is not None and known.answered:
            return []
        events = self.tool_started(call_id, as_id(message.get("name")))
        self._call(call_id).answered = True
        events.append(
            ev.ToolCallResult(
                tool_call_id=call_id,
                result=result_text(message.get("content")),
                is_error=message.get("status") == "error",
            )
        )
        return events

    def tool_event(self, value: Json) -> Events:
        """What LangGraph says of a tool that runs. More of its output is told with its end."""
        call_id = as_id(value.get("tool_call_id"))
        kind = value.get("event")
        if call_id is None or kind not in ("tool-started", "tool-finished", "tool-error"):
            return [ev.Custom(name=as_id(kind) or "tools", value=value)]
        name = as_id(value.get("tool_name"))
        if kind == "tool-started":
            return self.tool_started(call_id, name, value.get("input"))
        if kind == "tool-error":
            failed = {"content": value.get("message"), "status": "error"}
            return self.result({**failed, "tool_call_id": call_id})
        output = value.get("output")
        message = message_of(output) or {"content": output}
        return self.result({**message, "tool_call_id": call_id})

    def waiting_call(self, name: str | None, taken: Collection[str]) -> str | None:
        """The oldest call of that tool that has no result, and is not taken."""
        for call in self._calls.values():
            if call.name == name and not call.answered and call.id not in taken:
                return call.id
        return None

    def made_id(self, kind: str) -> str:
        """An id for what has none on the wire."""
        self._made_ids += 1
        return f"{kind}-{self._made_ids}"

    def _call(self, call_id: str, name: str | None = None) -> Call:
        call = self._calls.get(call_id)
        if call is None:
            call = Call(call_id, name)
            remember(self._calls, call_id, call, MAX_CALLS)
        return call

    # Which message it is.

    def find(self, message: Json | None, facts: Facts, under_way: bool = False) -> Told:
        """The message that is known by this id, this run, or in this lane; else a new one."""
        wire_id = None if message is None else as_id(message.get("id"))
        run = None if wire_id is None else _RUN_ID.fullmatch(wire_id)
        run_id = run[1] if run else facts.run_id
        told = self._told.get(wire_id or "") or self._told.get(run_id or "")
        is_langchains = wire_id is not None and wire_id.startswith(("lc_", "run-"))
        if told is None and under_way:
            told = self._in_lane(message, is_langchains, run_id, facts.lane)
        if told is None:
            response_id = facts.run_id or wire_id or self.made_id("message")
            told = Told(facts.lane, response_id)
        if under_way and not (told.under_way or told.ends):
            told.under_way, told.lane = True, facts.lane
            self._under_way.append(told)
            for forgotten in self._under_way[:-MAX_UNDER_WAY]:
                self.complete(forgotten, [])
                self._leave(forgotten)
        for known_by in (wire_id, run_id):
            if known_by is not None:
                other = self._told.get(known_by, told)
                is_empty = other.source is None  # begun, and now known for this one
                remember(self._told, known_by, told if is_empty else other, MAX_MESSAGES)
        if wire_id is not None and is_langchains not in told.has_ids:
            told.id = told.id or wire_id
            told.has_ids = (*told.has_ids, is_langchains)
        told.run_id = told.run_id or run_id
        told.model = told.model or facts.model
        told.provider = told.provider or facts.provider
        return told

    def _in_lane(
        self, message: Json | None, is_langchains: bool, run_id: str | None, lane: str
    ) -> Told | None:
        """The message under way there that may bear this id as well.

        One that gave its finish reason is not gone on with, but an empty chunk may end it.
        """
        if message is None:
            return None
        is_empty = not message["content"] and not message.get("tool_call_chunks")
        has_id = message.get("id") is not None
        fitting = [
            one
            for one in self._under_way
            if one.lane == lane
            and not (has_id and is_langchains in one.has_ids)
            and not (run_id and one.run_id and one.run_id != run_id)
            and (is_empty or not one.ends)
        ]
        return max(fitting, key=lambda one: one.ends, default=None)

    # What is told of it.

    def tell(self, told: Told, part: Part, events: Events) -> None:
        """A part of its content."""
        kind, value = part
        if not value:
            return
        if kind == "result":
            events += self.result({**value, "content": value.get("output")})
            return
        self.open(told, events)
        if kind == "call":
            self._tell_call(told, value, events)
        elif isinstance(value, ev.Event):
            events.append(value)
        elif not isinstance(value, str):
            events.append(ev.Custom(name=kind, value=value))
        elif kind == "text":
            events.append(ev.TextDelta(text=value, message_id=told.id))
        else:
            events.append(ev.ReasoningDelta(text=value, message_id=told.id))

    def open(self, told: Told, events: Events) -> None:
        """Make it the one that speaks."""
        self._begin(told, events)
        if not told.opened:
            told.opened = True
            events.append(ev.MessageStarted(message_id=told.id, role="assistant"))

    def count(self, told: Told, counts: dict[str, int], events: Events) -> None:
        """The usage of its generation, as far as it is known."""
        if counts and counts != told.usage:
            told.usage = counts
            self.open(told, events)
            events.append(ev.Usage(**counts))  # type: ignore[arg-type]

    def read_metadata(self, told: Told, metadata: Json, events: Events) -> None:
        """Who made it, and why it ended there. The first word counts: merging may double it."""
        if not metadata:
            return
        model = as_id(metadata.get("model_name")) or as_id(metadata.get("model"))
        if model is not None and not told.named:
            told.named, told.model = True, model
            told.provider = as_id(metadata.get("model_provider")) or told.provider
            self.open(told, events)
            events.append(_generation(told))
        reason = _reason_in(metadata)
        if reason is not None and not told.finished:
            told.finished = True
            self.open(told, events)
            for call in told.calls.values():
                _ready(call, events)
            events.append(ev.GenerationFinished(finish_reasons=(reason,)))

    def complete(self, told: Told, events: Events) -> None:
        """Nothing more will come of it."""
        for call in told.calls.values():
            _ready(call, events)
        if told.opened and not told.complete:
            events.append(ev.MessageFinished(message_id=told.id))
        told.complete = True
        if not told.under_way:
            told.calls = {}

    def _leave(self, told: Told) -> None:
        told.under_way, told.calls = False, {}
        self._under_way = [one for one in self._under_way if one is not told]

    def _begin(self, told: Told, events: Events) -> None:
        if self.speaking is not told:
            self.speaking = told
            events.append(_generation(told))

    def _tell_call(self, told: Told, wire: Json, events: Events) -> None:
        call_id, name, arguments = as_id(wire.get("id")), as_id(wire.get("name")), wire.get("args")
        place = as_id(wire.get("index"))
        if place is None:  # it goes on with the last, unless it names another
            goes_on = not (call_id or name)
            place = next(reversed(told.calls), "") if goes_on else f"call {len(told.calls)}"
        call = told.calls.get(place)
        if call and call_id and name and not call.id_is_made and call.id != call_id:
            _ready(call, events)  # another in the same place
            call = None
        if call is None:
            call = self._calls.get(call_id or "")
            if call is None or not call.started or (call.announced and call.answered):
                id_is_made = call_id is None
                call_id = call_id or f"{told.id or told.response_id}:{len(told.calls)}"
                call = Call(call_id, name, id_is_made, started=True)
                self._calls.pop(call_id, None)
                remember(self._calls, call_id, call, MAX_CALLS)
                events.append(ev.ToolCallStarted(tool_call_id=call_id, name=name))
            call.announced = True
            remember(told.calls, place, call, MAX_CALLS_OF_MESSAGE)
        if call.told_whole:
            return
        if not (told.in_chunks and isinstance(arguments, str)):
            call.arguments = _arguments(arguments)
        elif arguments:
            events.append(ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=arguments))

    def end_call(self, told: Told, wire: Json, events: Events) -> None:
        """The arguments of a call are complete; `args` if they were not told in pieces."""
        self.tell(told, ("call", {**wire, "args": None}), events)
        if (call := told.calls.get(as_id(wire.get("index")) or "")) is not None:
            call.arguments = _arguments(wire.get("args"))
            _ready(call, events)

    def _tell_rest(self, told: Told, message: Json, events: Events) -> None:
        """What stands beside the content, if chunks did not tell it."""
        if not told.in_chunks:
            calls = as_list(message.get("tool_calls")) + as_list(message.get("invalid_tool_calls"))
            for index, call in enumerate(calls):
                self.tell(told, ("call", {**as_object(call), "index": index}), events)
        if not told.added:
            self.count(told, counts_of(message.get("usage_metadata")), events)
        self.read_metadata(told, as_object(message.get("response_metadata")), events)


def _is_last(message: Json) -> bool:
    return bool(message.get("chunk_position") == "last")


def _reason_in(metadata: Json) -> str | None:
    reasons = map(metadata.get, ("finish_reason", "stop_reason", "done_reason"))
    return next((reason for reason in map(as_id, reasons) if reason), None)


def _generation(told: Told) -> ev.GenerationStarted:
    return ev.GenerationStarted(
        response_id=told.response_id, model=told.model, provider=told.provider
    )


def _ready(call: Call, events: Events) -> None:
    if not call.ready:
        call.ready = True
        call.told_whole = bool(call.arguments)
        events.append(ev.ToolCallReady(tool_call_id=call.id, arguments=call.arguments))
        call.arguments = None


def _arguments(value: Any) -> str | None:
    """As text. Arguments that could not be read as JSON are text already."""
    return value if value is None or isinstance(value, str) else dump_json(value)
