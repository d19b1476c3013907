"""The tap: what the path leaves behind of one stream, until the pump takes it.

Rules that hold here:

* The path appends two entries, a time and a body, and once the server has the body, the time again.
  A chunk of bytes that fits into the room needs no more; `push` is for all others. Neither awaits,
  logs, decodes or raises.
* It holds at most `max_bytes` of one stream, and all taps of an event loop together at most the
  budget. What does not fit is not kept: it is counted, and leaves a Gap where it was.
* Room is leased from the budget, as much as was needed before the last rest and then in blocks that
  double, and given back when the tap is empty: the path touches the shared counter rarely, many
  small taps fit, and an idle stream holds nothing. So the first chunk after a rest never fits: that
  is when the pump is told.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import sub
from typing import Any

MAX_TAP_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 64 * 1024 * 1024

ENTRY_BYTES = 144
"""What an entry costs beside its body, so that empty bodies cannot fill memory either."""
_MIN_LEASE_BYTES = 4 * 1024
_MAX_LEASE_BYTES = 256 * 1024
_SOON_BYTES = 256 * 1024
"""So much at once comes from an app that does not wait for a model: the pump must not either."""

Entries = list[Any]
"""`[at_ns, body, at_ns, body, …]`; a body is bytes, str or a Gap."""


class Budget:
    """Bytes that all taps of one event loop may still hold together."""

    __slots__ = ("free_bytes",)

    def __init__(self, total_bytes: int = MAX_TOTAL_BYTES) -> None:
        self.free_bytes = total_bytes


class Gap:
    """Stands in a tap for chunks that did not fit."""

    __slots__ = ("lost_bytes", "lost_chunks")

    def __init__(self) -> None:
        self.lost_chunks = 0
        self.lost_bytes = 0


class Tap:
    """The chunks of one stream. `schedule(soon)` is called when there is something to take, and
    again, with `soon`, when there is much of it.

    The path may note a chunk by itself, where `room_bytes` are enough for its bytes and
    ENTRY_BYTES, or were made so by `make_room`: it takes them off the room, calls `note(at_ns)`,
    `note(body)`, and when its `send` is over, `note_sent(sent_ns)`.
    """

    __slots__ = (
        "_at_rest",
        "_budget",
        "_entries",
        "_has_gap",
        "_last_bytes",
        "_leased_bytes",
        "_max_bytes",
        "_schedule",
        "_sent",
        "_unsent",
        "longest_stall_ns",
        "note",
        "note_sent",
        "room_bytes",
        "stall_ns",
    )

    def __init__(self, budget: Budget, max_bytes: int, schedule: Callable[[bool], None]) -> None:
        self._entries: Entries = []
        self._sent: list[int] = []
        self._unsent: list[int] = []  # when the chunks came that were taken before they were sent
        self.note = self._entries.append
        self.note_sent = self._sent.append
        self.room_bytes = 0
        self.stall_ns = 0
        self.longest_stall_ns = 0
        self._budget = budget
        self._max_bytes = max_bytes
        self._schedule = schedule
        self._leased_bytes = 0
        self._last_bytes = 0
        self._at_rest = True
        self._has_gap = False

    def push(self, at_ns: int, body: Any) -> bool:
        """Note any body: O(1), only bytes that may change later are copied. False if it was lost,
        and then there is no `note_sent` for it."""
        if body.__class__ is not bytes and not isinstance(body, str):
            body = bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""
        size = len(body) + ENTRY_BYTES
        fits = size <= self.room_bytes or self.make_room(size)
        if fits:
            self.room_bytes -= size
            self.note(at_ns)
            self.note(body)
        else:
            self._lose(at_ns, len(body))
        return fits

    def make_room(self, size: int) -> bool:
        """See that there is room for so many bytes. Something comes, so the pump is told."""
        if self._at_rest:
            self._at_rest = False
            self._schedule(False)
        need = size - self.room_bytes
        most = min(self._max_bytes - self._leased_bytes, self._budget.free_bytes)
        if need > most:
            return False
        usual = min(self._leased_bytes or self._last_bytes, _MAX_LEASE_BYTES)
        want = min(max(need, usual, _MIN_LEASE_BYTES), most)
        self._budget.free_bytes -= want
        if self._leased_bytes >= _SOON_BYTES:
            self._schedule(True)
        self._leased_bytes += want
        self.room_bytes += want
        return True

    def add_stall(self, stall_ns: int) -> None:
        """A `send` whose chunk was lost took so long."""
        self.stall_ns += stall_ns
        self.longest_stall_ns = max(self.longest_stall_ns, stall_ns)

    def take(self) -> Entries:
        """All entries; the tap still holds their room until `rest`."""
        entries = self._entries.copy()
        if not entries and not self._sent:
            return entries
        self._entries.clear()
        if self._has_gap:
            self._has_gap = False
            pairs = zip(entries[::2], entries[1::2], strict=True)
            self._unsent += [at_ns for at_ns, body in pairs if not isinstance(body, Gap)]
        else:
            self._unsent += entries[::2]
        self._add_stalls()
        return entries

    def rest(self) -> None:
        """What was taken has been worked off, and nothing new came: the pump is gone."""
        self._budget.free_bytes += self._leased_bytes
        self._last_bytes = self._leased_bytes - self.room_bytes
        self._leased_bytes = self.room_bytes = 0
        self._at_rest = True

    def close(self) -> None:
        """The stream is over, and its tap at rest: what still comes is lost, and nobody is told.

        Else tap and stream would hold each other until the garbage collector finds them: so it is
        called more often, and the more streams are open, the longer all wait for it.
        """
        self._schedule = _tell_nobody
        self._max_bytes = 0

    def _add_stalls(self) -> None:
        """The time in `send` of those that are sent, all at once. They are sent in their order."""
        sent, began = self._sent.copy(), self._unsent
        self._sent.clear()
        self._unsent = began[len(sent) :]
        total_ns = sum(sent) - sum(began) + sum(self._unsent)
        self.stall_ns += total_ns
        if total_ns > self.longest_stall_ns:  # else none of them was longer
            self.longest_stall_ns = max(self.longest_stall_ns, *map(sub, sent, began))

    def _lose(self, at_ns: int, lost_bytes: int) -> None:
        last = self._entries[-1] if self._entries else None
        if not isinstance(last, Gap):
            last = Gap()
            self._has_gap = True
            self.note(at_ns)
            self.note(last)
        last.lost_chunks += 1
        last.lost_bytes += lost_bytes


def _tell_nobody(soon: bool) -> None:
    """For taps whose stream is over."""


SHUT = Tap(Budget(0), 0, _tell_nobody)
"""Where there is no stream: the path finds no room here, and cannot make any."""
