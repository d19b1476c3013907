"""About how many bytes an event holds: what bounds in bytes are counted in.

Text counts what it may take at most, in memory or as UTF-8; everything else a constant. It is never
encoded, and values of any shape are walked no further than matters.
"""

from __future__ import annotations

from typing import Any

from streamtrace.core import events as ev

EVENT_BYTES = 200
"""An event without its text: two small objects, and its place in a queue."""
_VALUE_BYTES = 64
_DELTAS = (ev.TextDelta, ev.ReasoningDelta)


def text_bytes(text: str) -> int:
    """The most that the text takes."""
    return len(text) if text.isascii() else 4 * len(text)


def event_bytes(event: ev.Event, most: int) -> int:
    """The weight of an event; not counted much further than `most`."""
    if type(event) in _DELTAS:
        return EVENT_BYTES + text_bytes(event.text)  # type: ignore[attr-defined]
    total, pending = EVENT_BYTES, [getattr(event, name) for name in event.__struct_fields__]
    while pending and total <= most:  # even where a value contains itself
        value: Any = pending.pop()
        if isinstance(value, str):
            total += text_bytes(value)
        elif isinstance(value, bytes | bytearray | memoryview):
            total += len(value)
        elif isinstance(value, dict):
            total += _VALUE_BYTES * (1 + len(value))
            pending += value.keys()
            pending += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            total += _VALUE_BYTES * (1 + len(value))
            pending += value
        elif value is not None:
            total += _VALUE_BYTES
    return total
