"""Chunks that differ from the one before in the text of their delta only, read without decoding.

Most of a stream is one frame again and again with another word in it. Once two of them in a row
were decoded and differed in nothing else, the next ones are compared with them: what stands before
and behind the word must be the same bytes, and what stands between must be the inside of a JSON
string. Then a chunk says what they said, with that text.

Rules that hold here:

* Only where the dialect says (`plain_deltas`) that decoding such a frame changes nothing.
* Any doubt (no JSON string, no UTF-8, an empty text) reads the frame in full, and so does any other
  frame in between: then two are needed again.
* What is told is the same as without: frames, events, times, texts.
* Many chunks are looked at in few calls. Only where one of them is of another shape, or needs to be
  read as JSON, they are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streamtrace.core.events import Event, ReasoningDelta, TextDelta

_SAFE = bytes(code for code in range(0x20, 0x100) if chr(code) not in '"\\')
"""What JSON writes as it is, and parts of what UTF-8 writes so."""

MAX_TRIES = 16
"""Times that a stream is asked for two frames alike; one whose frames carry counters has none."""

_string = msgspec.json.Decoder(str).decode


class Template(msgspec.Struct, frozen=True, gc=False):
    """The bytes around the text, and what such a chunk says."""

    before: bytes
    behind: bytes
    event: TextDelta | ReasoningDelta

    def leading(self, chunks: Sequence[Any]) -> int:
        """How many chunks, from the first on, could be of this shape."""
        for count, chunk in enumerate(chunks):
            if chunk.__class__ is not bytes or not (
                chunk.startswith(self.before) and chunk.endswith(self.behind)
            ):
                return count
        return len(chunks)

    def text(self, chunk: Any) -> str | None:
        """The text of a chunk of this shape; `None` for anything else."""
        if chunk.__class__ is not bytes or not (
            chunk.startswith(self.before)
            and chunk.endswith(self.behind)
            and len(chunk) > len(self.before) + len(self.behind)
        ):
            return None
        return text_of(chunk[len(self.before) : -len(self.behind)])

    def all_texts(self, chunks: Sequence[Any]) -> tuple[str, int] | None:
        """The texts of chunks of this shape as one, and the bytes of the chunks; `None` if one is
        of another, or must be looked at more closely."""
        inside = slice(len(self.before), -len(self.behind))
        try:
            pieces = [chunk[inside] for chunk in chunks]
            whole = b"".join(chunks)
        except TypeError:  # a gap, or no bytes
            return None
        same = (self.behind + self.before).join(pieces)
        if whole != b"".join((self.before, same, self.behind)):
            return None
        # With a line end between them, each piece must be UTF-8 by itself.
        lines = b"\n".join(pieces)
        if not all(pieces) or len(lines.translate(None, _SAFE)) != len(pieces) - 1:
            return None
        try:
            return lines.decode().replace("\n", ""), len(whole)
        except UnicodeDecodeError:
            return None


def template_of(chunk: bytes, event: Event) -> Template | None:
    """The shape of a chunk that said this one event, if its text stands in it once and plainly."""
    if not isinstance(event, TextDelta | ReasoningDelta):
        return None
    try:
        quoted = b'"%s"' % event.text.encode()
    except UnicodeEncodeError:
        return None
    at = chunk.find(quoted)
    if at < 0 or chunk.find(quoted, at + 1) >= 0 or text_of(quoted[1:-1]) is None:
        return None
    return Template(chunk[: at + 1], chunk[at + len(quoted) - 1 :], event)


def text_of(inside: bytes) -> str | None:
    """What the inside of a JSON string says; `None` where it says nothing, or is none."""
    try:
        return _string(b'"%b"' % inside) or None
    except ValueError:  # msgspec's errors, and those of UTF-8
        return None
