"""Everything on one router: agents at their paths, one registry of runs, one drain.

app = AgentRouter(auth=auth).stream("/chat", agent).websocket("/ws", agent).app()
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute

from streamtrace.dialects.base import Dialect
from streamtrace.serve.agentflow import GRANULARITIES, Granularities, GraphStop, GraphStream
from streamtrace.serve.asked import context_of
from streamtrace.serve.auth import Auth
from streamtrace.serve.client_js import ClientJs
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.drain import draining
from streamtrace.serve.endpoint import Door, Endpoint, Rate, Slots, StopEndpoint
from streamtrace.serve.log.base import EventLog
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.log.runs import MAX_FOLLOWERS, LoggedRuns
from streamtrace.serve.openai_api import ChatCompletions, Models
from streamtrace.serve.response import Delivery
from streamtrace.serve.resume import (
    RunEvents,
    RunsEndpoint,
    RunStatus,
    StopRun,
    ThreadEvents,
    logged_settings,
)
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Runs
from streamtrace.serve.websocket import WebSocketEndpoint

if TYPE_CHECKING:
    from a2a.server.tasks import TaskStore
    from a2a.types.a2a_pb2 import AgentCard

AGUI_PATH = "/agui/v1/runs"


class AgentRouter:
    """Collects routes. `routes` go into an app of yours; `app()` makes one, and drains it.

    What is given here holds for all routes that do not say otherwise.
    """

    def __init__(
        self,
        *,
        auth: Auth | None = None,
        rate: Rate | None = None,
        concurrency: Slots | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        runs: Runs | None = None,
    ) -> None:
        self.runs = runs or Runs()
        self.door = Door(auth=auth, rate=rate, concurrency=concurrency)
        self.settings = settings
        self.delivery = delivery
        self.routes: list[BaseRoute] = []
        self._closing: list[Callable[[], Awaitable[None]]] = []

    def stream(
        self,
        path: str,
        agent: Agent,
        dialects: str | Dialect | Sequence[str | Dialect] = "ag-ui",
        *,
        settings: Settings | None = None,
        delivery: Delivery | None = None,
        allow_get: bool = False,
        read: Callable[..., RunContext] = context_of,
    ) -> Self:
        """`POST path` streams a run; `POST path/{run_id}/stop` ends it."""
        endpoint = Endpoint(
            agent,
            dialects,
            runs=self.runs,
            settings=settings or self.settings,
            delivery=delivery or self.delivery,
            door=self.door,
            allow_get=allow_get,
            read=read,
        )
        self.routes.append(Route(path, endpoint))
        self.routes.append(Route(f"{path}/{{run_id}}/stop", StopEndpoint(self.runs, self.door)))
        return self

    def resumable(
        self,
        prefix: str,
        agent: Agent,
        dialects: str | Dialect | Sequence[str | Dialect] = "ag-ui",
        *,
        log: EventLog | None = None,
        settings: Settings | None = None,
        delivery: Delivery | None = None,
        max_followers: int = MAX_FOLLOWERS,
        read: Callable[..., RunContext] = context_of,
    ) -> Self:
        """Runs that outlive their connection, under `prefix`: see docs/resume.md.

        `log`: where they are kept; by default in memory. It is closed behind a drain.
        `max_followers`: of one run, in this process. Without `settings` of their own they go on
        when their client leaves.
        """
        logged = LoggedRuns(
            self.runs, MemoryLog() if log is None else log, max_followers=max_followers
        )
        delivery = delivery or self.delivery
        start = RunsEndpoint(
            agent,
            dialects,
            logged=logged,
            settings=logged_settings(settings, self.settings),
            delivery=delivery,
            door=self.door,
            read=read,
        )
        shared = (logged, start.dialects, self.door, delivery)
        run = f"{prefix}/runs/{{run_id}}"
        self.routes += [
            Route(f"{prefix}/runs", start),
            Route(f"{run}/events", RunEvents(*shared)),
            Route(f"{run}/stop", StopRun(*shared)),
            Route(run, RunStatus(*shared)),
            Route(f"{prefix}/threads/{{thread_id}}/events", ThreadEvents(*shared)),
        ]
        self._closing.append(logged.aclose)
        return self

    def agui(
        self,
        agent: Agent,
        path: str = AGUI_PATH,
        *,
        settings: Settings | None = None,
        delivery: Delivery | None = None,
    ) -> Self:
        """AG-UI: `stream`, for those who send a `RunAgentInput`. Needs the extra `agui`."""
        from streamtrace.serve.agui import read_run_input  # noqa: PLC0415  an extra

        return self.stream(
            path, agent, "ag-ui", settings=settings, delivery=delivery, read=read_run_input
        )

    def a2a(
        self,
        agent: Agent,
        card: AgentCard,
        path: str = "/jsonrpc",
        *,
        settings: Settings | None = None,
        tell_tools: bool = False,
        task_store: TaskStore | None = None,
    ) -> Self:
        """A2A over JSON-RPC, 1.0 and 0.3, and the agent's card. Needs the extra `a2a`.

        `tell_tools`: clients see the tool calls. `task_store`: the SDK's; by default the recent
        tasks are kept in memory.
        """
        from streamtrace.serve.a2a import A2AExecutor, A2ARoutes  # noqa: PLC0415  an extra

        executor = A2AExecutor(
            agent, runs=self.runs, settings=settings or self.settings, tell_tools=tell_tools
        )
        served = A2ARoutes(executor, card, path, door=self.door, task_store=task_store)
        self.routes += served.routes
        self._closing.append(served.close)
        return self

    def openai(
        self,
        agents: Mapping[str, Agent],
        prefix: str = "/v1",
        *,
        settings: Settings | None = None,
        delivery: Delivery | None = None,
    ) -> Self:
        """OpenAI's chat completions; each agent is a model of the name that it has here."""
        completions = ChatCompletions(
            agents,
            runs=self.runs,
            settings=settings or self.settings,
            delivery=delivery or self.delivery,
            door=self.door,
        )
        models = Models(agents, self.door)
        self.routes.append(Route(f"{prefix}/chat/completions", completions))
        self.routes.append(Route(f"{prefix}/models", models))
        self.routes.append(Route(f"{prefix}/models/{{model:path}}", models))
        return self

    def agentflow(
        self,
        agent: Agent,
        prefix: str = "/v1/graph",
        *,
        granularities: Granularities = GRANULARITIES,
        settings: Settings | None = None,
        delivery: Delivery | None = None,
        allow_get: bool = False,
    ) -> Self:
        """AgentFlow's API: `POST prefix/stream`, and `POST prefix/stop` for a thread."""
        stream = GraphStream(
            agent,
            granularities=granularities,
            runs=self.runs,
            settings=settings or self.settings,
            delivery=delivery or self.delivery,
            door=self.door,
            allow_get=allow_get,
        )
        self.routes.append(Route(f"{prefix}/stream", stream))
        self.routes.append(Route(f"{prefix}/stop", GraphStop(stream, self.door)))
        return self

    def websocket(
        self,
        path: str,
        agent: Agent,
        dialect: str | Dialect = "ag-ui",
        *,
        settings: Settings | None = None,
        delivery: Delivery | None = None,
    ) -> Self:
        """Runs over a WebSocket at `path`."""
        endpoint = WebSocketEndpoint(
            agent,
            dialect,
            runs=self.runs,
            settings=settings or self.settings,
            delivery=delivery or self.delivery,
            door=self.door,
        )
        self.routes.append(WebSocketRoute(path, endpoint))
        return self

    def client_js(self, path: str = "/streamtrace.js") -> Self:
        """The browser's client of `resumable` runs, an ES module at `path`, for everybody."""
        self.routes.append(Route(path, ClientJs()))
        return self

    async def drain(self, timeout_s: float | None = None) -> None:
        """Start no more runs, let those under way finish until then, and end the rest."""
        await self.runs.drain(timeout_s)
        for close in self._closing:
            await close()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Drain when the server is told to stop, and at shutdown at the latest."""
        async with draining(self.runs):
            yield
        await self.drain()

    def app(self, **options: Any) -> Starlette:
        """An app of these routes. `options` are Starlette's."""
        return Starlette(routes=self.routes, lifespan=self.lifespan, **options)
