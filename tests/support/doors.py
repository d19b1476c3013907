"""What holds for every store of a door, in memory or in Redis."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

from streamtrace.core.errors import Refusal
from streamtrace.serve.auth import User
from streamtrace.serve.concurrency import Concurrency
from streamtrace.serve.limits import RateLimit
from streamtrace.serve.tickets import Tickets

WITHIN_S = 20.0

ALICE = User("alice", "acme", {"roles": ["admin"], "exp": 2**40})
NAMESAKE = User("alice", "other")


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds. Raises TimeoutError."""
    async with asyncio.timeout(WITHIN_S):
        for _ in itertools.repeat(None):
            if await holds():
                return
            await asyncio.sleep(0.01)


async def check_tickets(tickets: Tickets) -> None:
    """A ticket is the user's who got it, once, at one path."""
    ticket = await tickets.issue(ALICE, "/stream")
    assert await tickets.redeem(ticket, "/stream") == ALICE
    assert await tickets.redeem(ticket, "/stream") is None

    elsewhere = await tickets.issue(ALICE, "/stream")
    assert await tickets.redeem(elsewhere, "/streams") is None
    assert await tickets.redeem(elsewhere, "/stream") is None  # it was tried

    other = await tickets.issue(ALICE, "/stream")
    changed = ("B" if other[0] == "A" else "A") + other[1:]
    for wrong in (changed, "", "x", "*" * 43, other + "A", other[:-1], "é" * 43, other + "\n"):
        assert await tickets.redeem(wrong, "/stream") is None
    assert await tickets.redeem(other, "/stream") == ALICE


async def check_tickets_under_concurrency(*processes: Tickets) -> None:
    """Of many who come with the same ticket at once, one gets in."""
    issued = [await processes[0].issue(User(str(n)), "/stream") for n in range(20)]
    tries = [
        tickets.redeem(ticket, "/stream")
        for ticket in issued
        for tickets in processes
        for _ in range(10)
    ]
    got_in = [user.id for user in await asyncio.gather(*tries) if user is not None]
    assert Counter(got_in) == {str(n): 1 for n in range(20)}


async def refusal_of(limit: RateLimit, user: User | None, address: str | None = None) -> Refusal:
    try:
        await limit.check(user, address)
    except Refusal as refusal:
        return refusal
    raise AssertionError("it was let in")


async def check_rate_limit(limit: RateLimit) -> None:
    """Three in an hour, for each user."""
    for _ in range(3):
        await limit.check(ALICE)
    refusal = await refusal_of(limit, ALICE)
    assert (refusal.status, refusal.code) == (429, "rate_limited")
    assert refusal.message == "Too many requests: please wait."
    assert 3000 < int(refusal.headers["Retry-After"]) <= 3600
    await limit.check(NAMESAKE)
    await limit.check(None)
    assert (await refusal_of(limit, ALICE)).status == 429


async def check_rate_limit_under_concurrency(*processes: RateLimit) -> None:
    """Three in an hour, however many ask at once, and wherever."""
    asked = [limit.check(User("bob")) for limit in processes for _ in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers.count(None) == 3
    assert {answer.status for answer in answers if isinstance(answer, Refusal)} == {429}


async def is_full(concurrency: Concurrency, user: User | None = ALICE) -> bool:
    refusal = None
    try:
        async with concurrency.slot(user):
            return False
    except Refusal as caught:
        refusal = caught
    assert (refusal.status, refusal.code) == (429, "too_many_streams")
    assert int(refusal.headers["Retry-After"]) > 0
    return True


async def check_slots(concurrency: Concurrency) -> None:
    """Two at once, for each user; each is free again when its block ends."""
    async with concurrency.slot(ALICE), concurrency.slot(ALICE):
        assert await is_full(concurrency)
        assert not await is_full(concurrency, NAMESAKE)
        assert not await is_full(concurrency, None)
    for _ in range(3):
        try:
            async with concurrency.slot(ALICE):
                raise KeyError
        except KeyError:
            assert not await is_full(concurrency)


async def check_slots_are_free_after_cancellation(concurrency: Concurrency) -> None:
    """Whenever the stream's task is cancelled, and however often."""
    for spins in range(40):
        task = asyncio.create_task(_hold(concurrency))
        for _ in range(spins):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    while concurrency._tasks:
        await asyncio.wait(concurrency._tasks)
    async with concurrency.slot(ALICE), concurrency.slot(ALICE):
        assert await is_full(concurrency)


async def _hold(concurrency: Concurrency) -> None:
    async with concurrency.slot(ALICE):
        await asyncio.Event().wait()


async def check_slots_under_concurrency(*processes: Concurrency) -> None:
    """Never more than two, and never none."""
    held = most = served = 0
    refused = set()

    async def stream(concurrency: Concurrency) -> None:
        nonlocal held, most, served
        try:
            async with concurrency.slot(ALICE):
                held += 1
                most = max(most, held)
                served += 1
                await asyncio.sleep(0)
                held -= 1
        except Refusal as refusal:
            refused.add(refusal.status)

    await asyncio.gather(*(stream(one) for one in processes for _ in range(50)))
    assert most <= 2
    assert held == 0
    assert refused <= {429}
    assert served >= 1
    assert not await is_full(processes[0])
