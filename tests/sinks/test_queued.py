"""QueuedSink: exact accounting and bounded waits, whatever its exporter does."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.summaries import (
    completed_run,
    content,
    generation,
    minimal_run,
    stream_info,
    summaries,
)

from streamtrace import logs
from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import SinkStats
from streamtrace.core.summary import Labels, RunSummary
from streamtrace.sinks import queued
from streamtrace.sinks.batch import Batch, pack, packed_bytes
from streamtrace.sinks.queued import QueuedSink

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "WARNINGS", logs.RateLimitedWarnings())


class Steered(QueuedSink):
    """A sink whose exports wait until the test says what becomes of them.

    A verdict is what `export` returns, or an exception that it raises.
    """

    name = "steered"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"interval_s": 0.0, **options})
        self.entered = threading.Semaphore(0)
        self.verdicts: queue.SimpleQueue[dict[str, int] | BaseException] = queue.SimpleQueue()
        self.batches: list[list[RunSummary]] = []
        self.calls: list[str] = []
        self.threads: set[int] = set()

    def open(self) -> None:
        self.calls.append("open")

    def export(self, batch: list[RunSummary]) -> dict[str, int]:
        self.calls.append("export")
        self.threads.add(threading.get_ident())
        self.batches.append(batch)
        self.entered.release()
        verdict = self.verdicts.get(timeout=WAIT_S)
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    def release(self) -> None:
        self.calls.append("release")

    def wait_for_export(self) -> None:
        assert self.entered.acquire(timeout=WAIT_S), "no export began"

    def take_all(self) -> None:
        """From now on every export succeeds."""
        for _ in range(1_000):
            self.verdicts.put({})


@pytest.fixture
def sink() -> Iterator[Steered]:
    one = Steered()
    yield one
    one.take_all()
    one.close(WAIT_S)


def tell(sink: QueuedSink, *runs: RunSummary) -> None:
    for run in runs or [minimal_run()]:
        sink.end(stream_info(run), run)


def balance(stats: SinkStats) -> bool:
    return stats.accepted == stats.exported + sum(stats.dropped.values()) + stats.queued


# --- the law: accepted == exported + dropped + queued ---------------------------------------------


class Accounting(RuleBasedStateMachine):
    """Runs come, exports succeed, fail or raise, in any order; compared with a simple model."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = Steered(max_queued_runs=5, batch_runs=2)
        self.told = self.exported = 0
        self.dropped: dict[str, int] = {}
        self.waiting = 0  # in the queue or in an export, as the model knows it
        self.in_export = 0
        self.closed = False

    def drop(self, reason: str, runs: int) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + runs

    @rule(n=st.integers(1, 4))
    def runs_end(self, n: int) -> None:
        for _ in range(n):
            tell(self.sink)
            self.told += 1
            if self.closed:
                self.drop("shutdown", 1)
            elif self.waiting == 5:
                self.drop("queue_full", 1)
            else:
                self.waiting += 1
                self.begin_export()  # before the next one comes, so that each batch is known

    def begin_export(self) -> None:
        if self.waiting and not self.in_export:
            self.sink.wait_for_export()
            self.in_export = len(self.sink.batches[-1])

    def settle(self, verdict: dict[str, int] | BaseException, dropped: dict[str, int]) -> None:
        runs = self.in_export
        self.sink.verdicts.put(verdict)
        self.exported += runs - sum(dropped.values())
        for reason, count in dropped.items():
            self.drop(reason, count)
        self.waiting -= runs
        self.in_export = 0
        if self.waiting:
            self.begin_export()  # the next export began, so this one is settled
        else:
            assert self.sink.flush(WAIT_S)

    @precondition(lambda self: self.in_export)
    @rule()
    def export_succeeds(self) -> None:
        self.settle({}, {})

    @precondition(lambda self: self.in_export)
    @rule(reason=st.sampled_from(["unsampled", "export_error"]))
    def export_drops_one(self, reason: str) -> None:
        self.settle({reason: 1}, {reason: 1})

    @precondition(lambda self: self.in_export)
    @rule(error=st.sampled_from([OSError("x"), MemoryError(), SystemExit(3), None]))
    def export_raises(self, error: BaseException | None) -> None:
        verdict: Any = error if error is not None else 0  # 0 is no dict, as of a faulty subclass
        self.settle(verdict, {"export_error": self.in_export})

    @rule()
    def somebody_flushes(self) -> None:
        assert self.sink.flush(0.0) is (self.waiting == 0)

    @rule()
    def it_is_closed(self) -> None:
        self.sink.close(0.0)
        if self.waiting:
            self.drop("shutdown", self.waiting)
        if self.in_export:
            self.sink.verdicts.put({})  # too late: these are counted
        self.waiting = self.in_export = 0
        self.closed = True

    @invariant()
    def every_run_is_somewhere(self) -> None:
        assert balance(self.sink.stats())

    @invariant()
    def the_model_agrees(self) -> None:
        stats = self.sink.stats()
        assert stats.accepted == self.told
        assert stats.queued == self.waiting
        assert stats.exported == self.exported
        assert stats.dropped == self.dropped

    def teardown(self) -> None:
        self.sink.take_all()
        self.sink.close(WAIT_S)
        assert self.sink.stats().queued == 0


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_the_balance_holds_while_eight_threads_write_and_one_looks(sink):
    """Every snapshot adds up, not only those between calls."""
    sink.take_all()
    done = threading.Event()
    off: list[SinkStats] = []

    def look() -> None:
        while not done.is_set():
            stats = sink.stats()
            if not balance(stats):
                off.append(stats)

    watcher = threading.Thread(target=look)
    writers = [threading.Thread(target=lambda: [tell(sink) for _ in range(100)]) for _ in range(8)]
    watcher.start()
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert sink.flush(WAIT_S)
    done.set()
    watcher.join()

    assert off == []
    assert sink.stats() == SinkStats(accepted=800, exported=800)
    assert len(sink.threads) == 1


# --- bounds --------------------------------------------------------------------------------------


def test_the_queue_is_bounded_in_bytes_of_captured_text():
    """Two runs of 300 kB do not fit into 500 kB, also while the first one is being exported."""
    sink = Steered(max_queued_bytes=500_000)
    big = completed_run(generations=[generation(text=content("x" * 300_000))])
    tell(sink, big)
    sink.wait_for_export()
    tell(sink, big, minimal_run())
    assert sink.stats() == SinkStats(accepted=3, dropped={"queue_full": 1}, queued=2)

    sink.verdicts.put({})
    sink.wait_for_export()
    tell(sink, big)
    assert sink.stats().dropped == {"queue_full": 1}
    sink.take_all()
    sink.close(WAIT_S)


@pytest.mark.parametrize("letter", ["a", "ж", "語", "😀"])
def test_a_run_counts_with_the_memory_that_it_takes_while_it_waits(letter):
    """As UTF-8. Where it waits as it is, a letter outside of Latin-1 takes two or four bytes."""
    text = letter * 100_000
    size = len(text.encode())
    run = minimal_run(generations=[generation(text=content(text), reasoning=content(""))])

    assert size <= packed_bytes(pack(run)) < size + 2_000
    assert sys.getsizeof(text) <= packed_bytes(run) < sys.getsizeof(text) + 10_000


# --- how runs wait -------------------------------------------------------------------------------


@given(summaries(hostile=True))
def test_a_run_is_exported_as_it_was_told(run):
    assert repr(Batch([pack(run)])[0]) == repr(run)  # NaN equals nothing


@pytest.mark.parametrize(
    "said",
    [
        {"labels": Labels(metadata={"half an emoji": "\ud83d"})},
        {"labels": Labels(metadata={"count": 2**64})},
        {"labels": Labels(release=1.2)},
        {"cost_usd": Decimal("0.1")},
    ],
    ids=["half an emoji", "too large", "no text", "a Decimal"],
)
def test_a_run_that_would_not_be_the_same_again_waits_as_it_is(sink, said):
    run = minimal_run(**said)
    assert pack(run) is run
    tell(sink, run)
    sink.wait_for_export()
    assert list(sink.batches[0]) == [run]


def test_a_batch_is_a_sequence_of_runs_that_are_made_when_they_are_asked_for():
    runs = [minimal_run(run_id=str(number)) for number in range(5)]
    batch = Batch([pack(run) for run in runs])
    assert len(batch) == 5
    assert [*batch] == [*batch] == runs
    assert (batch[-1], list(batch[1:3]), runs[2] in batch) == (runs[4], runs[1:3], True)
    assert batch[0] is not batch[0]
    with pytest.raises(IndexError):
        batch[5]


def test_runs_that_wait_are_no_objects_for_the_garbage_collector(sink):
    run = completed_run()
    tell(sink, run)
    sink.wait_for_export()  # and stays in it
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        tell(sink, *[run] * 100)
        assert gc.get_count()[0] - before < 20
    finally:
        gc.enable()
    assert sink.stats().queued == 101


class Watched(threading.Condition):
    """A condition that tells when somebody begins to wait on it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()  # the lock is held until the wait has begun
        return super().wait(timeout)


def test_a_batch_waits_to_fill_and_is_cut_at_its_size():
    """Five runs in batches of two: two full ones at once, the last when it is flushed."""
    sink = Steered(batch_runs=2, interval_s=3_600)
    sink._changed = watched = Watched()
    sink.take_all()
    tell(sink)
    assert watched.waits.acquire(timeout=WAIT_S)
    assert sink.batches == []
    tell(sink, *(minimal_run() for _ in range(4)))
    for _ in range(2):
        sink.wait_for_export()
    assert sink.flush(WAIT_S)

    assert [len(batch) for batch in sink.batches] == [2, 2, 1]
    sink.close(WAIT_S)


def test_a_lone_run_is_exported_when_its_interval_is_over():
    """Nobody flushes and no other run comes."""
    sink = Steered(batch_runs=100, interval_s=0.01)
    tell(sink)
    sink.wait_for_export()
    sink.take_all()
    sink.close(WAIT_S)
    assert sink.stats() == SinkStats(accepted=1, exported=1)


def test_flush_waits_only_for_what_was_accepted_before_it(sink):
    """A sink under steady load is never empty; flush returns all the same."""
    sink._changed = watched = Watched()
    tell(sink)
    sink.wait_for_export()
    flushed: list[bool] = []
    waiter = threading.Thread(target=lambda: flushed.append(sink.flush(WAIT_S)))
    waiter.start()
    assert watched.waits.acquire(timeout=WAIT_S)  # the worker is in an export, so it is the flush
    tell(sink)
    sink.verdicts.put({})
    waiter.join(WAIT_S)

    assert flushed == [True]
    assert sink.stats().queued == 1


@pytest.mark.parametrize("verdict", [{}, {"unsampled": 1}, {"export_error": 1}, OSError("gone")])
def test_how_an_export_went_is_known_as_soon_as_it_is_settled(sink, verdict):
    failed = isinstance(verdict, OSError) or "export_error" in verdict
    assert sink.exports().last_success_at_ns is None
    tell(sink, minimal_run())
    sink.wait_for_export()
    sink.verdicts.put(verdict)
    assert sink.flush(WAIT_S)
    told = sink.exports()
    assert (told.succeeded, told.failed) == (not failed, failed)
    assert sum(told.duration_counts) == 1
    assert told.duration_sum_ns > 0
    assert (told.last_success_at_ns is None) == failed


@pytest.mark.parametrize(
    "options",
    [{"max_queued_runs": 0}, {"max_queued_bytes": 0}, {"batch_runs": 0}, {"interval_s": -1}],
)
def test_options_that_cannot_work_are_refused(options):
    """At construction, naming the option."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        Steered(**options)


# --- the thread ----------------------------------------------------------------------------------


def test_open_export_release_in_order_on_one_thread(sink):
    """Opened before the first batch, released once when closed."""
    sink.take_all()
    assert sink.calls == []
    for _ in range(3):
        tell(sink)
        assert sink.flush(WAIT_S)
    sink.close(WAIT_S)
    sink.close(WAIT_S)

    assert sink.calls == ["open", "export", "export", "export", "release"]


def test_a_failing_open_drops_the_batch_and_is_tried_again():
    """The disk or the network may come back."""

    class Shy(Steered):
        failures = 2

        def open(self) -> None:
            super().open()
            if self.calls.count("open") <= self.failures:
                raise OSError("not yet")

    sink = Shy()
    sink.take_all()
    for _ in range(4):
        tell(sink)
        assert sink.flush(WAIT_S)
    sink.close(WAIT_S)

    assert sink.stats() == SinkStats(accepted=4, exported=2, dropped={"export_error": 2})
    assert sink.calls == ["open", "open", "open", "export", "export", "release"]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As while the interpreter exits."""

    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        yield patch


def test_when_no_thread_can_be_had_the_run_is_kept_and_the_next_one_tries_again(sink, no_threads):
    """`end` neither raises nor drops what a worker can still take."""
    sink.take_all()
    tell(sink)
    assert sink.stats() == SinkStats(accepted=1, queued=1)
    no_threads.undo()
    tell(sink)
    assert sink.flush(WAIT_S)
    assert sink.stats() == SinkStats(accepted=2, exported=2)


def test_without_a_thread_whoever_closes_does_the_work_of_the_worker(no_threads):
    """Opened, exported in batches, released, on the thread that asked."""
    sink = Steered(batch_runs=2)
    for verdict in ({}, OSError("x"), {}):
        sink.verdicts.put(verdict)
    tell(sink, *(minimal_run() for _ in range(5)))
    sink.close(WAIT_S)
    sink.close(WAIT_S)

    assert sink.stats() == SinkStats(accepted=5, exported=3, dropped={"export_error": 2})
    assert sink.calls == ["open", "export", "export", "export", "release"]
    assert sink.threads == {threading.get_ident()}


def test_without_a_thread_a_flush_leaves_the_sink_open_for_more(sink, no_threads):
    """The next worker, on whatever thread, goes on with what was opened."""
    sink.take_all()
    for _ in range(2):
        tell(sink)
        assert sink.flush(WAIT_S)
    no_threads.undo()
    tell(sink)
    sink.close(WAIT_S)

    assert sink.stats() == SinkStats(accepted=3, exported=3)
    assert sink.calls == ["open", "export", "export", "export", "release"]


def test_without_a_thread_no_export_begins_after_the_time_is_over(no_threads):
    """What is left is counted as dropped."""
    sink = Steered(batch_runs=1)
    now = 0.0

    def export(batch: list[RunSummary]) -> None:
        nonlocal now
        now += 1.0

    no_threads.setattr(sink, "export", export)
    clock = SimpleNamespace(
        monotonic=lambda: now, monotonic_ns=lambda: int(now * 1e9), time_ns=lambda: 0
    )
    no_threads.setattr(queued, "time", clock)
    tell(sink, *(minimal_run() for _ in range(5)))
    sink.close(1.5)

    assert sink.stats() == SinkStats(accepted=5, exported=2, dropped={"shutdown": 3})


def test_the_worker_is_there_from_the_start_of_a_stream(sink, no_threads):
    """So what is open when the interpreter exits finds one, where none can be started any more."""
    no_threads.undo()
    sink.start(stream_info(minimal_run()))
    no_threads.setattr(threading.Thread, "start", None)
    sink.take_all()
    tell(sink)
    assert sink.flush(WAIT_S)
    assert threading.get_ident() not in sink.threads


@pytest.mark.parametrize(
    ("returned", "dropped"),
    [
        (None, {}),
        ({"unsampled": 3}, {"unsampled": 2}),
        ({"unsampled": 1, "export_error": 9}, {"unsampled": 1, "export_error": 1}),
        ({"unsampled": -4}, {"unsampled": 0}),
    ],
)
def test_whatever_an_export_returns_the_counts_add_up(returned, dropped):
    """`None` drops nothing, and no more is dropped than was there."""
    sink = Steered(batch_runs=2, interval_s=3_600)
    sink.verdicts.put(returned)
    tell(sink, minimal_run(), minimal_run())
    assert sink.flush(WAIT_S)
    exported = 2 - sum(dropped.values())
    assert sink.stats() == SinkStats(accepted=2, exported=exported, dropped=dropped)
    sink.close(WAIT_S)


def test_exported_runs_are_not_held():
    """The worker keeps no batch alive while it waits for the next one."""

    asked = threading.Semaphore(0)

    class Forgetful(QueuedSink):
        def _take(self) -> list[tuple[RunSummary, int]]:
            asked.release()
            return super()._take()

        def export(self, batch: list[RunSummary]) -> dict[str, int]:
            return {}

    class Marker(str):
        """Text that can be watched."""

        __slots__ = ("__weakref__",)

    sink = Forgetful(interval_s=0.0)
    marker = Marker("x" * 100)
    seen = weakref.ref(marker)
    run = minimal_run(generations=[generation(text=content(marker))])
    tell(sink, run)
    del run, marker
    for _ in range(2):  # for this run, and for the next one, which does not come
        assert asked.acquire(timeout=WAIT_S)
    assert seen() is None
    sink.close(WAIT_S)


async def test_end_does_not_wait_for_a_hanging_exporter(sink):
    """On the event loop, with an export that never returns, a thousand runs are told at once."""
    tell(sink)
    await asyncio.to_thread(sink.wait_for_export)
    tell(sink, *(minimal_run() for _ in range(1_000)))

    assert sink.stats().queued == 1_001
    assert len(sink.batches) == 1


def test_a_sink_that_is_not_closed_does_not_hold_the_process():
    """The worker is a daemon: the interpreter exits though an export hangs."""
    code = (
        "import threading\n"
        "from streamtrace.sinks.queued import QueuedSink\n"
        "from support.summaries import minimal_run, stream_info\n"
        "entered = threading.Event()\n"
        "class Hangs(QueuedSink):\n"
        "    def export(self, batch):\n"
        "        entered.set()\n"
        "        threading.Event().wait()\n"
        "sink = Hangs(interval_s=0.0)\n"
        "sink.end(stream_info(minimal_run()), minimal_run())\n"
        "assert entered.wait(20)\n"
    )
    run_python(code)


FORK_UNDER_LOAD = """
import os, threading
from streamtrace.sinks.queued import QueuedSink
from support.summaries import minimal_run, stream_info
class Counts(QueuedSink):
    taken = 0
    def export(self, batch):
        self.taken += len(batch)
        return {}
def tell():
    sink.end(stream_info(run), run)
run = minimal_run()
sink = Counts(interval_s=0.0)
stop = threading.Event()
def write():
    while not stop.is_set():
        tell()
        sink.stats()
writers = [threading.Thread(target=write) for _ in range(4)]
for one in writers: one.start()
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        sink.taken = 0
        start = sink.stats()
        for _ in range(10): tell()
        done = sink.flush(20)
        end = sink.stats()
        good = (start.accepted, start.queued, done) == (0, 0, True)
        good = good and (end.accepted, end.exported, sink.taken) == (10, 10, 10)
        os._exit(0 if good else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for one in writers: one.join()
sink.close(20)
assert codes == [0] * 20, codes
stats = sink.stats()
assert stats.accepted == stats.exported + sum(stats.dropped.values())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_at_any_moment_gives_an_empty_working_sink():
    """Forked while other threads hold its lock: the child does not hang and counts from zero."""
    run_python(FORK_UNDER_LOAD)


def run_python(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- being heard ---------------------------------------------------------------------------------


def test_drops_are_warned_of_once_and_without_content(sink, caplog):
    """One line for a failing exporter and one for a full queue, with types and counts only."""
    caplog.set_level(logging.WARNING, "streamtrace")
    sink._max_runs = 3
    for _ in range(3):
        tell(sink, completed_run())
    sink.wait_for_export()
    for _ in range(5):
        tell(sink, completed_run())
    for _ in range(3):
        sink.verdicts.put(OSError("the secret of the exporter"))
    assert sink.flush(WAIT_S)

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "queue_full" in lines[0]
    assert "OSError" in lines[1]
    assert "secret" not in caplog.text
    assert "CANARY" not in caplog.text


def test_runs_left_at_close_are_warned_of(caplog):
    """How many were lost is the last thing that is said."""
    sink = Steered()
    tell(sink)
    sink.wait_for_export()
    sink.close(0.0)
    sink.verdicts.put({})

    assert "1 runs not exported" in caplog.text


# --- moments for the event loop ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment_ns", "pauses"),
    [(queued._BUSY_NS - 1, 33), (queued._BUSY_NS, 3)],
    ids=["to a loop that is idle", "to one that is busy"],
)
@pytest.mark.parametrize("flushing", [0, 1])
def test_a_worker_gives_way_by_the_time_that_it_computed(
    monkeypatch: pytest.MonkeyPatch, flushing: int, moment_ns: int, pauses: int
) -> None:
    """100 runs of 0.03 ms each: after more than 0.075 ms, or 1 ms if the last moment took long."""
    now_ns, slept = [0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now_ns[0] += moment_ns

    sink = Steered()
    sink._flushing = flushing
    monkeypatch.setattr(
        queued, "time", SimpleNamespace(perf_counter_ns=lambda: now_ns[0], sleep=sleep)
    )
    told = []
    for run in sink.in_turn([minimal_run(run_id=str(number)) for number in range(100)]):
        told.append(run.run_id)
        now_ns[0] += 30_000
    assert told == [str(number) for number in range(100)]
    assert slept == [queued._MOMENT_S] * (0 if flushing else pauses)
