"""Which trace a stream belongs to: the server span around us, the caller's, or a new one.

OpenTelemetry is asked only if the process has loaded it; without it the header is read here.
Nothing is attached to its context: a span held current across a stream fails to detach when the
stream is closed from another task.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable

from streamtrace.core.summary import TraceIds

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def current_span() -> TraceIds | None:
    """Ids under the span that OpenTelemetry holds current here, or `None`. Never raises."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return TraceIds(
            trace_id=f"{context.trace_id:032x}",
            span_id=_new_id(8),
            parent_span_id=f"{context.span_id:016x}",
            sampled=bool(int(context.trace_flags) & 1),
        )
    except Exception:  # an API of other people, on the path of every request
        return None


def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> TraceIds:
    """Ids under the caller's span (W3C Trace Context, level 1), or of a new trace."""
    for name, value in headers:
        if name == b"traceparent":
            match = _TRACEPARENT.fullmatch(value.strip())
            if match and match[1].strip(b"0") and match[2].strip(b"0"):
                return TraceIds(
                    trace_id=match[1].decode(),
                    span_id=_new_id(8),
                    parent_span_id=match[2].decode(),
                    sampled=bool(int(match[3], 16) & 1),
                )
            break
    return TraceIds(trace_id=_new_id(16), span_id=_new_id(8))


def child_of(trace: TraceIds) -> TraceIds:
    """Ids of a span below that one."""
    return TraceIds(
        trace_id=trace.trace_id,
        span_id=_new_id(8),
        parent_span_id=trace.span_id,
        sampled=trace.sampled,
    )


def traceparent(trace: TraceIds) -> str:
    """As a header of W3C Trace Context, level 1."""
    return f"00-{trace.trace_id}-{trace.span_id}-{'00' if trace.sampled is False else '01'}"


def _new_id(size: int) -> str:
    """So many random bytes, which are never all zero: that would be no id."""
    made = os.urandom(size)
    return made.hex() if any(made) else "1".zfill(2 * size)
