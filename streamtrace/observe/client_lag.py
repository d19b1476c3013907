"""How far the client of one stream was behind, as far as the kernel can tell.

Rules that hold here:

* Asked at the pump's ticks, off the path, where there was something new, and when the stream ends:
  from its second second on, every 2 s at most, or every 0.2 s where data waits unsent. An answer
  takes 6 to 12 µs of CPU.
* Bytes are the most that was seen. Time comes from the kernel's own clocks, so it is right however
  seldom they are read: the time in which the client's system took no more, and between two answers
  with a segment unsent, in which therefore it was behind, all the time with data on its way.
* What cannot be asked is not known, and stays `None`. So does the time where there was one answer,
  unless that says that the connection has never waited.
* It is the connection that is asked about: behind a proxy its own, in HTTP/2 that of all streams.
"""

from __future__ import annotations

import contextlib
from typing import Any

from streamtrace.observe.tcp_diag import Connection, TcpDiag, TcpInfo

FIRST_NS = 1_000_000_000
INTERVAL_NS = 2_000_000_000
BEHIND_INTERVAL_NS = 200_000_000


class ClientLag:
    """Of one stream, that began at `started_ns`, between the two ends that the ASGI scope tells."""

    __slots__ = ("_connection", "_diag", "_due_ns", "_last", "max_bytes", "total_ns")

    def __init__(self, diag: TcpDiag | None, client: Any, server: Any, started_ns: int = 0) -> None:
        self.max_bytes: int | None = None
        """The most that was sent by the app and not confirmed by the client's system."""
        self.total_ns: int | None = None
        self._diag = diag
        self._due_ns = started_ns + FIRST_NS
        self._last: TcpInfo | None = None
        self._connection: Connection | None = None
        if diag is not None:
            with contextlib.suppress(ValueError):
                self._connection = Connection(client, server)

    def look(self, now_ns: int) -> None:
        """Ask, if it is time to; never raises."""
        if now_ns >= self._due_ns:
            self.ask(now_ns)

    def ask(self, now_ns: int) -> None:
        """Ask now, since there will be no other time. Never raises."""
        if self._diag is None or self._connection is None:
            return
        now = self._diag.ask(self._connection)
        if now is None:  # it was never there, or is gone
            self._connection = None
            return
        last, self._last = self._last, now
        if last is None:
            if not now.window_limited_us and not _waits(now):
                self.total_ns = 0
        else:
            behind_us = now.window_limited_us - last.window_limited_us
            if _waits(last) and _waits(now):
                behind_us = max(behind_us, now.busy_us - last.busy_us)
            self.total_ns = (self.total_ns or 0) + max(0, behind_us) * 1000
        self.max_bytes = max(self.max_bytes or 0, now.unacknowledged_bytes)
        self._due_ns = now_ns + (BEHIND_INTERVAL_NS if _waits(now) else INTERVAL_NS)


def _waits(info: TcpInfo) -> bool:
    """Whether a whole segment waits unsent: less may wait for more to come, not for the client."""
    return info.unsent_bytes >= info.segment_bytes


NOT_ASKED = ClientLag(None, None, None)
"""Of a stream that cannot be asked about, or has not been yet."""
