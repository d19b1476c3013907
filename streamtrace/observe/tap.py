"""The tap: what the path leaves behind of one stream, until the pump takes it.

Rules that hold here:

* The path notes a time and a body, and once the server has the body, how long that took. What fits
  into the room needs no more; `push` is for all others. Neither awaits, logs, decodes or raises.
* It holds at most `max_bytes` of one stream, and all taps of an event loop together at most the
  budget. What does not fit is not kept: it is counted, and leaves a Gap where it was.
* Room is leased from the budget, as much as was needed before the last rest and then in blocks that
  double, and given back when the tap is empty: the path touches the shared counter rarely, many
  small taps fit, and an idle stream holds nothing. So the first chunk after a rest never fits: that
  is when the pump is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamtrace.observe.notes import Gap, Notes

MAX_TAP_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 64 * 1024 * 1024

ENTRY_BYTES = 144
"""What an entry costs beside its body, so that empty bodies cannot fill memory either."""
_MIN_LEASE_BYTES = 4 * 1024
_MAX_LEASE_BYTES = 256 * 1024
_SOON_BYTES = 256 * 1024
"""So much at once comes from an app that does not wait for a model: the pump must not either."""


class Budget:
    """Bytes that all taps of one event loop may still hold together."""

    __slots__ = ("_total_bytes", "free_bytes")

    def __init__(self, total_bytes: int = MAX_TOTAL_BYTES) -> None:
        self._total_bytes = total_bytes
        self.free_bytes = total_bytes

    @property
    def filled(self) -> float:
        """The share that is taken."""
        return 1 - self.free_bytes / self._total_bytes if self._total_bytes else 1.0


class Tap(Notes):
    """The chunks of one stream. `schedule(soon)` is called when there is something to take, and
    again, with `soon`, when there is much of it."""

    __slots__ = (
        "_at_rest",
        "_budget",
        "_last_bytes",
        "_leased_bytes",
        "_max_bytes",
        "_schedule",
    )

    def __init__(self, budget: Budget, max_bytes: int, schedule: Callable[[bool], None]) -> None:
        super().__init__()
        self._budget = budget
        self._max_bytes = max_bytes
        self._schedule = schedule
        self._leased_bytes = 0
        self._last_bytes = 0
        self._at_rest = True

    def push(self, at_ns: int, body: Any) -> bool:
        """Note any body: O(1), only bytes that may change later are copied. False if lost."""
        if body.__class__ is not bytes and not isinstance(body, str):
            body = bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b""
        size = len(body) + ENTRY_BYTES
        fits = size <= self.room_bytes or self.make_room(size)
        if fits:
            self.room_bytes -= size
            self.note(at_ns, body)
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

    def _lose(self, at_ns: int, lost_bytes: int) -> None:
        last = self.last_noted()
        if not isinstance(last, Gap):
            last = Gap()
            self.note(at_ns, last)
        last.lost_chunks += 1
        last.lost_bytes += lost_bytes


def _tell_nobody(soon: bool) -> None:
    """For taps whose stream is over."""


SHUT = Tap(Budget(0), 0, _tell_nobody)
"""Where there is no stream: the path finds no room here, and cannot make any."""
