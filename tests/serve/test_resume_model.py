"""Recorder, log and followers against a model: a list of what was said, and what the log lacks.

Whatever comes in whatever order (words, outages, evictions, followers that come, lag, leave and
come back), each follower gets the entries that there are behind its cursor, in order, each once,
and is told of the others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.asgi import until
from support.followed import Reader, Told, numbered

from streamtrace.core.errors import LogUnavailable
from streamtrace.serve import AgentRouter
from streamtrace.serve.log import recorder
from streamtrace.serve.log.base import LogBounds, RunKey, Written
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.log.tail import Tail

KEY = RunKey("r")
TAIL_EVENTS, LOG_EVENTS = 6, 15


class Log(MemoryLog):
    """One whose producer cannot reach it while it is away. Readers can."""

    is_away = False

    async def append(self, *args: Any, **more: Any) -> Written:
        if self.is_away:
            raise LogUnavailable("it is away")
        return await super().append(*args, **more)

    async def renew(self, *args: Any) -> bool:
        if self.is_away:
            raise LogUnavailable("it is away")
        return await super().renew(*args)

    async def finish(self, *args: Any, **more: Any) -> None:
        if self.is_away:
            raise LogUnavailable("it is away")
        await super().finish(*args, **more)

    def has(self) -> list[int]:
        return [entry.id for entry in self._runs[KEY].entries]


class Follower:
    """One that may come back. `told` are its frames, over all of its connections."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.told: list[tuple[str, bytes]] = []
        self.reader: Reader | None = None

    def cursor(self) -> int:
        return int(self.told[-1][0]) if self.told else self.after


class Machine(RuleBasedStateMachine):
    """The rules act on a loop of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.followers: list[Follower] = []
        self.is_over = False

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.loop.run_until_complete(work())

    @initialize()
    def begin(self) -> None:
        async def work() -> None:
            self.log = Log(LogBounds(max_events=LOG_EVENTS))
            self.agent = Told()
            here, there = (
                AgentRouter().resumable("/chat", self.agent, log=self.log).app() for _ in range(2)
            )
            self.replicas = [here, there]
            request = json.dumps({"run_id": "r"}).encode()
            self.first = Reader(request).start(here, "/chat/runs", "POST")
            await until(lambda: bool(self.first.numbers))

        self.run(work)

    async def said(self) -> None:
        """Until the client that began the run has all that was said."""
        word = f"w{self.agent.said} ".encode()
        await until(lambda: not self.agent.said or word in self.first.got)

    @precondition(lambda self: not self.is_over)
    @rule(words=st.integers(1, 12))
    def tell(self, words: int) -> None:
        async def work() -> None:
            said = self.agent.said
            for number in range(words):
                self.agent.tell(1)
                await until(lambda number=number: self.agent.said > said + number)  # type: ignore[misc]
            await self.said()

        self.run(work)

    @precondition(lambda self: not self.is_over)
    @rule(is_away=st.booleans())
    def log_goes_and_comes(self, is_away: bool) -> None:
        async def work() -> None:
            self.log.is_away = is_away
            for _ in range(20):  # so that it may be found again, or not yet
                await asyncio.sleep(0)

        self.run(work)

    @rule(after=st.integers(0, 30), replica=st.integers(0, 1), at_gap=st.booleans())
    def follow(self, after: int, replica: int, at_gap: bool) -> None:
        after = min(after, len(self.log.has()) and self.log.has()[-1])
        one = Follower(after)
        self.followers.append(one)
        self._connect(one, replica, at_gap)

    @precondition(lambda self: self.followers)
    @rule(which=st.integers(0, 99), replica=st.integers(0, 1))
    def leave_and_come_back(self, which: int, replica: int) -> None:
        one = self.followers[which % len(self.followers)]
        self._disconnect(one)
        self._connect(one, replica, False)

    @precondition(lambda self: self.followers)
    @rule(which=st.integers(0, 99), reads=st.booleans())
    def lag(self, which: int, reads: bool) -> None:
        reader = self.followers[which % len(self.followers)].reader
        assert reader is not None
        (reader.reads.set if reads else reader.reads.clear)()

    @precondition(lambda self: not self.is_over and self.followers)
    @rule(which=st.integers(0, 99), words=st.integers(1, 20), is_away=st.booleans())
    def fall_behind(self, which: int, words: int, is_away: bool) -> None:
        self.lag(which, False)
        self.log_goes_and_comes(is_away)
        self.tell(words)
        self.log_goes_and_comes(False)
        self.lag(which, True)

    @precondition(lambda self: not self.is_over)
    @rule(is_away=st.booleans())
    def end(self, is_away: bool) -> None:
        async def work() -> None:
            self.log.is_away = is_away
            self.agent.end()
            await self.first.whole()
            self.log.is_away = False
            await until(lambda: self.log._runs[KEY].outcome is not None)

        self.run(work)
        self.is_over = True

    @invariant()
    def who_began_it_misses_nothing(self) -> None:
        if hasattr(self, "first"):
            numbers = self.first.numbers
            assert numbers == list(range(1, len(numbers) + 1))

    def teardown(self) -> None:
        if hasattr(self, "first"):
            if not self.is_over:
                self.end(False)
            for one in self.followers:
                self._check(one)
        self.loop.close()

    # --- connections ---------------------------------------------------------------------------

    def _connect(self, one: Follower, replica: int, at_gap: bool) -> None:
        async def work() -> None:
            path = f"/chat/runs/r/events?after={one.cursor()}" + ("&gap=410" if at_gap else "")
            one.reader = Reader().start(self.replicas[replica], path)
            await until(lambda: one.reader is not None and one.reader.status is not None)
            assert one.reader.status in (200, 204, 410)

        self.run(work)

    def _disconnect(self, one: Follower) -> None:
        async def work() -> None:
            assert one.reader is not None
            await one.reader.leave()
            if one.reader.status == 200:
                one.told += numbered(one.reader.got)

        self.run(work)

    def _check(self, one: Follower) -> None:
        """Read on to the end, over as many connections as it takes; then all must be accounted
        for."""
        whole = dict(numbered(self.first.got))
        for _ in range(3):
            self._disconnect(one)
            self._connect(one, 1, False)
        assert one.reader is not None

        async def rest() -> None:
            assert one.reader is not None
            one.reader.reads.set()
            await one.reader.whole()
            if one.reader.status == 200:
                one.told += numbered(one.reader.got)

        self.run(rest)
        at = one.after
        for number, data in one.told:
            if b'"name":"gap"' in data:
                gap = json.loads(data)["value"]
                assert gap["after"] == at
                assert gap["missed"] > 0
                lacking = range(at + 1, at + gap["missed"] + 1)
                assert not set(lacking) & set(self.log.has())
                at += gap["missed"]
                assert int(number) == at
            else:
                at += 1
                assert int(number) == at
                assert data == whole[number]
        assert at == len(whole)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0)
    monkeypatch.setattr(recorder, "Tail", lambda: Tail(max_events=TAIL_EVENTS))


TestModel = pytest.mark.usefixtures("small")(Machine.TestCase)
TestModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
