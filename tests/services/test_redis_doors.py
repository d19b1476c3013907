"""The doors that several processes share, over a real Redis."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from support.doors import (
    ALICE,
    check_rate_limit,
    check_rate_limit_under_concurrency,
    check_slots,
    check_slots_are_free_after_cancellation,
    check_slots_under_concurrency,
    check_tickets,
    check_tickets_under_concurrency,
    eventually,
    is_full,
)
from support.otlp import free_port
from support.redis_server import REDIS_SERVER, RedisServer, redis_server

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.serve import redis_stores
from streamtrace.serve.concurrency import Concurrency
from streamtrace.serve.limits import RateLimit
from streamtrace.serve.redis_stores import RedisLeases, RedisTicketStore
from streamtrace.serve.tickets import Tickets

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: .ci/services")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other work is not what these tests are about."""
    monkeypatch.setattr(redis_stores, "ANSWERS_WITHIN_S", 15.0)


@pytest.fixture
async def closing(server: RedisServer) -> AsyncIterator[AsyncExitStack]:
    """Closes what is pushed; and Redis is empty before."""
    async with AsyncExitStack() as stack:
        async with Redis.from_url(server.url) as redis:
            await redis.flushall()
        yield stack


def pushed(closing: AsyncExitStack, closable: Any) -> Any:
    closing.push_async_callback(closable.aclose)
    return closable


async def everything(server: RedisServer) -> dict[str, tuple[float, str]]:
    """Each key with its time to live in seconds and its value."""
    found = {}
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        read = {
            "string": redis.get,
            "list": lambda key: redis.lrange(key, 0, -1),
            "zset": lambda key: redis.zrange(key, 0, -1),
        }
        for key in await redis.keys("*"):
            kind = await redis.type(key)
            if kind != "none":  # it ended just now
                found[key] = (await redis.pttl(key) / 1000, repr(await read[kind](key)))
    return found


async def test_tickets(server: RedisServer, closing: AsyncExitStack) -> None:
    await check_tickets(Tickets(pushed(closing, RedisTicketStore(server.url))))


async def test_tickets_in_two_processes(server: RedisServer, closing: AsyncExitStack) -> None:
    stores = [pushed(closing, RedisTicketStore(server.url)) for _ in range(2)]
    await check_tickets_under_concurrency(*map(Tickets, stores))


async def test_a_url_that_decodes_answers(server: RedisServer, closing: AsyncExitStack) -> None:
    url = f"{server.url}?decode_responses=True"
    await check_tickets(Tickets(pushed(closing, RedisTicketStore(url))))


async def test_a_ticket_in_redis_has_an_end_and_is_not_there_itself(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    tickets = Tickets(pushed(closing, RedisTicketStore(server.url, namespace="mine")), ttl_s=1)
    ticket = await tickets.issue(ALICE, "/stream")
    [(key, (left_s, value))] = (await everything(server)).items()
    assert key.startswith("mine:ticket:")
    assert 0 < left_s <= 1
    assert ticket not in key + value

    async def is_empty() -> bool:
        return not await everything(server)

    await eventually(is_empty)
    assert await tickets.redeem(ticket, "/stream") is None


async def test_another_deployments_ticket_lets_nobody_in(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    ours, theirs = (
        Tickets(pushed(closing, RedisTicketStore(server.url, namespace=name)))
        for name in ("ours", "theirs")
    )
    ticket = await theirs.issue(ALICE, "/stream")
    assert await ours.redeem(ticket, "/stream") is None
    assert await theirs.redeem(ticket, "/stream") == ALICE


async def test_rate_limit(server: RedisServer, closing: AsyncExitStack) -> None:
    await check_rate_limit(pushed(closing, RateLimit("3/hour", redis_url=server.url)))


async def test_rate_limit_of_two_processes(server: RedisServer, closing: AsyncExitStack) -> None:
    limits = [pushed(closing, RateLimit("3/hour", redis_url=server.url)) for _ in range(2)]
    await check_rate_limit_under_concurrency(*limits)
    other = pushed(closing, RateLimit("3/hour", redis_url=server.url, namespace="other"))
    await check_rate_limit_under_concurrency(other)


async def test_who_waits_for_as_long_as_it_was_told_is_let_in(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    limit = pushed(closing, RateLimit("2/second", redis_url=server.url))
    await limit.check(ALICE)
    await limit.check(ALICE)

    async def ask_on() -> None:
        for _ in range(1000):  # as fast as it goes: more than two in a second
            await limit.check(ALICE)

    with pytest.raises(Refusal) as caught:
        await ask_on()
    await asyncio.sleep(int(caught.value.headers["Retry-After"]))
    await limit.check(ALICE)


async def test_what_is_counted_names_nobody_and_ends(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    limit = pushed(closing, RateLimit("3/minute", redis_url=server.url))
    concurrency = pushed(closing, Concurrency(2, leases=RedisLeases(server.url)))
    await limit.check(ALICE)
    async with concurrency.slot(ALICE):
        held = await everything(server)
        assert len(held) == 2
        assert all(key.startswith("streamtrace:") for key in held)
        assert all(0 < left_s <= 60 for left_s, _ in held.values())
        assert ALICE.id not in repr(held)
    assert len(await everything(server)) == 1


def concurrency_of(closing: AsyncExitStack, server: RedisServer, **options: Any) -> Concurrency:
    concurrency: Concurrency = pushed(
        closing, Concurrency(2, leases=RedisLeases(server.url, **options))
    )
    return concurrency


async def test_slots(server: RedisServer, closing: AsyncExitStack) -> None:
    await check_slots(concurrency_of(closing, server))


async def test_slots_of_two_processes(server: RedisServer, closing: AsyncExitStack) -> None:
    await check_slots_under_concurrency(*(concurrency_of(closing, server) for _ in range(2)))


async def test_slots_after_cancellation(server: RedisServer, closing: AsyncExitStack) -> None:
    await check_slots_are_free_after_cancellation(concurrency_of(closing, server))


async def test_a_slot_outlives_the_time_of_its_lease(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    concurrency = concurrency_of(closing, server, ttl_s=1)
    first = concurrency_of(closing, server, ttl_s=1)
    async with first.slot(ALICE), first.slot(ALICE):
        ends = asyncio.get_running_loop().time() + 2.5
        while asyncio.get_running_loop().time() < ends:
            assert await is_full(concurrency)
            await asyncio.sleep(0.1)
    assert not await is_full(concurrency)


async def test_a_lease_sent_twice_is_one_and_a_late_renewal_brings_none_back(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    leases = pushed(closing, RedisLeases(server.url))
    assert [await leases.acquire("k", "a", 1) for _ in range(2)] == [True, True]
    assert not await leases.acquire("k", "b", 1)
    await leases.release("k", "a")
    await leases.renew("k", "a")
    assert await leases.acquire("k", "b", 1)


HOLDER = """
import asyncio, sys
from streamtrace.serve.auth import User
from streamtrace.serve.concurrency import Concurrency
from streamtrace.serve.redis_stores import RedisLeases

async def main():
    concurrency = Concurrency(2, leases=RedisLeases(sys.argv[1], ttl_s=1))
    alice = User("alice", "acme")
    async with concurrency.slot(alice), concurrency.slot(alice):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_the_slots_of_a_process_that_was_killed_are_free_soon(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    concurrency = concurrency_of(closing, server, ttl_s=1)
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        server.url,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        assert await is_full(concurrency)
    finally:
        holder.kill()
        await holder.communicate()

    async def has_room() -> bool:
        return not await is_full(concurrency)

    await eventually(has_room)


async def test_a_slot_that_nobody_renews_is_free_while_another_is_renewed(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    leases = pushed(closing, RedisLeases(server.url, ttl_s=1))
    assert await leases.acquire("k", "crashed", 2)
    assert await leases.acquire("k", "alive", 2)
    assert not await leases.acquire("k", "new", 2)

    async def has_room() -> bool:
        await leases.renew("k", "alive")
        return bool(await leases.acquire("k", "new", 2))

    await eventually(has_room)
    assert not await leases.acquire("k", "other", 2)


async def test_who_leaves_while_redis_is_asked_takes_no_connection_along(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    """In a scope where every await is cancelled, as Starlette cancels; and there are few."""
    store = pushed(closing, RedisTicketStore(server.url))
    limit = pushed(closing, RateLimit("1000/hour", redis_url=server.url))
    tickets = Tickets(store)
    for spins in range(2 * redis_stores.MAX_CONNECTIONS):
        async with anyio.create_task_group() as group:
            for ask in (lambda: tickets.issue(ALICE, "/"), lambda: limit.check(ALICE)):
                group.start_soon(ask)
            for _ in range(spins % 12):
                await asyncio.sleep(0)
            group.cancel_scope.cancel()
    await check_tickets(tickets)
    await limit.check(ALICE)


# Without Redis.


async def assert_unavailable(url: str, closing: AsyncExitStack) -> None:
    tickets = Tickets(pushed(closing, RedisTicketStore(url)))
    limit = pushed(closing, RateLimit("3/hour", redis_url=url))
    concurrency = pushed(closing, Concurrency(2, leases=RedisLeases(url)))

    async def hold() -> None:
        async with concurrency.slot(ALICE):
            raise AssertionError("it was let in")

    asked = [
        tickets.issue(ALICE, "/"),
        tickets.redeem("A" * 43, "/"),
        limit.check(ALICE),
        hold(),
    ]
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, Refusal), answer
        assert (answer.status, answer.code) == (503, "unavailable")
        assert "Retry-After" in answer.headers


async def test_where_redis_is_not_nobody_is_let_in(
    closing: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await assert_unavailable(f"redis://:hunter2@127.0.0.1:{free_port()}", closing)
    assert "hunter2" not in caplog.text


async def test_where_redis_hangs_nobody_waits_for_long(
    server: RedisServer, closing: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_stores, "ANSWERS_WITHIN_S", 0.2)
    with server.stopped():
        async with asyncio.timeout(20):
            await assert_unavailable(server.url, closing)


async def test_a_slot_is_held_through_a_pause_of_redis(
    server: RedisServer, closing: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_stores, "ANSWERS_WITHIN_S", 0.1)
    concurrency = concurrency_of(closing, server, ttl_s=30)
    async with concurrency.slot(ALICE), concurrency.slot(ALICE):
        with server.stopped(), pytest.raises(Refusal):
            async with concurrency.slot(ALICE):
                raise AssertionError("it was let in")
        assert await is_full(concurrency_of(closing, server))
    assert not await is_full(concurrency)


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis://h:port"])
def test_a_wrong_url_fails_at_construction_and_is_not_told(url: str) -> None:
    for make in (RedisTicketStore, RedisLeases, lambda url: RateLimit("1/hour", redis_url=url)):
        with pytest.raises(ConfigError, match="URL of Redis") as caught:
            make(url)
        assert not url or url not in str(caught.value)


def test_a_lease_lasts_a_second_at_least() -> None:
    with pytest.raises(ConfigError, match="ttl_s"):
        RedisLeases("redis://localhost", ttl_s=0.5)
