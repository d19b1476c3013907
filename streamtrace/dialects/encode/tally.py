"""What a run used, for wires that tell it once, at the end: added up as the run machine does it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.jsonio import as_count

MAX_MODELS = 1024
"""Most entries that one run remembers; further ones are left out."""

COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)

_Model: TypeAlias = tuple[str | None, str | None]
_Counts: TypeAlias = dict[str, int]


class _Generation(msgspec.Struct):
    key: str | None = None
    provider: str | None = None
    model: str | None = None
    counts: _Counts = {}
    explicit: bool = False


class Tally:
    """The token counts of one run.

    The last report of a generation wins, field by field, and the generations of a model are summed.
    What was reported for the whole run stands in place of all that.
    """

    def __init__(self) -> None:
        self._of_run: dict[_Model, _Counts] = {}
        self._past: dict[_Model, _Counts] = {}
        self._last: _Generation | None = None
        self._is_open = False

    def generation(self, event: ev.GenerationStarted) -> bool:
        """Whether this begins a generation; else it adds facts to the open one."""
        last = self._last if self._is_open else None
        key = event.response_id or event.key
        same = last is not None and (key is None or last.key in (None, key))
        if last is None or not same:
            last = self._begin()
        last.explicit = True
        last.key = last.key or key
        last.provider = event.provider or last.provider
        last.model = event.model or last.model
        return not same

    def output(self) -> None:
        """Something was generated."""
        if not self._is_open:
            self._begin()

    def result(self) -> None:
        """A tool answered: what follows is the model's next turn, where no event says so."""
        if self._last is not None and not self._last.explicit:
            self._is_open = False

    def usage(self, event: ev.Usage) -> None:
        """A report of a generation, or of the whole run."""
        counts = {
            name: count for name in COUNTS if (count := as_count(getattr(event, name))) is not None
        }
        if event.scope == "run":
            key = (event.provider, event.model)
            if key in self._of_run or len(self._of_run) < MAX_MODELS:
                self._of_run[key] = counts
            return
        last = self._last or self._begin()
        last.counts = {**last.counts, **counts}
        last.provider = last.provider or event.provider
        last.model = last.model or event.model

    def by_model(self) -> list[ev.Usage]:
        """One entry per provider and model, of those that anything is known of so far."""
        return [
            ev.Usage(provider=provider, model=model, **counts, scope="run")
            for (provider, model), counts in (self._of_run or self._with_last()).items()
            if counts
        ]

    def total(self) -> _Counts:
        """Sums of what is known."""
        total: _Counts = {}
        for entry in self.by_model():
            _add(total, {name: getattr(entry, name) for name in COUNTS})
        return total

    def _begin(self) -> _Generation:
        self._past = self._with_last()
        self._is_open = True
        self._last = _Generation()
        return self._last

    def _with_last(self) -> dict[_Model, _Counts]:
        last = self._last
        key = (None, None) if last is None else (last.provider, last.model)
        if last is None or (key not in self._past and len(self._past) >= MAX_MODELS):
            return self._past
        counts = dict(self._past.get(key, {}))
        _add(counts, last.counts)
        return {**self._past, key: counts}


def _add(total: _Counts, counts: dict[str, int] | dict[str, int | None]) -> None:
    for name, count in counts.items():
        if count is not None:
            total[name] = total.get(name, 0) + count
