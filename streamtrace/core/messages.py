"""Captured texts as chat messages, in the shape of `gen_ai.input.messages` and `.output.messages`.

Rules: the result is JSON text, since nested attribute values are not read everywhere, or `None`
where nothing was captured. What the conventions have no part for stays as a text of its JSON.

Source: GenAI semantic conventions, gen-ai-input-messages.json and gen-ai-output-messages.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streamtrace.core.jsonio import as_object, as_string, clean_text, dump_json, load_json
from streamtrace.core.summary import Content, ToolCall, content_text

_Part = dict[str, Any]


def input_messages(content: Content) -> str | None:
    """What was asked: the messages of a chat with their roles, any other text as one of the user.

    Half a chat is no JSON: if it was cut, it is a text too.
    """
    text = _shown(content)
    if text is None:
        return None
    chat = _chat(text)
    told = dump_json(chat) if chat else ""
    return told or dump_json([{"role": "user", "parts": [_text(text)]}])


def output_messages(
    text: Content, reasoning: Content | None = None, calls: Sequence[ToolCall] = ()
) -> str | None:
    """What was answered, thought and asked of tools, as one message."""
    parts = [
        {"type": kind, "content": shown}
        for kind, one in (("reasoning", reasoning), ("text", text))
        if one is not None and (shown := _shown(one)) is not None
    ]
    asked = [
        _call(clean_text(call.id), call.name and clean_text(call.name), _shown(call.arguments))
        for call in calls
    ]
    if not parts and not any("arguments" in part for part in asked):
        return None
    return dump_json([{"role": "assistant", "parts": [*parts, *asked]}])


def _shown(content: Content) -> str | None:
    text = content_text(content)
    return None if text is None else clean_text(text)


def _chat(text: str) -> list[_Part] | None:
    """A list of messages as requests to models hold it, in our shape; `None` for all else."""
    value = load_json(text.encode()) if text.startswith("[") else None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return None
    messages = [message for one in value if (message := _message(one)) is not None]
    return messages if len(messages) == len(value) else None


def _message(one: dict[str, Any]) -> _Part | None:
    kind, role = as_string(one.get("type")), as_string(one.get("role"))
    if role is None and kind in _ROLES:  # OpenAI Responses: an item beside the messages
        return {"role": _ROLES[kind], "parts": [_part(one)]}
    calls = one.get("tool_calls") or one.get("toolCalls")
    if role is None or not ("content" in one or calls):
        return None
    content = one.get("content")
    if role == "tool":
        call_id = one.get("tool_call_id") or one.get("toolCallId")
        return {"role": role, "parts": [_response(call_id, content)]}
    parts = [_part(part) for part in (*_listed(content), *_listed(calls))]
    return {"role": role, "parts": parts}


def _part(part: Any) -> _Part:
    if isinstance(part, str):
        return _text(part)
    kind = as_string(as_object(part).get("type"))
    if kind in _PARTS:
        return _PARTS[kind](part)
    text = as_string(as_object(part).get("text"))
    return _text(dump_json(part) if text is None else text)


def _listed(value: Any) -> Iterable[Any]:
    if isinstance(value, list):
        return value
    return () if value is None else (value,)


def _text(text: str) -> _Part:
    return {"type": "text", "content": text}


def _call(call_id: Any, name: Any, arguments: Any) -> _Part:
    told = {"id": call_id, "name": name, "arguments": arguments}
    return {"type": "tool_call", **{key: one for key, one in told.items() if one is not None}}


def _response(call_id: Any, response: Any) -> _Part:
    told = {} if call_id is None else {"id": call_id}
    return {"type": "tool_call_response", **told, "response": response}


def _function(part: dict[str, Any]) -> _Part:
    function = as_object(part.get("function"))
    return _call(part.get("id"), function.get("name"), function.get("arguments"))


_PARTS: dict[str, Callable[[dict[str, Any]], _Part]] = {
    "function": _function,
    "function_call": lambda p: _call(p.get("call_id"), p.get("name"), p.get("arguments")),
    "function_call_output": lambda p: _response(p.get("call_id"), p.get("output")),
    "tool_use": lambda p: _call(p.get("id"), p.get("name"), p.get("input")),
    "tool_result": lambda p: _response(p.get("tool_use_id"), p.get("content")),
}
"""By `type`: of OpenAI chat (and AG-UI), of OpenAI Responses, and of Anthropic."""

_ROLES = {"function_call": "assistant", "function_call_output": "tool"}
