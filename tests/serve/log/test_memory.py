from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support import virtual_time

from streamtrace.core.errors import ConfigError, LogUnavailable, UnknownRun
from streamtrace.serve.log.base import EventLog, LogBounds, RunKey
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.testing import EventLogContract

A, B, C = (RunKey(name) for name in "abc")


class TestMemoryLog(EventLogContract):
    def make(self, bounds: LogBounds) -> MemoryLog:
        return MemoryLog(bounds)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        virtual_time.run(work)


async def _written(log: EventLog, key: RunKey, *entries: bytes) -> None:
    await log.create(key, key.run_id, b"", thread_id=f"of {key.run_id}")
    await log.append(key, key.run_id, entries, after=0)


async def _numbers(log: EventLog, key: RunKey) -> list[int]:
    return [entry.id for entry in (await log.read(key, 0)).entries]


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        virtual_time.run(test())

    return run


@in_virtual_time
async def test_where_all_runs_are_too_large_those_go_first_that_ended_first() -> None:
    log = MemoryLog(max_total_bytes=10)
    for key in (B, A):
        await _written(log, key, b"333", b"1")
        await log.finish(key, key.run_id, b"", last_id=2)
    await _written(log, C, b"333")
    with pytest.raises(UnknownRun):
        await log.state(B)
    assert await log.current(None, "of b") is None
    assert (await _numbers(log, A), await _numbers(log, C)) == ([1, 2], [1])


@in_virtual_time
async def test_where_only_live_runs_are_left_the_one_that_writes_loses_its_oldest() -> None:
    log = MemoryLog(max_total_bytes=10)
    await _written(log, A, b"55555")
    await _written(log, B, b"333", b"333", b"1")
    assert (await _numbers(log, A), await _numbers(log, B)) == ([1], [2, 3])
    written = await log.append(B, "b", [b"x" * 10], after=3)
    assert (written.last_id, written.kept_events, written.kept_bytes) == (4, 0, 0)
    assert await _numbers(log, A) == [1]


@in_virtual_time
async def test_there_are_only_so_many_runs_and_live_ones_are_not_forgotten() -> None:
    log = MemoryLog(max_runs=2)
    await _written(log, A)
    await _written(log, B)
    with pytest.raises(LogUnavailable, match="2 runs are live"):
        await log.create(C, "c", b"")
    await log.finish(A, "a", b"", last_id=0)
    await log.create(C, "c", b"")
    with pytest.raises(UnknownRun):
        await log.state(A)


@in_virtual_time
async def test_a_run_whose_producer_is_gone_makes_room() -> None:
    log = MemoryLog(LogBounds(lease_s=1), max_runs=1)
    await _written(log, A)
    await asyncio.sleep(1)
    await _written(log, B)
    with pytest.raises(UnknownRun):
        await log.state(A)


@in_virtual_time
async def test_a_producer_that_was_held_up_goes_on_if_nobody_was_told() -> None:
    log = MemoryLog(LogBounds(lease_s=1))
    await _written(log, A)
    await asyncio.sleep(5)
    assert (await log.append(A, "a", [b"x"], after=0)).last_id == 1
    assert (await log.state(A)).phase == "live"


@in_virtual_time
async def test_what_nobody_asks_for_is_let_go_of() -> None:
    log = MemoryLog(LogBounds(keep_s=5, lease_s=1))
    for number in range(100):
        key = RunKey(f"run-{number}")
        await _written(log, key, b"x")
        if number % 2:
            await log.finish(key, key.run_id, b"", last_id=1)
    await asyncio.sleep(7)
    await log.create(A, "a", b"")
    assert len(log._runs) == 1
    assert not log._over
    assert not log._threads
    assert log._total_bytes == 0


@pytest.mark.parametrize("name", ["max_runs", "max_total_bytes"])
def test_a_bound_is_over_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be over 0, got 0"):
        MemoryLog(**{name: 0})


@pytest.mark.parametrize("name", LogBounds.__struct_fields__)
def test_so_are_those_of_a_run(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be over 0, got -1"):
        LogBounds(**{name: -1})
