"""How everything here is compared: variants take turns, and each round is compared with itself.

Absolute times differ by a factor between machines, and between two minutes of one machine; the
ratio, or the difference, of two variants within one round is what holds. So a result is the median
of per-round ratios, with its quartiles to show how far the rounds agree.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

Samples = dict[str, list[float]]
"""One number per round, by variant."""


def turns(variants: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """`(round, variant)`: every variant once per round, and no variant always first.

    Round 0 is there to warm up, and is not to be counted.
    """
    for number in range(rounds + 1):
        for offset in range(len(variants)):
            yield number, variants[(number + offset) % len(variants)]


def ratio(samples: Samples, variant: str, base: str) -> dict[str, float]:
    """`variant / base`, round by round: median and quartiles."""
    return quartiles(
        [mine / theirs for mine, theirs in zip(samples[variant], samples[base], strict=True)]
    )


def over(samples: Samples, variant: str, base: str) -> dict[str, float]:
    """`variant - base`, round by round: median and quartiles."""
    return quartiles(
        [mine - theirs for mine, theirs in zip(samples[variant], samples[base], strict=True)]
    )


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """The median, and the quartiles around it."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}
