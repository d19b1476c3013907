"""What an agent is given: who asks, what for, and when to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core.events import Event

StopReason = Literal[
    "stopped",
    "disconnected",
    "timeout",
    "idle_timeout",
    "max_steps",
    "drained",
    "slow_client",
    "expired",
    "cancelled",
]
"""Why a run was told to end. `expired`: its client left, and its time to go on without is over.
`cancelled`: the server cancelled the request, without a word."""


class CancelToken:
    """Says when to stop, and why. Set once, on the event loop; may be looked at from any thread."""

    __slots__ = ("_event", "reason")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: StopReason | None = None

    @property
    def is_set(self) -> bool:
        """Whether to stop now."""
        return self.reason is not None

    def set(self, reason: StopReason) -> bool:
        """Ask to stop. `False` if that was asked before: then its reason stays."""
        if self.reason is not None:
            return False
        self.reason = reason
        self._event.set()
        return True

    async def wait(self) -> StopReason:
        """Until asked to stop: why."""
        await self._event.wait()
        assert self.reason is not None
        return self.reason


class RunContext(msgspec.Struct, kw_only=True):
    """One call of an agent.

    input       the JSON value of the request
    messages    its history, as it came; empty where it had none
    user        whom the door let in; `None` where there is no door
    tools       what the client offers to run for the agent, as it came
    state       what the client and the agent share, as it came
    resume      answers to what an earlier run asked for, as they came
    headers     of the request, by lower-case name, without those that hold secrets
    cancel      the agent is also cancelled where it awaits; one that computes looks here
    draining    set when the server shuts down: finish soon
    """

    run_id: str
    thread_id: str
    message_id: str
    input: Any = None
    messages: list[Any] = []
    user: Any = None
    tools: list[Any] = []
    state: Any = None
    resume: Any = None
    headers: Mapping[str, str] = {}
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)
    draining: CancelToken = msgspec.field(default_factory=CancelToken)


Events: TypeAlias = AsyncIterator[Event] | Iterator[Event]

Agent: TypeAlias = Callable[[RunContext], Events | Awaitable[Events]]
"""Whatever makes events of a run: an async generator function, a plain one (it then runs in a
thread), or a function that returns such an iterator."""
