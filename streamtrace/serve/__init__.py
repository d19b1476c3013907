"""Serve agents: events in, correct and backpressured streams out (the extra `serve`).

    async def agent(run: RunContext) -> AsyncIterator[Event]:
        yield TextDelta(text="Hello")

    app = AgentRouter().stream("/chat", agent).app()

Names are imported when they are first used, so that each needs no more than its own extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamtrace.core.errors import MissingExtra

if TYPE_CHECKING:
    from streamtrace.core.errors import Refusal
    from streamtrace.serve.a2a import A2AExecutor
    from streamtrace.serve.agents import per_request, shared
    from streamtrace.serve.agui import AgUiApp
    from streamtrace.serve.auth import ApiKeyAuth, Auth, AuthRequest, BearerAuth, User, any_of
    from streamtrace.serve.context import Agent, CancelToken, RunContext
    from streamtrace.serve.driver import AgUiStreamDriver
    from streamtrace.serve.endpoint import Door, Endpoint, StopEndpoint
    from streamtrace.serve.jwt import JwtAuth
    from streamtrace.serve.log.base import EventLog, LogBounds
    from streamtrace.serve.log.memory import MemoryLog
    from streamtrace.serve.log.redis import RedisLog
    from streamtrace.serve.log.sqlite import SqliteLog
    from streamtrace.serve.response import Delivery, EventStream
    from streamtrace.serve.router import AgentRouter
    from streamtrace.serve.run import Limits, PublicError, Run, Settings
    from streamtrace.serve.runs import Draining, Runs
    from streamtrace.serve.stages import Stage
    from streamtrace.serve.websocket import WebSocketEndpoint

_MODULES = {
    "core.errors": "Refusal",
    "serve.a2a": "A2AExecutor",
    "serve.agents": "per_request shared",
    "serve.agui": "AgUiApp",
    "serve.auth": "ApiKeyAuth Auth AuthRequest BearerAuth User any_of",
    "serve.context": "Agent CancelToken RunContext",
    "serve.driver": "AgUiStreamDriver",
    "serve.endpoint": "Door Endpoint StopEndpoint",
    "serve.jwt": "JwtAuth",
    "serve.log.base": "EventLog LogBounds",
    "serve.log.memory": "MemoryLog",
    "serve.log.redis": "RedisLog",
    "serve.log.sqlite": "SqliteLog",
    "serve.response": "Delivery EventStream",
    "serve.router": "AgentRouter",
    "serve.run": "Limits PublicError Run Settings",
    "serve.runs": "Draining Runs",
    "serve.stages": "Stage",
    "serve.websocket": "WebSocketEndpoint",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "A2AExecutor",
    "AgUiApp",
    "AgUiStreamDriver",
    "Agent",
    "AgentRouter",
    "ApiKeyAuth",
    "Auth",
    "AuthRequest",
    "BearerAuth",
    "CancelToken",
    "Delivery",
    "Door",
    "Draining",
    "Endpoint",
    "EventLog",
    "EventStream",
    "JwtAuth",
    "Limits",
    "LogBounds",
    "MemoryLog",
    "PublicError",
    "RedisLog",
    "Refusal",
    "Run",
    "RunContext",
    "Runs",
    "Settings",
    "SqliteLog",
    "Stage",
    "StopEndpoint",
    "User",
    "WebSocketEndpoint",
    "any_of",
    "per_request",
    "shared",
]


def __getattr__(name: str) -> Any:
    """The name, from its module. Raises MissingExtra where that needs a package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"streamtrace.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "starlette":
            raise MissingExtra("starlette", "serve") from None
        raise
