"""Limits at the doors of endpoints, and what a request may ask of its text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamtrace.core.events import Event, MessageFinished, MessageStarted, TextDelta
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.serve.concurrency import Concurrency
from streamtrace.serve.limits import RateLimit
from streamtrace.testing import ask


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
