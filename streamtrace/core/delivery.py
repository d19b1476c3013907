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

from contextvars import ContextVar

import msgspec

from streamtrace.core.summary import RunConnection, RunSummary


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

    def traceparent(self) -> str | None:
        """The trace that the answer belongs to (W3C Trace Context); `None` where nobody observes
        it."""
        return None

    def tell_rest(self, run: RunSummary) -> None:
        """The whole of a run that went on when its client had left: the observer tells what of it
        was not seen. Once, when it is over."""


CURRENT_DELIVERY: ContextVar[DeliveryCounts | None] = ContextVar(
    "streamtrace_delivery", default=None
)
