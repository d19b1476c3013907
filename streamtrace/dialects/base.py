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

A dialect that must remember something between frames returns a fresh object from `decoder`, or
from `open` if what is known before the first frame matters to it. A dialect that can also be
written has an `encoder`; what it can write is in `encodes`.
Decoders never need to guard themselves: an exception is caught by the pipeline, counted as an
issue, and the frame still counts and times. They must keep what they remember bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, ClassVar, Protocol

import msgspec

from streamtrace.core.errors import EncodeError
from streamtrace.core.events import Event
from streamtrace.core.frames import Frame

SAYS = (
    "run",
    "thread",
    "text",
    "reasoning",
    "tool_start",
    "arguments",
    "result",
    "step",
    "model",
    "usage",
    "finish",
    "input_required",
    "error",
    "terminal",
)
"""What a wire may be able to say: the columns of the matrix in docs/dialects.md.

run, thread: their ids. text, reasoning, tool_start, arguments, result, step, usage, error: their
events. model: the name of the model. finish: why a generation stopped. input_required: that the run
waits for an answer. terminal: that the run is over, so that a cut stream can be told from a whole.
"""


def says(words: str) -> frozenset[str]:
    """Words of `SAYS`, put down in one line. Raises ValueError for one that is none."""
    said = frozenset(words.split())
    if not said <= set(SAYS):
        raise ValueError(f"a wire says one of {SAYS}, not {sorted(said - set(SAYS))}")
    return said


def marks(words: str) -> frozenset[str]:
    """Words that are marks (see `Dialect.marks`), put down in one line."""
    return frozenset(words.split())


LINE_MEDIA_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
LINE_HEADERS = frozenset({"x-vercel-ai-data-stream"})
"""Response headers that say, whatever the media type, that each line is a frame."""


class Fit(IntEnum):
    """How sure a dialect is that a frame is its own."""

    NO = 0
    MAYBE = 1
    """Its own or another's: wait for up to `detect.MAX_FRAMES` frames."""
    YES = 2


class Head(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known before the first frame: the start of the response, and the request.

    Header names are lower-case. `request` is the JSON value of the request's body, `None` where it
    had none, or a larger one than is read.
    """

    status: int = 200
    media_type: str = "text/event-stream"
    headers: Mapping[str, str] = {}
    transport: str = "http"
    path: str = ""
    request: Any = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What a wire wants written and no event tells. `request_id` is that of a JSON-RPC call,
    `message_id` is for the first message that has no id of its own, where the wire wants one.
    """

    run_id: str = "run"
    thread_id: str = "thread"
    message_id: str | None = None
    model: str = "unknown"
    created_s: int = 0
    request_id: int | str | None = None


class Decoder(Protocol):
    """Frames of one stream in, events out."""

    def decode(self, frame: Frame) -> Iterable[Event]:
        """What the frame says. Frames without data are given too."""

    def close(self) -> Iterable[Event]:
        """What the end of the stream says, for dialects that do not say it themselves."""


class Encoder(Protocol):
    """Events of one stream in, frames out: `decode(encode(e)) == e` for what the wire can say."""

    def encode(self, event: Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say."""

    def close(self) -> Iterable[Frame]:
        """What the wire writes behind the last event, such as a sentinel."""


class Dialect:
    """Base of all dialects. Objects of it are shared by all streams: no per-stream state here."""

    name: str = "custom"
    needs_terminal: bool = True
    """Whether a stream that just stops was cut (`truncated`); false where no end is ever sent."""
    lines: bool = False
    """Whether each line is a frame, as in JSON lines, and not each block up to a blank line."""
    media_types: tuple[str, ...] = ("text/event-stream",)
    """Media types of its streams. Those of the middleware's `dialect` are observed as well."""
    marks: ClassVar[frozenset[str] | None] = None
    """Words of which a frame that may be its own shows one, if its data is a JSON object: as a key
    of that object, as the first word of the event's name (up to `.`, `/` or `|`), or as a header of
    the response. Of other frames it is not asked. `None`: it is asked of every frame. Each class
    says it for itself, since a subclass may recognise more."""
    plain_deltas: bool = False
    """Whether a frame that differs from the one before in the text of its delta only adds that text
    and changes nothing else in the decoder; then it is not decoded again."""
    says: ClassVar[frozenset[str]] = frozenset()
    """What the wire can say, out of `SAYS`."""
    encodes: ClassVar[frozenset[type[Event]]] = frozenset()
    """The events that `encoder` can write."""
    response_headers: ClassVar[Mapping[str, str]] = {}
    """What a response that speaks it must say, beside its media type."""

    def __init_subclass__(cls, **more: Any) -> None:
        """`marks` are not inherited."""
        super().__init_subclass__(**more)
        cls.marks = vars(cls).get("marks")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """How well the frame fits. By default: yes, if a new decoder makes anything of it."""
        return Fit.YES if any(True for _ in self.decoder().decode(frame)) else Fit.NO

    def open(self, head: Head) -> Decoder:
        """A decoder for the stream that begins with `head`. By default `decoder()`."""
        return self.decoder()

    def decoder(self) -> Decoder:
        """A decoder for one stream. By default the dialect itself, for those without state."""
        return self

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream. Raises EncodeError where there is none."""
        raise EncodeError(f"streams of the dialect {self.name!r} can be read, but not written")

    def decode(self, frame: Frame) -> Iterable[Event]:
        """What one frame says."""
        raise NotImplementedError(f"{type(self).__name__} defines neither decode nor decoder")

    def close(self) -> Iterable[Event]:
        """What the end of the stream says. A RunFinished here makes cut streams `completed`."""
        return ()
