"""The law of fast paths: what they read is what the general path reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest
from support.wire import events_of

from streamtrace.core.events import Event
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Dialect

ODD: tuple[Any, ...] = (
    None,
    "",
    "x",
    "é",
    "\ud83d",
    0,
    7,
    -1,
    1.5,
    True,
    [],
    ["x"],
    {},
    {"text": 1},
)
"""Values of every type that a field may hold in place of its own."""


def both_ways(
    dialect: Dialect, module: ModuleType, reader: str, frames: Iterable[Frame]
) -> tuple[list[Event], list[Event]]:
    """The events with the fast path, whose reader is named, and those without it."""
    frames = list(frames)
    fast = events_of(dialect, frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, reader, lambda data: None)
        return fast, events_of(dialect, frames)


def spoiled(value: Any) -> list[Any]:
    """`value` with each of its fields, at any depth, gone or of another type, one at a time."""
    if not isinstance(value, dict):
        return []
    found = []
    for key, inner in value.items():
        rest = {name: one for name, one in value.items() if name != key}
        found += [rest, *({**value, key: odd} for odd in ODD)]
        found += [{**value, key: one} for one in spoiled(inner)]
    return found


def frames_like(*values: Any, event: str | None = None) -> list[Frame]:
    """Frames with these values, and all ways to spoil them."""
    every = [one for value in values for one in (value, *spoiled(value))]
    return [Frame(data=json.dumps(one).encode(), event=event) for one in every]
