"""The page of `examples/resumable_chat.html` in Chromium, on a network that is cut.

The agent's words are numbered, and said when the test lets it: whatever is shown twice, out of
order or not at all is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse
from starlette.routing import Route
from support.browser import CHROMIUM, Page, browser
from support.live import live
from support.proxy import proxied

from streamtrace.client import RunClient
from streamtrace.core import events as ev
from streamtrace.serve import AgentRouter, ApiKeyAuth, RunContext, User
from streamtrace.serve.log.base import LogBounds
from streamtrace.serve.log.memory import MemoryLog

PAGE = Path(__file__).parents[2] / "examples" / "resumable_chat.html"
KEY = "st-0123456789abcdef"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


class Teller:
    """An agent that says numbered words, as many as it may by now."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.runs: list[RunContext] = []
        self.said = 0
        self.ended = asyncio.Event()
        self._allowed = 0
        self._more = asyncio.Condition()

    async def __call__(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        self.runs.append(run)
        try:
            for number in range(self.words):
                async with self._more:
                    await self._more.wait_for(lambda: self._allowed > number)  # noqa: B023
                yield ev.TextDelta(text=f"{number} ", message_id=run.message_id)
                self.said = number + 1
                async with self._more:
                    self._more.notify_all()
        finally:
            self.ended.set()

    async def say(self, words: int) -> None:
        """Say up to so many in all, and return when they were taken."""
        async with self._more:
            self._allowed = words
            self._more.notify_all()
            async with asyncio.timeout(10):
                await self._more.wait_for(lambda: self.said == min(words, self.words))


def shown(first: int, last: int) -> str:
    return "".join(f"{number} " for number in range(first, last))


async def answer_is(page: Page, text: str) -> None:
    """Wait until the page shows exactly this answer."""
    await page.until(f"document.querySelector('.agent')?.textContent === {json.dumps(text)}")


async def state_is(page: Page, state: str) -> None:
    await page.until(f"document.querySelector('#state').dataset.state === '{state}'")


async def asked(page: Page) -> None:
    await page.type("#word", "Tell me")
    await page.press("#send")


@contextlib.asynccontextmanager
async def serving(words: int, bounds: LogBounds | None = None) -> AsyncIterator[tuple[str, Teller]]:
    teller = Teller(words)

    async def page(request: Any) -> FileResponse:
        return FileResponse(PAGE)

    router = AgentRouter().resumable("/agents", teller, log=MemoryLog(bounds)).client_js()
    routes = [Route("/", page), *router.routes]
    async with live(Starlette(routes=routes, lifespan=router.lifespan)) as url:
        yield url, teller


@pytest.mark.parametrize("is_dropped", [True, False])
async def test_every_word_is_shown_once_when_the_network_goes_and_comes_back(is_dropped: bool):
    """The agent goes on meanwhile. Connections are dropped with the network, or hang; the page
    resumes at once when the browser is online again."""
    async with (
        serving(30) as (server, teller),
        proxied(server) as (network, url),
        browser() as chromium,
    ):
        page = await chromium.open(url)
        await asked(page)
        await teller.say(10)
        await answer_is(page, shown(0, 10))
        await chromium.offline(True)
        if is_dropped:
            network.cut()
            await state_is(page, "waiting")
            await teller.say(20)
            assert await page.texts(".agent") == [shown(0, 10)]
        else:
            network.hold()
            await teller.say(20)
        before = network.connections
        await chromium.offline(False)
        await answer_is(page, shown(0, 20))
        assert network.connections > before
        await teller.say(30)
        await state_is(page, "done")
        assert await page.texts(".agent") == [shown(0, 30)]
        assert await page.texts(".note") == []
    assert len(teller.runs) == 1


LISTEN = """
(() => {
  window.heard = [];
  window.source = new EventSource("/agents/runs/%s/events");
  source.onmessage = ({ lastEventId, data }) => heard.push([Number(lastEventId), data]);
})()
"""


async def test_two_tabs_and_an_event_source_see_the_same_through_cut_connections():
    """All connections are dropped twice. What a browser's own EventSource makes of it is the
    oracle: it resumes by the same ids, and the 204 at the end closes it."""
    async with (
        serving(60) as (server, teller),
        proxied(server) as (network, url),
        browser() as chromium,
    ):
        first = await chromium.open(url)
        await asked(first)
        await teller.say(10)
        await answer_is(first, shown(0, 10))
        second = await chromium.open(await first.url())
        await answer_is(second, shown(0, 10))
        run_id = teller.runs[0].run_id
        await second.evaluate(LISTEN % run_id)
        await second.until("heard.length >= 12")
        for words in (25, 40):
            assert network.cut() == 3
            await teller.say(words)
            await answer_is(first, shown(0, words))
            await answer_is(second, shown(0, words))
            await second.until(f"heard.length === {words + 2}")
        await teller.say(60)
        for page in (first, second):
            await state_is(page, "done")
            assert await page.texts(".agent") == [shown(0, 60)]
            assert await page.texts(".note") == []
        await second.until("source.readyState === EventSource.CLOSED")
        heard = await second.evaluate("heard")
        async with RunClient(f"{server}/agents") as client, client.follow(run_id) as run:
            read = [[event.id, event.data] async for event in run]
    assert heard == read
    assert [number for number, _ in heard] == list(range(1, len(heard) + 1))


async def test_a_second_tab_follows_live_and_stops_the_run_for_both():
    async with serving(30) as (url, teller), browser() as chromium:
        first = await chromium.open(url)
        await asked(first)
        await teller.say(5)
        await answer_is(first, shown(0, 5))
        second = await chromium.open(await first.url())
        await answer_is(second, shown(0, 5))
        await teller.say(9)
        await answer_is(second, shown(0, 9))
        await second.press("#stop")
        for page in (first, second):
            await state_is(page, "done")
            assert await page.texts(".agent") == [shown(0, 9)]
        await asyncio.wait_for(teller.ended.wait(), 10)
    assert teller.runs[0].cancel.reason == "stopped"


async def test_what_the_log_no_longer_has_is_shown_as_missing():
    """More is said while the network is off than the log and the memory of the run hold."""
    words = 3000
    async with (
        serving(words, LogBounds(max_events=50)) as (server, teller),
        proxied(server) as (network, url),
        browser() as chromium,
    ):
        page = await chromium.open(url)
        await asked(page)
        await teller.say(10)
        await answer_is(page, shown(0, 10))
        await chromium.offline(True)
        network.cut()
        await state_is(page, "waiting")
        await teller.say(words)
        await asyncio.wait_for(teller.ended.wait(), 10)
        await chromium.offline(False)
        await state_is(page, "done")
        [answer] = await page.texts(".agent")
        [note] = await page.texts(".note")
    missed = int(note.removesuffix(" events are missing here"))
    assert missed > 0
    assert answer == shown(0, 10) + shown(10 + missed, words)


ELSEWHERE = """
(async () => {
  const api = "%s";
  const { RunClient } = await import(`${api}/streamtrace.js`);
  const headers = async ({ refused }) => ({ authorization: refused ? "Bearer %s" : "Bearer old" });
  const client = new RunClient(`${api}/agents`, { headers });
  const run = await client.start({ run_id: "r-1", message: "Hi" });
  window.told = [];
  for await (const event of run) told.push([event.id, event.data]);
  window.seen = { run: run.runId, thread: run.threadId, state: (await client.state("r-1")).state };
})()
"""


async def test_a_page_of_another_origin_with_a_key():
    """What docs/clients.md asks for is enough: for preflights, a resume, and ids in headers."""
    teller = Teller(20)
    router = AgentRouter(auth=ApiKeyAuth({KEY: User("alice")}))
    router.resumable("/agents", teller).client_js()

    async def page(request: Any) -> FileResponse:
        return FileResponse(PAGE)

    async with live(Starlette(routes=[Route("/", page)])) as home:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=[home],
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "last-event-id"],
            expose_headers=["x-run-id", "x-thread-id", "retry-after"],
        )
        async with (
            live(router.app(middleware=[cors])) as api,
            proxied(api) as (network, url),
            browser() as chromium,
        ):
            there = await chromium.open(home)
            await there.evaluate(f"void {ELSEWHERE % (url, KEY)}")
            await there.until("window.told")
            await teller.say(8)
            await there.until("told.length > 8")
            assert network.cut() >= 1
            await teller.say(20)
            await there.until("window.seen")
            told, seen = await there.evaluate("told"), await there.evaluate("seen")
    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert seen == {"run": "r-1", "thread": teller.runs[0].thread_id, "state": "finished"}
