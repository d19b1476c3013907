"""Notes: where the path puts times and bodies, and how long `send` waited for the client.

`Notes` is compiled where there was a compiler, and does the same: but it keeps chunks that differ
in one JSON string only as one entry, an Alike (speedups.pyi), and of each only that string.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import TYPE_CHECKING, Any

from streamtrace.core import compiled

__all__ = ["Alike", "Entries", "Gap", "Notes", "NotesInPython"]

MIN_STALL_NS = 100_000
"""A `send` that takes less did not wait for its client: that is what the server itself needs."""

Entries = Sequence[Any]
"""`[at_ns, body, at_ns, body, …]`, `()` for none. A body is bytes, str, a Gap, or an Alike, which
stands at the time of its first chunk."""


class Gap:
    """Stands for chunks that did not fit."""

    __slots__ = ("lost_bytes", "lost_chunks")

    def __init__(self) -> None:
        self.lost_chunks = 0
        self.lost_bytes = 0


class NotesInPython:
    """`room_bytes` may still be noted. `stall_ns` is how long what was taken waited in `send`.

    The path may note a chunk of bytes by itself, where the room is enough for it: it takes it off
    the room, calls `append(at_ns)`, `append(body)`, and when its `send` is over,
    `append_sent(sent_ns)`. Chunks are sent in the order of their notes.
    """

    __slots__ = (
        "_entries",
        "_has_gap",
        "_sent",
        "_unsent",
        "append",
        "append_sent",
        "longest_stall_ns",
        "room_bytes",
        "stall_ns",
    )

    def __init__(self) -> None:
        self._entries: list[Any] = []
        self._sent: list[int] = []
        self._unsent: list[int] = []  # when the chunks came that were taken before they were sent
        self._has_gap = False
        self.append = self._entries.append
        self.append_sent = self._sent.append
        self.room_bytes = 0
        self.stall_ns = 0
        self.longest_stall_ns = 0

    def note(self, at_ns: int, body: Any) -> None:
        """Any body, or a Gap."""
        self.append(at_ns)
        self.append(body)
        self._has_gap |= body.__class__ is Gap

    def sent(self, at_ns: int, sent_ns: int, is_noted: bool) -> None:
        """`send` is over; it began at `at_ns`. `is_noted`: its chunk is, and not lost."""
        if is_noted:
            self.append_sent(sent_ns)
        else:
            self._add_stall(sent_ns - at_ns)

    def last_noted(self) -> Any:
        """The body that was noted last, if it has not been taken."""
        return self._entries[-1] if self._entries else None

    def take(self) -> Entries:
        """All entries."""
        if not self._entries and not self._sent:
            return ()
        entries = self._entries.copy()
        self._entries.clear()
        if self._has_gap:
            self._has_gap = False
            pairs = zip(entries[::2], entries[1::2], strict=True)
            self._unsent += [at_ns for at_ns, body in pairs if not isinstance(body, Gap)]
        else:
            self._unsent += entries[::2]
        self._add_stalls()
        return entries

    def _add_stalls(self) -> None:
        """Of those that are sent, all at once."""
        sent, began = self._sent.copy(), self._unsent
        self._sent.clear()
        self._unsent = began[len(sent) :]
        total_ns = sum(sent) - sum(began) + sum(self._unsent)
        if total_ns >= MIN_STALL_NS:  # else none of them took so long
            for took_ns in map(sub, sent, began):
                self._add_stall(took_ns)

    def _add_stall(self, took_ns: int) -> None:
        if took_ns >= MIN_STALL_NS:
            self.stall_ns += took_ns
            self.longest_stall_ns = max(self.longest_stall_ns, took_ns)


if TYPE_CHECKING:
    from streamtrace.speedups import Alike, Notes
else:
    Notes = compiled.Notes or NotesInPython
    Alike = compiled.Alike or type(None)
