"""From the bytes of a stream to frames, events and text."""

from __future__ import annotations

from collections.abc import Iterable

from streamtrace.core.events import Event, TextDelta
from streamtrace.core.frames import Frame, FrameParser, LineParser
from streamtrace.dialects.base import Dialect, Head


def frames_of(*chunks: bytes, parser: FrameParser | LineParser | None = None) -> list[Frame]:
    """All frames of a stream, the cut one at its end too."""
    parser = parser or FrameParser()
    frames = [frame for chunk in chunks for frame in parser.feed(chunk)]
    return frames + parser.close()


def events_of(dialect: Dialect, frames: Iterable[Frame], head: Head | None = None) -> list[Event]:
    """What a fresh decoder makes of the frames."""
    decoder = dialect.open(head or Head())
    events = [event for frame in frames for event in decoder.decode(frame)]
    return events + list(decoder.close())


def text_of(events: Iterable[Event]) -> str:
    """The text a user sees."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))
