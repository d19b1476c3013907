"""What back ends with a vocabulary of their own have in common: habits, not a standard.

Rules that hold here:

* A value is found under the first of the usual keys that holds one of the right shape; what has
  another shape is absent. Nothing is computed from what was not said.
* A tool call without an id gets one, and its end goes to the oldest open call of that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamtrace.core.bounded import remember
from streamtrace.core.events import (
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, dump_json, load_json

Json = Mapping[str, Any]

HEARTBEATS = frozenset({"ping", "heartbeat", "keepalive", "keep_alive", "keep-alive"})

MAX_OPEN_CALLS = 256
"""Calls that wait for their end; beyond that the oldest is given up."""

_TEXT = ("content", "text", "token", "delta", "data")
REASONING_TEXT = ("thinking", "reasoning", "thought", *_TEXT)
_WHOLE_TEXT = ("output", "answer", "final_answer", "response", "content", "text")
_TOOL = ("tool", "name", "tool_name", "toolName")
_CALL_ID = ("tool_call_id", "toolCallId", "call_id", "id")
_ARGUMENTS = ("args", "arguments", "input", "tool_input")
_RESULT = ("result", "output", "content", "data")
_RUN_ID = ("run_id", "runId")
_THREAD_ID = ("thread_id", "threadId", "conversation_id", "session_id")
_AGENT = ("agent", "agent_name")
_ERROR_CODE = ("code", "error_code", "error_type", "type")
_ERROR_TEXT = ("message", "error", "detail", "content", "text", "data")
_USAGE = ("usage", "token_usage", "usage_metadata", "tokens")
_INPUT = ("input_tokens", "prompt_tokens", "inputTokens", "promptTokens")
_OUTPUT = ("output_tokens", "completion_tokens", "outputTokens", "completionTokens")
_CACHED = (
    "cached_input_tokens",
    "cachedInputTokens",
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
    "input_token_details.cache_read",
)
_CACHE_WRITE = ("cache_write_tokens", "prompt_tokens_details.cache_write_tokens")
_REASONING = (
    "reasoning_tokens",
    "reasoningTokens",
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "output_token_details.reasoning",
)
_PLAIN_PARTS = (None, "text", "text_delta", "output_text")
_SPEAKERS = (None, "assistant", "ai")


def text_of(value: Any, keys: tuple[str, ...] = _TEXT) -> str:
    """The text of a message or delta: a string, a list of parts, or an object that holds either."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_part_text, value))
        case dict() if is_foreign(value):
            return ""
        case dict():
            for key in keys:
                inner = value.get(key)
                # One level down only: {"delta": {"text": ...}} is common, deeper is guessing.
                text = text_of(inner) if not isinstance(inner, dict) else _flat_text(inner)
                if text:
                    return text
    return ""


def is_foreign(message: Json) -> bool:
    """Whether somebody else than the agent speaks."""
    return message.get("role") not in _SPEAKERS


def has_text_key(body: Json) -> bool:
    """Whether the object is one that carries text, be it empty."""
    return any(key in body for key in _TEXT)


def whole_text_of(value: Any) -> str:
    """The final answer, as the object that ends a run holds it."""
    return text_of(value, _WHOLE_TEXT)


def finished(body: Json) -> RunFinished:
    """The end of a run, with its ids."""
    return RunFinished(run_id=_word(body, _RUN_ID), thread_id=_word(body, _THREAD_ID))


def ended(end: Event, body: Json, model: str | None = None) -> Iterator[Event]:
    """The end of a run, and before it what the same object says of usage."""
    usage = usage_of(body, model=model)
    if usage is not None:
        yield usage
    yield end


def started(body: Json) -> RunStarted | None:
    """The begin of a run, if it says who it is."""
    event = RunStarted(
        run_id=_word(body, _RUN_ID),
        thread_id=_word(body, _THREAD_ID),
        agent=_word(body, _AGENT),
    )
    return event if event != RunStarted() else None


def failed(value: Any) -> RunFailed:
    """An error: text, or an object with a code and a message, often one inside the other."""
    if not isinstance(value, Mapping):
        return RunFailed(message=value if isinstance(value, str) and value else None)
    inner = value.get("error")
    value = inner if isinstance(inner, Mapping) else value
    code = _word(value, _ERROR_CODE)
    return RunFailed(
        type=code if code != "error" else None,
        message=next((text for key in _ERROR_TEXT if (text := text_of(value.get(key)))), None),
    )


def stray_failure(frame: Frame) -> RunFailed | None:
    """An error written without the framing: `{"error": ...}`, or `error: {...}` as a field."""
    if frame.stray is None:
        return None
    name, _, rest = frame.stray.partition(b":")
    body = load_json(rest if name == b"error" else frame.stray)
    if isinstance(body, dict) and (name == b"error" or body.get("error")):
        return failed(body)
    return None


def model_of(body: Json) -> str | None:
    """The model's name."""
    return _word(body, ("model", "model_name"))


def usage_of(body: Json, scope: str = "run", model: str | None = None) -> Usage | None:
    """Token counts with known sides; a bare total is none."""
    counts = next((body[key] for key in _USAGE if isinstance(body.get(key), dict)), body)
    input_tokens, output_tokens = _count(counts, _INPUT), _count(counts, _OUTPUT)
    if input_tokens is None and output_tokens is None:
        return None
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=_count(counts, _CACHED),
        cache_write_tokens=_count(counts, _CACHE_WRITE),
        reasoning_tokens=_count(counts, _REASONING),
        model=model_of(counts) or model_of(body) or model,
        provider=_word(counts, ("provider",)),
        scope=scope,
    )


class ToolCalls:
    """The calls of one stream that are open, oldest first, as id -> name."""

    def __init__(self) -> None:
        self._open: dict[str, str | None] = {}
        self._count = 0

    def start(self, body: Json) -> Iterator[Event]:
        """A call, with its arguments where the wire has them."""
        if isinstance(body.get("function"), dict):
            body = {**body, **body["function"]}
        name = _word(body, _TOOL)
        call_id = _word(body, _CALL_ID) or self._new_id(name)
        remember(self._open, call_id, name, MAX_OPEN_CALLS)
        yield ToolCallStarted(tool_call_id=call_id, name=name)
        yield ToolCallReady(tool_call_id=call_id, arguments=_json_text(body, _ARGUMENTS))

    def end(self, body: Json) -> Iterator[Event]:
        """A result. That of a call never announced tells of the call as well."""
        name = _word(body, _TOOL)
        call_id = _word(body, _CALL_ID) or self._oldest(name)
        if call_id is None or call_id not in self._open:
            call_id = call_id or self._new_id(name)
            yield ToolCallStarted(tool_call_id=call_id, name=name)
        self._open.pop(call_id, None)
        result = _json_text(body, _RESULT)
        error = body.get("error")
        yield ToolCallResult(
            tool_call_id=call_id,
            result=_json_text(body, ("error",)) if result is None and error else result,
            is_error=bool(error) or body.get("is_error") is True or body.get("status") == "error",
        )

    def _oldest(self, name: str | None) -> str | None:
        return next((key for key, of in self._open.items() if name in (None, of)), None)

    def _new_id(self, name: str | None) -> str:
        self._count += 1
        return f"{name or 'tool'}-{self._count}"


def _part_text(part: Any) -> str:
    match part:
        case str():
            return part
        case {"text": str(text)} if part.get("type") in _PLAIN_PARTS:
            return text
    return ""


def _flat_text(value: Json) -> str:
    return text_of({key: inner for key, inner in value.items() if not isinstance(inner, dict)})


def _word(body: Json, keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = body.get(key)
        if (word := as_id(value)) is not None:
            return word
    return None


def _count(body: Json, paths: tuple[str, ...]) -> int | None:
    for path in paths:
        value: Any = body
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if type(value) is int and value >= 0:
            return value
    return None


def _json_text(body: Json, keys: tuple[str, ...]) -> str | None:
    value = next((body[key] for key in keys if body.get(key) is not None), None)
    return value if value is None or isinstance(value, str) else dump_json(value)
