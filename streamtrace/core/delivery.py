"""What who serves tells who observes: what was left out between an agent and its client, and which
connection of which run this is.

The observer of a request puts its `DeliveryCounts` into `CURRENT_DELIVERY`; whoever serves the
answer inside, in whatever task or thread, adds to them:

    counts = CURRENT_DELIVERY.get()
    if counts is not None:
        counts.policy = "drop"
        counts.dropped_events += 1

Rules that hold here:

* `policy` is set when the stream begins: then the counts are known, and 0 means none. Without it
  nobody counted, and nothing is known.
* They are read when the stream ends. What is added later is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal

import msgspec

from streamtrace.core.summary import RunSummary

ConnectionKind = Literal["start", "resume", "follow", "detached"]


class RunConnection(msgspec.Struct, kw_only=True):
    """One connection of a run that may have several.

    kind             `start` began it, `resume` went on behind a cursor, `follow` came later and
                     began at its beginning; `detached` is no connection, but what the run said when
                     the client had left that began it
    traceparent      the trace of the connection that began the run, where it was observed
    replayed_events  told again, or late: the log had them when this connection came
    gap_events       of which it was told that they are missing
    is_detached      of a `start`: its client left, and the run went on without
    """

    kind: ConnectionKind
    run_id: str
    thread_id: str
    traceparent: str | None = None
    replayed_events: int = 0
    gap_events: int = 0
    is_detached: bool = False

    @property
    def tells_run(self) -> bool:
        """Whether its record is that of the run: of each run, what was used and how it ended is
        counted there, and nowhere else."""
        return self.kind in ("start", "detached")


class DeliveryCounts(msgspec.Struct, kw_only=True):
    """Of one answer: what became of its events when the client was slow."""

    policy: str | None = None
    """What is done then: `block`, `drop`, `coalesce` or `disconnect`."""
    dropped_events: int = 0
    """Deltas that the client did not get."""
    dropped_chars: int = 0
    """Their text."""
    joined_events: int = 0
    """Deltas that came as a part of another. Their text is complete."""
    connection: RunConnection | None = None
    """Which it is, of a run that may have several. Set before the head of the answer is sent."""
    traceparent: Callable[[], str] | None = None
    """From the observer: the trace that this answer belongs to (W3C Trace Context)."""
    tell_rest: Callable[[RunSummary], None] | None = None
    """From the observer: takes the record of what a run said when its client had left."""


CURRENT_DELIVERY: ContextVar[DeliveryCounts | None] = ContextVar(
    "streamtrace_delivery", default=None
)
