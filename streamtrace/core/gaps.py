"""Gaps between pieces of output, counted by bucket: many at once.

`count_gaps` is compiled where there was a compiler; both do the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import sub

from streamtrace.core import compiled


def count_gaps_in_python(
    times: Sequence[int], before_ns: int, edges_ns: tuple[int, ...], counts: list[int]
) -> tuple[int, int]:
    """Output came at `times`, the last before them at `before_ns`: add the gaps to `counts`.

    `edges_ns` are the upper bounds of all buckets but the last. What comes at the same time is one
    message of the server: no gap. Returns the longest gap, and which of `times` ended it.
    """
    gaps = list(map(sub, times, [before_ns, *times]))
    longest_ns = max(gaps)
    longest = gaps.index(longest_ns)
    gaps.sort()
    below, count = bisect_right(gaps, 0), len(gaps)
    while below < count:  # in most streams, they are in a few buckets
        bucket = bisect_left(edges_ns, gaps[below])
        upto = count if bucket == len(edges_ns) else bisect_right(gaps, edges_ns[bucket], below)
        counts[bucket] += upto - below
        below = upto
    return longest_ns, longest


count_gaps = compiled.count_gaps or count_gaps_in_python
