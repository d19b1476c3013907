"""nginx in front of a server: frames come one by one, and who leaves is noticed.

The agent says its next word only when the client has read the one before. So what is held back
anywhere is waited for until the test's time is over.
"""

from __future__ import annotations

import asyncio
import json
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from support.live import live
from support.nginx import NGINX, nginx
from support.pages import blocks
from support.servers import Connection, get

from streamtrace.core import events as ev
from streamtrace.serve.context import RunContext
from streamtrace.serve.response import Delivery
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.wire import PING
from streamtrace.testing import SocketClient

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx is installed")

WORDS = ["a", "b", "c" * 5_000, "d", "e" * 50_000] * 3
"""Shorter and longer than a buffer of nginx."""
WITHIN_S = 20

DEFAULT = "location / { proxy_pass http://127.0.0.1:8000; }"
[PAGES] = blocks("docs/serving.md", "nginx").values()
UPGRADE = 'map $http_upgrade $connection_upgrade { default upgrade; "" ""; }'
CONFIGS = {
    "default": (DEFAULT, ""),
    "page": (PAGES, UPGRADE),
    "compressed": (DEFAULT, "gzip_types text/event-stream; gzip_proxied any; gzip_min_length 1;"),
}


class Agent:
    """Waits for a word of its client after each of its own."""

    def __init__(self) -> None:
        self.read: asyncio.Queue[None] = asyncio.Queue()
        self.said = asyncio.Event()
        self.ended = asyncio.Event()
        self.reason: str | None = None

    async def __call__(self, run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            for word in WORDS:
                yield ev.TextDelta(text=word, message_id="m")
                self.said.set()
                await self.read.get()
        finally:
            self.reason = run.cancel.reason
            self.ended.set()


def bare(app: Any) -> Any:
    """The app without the header that nginx listens to."""

    async def without(scope: Any, receive: Any, send: Any) -> None:
        async def forward(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [one for one in message["headers"] if one[0] != b"x-accel-buffering"]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, forward)

    return without


async def cut(scope: Any, receive: Any, send: Any) -> None:
    """A stream that the server does not end."""
    headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})


def ready(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ready")


@asynccontextmanager
async def serving(folder: Path, config: str, heartbeat_s: float = 15) -> AsyncIterator[Any]:
    """The URL of an nginx, and the agent behind it."""
    agent = Agent()
    router = AgentRouter(delivery=Delivery(heartbeat_s=heartbeat_s))
    router.stream("/chat", agent, "generic", allow_get=True).websocket("/ws", agent, "generic")
    routes = [*router.routes, Route("/ready", ready), Mount("/cut", cut)]
    app = Starlette(routes=[*routes, Mount("/bare", bare(Starlette(routes=router.routes)))])
    locations, http = CONFIGS[config]
    async with live(app, log_level="critical", http="h11") as url, asyncio.timeout(WITHIN_S):
        with nginx(folder, locations.replace("http://127.0.0.1:8000", url), http) as front:
            yield front, agent


async def words_of(events: AsyncIterator[Any], agent: Agent) -> list[str]:
    """What the agent said, each word confirmed when it is there."""
    words = []
    async for event in events:
        if event.get("type") == "token":
            words.append(event["content"])
            agent.read.put_nowait(None)
        if event.get("type") == "done":
            break
    return words


async def sse_events(answer: httpx.Response) -> AsyncIterator[Any]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


@pytest.mark.parametrize("config", CONFIGS)
async def test_frames_come_one_by_one(config: str, tmp_path: Path) -> None:
    async with serving(tmp_path, config) as (url, agent), httpx.AsyncClient() as client:
        async with client.stream("POST", f"{url}/chat", json={}) as answer:
            assert await words_of(sse_events(answer), agent) == WORDS
        compressed = config == "compressed"
        assert answer.headers.get("content-encoding") == ("gzip" if compressed else None)
        assert "x-accel-buffering" not in answer.headers  # it was for nginx
    assert agent.reason is None


async def test_without_the_header_they_are_held_back(tmp_path: Path) -> None:
    """Which shows that the test above would notice."""

    def got(client: Connection) -> bytes:
        """What is there. nginx has one worker: what came before this request, it has dealt with."""
        assert get(port, "/ready").body == b"ready"
        is_there = select.select([client.socket], [], [], 0)[0]
        return client.socket.recv(100_000) if is_there else b""

    async with serving(tmp_path, "default") as (url, agent):
        port = urlsplit(url).port or 0
        with await asyncio.to_thread(Connection, port, "/bare/chat") as client:
            await agent.said.wait()
            read = await asyncio.to_thread(got, client)  # what comes with the head, is passed on
            agent.said.clear()
            agent.read.put_nowait(None)
            await agent.said.wait()
            assert await asyncio.to_thread(got, client) == b""
            for _ in WORDS:
                agent.read.put_nowait(None)
            while not read.endswith(b"0\r\n\r\n"):
                read += await asyncio.to_thread(client.socket.recv, 100_000)
    assert read.count(b'"token"') == len(WORDS)


@pytest.mark.parametrize("config", ["default", "page"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
async def test_a_client_that_leaves_is_noticed(config: str, reset: bool, tmp_path: Path) -> None:
    async with serving(tmp_path, config) as (url, agent):
        client = await asyncio.to_thread(SocketClient, f"{url}/chat", json={})
        await asyncio.to_thread(client.read_events, 1)
        await agent.said.wait()
        client.hang_up(reset=reset)
        await agent.ended.wait()
    assert agent.reason == "disconnected"


@pytest.mark.parametrize(("config", "complete"), [("default", True), ("page", False)])
async def test_whether_a_cut_is_seen(config: str, complete: bool, tmp_path: Path) -> None:
    """h11 marks no end to a client of HTTP/1.0; httptools does all the same."""
    async with serving(tmp_path, config) as (url, _):
        client = await asyncio.to_thread(SocketClient, f"{url}/cut/", method="GET")
        assert await asyncio.to_thread(client.read_rest) == b"data: 1\n\n"
        client.close()
    assert client.complete == complete


async def test_a_websocket(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "page") as (url, agent),
        websockets.connect(f"{url.replace('http', 'ws')}/ws") as socket,
    ):
        await socket.send("{}")
        messages = (json.loads(text) async for text in socket)
        assert await words_of(messages, agent) == WORDS


async def test_heartbeats_keep_a_silent_stream_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For twice as long as nginx waits for a server that says nothing."""
    impatient = DEFAULT.replace("{", "{ proxy_read_timeout 1s;")
    monkeypatch.setitem(CONFIGS, "impatient", (impatient, ""))
    async with (
        serving(tmp_path, "impatient", 0.2) as (url, agent),
        httpx.AsyncClient() as client,
        client.stream("POST", f"{url}/chat", json={}) as answer,
    ):
        pings = b""
        async for piece in answer.aiter_raw():
            pings += piece
            if pings.count(PING) == 10:
                for _ in WORDS:
                    agent.read.put_nowait(None)
    assert agent.reason is None
    assert pings.count(b'"done"') == 1
