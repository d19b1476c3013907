"""What was left out between an agent and its client, told by who serves to who observes.

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


CURRENT_DELIVERY: ContextVar[DeliveryCounts | None] = ContextVar(
    "streamtrace_delivery", default=None
)
