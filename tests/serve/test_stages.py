"""Stages, one behind the other."""

from __future__ import annotations

from streamtrace.core import events as ev
from streamtrace.serve.stages import Pipeline


class Pairs:
    """Tells events two by two, and the odd one at the end."""

    def __init__(self) -> None:
        self.held: list[ev.Event] = []

    def feed(self, event):
        self.held.append(event)
        return self.flush() if len(self.held) == 2 else ()

    def flush(self):
        told, self.held = self.held, []
        return told


class Twice:
    """Says everything twice, and asks somebody first."""

    async def feed(self, event):
        return (event, event)

    async def flush(self):
        return [ev.Custom(name="bye")]


def numbered(*numbers: int) -> list[ev.Event]:
    return [ev.Custom(name=str(number)) for number in numbers]


async def test_what_one_says_is_heard_by_those_behind_it_in_order():
    pipeline = Pipeline([Pairs(), Twice()])
    told = [await pipeline.feed(event) for event in numbered(1, 2, 3)]
    assert told == [[], numbered(1, 1, 2, 2), []]
    assert await pipeline.flush() == [*numbered(3, 3), ev.Custom(name="bye")]


async def test_what_is_flushed_passes_the_stages_behind_and_not_those_before():
    pipeline = Pipeline([Pairs(), Twice()])
    assert await pipeline.feed(*numbered(1)) == []
    assert await pipeline.flush() == [*numbered(1, 1), ev.Custom(name="bye")]


async def test_without_stages_events_pass():
    pipeline = Pipeline([])
    assert await pipeline.feed(*numbered(1)) == numbered(1)
    assert await pipeline.flush() == []
