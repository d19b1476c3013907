"""Law: whatever a field holds, nothing raises, and events are what their classes promise."""

from __future__ import annotations

import json

import msgspec
import pytest
from support.hot import spoiled
from support.recordings import STREAMS

from streamtrace.core.events import Event, Usage
from streamtrace.core.frames import Frame
from streamtrace.dialects.detect import BUILT_IN, by_name

NAMES = {dialect.name for dialect in BUILT_IN}
SMALL = [one for one in STREAMS if one.dialect in NAMES and len(one.body) < 8_000]
MAX_SPOILED = 400
"""Ways to spoil one frame that are tried; of more, those of its first fields."""


def check(event: Event) -> None:
    """The fields have the types that their class names; counts are not negative."""
    fields = msgspec.structs.asdict(event)
    msgspec.convert(fields, type(event))
    if isinstance(event, Usage):
        assert all(not isinstance(count, int) or count >= 0 for count in fields.values()), event


@pytest.mark.parametrize("stream", SMALL, ids=str)
def test_odd_values_of_any_field_do_no_harm(stream):
    dialect = by_name(stream.dialect)
    decoder = dialect.open(stream.head)
    for frame in stream.frames():
        for value in [*spoiled(frame.json())[:MAX_SPOILED], frame.json()]:
            odd = Frame(data=json.dumps(value).encode(), event=frame.event)
            dialect.recognise(stream.head, odd)
            for event in decoder.decode(odd):
                check(event)
    for event in decoder.close():
        check(event)
