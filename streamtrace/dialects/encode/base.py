"""What encoders share: a table from event to frames.

Rules that hold in this folder:

* `decode(encode(e)) == e` for what a dialect `encodes`. What else is in a table is noted, or
  written in the nearest words that the wire has; nothing is written for the rest.
* What is open is closed before an end or an error is written; after it, nothing is written.
* What the wire wants and no event has said comes from the `Envelope`, never from a clock.
* Nothing is written that the vocabulary's own client rejects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from streamtrace.core.errors import EncodeError
from streamtrace.core.events import Event
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import dump_json


class TableEncoder:
    """An encoder whose subclass has a `table`: type of an event -> the method that writes it."""

    table: ClassVar[Mapping[type[Event], Callable[[Any, Any], Iterable[Frame]]]] = {}

    def encode(self, event: Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say."""
        write = self.table.get(type(event))
        return () if write is None else write(self, event)

    def close(self) -> Iterable[Frame]:
        """Nothing, unless the wire has a sentinel."""
        return ()


MAX_HELD_CHARS = 16 * 1024 * 1024


class Held:
    """Arguments that wait to be written whole. Raises EncodeError beyond `MAX_HELD_CHARS`."""

    __slots__ = ("_chars", "_pieces")

    def __init__(self) -> None:
        self._chars = 0
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        """The next piece."""
        self._chars += len(text)
        if self._chars > MAX_HELD_CHARS:
            raise EncodeError(f"arguments of over {MAX_HELD_CHARS} characters wait to be written")
        self._pieces.append(text)

    def take(self) -> str:
        """All of it, which waits no longer."""
        text = "".join(self._pieces)
        self._chars, self._pieces = 0, []
        return text


_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029")
"""Legal in a JSON string, and line ends to `str.splitlines`, which httpx reads lines with."""


def json_frame(value: Any, event: str | None = None) -> Frame:
    """A frame whose data is `value` as compact JSON, such as every client reads.

    Raises EncodeError for what JSON cannot hold: an object that contains itself, for instance.
    """
    try:
        data = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError):  # half an emoji, or a number over 64 bits
        data = _encode_slowly(value)
    for end, escaped in _LINE_ENDS:
        data = data.replace(end, escaped)
    return Frame(data=data, event=event)


def _encode_slowly(value: Any) -> bytes:
    try:
        plain = json.loads(dump_json(value), parse_constant=lambda constant: None)  # no NaN
    except (ValueError, RecursionError):
        raise EncodeError("what an event holds is no JSON, or nested too deeply") from None
    return dump_json(plain).encode()
