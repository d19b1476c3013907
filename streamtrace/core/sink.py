"""What a sink is.

A sink is told of each observed stream twice, off the client's path and in this order: `start`
when the response turns out to be a stream, `end` exactly once, whatever happened. A sink that
wants every event also defines `event`; who does not define it pays nothing.

The caller isolates: an exception raised here is counted and never reaches a client or another
sink. The sink bounds: `start`, `event` and `end` must not block, so a sink with network or disk
behind it hands over to a bounded queue (`streamtrace.sinks.QueuedSink`) and counts what it drops:
`accepted == exported + dropped + queued` at all times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from streamtrace.core.events import Event
from streamtrace.core.summary import ConnectionKind, RunSummary, TraceIds

ContentMode = Literal["off", "hash", "full"]
CONTENT_MODES: tuple[ContentMode, ...] = ("off", "hash", "full")
"""From strict to open."""


class StreamInfo(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """What is known of a stream when it starts. One object per stream: it can serve as a key."""

    started_at_ns: int
    route: str
    method: str | None
    transport: str
    http_status: int | None
    trace: TraceIds | None
    connection: ConnectionKind | None = None
    """Of a run that may have several connections."""


class SinkStats(msgspec.Struct, kw_only=True):
    """Where every record is. Counts of runs, since the sink was made."""

    accepted: int = 0
    exported: int = 0
    dropped: dict[str, int] = {}
    queued: int = 0


class ExportStats(msgspec.Struct, kw_only=True):
    """How the exports of a sink go: batches since the sink was made, and the room of its queue.

    `duration_counts` holds how many exports fell into each bucket of `EXPORT_BUCKETS_S` (and one
    more for the rest), failed ones too. `last_success_at_ns` is Unix time.
    """

    capacity: int = 0
    succeeded: int = 0
    failed: int = 0
    duration_counts: list[int]
    duration_sum_ns: int = 0
    last_success_at_ns: int | None = None


class Sink:
    """Base of all sinks: subclass it and override `end` (and what else is wanted).

    `name` labels the sink in metrics and warnings. `content` is what this sink may see of
    prompts, texts, arguments and results: `None` takes the middleware's setting.
    """

    name: str = "sink"
    content: ContentMode | None = None
    runs_told: int = 0
    """Runs that `end` took; counted by the caller."""
    failures: int = 0
    """Runs that were lost to an exception of `end`; counted by the caller."""

    def track(self, sinks: Sequence[Sink]) -> None:
        """Told once which sinks stand beside this one: for sinks that report on the others."""

    def start(self, info: StreamInfo) -> None:
        """A stream began to be observed."""

    def event(self, info: StreamInfo, event: Event, at_ns: int) -> None:
        """An event passed, `at_ns` after the start. Only called where a subclass defines it."""

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        """The stream ended. `summary` is already redacted for this sink; do not change it."""

    def stats(self) -> SinkStats:
        """Where the records are, as the sink itself knows it; here, what `end` took is exported."""
        return SinkStats(accepted=self.runs_told, exported=self.runs_told)

    def exports(self) -> ExportStats | None:
        """How the exports go; `None` for a sink that has none, since `end` does its work."""
        return None

    def totals(self) -> SinkStats:
        """`stats`, and with them the runs that `end` failed on (dropped, `sink_error`)."""
        stats, failures = self.stats(), self.failures
        if not failures:
            return stats
        return SinkStats(
            accepted=stats.accepted + failures,
            exported=stats.exported,
            dropped={**stats.dropped, "sink_error": failures},
            queued=stats.queued,
        )

    def flush(self, timeout_s: float) -> bool:
        """Block until what was accepted has been exported or dropped; `False` at the time limit.

        Never called on an event loop's thread.
        """
        return True

    def close(self, timeout_s: float) -> None:
        """Flush, then give back threads and connections. Later records are dropped and counted."""
        self.flush(timeout_s)
