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
    from streamtrace.serve.answers import refused
    from streamtrace.serve.asked import context_of
    from streamtrace.serve.auth import ApiKeyAuth, Auth, AuthRequest, BearerAuth, User, any_of
    from streamtrace.serve.broadcast import Broadcast, Follower
    from streamtrace.serve.concurrency import Concurrency
    from streamtrace.serve.context import Agent, CancelToken, RunContext
    from streamtrace.serve.drain import draining
    from streamtrace.serve.driver import AgUiStreamDriver
    from streamtrace.serve.endpoint import Door, Endpoint, StopEndpoint, begin
    from streamtrace.serve.enrich import CitationEnricher, Enrich, Enricher
    from streamtrace.serve.filters import (
        Batches,
        Granularity,
        KindFilter,
        WholeMessages,
        filters_for,
    )
    from streamtrace.serve.final_answer import FinalAnswer
    from streamtrace.serve.guard_json import JsonCallGuard
    from streamtrace.serve.guard_react import ReActGuard
    from streamtrace.serve.guard_tags import TagGuard
    from streamtrace.serve.guards import Guard, Mark
    from streamtrace.serve.jwt import JwtAuth
    from streamtrace.serve.limits import RateLimit
    from streamtrace.serve.log.base import EventLog, LogBounds
    from streamtrace.serve.log.memory import MemoryLog
    from streamtrace.serve.log.redis import RedisLog
    from streamtrace.serve.log.sqlite import SqliteLog
    from streamtrace.serve.redis_stores import RedisLeases, RedisTicketStore
    from streamtrace.serve.response import Delivery, EventStream
    from streamtrace.serve.router import AgentRouter
    from streamtrace.serve.run import Limits, PublicError, Run, Settings
    from streamtrace.serve.runs import Draining, Runs
    from streamtrace.serve.sockets import listening_socket, tune_listener
    from streamtrace.serve.stages import Stage
    from streamtrace.serve.tickets import TicketAuth, Tickets, ticket_route
    from streamtrace.serve.websocket import WebSocketEndpoint

_MODULES = {
    "core.errors": "Refusal",
    "serve.a2a": "A2AExecutor",
    "serve.agents": "per_request shared",
    "serve.agui": "AgUiApp",
    "serve.answers": "refused",
    "serve.asked": "context_of",
    "serve.auth": "ApiKeyAuth Auth AuthRequest BearerAuth User any_of",
    "serve.broadcast": "Broadcast Follower",
    "serve.concurrency": "Concurrency",
    "serve.context": "Agent CancelToken RunContext",
    "serve.drain": "draining",
    "serve.driver": "AgUiStreamDriver",
    "serve.endpoint": "Door Endpoint StopEndpoint begin",
    "serve.enrich": "CitationEnricher Enrich Enricher",
    "serve.filters": "Batches Granularity KindFilter WholeMessages filters_for",
    "serve.final_answer": "FinalAnswer",
    "serve.guard_json": "JsonCallGuard",
    "serve.guard_react": "ReActGuard",
    "serve.guard_tags": "TagGuard",
    "serve.guards": "Guard Mark",
    "serve.jwt": "JwtAuth",
    "serve.limits": "RateLimit",
    "serve.log.base": "EventLog LogBounds",
    "serve.log.memory": "MemoryLog",
    "serve.log.redis": "RedisLog",
    "serve.log.sqlite": "SqliteLog",
    "serve.redis_stores": "RedisLeases RedisTicketStore",
    "serve.response": "Delivery EventStream",
    "serve.router": "AgentRouter",
    "serve.run": "Limits PublicError Run Settings",
    "serve.runs": "Draining Runs",
    "serve.sockets": "listening_socket tune_listener",
    "serve.stages": "Stage",
    "serve.tickets": "TicketAuth Tickets ticket_route",
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
    "Batches",
    "BearerAuth",
    "Broadcast",
    "CancelToken",
    "CitationEnricher",
    "Concurrency",
    "Delivery",
    "Door",
    "Draining",
    "Endpoint",
    "Enrich",
    "Enricher",
    "EventLog",
    "EventStream",
    "FinalAnswer",
    "Follower",
    "Granularity",
    "Guard",
    "JsonCallGuard",
    "JwtAuth",
    "KindFilter",
    "Limits",
    "LogBounds",
    "Mark",
    "MemoryLog",
    "PublicError",
    "RateLimit",
    "ReActGuard",
    "RedisLeases",
    "RedisLog",
    "RedisTicketStore",
    "Refusal",
    "Run",
    "RunContext",
    "Runs",
    "Settings",
    "SqliteLog",
    "Stage",
    "StopEndpoint",
    "TagGuard",
    "TicketAuth",
    "Tickets",
    "User",
    "WebSocketEndpoint",
    "WholeMessages",
    "any_of",
    "begin",
    "context_of",
    "draining",
    "filters_for",
    "listening_socket",
    "per_request",
    "refused",
    "shared",
    "ticket_route",
    "tune_listener",
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
