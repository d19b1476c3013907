"""The producer of a logged run: takes what the run says, writes it to the log, and tells it here.

Rules that hold here:

* One task per run takes events, numbers their frames, appends them, and then shows them to the
  followers here: a number that a client saw is in the log. What is said while an append is under
  way goes into the next one.
* The run waits for the log, for `PATIENCE_S` at most, and never for a follower.
* Without the log the run goes on, its numbers too. What was not written is counted, and is a hole
  that every reader is told of; whether the log is back is asked in the background.
* Who lost the lease was told dead to others. The run goes on for those who follow it here, and
  writes no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.errors import (
    EncodeError,
    LeaseLost,
    LogUnavailable,
    RunExists,
    UnknownRun,
)
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.core.served import SERVED
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Dialect
from streamtrace.logs import WARNINGS
from streamtrace.serve.log.base import EventLog, LogEntry, RunKey
from streamtrace.serve.log.meta import RunMeta, encode_meta
from streamtrace.serve.log.tail import Tail
from streamtrace.serve.run import ENDS, SORRY, Run

T = TypeVar("T")

PATIENCE_S = 1.0
"""How long a run waits for its log, before it goes on without."""
RETRY_S = 1.0
"""How often it is asked then whether it is back."""
FINISH_WITHIN_S = 60.0
"""How long it is tried to tell a log that cannot be reached that a run is over."""
MAX_BATCH_BYTES = 64 * 1024


class Recorder:
    """See the module docstring. `begin` it in the log, then `start` it with its run."""

    def __init__(self, log: EventLog, key: RunKey, meta: RunMeta, dialect: Dialect) -> None:
        self.key = key
        self.meta = meta
        self.dialect = dialect
        self.tail = Tail()
        self.unlogged_events = 0
        """Events that were told here, and are not in the log."""
        self._log = log
        self._owner = secrets.token_hex(16)
        self._encoder = dialect.encoder(meta.envelope())
        self._numbered = 0  # the newest number that was given out
        self._has_ended = False
        self._is_given_up = False
        self._kept_bytes = 0
        self._recovering: asyncio.Task[None] | None = None
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def run(self) -> Run:
        """The run that is recorded."""
        assert self._run is not None
        return self._run

    def told_of(self, run: RunSummary) -> RunSummary:
        """The run's record, with what only the wire knows."""
        return msgspec.structs.replace(run, dialect=self.dialect.name)

    async def begin(self) -> None:
        """Make the run known. Raises RunExists. Without the log it begins all the same."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._create(0)
        except (LogUnavailable, TimeoutError):
            self._go_on_without()

    async def forget(self) -> None:
        """There is no run after all: nobody shall wait for it."""
        await self._ask(
            lambda: self._log.finish(self.key, self._owner, b"null", last_id=self._numbered), 0
        )

    def start(self, run: Run, when_over: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Record the run. `when_over` is called when all of it is told, and written if it can
        be. The task belongs to the caller."""
        self._run = run
        self._task = asyncio.create_task(self._live(when_over), name="recorder")
        return self._task

    async def aclose(self) -> None:
        """Try no more to reach the log."""
        for task in (self._recovering, self._task):
            if task is not None:
                task.cancel()
        await asyncio.gather(
            *(task for task in (self._recovering, self._task) if task is not None),
            return_exceptions=True,
        )

    # --- the task --------------------------------------------------------------------------

    async def _live(self, when_over: Callable[[], Awaitable[object]]) -> None:
        try:
            try:
                await self._record()
            except Exception as error:  # of an encoder, mostly: what cannot be told ends the run
                WARNINGS.warn("recorder", f"a run could not be told: {type(error).__name__}")
                self.run.channel.abandon()
                self.run.stop("cancelled")
                await self._tell(self._failed("internal_error", SORRY))
                self.tail.close()  # the agent may take its time
            await self._finish()
        finally:
            self.tail.close()
            SERVED.log_bytes -= self._kept_bytes
            self._kept_bytes = 0
            if self._recovering is not None:
                self._recovering.cancel()
            await when_over()

    async def _record(self) -> None:
        channel, renew_s = self.run.channel, self._log.bounds.lease_s / 3
        while True:
            event = channel.get_nowait()
            if event is None:
                try:
                    async with asyncio.timeout(renew_s):
                        event = await channel.get()
                except TimeoutError:
                    await self._renew()
                    continue
                if event is None:
                    break
            told = self._encode(event)
            size = sum(len(one.data) for one in told)
            while size < MAX_BATCH_BYTES and (event := channel.get_nowait()) is not None:
                more = self._encode(event)
                size += sum(len(one.data) for one in more)
                told += more
            await self._tell(told)
        if not self._has_ended:  # it was cut
            end = ENDS["drained" if channel.reason == "drained" else "cancelled"]()
            await self._tell(self._encode(end))
        await self._tell(self._number(self._encoder.close()))

    def _encode(self, event: ev.Event) -> list[LogEntry]:
        self._has_ended = self._has_ended or type(event) in ev.TERMINAL
        return self._number(self._encoder.encode(event))

    def _number(self, frames: Iterable[Frame]) -> list[LogEntry]:
        told = []
        for frame in frames:
            self._numbered += 1
            data = encode_frame(frame if frame.id is None else _without_id(frame))
            told.append(LogEntry(self._numbered, data))
        return told

    def _failed(self, kind: str, message: str) -> list[LogEntry]:
        if self._has_ended:
            return []
        return self._number(error_frames(self.dialect, self.meta, kind, message))

    async def _tell(self, told: list[LogEntry]) -> None:
        if not told:
            return
        await self._write(told)
        self.tail.publish(told)

    # --- the log ---------------------------------------------------------------------------

    async def _write(self, told: list[LogEntry]) -> None:
        after = told[0].id - 1
        data = [one.data for one in told]
        written = await self._ask(
            lambda: self._log.append(self.key, self._owner, data, after=after), after
        )
        if written is None:
            self.unlogged_events += len(told)
            SERVED.unlogged_events += len(told)
            return
        SERVED.logged_events += len(told)
        SERVED.log_bytes += written.kept_bytes - self._kept_bytes
        self._kept_bytes = written.kept_bytes
        if written.is_stopped:
            self.run.stop("stopped")

    async def _renew(self) -> None:
        if await self._ask(lambda: self._log.renew(self.key, self._owner), self._numbered):
            self.run.stop("stopped")

    async def _finish(self) -> None:
        """Tell the log, and those who follow here, that it is over; who waits here is not kept
        waiting for a log that is away."""
        outcome = self.told_of(await self.run.finished).to_json()

        async def finish() -> bool:
            await self._log.finish(self.key, self._owner, outcome, last_id=self._numbered)
            return True

        if await self._ask(finish, self._numbered):
            return
        self.tail.close()
        until_s = time.monotonic() + FINISH_WITHIN_S
        while not self._is_given_up and time.monotonic() < until_s:
            if self._recovering is not None:
                await asyncio.wait({self._recovering}, timeout=until_s - time.monotonic())
            elif await self._ask(finish, self._numbered):
                return

    async def _create(self, last_id: int) -> None:
        await self._log.create(
            self.key,
            self._owner,
            encode_meta(self.meta),
            thread_id=self.meta.thread,
            last_id=last_id,
        )

    async def _ask(self, ask: Callable[[], Awaitable[T]], last_id: int) -> T | None:
        """What the log answers; `None` where there is no answer, and the run goes on without.

        A log that has lost the run is told of it again: the numbers up to `last_id` are gone.
        """
        if self._is_given_up or self._recovering is not None:
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                try:
                    return await ask()
                except UnknownRun:
                    await self._create(last_id)
                    return await ask()
        except (LeaseLost, RunExists):
            self._give_up()
        except Exception as error:  # whatever is wrong with the log, the run goes on
            self._go_on_without(error)
        return None

    def _go_on_without(self, error: Exception | None = None) -> None:
        WARNINGS.warn("log", f"runs go on without their log: {type(error).__name__}")
        self._recovering = asyncio.create_task(self._recover(), name="recorder: log away")

    async def _recover(self) -> None:
        """Until the log is back, or does not want the run any more."""
        is_stopped: bool | None = None
        while is_stopped is None and not self._is_given_up:
            await asyncio.sleep(RETRY_S)
            with contextlib.suppress(Exception):  # it was warned of, and is asked again
                is_stopped = await self._ask_back()
        if is_stopped:
            self.run.stop("stopped")
        self._recovering = None

    async def _ask_back(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._log.renew(self.key, self._owner)
            except UnknownRun:
                await self._create(self._numbered)
            except LeaseLost:
                self._give_up()
            return False

    def _give_up(self) -> None:
        self._is_given_up = True
        WARNINGS.warn("lease", "a run lost its lease on the log; it goes on here, unlogged")


def error_frames(dialect: Dialect, meta: RunMeta, kind: str, message: str) -> list[Frame]:
    """The error event of a dialect, alone, for a stream that began long ago; and what ends it."""
    encoder = dialect.encoder(meta.envelope())
    try:
        *_, error = encoder.encode(ev.RunFailed(type=kind, message=message))
    except (EncodeError, ValueError):  # this wire has no word for it
        return list(encoder.close())
    return [error, *encoder.close()]


def _without_id(frame: Frame) -> Frame:
    """A number of ours is the only id that a logged frame may have."""
    return msgspec.structs.replace(frame, id=None)
