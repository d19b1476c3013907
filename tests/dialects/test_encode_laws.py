"""Laws over all dialects that can be written, and all streams that we have of any dialect.

decode(encode(e)) == e      for what the dialect's own streams say
translate                   what any stream says can be written in any dialect, and read again:
                            the same text, the same calls, the same end
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from support.recordings import STREAMS, Stream
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import encode_frame
from streamtrace.core.jsonio import clean_text
from streamtrace.dialects.base import Dialect
from streamtrace.dialects.detect import BUILT_IN, Detector, by_name

NAMES = {dialect.name for dialect in BUILT_IN}
WRITTEN = [dialect for dialect in BUILT_IN if dialect.encodes]
OURS = [stream for stream in STREAMS if stream.dialect in NAMES]
each_written = pytest.mark.parametrize("dialect", WRITTEN, ids=lambda one: one.name)

ROUND_TRIPS = [
    (dialect, stream) for dialect in WRITTEN for stream in OURS if stream.dialect == dialect.name
]

TEXT_IS_OPEN = "the text is open when the run ends; the encoder closes it first"
NOT_IN_AI_6 = "has parts that only `ai` 7 reads"
NOT_AS_IT_WAS: dict[str, str] = {
    "ai7_abort": TEXT_IS_OPEN,
    "ai7_auto_approval": NOT_IN_AI_6,
    "ai7_preliminary": "the encoder is given results, not the progress towards them",
    "ai7_stream_error": TEXT_IS_OPEN,
    "sample-vercel-ui-broken": TEXT_IS_OPEN,
    "sample-vercel-ui-retried": NOT_IN_AI_6,
    "vercel_ui_abort.synthetic": TEXT_IS_OPEN,
    "vercel_ui_error.synthetic": TEXT_IS_OPEN,
    "a2a10_jsonrpc_message": "what we write is always a task",
    "a2a10_adk_input_required": "which call waits is not written",
    "a2a10_adk_v2_input_required": "which call waits is not written",
}
"""Streams whose events are not what an encoder would be given, with the reason."""


def written(dialect: Dialect, events: Iterable[ev.Event]) -> bytes:
    encoder = dialect.encoder()
    frames = [frame for event in events for frame in encoder.encode(event)]
    return b"".join(map(encode_frame, [*frames, *encoder.close()]))


def read(stream: Stream) -> list[ev.Event]:
    return events_of(by_name(stream.dialect), stream.frames(), stream.head)


@pytest.mark.parametrize(("dialect", "stream"), ROUND_TRIPS, ids=str)
def test_what_a_stream_says_can_be_written_and_read_again(dialect, stream):
    if stream.name in NOT_AS_IT_WAS:
        return
    events = [event for event in read(stream) if type(event) in dialect.encodes]
    again = events_of(dialect, frames_of(written(dialect, events)))
    assert [event for event in again if type(event) in dialect.encodes] == events


ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)


@each_written
@pytest.mark.parametrize("stream", OURS, ids=str)
def test_what_any_stream_says_can_be_written_in_any_dialect(dialect, stream):
    events = read(stream)
    body = written(dialect, events)
    frames = frames_of(body)
    assert all(frame.complete and frame.stray is None for frame in frames)
    again = events_of(dialect, frames)
    end = next((at for at, event in enumerate(events) if isinstance(event, ENDS)), len(events))
    if ev.TextDelta in dialect.encodes:
        assert clean_text(text_of(again)) == clean_text(text_of(events[:end]))
    if ev.ToolCallStarted in dialect.encodes:
        calls = [one.name for one in events[:end] if isinstance(one, ev.ToolCallStarted)]
        assert [one.name for one in again if isinstance(one, ev.ToolCallStarted)] == calls
    if frames and end < len(events):
        detector = Detector(stream.head)
        found = next(filter(None, map(detector.offer, frames)), None) or detector.settle()
        assert found.name == dialect.name
        assert isinstance(again[-1], ENDS)
