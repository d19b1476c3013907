"""What only the client in Python has: cancellation, its HTTP client, and what it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from support.script import Script, empty, event, said, sse

from streamtrace.client import RunClient
from streamtrace.core.errors import ConfigError


async def test_a_task_that_is_cancelled_lets_go_of_the_connection():
    reading = asyncio.Event()

    async def read(url: str) -> None:
        async with RunClient(url) as client, client.follow("r-1") as run:
            async for _ in run:
                reading.set()

    async with Script(sse(event(1, "a"), end="hang")) as script:
        task = asyncio.create_task(read(script.url))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await script.left.wait()


async def test_who_reads_nothing_lets_go_of_the_connection_all_the_same():
    async with Script(sse(event(1, "a"), end="hang")) as script, RunClient(script.url) as client:
        async with client.follow("r-1") as run:
            assert run.run_id == "r-1"
        async with asyncio.timeout(10):
            await script.left.wait()


async def test_a_client_of_yours_is_used_and_not_closed():
    async with (
        Script(empty(), said({"state": "live"})) as script,
        httpx2.AsyncClient(headers={"x-mine": "1"}) as http,
    ):
        async with RunClient(script.url, http=http) as client:
            async with client.follow("r-1") as run:
                assert [one async for one in run] == []
            assert await client.state("a/b") == {"state": "live"}
        assert not http.is_closed
    assert [one.headers["x-mine"] for one in script.asked] == ["1", "1"]
    assert script.asked[1].path == "/runs/a%2Fb"


async def test_what_a_function_for_headers_raises_is_raised():
    def headers(refused: bool) -> dict[str, str]:
        raise LookupError("no token")

    async with Script() as script, RunClient(script.url, headers=headers) as client:
        with pytest.raises(LookupError, match="no token"):
            await client.follow("r-1").__aenter__()


async def test_what_cannot_be_sent_is_not_tried_again():
    async with Script() as script, RunClient(script.url, headers={"x-key": "a\nb"}) as client:
        with pytest.raises(httpx2.LocalProtocolError):
            await client.follow("r-1").__aenter__()


@pytest.mark.parametrize(
    "wrong", [{"prefix": "/agents"}, {"idle_timeout_s": 0}, {"max_attempts": -1}]
)
def test_a_wrong_setting_is_refused_at_once(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RunClient(**{"prefix": "http://test", **wrong})


async def test_a_run_or_a_thread_is_followed():
    async with RunClient("http://test") as client:
        for wrong in ({}, {"run_id": "r", "thread_id": "t"}, {"thread_id": "t", "after": 3}):
            with pytest.raises(ConfigError):
                client.follow(**wrong)
