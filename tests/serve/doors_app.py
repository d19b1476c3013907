"""Every door of the toolkit, with one lock. `/started` counts the runs that began."""

from __future__ import annotations

from collections.abc import AsyncIterator

from a2a.types import a2a_pb2 as pb
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from streamtrace.core import events as ev
from streamtrace.serve.auth import ApiKeyAuth, User, any_of
from streamtrace.serve.context import RunContext
from streamtrace.serve.jwt import JwtAuth
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.tickets import TicketAuth, Tickets, ticket_route

KEY = "st-0123456789abcdef"
SECRET = "0123456789abcdef0123456789abcdef"
ISSUER, AUDIENCE = "https://login.example", "chat"

started: list[str] = []


async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
    started.append(run.run_id)
    yield ev.TextDelta(text="hello", message_id="m")


def count(_: Request) -> JSONResponse:
    return JSONResponse(len(started))


def ready(_: Request) -> JSONResponse:
    return JSONResponse("ready")


card = pb.AgentCard(
    name="agent",
    description="d",
    version="1",
    capabilities=pb.AgentCapabilities(streaming=True),
    supported_interfaces=[pb.AgentInterface(url="http://test/jsonrpc", protocol_binding="JSONRPC")],
)
keys = ApiKeyAuth({KEY: User("alice")})
tokens = JwtAuth(SECRET, algorithms=["HS256"], audience=AUDIENCE, issuer=ISSUER)
tickets = Tickets()
router = (
    AgentRouter(auth=any_of(TicketAuth(tickets), tokens, keys))
    .stream("/chat", agent, ["ag-ui", "vercel-ui"], allow_get=True)
    .stream("/threads/{thread_id}", agent)
    .agui(agent)
    .agentflow(agent)
    .openai({"agent": agent})
    .a2a(agent, card)
    .websocket("/ws", agent)
)
app = Starlette(
    routes=[
        *router.routes,
        Route("/tickets", ticket_route(keys, tickets)),
        Route("/started", count),
        Route("/ready", ready),
    ],
    lifespan=router.lifespan,
)
