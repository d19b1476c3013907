"""LangChain's messages, read: what LangGraph, LangServe and `astream_events` have in common.

Rules that hold here (langchain-core 1.7):

* A message is written in one of three shapes: flat, with its class and `kwargs` (LangChain.js), or
  with its fields under `data`. All are read into the flat one.
* Content is text, or blocks in the words of LangChain or of a provider. What a block repeats of the
  message's calls is left to these; a kind that nobody knows is passed on.
* Totals of usage hold their parts already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, dump_json

Json: TypeAlias = dict[str, Any]
Events: TypeAlias = list[ev.Event]

_AI = ("ai", "AIMessage", "AIMessageChunk", "assistant")
_TOOL = ("tool", "ToolMessage", "ToolMessageChunk")
_HUMAN = ("human", "HumanMessage", "HumanMessageChunk", "user")
_OTHER = ("system", "SystemMessage", "SystemMessageChunk", "function", "FunctionMessage", "chat",
          "ChatMessage", "developer", "remove")  # fmt: skip
_KINDS = frozenset(_AI + _TOOL + _HUMAN + _OTHER)


# --- reading -------------------------------------------------------------------------------------


def message_of(value: Any) -> Json | None:
    """A message in one shape, out of the three that are written; `None` for what is none."""
    if not isinstance(value, dict):
        return None
    if isinstance(path := value.get("id"), list) and path and "kwargs" in value:
        value = {**as_object(value["kwargs"]), "type": path[-1]}  # as LangChain.js writes it
    elif isinstance(value.get("data"), dict) and "content" not in value:
        value = {**value["data"], "type": value.get("type")}
    kind = value.get("type", value.get("role"))
    if not isinstance(kind, str) or kind not in _KINDS or "content" not in value:
        return None
    return value if "type" in value else {**value, "type": kind}


def messages_in(state: Any) -> list[Json]:
    """The messages under the keys of a state, or of what a node adds to one."""
    found: list[Json] = []
    for value in state.values() if isinstance(state, dict) else (state,):
        candidates = value if isinstance(value, list) else [value]
        found += [one for one in map(message_of, candidates) if one is not None]
    return found


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def is_ai(message: Json) -> bool:
    """Whether the AI says it."""
    return message["type"] in _AI


def is_tools(message: Json) -> bool:
    """Whether it is what a tool returned."""
    return message["type"] in _TOOL


def is_humans(message: Json) -> bool:
    """Whether somebody asks."""
    return message["type"] in _HUMAN


def is_chunk(message: Json) -> bool:
    """Whether it is a part of what the AI says."""
    return bool(message["type"] == "AIMessageChunk")


def result_text(content: Any) -> str | None:
    """What a tool returned: text as it is, parts of text joined, all else as JSON."""
    if isinstance(content, list) and content:
        texts = [part if isinstance(part, str) else as_object(part).get("text") for part in content]
        told = [text for text in texts if isinstance(text, str)]
        if len(told) == len(texts):
            return "".join(told)
    return content if content is None or isinstance(content, str) else dump_json(content)


def sources_in(documents: Any) -> Iterator[ev.Source]:
    """The documents of a retriever."""
    for one in as_list(documents):
        document = as_object(one)
        metadata = as_object(document.get("metadata"))
        if "page_content" in document and metadata:
            url = as_string(metadata.get("url")) or as_string(metadata.get("source"))
            yield ev.Source(url=url, title=as_string(metadata.get("title")))


_COUNTS = {
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "cached_input_tokens": ("input_token_details", "cache_read"),
    "cache_write_tokens": ("input_token_details", "cache_creation"),
    "reasoning_tokens": ("output_token_details", "reasoning"),
}
_CACHE_WRITES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def counts_of(usage: Any) -> dict[str, int]:
    """The counts of `usage_metadata`, whose totals hold their parts already."""
    counts = {}
    for name, path in _COUNTS.items():
        value = usage
        for key in path:
            value = as_object(value).get(key)
        if (count := as_count(value)) is not None:
            counts[name] = count
    details = as_object(as_object(usage).get("input_token_details"))
    if written := sum(as_count(details.get(key)) or 0 for key in _CACHE_WRITES):
        counts["cache_write_tokens"] = written  # Anthropic's; `cache_creation` is 0 beside them
    return counts


def interrupted_by(interrupts: Any) -> ev.RunInterrupted | None:
    """The question of a graph, as it stands under `__interrupt__`. Of several, the first."""
    for interrupt in as_list(interrupts)[:1]:
        value = as_object(interrupt).get("value")
        reason = value if value is None or isinstance(value, str) else dump_json(value)
        return ev.RunInterrupted(reason=reason)
    return None


def failure_of(frame: Frame) -> ev.RunFailed:
    """An error of the server: its code or class, and a text; or a text only."""
    value = frame.json()
    if not isinstance(value, dict):
        return ev.RunFailed(message=as_string(value) or frame.text or None)
    keys = ("error", "status_code", "code", "type")
    kind = next((word for key in keys if (word := as_id(value.get(key)))), None)
    message = as_string(value.get("message")) or as_string(value.get("detail"))
    return ev.RunFailed(type=kind, message=message)


# --- content -------------------------------------------------------------------------------------

Part: TypeAlias = tuple[str, Any]
"""What kind (text, reasoning, source, call, result, or of a block), and what it says."""


def parts_of(message: Json) -> Iterator[Part]:
    """What a message says, in its order."""
    extra = as_object(message.get("additional_kwargs"))
    reasons = False
    for part in _parts_in(message["content"]):
        reasons = reasons or part[0] == "reasoning"
        yield part
    if extra and not reasons:  # of old the only place; now it may repeat the content
        yield "reasoning", _plain(extra.get("reasoning_content")) or _plain(extra.get("reasoning"))
    if isinstance(refusal := extra.get("refusal"), str):
        yield "text", refusal


def _parts_in(content: Any) -> Iterator[Part]:
    for block in content if isinstance(content, list) else (content,):
        if isinstance(block, str):
            yield "text", block
        elif isinstance(block, dict):
            kind = as_string(block.get("type")) or "block"
            read = _BLOCKS.get(kind)
            if read is not None:
                yield from read(block)
            elif kind not in _TOLD_ELSEWHERE:
                yield kind, block


def _text_block(block: Json) -> Iterator[Part]:
    yield "text", block.get("text")
    for cited in (block.get("annotations"), block.get("citations")):
        for one in map(as_object, as_list(cited)):
            url = as_string(one.get("url"))
            title = as_string(one.get("title")) or as_string(one.get("document_title"))
            if url or title:
                yield "source", ev.Source(url=url, title=title)


def _reasoning_block(block: Json) -> Iterator[Part]:
    keys = ("reasoning", "thinking", "reasoning_content", "summary")
    yield "reasoning", next((text for key in keys if (text := _plain(block.get(key)))), "")


def _plain(value: Any) -> str:
    """Reasoning as the providers' packages leave it: text, or text in parts."""
    if isinstance(value, dict):
        value = value.get("text") or value.get("summary")
    if isinstance(value, list):
        return "".join(as_string(as_object(part).get("text")) or "" for part in value)
    return value if isinstance(value, str) else ""


def _as(kind: str, key: str | None = None) -> Callable[[Json], Iterator[Part]]:
    return lambda block: iter([(kind, block if key is None else block.get(key))])


_BLOCKS: Mapping[str, Callable[[Json], Iterator[Part]]] = {
    "text": _text_block,
    "reasoning": _reasoning_block,
    "thinking": _reasoning_block,
    "reasoning_content": _reasoning_block,
    "refusal": _as("text", "refusal"),
    "server_tool_call": _as("call"),
    "server_tool_call_chunk": _as("call"),
    "server_tool_result": _as("result"),
}
_TOLD_ELSEWHERE = frozenset(  # as calls of the message, or for the provider's eyes only
    {"tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "input_json_delta",
     "function_call", "redacted_thinking"}
)  # fmt: skip
