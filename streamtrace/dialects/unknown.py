"""What no dialect claims: counted and timed, never read."""

from __future__ import annotations

from collections.abc import Iterable

from streamtrace.core.events import Custom, Event, Heartbeat
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Dialect, Fit, Head
from streamtrace.dialects.house import HEARTBEATS


class Unknown(Dialect):
    """Any stream. It ends well if it ends, since nobody knows what should have come."""

    name = "unknown"
    needs_terminal = False

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Never by a frame: it is what remains."""
        return Fit.NO

    def decode(self, frame: Frame) -> Iterable[Event]:
        """One event for each frame that says anything; comments and ids do not."""
        if not frame.complete or (frame.data is None and not frame.event):
            return ()
        if frame.event in HEARTBEATS:
            return (Heartbeat(),)
        return (Custom(name=frame.event or "message"),)
