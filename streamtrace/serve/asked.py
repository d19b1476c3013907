"""A request for a run, read: ids, history and answers, from wherever its client puts them.

Rules that hold here:

* Ids that clients choose are checked before they are used. What none was given gets a new one.
* The headers that hold secrets do not reach the agent.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from streamtrace.serve.auth import User
from streamtrace.serve.body import checked_id
from streamtrace.serve.context import RunContext

THREAD_HEADER = "x-thread-id"
_SECRET_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "x-api-key", "set-cookie"}
)
_THREAD_KEYS = ("thread_id", "threadId")
_RUN_KEYS = ("run_id", "runId")
_MESSAGE_KEYS = ("message", "text", "query")


def context_of(
    asked: Any,
    *,
    headers: Mapping[str, str],
    path_params: Mapping[str, Any],
    user: User | None,
) -> RunContext:
    """What the agent is given for this request. Raises Refusal (400) for an id that is none.

    The thread is that of the header `x-thread-id`, else of the path, else of the body, in which it
    may also stand under `config`, as LangGraph and AgentFlow have it.
    """
    body = asked if isinstance(asked, dict) else {}
    config = body.get("config")
    configs = [body, config if isinstance(config, dict) else {}]
    thread_id = (
        headers.get(THREAD_HEADER) or path_params.get("thread_id") or _first(configs, _THREAD_KEYS)
    )
    run_id = _first([body], _RUN_KEYS)
    return RunContext(
        run_id=new_id() if run_id is None else checked_id(run_id),
        thread_id=new_id() if thread_id is None else checked_id(thread_id),
        message_id=new_id(),
        input=asked,
        messages=_messages(body),
        user=user,
        tools=tools if isinstance(tools := body.get("tools"), list) else [],
        state=body.get("state"),
        resume=body.get("resume"),
        headers=without_secrets(headers),
    )


def without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    """What of the headers an agent may see."""
    return {name: value for name, value in headers.items() if name not in _SECRET_HEADERS}


def new_id() -> str:
    """An id that nobody can guess."""
    return str(uuid.uuid4())


def _first(bodies: Iterable[Mapping[str, Any]], keys: Iterable[str]) -> Any:
    found = (body.get(key) for body in bodies for key in keys)
    return next((value for value in found if value is not None), None)


def _messages(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if isinstance(messages, list):
        return messages
    message = _first([body], _MESSAGE_KEYS)
    return [{"role": "user", "content": message}] if isinstance(message, str) else []
