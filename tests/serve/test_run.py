"""One run: exactly one end, last, on every way out, and nothing of the inside in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.asgi import until

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.serve.agents import per_request, shared
from streamtrace.serve.context import RunContext
from streamtrace.serve.run import ENDS, SORRY, Limits, PublicError, Run, Settings
from streamtrace.serve.runs import Draining, Runs

CANARY = "canary-7f3a"
HELLO = ev.TextDelta(text="hello", message_id="m")


def context(run_id: str = "r") -> RunContext:
    return RunContext(run_id=run_id, thread_id="t", message_id="m")


def limited(**limits: Any) -> Settings:
    return Settings(limits=Limits(**limits))


async def told(run: Run) -> list[ev.Event]:
    """All that its client gets; the rules that hold for every run hold for this one."""
    events = [event async for event in run.channel]
    await run.finished
    assert events[0] == ev.RunStarted(run_id=run.run_id, thread_id="t")
    assert [type(event) in ev.TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    assert CANARY not in repr(events)
    return events


async def end_of(agent: Any, settings: Settings = Settings()) -> ev.Event:  # noqa: B008
    runs = Runs()
    events = await told(runs.start(agent, context(), settings))
    await until(lambda: not runs.active)
    return events[-1]


async def forever(run: RunContext) -> AsyncIterator[ev.Event]:
    yield HELLO
    await asyncio.Event().wait()


def raising(error: BaseException) -> Callable[[RunContext], AsyncIterator[ev.Event]]:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield HELLO
        raise error

    return agent


# --- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError(CANARY), "internal_error", SORRY),
        (TimeoutError(CANARY), "internal_error", SORRY),
        (ExceptionGroup(CANARY, [ValueError(CANARY)]), "internal_error", SORRY),
        (PublicError("Out of stock.", "stock"), "stock", "Out of stock."),
        (PublicError("Out of stock."), "agent_error", "Out of stock."),
    ],
)
async def test_what_an_agent_raises(
    error: BaseException, kind: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await end_of(raising(error)) == ev.RunFailed(type=kind, message=message)
    assert CANARY not in caplog.text


async def test_an_agent_that_fails_before_it_gives_an_iterator() -> None:
    def agent(run: RunContext) -> Any:
        raise ValueError(CANARY)

    def odd(run: RunContext) -> Any:
        return 7

    failed = ev.RunFailed(type="internal_error", message=SORRY)
    assert await end_of(agent) == failed
    assert await end_of(odd) == failed


async def test_a_failure_that_an_agent_tells_is_told_without_its_text() -> None:
    """Frameworks, and adapters of them, put the text of an exception there."""

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield HELLO
        yield ev.RunFailed(type="RateLimitError", message=CANARY)

    assert await end_of(agent) == ev.RunFailed(type="RateLimitError", message=SORRY)


async def test_an_agent_that_cancels_itself_was_cancelled() -> None:
    assert await end_of(raising(asyncio.CancelledError())) == ENDS["cancelled"]()


async def test_out_of_order_is_an_end() -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield ev.StepFinished(name="never started")
        yield HELLO

    assert await end_of(agent) == ev.RunFailed(type="event_order", message=SORRY)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"timeout_s": 0.01}, "timeout"),
        ({"idle_timeout_s": 0.01}, "idle_timeout"),
    ],
)
async def test_limits_of_time(limits: dict[str, float], reason: Any) -> None:
    assert await end_of(forever, limited(**limits)) == ENDS[reason]()


@pytest.mark.parametrize(
    "make",
    [
        lambda at: ev.StepStarted(name=f"step {at}"),
        lambda at: ev.GenerationStarted(response_id=f"g{at}"),
        lambda at: ev.ToolCallStarted(tool_call_id=f"c{at}", name="search"),
    ],
)
async def test_limit_of_steps(make: Callable[[int], ev.Event]) -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        for at in range(9):
            yield make(at)

    events = await told(Runs().start(agent, context(), limited(max_steps=3)))
    assert len(events) == 1 + 3 + 1
    assert events[-1] == ENDS["max_steps"]()


async def test_a_slow_client_is_not_an_idle_agent() -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        for _ in range(3):
            yield HELLO

    run = Runs().start(agent, context(), Settings(limits=Limits(idle_timeout_s=0.01), max_events=1))
    await asyncio.sleep(0.6)  # two looks of the timer
    assert not run.context.cancel.is_set
    assert (await told(run))[-1] == ev.RunFinished(run_id="r", thread_id="t")


@pytest.mark.parametrize("name", ["timeout_s", "idle_timeout_s", "max_steps"])
def test_a_limit_of_nothing_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 0})
    with pytest.raises(ConfigError, match="on_disconnect"):
        Settings(on_disconnect=0)
    with pytest.raises(ConfigError, match="on_disconnect"):
        Settings(on_disconnect="stay")  # type: ignore[arg-type]


# --- stop ------------------------------------------------------------------------------------


async def test_stop_at_once_ends_a_run_that_has_not_begun() -> None:
    runs = Runs()
    run = runs.start(forever, context(), Settings())
    assert run.stop("stopped")
    assert not run.stop("stopped")
    events = await told(run)
    assert events[1:] == [ENDS["stopped"]()]
    await until(lambda: not runs.active)
    assert not runs.stop("r")


async def test_stop_runs_the_agents_finally_and_says_why() -> None:
    seen: list[Any] = []

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            yield HELLO
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up may take a moment
            seen.append(await run.cancel.wait())

    runs = Runs()
    run = runs.start(agent, context(), Settings())
    await run.channel.get()
    await run.channel.get()
    assert runs.stop("r")
    assert await run.channel.get() == ENDS["stopped"]()
    assert seen == ["stopped"]


async def test_an_agent_that_swallows_its_cancellation_is_heard_no_more() -> None:
    async def talks_on(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield HELLO

    async def ends_well(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return
        yield HELLO

    for agent in (talks_on, ends_well):
        run = Runs().start(agent, context(), Settings())
        await run.channel.get()
        run.stop("stopped")
        assert await run.channel.get() == ENDS["stopped"]()


async def test_stop_while_the_end_waits_for_a_slow_client_loses_no_end() -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield HELLO

    run = Runs().start(agent, context(), Settings(max_events=2))
    await until(lambda: run.channel.queued_events == 2)
    await until(lambda: run._is_over)
    assert not run.stop("stopped")
    assert (await told(run))[-1] == ev.RunFinished(run_id="r", thread_id="t")


async def test_an_id_under_way_is_not_started_again() -> None:
    runs = Runs()
    run = runs.start(forever, context(), Settings())
    with pytest.raises(KeyError):
        runs.start(forever, context(), Settings())
    run.stop("stopped")
    await told(run)
    await until(lambda: not runs.active)
    runs.start(forever, context(), Settings()).stop("stopped")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_one_end_whatever_happens_when(data: st.DataObject) -> None:
    """Stops, a leaving client and reads, in any order, between any two turns of the loop."""
    steps = data.draw(st.lists(st.sampled_from(["turn", "stop", "leave", "read"]), max_size=30))
    size = data.draw(st.integers(0, 5))
    policy = data.draw(st.sampled_from(["block", "drop", "coalesce", "disconnect"]))
    stay = data.draw(st.sampled_from(["cancel", "continue"]))
    is_endless, is_cleaned = data.draw(st.booleans()), []

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            for _ in range(size):
                yield HELLO
                await asyncio.sleep(0)
            if is_endless:
                await asyncio.Event().wait()
        finally:
            is_cleaned.append(True)

    async def main() -> None:
        runs = Runs()
        run = runs.start(
            agent, context(), Settings(policy=policy, max_events=2, on_disconnect=stay)
        )
        read: list[ev.Event] = []
        left = False
        for step in steps:
            if step == "turn":
                await asyncio.sleep(0)
            elif step == "stop":
                run.stop("stopped")
            elif step == "leave":
                left = True
                run.client_left()
            elif (event := run.channel.get_nowait()) is not None:
                read.append(event)
        if is_endless:
            run.stop("stopped")
        if not left:
            read += [event async for event in run.channel]
        summary = await run.finished
        ends = [event for event in read if type(event) in ev.TERMINAL]
        assert ends == read[-1:] if ends else left or run.channel.reason == "slow_client"
        assert summary.status in ("completed", "cancelled", "disconnected")
        await until(lambda: not runs.active)
        assert len(is_cleaned) <= 1
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    asyncio.run(main())


# --- clients that leave ------------------------------------------------------------------------


async def test_leaving_cancels_or_not() -> None:
    runs = Runs()
    ends: list[str | None] = []

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            yield HELLO
            await go_on.wait()
            for _ in range(1000):  # more than the channel holds: nobody waits for who left
                yield HELLO
        finally:
            ends.append(run.cancel.reason)

    for stay, reason in (("cancel", "disconnected"), ("continue", None), (0.01, "expired")):
        go_on = asyncio.Event()
        run = runs.start(agent, context(), Settings(on_disconnect=stay))  # type: ignore[arg-type]
        await run.channel.get()
        await run.channel.get()
        run.client_left()
        if stay == "continue":
            go_on.set()
        summary = await run.finished
        assert ends.pop() == reason
        assert summary.status == "disconnected"
        await until(lambda: not runs.active)


# --- stages ------------------------------------------------------------------------------------


class Spoiled:
    """A stage that fails, or never returns, when it is flushed."""

    def __init__(self, flush: Callable[[], Awaitable[Any]]) -> None:
        self.flush = flush

    def feed(self, event: ev.Event) -> list[ev.Event]:
        return [event]


async def _fails() -> None:
    raise ValueError(CANARY)


@pytest.mark.parametrize("flush", [_fails, lambda: asyncio.Event().wait()])
@pytest.mark.parametrize("place", ["enrichers", "filters"])
async def test_the_end_is_told_whatever_a_stage_does(flush: Any, place: str) -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield HELLO

    stages: Any = {place: [lambda _: Spoiled(flush)]}
    end = await end_of(agent, Settings(**stages))
    assert end == ev.RunFinished(run_id="r", thread_id="t")


# --- agents ------------------------------------------------------------------------------------


async def test_a_plain_generator_works_in_a_thread_and_is_closed() -> None:
    threads: list[int] = []
    closed = threading.Event()

    def agent(run: RunContext) -> Iterator[ev.Event]:
        try:
            while True:
                threads.append(threading.get_ident())
                yield HELLO
        finally:
            closed.set()

    run = Runs().start(agent, context(), Settings(max_events=4))
    await until(lambda: run.channel.queued_events == 4)
    run.stop("stopped")
    assert (await told(run))[-1] == ENDS["stopped"]()
    assert closed.is_set()
    assert threading.get_ident() not in threads
    assert len(threads) <= 8  # it worked no further than somebody read


async def test_a_plain_iterator_and_an_awaited_one() -> None:
    async def later(run: RunContext) -> Any:
        return [HELLO, HELLO]

    for agent in (later, lambda run: [HELLO, HELLO]):
        events = await told(Runs().start(agent, context(), Settings()))
        assert events[1:-1] == [HELLO, HELLO]


async def test_a_shared_agent_takes_turns_and_a_waiting_one_can_be_stopped() -> None:
    inside = 0
    go_on = asyncio.Event()

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        nonlocal inside
        inside += 1
        assert inside == 1
        await go_on.wait()
        yield HELLO
        inside -= 1

    runs, one = Runs(), shared(agent)
    first, second, third = (runs.start(one, context(name), Settings()) for name in "abc")
    await until(lambda: inside == 1)
    second.stop("stopped")
    go_on.set()
    assert [type((await told(run))[-1]) for run in (first, second, third)] == [
        ev.RunFinished,
        ev.RunCancelled,
        ev.RunFinished,
    ]


async def test_an_agent_for_each_request() -> None:
    made: list[Any] = []

    def factory() -> Any:
        made.append(1)
        return lambda run: [HELLO]

    agent = per_request(factory)
    for _ in range(2):
        await told(Runs().start(agent, context(), Settings()))
    assert len(made) == 2
    with pytest.raises(ConfigError):
        per_request(7)  # type: ignore[arg-type]


# --- drain -------------------------------------------------------------------------------------


async def test_drain_refuses_tells_waits_and_ends() -> None:
    async def polite(run: RunContext) -> AsyncIterator[ev.Event]:
        yield HELLO
        assert await run.draining.wait() == "drained"
        yield HELLO

    runs = Runs()
    soon = runs.start(polite, context("soon"), Settings())
    late = runs.start(forever, context("late"), Settings())
    stuck = runs.start(forever, context("stuck"), Settings(max_events=2))
    await until(lambda: stuck.channel.queued_events == 2)
    draining = asyncio.create_task(runs.drain(0.05))
    await asyncio.sleep(0)
    assert runs.is_draining
    with pytest.raises(Draining) as refused:
        runs.start(forever, context("new"), Settings())
    assert refused.value.retry_after_s >= 1
    assert [type(event) for event in await told(soon)][1:] == [
        ev.TextDelta,
        ev.TextDelta,
        ev.RunFinished,
    ]
    assert (await told(late))[-1] == ENDS["drained"]()
    await draining
    await stuck.finished  # its client never reads
    await until(lambda: not runs.active)
    await runs.drain()


def test_drain_takes_no_negative_time() -> None:
    with pytest.raises(ConfigError, match="drain_timeout_s"):
        Runs(drain_timeout_s=-1)


async def test_an_agent_whose_client_is_too_slow_is_told_so_before_it_cleans_up() -> None:
    seen: list[Any] = []

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            while True:
                yield HELLO
        finally:
            seen.append(run.cancel.reason)

    run = Runs().start(agent, context(), Settings(policy="disconnect", max_events=2))
    await run.finished
    assert seen == ["slow_client"]
    assert run.channel.reason == "slow_client"
