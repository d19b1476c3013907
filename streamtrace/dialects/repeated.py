"""Text that is said again: under its own id, or as another message that says it all once more.

Rules that hold here:

* What is told of a text that comes whole is what stands behind the text known of its id. A text
  that does not begin with that replaced it: words cannot be taken back, so nothing is told.
* A text under a new id that equals the texts said last, one or several whole ones, repeats them.
* Of each text only its length and a checksum are kept, for at most `MAX_TEXTS` texts.
"""

from __future__ import annotations

from zlib import crc32

from streamtrace.core.bounded import remember

MAX_TEXTS = 1024
"""Of more, the one begun first is forgotten."""


class Text:
    """What was said under one id. `is_message`: in a message; `is_news`: not all of it before."""

    __slots__ = ("_checksum", "chars", "is_message", "is_news")

    def __init__(self, is_message: bool) -> None:
        self.is_message = is_message
        self.is_news = False
        self.chars = 0
        self._checksum = 0

    def add(self, text: str) -> None:
        """More of it, as news."""
        self.is_news = True
        self.chars += len(text)
        self._checksum = crc32(text.encode("utf-8", "surrogatepass"), self._checksum)

    def know(self, text: str) -> None:
        """More of it."""
        self.chars += len(text)
        self._checksum = crc32(text.encode("utf-8", "surrogatepass"), self._checksum)

    def equals(self, text: str) -> bool:
        """Whether this is what was said so far."""
        return crc32(text.encode("utf-8", "surrogatepass")) == self._checksum


class Said:
    """All that one voice said in a stream, in the order in which it was begun."""

    def __init__(self) -> None:
        self.texts: dict[object, Text] = {}

    def news(self, key: str | None, text: str, *, append: bool, is_message: bool) -> str:
        """What of `text` was not said before. From now on all of it was.

        A text that is no message (an artifact) can repeat messages only.
        """
        known = None if key is None else self.texts.get(key)
        if known is None:
            known = Text(is_message)
            repeats = not append and self._repeats(text, is_message)
            self._remember(object() if key is None else key, known)
            if repeats:
                known.know(text)
                return ""
        elif not append:
            if not known.equals(text[: known.chars]):
                return ""
            text = text[known.chars :]
        if text:
            known.add(text)
        return text

    def _repeats(self, text: str, is_message: bool) -> bool:
        rest = len(text)
        for last in reversed(self.texts.values()):
            rest -= last.chars
            if rest < 0 or not (is_message or last.is_message):
                return False
            if not last.equals(text[rest : rest + last.chars]):
                return False
            if not rest:
                return True
        return False

    def _remember(self, key: object, text: Text) -> None:
        remember(self.texts, key, text, MAX_TEXTS)
