"""Which trace a stream joins."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from streamtrace.observe.trace_context import current_span, from_headers

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_callers_header_is_joined() -> None:
    ids = from_headers([(b"traceparent", PARENT)])
    assert ids.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert ids.parent_span_id == "b7ad6b7169203331"
    assert ids.sampled is True
    assert from_headers([(b"traceparent", PARENT[:-1] + b"0")]).sampled is False


def test_a_future_version_is_read_as_far_as_it_is_known() -> None:
    ids = from_headers([(b"traceparent", b"01" + PARENT[2:] + b"-more")])
    assert ids.trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_malformed_headers_start_a_trace_of_our_own() -> None:
    for value in (
        b"",
        b"garbage",
        PARENT.upper(),
        b"ff" + PARENT[2:],
        b"00-" + b"0" * 32 + PARENT[35:],
        PARENT[:36] + b"0" * 16 + b"-01",
        PARENT + b"\xff",
    ):
        ids = from_headers([(b"traceparent", value)])
        assert ids.trace_id != "0af7651916cd43dd8448eb211c80319c", value
        assert (len(ids.trace_id), len(ids.span_id)) == (32, 16)
        assert ids.parent_span_id is None
        assert ids.sampled is None


def test_flags_may_be_a_plain_number() -> None:
    context = trace.SpanContext(1, 1, is_remote=False, trace_flags=1)  # type: ignore[arg-type]
    with trace.use_span(trace.NonRecordingSpan(context)):
        ids = current_span()
    assert ids is not None
    assert ids.sampled is True


def test_an_api_that_fails_is_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_current_span", lambda: None)
    assert current_span() is None


def test_the_current_span_is_joined_and_no_span_is_none() -> None:
    assert current_span() is None
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("server") as span:
        ids = current_span()
    assert ids is not None
    assert int(ids.trace_id, 16) == span.get_span_context().trace_id
    assert int(ids.parent_span_id or "", 16) == span.get_span_context().span_id
    assert ids.sampled is True
    assert trace.get_current_span().get_span_context().is_valid is False
