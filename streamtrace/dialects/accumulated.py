"""Text that a wire repeats in full each time, turned into deltas.

Rules that hold here:

* What is told is what stands behind the text told before, and nothing twice.
* A text that does not begin with what was told replaced it. A stream of deltas cannot take words
  back: nothing is told of it, and what is added to it later counts from it.
* Of each text only its length and a hash are kept, for at most `MAX_TEXTS` texts.
"""

from __future__ import annotations

MAX_TEXTS = 256
"""Texts that grow side by side; of more, the one begun first is forgotten."""


class Accumulated:
    """The texts of one stream, by any key that tells them apart."""

    def __init__(self) -> None:
        self._told: dict[object, tuple[int, int]] = {}

    def delta(self, key: object, text: str) -> str:
        """What `text` adds to the text of that key; empty if it adds nothing or replaces it."""
        length, digest = self._told.get(key, (0, _EMPTY))
        if len(text) <= length and key in self._told:  # said before, or a frame that came late
            return ""
        grows = hash(text[:length]) == digest
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
        if key not in self._told and len(self._told) >= MAX_TEXTS:
            del self._told[next(iter(self._told))]
        self._told[key] = (len(text), hash(text))


_EMPTY = hash("")
