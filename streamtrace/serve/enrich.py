"""Enrichers: functions that add to what an agent says, change it, or leave it out.

Rules that hold here:

* An enricher is asked about every event, in order, and answers before the next is asked about.
* Behind the enrichers stands the strict run machine: what they say out of order raises
  `EventOrderError` there, as it would if the agent had said it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.errors import ConfigError
from streamtrace.serve.stages import Stage, Told

Answer: TypeAlias = ev.Event | Iterable[ev.Event] | None
Enricher: TypeAlias = Callable[[ev.Event], Answer | Awaitable[Answer]]
"""Told an event, it answers with what to tell in its place: an event, several, or none, `()`.
`None`, as from a function that returns nothing, leaves the event as it is."""

MAX_KEY_CHARS = 200
MAX_MESSAGES = 256
"""Messages side by side of which the beginning of a marker is remembered."""


class Enrich:
    """An enricher as a stage. Raises TypeError if it answers with anything but events."""

    def __init__(self, enricher: Enricher) -> None:
        if not callable(enricher):
            raise ConfigError(f"an enricher is a function of an event, got {enricher!r}")
        self._enricher = enricher

    def feed(self, event: ev.Event) -> Told:
        """What the enricher makes of it."""
        answer = self._enricher(event)
        if inspect.isawaitable(answer):
            return self._settle(event, answer)
        return self._checked(event, answer)

    def flush(self) -> Iterable[ev.Event]:
        """Nothing is held."""
        return ()

    async def _settle(self, event: ev.Event, answer: Awaitable[Answer]) -> Iterable[ev.Event]:
        return self._checked(event, await answer)

    def _checked(self, event: ev.Event, answer: Answer) -> Iterable[ev.Event]:
        if answer is None:
            return (event,)
        told = (answer,) if isinstance(answer, ev.Event) else tuple(answer)
        for one in told:
            if not isinstance(one, ev.Event):
                name = getattr(self._enricher, "__qualname__", type(self._enricher).__qualname__)
                raise TypeError(f"enricher {name} answered with {type(one).__name__}, not an Event")
        return told


def as_stage(enricher: Enricher | Stage) -> Stage:
    """A stage as it is; a function as a stage."""
    return enricher if isinstance(enricher, Stage) else Enrich(enricher)


_marker = re.compile(rf"\[([^\[\]\n]{{1,{MAX_KEY_CHARS}}})\]")
_separator = re.compile(r"[,;]")


class CitationEnricher:
    """Tells a `Source` right behind the text that cites it: `[1]`, `[doc:id]`, `[1, 2]`.

    `sources` are known by a key, or by their number from 1; each is told once per run. The text
    stays as it is. Raises ConfigError for keys that no marker can name. One object serves one run.
    """

    def __init__(self, sources: Mapping[str, ev.Source] | Sequence[ev.Source]) -> None:
        if not isinstance(sources, Mapping):
            sources = {str(number): source for number, source in enumerate(sources, 1)}
        for key in sources:
            if not _marker.fullmatch(f"[{key}]") or _separator.search(key) or key != key.strip():
                raise ConfigError(
                    f"a source is cited as [key], so that {key!r} cannot be a key: it has 1 to "
                    f"{MAX_KEY_CHARS} characters, without brackets, commas, or spaces around it"
                )
        self._untold = dict(sources)
        self._begun: dict[str | None, str] = {}

    def feed(self, event: ev.Event) -> Iterable[ev.Event]:
        """The event, and the sources that are cited now."""
        if isinstance(event, ev.TextDelta):
            return (event, *self._cited(event))
        if isinstance(event, ev.MessageFinished):
            self._begun.pop(event.message_id, None)
        return (event,)

    def flush(self) -> Iterable[ev.Event]:
        """Nothing is held."""
        return ()

    def _cited(self, delta: ev.TextDelta) -> list[ev.Source]:
        if not self._untold:
            return []
        text = self._begun.pop(delta.message_id, "") + delta.text
        cited: list[ev.Source] = []
        for marker in _marker.finditer(text):
            for key in _separator.split(marker[1]):
                source = self._untold.pop(key.strip(), None)
                if source is not None:
                    cited.append(source)
        start = text.rfind("[")
        if (
            start >= 0
            and "]" not in text[start:]
            and len(text) - start <= MAX_KEY_CHARS + 1
            and "\n" not in text[start:]
        ):
            remember(self._begun, delta.message_id, text[start:], MAX_MESSAGES)
        return cited
