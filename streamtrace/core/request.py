"""What a request body says about the run to come.

Request shapes differ as response dialects do, but the facts we want hide behind few keys; one table
serves them all. Sources: OpenAI chat and Responses, Anthropic messages, AG-UI RunAgentInput,
LangGraph runs, and the plain `{"message", "thread_id"}` of hand-made endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from streamtrace.core.content import Capture, ContentPolicy
from streamtrace.core.jsonio import dump_json
from streamtrace.core.summary import Content, RequestFacts

_WORD = re.compile(r"\S{1,256}")
"""What may be a name or an id. Free text under these keys is content, and is not read."""
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.")
"""The beginning of a JSON Web Token: a credential, whatever key it stands under."""

_Path = str | tuple[str, ...]
"""A key of the body, or keys of objects inside of each other."""


class _Paths(tuple[_Path, ...]):
    """In the order in which they are looked for. Most bodies have none of their first keys."""

    first_keys: frozenset[str]

    def __new__(cls, *paths: _Path) -> _Paths:
        made = super().__new__(cls, paths)
        made.first_keys = frozenset(path if isinstance(path, str) else path[0] for path in paths)
        return made


_MODEL = _Paths("model")
_THREAD = _Paths(
    "thread_id",
    "threadId",
    "conversation_id",
    "conversationId",
    "session_id",
    "sessionId",
    "conversation",
    ("conversation", "id"),
    ("config", "thread_id"),
    ("config", "configurable", "thread_id"),
)
_USER = _Paths("user", "user_id", "userId", ("metadata", "user_id"))
_INPUT = ("messages", "input", "message", "prompt", "query", "question", "text", "contents")
_PARAMETERS = {
    "temperature": ("temperature",),
    "top_p": ("top_p", "topP"),
    "top_k": ("top_k", "topK"),
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxTokens"),
    "seed": ("seed",),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "n": ("n",),
}
_PARAMETER_KEYS = frozenset(key for keys in _PARAMETERS.values() for key in keys)


def read_request(value: Any, policy: ContentPolicy) -> RequestFacts:
    """The facts of a body's JSON value; empty facts for anything but an object. Never raises."""
    if not isinstance(value, dict):
        return RequestFacts()
    return RequestFacts(
        model=_first_text(value, _MODEL),
        thread_id=_first_text(value, _THREAD),
        user=_first_text(value, _USER),
        parameters=_parameters(value),
        input=_input(value, policy),
    )


def _input(body: dict[str, Any], policy: ContentPolicy) -> Content:
    capture = Capture(policy)
    for key in _INPUT:
        value = body.get(key)
        if value:
            capture.add(value if isinstance(value, str) else dump_json(value))
            break
    return capture.content()


def _first_text(body: dict[str, Any], paths: _Paths) -> str | None:
    if paths.first_keys.isdisjoint(body):
        return None
    for path in paths:
        value = body.get(path) if path.__class__ is str else _inside(body, path)
        if isinstance(value, str) and _WORD.fullmatch(value) and not _TOKEN.match(value):
            return value
    return None


def _parameters(body: dict[str, Any]) -> dict[str, float | int | str | bool]:
    if _PARAMETER_KEYS.isdisjoint(body):
        return {}
    return {
        name: number
        for name, keys in _PARAMETERS.items()
        if (number := _first_number(body, keys)) is not None
    }


def _first_number(body: dict[str, Any], keys: tuple[str, ...]) -> float | int | None:
    for key in keys:
        value = body.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


def _inside(body: Any, path: Iterable[str]) -> Any:
    for key in path:
        body = body.get(key) if isinstance(body, dict) else None
    return body
