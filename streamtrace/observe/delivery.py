"""What is told between who serves an answer and us, and what a run said when its client had left.

Rules that hold here:

* Nothing is made that nobody asks for: there is one of these per request.
* Of a run that went on without its client there are two records. The second is the run's own, less
  what the first has told: so what a run used is told once.
* They may come in either order: the record of the connection, and the end of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streamtrace.core.delivery import DeliveryCounts
from streamtrace.core.sink import ContentMode, StreamInfo
from streamtrace.core.summary import (
    ModelUsage,
    RequestFacts,
    RunConnection,
    RunSummary,
    TokenCounts,
    TraceIds,
    add_up,
)
from streamtrace.logs import WARNINGS
from streamtrace.observe import trace_context
from streamtrace.observe.fanout import Fanout

_COUNTS = TokenCounts.__struct_fields__
_TIMES_OF_THE_FIRST = (
    "time_to_first_byte_ns",
    "time_to_first_event_ns",
    "time_to_first_token_ns",
    "time_to_first_visible_token_ns",
    "time_per_output_token_ns",
    "longest_gap_ns",
    "longest_gap_at_ns",
)


class ObservedDelivery(DeliveryCounts, kw_only=True, gc=False):
    """That of an observed request."""

    headers: Any = None
    trace: TraceIds | None = None
    rest: Rest | None = None
    untold: RunSummary | None = None

    def trace_ids(self) -> TraceIds:
        """The trace that the answer belongs to, decided at the first call."""
        if self.trace is None:
            self.trace = trace_context.current_span() or trace_context.from_headers(
                self.headers or ()
            )
        return self.trace

    def traceparent(self) -> str | None:
        """See `DeliveryCounts`."""
        return trace_context.traceparent(self.trace_ids())

    def tell_rest(self, run: RunSummary) -> None:
        """See `DeliveryCounts`."""
        if self.rest is None:
            self.untold = run  # until the record of the connection is made
        else:
            self.rest.tell(run)

    def told(self, rest: Rest) -> None:
        """The record of the connection is made."""
        self.rest = rest
        if self.untold is not None:
            rest.tell(self.untold)
            self.untold = None


class Rest:
    """How a run goes on behind the record of its first connection, which is `told`."""

    def __init__(
        self,
        fanout: Fanout,
        info: StreamInfo,
        modes: tuple[ContentMode, ...],
        price: Callable[[Any], None] | None,
        told: RunSummary,
    ) -> None:
        self._fanout = fanout
        self._info = info
        self._modes = modes
        self._price = price
        self._dialect = told.dialect
        self._labels = told.labels
        self._request = RequestFacts(
            model=told.request.model, thread_id=told.request.thread_id, user=told.request.user
        )
        self._connection = told.connection
        self._events = told.events
        self._usage = told.usage_by_model
        self._generations = _told_generations(told)
        self._tool_calls = {call.id for call in told.tool_calls if call.finished_ns is not None}

    def tell(self, run: RunSummary) -> None:
        """Tell the sinks of what the first record lacks. Never raises."""
        try:
            info, summary = self._record(run)
        except Exception as error:
            WARNINGS.warn("rest", f"a detached run has no record: {type(error).__name__}")
            return
        self._fanout.start(info)
        self._fanout.end(info, summary, self._modes)

    def _record(self, run: RunSummary) -> tuple[StreamInfo, RunSummary]:
        first = self._info.trace
        trace = None if first is None else trace_context.child_of(first)
        connection = _detached(self._connection)
        summary = msgspec.structs.replace(
            run,
            dialect=self._dialect,
            route=self._info.route,
            method=self._info.method,
            transport=self._info.transport,
            trace=trace,
            connection=connection,
            labels=msgspec.structs.replace(self._labels),
            request=self._request,
            generations=run.generations[self._generations :],
            tool_calls=[call for call in run.tool_calls if call.id not in self._tool_calls],
            usage_by_model=less(run.usage_by_model, self._usage),
            events=max(0, run.events - self._events),
            gap_counts=[],
            gap_sum_ns=0,
            issues={},
            **dict.fromkeys(_TIMES_OF_THE_FIRST),
        )
        summary.usage = add_up(entry.usage for entry in summary.usage_by_model)
        if self._price is not None:
            self._price(summary)
        info = StreamInfo(
            started_at_ns=summary.started_at_ns,
            route=self._info.route,
            method=self._info.method,
            transport=self._info.transport,
            http_status=None,
            trace=trace,
            connection="detached",
        )
        return info, summary


def less(whole: list[ModelUsage], told: list[ModelUsage]) -> list[ModelUsage]:
    """What is used in `whole` and not in `told`, which may not know the models' names."""
    known = {entry.model: entry.usage for entry in told}
    if not known.keys() <= {entry.model for entry in whole}:
        seen, used = add_up(known.values()), add_up(entry.usage for entry in whole)
        names = [(entry.model, entry.provider) for entry in whole]
        model, provider = names[0] if len(names) == 1 else (None, None)
        left = None if used is None else _minus(used, seen)
        return [] if left is None else [ModelUsage(model=model, provider=provider, usage=left)]
    rest = []
    for entry in whole:
        left = _minus(entry.usage, known.get(entry.model))
        if left is not None:
            rest.append(ModelUsage(model=entry.model, provider=entry.provider, usage=left))
    return rest


def _minus(usage: TokenCounts, told: TokenCounts | None) -> TokenCounts | None:
    """`None` if nothing is left."""
    counts: dict[str, int] = {}
    for name in _COUNTS:
        count, seen = getattr(usage, name), None if told is None else getattr(told, name)
        if count is not None and count > (seen or 0):
            counts[name] = count - (seen or 0)
    return TokenCounts(**counts) if counts else None


def _told_generations(told: RunSummary) -> int:
    """How many calls of a model were told whole: the last was cut, if it has no usage yet."""
    count = len(told.generations)
    return count - 1 if count and told.generations[-1].usage is None else count


def _detached(connection: RunConnection | None) -> RunConnection | None:
    if connection is None:
        return None
    return RunConnection(
        kind="detached",
        run_id=connection.run_id,
        thread_id=connection.thread_id,
        traceparent=connection.traceparent,
    )
