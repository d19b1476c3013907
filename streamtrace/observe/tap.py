"""The tap: what the path leaves behind of one stream, until the pump takes it.

Rules that hold here:

* `push` is all that happens on the client's path. It appends to a list and counts; it does not
  await, log, decode or raise.
* It holds at most `max_bytes` of one stream, and all taps of an event loop together at most the
  budget. What does not fit is not kept: it is counted, and leaves a Gap where it was.
* Room is leased from the budget in blocks that double, and given back when the tap is empty: the
  path touches the shared counter rarely, many small taps fit, and an idle stream holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_TAP_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 64 * 1024 * 1024

_ENTRY_BYTES = 64
"""What an entry costs beside its body, so that empty bodies cannot fill memory either."""
_FIRST_LEASE_BYTES = 1024
_MAX_LEASE_BYTES = 64 * 1024


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
    """Times and bodies of one stream, flat: `[at_ns, body, at_ns, body, ...]`.

    `schedule` is called when there is something to take and nobody was told yet.
    """

    __slots__ = (
        "_budget",
        "_leased_bytes",
        "_max_bytes",
        "_room_bytes",
        "_schedule",
        "entries",
        "scheduled",
    )

    def __init__(self, budget: Budget, max_bytes: int, schedule: Callable[[], None]) -> None:
        self.entries: list[int | bytes | str | Gap] = []
        self.scheduled = False
        self._budget = budget
        self._max_bytes = max_bytes
        self._schedule = schedule
        self._leased_bytes = 0
        self._room_bytes = 0

    def push(self, at_ns: int, body: Any) -> None:
        """Note one body. O(1), whatever its size; only bytes that may change later are copied."""
        if body.__class__ is not bytes and not isinstance(body, str):
            body = bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""
        size = len(body) + _ENTRY_BYTES
        if size > self._room_bytes and not self._lease(size):
            self._lose(at_ns, len(body))
        else:
            self._room_bytes -= size
            entries = self.entries
            entries.append(at_ns)
            entries.append(body)
        if not self.scheduled:
            self.scheduled = True
            self._schedule()

    def take(self) -> list[int | bytes | str | Gap]:
        """All entries; the tap is empty then, but still holds their room until `give_back`."""
        entries, self.entries = self.entries, []
        return entries

    def give_back(self) -> None:
        """What was taken has been worked off: return the room, if nothing new came meanwhile."""
        if not self.entries:
            self._budget.free_bytes += self._leased_bytes
            self._leased_bytes = self._room_bytes = 0

    def _lease(self, size: int) -> bool:
        need = size - self._room_bytes
        most = min(self._max_bytes - self._leased_bytes, self._budget.free_bytes)
        if need > most:
            return False
        doubled = min(max(self._leased_bytes, _FIRST_LEASE_BYTES), _MAX_LEASE_BYTES)
        want = min(max(need, doubled), most)
        self._budget.free_bytes -= want
        self._leased_bytes += want
        self._room_bytes += want
        return True

    def _lose(self, at_ns: int, lost_bytes: int) -> None:
        last = self.entries[-1] if self.entries else None
        if not isinstance(last, Gap):
            last = Gap()
            self.entries.append(at_ns)
            self.entries.append(last)
        last.lost_chunks += 1
        last.lost_bytes += lost_bytes
