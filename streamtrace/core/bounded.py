"""Memory of what strangers name, which must not grow with what they send."""

from __future__ import annotations

from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def remember(memory: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Put into a memory of at most so many keys; of more, the oldest is forgotten."""
    if len(memory) >= most and key not in memory:
        del memory[next(iter(memory))]
    memory[key] = value
