"""Server-Sent Events as bytes: cut into frames, and written back.

Rules that hold here (WHATWG HTML, section 9.2.6, unless said otherwise):

* Lines end with LF, CR or CRLF, mixed at will; a pair may be split between chunks.
* How the bytes were cut into chunks changes nothing but the times.
* A frame is a block of lines up to a blank line. What WHATWG would not dispatch is reported all the
  same (comments, ids, retry, blocks without data, unknown fields): it is a sign of life, and some
  dialects speak with it. `event_source_view` gives the strict reading.
* Memory is bounded: a frame over `max_frame_bytes` is not kept. It is reported, empty and marked
  `oversized`, when its end comes.
* Work is linear in the bytes, however small the pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from streamtrace.core.errors import EncodeError
from streamtrace.core.jsonio import load_json

MAX_FRAME_BYTES = 512 * 1024
"""Default limit of one frame. Clients set 10 Mi characters (@ag-ui/client) or none; the largest
real frame known to us, an image in base64, has 100 kB."""

_BOM = b"\xef\xbb\xbf"
_MAX_RETRY_DIGITS = 15
_MAX_OPENING_BYTES = 256
_LONG_LINE_BYTES = 512
_NUL, _LF, _CR = b"\0\n\r"  # bytes are searched for a number in a tenth of the time


class Frame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One block of the wire. `None` means that the field was not there.

    `data` is the joined data lines, as bytes: only those who need text decode it. `stray` is the
    joined lines that are no SSE field (some back ends put a bare JSON error there). `complete` is
    false for what stood after the last blank line when the stream ended.
    """

    at_ns: int = 0
    data: bytes | None = None
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: bytes | None = None
    stray: bytes | None = None
    complete: bool = True
    oversized: bool = False

    @property
    def text(self) -> str:
        """The data as text; bytes that are no UTF-8 become U+FFFD, as in every client."""
        return "" if self.data is None else self.data.decode("utf-8", "replace")

    def json(self) -> Any:
        """The data as JSON, or `None` where it is none (or is null). Never raises."""
        return None if self.data is None else load_json(self.data)


class _Opening(msgspec.Struct, frozen=True, gc=False):
    """How the last plain block began, since the next one mostly begins so too."""

    text: bytes
    event: str | None
    line_end_size: int
    blank_line: bytes
    id_line: bytes

    def read(self, data: bytes, at_ns: int) -> Frame | None:
        """The frame that `data` is, if it is one block and begins so."""
        if not data.endswith(self.blank_line):
            return None
        value, frame_id = data[len(self.text) : -len(self.blank_line)], None
        if _LF in value:
            value, _, id_bytes = value.partition(self.id_line)
            if not id_bytes or _LF in id_bytes or _CR in id_bytes or _NUL in id_bytes:
                return None
            frame_id = id_bytes.decode("utf-8", "replace")
            if _LF in value:
                return None
        if _CR in value:
            return None
        return Frame(at_ns=at_ns, data=value, event=self.event, id=frame_id)


def _read_opening(data: bytes, start: int) -> _Opening | None:
    """The line of an event if there is one, and the name of the data line behind it."""
    end = data.find(b"\n", start)
    line_end = b"\r\n" if data[end - 1] == _CR else b"\n"
    if data.startswith(b"data: ", start):
        text, event = b"data: ", None
    elif data.startswith(b"event: ", start) and data.startswith(b"data: ", end + 1):
        text, event = data[start : end + 7], data[start + 7 : end + 1 - len(line_end)]
        if b"\r" in event or len(text) > _MAX_OPENING_BYTES:
            return None
    else:
        return None
    return _Opening(
        text=text,
        event=None if event is None else event.decode("utf-8", "replace"),
        line_end_size=len(line_end),
        blank_line=line_end * 2,
        id_line=line_end + b"id: ",
    )


class FrameParser:
    """Bytes in, frames out. Feed it whole bodies, single bytes or anything between."""

    __slots__ = (
        "_after_cr",
        "_behind_id",
        "_cut",
        "_has_id",
        "_head",
        "_max_frame_bytes",
        "_opening",
        "_pending",
        "_skipping",
    )

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()  # of the frame under way; always without a blank line
        self._skipping = False  # that frame is over the limit; `_pending` keeps its last byte only
        self._cut = False  # bytes of that frame were lost: it is dropped without a word
        self._after_cr = False
        self._opening: _Opening | None = None
        self._has_id = False
        self._behind_id: tuple[bytes, str | None, bytes | None] | None = None
        self._head: bytes | None = b""  # held back while it may still become a byte order mark

    def feed(self, data: bytes, at_ns: int = 0) -> list[Frame]:
        """The frames that `data` completes, all with the time `at_ns`."""
        if self._pending or self._after_cr or self._head is not None:
            if 0 < len(self._pending) <= len(data) and not (self._skipping or self._after_cr):
                # In one go, for whole frames are read faster; what is held is at most doubled.
                pending = bytes(self._pending)
                data = (pending.replace(b"\n", b"\r\n") if _CR in data else pending) + data
                self._pending.clear()
            if self._head is not None:
                data = self._head + data
                if len(data) < len(_BOM) and _BOM.startswith(data):
                    self._head = data
                    return []
                self._head = None
                data = data.removeprefix(_BOM)
            if self._after_cr and data:
                self._after_cr = False
                data = data.removeprefix(b"\n")
        frames: list[Frame] = []
        if not self._pending:
            frame = self._read_one(data, at_ns)
            if frame is not None:
                return [frame]
            is_data = data.startswith(b"data: ")
            if data.startswith(b"event: ") or (
                is_data and (_CR in data or data.find(b"\n") > _LONG_LINE_BYTES)
            ):  # others are split as fast
                end = self._take_plain_blocks(data, at_ns, frames)
                if end == len(data):
                    return frames
                data = data[end:]
        if _CR in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        if self._pending:
            if data.startswith(b"\n") and self._pending.endswith(b"\n"):
                end, after = 0, 1
            else:
                end = data.find(b"\n\n")
                after = end + 2
            if end < 0:
                self._keep(data)
                return frames
            self._keep(data[:end])
            self._emit_pending(at_ns, frames)
            data = data[after:]
        blocks = data.split(b"\n\n")
        tail = blocks.pop()
        for block in blocks:
            if len(block) > self._max_frame_bytes:
                self._emit(None, at_ns, frames)
            elif block.startswith(b"data: ") and _LF not in block:
                frames.append(Frame(at_ns=at_ns, data=block[6:]))
            else:
                self._emit(block, at_ns, frames)
        if tail:
            self._keep(tail)
        return frames

    def close(self, at_ns: int = 0) -> list[Frame]:
        """What stood after the last blank line: no frame, or one that is not `complete`."""
        frames: list[Frame] = []
        if self._head:
            head, self._head = self._head, None
            self._keep(head)
        if self._pending:
            self._emit_pending(at_ns, frames, complete=False)
        return frames

    @property
    def is_at_rest(self) -> bool:
        """Whether the next bytes begin a frame."""
        return not self._pending and not self._after_cr and self._head is None

    def resync(self) -> None:
        """Bytes were lost here: forget the frame under way, and go on after the next blank line.

        Where none was under way, the next bytes are read as the start of a frame. Should they be
        the rest of one, they are no SSE field, and read as `stray`.
        """
        self._head, self._after_cr = None, False
        if self._pending:
            self._pending[:] = b"?"
            self._skipping = self._cut = True

    def _read_one(self, data: bytes, at_ns: int) -> Frame | None:
        """The frame that `data` is, if it is one of a usual shape: most servers send such."""
        if len(data) > self._max_frame_bytes:
            return None
        if data.startswith(b"event: "):
            opening = self._opening
            if opening is None or not data.startswith(opening.text):
                return None
            return opening.read(data, at_ns)
        if not data.endswith(b"\n\n"):
            if not data.startswith(b"data: ") or not data.endswith(b"\r\n\r\n"):
                return None
            value = data[6:-4]
        elif data.startswith(b"data: "):
            value = data[6:-2]
        else:
            return None if _CR in data else self._read_with_id(data, at_ns)
        return None if _LF in value or _CR in value else Frame(at_ns=at_ns, data=value)

    def _read_with_id(self, data: bytes, at_ns: int) -> Frame | None:
        """A block of a usual shape; where an id comes first, what is behind it is mostly alike."""
        start = data.find(b"\n") + 1 if data.startswith(b"id:") else 0
        known = self._behind_id
        if start and known is not None and data.startswith(known[0], start):
            value, frame_id = data[start + len(known[0]) : -2], data[3 : start - 1]
            if _LF in value or _NUL in frame_id or value.startswith(b" "):
                return None  # the space may belong to the name, if the last one was without
            text = frame_id.removeprefix(b" ").decode("utf-8", "replace")
            return Frame(at_ns=at_ns, data=value, event=known[1], id=text, comment=known[2])
        frame = _read_usual(data, len(data) - 2, at_ns)
        if frame is not None and start:
            behind = data[start : len(data) - 2 - len(frame.data or b"")]
            if len(behind) <= _MAX_OPENING_BYTES:
                self._behind_id = (behind, frame.event, frame.comment)
        return frame

    def _take_plain_blocks(self, data: bytes, at_ns: int, frames: list[Frame]) -> int:
        """Read the blocks at the start that are a line of data, with maybe one of event before it
        and one of id behind it; return where another begins.

        Most servers write all their blocks so, one like the other. To unify line ends, to split,
        and to look at each line takes up to four times as long.
        """
        find, begins, size = data.find, data.startswith, len(data)
        opening, has_id = self._opening, self._has_id
        start = 0
        while start < size:
            if opening is None or not begins(opening.text, start):
                opening = _read_opening(data, start)
                if opening is None:
                    break
            blank, line_end_size = opening.blank_line, opening.line_end_size
            value_start = start + len(opening.text)
            value_end = last_end = find(b"\n", value_start) + 1 - line_end_size
            if has_id or not begins(blank, value_end):  # as the block before had, or not
                has_id = begins(opening.id_line, value_end)
                if not has_id and not begins(blank, value_end):
                    break
            frame_id = None
            if has_id:
                id_start = value_end + len(opening.id_line)
                last_end = find(b"\n", id_start) + 1 - line_end_size
                id_bytes = data[id_start:last_end]
                if not begins(blank, last_end) or _CR in id_bytes or _NUL in id_bytes:
                    break
                frame_id = id_bytes.decode("utf-8", "replace")
            value, end = data[value_start:value_end], last_end + len(blank)
            if _CR in value or end - start > self._max_frame_bytes:
                break
            frames.append(Frame(at_ns=at_ns, data=value, event=opening.event, id=frame_id))
            start = end
        self._opening, self._has_id = opening, has_id
        return start

    def _keep(self, data: bytes) -> None:
        self._pending += data
        # A line end that stands last may be half of the blank line, which is not of the frame.
        size = len(self._pending) - self._pending.endswith(b"\n")
        if self._skipping or size > self._max_frame_bytes:
            self._skipping = True
            del self._pending[:-1]

    def _emit_pending(self, at_ns: int, frames: list[Frame], complete: bool = True) -> None:
        block = None if self._skipping else bytes(self._pending)
        cut, self._cut = self._cut, False
        self._pending.clear()
        self._skipping = False
        if not cut:
            self._emit(block, at_ns, frames, complete)

    def _emit(
        self, block: bytes | None, at_ns: int, frames: list[Frame], complete: bool = True
    ) -> None:
        if block is None:
            frames.append(Frame(at_ns=at_ns, oversized=True, complete=complete))
        else:
            frame = _read_usual(block, len(block), at_ns) if complete else None
            if frame is None:
                frame = _read_block(block, at_ns, complete)
            if frame is not None:
                frames.append(frame)


class LineParser:
    """JSON lines (application/x-ndjson): each line that is not blank is the data of a frame."""

    __slots__ = (
        "_at_start",
        "_cut",
        "_max_frame_bytes",
        "_pending",
        "_skipping",
    )

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._pending = bytearray()
        self._skipping = False
        self._cut = False
        self._at_start = True

    def feed(self, data: bytes, at_ns: int = 0) -> list[Frame]:
        """The lines that `data` completes."""
        frames: list[Frame] = []
        *lines, tail = data.split(b"\n")
        for line in lines:
            self._keep(line)
            self._emit(at_ns, frames, complete=True)
        self._keep(tail)
        return frames

    def close(self, at_ns: int = 0) -> list[Frame]:
        """A last line without its line end; complete, if it is an object or array: they end."""
        frames: list[Frame] = []
        complete = isinstance(load_json(bytes(self._pending)), dict | list)
        self._emit(at_ns, frames, complete)
        return frames

    @property
    def is_at_rest(self) -> bool:
        """Whether the next bytes begin a line."""
        return not (self._pending or self._skipping or self._cut or self._at_start)

    def resync(self) -> None:
        """Bytes were lost here: forget the line under way, and go on with the next."""
        self._cut = self._cut or self._skipping or bool(self._pending)
        self._pending.clear()
        self._skipping = self._cut

    def _keep(self, data: bytes) -> None:
        if self._skipping or len(self._pending) + len(data) > self._max_frame_bytes:
            self._skipping = True
            self._pending.clear()
        else:
            self._pending += data

    def _emit(self, at_ns: int, frames: list[Frame], complete: bool) -> None:
        line = bytes(self._pending)
        if self._at_start:
            line = line.removeprefix(_BOM)
        self._at_start = False
        line = line.strip(b" \t\r")
        if self._cut:
            self._cut = False
        elif self._skipping:
            frames.append(Frame(at_ns=at_ns, oversized=True, complete=complete))
        elif line:
            frames.append(Frame(at_ns=at_ns, data=line, complete=complete))
        self._pending.clear()
        self._skipping = False


def encode_frame(frame: Frame) -> bytes:
    """A frame as bytes, with LF line ends and a blank line behind.

    Raises EncodeError where the bytes would not read back as this frame: CR, LF, NUL or a lone
    surrogate in `id` or `event`, CR in `data` or `comment`, a `retry` that is negative or has more
    than 15 digits, or nothing to write at all.
    """
    lines: list[bytes] = []
    if frame.comment is not None:
        lines += [b": " + line for line in _lines("comment", frame.comment)]
    for field, value in (("event", frame.event), ("id", frame.id)):
        if value is not None:
            if any(char in "\r\n\0" or "\ud800" <= char <= "\udfff" for char in value):
                raise EncodeError(
                    f"{field} may not hold CR, LF, NUL or a lone surrogate, got {value!r}"
                )
            lines.append(f"{field}: {value}".encode())
    if frame.retry is not None:
        if not 0 <= frame.retry < 10**_MAX_RETRY_DIGITS:
            raise EncodeError(f"retry is in ms, of up to 15 digits, got {frame.retry}")
        lines.append(b"retry: %d" % frame.retry)
    if frame.data is not None:
        lines += [b"data: " + line for line in _lines("data", frame.data)]
    if not lines:
        raise EncodeError("a frame needs at least one of data, event, id, retry or comment")
    return b"\n".join(lines) + b"\n\n"


class EventSourceView(msgspec.Struct, frozen=True):
    """What a browser's EventSource makes of a stream."""

    messages: list[dict[str, Any]]
    last_event_id: str
    retry: int | None


def event_source_view(frames: Iterable[Frame]) -> EventSourceView:
    """The strict WHATWG reading: messages, the last event id and the reconnection time in ms."""
    messages: list[dict[str, Any]] = []
    last_event_id = ""
    retry: int | None = None
    for frame in frames:
        if not frame.complete or frame.oversized:
            continue
        if frame.id is not None:
            last_event_id = frame.id
        if frame.retry is not None:
            retry = frame.retry
        if frame.data is not None:
            messages.append(
                {
                    "event": frame.event or "message",
                    "data": frame.text,
                    "id": last_event_id,
                    "retry": retry,
                }
            )
    return EventSourceView(messages, last_event_id, retry)


_usual_opening = re.compile(
    rb"(?:id: ?([^\0\n]*)\n)?(?:event: ?(.*)\n)?(?:: ?(.*)\n)?data: ?"
).match
"""How nearly all blocks begin whose last line is the data."""


def _read_usual(block: bytes, end: int, at_ns: int) -> Frame | None:
    """A block of the usual shape, as `_read_block` reads it; `None` if it has another."""
    opening = _usual_opening(block)
    if opening is None:
        return None
    data = block[opening.end() : end]
    if _LF in data:
        return None
    frame_id, event, comment = opening.groups()
    return Frame(
        at_ns=at_ns,
        data=data,
        event=None if event is None else event.decode("utf-8", "replace"),
        id=None if frame_id is None else frame_id.decode("utf-8", "replace"),
        comment=comment,
    )


def _read_block(block: bytes, at_ns: int, complete: bool) -> Frame | None:
    data: list[bytes] = []
    comments: list[bytes] = []
    strays: list[bytes] = []
    event = frame_id = retry = None
    for line in block.split(b"\n"):
        if not line:
            continue
        name, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif not name and colon:
            comments.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                frame_id = value.decode("utf-8", "replace")
        elif name == b"retry":
            if value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                retry = int(value)
        else:
            strays.append(line)
    if not (data or comments or strays) and event is None and frame_id is None and retry is None:
        return None
    return Frame(
        at_ns=at_ns,
        data=b"\n".join(data) if data else None,
        event=event,
        id=frame_id,
        retry=retry,
        comment=b"\n".join(comments) if comments else None,
        stray=b"\n".join(strays) if strays else None,
        complete=complete,
    )


def _lines(field: str, value: bytes) -> list[bytes]:
    if b"\r" in value:
        raise EncodeError(f"{field} may not hold CR: a reader would take it for a line end")
    return value.split(b"\n")
