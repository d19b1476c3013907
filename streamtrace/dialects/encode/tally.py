"""What a run used, for wires that tell it once, at the end: added up as the run machine does it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.jsonio import as_count

MAX_MODELS = MAX_GENERATIONS = 1024
"""Most of each that one run remembers; further ones are left out, or count to the last."""

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
        self._generations: list[_Generation] = []
        self._by_key: dict[str, _Generation] = {}
        self._open: _Generation | None = None

    def generation(self, event: ev.GenerationStarted) -> bool:
        """Whether this is another generation than the open one; else it adds facts to that."""
        one, key = self._open, event.response_id or event.key
        same = one is not None and (key is None or one.key in (None, key))
        if one is None or not same:
            one = self._open = self._by_key.get(key or "") or self._begin()
        one.explicit = True
        if key is not None:
            one.key = one.key or key
            self._by_key.setdefault(one.key, one)
        one.provider = event.provider or one.provider
        one.model = event.model or one.model
        return not same

    def output(self) -> None:
        """Something was generated."""
        if self._open is None:
            self._open = self._begin()

    def result(self) -> None:
        """A tool answered: what follows is the model's next turn, where no event says so."""
        if self._open is not None and not self._open.explicit:
            self._open = None

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
        if self._open is None and not self._generations:
            self._open = self._begin()
        one = self._open or self._generations[-1]
        one.counts = {**one.counts, **counts}
        one.provider = one.provider or event.provider
        one.model = one.model or event.model

    def by_model(self) -> list[ev.Usage]:
        """One entry per provider and model, of those that anything is known of so far."""
        return [
            ev.Usage(provider=provider, model=model, **counts, scope="run")
            for (provider, model), counts in (self._of_run or self._of_generations()).items()
            if counts
        ]

    def total(self) -> _Counts:
        """Sums of what is known."""
        total: _Counts = {}
        for entry in self.by_model():
            _add(total, {name: getattr(entry, name) for name in COUNTS})
        return total

    def _begin(self) -> _Generation:
        if len(self._generations) >= MAX_GENERATIONS:
            return self._generations[-1]
        self._generations.append(_Generation())
        return self._generations[-1]

    def _of_generations(self) -> dict[_Model, _Counts]:
        totals: dict[_Model, _Counts] = {}
        for one in self._generations:
            _add(totals.setdefault((one.provider, one.model), {}), one.counts)
        return totals


def _add(total: _Counts, counts: dict[str, int] | dict[str, int | None]) -> None:
    for name, count in counts.items():
        if count is not None:
            total[name] = total.get(name, 0) + count
