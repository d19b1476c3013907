"""What LangChain's own code makes of the frames of its servers: the oracle for our decoders.

Chunks are added by `langchain_core`, as each client of these servers does; thread events are put
together by the decoder of `langgraph_sdk`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from langchain_core.language_models.chat_model_stream import ChatModelStream
from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph_sdk.stream.decoders import MessagesDecoder

from streamtrace.core import events as ev

Json = dict[str, Any]


@dataclass
class Said:
    """One message of the AI, in our accounting of tokens."""

    text: str = ""
    reasoning: str = ""
    calls: dict[str | None, tuple[str | None, Any]] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    finish_reason: str | None = None


def of_chunks(chunks: Iterable[Json]) -> Said:
    """Chunks of one message, added up."""
    return _said(reduce(add, map(_chunk, chunks)))


def of_message(message: Json) -> Said:
    """A message that came whole."""
    return _said(AIMessage(**{key: value for key, value in message.items() if key != "type"}))


def of_thread(events: Iterable[Json]) -> list[Said]:
    """The messages of a thread's events, in the order in which they begin."""
    decoders: dict[str, MessagesDecoder] = {}
    streams = []
    for event in events:
        namespace = event["params"]["namespace"]
        decoder = decoders.setdefault(
            json.dumps(namespace),
            MessagesDecoder(namespace, ChatModelStream),
        )
        is_ai = event["params"]["data"].get("role", "ai") == "ai"
        streams += [stream for stream in decoder.feed(event) if is_ai]
    return [_said(stream.output) for stream in streams]


def of_events(events: Iterable[ev.Event]) -> list[Said]:
    """What our events tell, per message, in the order in which they begin."""
    said: dict[str | None, Said] = {}  # by message
    of_generation: dict[str | None, Said] = {}
    of_call: dict[str, Said] = {}
    arguments: dict[str, str] = {}
    ready: set[str] = set()
    speaking = Said()
    for event in events:
        match event:
            case ev.GenerationStarted(response_id=generation):
                speaking = of_generation.setdefault(generation, Said())
            case ev.MessageStarted(message_id=message_id):
                said[message_id] = speaking
            case ev.TextDelta(text=text, message_id=message_id):
                said.setdefault(message_id, speaking).text += text
            case ev.ReasoningDelta(text=text, message_id=message_id):
                said.setdefault(message_id, speaking).reasoning += text
            case ev.ToolCallStarted(tool_call_id=call_id, name=name):
                of_call[call_id], arguments[call_id] = speaking, ""
                speaking.calls[call_id] = (name, None)
            case ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta):
                arguments[call_id] += delta
            case ev.ToolCallReady(tool_call_id=call_id, arguments=whole):
                ready.add(call_id)
                arguments[call_id] = whole or arguments[call_id]
            case ev.Usage():
                counts = {name: getattr(event, name) for name in _USAGE}
                speaking.usage = {name: count for name, count in counts.items() if count}
            case ev.GenerationFinished(finish_reasons=(reason,)):
                assert speaking.finish_reason is None
                speaking.finish_reason = reason
    for call_id in ready:
        text, calls = arguments[call_id], of_call[call_id].calls
        calls[call_id] = (calls[call_id][0], json.loads(text) if text else {})
    return list(said.values())


_USAGE = {
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cached_input_tokens": ("input_token_details", "cache_read"),
    "cache_write_tokens": ("input_token_details", "cache_creation"),
    "reasoning_tokens": ("output_token_details", "reasoning"),
}


def _chunk(wire: Json) -> AIMessageChunk:
    fields = wire.get("kwargs", wire)
    calls = fields.get("tool_call_chunks", [])
    needed = {"name": None, "args": None, "id": None, "index": None}
    return AIMessageChunk(
        **{key: value for key, value in fields.items() if key not in ("type", "tool_call_chunks")},
        tool_call_chunks=[{**needed, **call} for call in calls],
    )


def _said(message: AIMessage) -> Said:
    usage: Any = message.usage_metadata or {}
    counts = {}
    for name, path in _USAGE.items():
        value = usage
        for key in path:
            value = value.get(key) or {}
        if value:
            counts[name] = value
    details = usage.get("input_token_details", {})
    if written := sum(count for key, count in details.items() if key.startswith("ephemeral")):
        counts["cache_write_tokens"] = written
    calls = {call["id"]: (call["name"], call["args"]) for call in message.tool_calls}
    metadata = message.response_metadata
    return Said(
        text=str(message.text),
        reasoning="".join(
            block.get("reasoning", "")
            for block in message.content_blocks
            if block["type"] == "reasoning"
        ),
        calls=calls,
        usage=counts,
        finish_reason=metadata.get("finish_reason") or metadata.get("stop_reason"),
    )
