"""Stages between an agent and its stream: they hold, change, add or leave out events.

Rules that hold here:

* A stage belongs to one run. What it holds back is bounded, and comes out of `flush` at the latest.
* An event passes through all stages before the next one is fed, so what one stage says is heard by
  those behind it, in order.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from streamtrace.core.events import Event

Told: TypeAlias = Iterable[Event] | Awaitable[Iterable[Event]]


@runtime_checkable
class Stage(Protocol):
    """Events of one run in, events out: filters, leakage control, enrichers."""

    def feed(self, event: Event) -> Told:
        """What to tell now; to be awaited where the stage must wait for somebody."""

    def flush(self) -> Told:
        """The run is over: what is still held back."""


class Pipeline:
    """Stages one behind the other. It is fed by one task, and not again before that was awaited."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self._stages: Sequence[Stage] = tuple(stages)

    async def feed(self, event: Event) -> list[Event]:
        """What is told of the event, and of what was held before it. Raises what a stage raises."""
        return await _through(self._stages, [event])

    async def flush(self) -> list[Event]:
        """What all stages still hold: that of the first goes through those behind it."""
        told: list[Event] = []
        for at, stage in enumerate(self._stages):
            told += await _through(self._stages[at + 1 :], await _settled(stage.flush()))
        return told


async def _through(stages: Sequence[Stage], events: list[Event]) -> list[Event]:
    for stage in stages:
        told: list[Event] = []
        for event in events:
            told += await _settled(stage.feed(event))
        events = told
    return events


async def _settled(told: Told) -> list[Event]:
    return list(await told if inspect.isawaitable(told) else told)
