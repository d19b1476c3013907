"""Bytes of one stream to its run: frames, dialect, events, machine.

Rules: no clock (times come in with the bytes), no I/O, and no exception: what a decoder raises is
recorded as an issue, and the frame still counts and times. Whoever owns the pipeline decides when
it works; it never asks for more than it was fed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamtrace.core.content import ContentPolicy
from streamtrace.core.events import Event
from streamtrace.core.frames import MAX_FRAME_BYTES, Frame, FrameParser, LineParser
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import LINE_HEADERS, LINE_MEDIA_TYPES, Decoder, Dialect, Head
from streamtrace.dialects.detect import BUILT_IN, UNKNOWN, Detector

Listener = Callable[[Event, int], None]


class Pipeline:
    """One stream: feed it in order, then `close` it once for its summary.

    `parse=False` for bodies that cannot be read (compressed): they are timed and counted.
    `listener` is told of every event and its time, after the machine.
    """

    def __init__(
        self,
        head: Head,
        *,
        dialects: tuple[Dialect, ...] = BUILT_IN,
        hint: Dialect | None = None,
        policy: ContentPolicy | None = None,
        parse: bool = True,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        listener: Listener | None = None,
    ) -> None:
        self.machine = RunMachine(policy=policy, turns=head.transport == "websocket")
        self.frames = 0
        self.body_bytes = 0
        self.lost_chunks = 0
        self.lost_bytes = 0
        self.dialect: Dialect | None = None
        self._first_byte_ns: int | None = None
        self._max_frame_bytes = max_frame_bytes
        self._parser: FrameParser | LineParser | None = None
        self._head: Head | None = head  # until the decoder has it: it holds the request's body
        if parse:
            lines = _are_lines(head, hint)
            self._parser = (LineParser if lines else FrameParser)(max_frame_bytes)
        else:
            self.machine.issue("content_encoded")
        self._detector = Detector(head, dialects, hint)
        self._decoder: Decoder | None = None
        self._listener = listener

    def feed(self, data: bytes, at_ns: int) -> None:
        """Bytes of the body, as they came at `at_ns` after the start."""
        if not data:
            return
        self.body_bytes += len(data)
        if self._first_byte_ns is None:
            self._first_byte_ns = at_ns
        if self._parser is not None:
            for frame in self._parser.feed(data, at_ns):
                self._frame(frame)

    def message(self, data: bytes, at_ns: int) -> None:
        """One WebSocket message: a frame by itself, and maybe one turn of many."""
        self.body_bytes += len(data)
        if self._first_byte_ns is None:
            self._first_byte_ns = at_ns
        if len(data) > self._max_frame_bytes:
            self._frame(Frame(at_ns=at_ns, oversized=True))
        else:
            self._frame(Frame(at_ns=at_ns, data=data))

    def lose(self, chunks: int, lost_bytes: int) -> None:
        """Chunks of the body that nobody kept. The parser goes on at the next boundary."""
        self.lost_chunks += chunks
        self.lost_bytes += lost_bytes
        if self._parser is not None:
            self._parser.resync()

    def close(self, end: StreamEnd, **facts: Any) -> RunSummary:
        """The run. `facts` are fields of RunSummary that are not in the bytes."""
        if self._parser is not None:
            for frame in self._parser.close(end.at_ns):
                if not frame.complete:
                    self.machine.issue("frame_unfinished")
                self._frame(frame)
        decoder = self._decoder or self._choose(self._detector.settle())
        # What the end tells was true when the last event came; a client may have left since.
        last_ns = self.machine.last_event_ns
        try:
            for event in decoder.close():
                self._event(event, end.at_ns if last_ns is None else last_ns)
        except Exception:  # as in _decode
            self.machine.issue("frame_undecodable")
        assert self.dialect is not None
        return self.machine.summary(
            end,
            dialect=self.dialect.name,
            needs_terminal=self.dialect.needs_terminal and self._parser is not None,
            time_to_first_byte_ns=self._first_byte_ns,
            frames=self.frames,
            body_bytes=self.body_bytes,
            lost_chunks=self.lost_chunks,
            lost_bytes=self.lost_bytes,
            **facts,
        )

    def _frame(self, frame: Frame) -> None:
        self.frames += 1
        if frame.oversized:
            self.machine.issue("frame_oversized")
        elif self._decoder is not None:
            self._decode(self._decoder, frame)
        else:
            dialect = self._detector.offer(frame)
            if dialect is not None:
                self._choose(dialect)

    def _choose(self, dialect: Dialect) -> Decoder:
        head, self._head = self._head, None
        try:
            decoder = dialect.open(head or Head())
        except Exception:  # as in _decode; what nobody can read is still counted and timed
            self.machine.issue("frame_undecodable")
            dialect, decoder = UNKNOWN, UNKNOWN.decoder()
        self.dialect, self._decoder = dialect, decoder
        self.machine.opaque = dialect is UNKNOWN
        for frame in self._detector.held:
            self._decode(decoder, frame)
        self._detector.release()
        return decoder

    def _decode(self, decoder: Decoder, frame: Frame) -> None:
        try:
            for event in decoder.decode(frame):
                self._event(event, frame.at_ns)
        except Exception:  # the decoder may be the user's own: count it, and go on
            self.machine.issue("frame_undecodable")

    def _event(self, event: Event, at_ns: int) -> None:
        self.machine.feed(event, at_ns)
        if self._listener is not None:
            self._listener(event, at_ns)


def _are_lines(head: Head, hint: Dialect | None) -> bool:
    if head.media_type in LINE_MEDIA_TYPES or not LINE_HEADERS.isdisjoint(head.headers):
        return True
    return hint is not None and hint.lines and head.media_type != "text/event-stream"
