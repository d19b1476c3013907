"""JSON lines: streams without event names say the same, frame by frame or line by line."""

from __future__ import annotations

import pytest
from support.recordings import STREAMS, Stream
from support.strategies import single_bytes
from support.wire import events_of, frames_of

from streamtrace.core.events import Event, Heartbeat
from streamtrace.core.frames import LineParser
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects.base import LINE_MEDIA_TYPES, Head
from streamtrace.dialects.detect import BUILT_IN, Detector, by_name
from streamtrace.observe.pipeline import Pipeline

NAMES = {dialect.name for dialect in BUILT_IN}
HEAD = Head(media_type=LINE_MEDIA_TYPES[0])


def nameless(stream: Stream) -> bool:
    """Whether its frames are data of one line and nothing else."""
    return stream.dialect in NAMES and all(
        frame.complete and not (frame.event or frame.stray or b"\n" in (frame.data or b""))
        for frame in stream.frames()
    )


def lines_of(stream: Stream) -> bytes:
    return b"".join(frame.data + b"\n" for frame in stream.frames() if frame.data)


NAMELESS = [stream for stream in STREAMS if nameless(stream)]
each = pytest.mark.parametrize("stream", NAMELESS, ids=str)


def test_the_vocabularies_that_people_send_as_lines_are_among_them():
    assert {"generic", "openai-chat", "ag-ui", "dify", "ollama", "pydantic-ai"} <= {
        stream.dialect for stream in NAMELESS
    }


def told(events: list[Event]) -> list[Event]:
    """All but heartbeats: lines have no comments."""
    return [event for event in events if not isinstance(event, Heartbeat)]


@each
def test_lines_say_what_frames_say(stream):
    frames = frames_of(lines_of(stream), parser=LineParser())
    dialect = by_name(stream.dialect)
    assert told(events_of(dialect, frames)) == told(events_of(dialect, stream.frames()))


@each
def test_lines_are_recognised_and_lead_to_the_same_end(stream):
    pipelines = Pipeline(HEAD), Pipeline(stream.head)
    pipelines[0].feed(lines_of(stream), 0)
    pipelines[1].feed(stream.body, 0)
    of_lines, of_frames = (
        pipeline.close(StreamEnd(at_ns=0, final=True), started_at_ns=0) for pipeline in pipelines
    )
    assert of_lines.dialect == stream.dialect
    assert (of_lines.status, of_lines.error) == (of_frames.status, of_frames.error)
    assert of_lines.generations == of_frames.generations


@pytest.mark.parametrize("stream", [one for one in NAMELESS if len(one.body) < 4_000], ids=str)
def test_single_bytes_of_lines_make_the_same_frames(stream):
    lines = lines_of(stream)
    whole = frames_of(lines, parser=LineParser())
    assert frames_of(*single_bytes(lines), parser=LineParser()) == whole
    detector = Detector(HEAD)
    found = next(filter(None, map(detector.offer, whole)), None) or detector.settle()
    assert found.name == stream.dialect
