"""Limits at the doors of endpoints, and what a request may ask of its text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from support.doors import eventually
from support.live import live

from streamtrace.core.events import Event, MessageFinished, MessageStarted, TextDelta
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.serve.concurrency import Concurrency
from streamtrace.serve.limits import RateLimit
from streamtrace.testing import ask

ENDS = ("RUN_FINISHED", "RUN_ERROR", "error")


async def agent(run: RunContext) -> AsyncIterator[Event]:
    yield MessageStarted(message_id="m")
    for word in ("One", " two", " three."):
        yield TextDelta(text=word, message_id="m")
    yield MessageFinished(message_id="m")


async def test_a_user_who_asks_too_often_is_told_when_to_ask_again():
    app = AgentRouter(rate=RateLimit("2/minute")).stream("/chat", agent).app()
    answers = [await ask(app, "/chat", json={}) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert 0 < int(answers[2].headers["retry-after"]) <= 60


async def test_each_run_over_a_websocket_counts_the_first_at_the_handshake():
    app = AgentRouter(rate=RateLimit("3/hour")).websocket("/ws", agent).app()
    async with live(app) as url:
        address = f"{url.replace('http', 'ws')}/ws"
        async with websockets.connect(address) as socket:

            async def run() -> Any:
                await socket.send("{}")
                while (told := json.loads(await socket.recv()))["type"] not in ENDS:
                    pass
                return told

            assert [(await run())["type"] for _ in range(3)] == ["RUN_FINISHED"] * 3
            refused = await run()
            assert (refused["type"], refused["error"]["type"]) == ("error", "rate_limited")
        with pytest.raises(websockets.InvalidStatus) as closed:
            await websockets.connect(address)
    assert closed.value.response.status_code == 429


async def test_a_connection_has_one_slot_whatever_its_runs():
    app = AgentRouter(concurrency=Concurrency(max_streams=1)).websocket("/ws", agent).app()
    async with live(app) as url:
        address = f"{url.replace('http', 'ws')}/ws"
        async with websockets.connect(address) as socket:
            await socket.send("{}")
            while json.loads(await socket.recv())["type"] not in ENDS:
                pass
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(address)
        await eventually(lambda: connects(address))
    assert refused.value.response.status_code == 429


async def connects(address: str) -> bool:
    try:
        async with websockets.connect(address):
            return True
    except websockets.InvalidStatus:
        return False


async def test_a_slot_is_free_again_when_its_stream_has_ended():
    began, go_on = asyncio.Event(), asyncio.Event()

    async def waits(run: RunContext) -> AsyncIterator[Event]:
        began.set()
        await go_on.wait()
        yield TextDelta(text="done")

    app = AgentRouter(concurrency=Concurrency(max_streams=1)).stream("/chat", waits).app()
    first = asyncio.create_task(ask(app, "/chat", json={}))
    await began.wait()
    assert (await ask(app, "/chat", json={})).status == 429
    go_on.set()
    assert (await first).complete
    assert (await ask(app, "/chat", json={})).status == 200


@pytest.mark.parametrize(("granularity", "pieces"), [("tokens", 3), ("messages", 1)])
async def test_a_request_says_how_finely_text_is_cut(granularity, pieces):
    app = AgentRouter().stream("/chat", agent).app()
    answer = await ask(app, f"/chat?granularity={granularity}", json={})
    assert answer.body.count(b"TEXT_MESSAGE_CONTENT") == pieces
    assert b"three." in answer.body


async def test_an_unknown_granularity_is_refused():
    app = AgentRouter().stream("/chat", agent).app()
    answer = await ask(app, "/chat?granularity=letters", json={})
    assert (answer.status, b"unknown_granularity" in answer.body) == (400, True)
