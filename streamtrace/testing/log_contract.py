"""What every log of runs must keep, as tests: subclass, say how yours is made, and let pytest
collect it.

    class TestMyLog(EventLogContract):
        def make(self, bounds: LogBounds) -> EventLog:
            return MyLog("db.example", bounds)

        def elsewhere(self, log: EventLog) -> EventLog:
            return MyLog("db.example", log.bounds)

Each test has runs of its own, so that a store may serve all of them. Time passes for real, but
nothing depends on how fast: what must happen is waited for, and what must not is tried often.
"""

from __future__ import annotations

import asyncio
import functools
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from streamtrace.core.errors import LeaseLost, LogError, LogUnavailable, RunExists, UnknownRun
from streamtrace.serve.log.base import EventLog, LogBounds, LogEntry, Page, RunKey

WITHIN_S = 20.0
"""The most that a test may take."""

SHORT_S = 0.15
"""A lease, and a time to keep, that a test waits for the end of."""

_LONG_S = 60.0
_EVERY_S = 0.01
_OWNER = "owner-" + "o" * 26
_META = b'{"thread": "\x00"}'
_ODD = ("a:b", "a", "{a}", "a}b{", "%3A", "ü 世", "\x00\n", "*", "-", "a/../b", "None", "'; --")

T = TypeVar("T", bound="EventLogContract")


class Sides:
    """A log as the producer has it, as readers have it, and a run that is not begun."""

    def __init__(self, log: EventLog, seen: EventLog) -> None:
        self.log = log
        self.seen = seen
        self.key = new_key()

    async def create(self, last_id: int = 0) -> None:
        """Begin the run."""
        await self.log.create(self.key, _OWNER, _META, last_id=last_id)

    async def append(self, *entries: bytes, after: int) -> int:
        """Write; the number of the last entry."""
        return (await self.log.append(self.key, _OWNER, entries, after=after)).last_id

    async def finish(self, last_id: int) -> None:
        """End the run."""
        await self.log.finish(self.key, _OWNER, b"done", last_id=last_id)

    async def read(self, after: int = 0, **limits: Any) -> list[tuple[int, bytes]]:
        """What a reader gets in one page."""
        return told(await self.seen.read(self.key, after, **limits))


_Test = Callable[[T, Sides], Coroutine[Any, Any, None]]


def _with(**bounds: Any) -> Callable[[_Test[T]], Callable[[T], None]]:
    """A test of a log with such bounds, as pytest calls it."""

    def decorate(test: _Test[T]) -> Callable[[T], None]:
        @functools.wraps(test)
        def run(self: T) -> None:
            self.run(_tested(self, functools.partial(test, self), LogBounds(**bounds)))

        del run.__wrapped__  # pytest would take its parameters for fixtures
        return run

    return decorate


async def _tested(
    contract: EventLogContract, test: Callable[[Sides], Awaitable[None]], bounds: LogBounds
) -> None:
    log = contract.make(bounds)
    seen = contract.elsewhere(log)
    try:
        async with asyncio.timeout(WITHIN_S):
            await test(Sides(log, seen))
    finally:
        await seen.aclose()
        await log.aclose()


class EventLogContract:
    """The tests. `make` gives a new log each time."""

    def make(self, bounds: LogBounds) -> EventLog:
        """A log to be tested."""
        raise NotImplementedError(f"{type(self).__name__} must define make()")

    def elsewhere(self, log: EventLog) -> EventLog:
        """The same log as another process has it; the very same, where there is no other."""
        return log

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a test. For those who have a loop of their own."""
        asyncio.run(work)

    # Numbers, and what is missing.

    @_with()
    async def test_entries_are_numbered_from_one(self, on: Sides) -> None:
        """And are read from any of them on."""
        await on.create()
        assert await on.read() == []
        assert await on.append(b"a", b"b", after=0) == 2
        assert await on.append(b"c", after=2) == 3
        whole = [(1, b"a"), (2, b"b"), (3, b"c")]
        assert [await on.read(after) for after in range(5)] == [
            whole, whole[1:], whole[2:], [], [],
        ]  # fmt: skip
        assert (await on.seen.state(on.key)).last_id == 3

    @_with()
    async def test_what_could_not_be_written_keeps_its_numbers(self, on: Sides) -> None:
        """Between entries, before the first, and behind the last."""
        await on.create(last_id=3)
        assert (await on.seen.state(on.key)).last_id == 3
        assert await on.append(b"f", after=5) == 6
        assert await on.append(b"j", after=9) == 10
        assert await on.append(after=12) == 12
        await on.finish(last_id=20)
        assert await on.read() == [(6, b"f"), (10, b"j")]
        page = await on.seen.read(on.key, 10, wait_s=_LONG_S)
        assert (page.entries, page.state.last_id) == ([], 20)

    @_with()
    async def test_what_is_written_twice_is_there_once(self, on: Sides) -> None:
        """An answer was lost, or an append came late."""
        await on.create()
        assert await on.append(b"a", b"b", after=0) == 2
        assert await on.append(b"a", b"b", after=0) == 2
        assert await on.append(b"b", b"c", after=1) == 3
        assert await on.append(b"e", after=4) == 5
        assert await on.append(b"d", b"e", after=3) == 5
        assert await on.read() == [(1, b"a"), (2, b"b"), (3, b"c"), (5, b"e")]

    @_with(max_events=3)
    async def test_the_oldest_go_when_there_are_too_many(self, on: Sides) -> None:
        """Within one append, too; and the hole is seen."""
        await on.create()
        await on.append(b"a", b"b", after=0)
        written = await on.log.append(on.key, _OWNER, [b"c", b"d"], after=2)
        assert (written.last_id, written.kept_events, written.kept_bytes) == (4, 3, 3)
        assert await on.read() == [(2, b"b"), (3, b"c"), (4, b"d")]
        assert await on.read(2) == [(3, b"c"), (4, b"d")]
        await on.append(*[b"x"] * 7, after=4)
        assert [number for number, _ in await on.read()] == [9, 10, 11]

    @_with(max_bytes=10)
    async def test_the_oldest_go_when_they_are_too_large(self, on: Sides) -> None:
        """And what is larger than all that may be kept is not: it leaves its number."""
        await on.create()
        written = await on.log.append(on.key, _OWNER, [b"4444", b"333", b"4444"], after=0)
        assert (written.kept_events, written.kept_bytes) == (2, 7)
        assert await on.read() == [(2, b"333"), (3, b"4444")]
        written = await on.log.append(on.key, _OWNER, [b"x" * 11], after=3)
        assert (written.last_id, written.kept_events, written.kept_bytes) == (4, 0, 0)
        assert await on.read() == []
        await on.append(b"", b"y", after=4)
        assert await on.read(4) == [(5, b""), (6, b"y")]

    @_with()
    async def test_a_page_is_bounded_but_never_empty(self, on: Sides) -> None:
        """Entries are bytes of any kind and size."""
        entries = [b"", bytes(range(256)), b"\r\n\0" * 100_000, b"x" * 3_000_000, b"y"]
        await on.create()
        await on.append(*entries, after=0)
        await on.finish(last_id=5)
        for max_bytes in (1, 256, 300_000, 100_000_000):
            pages: list[LogEntry] = []
            while len(pages) < 5:
                page = await on.seen.read(on.key, len(pages), max_bytes=max_bytes)
                size = sum(len(entry.data) for entry in page.entries)
                assert size <= max_bytes or len(page.entries) == 1
                pages += page.entries
            assert [entry.data for entry in pages] == entries

    # How a run stands.

    @_with()
    async def test_a_run_lives_until_it_is_finished(self, on: Sides) -> None:
        """What its producer says of it is bytes of any kind, also none."""
        await on.create()
        state = await on.seen.state(on.key)
        assert (state.phase, state.meta, state.outcome) == ("live", _META, None)
        await on.append(b"a", after=0)
        await on.log.finish(on.key, _OWNER, b"", last_id=1)
        state = await on.seen.state(on.key)
        assert (state.phase, state.meta, state.outcome) == ("finished", _META, b"")
        assert (await on.seen.read(on.key, 0)).state == state

    @_with()
    async def test_a_run_is_begun_once(self, on: Sides) -> None:
        """By another owner never, whether it lives or is over; by its own it changes nothing."""
        await on.create()
        await on.append(b"a", after=0)
        await on.create()
        assert await on.read() == [(1, b"a")]
        await _raises(RunExists, on.log.create(on.key, "another", b""))
        await on.finish(last_id=1)
        await _raises(RunExists, on.log.create(on.key, "another", b""))
        assert await on.read() == [(1, b"a")]

    @_with()
    async def test_only_its_owner_writes_a_run(self, on: Sides) -> None:
        """And nobody, once it is over; to say so again is no error."""
        await on.create()
        await on.append(b"a", after=0)
        for writes in (
            on.seen.append(on.key, "another", [b"b"], after=1),
            on.seen.renew(on.key, "another"),
            on.seen.finish(on.key, "another", b"", last_id=1),
        ):
            await _raises(LeaseLost, writes)
        await on.finish(last_id=1)
        await on.finish(last_id=1)
        await _raises(LeaseLost, on.append(b"b", after=1))
        await _raises(LeaseLost, on.log.renew(on.key, _OWNER))
        await _raises(LeaseLost, on.seen.finish(on.key, "another", b"", last_id=1))
        assert await on.read() == [(1, b"a")]

    @_with(lease_s=SHORT_S)
    async def test_a_run_whose_producer_is_silent_is_orphaned(self, on: Sides) -> None:
        """It stays so: its producer writes no more. What it wrote is there."""
        await on.create()
        await on.append(b"a", after=0)
        await _until_phase(on, "orphaned")
        await _raises(LeaseLost, on.append(b"b", after=1))
        await _raises(LeaseLost, on.log.renew(on.key, _OWNER))
        await _raises(LeaseLost, on.finish(last_id=1))
        assert await on.read() == [(1, b"a")]
        page = await on.seen.read(on.key, 1, wait_s=_LONG_S)
        assert (page.entries, page.state.phase) == ([], "orphaned")
        assert page.state.outcome is None
        assert not await on.seen.ask_stop(on.key)

    @_with(lease_s=0.5)
    async def test_to_write_or_to_renew_holds_the_lease(self, on: Sides) -> None:
        """For as long as the producer is not held up itself: then the attempt says nothing."""
        loop = asyncio.get_running_loop()
        for hold in (self._renew, self._append_nothing):
            is_held_up = True
            while is_held_up:
                on.key = new_key()
                await on.create()
                began = held = loop.time()
                is_held_up = False
                while held - began < 0.8 and not is_held_up:
                    await asyncio.sleep(0.1)
                    await hold(on)
                    is_live = (await on.seen.state(on.key)).phase == "live"
                    is_held_up, held = loop.time() - held > 0.4, loop.time()
                    assert is_live or is_held_up

    @_with(keep_s=SHORT_S)
    async def test_a_run_is_forgotten_some_time_after_its_end(self, on: Sides) -> None:
        """With its thread; then its id is free."""
        await on.log.create(on.key, _OWNER, _META, thread_id="thread")
        await on.append(b"a", after=0)
        await on.finish(last_id=1)
        await _until_forgotten(on)
        assert await on.seen.current(on.key.tenant, "thread") is None
        await on.create()
        assert await on.read() == []

    @_with(lease_s=SHORT_S, keep_s=SHORT_S)
    async def test_a_run_that_was_orphaned_is_forgotten_as_well(self, on: Sides) -> None:
        """Whether anybody saw it or not."""
        await on.create()
        await _until_forgotten(on)
        await _raises(UnknownRun, on.log.renew(on.key, _OWNER))

    @_with()
    async def test_what_is_not_known_is_said_to_be_so(self, on: Sides) -> None:
        """By everything that is about a run."""
        for asks in (
            on.append(b"a", after=0),
            on.log.renew(on.key, _OWNER),
            on.finish(last_id=0),
            on.seen.read(on.key, 0),
            on.seen.read(on.key, 0, wait_s=_LONG_S),
            on.seen.state(on.key),
            on.seen.ask_stop(on.key),
        ):
            await _raises(UnknownRun, asks)
        assert await on.seen.current(on.key.tenant, "thread") is None

    @_with()
    async def test_a_producer_hears_that_it_shall_stop(self, on: Sides) -> None:
        """Whoever asked, and from wherever; the first only is told that it was they."""
        await on.create()
        assert not (await on.log.append(on.key, _OWNER, [b"a"], after=0)).is_stopped
        assert not await on.log.renew(on.key, _OWNER)
        assert await on.seen.ask_stop(on.key)
        assert not await on.log.ask_stop(on.key)
        assert await on.log.renew(on.key, _OWNER)
        assert (await on.log.append(on.key, _OWNER, [b"b"], after=1)).is_stopped
        assert (await on.seen.state(on.key)).is_stopped
        await on.finish(last_id=2)
        assert not await on.seen.ask_stop(on.key)
        assert (await on.seen.state(on.key)).is_stopped

    # Whose run it is.

    @_with()
    async def test_a_thread_has_the_run_that_began_last(self, on: Sides) -> None:
        """Live or over; of its tenant only."""
        tenant = on.key.tenant
        assert await on.seen.current(tenant, "thread") is None
        await on.log.create(on.key, _OWNER, b"", thread_id="thread")
        assert await on.seen.current(tenant, "thread") == on.key.run_id
        newer = RunKey(uuid.uuid4().hex, tenant)
        await on.log.create(newer, _OWNER, b"", thread_id="thread")
        await on.finish(last_id=0)
        assert await on.seen.current(tenant, "thread") == newer.run_id
        await on.log.finish(newer, _OWNER, b"", last_id=0)
        assert await on.seen.current(tenant, "thread") == newer.run_id
        assert await on.seen.current(f"not-{tenant}", "thread") is None
        assert await on.seen.current(None, "thread" + newer.run_id) is None

    @_with()
    async def test_names_of_any_characters_are_kept_apart(self, on: Sides) -> None:
        """Tenants do not see each other, nor is a tenant taken for none."""
        salt = uuid.uuid4().hex
        tenants = (None, "", *_ODD)
        keys = [RunKey(salt + run_id, tenant) for run_id in _ODD for tenant in tenants]
        for number, key in enumerate(keys):
            thread_id = f"{salt}{key.run_id[len(salt) :]}"
            await on.log.create(key, _OWNER, str(number).encode(), thread_id=thread_id)
        for number, key in enumerate(keys):
            assert (await on.seen.state(key)).meta == str(number).encode()
            assert await on.seen.current(key.tenant, key.run_id) == key.run_id
        await _raises(UnknownRun, on.seen.state(RunKey(salt + _ODD[0], "stranger")))
        await _raises(UnknownRun, on.seen.state(RunKey(salt, None)))

    # Those who read while it is written.

    @_with()
    async def test_who_waits_is_woken_by_an_entry(self, on: Sides) -> None:
        """Not by a hole: it is told with the entry behind it."""
        await on.create()
        waits = asyncio.create_task(on.read(wait_s=_LONG_S))
        await _waits(waits)
        await on.append(after=4)
        await _waits(waits)
        await on.append(b"f", after=5)
        assert await waits == [(6, b"f")]

    @_with()
    async def test_who_waits_is_woken_by_the_end(self, on: Sides) -> None:
        """And told of it."""
        await on.create()
        waits = asyncio.create_task(on.seen.read(on.key, 0, wait_s=_LONG_S))
        await _waits(waits)
        await on.finish(last_id=0)
        page = await waits
        assert (page.entries, page.state.phase) == ([], "finished")

    @_with(lease_s=SHORT_S)
    async def test_who_waits_is_woken_when_the_producer_is_gone(self, on: Sides) -> None:
        """Nobody else has to look."""
        await on.create()
        assert (await on.seen.read(on.key, 0, wait_s=_LONG_S)).state.phase == "orphaned"

    @_with()
    async def test_who_waits_goes_when_it_was_long_enough(self, on: Sides) -> None:
        """With nothing; also behind the newest entry, and before it was written."""
        await on.create()
        await on.append(b"a", after=0)
        for after in (1, 7):
            page = await on.seen.read(on.key, after, wait_s=0.05)
            assert (page.entries, page.state.phase) == ([], "live")

    @_with()
    async def test_who_stops_waiting_leaves_nothing(self, on: Sides) -> None:
        """However many, however often."""
        await on.create()
        for _ in range(3):
            waits = [asyncio.create_task(on.read(wait_s=_LONG_S)) for _ in range(50)]
            await _waits(*waits)
            for one in waits[:-1]:
                one.cancel()
            await asyncio.wait(waits[:-1])
            last = (await on.seen.state(on.key)).last_id
            await on.append(b"a", after=last)
            assert (await waits[-1])[-1] == (last + 1, b"a")
            on.key = new_key()
            await on.create()

    @_with()
    async def test_who_waits_is_sent_away_when_the_log_is_closed(self, on: Sides) -> None:
        """Which can be done twice; and who asks again opens it again."""
        await on.create()
        waits = asyncio.create_task(on.seen.read(on.key, 0, wait_s=_LONG_S))
        await _waits(waits)
        await on.seen.aclose()
        await on.seen.aclose()
        await _raises(LogUnavailable, waits)
        assert (await on.seen.state(on.key)).phase == "live"

    @_with()
    async def test_every_reader_gets_everything_once_and_in_order(self, on: Sides) -> None:
        """From wherever, fast or slow, while two runs are written at once."""
        dice = _dice(7)
        runs = (on, Sides(on.log, on.seen))
        wholes = [[b"%d/%d" % (which, number) for number in range(1, 201)] for which in (0, 1)]
        reading = []
        for run, whole in zip(runs, wholes, strict=True):
            await run.create()
            reading += [
                (whole[after:], asyncio.create_task(_follow(run, after, _dice(after))))
                for after in (0, 0, 1, 57, 199, 200)
            ]
        await asyncio.gather(
            *(_write(run, whole, dice) for run, whole in zip(runs, wholes, strict=True))
        )
        for expected, reader in reading:
            assert [data for _, data in await reader] == expected

    @_with(max_events=20)
    async def test_a_reader_that_is_too_slow_sees_what_it_misses(self, on: Sides) -> None:
        """What it gets is numbered right."""
        whole = [b"%d" % number for number in range(1, 301)]
        await on.create()
        reader = asyncio.create_task(_follow(on, 0, random.Random(3)))  # noqa: S311
        await _write(on, whole, _dice(4))
        got = await reader
        numbers = [number for number, _ in got]
        assert numbers == sorted(set(numbers))
        assert all(data == b"%d" % number for number, data in got)
        assert numbers[-20:] == list(range(281, 301))

    async def _renew(self, on: Sides) -> None:
        try:
            await on.log.renew(on.key, _OWNER)
        except LeaseLost:
            return  # told by the state

    async def _append_nothing(self, on: Sides) -> None:
        try:
            await on.append(after=0)
        except LeaseLost:
            return  # told by the state


def new_key() -> RunKey:
    """Of a run, and a tenant, that nobody has."""
    return RunKey(uuid.uuid4().hex, uuid.uuid4().hex)


def told(page: Page) -> list[tuple[int, bytes]]:
    """The entries of a page, in short."""
    return [(entry.id, entry.data) for entry in page.entries]


def _dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


async def _write(on: Sides, whole: list[bytes], dice: random.Random) -> None:
    """In batches of any size."""
    last = 0
    while last < len(whole):
        batch = whole[last : last + dice.randint(1, 9)]
        last = await on.append(*batch, after=last)
        await asyncio.sleep(0)
    await on.finish(last_id=last)


async def _follow(on: Sides, after: int, dice: random.Random) -> list[tuple[int, bytes]]:
    """Everything behind a cursor, to the end of the run."""
    got: list[tuple[int, bytes]] = []
    while True:
        page = await on.seen.read(on.key, after, max_bytes=dice.randint(1, 60), wait_s=_LONG_S)
        got += told(page)
        if page.entries:
            after = page.entries[-1].id
        elif page.state.phase != "live":
            return got
        await asyncio.sleep(dice.choice((0, 0, 0.001)))


async def _waits(*tasks: asyncio.Task[Any]) -> None:
    """Nobody is done, though they had the time."""
    done, _ = await asyncio.wait(tasks, timeout=0.05)
    assert not done, "it does not wait"


async def _until_phase(on: Sides, phase: str) -> None:
    while (await on.seen.state(on.key)).phase != phase:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(_EVERY_S)


async def _until_forgotten(on: Sides) -> None:
    while True:
        try:
            await on.seen.state(on.key)
        except UnknownRun:
            return
        await asyncio.sleep(_EVERY_S)


async def _raises(error: type[LogError], asked: Awaitable[object]) -> None:
    try:
        await asked
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")
