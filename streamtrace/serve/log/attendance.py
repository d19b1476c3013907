"""Who follows a run where it is made, and what becomes of it when nobody does.

Rules that hold here (`on_disconnect`, see `Settings`):

* `cancel`: the run ends when the client leaves that began it, whoever else follows.
* seconds: it ends when for so long nobody has followed it here. Who comes stops the clock; who
  follows on another replica is not known here.
* `continue`: it ends by itself, by a stop, by its limits or with the server.
"""

from __future__ import annotations

import asyncio
import time

from streamtrace.serve.run import Run


class Attendance:
    """The followers of one run in this process."""

    def __init__(self, run: Run) -> None:
        self.followers = 0
        self._run = run
        self._clock: asyncio.TimerHandle | None = None

    def join(self) -> None:
        """One more follows."""
        self.followers += 1
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def leave(self, *, began_it: bool, is_whole: bool) -> None:
        """One follows no more. `began_it`: the client that asked for the run. `is_whole`: it got
        all of it."""
        self.followers -= 1
        policy = self._run.on_disconnect
        if policy == "cancel":
            if began_it and not is_whole and self._run.stop("disconnected"):
                self._run.disconnected_ns = time.monotonic_ns()
        elif policy != "continue" and not self.followers and not self._run.finished.done():
            loop = asyncio.get_running_loop()
            self._clock = loop.call_later(float(policy), self._run.stop, "expired")
