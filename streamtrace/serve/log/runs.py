"""The logged runs of one app: started here, found here or in the log, stopped from anywhere.

Rules that hold here:

* Whose run it is, is asked before anything of it is told. Not yours is not found, after the same
  look into the log.
* A run that goes on here is found without the log.
* What a limit gave for a run is given back when the run is over, whoever has left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec

from streamtrace.core.delivery import CURRENT_DELIVERY
from streamtrace.core.errors import (
    ConfigError,
    LogError,
    LogUnavailable,
    Refusal,
    RunExists,
    UnknownRun,
)
from streamtrace.core.served import SERVED
from streamtrace.dialects.base import Dialect
from streamtrace.serve.answers import retry_later
from streamtrace.serve.auth import User
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.endpoint import NotFound, RunTaken, shut
from streamtrace.serve.log.attendance import Attendance
from streamtrace.serve.log.base import EventLog, RunKey, RunState
from streamtrace.serve.log.meta import RunMeta, decode_meta, key_of, thread_of, user_hash
from streamtrace.serve.log.recorder import Recorder
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Draining, Runs

MAX_FOLLOWERS = 256
RETRY_AFTER_S = 1
_CLOSE_WITHIN_S = 2.0
_MAX_ORPHANS = 1024


class Found(msgspec.Struct, frozen=True):
    """A run that may be told: `hosted` where it goes on in this process, else as the log has it."""

    key: RunKey
    meta: RunMeta
    hosted: Hosted | None = None
    state: RunState | None = None

    @property
    def last_id(self) -> int:
        """The newest number that is known here."""
        if self.hosted is not None:
            return self.hosted.recorder.tail.last_id
        assert self.state is not None
        return self.state.last_id


class Hosted(msgspec.Struct, frozen=True, eq=False):
    """A run that goes on in this process."""

    recorder: Recorder
    attendance: Attendance


class LoggedRuns:
    """See the module docstring. `max_followers`: of one run, in this process."""

    def __init__(self, runs: Runs, log: EventLog, *, max_followers: int = MAX_FOLLOWERS) -> None:
        if max_followers < 1:
            raise ConfigError(f"max_followers must be at least 1, got {max_followers!r}")
        self.runs = runs
        self.log = log
        self._max_followers = max_followers
        self._hosted: dict[RunKey, Hosted] = {}
        self._followers: dict[RunKey, int] = {}
        self._orphans: dict[RunKey, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self,
        agent: Agent,
        context: RunContext,
        settings: Settings,
        dialect: Dialect,
        held: contextlib.AsyncExitStack,
    ) -> Found:
        """Begin a run, and its log. `held` is closed when it is over. Raises Refusal: 409 for an id
        that is taken, 503 while the server drains."""
        observed = CURRENT_DELIVERY.get()
        trace = None if observed is None else observed.traceparent()
        key = key_of(context.run_id, context.user)
        recorder = Recorder(self.log, key, RunMeta.of(context, dialect.name, trace), dialect)
        try:
            self.runs.check_open()
            if key in self._hosted:
                raise RunTaken
            await recorder.begin()
        except Draining as draining:
            raise shut(draining) from None
        except RunExists:
            raise RunTaken from None
        try:
            run = self.runs.start(agent, context, settings, known_as=key)
        except Draining as draining:  # meanwhile
            await recorder.forget()
            raise shut(draining) from None
        hosted = self._hosted[key] = Hosted(recorder, Attendance(run))
        given_back = held.pop_all()

        async def over() -> None:
            self._hosted.pop(key, None)
            await given_back.aclose()

        task = recorder.start(run, over)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Found(key, recorder.meta, hosted)

    async def find(self, run_id: str, user: User | None) -> Found:
        """The run, if it is that user's. Raises Refusal: 404, and 503 without the log."""
        key = key_of(run_id, user)
        hosted = self._hosted.get(key)
        if hosted is not None and hosted.recorder.meta.is_of(user):
            return Found(key, hosted.recorder.meta, hosted)
        try:
            state = await self.log.state(key)
            meta = decode_meta(state.meta)
        except LogUnavailable:
            raise log_unavailable() from None
        except LogError:
            raise NotFound from None
        if not meta.is_of(user):
            raise NotFound
        return Found(key, meta, None, state)

    async def current(self, thread_id: str, user: User | None) -> str | None:
        """The id of the run that the thread began last. Raises Refusal: 503 without the log, unless
        the run is here."""
        tenant = None if user is None else user.tenant
        thread = thread_of(thread_id, user_hash(user))
        try:
            return await self.log.current(tenant, thread)
        except LogUnavailable:
            for key, hosted in reversed(self._hosted.items()):
                if key.tenant == tenant and hosted.recorder.meta.thread == thread:
                    return key.run_id
            raise log_unavailable() from None

    async def stop(self, found: Found) -> bool:
        """Ask the run to stop, wherever it is. Raises Refusal: 503 without the log, unless the run
        is here."""
        if found.hosted is not None:
            return found.hosted.recorder.run.stop("stopped")
        try:
            return await self.log.ask_stop(found.key)
        except UnknownRun:
            raise NotFound from None
        except LogUnavailable:
            raise log_unavailable() from None

    @contextlib.contextmanager
    def following(self, key: RunKey, *, began_it: bool) -> Iterator[None]:
        """One more follower of the run, for the time of the block. Raises Refusal: 429, but not for
        the client that began it."""
        others = self._followers.get(key, 0)
        if others >= self._max_followers and not began_it:
            raise retry_later(
                429, "too_many_followers", "Too many follow this run already.", RETRY_AFTER_S
            )
        self._followers[key] = others + 1
        SERVED.followers += 1
        try:
            yield
        finally:
            SERVED.followers -= 1
            self._followers[key] -= 1
            if not self._followers[key]:
                del self._followers[key]

    def note_orphan(self, key: RunKey) -> None:
        """A run was found without its producer: count it, once."""
        if key not in self._orphans:
            SERVED.orphaned_runs += 1
            self._orphans[key] = None
            if len(self._orphans) > _MAX_ORPHANS:
                del self._orphans[next(iter(self._orphans))]

    async def aclose(self) -> None:
        """After a drain: let what was said be written, and let go of the log."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_WITHIN_S)
        for hosted in list(self._hosted.values()):
            await hosted.recorder.aclose()
        await self.log.aclose()


def log_unavailable() -> Refusal:
    """The answer where only the log could tell."""
    return retry_later(503, "log_unavailable", "The log of runs cannot be reached.", RETRY_AFTER_S)
