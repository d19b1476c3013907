"""OpenAI's chat completions, so that any OpenAI client can talk to an agent.

    AgentRouter().openai({"support": agent})      # POST /v1/chat/completions, GET /v1/models

Rules that hold here:

* The model is the agent that is meant. What else a client asks for (a temperature, a format) is in
  `run.input`, for the agent to heed or not.
* A client runs every tool call that it is shown, and fails on one that it does not know. So it is
  shown calls of the tools that it offered in this request, and left unanswered by the agent. What
  the agent runs itself is its own business.
* Usage is streamed only to clients that asked for it: it comes in a chunk without choices, and the
  others look at the first choice of every chunk.
* An answer that is not streamed is the same stream, put together. Refusals and errors have OpenAI's
  shape. Clients ask again by themselves after a 5xx; not so where an agent failed, which has done
  its work, and may have done it for good.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError, EncodeError, Refusal
from streamtrace.dialects.base import Dialect, Encoder
from streamtrace.serve.answers import send_json
from streamtrace.serve.asked import context_of
from streamtrace.serve.auth import User
from streamtrace.serve.context import Agent, Events, RunContext
from streamtrace.serve.endpoint import Door, Endpoint
from streamtrace.serve.response import (
    Delivery,
    EventStream,
    Receive,
    Scope,
    Send,
    deliver,
    envelope_of,
)
from streamtrace.serve.run import Run, Settings
from streamtrace.serve.runs import Runs

MAX_WHOLE_CHARS = 16 * 1024 * 1024
"""What an answer that is not streamed may hold."""

_INVALID = "invalid_request_error"
_NO_MODEL = Refusal(404, "model_not_found", "There is no such model here; see GET /v1/models.")
_METHOD = Refusal(405, "method_not_allowed", "This method is not served here.", {"Allow": "GET"})
_TOO_LONG = Refusal(500, "answer_too_long", "The answer is too long to be told whole: stream it.")
_ERROR_TYPES = {429: "rate_limit_error", **dict.fromkeys(range(400, 429), _INVALID)}
_CODES = {"unauthenticated": "invalid_api_key", "invalid_token": "invalid_api_key"}
_NEVER_AGAIN = {"x-should-retry": "false"}


class ChatCompletions(Endpoint):
    """`POST …/chat/completions`. Raises ConfigError where there is no agent."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        *,
        runs: Runs | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        door: Door = Door(),  # noqa: B008  immutable
    ) -> None:
        if not agents:
            raise ConfigError("agents is empty: give at least one, by the name of its model")
        self._agents = dict(agents)
        super().__init__(
            self._ask,
            "openai-chat",
            runs=runs,
            settings=msgspec.structs.replace(settings, filters=(*settings.filters, _Shown)),
            delivery=delivery,
            door=door,
            read=self.read_request,
        )

    def _ask(self, run: RunContext) -> Events | Any:
        return self._agents[run.input["model"]](run)

    def read_request(
        self,
        asked: Any,
        *,
        headers: Mapping[str, str],
        path_params: Mapping[str, Any],
        user: User | None,
    ) -> RunContext:
        """What the agent is given. Raises Refusal: 400 for what is no request, 404 for a model."""
        _check(asked)
        if asked["model"] not in self._agents:
            raise _NO_MODEL
        context = context_of(asked, headers=headers, path_params=path_params, user=user)
        context.run_id = f"chatcmpl-{uuid.uuid4().hex}"
        return context

    async def refuse(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        """In OpenAI's shape."""
        await send_error(refusal, send)

    async def answer(
        self, run: Run, dialect: Dialect, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """As a stream, or whole."""
        headers = {"x-request-id": run.run_id}
        if run.context.input.get("stream"):
            stream = EventStream(run, dialect, delivery=self.delivery, headers=headers)
            await stream(scope, receive, send)
            return

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        whole = _Whole(dialect.encoder(envelope_of(run)))
        try:
            if not await deliver(run, lambda: whole, left, self.delivery):
                return
        except EncodeError:
            await send_error(_TOO_LONG, send, _NEVER_AGAIN)
            return
        if whole.error is None:
            await send_json(whole.completion(), send, headers=headers)
        elif whole.error["code"] == "drained":
            await send_json({"error": whole.error}, send, 503, headers)
        else:
            await send_json({"error": whole.error}, send, 500, {**headers, **_NEVER_AGAIN})


class Models:
    """`GET …/models` and `GET …/models/{model}`."""

    def __init__(self, names: Mapping[str, Agent], door: Door = Door()) -> None:  # noqa: B008  immutable
        created_s = int(time.time())
        self._door = door
        self._models = {
            name: {"id": name, "object": "model", "created": created_s, "owned_by": "streamtrace"}
            for name in names
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(scope)
        except Refusal as refusal:
            await send_error(refusal, send)
        else:
            await send_json(answer, send)

    async def _answer(self, scope: Scope) -> Any:
        if scope["method"] != "GET":
            raise _METHOD
        await self._door.enter(scope, None)
        name = scope.get("path_params", {}).get("model")
        if name is None:
            return {"object": "list", "data": list(self._models.values())}
        if name not in self._models:
            raise _NO_MODEL
        return self._models[name]


async def send_error(
    refusal: Refusal, send: Send, headers: Mapping[str, str] | None = None
) -> None:
    """A refusal in OpenAI's shape."""
    error = {
        "message": refusal.message,
        "type": _ERROR_TYPES.get(refusal.status, "server_error"),
        "param": None,
        "code": _CODES.get(refusal.code, refusal.code),
    }
    await send_json({"error": error}, send, refusal.status, {**refusal.headers, **(headers or {})})


# --- what is asked -----------------------------------------------------------------------------


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in value)
    )


def _is_stream_options(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and isinstance(value.get("include_usage", False), bool)


_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("model", lambda value: isinstance(value, str), "model must be the name of a model."),
    ("messages", _is_messages, "messages must be a list of messages, each with its role."),
    ("stream", lambda value: isinstance(value, bool | None), "stream must be true or false."),
    (
        "stream_options",
        _is_stream_options,
        "stream_options must be an object; its include_usage is true or false.",
    ),
    ("n", lambda value: value in (None, 1), "n must be 1: there is one answer."),
)
"""Fields that are looked at: what they must be, and what is said where they are not."""


def _check(asked: Any) -> None:
    if not isinstance(asked, dict):
        raise Refusal(400, _INVALID, "The body must be a JSON object.")
    for name, is_right, message in _CHECKS:
        if not is_right(asked.get(name)):
            raise Refusal(400, _INVALID, message)


# --- what is shown -----------------------------------------------------------------------------


class _Shown:
    """Leaves out of a run what its client did not ask for, and would not understand."""

    def __init__(self, run: RunContext) -> None:
        options = run.input.get("stream_options") or {}
        self._usage = not run.input.get("stream") or options.get("include_usage", False)
        self._tools = set(filter(None, map(_tool_name, run.tools)))

    def feed(self, event: ev.Event) -> list[ev.Event]:
        """The event, if it is to be shown."""
        if isinstance(event, ev.Usage) and not self._usage:
            return []
        if isinstance(event, ev.ToolCallStarted) and event.name not in self._tools:
            return [msgspec.structs.replace(event, name=None)]  # not written, and still counted
        return [event]

    def flush(self) -> list[ev.Event]:
        """Nothing is held."""
        return []


def _tool_name(tool: Any) -> str | None:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


class _Whole:
    """Puts the chunks of a completion together."""

    def __init__(self, encoder: Encoder) -> None:
        self.error: Any = None
        self._encoder = encoder
        self._last: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
        self._calls: list[Any] = []
        self._finish_reason = "stop"
        self._usage: Any = None
        self._chars = 0

    async def open(self) -> None:
        """Nothing comes before the events."""

    async def write(self, first: ev.Event, run: Run) -> None:
        """The event. Raises EncodeError if there is too much to hold."""
        for frame in self._encoder.encode(first):
            chunk = frame.json()
            if chunk is None:  # the sentinel
                continue
            if "error" in chunk:
                self.error = chunk["error"]
                continue
            self._last = chunk
            self._usage = chunk.get("usage", self._usage)
            for choice in chunk["choices"]:
                self._add(choice)

    def _add(self, choice: dict[str, Any]) -> None:
        if choice["index"]:
            return
        delta = choice["delta"]
        for name, pieces in self._texts.items():
            pieces.append(delta.get(name, ""))
            self._chars += len(pieces[-1])
        if self._chars > MAX_WHOLE_CHARS:
            raise EncodeError(
                f"an answer of over {MAX_WHOLE_CHARS} characters cannot be told whole"
            )
        for call in delta.get("tool_calls", ()):
            self._calls.append({name: call[name] for name in ("id", "type", "function")})
        self._finish_reason = choice["finish_reason"] or self._finish_reason

    async def ping(self) -> None:
        """Nothing can be told before the end."""

    async def close(self) -> None:
        """The sentinel of the stream has no place here."""

    def completion(self) -> dict[str, Any]:
        """All of it."""
        text, thought = ("".join(pieces) for pieces in self._texts.values())
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if thought:
            message["reasoning_content"] = thought
        if self._calls:
            message |= {"content": text or None, "tool_calls": self._calls}
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason}
        completion = {
            "id": self._last["id"],
            "object": "chat.completion",
            "created": self._last["created"],
            "model": self._last["model"],
            "choices": [{**choice, "logprobs": None}],
        }
        return completion if self._usage is None else {**completion, "usage": self._usage}
