"""Frames of a run to its events, whatever was cut on the way.

Rules that hold here:

* An event is told once, in order. What is missing between two is told as a gap, never skipped.
* The number of the last event that was told is the cursor: the next connection begins there.
* A frame without a number is a word of the server about the run, not of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from streamtrace.core.errors import ClientError
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_object, load_json

GAP = "gap"
_ID = re.compile(r"(?:(.*):)?(\d{1,15})", re.ASCII | re.DOTALL)


class RunEvent(msgspec.Struct, frozen=True, gc=False):
    """What a run said.

    id      its number in the run, from 1; `None` for what the server says of the run
    event   the name of its kind on the wire, `message` where it has none
    data    the text of its data
    """

    id: int | None
    event: str
    data: str

    def json(self) -> Any:
        """The data as JSON, or `None` where it is none (or is null). Never raises."""
        return load_json(self.data.encode("utf-8", "surrogatepass"))


class GapEvent(msgspec.Struct, frozen=True, gc=False):
    """Events that the log no longer has: `missed` of them behind number `after`, up to `id`."""

    id: int
    after: int
    missed: int


class Cursor:
    """How far a run was read."""

    def __init__(self, last_id: int = 0) -> None:
        self.last_id = last_id
        self.run_id: str | None = None  # as ids on the path of a thread tell it

    def read(self, frame: Frame) -> Iterator[RunEvent | GapEvent]:
        """What this frame tells that was not told before. Raises ClientError."""
        if frame.oversized:
            raise ClientError(f"a frame behind event {self.last_id} is too large to be read")
        number = None if frame.id is None else self._number(frame.id)
        event = frame.event or "message"
        if number is not None:
            if number <= self.last_id:
                return
            after = self.last_id
            is_gap = event == GAP and _missed(frame) == number - after
            self.last_id = up_to = number if is_gap else number - 1
            if up_to > after:  # who leaves at the gap has not read the event behind it
                yield GapEvent(id=up_to, after=after, missed=up_to - after)
            if is_gap:
                return
            self.last_id = number
        if frame.data is not None:
            yield RunEvent(id=number, event=event, data=frame.text)

    def _number(self, frame_id: str) -> int:
        match = _ID.fullmatch(frame_id)
        if match is None:
            raise ClientError(f"the id {frame_id!r} has no number of an event")
        self.run_id = match[1] or self.run_id
        return int(match[2])


def _missed(frame: Frame) -> object:
    return as_object(as_object(frame.json()).get("value")).get("missed")
