"""A log of runs beside a model of one: whatever is done, both say the same.

A backend says how its log is made, and how it is told that a lease ran out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from streamtrace.core.errors import LeaseLost, LogError, RunExists, UnknownRun
from streamtrace.serve.log.base import EventLog, LogBounds, RunKey

BOUNDS = LogBounds(max_events=6, max_bytes=40, lease_s=3600, keep_s=3600)
FIRST, SECOND, THIRD = RunKey("a", "t"), RunKey("b", "t"), RunKey("a", None)
KEYS = st.sampled_from([FIRST, FIRST, FIRST, SECOND, SECOND, THIRD])
OWNERS = st.sampled_from(["one", "one", "one", "one", "one", "other"])
THREADS = st.sampled_from([None, "x", "y"])
ENTRIES = st.lists(st.binary(max_size=15) | st.just(b"x" * 41), max_size=9)


class ModelRun:
    def __init__(self, owner: str, meta: bytes, last_id: int) -> None:
        self.owner = owner
        self.meta = meta
        self.last_id = last_id
        self.entries: list[tuple[int, bytes]] = []
        self.outcome: bytes | None = None
        self.is_stopped = False
        self.is_silent = False
        self.is_orphaned = False

    @property
    def is_over(self) -> bool:
        return self.outcome is not None or self.is_orphaned

    def hold(self, owner: str) -> None:
        if self.is_over or owner != self.owner:
            raise LeaseLost
        self.is_silent = False

    def tell(self) -> None:
        self.is_orphaned |= self.is_silent and self.outcome is None

    def append(self, entries: list[bytes], after: int) -> None:
        for number, data in enumerate(entries, after + 1):
            if number > self.last_id:
                self.entries.append((number, data))
        self.last_id = max(self.last_id, after + len(entries))
        while len(self.entries) > BOUNDS.max_events or self.size > BOUNDS.max_bytes:
            self.entries.pop(0)

    @property
    def size(self) -> int:
        return sum(len(data) for _, data in self.entries)

    def page(self, after: int, max_bytes: int) -> list[tuple[int, bytes]]:
        behind = [entry for entry in self.entries if entry[0] > after]
        sizes = [sum(len(data) for _, data in behind[: n + 1]) for n in range(len(behind))]
        return behind[: max(1, sum(size <= max_bytes for size in sizes))]

    def state(self) -> tuple[Any, ...]:
        phase = "finished" if self.outcome is not None else "live"
        phase = "orphaned" if self.is_orphaned else phase
        return phase, self.meta, self.last_id, self.outcome, self.is_stopped


def said(state: Any) -> tuple[Any, ...]:
    return state.phase, state.meta, state.last_id, state.outcome, state.is_stopped


class LogMachine(RuleBasedStateMachine):
    log: EventLog
    seen: EventLog

    def opened(self) -> tuple[EventLog, EventLog]:
        """A log that is empty, for who writes and for who reads."""
        raise NotImplementedError

    async def lease_ran_out(self, key: RunKey) -> None:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runs: dict[RunKey, ModelRun] = {}
        self.threads: dict[tuple[str | None, str], str] = {}

    @initialize()
    def open(self) -> None:
        self.log, self.seen = self.opened()
        self.create(FIRST, "one", "x", 0)
        self.create(SECOND, "one", "x", 0)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.runner.run(self.seen.aclose())
            self.runner.run(self.log.aclose())
        self.runner.close()

    def ask(self, asked: Awaitable[Any]) -> Any:
        """What the log answers, or the type of what it raises."""

        async def answered() -> Any:
            try:
                return await asked
            except LogError as error:
                return type(error)

        return self.runner.run(answered())

    def known(self, key: RunKey) -> ModelRun:
        if key not in self.runs:
            raise UnknownRun
        return self.runs[key]

    def holding(self, key: RunKey, owner: str) -> type[LogError] | None:
        try:
            self.known(key).hold(owner)
        except LogError as error:
            return type(error)
        return None

    @rule(key=KEYS, owner=OWNERS, thread=THREADS, last_id=st.sampled_from([0, 0, 3]))
    def create_again(self, key: RunKey, owner: str, thread: str | None, last_id: int) -> None:
        self.create(key, owner, thread, last_id)

    def create(self, key: RunKey, owner: str, thread: str | None, last_id: int) -> None:
        created = self.log.create(key, owner, b"meta", thread_id=thread, last_id=last_id)
        run = self.runs.get(key)
        if run is not None:
            assert self.ask(created) == (None if owner == run.owner else RunExists)
            return
        self.runner.run(asyncio.sleep(0.002))  # of two runs of a millisecond neither is the newer
        assert self.ask(created) is None
        self.runs[key] = ModelRun(owner, b"meta", last_id)
        if thread is not None:
            self.threads[key.tenant, thread] = key.run_id

    @rule(entries=ENTRIES, more=st.integers(-4, 3))
    def append_most(self, entries: list[bytes], more: int) -> None:
        self.append(FIRST, "one", entries, more)

    @rule(key=KEYS, owner=OWNERS, entries=ENTRIES, more=st.integers(-4, 3))
    def append_any(self, key: RunKey, owner: str, entries: list[bytes], more: int) -> None:
        self.append(key, owner, entries, more)

    def append(self, key: RunKey, owner: str, entries: list[bytes], more: int) -> None:
        after = max(0, more + (self.runs[key].last_id if key in self.runs else 0))
        answer = self.ask(self.log.append(key, owner, entries, after=after))
        refused = self.holding(key, owner)
        if refused:
            assert answer == refused
            return
        run = self.runs[key]
        run.append(entries, after)
        assert answer.last_id == run.last_id
        assert answer.is_stopped == run.is_stopped
        assert (answer.kept_events, answer.kept_bytes) == (len(run.entries), run.size)

    @rule(key=KEYS, owner=OWNERS)
    def renew(self, key: RunKey, owner: str) -> None:
        answer = self.ask(self.log.renew(key, owner))
        refused = self.holding(key, owner)
        assert answer == (refused or self.runs[key].is_stopped)

    @rule(key=KEYS, owner=OWNERS, outcome=st.sampled_from([b"", b"done"]), more=st.integers(-2, 2))
    def finish(self, key: RunKey, owner: str, outcome: bytes, more: int) -> None:
        run = self.runs.get(key)
        last_id = max(0, more + (run.last_id if run else 0))
        answer = self.ask(self.log.finish(key, owner, outcome, last_id=last_id))
        if run is not None and run.outcome is not None and run.owner == owner:
            assert answer is None
            return
        refused = self.holding(key, owner)
        assert answer == refused
        if run is not None and not refused:
            run.outcome = outcome
            run.last_id = max(run.last_id, last_id)

    @rule(key=KEYS)
    def fall_silent(self, key: RunKey) -> None:
        if key in self.runs and not self.runs[key].is_over:
            self.runs[key].is_silent = True
            self.runner.run(self.lease_ran_out(key))

    @rule(key=KEYS)
    def ask_stop(self, key: RunKey) -> None:
        answer = self.ask(self.seen.ask_stop(key))
        if key not in self.runs:
            assert answer is UnknownRun
            return
        run = self.runs[key]
        run.tell()
        assert answer == (not run.is_over and not run.is_stopped)
        run.is_stopped |= answer

    @rule(key=KEYS, after=st.integers(0, 30), max_bytes=st.integers(1, 60))
    def read(self, key: RunKey, after: int, max_bytes: int) -> None:
        page = self.ask(self.seen.read(key, after, max_bytes=max_bytes))
        if key not in self.runs:
            assert page is UnknownRun
            return
        run = self.runs[key]
        run.tell()
        assert [(entry.id, entry.data) for entry in page.entries] == run.page(after, max_bytes)
        assert said(page.state) == run.state()

    @rule(key=KEYS)
    def state(self, key: RunKey) -> None:
        state = self.ask(self.seen.state(key))
        if key not in self.runs:
            assert state is UnknownRun
            return
        self.runs[key].tell()
        assert said(state) == self.runs[key].state()

    @rule(tenant=st.sampled_from(["t", None]), thread=st.sampled_from(["x", "y"]))
    def current(self, tenant: str | None, thread: str) -> None:
        assert self.ask(self.seen.current(tenant, thread)) == self.threads.get((tenant, thread))
