"""A run's events to frames, for those who bring a transport of their own.

    driver = AgUiStreamDriver(RunContext(run_id="r", thread_id="t", message_id="m"))
    for event in events:
        for frame in driver.feed(event):
            transport.send(encode_frame(frame))       # or as_message(frame), for WebSockets
    ...                                               # and those of driver.finish()

    async for frame in driver.drive(events): ...      # or all of it

Rules that hold here:

* What is written is a whole run in order: it begins before the first event, ends once, and nothing
  is written behind the end. It passes the enrichers, and the strict machine.
* `context.cancel` ends the run: what is fed from then on is not written, but that it was stopped.
* One way per driver: `feed` and `finish`, or `drive`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.content import ContentPolicy
from streamtrace.core.frames import Frame
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Dialect, Envelope
from streamtrace.serve.context import CancelToken, RunContext
from streamtrace.serve.run import ENDS, Limits, Run, Settings
from streamtrace.serve.stages import Pipeline, Stage
from streamtrace.serve.wire import written

_NO_LIMITS = Limits(timeout_s=None, idle_timeout_s=None, max_steps=None)


class AgUiStreamDriver:
    """Writes one run, in AG-UI or any other dialect that can be written.

    context    its ids, and the token that stops it
    enrichers  as in `Settings`; those that wait for somebody need `drive`
    envelope   what the wire wants beside the ids
    Raises ConfigError for a dialect that cannot be written.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        dialect: str | Dialect = "ag-ui",
        enrichers: Sequence[Callable[[RunContext], Stage]] = (),
        envelope: Envelope | None = None,
    ) -> None:
        self.context = context
        self.summary: RunSummary | None = None
        """How the run went, once it is over."""
        self._encoder = written(dialect).encoder(
            envelope
            or Envelope(
                run_id=context.run_id, thread_id=context.thread_id, message_id=context.message_id
            )
        )
        self._enrichers = enrichers
        self._machine = RunMachine(strict=True, policy=ContentPolicy())
        self._began_ns, self._began_at_ns = time.monotonic_ns(), time.time_ns()
        self._begun = False

    @property
    def is_over(self) -> bool:
        """Whether the end is written."""
        return self.summary is not None

    def feed(self, event: ev.Event) -> list[Frame]:
        """The frames that the event makes. Raises EventOrderError if it may not come now."""
        reason = self.context.cancel.reason
        if self.is_over:
            return []
        if reason is not None:
            return self._end(ENDS[reason]())
        if type(event) in ev.TERMINAL:
            return self._end(event)
        frames = self._begin()
        if type(event) is not ev.RunStarted:  # that is said
            frames += self._write(_at_once(self._enrich.feed(event)))
        return frames

    def finish(self) -> list[Frame]:
        """There are no more events: the end, unless it is written, and what the wire has last."""
        context = self.context
        ended = ev.RunFinished(run_id=context.run_id, thread_id=context.thread_id)
        return [*self.feed(ended), *self._encoder.close()]

    async def drive(
        self, events: AsyncIterable[ev.Event] | Iterable[ev.Event]
    ) -> AsyncGenerator[Frame, None]:
        """The frames of all events, as they come, up to the end of the run.

        What `events` raises is told as an error: with its text if it is a `PublicError`. Plain
        iterables work in a thread. Whoever leaves early closes this iterator, which stops `events`.
        """
        told = aiter(events) if isinstance(events, AsyncIterable) else iter(events)
        context = msgspec.structs.replace(self.context, cancel=CancelToken())
        settings = Settings(limits=_NO_LIMITS, enrichers=self._enrichers)
        run = Run(lambda _: told, context, settings)
        run.start()
        stopping = asyncio.create_task(self._heed(run))
        try:
            async for event in run.channel:
                for frame in self._encoder.encode(event):
                    yield frame
            for frame in self._encoder.close():
                yield frame
            self.summary = await run.finished
        finally:
            stopping.cancel()
            if not run.finished.done():
                run.client_left()
                await run.gone()

    async def _heed(self, run: Run) -> None:
        run.stop(await self.context.cancel.wait())

    @cached_property
    def _enrich(self) -> Pipeline:
        return Pipeline(make(self.context) for make in self._enrichers)

    def _begin(self) -> list[Frame]:
        if self._begun:
            return []
        self._begun = True
        context = self.context
        started = ev.RunStarted(run_id=context.run_id, thread_id=context.thread_id)
        return self._write(_at_once(self._enrich.feed(started)))

    def _write(self, events: Iterable[ev.Event]) -> list[Frame]:
        frames: list[Frame] = []
        for event in events:
            self._machine.feed(event, time.monotonic_ns() - self._began_ns)
            frames += self._encoder.encode(event)
        return frames

    def _end(self, end: ev.Event) -> list[Frame]:
        frames = self._begin()
        self._machine.strict = False  # an end may come at any time, and interrupts what it likes
        frames += self._write([*_at_once(self._enrich.flush()), end])
        over = StreamEnd(at_ns=time.monotonic_ns() - self._began_ns, final=True)
        self.summary = self._machine.summary(over, started_at_ns=self._began_at_ns)
        return frames


def _at_once(telling: Coroutine[Any, Any, list[ev.Event]]) -> list[ev.Event]:
    """What a coroutine returns that need not wait. Raises TypeError for one that does."""
    try:
        telling.send(None)
    except StopIteration as told:
        events: list[ev.Event] = told.value
        return events
    telling.close()
    raise TypeError("an enricher waits for somebody: use drive(), not feed()")
