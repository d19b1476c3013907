"""Guards: what hides patterns in the text of a message, however the text is cut.

Rules that hold here:

* The same text in other pieces gives the same text and marks. So a guard decides by characters, and
  never by where a piece ends: what could still become a marker is held until it did or cannot.
* What is held is bounded, and so is the work per character.
* A mark says what its place in the text means for what is around it. Text before a mark is never
  told after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Protocol, TypeAlias


class Mark(Enum):
    """What a place in the text tells."""

    INTERMEDIATE = "what stands before it was no answer: a thought, or words around a tool call"
    FINAL = "likewise, and what follows is the answer"


Piece: TypeAlias = str | Mark


class Guard(Protocol):
    """Hides one kind of pattern in one message."""

    def feed(self, text: str) -> Iterable[Piece]:
        """What may be told now."""

    def end(self) -> Iterable[Piece]:
        """The text is over, or parted here: what was held, if it is harmless. Then begin anew."""


GuardFactory: TypeAlias = Callable[[], Guard]


class Guards:
    """Guards one behind the other. What one hides, those behind it never see."""

    def __init__(self, guards: Iterable[Guard]) -> None:
        self._guards = tuple(guards)

    def feed(self, text: str) -> list[Piece]:
        """What all of them let through."""
        return _through(self._guards, [text])

    def end(self) -> list[Piece]:
        """What they held, each heard by those behind it."""
        told: list[Piece] = []
        for at, guard in enumerate(self._guards):
            told += _through(self._guards[at + 1 :], guard.end())
        return told


def _through(guards: Sequence[Guard], pieces: Iterable[Piece]) -> list[Piece]:
    for guard in guards:
        told: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Mark):
                told += guard.end()
                told.append(piece)
            else:
                told += guard.feed(piece)
        pieces = told
    return [piece for piece in pieces if piece]
