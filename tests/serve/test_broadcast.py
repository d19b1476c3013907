"""Broadcast: one source, and followers that cannot hurt each other."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.virtual_time import run

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.serve.broadcast import Broadcast


def numbered(count: int) -> list[ev.Event]:
    return [ev.Custom(name=str(at)) for at in range(count)]


def text(value: str) -> ev.TextDelta:
    return ev.TextDelta(text=value, message_id="m")


async def source(events, pause_s: float = 0.0):
    for event in events:
        if pause_s:
            await asyncio.sleep(pause_s)
        yield event


async def followed(broadcast: Broadcast, pause_s: float = 0.0, **options):
    """What one follower got, and why it ended."""
    async with broadcast.follow(**options) as follower:
        got = []
        async for event in follower:
            got.append(event)
            await asyncio.sleep(pause_s)
        return got, follower.reason


def test_a_hundred_followers_of_whom_one_has_stalled():
    events = numbered(500)

    async def scenario():
        broadcast = Broadcast(source(events, 0.001))
        stalled = asyncio.create_task(followed(broadcast, pause_s=10**6, max_events=20))
        others = [asyncio.create_task(followed(broadcast, max_events=20)) for _ in range(99)]
        await asyncio.sleep(0)
        running = asyncio.create_task(broadcast.run())
        await running
        assert asyncio.get_running_loop().time() < 1  # nobody waited for it
        assert await asyncio.gather(*others) == [(events, "finished")] * 99
        assert (broadcast.slow_followers, broadcast.followers) == (1, 0)
        got, reason = await stalled
        assert (got, reason) == (events[:1], "slow_client")

    run(scenario())


POLICIES = st.sampled_from(["block", "drop", "coalesce", "disconnect"])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    followers=st.lists(
        st.tuples(
            POLICIES, st.integers(0, 60), st.sampled_from([0, 1, 30]), st.sampled_from([2, 8, 100])
        ),
        min_size=1,
        max_size=5,
    ),
    gaps=st.sampled_from([0, 2]),
)
def test_each_sees_a_whole_stretch_or_is_told_that_it_was_slow(followers, gaps):
    """From where it came; text may be joined or, under `drop`, left out."""
    events = [text(f"{at},") if at % 3 else ev.Custom(name=str(at)) for at in range(80)]

    async def one(broadcast, policy, comes_at, pause_ms, max_events):
        await asyncio.sleep(comes_at / 1000)
        before = broadcast.published_events
        options = {"policy": policy, "max_events": max_events, "replay": False}
        options["clock_ns"] = asyncio.get_running_loop().time_ns
        got, reason = await followed(broadcast, pause_ms / 1000, **options)
        due = events[before:]
        if reason == "slow_client":
            assert pause_ms or gaps == 0
            names = [event for event in got if isinstance(event, ev.Custom)]
            assert names == [event for event in due if isinstance(event, ev.Custom)][: len(names)]
        else:
            assert reason == "finished"
            assert [event for event in got if isinstance(event, ev.Custom)] == [
                event for event in due if isinstance(event, ev.Custom)
            ]
            if policy != "drop":
                said = "".join(event.text for event in got if isinstance(event, ev.TextDelta))
                assert said == "".join(e.text for e in due if isinstance(e, ev.TextDelta))
            if policy in ("block", "disconnect"):
                assert got == due
        return reason == "slow_client"

    async def scenario():
        broadcast = Broadcast(source(events, gaps / 1000))
        tasks = [asyncio.create_task(one(broadcast, *options)) for options in followers]
        await asyncio.sleep(0)
        await broadcast.run()
        slow = await asyncio.gather(*tasks)
        assert broadcast.slow_followers == sum(slow)

    run(scenario())


def test_a_source_that_never_waits_leaves_its_followers_a_turn():
    events = numbered(1000)

    async def scenario():
        broadcast = Broadcast(source(events))
        follower = asyncio.create_task(followed(broadcast, max_events=3))
        await asyncio.sleep(0)
        await broadcast.run()
        assert await follower == (events, "finished")

    run(scenario())


def test_who_comes_late_gets_what_is_kept_and_then_the_rest():
    events = numbered(10)

    async def scenario():
        broadcast = Broadcast(source(()), keep_events=3)
        for event in events[:5]:
            broadcast.publish(event)
        async with broadcast.follow() as late, broadcast.follow(replay=False) as later:
            assert (late.missed_events, later.missed_events) == (2, 5)
            for event in events[5:]:
                broadcast.publish(event)
            await broadcast.run()
            assert [event async for event in late] == events[2:]
            assert [event async for event in later] == events[5:]
            assert late.counts.delivered_events == 5
        assert await followed(broadcast) == (events[-3:], "finished")

    run(scenario())


def test_what_is_kept_is_bounded_in_bytes():
    async def scenario():
        broadcast = Broadcast(source([]), keep_bytes=1500)
        for at in range(20):
            broadcast.publish(text(f"{at}" + "x" * 500))
        broadcast.publish(text("y" * 1000))
        got, _ = await asyncio.gather(followed(broadcast), broadcast.run())
        assert got == ([text("y" * 1000)], "finished")

    run(scenario())


def test_nothing_need_be_kept():
    async def scenario():
        broadcast = Broadcast(source(numbered(3)), keep_events=0)
        await broadcast.run()
        assert await followed(broadcast) == ([], "finished")

    run(scenario())


@pytest.mark.parametrize("options", [{"policy": "block"}, {"policy": "coalesce"}, {}])
def test_where_a_policy_would_wait_the_follower_is_closed(options):
    async def scenario():
        broadcast = Broadcast(source([]))
        async with broadcast.follow(max_events=2, **options) as follower:
            for event in numbered(3):
                broadcast.publish(event)
            assert follower.reason == "slow_client"
            assert [event async for event in follower] == []
            assert follower.counts.unsent_events == 2
        assert broadcast.slow_followers == 1

    run(scenario())


def test_a_source_that_fails_ends_all_and_is_heard_of():
    async def broken():
        yield ev.Custom(name="0")
        raise LookupError("gone")

    async def scenario():
        broadcast = Broadcast(broken())
        follower = asyncio.create_task(followed(broadcast))
        await asyncio.sleep(0)
        with pytest.raises(LookupError):
            await broadcast.run()
        assert await follower == (numbered(1), "failed")
        assert broadcast.reason == "failed"
        with pytest.raises(RuntimeError, match="runs once"):
            await broadcast.run()

    run(scenario())


@pytest.mark.parametrize("waits", [True, False])
def test_a_broadcast_that_is_cancelled_closes_its_source(waits):
    """Whoever is at work at that moment."""
    closed = []

    async def endless():
        try:
            while True:
                yield ev.Heartbeat()
                if waits:
                    await asyncio.sleep(1)
        finally:
            closed.append(True)

    async def scenario():
        broadcast = Broadcast(endless())
        running = asyncio.create_task(broadcast.run())
        follower = asyncio.create_task(followed(broadcast))
        for _ in range(10):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert closed == [True]
        assert await follower == ([ev.Heartbeat()] * broadcast.published_events, "cancelled")

    run(scenario())


def test_a_follower_that_leaves_is_forgotten():
    async def scenario():
        broadcast = Broadcast(source([]))
        async with broadcast.follow():
            assert broadcast.followers == 1
        assert broadcast.followers == 0
        broadcast.publish(ev.Heartbeat())
        assert broadcast.slow_followers == 0

    run(scenario())


@pytest.mark.parametrize("bound", ["keep_events", "keep_bytes"])
def test_bounds_below_nothing(bound):
    with pytest.raises(ConfigError, match=f"{bound} must be at least 0, got -1"):
        Broadcast(source([]), **{bound: -1})
