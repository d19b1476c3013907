"""Real frames with one of their values dropped or replaced, however deep it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from streamtrace.core.frames import Frame

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@st.composite
def spoiled_frames(draw: st.DrawFn, frames: Sequence[Frame]) -> Frame:
    """One of the frames, with another value somewhere inside its JSON object."""
    frame = draw(st.sampled_from(frames))
    value = json.loads(frame.data or b"{}")
    node = value
    while True:
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(keys))
        inner = node[key]
        if not (isinstance(inner, dict | list) and inner) or draw(st.booleans()):
            break
        node = inner
    if isinstance(node, dict) and draw(st.booleans()):
        del node[key]
    else:
        node[key] = draw(anything)
    return Frame(event=frame.event, data=json.dumps(value).encode())


class _Never:
    def decode(self, data: bytes) -> Any:
        raise msgspec.DecodeError


@contextmanager
def without_hot_frames(dialect: ModuleType) -> Iterator[None]:
    """Every frame is read in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "_hot_decoder", _Never())
        yield
