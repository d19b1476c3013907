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

from typing import Any

import msgspec

from streamtrace.observe.tcp_diag import Connection, TcpDiag, TcpInfo, connection_between

FIRST_NS = 1_000_000_000
INTERVAL_NS = 2_000_000_000
BEHIND_INTERVAL_NS = 200_000_000


class ClientLag(msgspec.Struct, eq=False, gc=False):
    """Of one stream."""

    _diag: TcpDiag | None = None
    _connection: Connection | None = None
    _due_ns: int = 0
    _last: TcpInfo | None = None
    max_bytes: int | None = None
    """The most that was sent by the app and not confirmed by the client's system."""
    total_ns: int | None = None

    @classmethod
    def of(cls, diag: TcpDiag | None, client: Any, server: Any, started_ns: int = 0) -> ClientLag:
        """Of a stream that began at `started_ns`, between the ends that the ASGI scope tells."""
        connection = None if diag is None else connection_between(client, server)
        return cls(diag, connection, started_ns + FIRST_NS)

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


NOT_ASKED = ClientLag()
"""Of a stream that cannot be asked about, or has not been yet."""
