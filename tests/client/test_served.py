"""Both clients against the real server, over a network that drops each connection somewhere."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

import pytest
from support.live import live
from support.proxy import proxied
from support.run_clients import CLIENTS, read

from streamtrace import Event, TextDelta
from streamtrace.serve import AgentRouter, ApiKeyAuth, RunContext, User
from streamtrace.serve.log.base import LogBounds, RunKey
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.log.meta import RunMeta, encode_meta, user_hash

WORDS = 200
KEY = "fixed-0123456789abcdef"

pytestmark = pytest.mark.parametrize("client", CLIENTS)


async def agent(run: RunContext) -> AsyncIterator[Event]:
    for number in range(WORDS):
        yield TextDelta(text=f"{number} ", message_id=run.message_id)


async def test_what_was_cut_anywhere_is_whole(client: str):
    """Ten times, inside heads, frames and between them. Then the run is read again, in one go."""
    chance = random.Random(7)
    cuts = [chance.randrange(1, 6000) for _ in range(10)]
    asked = {"run_id": "r-1", "thread_id": "t-1", "message": "Hi"}
    async with live(AgentRouter().resumable("/agents", agent).app()) as server:
        async with proxied(server, cuts) as (network, url):
            seen = await read(client, url, start=asked, maxAttempts=20)
        whole = await read(client, server, run="r-1")
        rest = await read(client, server, run="r-1", after=100)
    assert (seen.error, seen.run_id, seen.thread_id) == (None, "r-1", "t-1")
    assert seen.told == whole.told
    assert rest.told == whole.told[100:]
    assert [number for number, *_ in whole.told] == list(range(1, len(whole.told) + 1))
    assert len(whole.told) > WORDS
    assert network.connections > len(cuts)


async def test_a_run_that_the_log_cut_short_says_so(client: str):
    log = MemoryLog(LogBounds(max_events=20))
    async with live(AgentRouter().resumable("/agents", agent, log=log).app()) as server:
        whole = await read(client, server, start={"run_id": "r-1", "message": "Hi"})
        again = await read(client, server, run="r-1", after=3)
    last = whole.told[-1][0]
    assert again.told == [["gap", 3, last - 20 - 3, last - 20], *whole.told[-20:]]


async def test_a_run_whose_producer_is_gone_ends_with_that_word(client: str):
    """Told once, and again to who comes back; nobody asks for ever."""
    log = MemoryLog(LogBounds(lease_s=0.05))
    meta = RunMeta(
        run_id="r-1",
        thread_id="t-1",
        message_id="m-1",
        dialect="ag-ui",
        user=user_hash(None),
        started_at_ns=1,
    )
    await log.create(RunKey("r-1"), "its owner", encode_meta(meta))
    await log.append(RunKey("r-1"), "its owner", [b'data: {"a":1}\n\n'], after=0)
    async with live(AgentRouter().resumable("/agents", agent, log=log).app()) as server:
        seen = await read(client, server, run="r-1")
        again = await read(client, server, run="r-1", after=1)
    first, word = seen.told
    assert first == [1, "message", '{"a":1}']
    assert (word[0], json.loads(word[2])["code"]) == (None, "orphaned")
    assert (seen.error, seen.last_id) == (None, 1)
    assert again.told == [word]


async def test_a_run_of_somebody_else_is_not_found(client: str):
    """As one that does not exist."""
    auth = ApiKeyAuth({KEY: User("alice"), "other-0123456789abcdef": User("bob")})
    async with live(AgentRouter(auth=auth).resumable("/agents", agent).app()) as server:
        mine = {"start": {"run_id": "r-1", "message": "Hi"}, "refused": f"Bearer {KEY}"}
        assert (await read(client, server, **mine)).error is None
        theirs = await read(client, server, run="r-1", refused="Bearer other-0123456789abcdef")
        nobodys = await read(client, server, run="r-2", refused=f"Bearer {KEY}")
    assert theirs.error == nobodys.error == ["RunRefused", 404, "not_found", 0]
    assert theirs.told == []
