"""The life of one run: the agent's task, from its first event to its end, whoever reads them.

Rules that hold here:

* The run says its ids first, before the agent has said anything, and exactly one end, last.
* What the agent raises, or tells as a failure, becomes an error event with a fixed sentence; only
  the text of a `PublicError` is for users. Of an exception its class goes to the log.
* Every event passes the strict machine before anybody sees it: what is out of order ends the run.
* Who wants it to end sets the token, with the reason, and cancels the agent where it awaits. What
  ends are told by `ENDS`, in one table.
* The clock is looked at per event, by one timer per run; not one per event.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.content import ContentPolicy
from streamtrace.core.errors import ClientGone, ConfigError, EventOrderError, StreamTraceError
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.logs import WARNINGS
from streamtrace.serve.agents import events_of
from streamtrace.serve.channel import Channel, Policy
from streamtrace.serve.context import Agent, RunContext, StopReason
from streamtrace.serve.stages import Pipeline, Stage

SORRY = "The agent could not finish its answer."
"""What a client is told of an error that was not meant for it."""

_WATCH_S = 0.25
"""How often the timer of a run looks; a deadline is kept as exactly as that."""
_GRACE_S = 1.0
"""How long whoever stops a run waits for its agent to clean up."""


class PublicError(StreamTraceError):
    """An error whose text is meant for the user: raise it in an agent. `code` is a short word."""

    def __init__(self, message: str, code: str = "agent_error") -> None:
        super().__init__(message)
        self.code = code


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a run may go on. `None`: without end.

    timeout_s       from its start to its end
    idle_timeout_s  from one event of the agent to the next
    max_steps       steps, and likewise calls of a model or of tools, that an agent may take
    """

    timeout_s: float | None = 600.0
    idle_timeout_s: float | None = 180.0
    max_steps: int | None = 100

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be over 0 or None, got {value!r}")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How runs are kept.

    on_disconnect   when the client leaves: "cancel" the agent, let it "continue", or let it go on
                    for so many seconds
    policy, max_events, max_bytes, window_s, whole_messages   of the `Channel` to the client
    enrichers, filters   make the stages of each run; an enricher adds to what the agent says, and
                    a filter takes from what the client sees
    """

    limits: Limits = Limits()
    on_disconnect: Literal["cancel", "continue"] | float = "cancel"
    policy: Policy = "block"
    max_events: int = 256
    max_bytes: int = 256 * 1024
    window_s: float = 0.075
    whole_messages: bool = False
    enrichers: Sequence[Callable[[RunContext], Stage]] = ()
    filters: Sequence[Callable[[RunContext], Stage]] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        on_disconnect = self.on_disconnect
        is_time = isinstance(on_disconnect, int | float) and on_disconnect > 0
        if on_disconnect not in ("cancel", "continue") and not is_time:
            raise ConfigError(
                f"on_disconnect is 'cancel', 'continue' or seconds, got {on_disconnect!r}"
            )
        self.channel()  # raises what is wrong with the rest

    def channel(self) -> Channel:
        """A channel for one run. Raises ConfigError."""
        return Channel(
            self.policy,
            max_events=self.max_events,
            max_bytes=self.max_bytes,
            window_s=self.window_s,
            whole_messages=self.whole_messages,
        )


_End = Callable[[], ev.Event]

ENDS: dict[StopReason, _End] = {
    "stopped": lambda: ev.RunCancelled(reason="stopped"),
    "disconnected": lambda: ev.RunCancelled(reason="disconnected"),
    "expired": lambda: ev.RunCancelled(reason="expired"),
    "cancelled": lambda: ev.RunCancelled(reason="cancelled"),
    "slow_client": lambda: ev.RunCancelled(reason="slow_client"),
    "timeout": lambda: ev.RunFailed(type="timeout", message="The answer took too long."),
    "idle_timeout": lambda: ev.RunFailed(
        type="idle_timeout", message="The agent was silent for too long."
    ),
    "max_steps": lambda: ev.RunFailed(type="max_steps", message="The agent took too many steps."),
    "drained": lambda: ev.RunFailed(
        type="drained", message="The server is shutting down; please ask again."
    ),
}

_COUNTED = (ev.StepStarted, ev.GenerationStarted, ev.ToolCallStarted)


class Run:
    """One run of an agent. `start` it, read `channel`, and `finished` says how it went."""

    def __init__(self, agent: Agent, context: RunContext, settings: Settings) -> None:
        self.context = context
        self.channel = settings.channel()
        self.finished: asyncio.Future[RunSummary] = asyncio.get_running_loop().create_future()
        self.disconnected_ns: int | None = None
        self._agent = agent
        self._settings = settings
        self._machine = RunMachine(strict=True, policy=ContentPolicy())
        self._enrich = Pipeline(make(context) for make in settings.enrichers)
        self._filter = Pipeline(make(context) for make in settings.filters)
        self._steps = dict.fromkeys(_COUNTED, 0)
        self._began_ns = time.monotonic_ns()
        self._began_at_ns = time.time_ns()
        self._heard_ns = self._began_ns
        self._is_putting = False
        self._is_cancellable = False  # from its first step to its end
        self._is_over = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def run_id(self) -> str:
        """The id that it was given."""
        return self.context.run_id

    @property
    def policy(self) -> Policy:
        """What is done when the client is slow."""
        return self._settings.policy

    def start(self) -> None:
        """Begin. The task belongs to the run; `finished` is set when it is over."""
        self._task = asyncio.create_task(self._live(), name=f"run {self.run_id}")
        self._watch()

    def stop(self, reason: StopReason) -> bool:
        """Ask it to end. `False` if it was asked before, or is over; that is no error."""
        if self._is_over or not self.context.cancel.set(reason):
            return False
        if self._task is not None and self._is_cancellable:
            self._task.cancel()
        return True

    @property
    def on_disconnect(self) -> Literal["cancel", "continue"] | float:
        """What becomes of it when its client leaves."""
        return self._settings.on_disconnect

    def client_left(self) -> None:
        """The client is gone: do what the settings say."""
        if self.disconnected_ns is None:
            self.disconnected_ns = time.monotonic_ns()
        self.channel.abandon()
        policy = self._settings.on_disconnect
        if policy == "cancel":
            self.stop("disconnected")
        elif policy != "continue" and not self.finished.done():
            asyncio.get_running_loop().call_later(float(policy), self.stop, "expired")

    async def gone(self) -> None:
        """Until it is over, but not longer than an agent may take to clean up."""
        await asyncio.wait({self.finished}, timeout=_GRACE_S)

    # --- the task --------------------------------------------------------------------------

    async def _live(self) -> None:
        self._is_cancellable = True  # before, a task would end without having begun
        end: ev.Event | None = None
        try:
            await self._tell(ev.RunStarted(run_id=self.run_id, thread_id=self.context.thread_id))
            end = await self._listen()
        except asyncio.CancelledError:
            end = ENDS[self.context.cancel.reason or "cancelled"]()
        except ClientGone:
            end = ENDS["slow_client"]()
        except PublicError as error:
            end = ev.RunFailed(type=error.code, message=str(error))
        except Exception as error:
            end = self._failed(error)
        finally:
            if self._timer is not None:
                self._timer.cancel()
        await self._finish(end)

    async def _listen(self) -> ev.Event:
        """All that the agent says, up to its end."""
        self._obey()
        async with contextlib.aclosing(events_of(self._agent, self.context)) as events:
            async for event in events:
                self._obey()
                kind = type(event)
                if isinstance(event, ev.RunFailed):  # frameworks put an exception's text into it
                    return msgspec.structs.replace(event, message=SORRY)
                if kind in ev.TERMINAL:
                    return event
                if kind in self._steps:
                    self._count(kind)
                if kind is not ev.RunStarted:  # that is said
                    await self._tell(event)
        self._obey()
        return ev.RunFinished(run_id=self.run_id, thread_id=self.context.thread_id)

    def _obey(self) -> None:
        """An agent that goes on although it was cancelled does so unheard."""
        if self.context.cancel.is_set:
            raise asyncio.CancelledError

    async def _tell(self, event: ev.Event) -> None:
        """What the agent said, enriched, in order, filtered, to whoever reads."""
        for told in await self._enrich.feed(event):
            self._machine.feed(told, self._at_ns())
            for shown in await self._filter.feed(told):
                await self._put(shown)

    async def _put(self, event: ev.Event) -> None:
        self._is_putting = True
        try:
            await self.channel.put(event)
        except ClientGone as gone:
            self.disconnected_ns = self.disconnected_ns or time.monotonic_ns()
            if gone.reason == "slow_client" and self._settings.on_disconnect == "cancel":
                self.context.cancel.set("slow_client")  # before the agent cleans up: it may ask
                raise
        finally:
            self._is_putting = False
            self._heard_ns = time.monotonic_ns()

    async def _finish(self, end: ev.Event) -> None:
        """The end, whatever it is: behind what the stages still hold."""
        self._is_over = True
        task = asyncio.current_task()
        assert task is not None
        while task.uncancel():
            """It was asked to end, and does."""
        self._machine.strict = False  # an end may come at any time, and interrupts what it likes
        try:
            held = await self._held(end)
            with contextlib.suppress(ClientGone):
                for shown in [*held, end]:
                    await self._put(shown)
        finally:
            self.channel.close()
            self._summarise()

    async def _held(self, end: ev.Event) -> list[ev.Event]:
        """What the stages hold back, and tell now that they hear of the end. They are the user's:
        whatever they do, the end follows."""
        held: list[ev.Event] = []
        try:
            async with asyncio.timeout(_GRACE_S):
                for told in await self._enrich.flush():
                    self._machine.feed(told, self._at_ns())
                    held += await self._filter.feed(told)
                held += await self._filter.feed(end)
                held += await self._filter.flush()
        except Exception as error:
            self._failed(error)
        self._machine.feed(end, self._at_ns())
        return [one for one in held if type(one) not in ev.TERMINAL]

    def _at_ns(self) -> int:
        return time.monotonic_ns() - self._began_ns

    def _summarise(self) -> None:
        gone_ns = self.disconnected_ns
        end = StreamEnd(
            at_ns=self._at_ns(),
            final=True,
            disconnected_ns=None if gone_ns is None else gone_ns - self._began_ns,
        )
        summary = self._machine.summary(end, started_at_ns=self._began_at_ns)
        if not self.finished.done():
            self.finished.set_result(summary)

    def _failed(self, error: Exception) -> ev.Event:
        kind = "event_order" if isinstance(error, EventOrderError) else "internal_error"
        WARNINGS.warn("agent", f"an agent failed with {type(error).__name__}")
        return ev.RunFailed(type=kind, message=SORRY)

    def _count(self, kind: type[ev.Event]) -> None:
        limit = self._settings.limits.max_steps
        self._steps[kind] += 1
        if limit is not None and self._steps[kind] > limit and self.context.cancel.set("max_steps"):
            raise asyncio.CancelledError

    def _watch(self) -> None:
        """Is it time to stop?"""
        limits, now_ns = self._settings.limits, time.monotonic_ns()
        if limits.timeout_s is not None and now_ns - self._began_ns > limits.timeout_s * 1e9:
            self.stop("timeout")
        elif (
            limits.idle_timeout_s is not None
            and not self._is_putting  # else it waits for its client
            and now_ns - self._heard_ns > limits.idle_timeout_s * 1e9
        ):
            self.stop("idle_timeout")
        else:
            self._timer = asyncio.get_running_loop().call_later(_WATCH_S, self._watch)
