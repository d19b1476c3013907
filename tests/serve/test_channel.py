"""The channel: whatever the agent and the client do, its bounds, its order and its counts hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from support.virtual_time import VirtualTimeLoop, run

from streamtrace.core import events as ev
from streamtrace.core.errors import ClientGone, ConfigError
from streamtrace.serve.channel import Channel
from streamtrace.serve.weight import EVENT_BYTES, event_bytes
from streamtrace.serve.whole import MESSAGE_WHOLE, Messages

WINDOW_S = 0.075
DELTAS = (ev.TextDelta, ev.ReasoningDelta)
POLICIES = ["block", "drop", "coalesce", "disconnect"]


def text(value: str, message_id: str | None = "m") -> ev.TextDelta:
    return ev.TextDelta(text=value, message_id=message_id)


def joined(events: Iterable[ev.Event]) -> list[ev.Event]:
    """Deltas that follow one another in a message, as one."""
    told: list[ev.Event] = []
    for event in events:
        last = told[-1] if told else None
        if (
            isinstance(event, DELTAS)
            and type(last) is type(event)
            and last.message_id == event.message_id
        ):
            told[-1] = type(event)(text=last.text + event.text, message_id=event.message_id)
        else:
            told.append(event)
    return told


def is_whole(event: ev.Event) -> bool:
    return isinstance(event, ev.Custom) and event.name == MESSAGE_WHOLE


class Reader:
    """A client that shows each message, and puts a whole one in the place of its pieces."""

    def __init__(self) -> None:
        self.shown: dict[str | None, str] = {}
        self.finished: list[tuple[str | None, str]] = []

    def read(self, event: ev.Event) -> None:
        match event:
            case ev.TextDelta():
                self.shown[event.message_id] = self.shown.get(event.message_id, "") + event.text
            case ev.Custom(name="message_whole"):
                self.shown[event.value["message_id"]] = event.value["text"]
            case ev.MessageFinished() if event.message_id in self.shown:
                self.finished.append((event.message_id, self.shown.pop(event.message_id)))
            case ev.RunFinished():
                self.finished += sorted(self.shown.items())
                self.shown.clear()


def read(events: Iterable[ev.Event]) -> list[tuple[str | None, str]]:
    reader = Reader()
    for event in [*events, ev.RunFinished()]:
        reader.read(event)
    return reader.finished


# --- laws, under any interleaving ------------------------------------------------------------


ACTIONS = ["put"] * 7 + ["get"] * 4 + ["wait"] * 2
ACTIONS += ["cancel the put", "cancel the get", "close", "leave"]


class ChannelLaws(RuleBasedStateMachine):
    """One task puts, one gets; either may be cancelled, late, or gone."""

    policy: str

    @initialize(
        max_events=st.sampled_from([5, 3, 2, 1]),
        max_bytes=st.sampled_from([10**6, 700, 500, 300, 1]),
        wholes=st.booleans(),
        lives=st.sampled_from([20, 8, 3, 0]),
    )
    def begin(self, max_events, max_bytes, wholes, lives):
        self.lives = lives  # as long as so many events are put; else most would end at once
        self.loop = VirtualTimeLoop()
        self.max_events, self.max_bytes = max_events, max_bytes
        self.wholes = wholes and self.policy == "drop"
        self.channel = Channel(
            self.policy,
            max_events=max_events,
            max_bytes=max_bytes,
            window_s=WINDOW_S,
            whole_messages=self.wholes,
            clock_ns=self.loop.time_ns,
        )
        self.numbers = count()
        self.putting: tuple[asyncio.Task[None], ev.Event] | None = None
        self.getting: asyncio.Task[ev.Event | None] | None = None
        self.accepted: list[ev.Event] = []
        self.delivered: list[ev.Event] = []
        self.heaviest = 0
        self.closed = self.gone = self.ended = False

    def look(self) -> None:
        """Everybody goes on as far as they can; then it is noted what they did."""
        self.loop.settle()
        if self.putting and self.putting[0].done():
            (task, event), self.putting = self.putting, None
            if not task.cancelled():
                if isinstance(task.exception(), ClientGone):
                    assert self.gone or self.policy == "disconnect"
                    self.gone = True
                else:
                    task.result()
                    self.accepted.append(event)
        if self.getting and self.getting.done():
            task, self.getting = self.getting, None
            if not task.cancelled():
                event = task.result()
                self.ended = event is None
                self.delivered += [] if event is None else [event]

    def event(self, kind: str, message_id: str, chars: int) -> ev.Event:
        said = (f"{next(self.numbers)}," + "é" * 40)[:chars]
        return {
            "text": ev.TextDelta(text=said, message_id=message_id),
            "reasoning": ev.ReasoningDelta(text=said, message_id=message_id),
            "finished": ev.MessageFinished(message_id=message_id),
            "tool": ev.ToolCallResult(tool_call_id="c", result=said),
            "custom": ev.Custom(name=said),
        }[kind]

    @rule(
        action=st.sampled_from(ACTIONS),
        kind=st.sampled_from(["text", "text", "text", "reasoning", "finished", "tool", "custom"]),
        message_id=st.sampled_from(["a", "b"]),
        chars=st.integers(0, 40),
        ms=st.sampled_from([76, 40, 1]),
    )
    def step(self, action, kind, message_id, chars, ms):
        """One rule for all: rules of their own would be left out of most runs."""
        has_lived = len(self.accepted) >= self.lives
        match action:
            case "put" if not self.putting and not self.closed:
                event = self.event(kind, message_id, chars)
                self.putting = (self.loop.create_task(self.channel.put(event)), event)
                self.heaviest = max(self.heaviest, event_bytes(event, 10**6))
            case "get" if not self.getting and not self.ended:
                self.getting = self.loop.create_task(self.channel.get())
            case "cancel the put" if self.putting:
                self.putting[0].cancel()
            case "cancel the get" if self.getting:
                self.getting.cancel()
            case "wait":
                self.loop.run_until_complete(asyncio.sleep(ms / 1000))
                self.look()
                assert ms < 76 or not self.getting or not self.channel.queued_events
            case "close" if not self.putting and has_lived:
                self.channel.close()
                self.closed = True
            case "leave" if has_lived and not self.gone:
                self.gone = not self.channel.is_over
                self.channel.abandon()
        self.look()

    @invariant()
    def bounds_hold(self):
        if not hasattr(self, "channel"):
            return
        channel, counts = self.channel, self.channel.counts
        assert channel.queued_events <= self.max_events
        assert counts.most_events <= self.max_events
        assert counts.most_bytes <= max(self.max_bytes, self.heaviest)
        assert channel.queued_bytes <= self.max_bytes or channel.queued_events == 1
        assert (channel.queued_bytes == 0) == (channel.queued_events == 0)

    @invariant()
    def all_that_was_accepted_is_accounted_for(self):
        if not hasattr(self, "channel"):
            return
        counts = self.channel.counts
        assert counts.accepted_events == len(self.accepted)
        assert counts.delivered_events == sum(not is_whole(one) for one in self.delivered)
        assert counts.wholes == sum(map(is_whole, self.delivered))
        assert counts.accepted_events == (
            counts.delivered_events
            + counts.joined_events
            + counts.dropped_events
            + counts.unsent_events
            + self.channel.queued_events
        )

    @invariant()
    def nobody_waits_for_nothing(self):
        if not hasattr(self, "channel"):
            return
        if self.putting:
            assert self.channel.queued_events
            assert self.policy != "disconnect"
            assert self.policy != "drop" or not isinstance(self.putting[1], DELTAS)
        if self.getting and self.channel.queued_events:
            assert self.policy == "coalesce"
            assert self.channel.queued_events == 1
            assert not self.putting

    def teardown(self):
        if not hasattr(self, "channel"):
            return
        for _ in range(1000):
            self.look()
            if self.ended:
                break
            if not self.getting:
                self.getting = self.loop.create_task(self.channel.get())
            if not self.putting:
                self.channel.close()
            self.loop.run_until_complete(asyncio.sleep(WINDOW_S))
        assert self.ended
        self.bounds_hold()
        self.all_that_was_accepted_is_accounted_for()
        assert self.channel.queued_events == 0
        self.check_what_arrived()
        self.loop.close()

    def check_what_arrived(self):
        arrived = [event for event in self.delivered if not is_whole(event)]
        if self.gone:
            many = [event for event in self.accepted if not isinstance(event, DELTAS)]
            few = [event for event in arrived if not isinstance(event, DELTAS)]
            assert many[: len(few)] == few
        elif self.policy == "coalesce":
            assert joined(arrived) == joined(self.accepted)
        elif self.policy == "drop":
            missing = without(self.accepted, arrived)
            assert all(isinstance(event, DELTAS) for event in missing)
            assert self.channel.counts.dropped_events == len(missing)
            assert self.channel.counts.dropped_chars == sum(len(event.text) for event in missing)
            by_message: dict[str | None, int] = {}
            for event in missing:
                if isinstance(event, ev.TextDelta):
                    chars = by_message.get(event.message_id, 0) + len(event.text)
                    by_message[event.message_id] = chars
            told = {key: chars for key, chars in self.channel.missing.items() if chars}
            assert told == {key: chars for key, chars in by_message.items() if chars}
            if self.wholes and len(text_of(self.accepted)) * 4 <= self.max_bytes:
                shown = [one for one in read(self.delivered) if one[1]]
                assert shown == [one for one in read(self.accepted) if one[1]]
        else:
            assert arrived == self.accepted


def text_of(events: Iterable[ev.Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ev.TextDelta))


def without(events: list[ev.Event], arrived: list[ev.Event]) -> list[ev.Event]:
    """The events that did not arrive; those that did came in their order."""
    missing, rest = [], iter(events)
    for one in arrived:
        for event in rest:
            if event is one:
                break
            missing.append(event)
        else:
            raise AssertionError(f"not in its place: {one}")
    return [*missing, *rest]


class Block(ChannelLaws):
    policy = "block"


class Drop(ChannelLaws):
    policy = "drop"


class Coalesce(ChannelLaws):
    policy = "coalesce"


class Disconnect(ChannelLaws):
    policy = "disconnect"


TestBlock = Block.TestCase
TestDrop = Drop.TestCase
TestCoalesce = Coalesce.TestCase
TestDisconnect = Disconnect.TestCase
TestBlock.settings = TestDrop.settings = TestCoalesce.settings = TestDisconnect.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


# --- each policy, by example -----------------------------------------------------------------


async def drained(channel: Channel) -> list[ev.Event]:
    channel.close()
    return [event async for event in channel]


def texts(events: Iterable[ev.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, DELTAS)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_producer_that_never_waits_does_not_make_its_client_slow(policy):
    """The client is given a turn before anything is held against it."""

    async def scenario():
        channel = Channel(policy, max_events=4)
        got: list[ev.Event] = []

        async def consume():
            got.extend([event async for event in channel])

        consumer = asyncio.create_task(consume())
        for at in range(1000):
            await channel.put(ev.Custom(name=str(at)) if at % 2 else text(f"{at},"))
        channel.close()
        await consumer
        assert channel.counts.dropped_events == 0
        return got

    got = run(scenario())
    assert [event.name for event in got if isinstance(event, ev.Custom)] == [
        str(at) for at in range(1, 1000, 2)
    ]
    assert "".join(texts(got)) == "".join(f"{at}," for at in range(0, 1000, 2))


def test_block_lets_the_agent_wait_and_says_how_long():
    async def scenario():
        loop = asyncio.get_running_loop()
        channel = Channel("block", max_events=2, clock_ns=loop.time_ns)
        await channel.put(text("a"))
        await channel.put(text("b"))
        waiting = asyncio.create_task(channel.put(text("c")))
        await asyncio.sleep(3)
        assert not waiting.done()
        first = await channel.get()
        await waiting
        assert texts([first, *await drained(channel)]) == ["a", "b", "c"]
        return channel.counts

    counts = run(scenario())
    assert counts.waited_ns == 3_000_000_000
    assert (counts.most_events, counts.dropped_events) == (2, 0)


def test_drop_takes_the_oldest_deltas_and_counts_them():
    async def scenario():
        channel = Channel("drop", max_events=4)
        call = ev.ToolCallStarted(tool_call_id="c")
        for event in (text("one"), call, ev.ReasoningDelta(text="hm"), text("two"), text("three")):
            await channel.put(event)
        assert channel.missing == {"m": 3}
        await channel.put(ev.Usage(output_tokens=1))
        assert (channel.counts.dropped_events, channel.counts.dropped_chars) == (2, 5)
        return await drained(channel)

    call, *rest = run(scenario())
    assert isinstance(call, ev.ToolCallStarted)
    assert texts(rest) == ["two", "three"]


def test_drop_waits_with_what_may_not_be_dropped():
    """Deltas do not wait even then: they are what is dropped."""

    async def scenario():
        channel = Channel("drop", max_events=2)
        calls = [ev.ToolCallStarted(tool_call_id=str(at)) for at in range(3)]
        await channel.put(calls[0])
        await channel.put(calls[1])
        await channel.put(text("lost"))
        waiting = asyncio.create_task(channel.put(calls[2]))
        await asyncio.sleep(1)
        assert not waiting.done()
        first = await channel.get()
        await waiting
        assert [first, *await drained(channel)] == calls
        assert channel.missing == {"m": 4}

    run(scenario())


def test_drop_gives_up_nothing_where_that_makes_no_room():
    async def scenario():
        channel = Channel("drop", max_bytes=3 * EVENT_BYTES)
        large = ev.ToolCallResult(tool_call_id="c", result="x" * 2 * EVENT_BYTES)
        await channel.put(ev.ToolCallStarted(tool_call_id="c"))
        await channel.put(text("kept"))
        waiting = asyncio.create_task(channel.put(large))
        await asyncio.sleep(1)
        assert not waiting.done()
        assert channel.counts.dropped_events == 0
        waiting.cancel()
        return await drained(channel)

    assert texts(run(scenario())) == ["kept"]


def test_deltas_are_delivered_at_most_once_per_window():
    """The first of a message at once; all that comes within the window together."""

    async def scenario():
        loop = asyncio.get_running_loop()
        channel = Channel("coalesce", window_s=WINDOW_S, clock_ns=loop.time_ns)

        async def produce():
            for at in range(12):
                await channel.put(text(f"{at},"))
                await asyncio.sleep(0.02)
            channel.close()

        producer = asyncio.create_task(produce())
        got = [(round(loop.time() * 1000), event.text) async for event in channel]
        await producer
        return got

    assert run(scenario()) == [
        (0, "0,"),
        (75, "1,2,3,"),
        (150, "4,5,6,7,"),
        (225, "8,9,10,11,"),
    ]


@pytest.mark.parametrize(
    "event",
    [
        ev.MessageFinished(message_id="m"),
        ev.ToolCallStarted(tool_call_id="c"),
        ev.Heartbeat(),
        text("other", "n"),
        ev.ReasoningDelta(text="hm", message_id="m"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_another_event_is_not_delayed_and_flushes_what_is_before_it(event):
    async def scenario():
        loop = asyncio.get_running_loop()
        channel = Channel("coalesce", window_s=WINDOW_S, clock_ns=loop.time_ns)
        await channel.put(text("a"))
        assert await channel.get() == text("a")
        getting = asyncio.create_task(channel.get())
        await channel.put(text("b"))
        await asyncio.sleep(0.01)
        assert not getting.done()
        await channel.put(event)
        assert [await getting, await channel.get()] == [text("b"), event]
        assert round(loop.time() * 1000) == 10

    run(scenario())


def test_a_lagging_client_gets_few_events_and_all_text():
    async def scenario():
        channel = Channel("coalesce", max_events=2)
        for at in range(10_000):
            await channel.put(text(f"line {at}\r\n"))
        await channel.put(ev.RunFinished())
        assert channel.counts.joined_events == 9_999
        assert channel.counts.most_events == 2
        return await drained(channel)

    whole, _ = run(scenario())
    assert whole.text == "".join(f"line {at}\r\n" for at in range(10_000))


def test_a_producer_that_waits_ends_the_window():
    """Where no more can be joined, nothing is gained by holding it."""

    async def scenario():
        loop = asyncio.get_running_loop()
        channel = Channel("coalesce", max_bytes=2 * EVENT_BYTES, clock_ns=loop.time_ns)
        await channel.put(text("a"))
        assert await channel.get() == text("a")
        getting = asyncio.create_task(channel.get())
        await channel.put(text("b" * EVENT_BYTES))
        await channel.put(text("c"))
        assert await getting == text("b" * EVENT_BYTES)
        assert loop.time() == 0

    run(scenario())


def test_disconnect_ends_the_channel_when_it_is_full():
    async def scenario():
        channel = Channel("disconnect", max_events=2)
        await channel.put(text("a"))
        await channel.put(text("b"))
        with pytest.raises(ClientGone, match="slow_client") as raised:
            await channel.put(text("c"))
        assert raised.value.reason == channel.reason == "slow_client"
        assert await channel.get() is None
        assert (channel.counts.unsent_events, channel.queued_bytes) == (2, 0)
        with pytest.raises(ClientGone):
            await channel.put(text("d"))

    run(scenario())


# --- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_consumer_that_left_is_told_to_who_puts_at_once(policy):
    async def scenario():
        channel = Channel(policy, max_events=1)
        await channel.put(ev.Custom(name="first"))
        channel.abandon()
        with pytest.raises(ClientGone, match="client_gone"):
            await channel.put(text("b"))

    run(scenario())


def test_a_put_that_waits_when_the_consumer_leaves_is_told():
    async def scenario():
        channel = Channel(max_events=1)
        await channel.put(text("a"))
        waiting = asyncio.create_task(channel.put(text("b")))
        await asyncio.sleep(1)
        channel.abandon()
        with pytest.raises(ClientGone):
            await waiting
        assert channel.counts.unsent_events == 1

    run(scenario())


def test_an_event_larger_than_the_channel_passes_alone():
    async def scenario():
        channel = Channel(max_bytes=EVENT_BYTES)
        large = ev.State(value=["x" * 1000])
        await channel.put(large)
        waiting = asyncio.create_task(channel.put(text("b")))
        await asyncio.sleep(1)
        assert not waiting.done()
        assert await channel.get() is large
        await waiting

    run(scenario())


def test_nothing_is_put_behind_the_end():
    async def scenario():
        channel = Channel()
        channel.close()
        with pytest.raises(RuntimeError, match="closed: finished"):
            await channel.put(text("a"))
        assert await channel.get() is None
        assert channel.reason == "finished"

    run(scenario())


def test_one_consumer_and_one_producer():
    async def scenario():
        channel = Channel(max_events=1)
        getting = asyncio.create_task(channel.get())
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="one consumer"):
            await channel.get()
        await channel.put(text("a"))
        await getting
        await channel.put(text("b"))
        putting = asyncio.create_task(channel.put(text("c")))
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="one producer"):
            await channel.put(text("d"))
        channel.abandon()
        await asyncio.wait([putting])
        assert isinstance(putting.exception(), ClientGone)

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"policy": "drop_oldest"}, "block, drop, coalesce, disconnect, not 'drop_oldest'"),
        ({"max_events": 0}, "max_events must be at least 1, got 0"),
        ({"max_bytes": -1}, "max_bytes must be at least 1, got -1"),
        ({"window_s": 75}, "window_s is in seconds, from 0 to 60, got 75"),
        ({"policy": "block", "whole_messages": True}, "for policy 'drop'"),
    ],
)
def test_what_it_cannot_be_made_with(arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Channel(**arguments)


# --- whole messages --------------------------------------------------------------------------


def told(events: Iterable[ev.Event], max_events: int = 3, **options) -> list[ev.Event]:
    """What a consumer gets who begins when the run is over, or when a put waits for it."""

    async def scenario():
        channel = Channel("drop", max_events=max_events, whole_messages=True, **options)

        async def produce():
            for event in events:
                await channel.put(event)
            channel.close()

        producer = asyncio.create_task(produce())
        await asyncio.sleep(1)
        got = [event async for event in channel]
        await producer
        return got

    return run(scenario())


def whole(message_id: str | None, value: str | None, lacks: int) -> ev.Custom:
    value = {"message_id": message_id, "text": value, "dropped_chars": lacks}
    return ev.Custom(name=MESSAGE_WHOLE, value=value)


def test_a_message_that_lost_text_is_told_whole_before_its_end():
    got = told([text("a"), text("b"), text("c"), text("d"), ev.MessageFinished(message_id="m")])
    assert got[2:] == [whole("m", "abcd", 2), ev.MessageFinished(message_id="m")]
    assert texts(got) == ["c", "d"]


def test_text_that_is_lost_after_the_end_was_put_is_told_as_well():
    """It stood in the queue before it, and later text took its place."""
    end = ev.MessageFinished(message_id="m")
    got = told([text("a"), end, text("b", "n"), text("c", "n"), ev.RunFinished()])
    wholes = [whole("m", "a", 1), whole("n", "bc", 1)]
    assert got == [wholes[0], end, text("c", "n"), wholes[1], ev.RunFinished()]


def test_a_message_without_loss_is_not_repeated():
    run_of = [text("a"), text("b"), ev.MessageFinished(message_id="m")]
    assert told(run_of) == run_of


@pytest.mark.parametrize(
    "end", [ev.RunFinished(), ev.RunFailed(), ev.RunInterrupted(), ev.RunCancelled()]
)
def test_the_end_of_the_run_ends_all_messages(end):
    got = told([text("a", "m"), text("b", "n"), text("c", "m"), text("d", "n"), end])
    assert got[-3:] == [whole("m", "ac", 1), whole("n", "bd", 1), end]


def test_the_end_of_the_channel_ends_all_messages():
    got = told([text("a"), text("b"), text("c"), text("d")])
    assert got[-1] == whole("m", "abcd", 1)


def test_text_without_an_id_is_of_the_message_under_way_or_of_its_turn():
    result = ev.ToolCallResult(tool_call_id="c")
    started, finished = ev.MessageStarted(message_id="m"), ev.MessageFinished()
    nameless = [text("a", None), text("b", None), result, text("c", None), text("d", None)]
    got = told([*nameless, started, text("e", None), text("f", None), finished], max_events=4)
    wholes = [event for event in got if is_whole(event)]
    assert wholes == [whole(None, "ab", 2), whole("m", "ef", 1), whole(None, "cd", 2)]
    assert got.index(wholes[0]) + 1 == got.index(result)


def test_a_text_too_long_to_be_kept_is_not_told_in_half():
    got = told(
        [text("a" * 500), text("b" * 500), ev.RunFinished()],
        max_events=1,
        max_bytes=EVENT_BYTES + 500,
    )
    assert got == [whole("m", None, 1000), ev.RunFinished()]


def test_texts_of_messages_that_are_told_make_room_for_others():
    """What is kept is that of messages under way, and never more than the bound."""
    messages = Messages(max_bytes=10)
    for at in range(5):
        message = messages.grow(text("12345678", str(at)))
        messages.lose(message, 8)
        (ended,) = messages.ended_by(ev.MessageFinished(message_id=str(at)))
        assert messages.whole(ended) == whole(str(at), "12345678", 8)


def test_with_too_many_messages_none_is_told_in_half(monkeypatch):
    monkeypatch.setattr("streamtrace.serve.whole.MAX_MESSAGES", 2)
    messages = Messages(max_bytes=1000)
    for at in range(4):
        messages.lose(messages.grow(text("begin", str(at))), 5)
    assert [messages.whole(one) for one in messages.ended_by(ev.MessageFinished(message_id="0"))]
    messages.grow(text(" end", "3"))  # there is room now, but it began before
    wholes = [messages.whole(one) for one in messages.end()]
    assert wholes == [whole("1", "begin", 5), None]
    assert len(messages.missing) == 2


# --- weight ----------------------------------------------------------------------------------


def test_events_weigh_at_least_their_text_in_any_encoding():
    for said in ("plain", "né", "日本", "🙂"):
        assert event_bytes(text(said), 10**6) >= EVENT_BYTES + len(said.encode())
        in_a_value = ev.Custom(name="x", value={"deep": [said, {said: said}]})
        assert event_bytes(in_a_value, 10**6) >= EVENT_BYTES + 3 * len(said.encode())


def test_a_value_is_not_walked_further_than_matters():
    endless: list[object] = []
    endless += [endless, endless]
    assert event_bytes(ev.State(value=endless), 10_000) < 11_000
