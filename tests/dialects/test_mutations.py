"""Real streams, spoiled frame by frame: nobody raises, remembers without bound or invents text.

A frame loses fields, gets values of other types, is cut, moved or repeated, or holds something
huge or endlessly nested. tests/fuzz/decoders.py does the same with bytes, guided by coverage.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.laws import held_bytes, not_invented, well_formed
from support.recordings import STREAMS, Stream
from support.wire import events_of

from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Head
from streamtrace.dialects.detect import BUILT_IN, by_name

NAMES = {dialect.name for dialect in BUILT_IN}
OURS = [stream for stream in STREAMS if stream.dialect in NAMES]
MAX_FRAMES = 40
MAX_HELD_BYTES = 24_000
"""Of a decoder that may remember 4 of each, after any number of frames with ever new ids."""

slow = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

_ODD: tuple[Any, ...] = (
    None, True, -1, 10**400, 1.5, "", "x", "\ud83d", "y" * 100_000, [], {}, [None], {"": None},
    [[]] * 500, json.loads("[" * 400 + "]" * 400), {"type": {}}, {"text": [{}]}, float("nan"),
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    found = [at] if at else []
    match value:
        case dict():
            for key, inner in value.items():
                found += places(inner, (*at, key))
        case list():
            for index, inner in enumerate(value):
                found += places(inner, (*at, index))
    return found


def changed(frame: Frame, change: Callable[[Any, Any], None], pick: int) -> Frame:
    """The frame with `change(container, key)` done at one place of its JSON."""
    value = frame.json()
    paths = places(value)
    if not paths:
        return frame
    *way, last = paths[pick % len(paths)]
    inner = value
    for key in way:
        inner = inner[key]
    change(inner, last)
    return msgspec.structs.replace(frame, data=json.dumps(value).encode())


def _put(value: Any, container: Any, key: Any) -> None:
    container[key] = value


@st.composite
def mutated(draw: st.DrawFn, frames: list[Frame]) -> list[Frame]:
    start = draw(st.integers(0, max(0, len(frames) - MAX_FRAMES)))
    frames = frames[start : start + MAX_FRAMES]
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(frames) - 1))
        frame, pick = frames[at], draw(st.integers(0, 10_000))
        match draw(st.integers(0, 7)):
            case 0:
                frames[at] = changed(frame, lambda inner, key: inner.pop(key), pick)
            case 1:
                frames[at] = changed(frame, partial(_put, draw(st.sampled_from(_ODD))), pick)
            case 2:
                short = None if frame.data is None else frame.data[: pick % (len(frame.data) + 1)]
                frames[at] = msgspec.structs.replace(frame, data=short)
            case 3:
                frames[at] = msgspec.structs.replace(frame, event=draw(_EVENTS))
            case 4:
                other = pick % len(frames)
                frames[at], frames[other] = frames[other], frame
            case 5:
                frames.insert(pick % len(frames), frame)
            case 6:
                odd = draw(st.sampled_from(_ODD))
                frames[at] = msgspec.structs.replace(frame, data=json.dumps(odd).encode())
            case 7:
                frames[at] = msgspec.structs.replace(frame, complete=False)
    return frames


_EVENTS = st.none() | st.sampled_from(
    sorted({frame.event or "" for stream in OURS for frame in stream.frames()[:50]})
)


@pytest.mark.parametrize("stream", OURS, ids=str)
@settings(slow, max_examples=20)
@given(data=st.data())
def test_no_mutation_makes_a_decoder_raise_or_invent(stream: Stream, data: st.DataObject):
    frames = data.draw(mutated(stream.frames()))
    dialect = by_name(stream.dialect)
    events = events_of(dialect, frames, stream.head)
    well_formed(events)
    not_invented(events, frames)
    asked = data.draw(st.sampled_from(frames))
    for other in BUILT_IN:
        other.recognise(stream.head, asked)


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every named bound on what is remembered is 4, so that a missing one shows at once."""
    for name, module in sys.modules.items():
        if name.startswith("streamtrace.dialects."):
            for constant, value in vars(module).items():
                if constant.startswith("MAX_") and not constant.endswith("_BYTES"):
                    assert isinstance(value, int)
                    monkeypatch.setattr(module, constant, 4)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("stream", OURS, ids=str)
def test_a_decoder_does_not_remember_without_bound(stream: Stream):
    """The frames again and again, each time with other numbers in everything."""
    decoder = by_name(stream.dialect).open(Head())
    frames = [frame for frame in stream.frames() if len(frame.data or b"") < 20_000][:300]
    for turn in range(1, 1 + 6_000 // max(1, len(frames))):
        for frame in frames:
            data = frame.data and re.sub(rb"\d+", rb"%d\g<0>" % turn, frame.data)
            for _ in decoder.decode(msgspec.structs.replace(frame, data=data)):
                pass
    assert held_bytes(decoder) < MAX_HELD_BYTES
