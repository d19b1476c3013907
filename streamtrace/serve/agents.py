"""The shapes that agents come in, made one: an async iterator of events.

Rules that hold here:

* What was opened is closed: also when the run is cancelled between two events.
* A plain iterator works in a thread, one step at a time, so its work is bounded by who reads it.
  The call that makes an iterator is made on the event loop: it must not wait for anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, cast

from streamtrace.core.errors import ConfigError
from streamtrace.core.events import Event
from streamtrace.serve.context import Agent, Events, RunContext


def shared(agent: Agent) -> Agent:
    """One agent for all requests, that serves one at a time: the next waits for its turn."""
    lock = asyncio.Lock()

    async def in_turn(run: RunContext) -> AsyncGenerator[Event, None]:
        async with lock, contextlib.aclosing(events_of(agent, run)) as events:
            async for event in events:
                yield event

    return in_turn


def per_request(factory: Callable[[], Agent]) -> Agent:
    """A new agent for each request."""
    if not callable(factory):
        raise ConfigError(f"factory must be callable, got {factory!r}")
    return lambda run: factory()(run)  # noqa: PLW0108  a factory call per run


async def events_of(agent: Agent, run: RunContext) -> AsyncGenerator[Event, None]:
    """The events of one call. Raises TypeError for an agent that gives no iterator."""
    made: Any = agent(run)
    if inspect.isawaitable(made):
        made = await cast("Awaitable[Events]", made)
    if hasattr(made, "__aiter__"):
        try:
            async for event in made:
                yield event
        finally:
            close = getattr(made, "aclose", None)
            if close is not None:
                await close()
    elif hasattr(made, "__iter__"):
        async with contextlib.aclosing(_in_thread(iter(made))) as events:
            async for event in events:
                yield event
    else:
        raise TypeError(f"an agent gives an iterator of events, this one gave {type(made)}")


_END = object()


async def _in_thread(events: Iterator[Event]) -> AsyncGenerator[Event, None]:
    step: asyncio.Future[Any] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, events, _END))
            event = await asyncio.shield(step)
            if event is _END:
                return
            yield event
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            await _close_after(step, close)


async def _close_after(step: asyncio.Future[Any] | None, close: Callable[[], None]) -> None:
    """A generator cannot be closed while it works: wait for its step, which sees the token."""
    if step is not None and not step.done():
        await asyncio.wait({step})
    if step is not None and not step.cancelled():
        step.exception()  # told to whoever waited for it, if anybody did
    await asyncio.to_thread(close)
