"""Text that a wire repeats in full each time, turned into deltas.

Rules that hold here:

* What is told is what stands behind the text told before, and nothing twice.
* A text that does not begin with what was told replaced it. A stream of deltas cannot take words
  back: nothing is told of it, and what is added to it later counts from it.
* A text is kept to compare it; of a long one only its length and a hash, for at most `MAX_TEXTS`.
"""

from __future__ import annotations

from streamtrace.core.bounded import remember

MAX_TEXTS = 256
"""Texts that grow side by side; of more, the one begun first is forgotten."""
MAX_KEPT_CHARS = 1024
"""To hash a text each time costs more than to compare it, and to keep it costs memory."""


class Accumulated:
    """The texts of one stream, by any key that tells them apart."""

    def __init__(self) -> None:
        self._told: dict[object, str | tuple[int, int]] = {}

    def delta(self, key: object, text: str) -> str:
        """What `text` adds to the text of that key; empty if it adds nothing or replaces it."""
        told = self._told.get(key)
        if told is None:
            self._remember(key, text)
            return text
        length = len(told) if isinstance(told, str) else told[0]
        if len(text) <= length:  # said before, or a frame that came late
            return ""
        grows = text.startswith(told) if isinstance(told, str) else hash(text[:length]) == told[1]
        self._remember(key, text)
        return text[length:] if grows else ""

    def add(self, key: object, text: str) -> None:
        """Told in another way, as a delta for instance: the first text of that key."""
        self._remember(key, text)

    def knows(self, key: object) -> bool:
        """Whether a text of that key was seen."""
        return key in self._told

    def forget(self) -> None:
        """A new run begins."""
        self._told.clear()

    def _remember(self, key: object, text: str) -> None:
        kept = text if len(text) <= MAX_KEPT_CHARS else (len(text), hash(text))
        remember(self._told, key, kept, MAX_TEXTS)
