"""How often a user may ask; and whose limit it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi import http_scope
from support.doors import check_rate_limit, check_rate_limit_under_concurrency, refusal_of

from streamtrace.core.errors import ConfigError
from streamtrace.serve.answers import retry_later
from streamtrace.serve.auth import User
from streamtrace.serve.callers import address_of, caller_key
from streamtrace.serve.limits import MemoryWindows, RateLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_three_in_an_hour() -> None:
    await check_rate_limit(RateLimit("3/hour"))


async def test_three_in_an_hour_however_many_ask_at_once() -> None:
    await check_rate_limit_under_concurrency(RateLimit("3/hour"))


@given(
    asks=st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=60),
    amount=st.integers(1, 4),
)
def test_in_no_stretch_of_the_window_are_there_more(asks: Any, amount: int) -> None:
    """And who waits as long as it was told is let in; nobody is refused without need."""

    async def play() -> None:
        clock = Clock()
        windows = MemoryWindows(amount, 60, clock=clock)
        served: dict[str, list[float]] = {"a": [], "b": []}
        for later, user in asks:
            clock.now += later
            within = [at for at in served[user] if at > clock.now - 60]
            wait_s = await windows.hit(user)
            assert (wait_s is None) is (len(within) < amount)
            if wait_s is not None:
                assert wait_s == within[0] + 60 - clock.now
                clock.now += wait_s
                assert await windows.hit(user) is None
            served[user].append(clock.now)

    asyncio.run(play())


async def test_users_who_went_are_forgotten_and_their_number_is_bounded() -> None:
    clock = Clock()
    windows = MemoryWindows(1, 60, max_users=10, clock=clock)
    for number in range(100):
        assert await windows.hit(str(number)) is None
        assert len(windows._hits) <= 10
    assert await windows.hit("99") is not None  # of too many, who asked last is still known
    assert await windows.hit("0") is None
    clock.now += 60
    assert await windows.hit("new") is None
    assert set(windows._hits) == {"new"}


async def test_who_asks_on_is_not_forgotten_before_who_stays_away() -> None:
    windows = MemoryWindows(1, 60, max_users=2, clock=Clock())
    for user in ("a", "b", "a", "c"):
        await windows.hit(user)
    assert list(windows._hits) == ["a", "c"]


@pytest.mark.parametrize(
    ("after_s", "told"),
    [(0.0, "1"), (-5.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60"), (60.0, "60")],
)
def test_seconds_are_rounded_up(after_s: float, told: str) -> None:
    assert retry_later(429, "x", "x", after_s).headers == {"Retry-After": told}


@pytest.mark.parametrize(
    "rate", ["", "30", "30/fortnight", "thirty/minute", "0/minute", "1/second;2/minute", "-1/day"]
)
def test_a_wrong_rate_fails_at_construction(rate: str) -> None:
    with pytest.raises(ConfigError, match="rate must"):
        RateLimit(rate)


@pytest.mark.parametrize("rate", ["2/minute", "2 per minute", "2 per 5 minutes", "2/day"])
async def test_the_notation(rate: str) -> None:
    limit = RateLimit(rate)
    for _ in range(2):
        await limit.check(None)
    assert (await refusal_of(limit, None)).status == 429


# Whose it is.

ALICE = User("alice")
HERE, THERE = "192.0.2.1", "192.0.2.2"


async def test_a_limit_is_the_users_wherever_they_are() -> None:
    for by_address in (False, True):
        limit = RateLimit("1/hour", by_address=by_address)
        await limit.check(ALICE, HERE)
        await refusal_of(limit, ALICE, THERE)
        await limit.check(User("bob"), HERE)


async def test_without_a_user_there_is_one_limit_for_all() -> None:
    limit = RateLimit("1/hour")
    await limit.check(None, HERE)
    await refusal_of(limit, None, THERE)


async def test_or_one_for_each_address_where_that_was_asked_for() -> None:
    limit = RateLimit("1/hour", by_address=True)
    await limit.check(None, HERE)
    await limit.check(None, THERE)
    await limit.check(None, None)
    for address in (HERE, THERE, None):
        await refusal_of(limit, None, address)


SAME = [
    ("192.0.2.1", "::ffff:192.0.2.1"),
    ("2001:db8::1", "2001:db8::ffff:2"),
    ("fe80::1%eth0", "fe80::2%eth1"),
    ("unix", "unix"),
]
DIFFERENT = [("192.0.2.1", "192.0.2.2"), ("2001:db8:0:1::1", "2001:db8:0:2::1"), ("a", "b")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [*((a, b, True) for a, b in SAME), *((a, b, False) for a, b in DIFFERENT)],
)
def test_which_addresses_are_one(one: str, other: str, same: bool) -> None:
    keys = {caller_key(None, address, by_address=True) for address in (one, other)}
    assert len(keys) == (1 if same else 2)


@given(
    st.tuples(st.text(), st.text(), st.none() | st.text(), st.none() | st.text()),
)
def test_nobody_can_take_a_name_that_counts_as_anothers(names: Any) -> None:
    a, b, tenant_a, tenant_b = names
    one, other = (
        caller_key(User(a, tenant_a), "x", by_address=True),
        caller_key(User(b, tenant_b), "y", by_address=True),
    )
    assert (one == other) is ((a, tenant_a) == (b, tenant_b))
    assert one != caller_key(None, a, by_address=True)
    assert one != caller_key(None, a, by_address=False)


def test_a_key_shows_no_id() -> None:
    assert "alice" not in caller_key(ALICE, HERE, by_address=False)
    assert HERE not in caller_key(None, HERE, by_address=True)


def test_the_address_of_a_client() -> None:
    assert address_of(http_scope()) == "127.0.0.1"
    assert address_of(http_scope(client=None)) is None
    assert address_of({"type": "http"}) is None
