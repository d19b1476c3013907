"""The runs of one app: started here, stopped here, drained here.

Rules that hold here:

* A run that outlives its request is held here, so that nobody collects it, and nobody forgets it.
* After `drain` began, none is started. What goes on is told (`RunContext.draining`), may finish
  until the deadline, and then gets an end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable

from streamtrace.core.errors import ConfigError, StreamTraceError
from streamtrace.serve.body import checked_id
from streamtrace.serve.context import Agent, CancelToken, RunContext, StopReason
from streamtrace.serve.run import Run, Settings

DRAIN_TIMEOUT_S = 20.0
_AFTER_DEADLINE_S = 2.0


class Draining(StreamTraceError):
    """No run is started any more: the server shuts down. `retry_after_s`: when to ask again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the server is shutting down")
        self.retry_after_s = retry_after_s


class Runs:
    """See the module docstring. One per app; for one event loop."""

    def __init__(self, *, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        if drain_timeout_s < 0:
            raise ConfigError(f"drain_timeout_s must not be negative, got {drain_timeout_s}")
        self.drain_timeout_s = drain_timeout_s
        self.draining = CancelToken()
        """Set when `drain` begins."""
        self._active: dict[Hashable, Run] = {}
        self._deadline_s: float | None = None

    @property
    def active(self) -> tuple[Run, ...]:
        """The runs under way, oldest first."""
        return tuple(self._active.values())

    @property
    def is_draining(self) -> bool:
        """Whether no more are started."""
        return self._deadline_s is not None

    def start(
        self,
        agent: Agent,
        context: RunContext,
        settings: Settings,
        *,
        known_as: Hashable | None = None,
    ) -> Run:
        """Begin a run. Raises Draining, KeyError for an id that is under way, and Refusal (400) for
        one that may not stand in a header.

        `known_as`: for those who keep runs under more than their id, and find them themselves.
        """
        self.check_open()
        for given in (context.run_id, context.thread_id):
            checked_id(given)
        key = context.run_id if known_as is None else known_as
        if key in self._active:
            raise KeyError(key)
        run = self._active[key] = Run(agent, context, settings)
        run.finished.add_done_callback(lambda _: self._active.pop(key, None))
        run.start()
        return run

    def check_open(self) -> None:
        """Raises Draining if no run is started any more."""
        if self._deadline_s is not None:
            raise Draining(max(1.0, self._deadline_s - time.monotonic()))

    def get(self, run_id: str) -> Run | None:
        """The run of that id, while it is under way."""
        return self._active.get(run_id)

    def stop(self, run_id: str, reason: StopReason = "stopped") -> bool:
        """Stop a run. `False`: there is none, or it was asked before; to ask again does no harm."""
        run = self._active.get(run_id)
        return run is not None and run.stop(reason)

    async def drain(self, timeout_s: float | None = None) -> None:
        """Let what goes on finish until the deadline, then end it. May be called again."""
        if self._deadline_s is None:
            wait_s = self.drain_timeout_s if timeout_s is None else timeout_s
            self._deadline_s = time.monotonic() + wait_s
            self.draining.set("drained")
            for run in self.active:
                run.context.draining.set("drained")
        left_s = self._deadline_s - time.monotonic()
        finished = [run.finished for run in self.active]
        if finished:
            await asyncio.wait(finished, timeout=max(0.0, left_s))
        late = self.active
        for run in late:
            run.stop("drained")
        if late:
            await asyncio.wait({run.finished for run in late}, timeout=_AFTER_DEADLINE_S)
        for run in self.active:  # the end waits for a client who does not read
            run.channel.abandon("drained")
