"""Encoded spans to an OTLP/HTTP endpoint, by the HTTP client of the SDK's own exporter.

Rules that hold here:

* Retries, compression, headers, time limits and TLS are the library's; only the making of spans and
  messages is left out.
* It is taken only where nobody could tell the difference. What it needs of the SDK is partly
  private and may move, so each process compares both ways first: `straight` is `None` if they
  differ in anything, or if somebody counts the SDK's spans. Then the SDK's way is taken.
* What surrounds the spans (resource and scope) is encoded once, by the official encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import Tracer

from streamtrace.core.summary import (
    Content,
    ErrorInfo,
    Generation,
    Labels,
    RequestFacts,
    RunSummary,
    Status,
    TokenCounts,
    ToolCall,
    TraceIds,
)
from streamtrace.logs import WARNINGS
from streamtrace.sinks.otlp import MAX_BYTES_PER_REQUEST, SpanIds, encode_request

_NO_COUNTERS = {"NoOpExporterMetrics", "NoOpTracerMetrics"}


class OtlpHttp:
    """Sends encoded spans to where `exporter` would, in requests of at most `max_bytes`.

    `official` is a request of that exporter, from which resource and scope are taken.
    """

    def __init__(self, exporter: OTLPSpanExporter, official: Any) -> None:
        [resource] = official.resource_spans
        [scope] = resource.scope_spans
        self._resource = _without(resource, "scope_spans")
        self._scope = _without(scope, "spans")
        self._exporter = exporter
        around = len(self.request([]))
        limit = exporter._max_request_size
        self.max_bytes = MAX_BYTES_PER_REQUEST
        if limit > 0:
            self.max_bytes = min(self.max_bytes, limit - around - 2 * _MAX_LENGTH)

    def request(self, spans: Sequence[bytes]) -> bytes:
        """The body of a request."""
        return encode_request(self._resource, self._scope, spans)

    def send(self, spans: Sequence[bytes]) -> bool:
        """Whether the endpoint took them. A single run may be longer than the exporter allows."""
        body, exporter = self.request(spans), self._exporter
        limit = exporter._max_request_size
        if 0 < limit < len(body):
            WARNINGS.warn(
                "otlp.size",
                f"a request of {len(body)} bytes was not sent: max_request_size is {limit}",
            )
            return False
        return not exporter._shutdown and exporter._client.export(body).success


_MAX_LENGTH = 5
"""Bytes by which the length of a message can grow when spans are put into it."""


def straight(
    exporter: SpanExporter, tracer: Tracer, probes: Iterable[tuple[ReadableSpan, bytes]]
) -> OtlpHttp | None:
    """The straight way, if spans of `tracer` are encoded as the exporter would encode them."""
    if type(exporter) is not OTLPSpanExporter:
        return None
    try:
        counters = {exporter._metrics, tracer._tracer_metrics}  # type: ignore[attr-defined]
        is_counted = {type(one).__name__ for one in counters} != _NO_COUNTERS
        answer = get_type_hints(type(exporter._client).export)["return"]
        is_known = "success" in answer.__annotations__ and exporter._shutdown in {False, True}
        spans, encoded = zip(*probes, strict=True)
        official = encode_spans(spans)
        client = OtlpHttp(exporter, official)
        ours = type(official).FromString(client.request(encoded))
    except Exception:  # of another version of the SDK, which may have moved anything
        return None
    return client if is_known and not is_counted and ours == official else None


def ids_of(span: ReadableSpan) -> SpanIds:
    """The ids that the SDK gave a span."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    if parent is None:
        return SpanIds(context.trace_id, context.span_id)
    return SpanIds(context.trace_id, context.span_id, parent.span_id, parent.is_remote)


def _without(message: Any, field: str) -> bytes:
    bare = type(message)()
    bare.CopyFrom(message)
    bare.ClearField(field)
    encoded: bytes = bare.SerializeToString()
    return encoded


_BARE: dict[str, Any] = {"status": Status.COMPLETED, "started_at_ns": 10**18, "duration_ns": 10**9}
_FULL: dict[str, Any] = {
    "status": Status.ERROR,
    "started_at_ns": 10**18,
    "duration_ns": 10**9,
    "http_status": 200,
    "run_id": "r",
    "thread_id": "t",
    "error": ErrorInfo(type="e", message=Content(chars=1, text="é")),
    "time_to_first_token_ns": 2,
    "generations": [
        Generation(
            started_ns=0,
            finished_ns=5,
            model="m",
            provider="p",
            finish_reasons=["stop"],
            usage=TokenCounts(input_tokens=1, output_tokens=2),
            cost_usd=0.5,
            first_token_ns=2,
            text=Content(chars=1, text="é"),
        )
    ],
    "tool_calls": [ToolCall(id="i", name="n", status="error", started_ns=5, finished_ns=9)],
    "request": RequestFacts(parameters={"seed": -1}, input=Content(chars=1, text="é")),
    "labels": Labels(
        user="u",
        session="s",
        agent="a",
        tags=["g"],
        metadata={"k": 1},
        release="1",
        environment="x",
    ),
}
_ABOVE = TraceIds(trace_id="1" + "0" * 31, span_id="2", parent_span_id="3", sampled=True)
_ALONE = TraceIds(trace_id="1" + "0" * 31, span_id="2")
PROBES = [
    RunSummary(**{**said, "trace": ids}) for said in (_BARE, _FULL) for ids in (_ABOVE, _ALONE)
]
"""Runs to compare both ways with: little and much is known, a caller above or none.

Samplers that decide by ratio take these ids, unless they take none.
"""
