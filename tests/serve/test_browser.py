"""A chat page in Chromium: what its user sees, with both ways to read that a browser has."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from support.clients import run_client
from support.live import live
from support.talker import Talker

from streamtrace.serve.auth import ApiKeyAuth, User
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import SORRY

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PAGE = Path(__file__).parents[1] / "support" / "chat.html"
KEY = "st-0123456789abcdef"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def page(request: Any) -> FileResponse:
    return FileResponse(PAGE)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, Talker]]:
    talker = Talker()
    routes = AgentRouter().agentflow(talker, allow_get=True).routes
    async with live(Starlette(routes=[Route("/", page), *routes])) as url:
        yield url, talker


async def use(url: str, *steps: dict[str, Any]) -> list[Any]:
    assert CHROMIUM is not None
    seen: list[Any] = await run_client("browser.mjs", CHROMIUM, url, json.dumps(steps))
    return seen


@pytest.mark.parametrize("way", ["fetch", "listen"])
async def test_text_tools_and_errors(way: str) -> None:
    async with serving() as (url, talker):
        hello, weather, fail, crash = await use(
            url,
            {"say": "hello", "way": way, "until": "done"},
            {"say": "weather", "way": way, "until": "done"},
            {"say": "fail", "way": way, "until": "failed"},
            {"say": "crash", "way": way, "until": "failed"},
        )
    assert (hello["answer"], hello["tools"], hello["error"]) == ("Hello", [], "")
    assert weather["answer"] == "Let me look. It is sunny."
    assert weather["tools"] == ["get_weather…", "get_weather: sunny"]
    assert (fail["answer"], fail["error"]) == ("Hel", "Your file is too large.")
    assert (crash["answer"], crash["error"]) == ("Hel", SORRY)
    assert len(talker.runs) == 4  # an EventSource that was closed does not ask again


@pytest.mark.parametrize(
    ("way", "until", "reason"),
    [("fetch", "AbortError", "disconnected"), ("listen", "done", "stopped")],
)
async def test_stop(way: str, until: str, reason: str) -> None:
    """The text is there while the agent still works, and then the agent stops."""
    async with serving() as (url, talker):
        [stopped] = await use(url, {"say": "wait", "way": way, "stopAtText": "Hel", "until": until})
        await asyncio.wait_for(talker.cleaned.wait(), 5)
    assert stopped["answer"] == "Hel"
    assert talker.runs[0].cancel.reason == reason


async def test_an_event_source_that_was_cut_asks_again():
    """By itself; and without a log of runs that is a new run."""
    talker = Talker()
    app = AgentRouter().agentflow(talker, allow_get=True).app()
    cuts = iter([True])

    async def cutting(scope: Any, receive: Any, send: Any) -> None:
        is_stream = scope["type"] == "http" and scope["path"].endswith("/stream")
        is_cut = is_stream and next(cuts, False)

        async def forward(message: Any) -> None:
            await send(message)
            if is_cut and b"Hel" in message.get("body", b""):
                raise OSError("the connection is gone")

        await app(scope, receive, forward)

    routes = [Route("/", page), Mount("/", cutting)]
    async with live(Starlette(routes=routes), log_level="critical") as url:
        step = {"say": "wait", "way": "listen", "stopAtText": "HelHel", "until": "done"}
        await use(url, step)
    assert [run.cancel.reason for run in talker.runs] == ["disconnected", "stopped"]


async def test_another_origin_with_a_key():
    """The browser asks first whether it may send such headers."""
    talker = Talker()
    router = AgentRouter(auth=ApiKeyAuth({KEY: User("alice")})).agentflow(talker)
    async with live(Starlette(routes=[Route("/", page)])) as home:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=[home],
            allow_methods=["POST"],
            allow_headers=["authorization", "content-type"],
        )
        step = {"say": "hello", "way": "fetch"}
        async with live(router.app(middleware=[cors])) as api:
            [let_in] = await use(f"{home}/?api={quote(api)}&key={KEY}", {**step, "until": "done"})
            [refused] = await use(
                f"{home}/?api={quote(api)}&key=st-aaaaaaaaaaaaaaaa", {**step, "until": "failed"}
            )
    assert let_in["answer"] == "Hello"
    assert refused["error"] == "The credentials are not valid."
    assert [run.user for run in talker.runs] == [User("alice")]
