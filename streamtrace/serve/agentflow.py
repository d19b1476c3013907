"""AgentFlow's API: a stream by thread, and a stop by thread.

    AgentRouter().agentflow(agent)      # POST /v1/graph/stream, POST /v1/graph/stop

    {"messages": [{"role": "user", "content": "Plan my trip."}],     or "text", or "resume"
     "config": {"thread_id": "user-1"},
     "recursion_limit": 25,
     "response_granularity": "low"}

Rules that hold here:

* A client may ask for fewer steps than the server allows, never for more.
* Whoever stops a thread stops their own runs in it. To stop it again does no harm; a thread that
  was never theirs is not found. Threads are known to the process that ran them. Without a door,
  all are one user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from streamtrace.core.bounded import remember
from streamtrace.core.errors import ConfigError, Disconnected, Refusal
from streamtrace.dialects.base import Dialect
from streamtrace.serve.answers import send_json, send_refusal
from streamtrace.serve.asked import context_of
from streamtrace.serve.auth import User
from streamtrace.serve.body import checked_id
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.endpoint import Door, Endpoint, NotFound, is_of
from streamtrace.serve.filters import AGENTFLOW_GRANULARITY, filters_for
from streamtrace.serve.response import Delivery, Receive, Scope, Send
from streamtrace.serve.run import Run, Settings
from streamtrace.serve.runs import Runs
from streamtrace.serve.stages import Stage

MAX_THREADS = 4096
"""Threads whose user is remembered; of more, the oldest is forgotten."""

Granularities = Mapping[str, Sequence[Callable[[RunContext], Stage]]]
"""What a client may ask for as `response_granularity`: its filters. The first is the default."""

GRANULARITIES: Granularities = MappingProxyType(
    {
        name: filters_for(granularity, state=state)
        for name, (granularity, state) in AGENTFLOW_GRANULARITY.items()
    }
)
"""Low: single tokens, without the state. Partial: in batches. Full: in batches, with the state."""

_METHOD = Refusal(405, "method_not_allowed", "This method is not served here.", {"Allow": "POST"})


class GraphStream(Endpoint):
    """`POST …/stream`. Raises ConfigError where there is no granularity."""

    def __init__(
        self,
        agent: Agent,
        *,
        granularities: Granularities = GRANULARITIES,
        runs: Runs | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        door: Door = Door(),  # noqa: B008  immutable
        allow_get: bool = False,
    ) -> None:
        if not granularities:
            raise ConfigError("granularities is empty: give at least one, such as 'low'")
        super().__init__(
            agent,
            "agentflow",
            runs=runs,
            settings=settings,
            delivery=delivery,
            door=door,
            allow_get=allow_get,
            read=read_graph_request,
        )
        self._granularities = {name.lower(): filters for name, filters in granularities.items()}
        self._known: dict[_Thread, None] = {}

    def settings_of(self, context: RunContext) -> Settings:
        """The server's, as far as the client may change them. Raises Refusal (400)."""
        settings = self._settings
        granularity = context.input.get("response_granularity")
        name = next(iter(self._granularities)) if granularity is None else granularity
        if not isinstance(name, str) or name.lower() not in self._granularities:
            raise Refusal(400, "unknown_granularity", "This granularity is not served here.")
        filters = (*settings.filters, *self._granularities[name.lower()])
        limits, asked = settings.limits, _recursion_limit(context.input)
        if asked is not None and (limits.max_steps is None or asked < limits.max_steps):
            limits = msgspec.structs.replace(limits, max_steps=asked)
        return msgspec.structs.replace(settings, filters=filters, limits=limits)

    async def answer(
        self, run: Run, dialect: Dialect, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Remember whose thread it is, and stream."""
        context = run.context
        remember(self._known, _thread(context.thread_id, context.user), None, MAX_THREADS)
        await super().answer(run, dialect, scope, receive, send)

    def stop(self, thread_id: str, user: User | None) -> bool:
        """Stop the user's runs in that thread: whether there was one to stop. Raises Refusal (404)
        for a thread that is not theirs."""
        runs = [
            run
            for run in self.runs.active
            if run.context.thread_id == thread_id and is_of(run, user)
        ]
        if not runs and _thread(thread_id, user) not in self._known:
            raise NotFound
        stopped = [run.stop("stopped") for run in runs]
        return any(stopped)


class GraphStop:
    """`POST …/stop` with `{"thread_id"}`: `{"thread_id", "stopped"}`."""

    def __init__(self, stream: GraphStream, door: Door = Door()) -> None:  # noqa: B008  immutable
        self._stream = stream
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            if scope["method"] != "POST":
                raise _METHOD
            asked, user = await self._door.enter(scope, receive)
            body = asked.body if isinstance(asked.body, dict) else {}
            thread_id = checked_id(body.get("thread_id"))
            stopped = self._stream.stop(thread_id, user)
        except Refusal as refusal:
            await send_refusal(refusal, scope, send)
        except Disconnected:
            return
        else:
            await send_json({"thread_id": thread_id, "stopped": stopped}, send)


_Thread = tuple[str, tuple[str | None, str] | None]


def _thread(thread_id: str, user: User | None) -> _Thread:
    return thread_id, None if user is None else (user.tenant, user.id)


# --- what is asked -----------------------------------------------------------------------------


def read_graph_request(
    asked: Any,
    *,
    headers: Mapping[str, str],
    path_params: Mapping[str, Any],
    user: User | None,
) -> RunContext:
    """What the agent is given. Raises Refusal (400) for what is no request."""
    context = context_of(asked, headers=headers, path_params=path_params, user=user)
    if not isinstance(asked, dict):
        raise Refusal(400, "invalid_request", "The body must be a JSON object.")
    if not isinstance(asked.get("config"), dict | None):
        raise Refusal(400, "invalid_request", "config must be an object.")
    if not all(isinstance(one, dict) for one in context.messages):
        raise Refusal(400, "invalid_request", "messages must be a list of objects.")
    if not context.messages and "resume" not in asked:
        raise Refusal(400, "invalid_request", "One of messages, text and resume is needed.")
    return context


def _recursion_limit(asked: Mapping[str, Any]) -> int | None:
    """It stands in the body, or under `config`; in the query of a GET, as text."""
    config = asked.get("config") or {}
    limit = asked.get("recursion_limit", config.get("recursion_limit"))
    if limit is None:
        return None
    if isinstance(limit, str) and limit.isdecimal():
        limit = int(limit[:9])
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise Refusal(400, "invalid_request", "recursion_limit must be a whole number over 0.")
    return limit
