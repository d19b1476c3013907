"""Runs while they wait to be exported.

Rules that hold here:

* They wait as bytes, and are made again one by one: objects that wait would be counted by the
  garbage collector, and all streams wait while it works.
* What is made again is what was told. A run of which that cannot be said waits as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import overload

import msgspec

from streamtrace.core.summary import Content, RunSummary

Packed = bytes | RunSummary

_RECORD_BYTES = 2048
_PART_BYTES = 512

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RunSummary).decode


class Batch(Sequence[RunSummary]):
    """Runs as they waited. Each is made when it is asked for, and again when it is asked for again.

    What is done with one at a time needs no more room than for one; `list(batch)` is all of them.
    """

    def __init__(self, packed: Sequence[Packed]) -> None:
        self._packed = packed

    def __len__(self) -> int:
        """How many."""
        return len(self._packed)

    def __iter__(self) -> Iterator[RunSummary]:
        """One after the other."""
        return map(_unpacked, self._packed)

    @overload
    def __getitem__(self, index: int) -> RunSummary: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> RunSummary | Batch:
        """One, or some."""
        if isinstance(index, slice):
            return Batch(self._packed[index])
        return _unpacked(self._packed[index])


def pack(summary: RunSummary) -> Packed:
    """As bytes; as it is where it has none (half an emoji, an integer of more than 64 bits), or
    none that could be read (a release that the app gave as a number, a cost as a Decimal)."""
    try:
        packed = _encode(summary)
        _decode(packed)  # later it would be too late to find out
    except (ValueError, OverflowError, TypeError):  # msgspec's errors are ValueErrors
        return summary
    return packed


def _unpacked(packed: Packed) -> RunSummary:
    return _decode(packed) if isinstance(packed, bytes) else packed


def packed_bytes(packed: Packed) -> int:
    """The memory that it takes, or about that."""
    return sys.getsizeof(packed) if isinstance(packed, bytes) else _record_bytes(packed)


def _record_bytes(summary: RunSummary) -> int:
    """About how much memory a run holds: its parts, and its captured texts."""
    parts = len(summary.generations) + len(summary.tool_calls) + len(summary.steps)
    contents: list[Content] = [summary.request.input]
    for generation in summary.generations:
        contents += (generation.text, generation.reasoning)
    for call in summary.tool_calls:
        contents += (call.arguments, call.result)
    if summary.error is not None:
        contents.append(summary.error.message)
    texts = sum(sys.getsizeof(content.text) for content in contents if content.text is not None)
    return _RECORD_BYTES + _PART_BYTES * parts + texts
