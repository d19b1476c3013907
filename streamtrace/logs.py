"""Warnings that cannot flood: one line per kind and minute, with how many were held back.

Warnings name kinds, types and counts. They never carry content, ids, or the text of an exception,
which may hold either.
"""

from __future__ import annotations

import logging
import threading
import time

LOGGER = logging.getLogger("streamtrace")
INTERVAL_S = 60.0
_MAX_KINDS = 256


class RateLimitedWarnings:
    """Log a kind of warning at most once per interval. Safe to call from any thread."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._last: dict[str, tuple[float, int]] = {}

    def warn(self, kind: str, message: str) -> None:
        """Log `message`, or count it if this kind was logged within the interval."""
        now = time.monotonic()
        with self._lock:
            at, held = self._last.get(kind, (now - self._interval_s, 0))
            if now - at < self._interval_s:
                self._last[kind] = (at, held + 1)
                return
            if len(self._last) >= _MAX_KINDS:
                self._last.clear()
            self._last[kind] = (now, 0)
        more = f" ({held} more since the last such warning)" if held else ""
        LOGGER.warning("%s%s", message, more)


WARNINGS = RateLimitedWarnings()
