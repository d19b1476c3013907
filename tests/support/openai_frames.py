"""Recorded frames of the OpenAI dialects, as they are and with one value changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from streamtrace.core.frames import Frame

RECORDINGS = Path(__file__).parents[1] / "recordings"

USAGE = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


def recorded(dialect: str) -> dict[str, bytes]:
    """The bodies that were recorded of a dialect, by name."""
    return {
        meta.name.removesuffix(".meta.json"): meta.with_name(
            meta.name.replace(".meta.json", ".sse")
        ).read_bytes()
        for meta in sorted(RECORDINGS.glob("*.meta.json"))
        if json.loads(meta.read_bytes())["dialect"] == dialect
    }


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "id", "type", "error", "name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, frames: list[Frame]) -> Frame:
    """One of the frames, with any JSON in place of one of its values, or without that value."""
    frame = draw(st.sampled_from(frames))
    value = frame.json()
    if not isinstance(value, dict):
        return frame
    *path, last = draw(st.sampled_from(_places(value)))
    holder = value
    for key in path:
        holder = holder[key]
    if draw(st.booleans()):
        holder[last] = draw(_json)
    else:
        del holder[last]
    return Frame(data=json.dumps(value).encode(), event=frame.event)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value inside."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else inside:
        found += _places(inner, (*path, key))
    return found
