"""Chunks that differ from the one before in the text of their delta only, read without JSON.

Most of a stream is one frame again and again with another word in it. Once two of them in a row
were decoded and differed in nothing else, the next one is compared with them: what stands before
and behind the word must be the same bytes, and the word must be text that JSON writes as it is.
Then it says what they said, with that text.

Rules that hold here:

* Only where the dialect says (`plain_deltas`) that decoding such a frame changes nothing.
* Any doubt (a quote, a backslash, a control character, no UTF-8, an empty text) reads the frame in
  full, and so does any other frame in between: then two are needed again.
* What is told is the same as without: frames, events, times, texts.
"""

from __future__ import annotations

import msgspec

from streamtrace.core.events import Event, ReasoningDelta, TextDelta

SAFE = bytes(code for code in range(0x20, 0x7F) if chr(code) not in '"\\')
"""What JSON writes as it is, and one byte in UTF-8."""

MAX_TRIES = 16
"""Times that a stream is asked for two frames alike; one whose frames carry counters has none."""


class Template(msgspec.Struct, frozen=True):
    """The bytes around the text, and what such a chunk says."""

    before: bytes
    behind: bytes
    event: TextDelta | ReasoningDelta

    def text(self, chunk: bytes) -> str | None:
        """The text of a chunk of this shape; `None` for any other chunk."""
        if not (chunk.startswith(self.before) and chunk.endswith(self.behind)):
            return None
        return plain_text(chunk[len(self.before) : len(chunk) - len(self.behind)])


def template_of(chunk: bytes, event: Event) -> Template | None:
    """The shape of a chunk that said this one event, if its text stands in it once and plainly."""
    if not isinstance(event, TextDelta | ReasoningDelta):
        return None
    try:
        quoted = b'"%s"' % event.text.encode()
    except UnicodeEncodeError:
        return None
    at = chunk.find(quoted)
    if at < 0 or chunk.find(quoted, at + 1) >= 0 or plain_text(quoted[1:-1]) is None:
        return None
    return Template(chunk[: at + 1], chunk[at + len(quoted) - 1 :], event)


def plain_text(data: bytes) -> str | None:
    """What the inside of a JSON string says, if it says what stands there."""
    if not data:
        return None
    if not data.translate(None, SAFE):
        return data.decode("ascii")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and '"' not in text and "\\" not in text else None
