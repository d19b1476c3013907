"""The ids that a run was promised, for the sinks that write it as OpenTelemetry spans.

Rules that hold here:

* The root span gets the ids that the rest of the process already knows; all other spans get what
  their provider makes.
* Of the request only the span above the run is carried over, never its baggage, from which anybody
  could choose a user or a session. The context is never empty: that would mean the thread's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from streamtrace.core.spans import SpanLink
from streamtrace.core.summary import TraceIds
from streamtrace.sinks.otlp import SpanIds


class _Promise(threading.local):
    """The ids of the root span that this thread is about to start."""

    ids: TraceIds | None = None


_PROMISE = _Promise()


@contextmanager
def promised(ids: TraceIds | None) -> Iterator[None]:
    """The span that is started inside gets these ids, if its provider has `PromisedIds`."""
    _PROMISE.ids = ids
    try:
        yield
    finally:
        _PROMISE.ids = None


class PromisedIds(IdGenerator):
    """Hands out the promised ids, else those of `fallback`."""

    def __init__(self, fallback: IdGenerator) -> None:
        self._fallback = fallback

    def generate_trace_id(self) -> int:
        """The promised trace id; 0 would be none."""
        ids = _PROMISE.ids
        given = 0 if ids is None else int(ids.trace_id, 16)
        return given or self._fallback.generate_trace_id()

    def generate_span_id(self) -> int:
        """The promised span id; 0 would be none."""
        ids = _PROMISE.ids
        given = 0 if ids is None else int(ids.span_id, 16)
        return given or self._fallback.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """The W3C flag; who made a promised id is not known here."""
        return _PROMISE.ids is None and self._fallback.is_trace_id_random()


_NOTHING_ABOVE = set_span_in_context(INVALID_SPAN, Context())


def parent_context(ids: TraceIds | None) -> Context:
    """The span above the run, with the caller's decision to sample, and nothing else."""
    if ids is None or ids.parent_span_id is None:
        return _NOTHING_ABOVE
    flags = TraceFlags.DEFAULT if ids.sampled is False else TraceFlags.SAMPLED
    parent = SpanContext(
        int(ids.trace_id, 16),
        int(ids.parent_span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(flags),
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def link_to(link: SpanLink) -> Link:
    """A link to a span of another process, or of another time."""
    return Link(SpanContext(int(link.trace_id, 16), int(link.span_id, 16), is_remote=True))


def root_ids(ids: TraceIds | None, made: IdGenerator) -> SpanIds:
    """The ids that the SDK gives a root inside of `promised(ids)`, below `parent_context(ids)`."""
    trace_id = span_id = parent_id = 0
    if ids is not None:
        trace_id, span_id = int(ids.trace_id, 16), int(ids.span_id, 16)
        if trace_id and ids.parent_span_id is not None:
            parent_id = int(ids.parent_span_id, 16)
    return SpanIds(
        trace_id or made.generate_trace_id(),
        span_id or made.generate_span_id(),
        parent_id,
        is_remote=bool(parent_id),
    )


def child_ids(root: SpanIds, made: IdGenerator) -> SpanIds:
    """The ids of a span below the root."""
    return SpanIds(root.trace_id, made.generate_span_id(), root.span_id)
