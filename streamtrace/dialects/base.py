"""What a dialect is: a name, a way to recognise its frames, and a decoder.

A dialect of your own needs a name and `decode`::

    class Mine(Dialect):
        name = "mine"

        def decode(self, frame):
            match frame.json():
                case {"kind": "tok", "t": str(text)}:
                    yield TextDelta(text=text)
                case {"kind": "end"}:
                    yield RunFinished()

    app = StreamTraceMiddleware(app, sinks=[...], dialects=[Mine()])

A dialect that must remember something between frames returns a fresh object from `decoder`.
Decoders never need to guard themselves: an exception is caught by the pipeline, counted as an
issue, and the frame still counts and times. They must keep what they remember bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Protocol

import msgspec

from streamtrace.core.events import Event
from streamtrace.core.frames import Frame


class Fit(IntEnum):
    """How sure a dialect is that a frame is its own."""

    NO = 0
    MAYBE = 1
    """Its own or another's: wait for up to `detect.MAX_FRAMES` frames."""
    YES = 2


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before the first frame. Header names are lower-case."""

    status: int = 200
    media_type: str = "text/event-stream"
    headers: Mapping[str, str] = {}
    transport: str = "http"


class Decoder(Protocol):
    """Frames of one stream in, events out."""

    def decode(self, frame: Frame) -> Iterable[Event]:
        """What the frame says. Frames without data are given too."""

    def close(self) -> Iterable[Event]:
        """What the end of the stream says, for dialects that do not say it themselves."""


class Dialect:
    """Base of all dialects. Objects of it are shared by all streams: no per-stream state here."""

    name: str = "custom"
    needs_terminal: bool = True
    """Whether a stream that just stops was cut (`truncated`); false where no end is ever sent."""

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """How well the frame fits. By default: yes, if a new decoder makes anything of it."""
        return Fit.YES if any(True for _ in self.decoder().decode(frame)) else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream. By default the dialect itself, for those without state."""
        return self

    def decode(self, frame: Frame) -> Iterable[Event]:
        """What one frame says."""
        raise NotImplementedError(f"{type(self).__name__} defines neither decode nor decoder")

    def close(self) -> Iterable[Event]:
        """What the end of the stream says. A RunFinished here makes cut streams `completed`."""
        return ()
