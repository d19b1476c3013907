"""Bytes of one stream to its run: frames, dialect, events, machine.

Rules: no clock (times come in with the bytes), no I/O, and no exception: what a decoder raises is
recorded as an issue, and the frame still counts and times. Whoever owns the pipeline decides when
it works; it never asks for more than it was fed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamtrace.core.content import ContentPolicy
from streamtrace.core.events import Event, ReasoningDelta, TextDelta
from streamtrace.core.frames import MAX_FRAME_BYTES, Frame, FrameParser, LineParser
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import LINE_HEADERS, LINE_MEDIA_TYPES, Decoder, Dialect, Head
from streamtrace.dialects.detect import BUILT_IN, UNKNOWN, Detector
from streamtrace.observe.notes import Alike
from streamtrace.observe.template import MAX_TRIES, Template, template_of

MAX_ALIKE = 128
MAX_ALIKE_BYTES = 32 * 1024
"""Most chunks that are read between two looks at the clock, and about their bytes."""
MAX_SHAPED = 512
MAX_SHAPED_BYTES = 16 * 1024
"""The same of chunks that the tap found to be alike, by what they differ in."""
MAX_PIECE_BYTES = 1024
"""Most bytes in which such a chunk differs from the others."""

Listener = Callable[[Event, int], None]


class Pipeline:
    """One stream: feed it in order, then `close` it once for its summary.

    `parse=False` for bodies that cannot be read (compressed): they are timed and counted.
    `listener` is told of every event and its time, after the machine.
    """

    __slots__ = (
        "_candidate",
        "_decoder",
        "_detector",
        "_first_byte_ns",
        "_head",
        "_listener",
        "_max_frame_bytes",
        "_only",
        "_parser",
        "_template",
        "_tries",
        "body_bytes",
        "dialect",
        "frames",
        "lost_bytes",
        "lost_chunks",
        "machine",
    )

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
        self.machine = RunMachine(
            policy=policy or ContentPolicy(), turns=head.transport == "websocket"
        )
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
        self._detector: Detector | None = Detector(head, dialects, hint)  # until it has chosen
        self._decoder: Decoder | None = None
        self._listener = listener
        self._template: Template | None = None
        self._candidate: Template | None = None  # seen once
        self._tries = 0
        self._only: Event | None = None  # what the last frame said, if it was one event

    def feed(self, data: bytes, at_ns: int) -> None:
        """Bytes of the body, as they came at `at_ns` after the start."""
        if not data:
            return
        self.body_bytes += len(data)
        if self._first_byte_ns is None:
            self._first_byte_ns = at_ns
        parser = self._parser
        if parser is None:
            return
        was_at_rest = parser.is_at_rest
        frames = parser.feed(data, at_ns)
        for frame in frames:
            self._frame(frame)
        self._template = None
        if self._tries < MAX_TRIES:
            is_whole = len(frames) == 1 and was_at_rest and parser.is_at_rest
            self._learn(data if is_whole else None)

    def feed_alike(self, entries: Any, start: int, epoch_ns: int) -> int:
        """Of `[at_ns, body, …]` from `start` on, read what says one more piece of the same text.

        Returns where the first other body is. `epoch_ns` is the start on the clock of the entries.
        """
        template = self._template
        if template is None:
            return start
        first = entries[start + 1]
        if not template.leading([first]):
            return start
        room = MAX_ALIKE_BYTES // len(first)
        chunks = entries[start + 1 : start + 2 * min(MAX_ALIKE, room + 1) : 2]
        told = None
        if self._listener is None:
            told = template.all_texts(chunks)
            if told is None:
                chunks = chunks[: template.leading(chunks)]
                told = template.all_texts(chunks)
        if told is None or told[1] > self._max_frame_bytes:
            return self._feed_each(template, chunks, entries, start, epoch_ns)
        text, size = told
        self.frames += len(chunks)
        self.body_bytes += size
        end = start + 2 * len(chunks)
        self.machine.grow(template.event, text, entries[start:end:2], epoch_ns)
        return end

    def feed_shaped(self, alike: Alike, epoch_ns: int) -> None:
        """Of chunks that are alike: many, if they say more of the same text, else one.

        `epoch_ns` is the start on the clock of their times.
        """
        template = self._template
        if template is not None and self._listener is None and self._is_shape(template, alike):
            told = alike.read_texts(MAX_SHAPED, MAX_SHAPED_BYTES)
            if told is not None:
                text, times, size = told
                self.frames += len(times)
                self.body_bytes += size
                self.machine.grow(template.event, text, times, epoch_ns)
                return
        at_ns, body = alike.read()
        if template is None or not self._feed_each(template, [body], [at_ns], 0, epoch_ns):
            self.feed(body, at_ns - epoch_ns)

    def _is_shape(self, template: Template, alike: Alike) -> bool:
        around_bytes = len(alike.before) + len(alike.behind)
        return (
            template.before == alike.before
            and template.behind == alike.behind
            and around_bytes + MAX_PIECE_BYTES <= self._max_frame_bytes
        )

    def _feed_each(
        self,
        template: Template,
        chunks: Sequence[Any],
        entries: Any,
        start: int,
        epoch_ns: int,
    ) -> int:
        """One by one, up to the first that must be read in full. Returns where that is."""
        for chunk in chunks:
            text = template.text(chunk)
            if text is None or len(chunk) > self._max_frame_bytes:
                break
            self.frames += 1
            self.body_bytes += len(chunk)
            event = msgspec.structs.replace(template.event, text=text)
            self._event(event, entries[start] - epoch_ns)
            start += 2
        return start

    def _learn(self, chunk: bytes | None) -> None:
        """Two chunks in a row that differ in their text make a template."""
        candidate, only = self._candidate, self._only
        self._candidate = None
        if (
            chunk is None
            or only is None
            or self.dialect is None
            or not self.dialect.plain_deltas
            or not isinstance(only, TextDelta | ReasoningDelta)
            or not self.machine.may_grow(only)
        ):
            return
        if (
            candidate is not None
            and candidate.text(chunk) == only.text
            and msgspec.structs.replace(candidate.event, text=only.text) == only
        ):
            self._template = candidate
            self._tries = 0
        else:
            self._tries += 1
            self._candidate = template_of(chunk, only)

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
        self._template = self._candidate = None
        self.body_bytes += lost_bytes  # they were sent
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
        decoder = self._decoder
        if decoder is None:
            assert self._detector is not None
            decoder = self._choose(self._detector.settle())
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
            assert self._detector is not None
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
        detector, self._detector = self._detector, None
        assert detector is not None
        for frame in detector.held:
            self._decode(decoder, frame)
        return decoder

    def _decode(self, decoder: Decoder, frame: Frame) -> None:
        count = 0
        event: Event | None = None
        try:
            for event in decoder.decode(frame):
                self._event(event, frame.at_ns)
                count += 1
        except Exception:  # the decoder may be the user's own: count it, and go on
            self.machine.issue("frame_undecodable")
            count = 0
        self._only = event if count == 1 else None

    def _event(self, event: Event, at_ns: int) -> None:
        self.machine.feed(event, at_ns)
        if self._listener is not None:
            self._listener(event, at_ns)


def _are_lines(head: Head, hint: Dialect | None) -> bool:
    if head.media_type in LINE_MEDIA_TYPES or not LINE_HEADERS.isdisjoint(head.headers):
        return True
    return hint is not None and hint.lines and head.media_type != "text/event-stream"
