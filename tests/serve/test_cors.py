"""Pages of another origin: what docs/serving/cors.md says, with Starlette's middleware in front."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from serve.test_browser import CHROMIUM
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
from support.clients import run_client
from support.live import live
from support.pages import execute, python_blocks
from support.talker import SECRET, Talker

from streamtrace import StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.serve import (
    AgentRouter,
    AuthRequest,
    Concurrency,
    RateLimit,
    RunContext,
    Settings,
    User,
)
from streamtrace.testing import RecordingSink

PAGE = "docs/serving/cors.md"
HOME = "https://app.example"


def by_cookie(request: AuthRequest) -> User | None:
    return User("alice") if "session=alice" in request.headers.get("cookie", "") else None


def cors(origin: str, router: AgentRouter) -> Any:
    """The app of the page, for this origin."""
    [block] = python_blocks(PAGE).values()
    return execute(PAGE, block.replace(HOME, origin), {"router": router})["app"]


@asynccontextmanager
async def serving(agent: Any, **options: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, str]]:
    """A client of the origin `HOME`."""
    router = AgentRouter(**options).stream("/chat", agent, "cognis")
    async with (
        live(StreamTraceMiddleware(cors(HOME, router), sinks=[RecordingSink()])) as url,
        httpx2.AsyncClient(base_url=url, headers={"origin": HOME}, timeout=20) as client,
    ):
        yield client, url


def exposed(answer: httpx2.Response) -> set[str]:
    """The headers that a page may read, where it may read anything."""
    assert answer.headers["access-control-allow-origin"] == HOME
    names = answer.headers["access-control-expose-headers"]
    return {name.strip().lower() for name in names.split(",")}


async def test_a_preflight_is_answered_and_starts_nothing() -> None:
    talker = Talker()
    async with serving(talker, auth=by_cookie) as (client, _):
        asks = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-thread-id",
        }
        allowed = await client.options("/chat", headers=asks)
        other = await client.options("/chat", headers={**asks, "origin": "https://evil.example"})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == HOME
    assert "x-thread-id" in allowed.headers["access-control-allow-headers"].lower()
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers
    assert talker.runs == []


async def test_nothing_is_held_back() -> None:
    """The agent says the next word when the client has the last: what buffers never ends."""
    arrived = asyncio.Queue[str]()

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        for word in ("one", "two", "three"):
            yield ev.TextDelta(text=word)
            assert await arrived.get() == word

    async with (
        serving(agent) as (client, _),
        client.stream("POST", "/chat", json={"message": "hi"}) as answer,
    ):
        assert {"x-run-id", "x-thread-id"} <= exposed(answer)
        read: list[str] = []
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                read.append(line.removeprefix("data: "))
                arrived.put_nowait(read[-1])
    assert read[:3] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("options", "asked", "status", "code"),
    [
        ({"auth": by_cookie}, {"json": {}}, 401, "unauthenticated"),
        ({}, {"content": b"{"}, 400, "malformed_json"),
        ({}, {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, None),
        ({"rate": RateLimit("1/hour")}, {"json": {"message": "hello"}}, 429, None),
        ({"concurrency": Concurrency(1)}, {"json": {"message": "hello"}}, 429, None),
    ],
    ids=["401", "400", "415", "429-rate", "429-streams"],
)
async def test_a_refusal_can_be_read_by_the_page(
    options: dict[str, Any], asked: dict[str, Any], status: int, code: str | None
) -> None:
    async with serving(Talker(), **options) as (client, _):
        if status == 429:
            wait = client.stream("POST", "/chat", json={"message": "wait"})
            async with wait as first:
                assert first.status_code == 200
                answer = await client.post("/chat", **asked)
        else:
            headers = {"content-type": "application/json", **asked.pop("headers", {})}
            answer = await client.post("/chat", headers=headers, **asked)
    assert answer.status_code == status
    assert "retry-after" in exposed(answer)
    assert code in (None, answer.json()["error"]["type"])
    assert ("retry-after" in answer.headers) == (status == 429)


async def test_an_agent_that_fails_does_so_in_the_stream() -> None:
    async with serving(Talker()) as (client, _):
        answer = await client.post("/chat", json={"message": "crash"})
    assert (answer.status_code, exposed(answer) >= {"x-run-id"}) == (200, True)
    assert "event: error" in answer.text
    assert SECRET not in answer.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
async def test_a_page_of_another_origin_with_its_cookies() -> None:
    """By fetch and by `EventSource`: with credentials only where it asks for that."""
    assert CHROMIUM is not None
    talker = Talker()
    home_page = Starlette(routes=[Route("/", lambda _: HTMLResponse("<!doctype html>"))])
    router = AgentRouter(auth=by_cookie, settings=Settings())
    router.stream("/chat", talker, "cognis", allow_get=True)
    async with live(home_page) as home, live(cors(home, router)) as api:
        seen = await run_client("cors.mjs", CHROMIUM, home, api)
    assert seen["fetched"][:2] == [200, "t-1"]
    assert "event: done" in seen["fetched"][2]
    assert seen["run"] == 36
    assert seen["refused"] == [401, "unauthenticated"]
    assert seen["listened"] == ["Hello", "failed"]
    assert [run.user for run in talker.runs] == [User("alice"), User("alice")]
