"""Span records straight to OTLP bytes, where the SDK would make the same of them.

Rules that hold here:

* It is taken only with a provider of ours, which has no processors, over OTLP/HTTP, if no limit of
  spans could cut a record, and if the sampler is one that OTEL_TRACES_SAMPLER can name: these
  sample the children of every root that they sample.
* The sampler is asked for the root with all that the SDK would tell it; ids are those that the SDK
  would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, Tracer

from streamtrace.core.spans import MAX_ATTRIBUTES, SpanRecord, project
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.otel_ids import child_ids, parent_context, root_ids
from streamtrace.sinks.otlp import (
    CLIENT,
    INTERNAL,
    MAX_SPANS_PER_REQUEST,
    SpanIds,
    encode_span,
)
from streamtrace.sinks.otlp_http import PROBES, OtlpHttp, ids_of, straight

_BySdk = Callable[[RunSummary], Sequence[Any]]
_KINDS = {"run": INTERNAL, "generation": CLIENT, "tool_call": INTERNAL}


class StraightSpans:
    """Runs to encoded spans, as `provider` would make them, and those to `http`."""

    def __init__(self, provider: TracerProvider, http: OtlpHttp) -> None:
        self._sampler = provider.sampler
        self._made_ids = provider.id_generator
        self._http = http
        self.max_spans = MAX_SPANS_PER_REQUEST
        self.max_bytes = http.max_bytes

    def spans(self, run: RunSummary) -> tuple[list[bytes], int]:
        """The run's spans, the root last, and their size; none if the sampler wants none."""
        record, *children = project(run)
        ids = root_ids(run.trace, self._made_ids)
        result = self._sampler.should_sample(
            parent_context(run.trace),
            ids.trace_id,
            record.name,
            SpanKind.INTERNAL,
            record.attributes,
            (),
        )
        if result.decision is not Decision.RECORD_AND_SAMPLE:
            return [], 0
        spans = [_encode(child_ids(ids, self._made_ids), one) for one in children]
        spans.append(_encode(ids, record))
        return spans, sum(map(len, spans))

    def send(self, spans: Sequence[bytes]) -> bool:
        """Whether they arrived."""
        return self._http.send(spans)


def straight_spans(
    provider: TracerProvider,
    tracer: Tracer,
    exporter: SpanExporter,
    by_sdk: _BySdk,
) -> StraightSpans | None:
    """The straight way, where it is open; `by_sdk` is the other one, to compare with."""
    if not _decides_by_root(provider.sampler) or not _cuts_nothing(provider._span_limits):
        return None
    http = straight(exporter, tracer, _probed(by_sdk))
    return None if http is None else StraightSpans(provider, http)


def _probed(by_sdk: _BySdk) -> Iterator[tuple[ReadableSpan, bytes]]:
    for run in PROBES:
        if spans := by_sdk(run):  # the sampler wants it
            root, *children = project(run)
            for span, record in zip(spans, [*children, root], strict=True):
                yield span, _encode(ids_of(span), record)


def _encode(ids: SpanIds, record: SpanRecord) -> bytes:
    return encode_span(
        ids,
        record.name,
        kind=_KINDS[record.kind],
        start_ns=record.start_ns,
        end_ns=record.end_ns,
        attributes=record.attributes,
        events=record.events,
        links=record.links,
        error=record.error,
    )


def _decides_by_root(sampler: Sampler) -> bool:
    return any(sampler is one for one in (ALWAYS_ON, ALWAYS_OFF, DEFAULT_ON, DEFAULT_OFF)) or (
        type(sampler) in (TraceIdRatioBased, ParentBasedTraceIdRatio)
    )


def _cuts_nothing(limits: SpanLimits) -> bool:
    counts = (limits.max_span_attributes, limits.max_events, limits.max_event_attributes)
    lengths = (limits.max_span_attribute_length, limits.max_attribute_length)
    return (
        lengths == (None, None)
        and all(n is None or n >= MAX_ATTRIBUTES for n in counts)
        and (limits.max_links is None or limits.max_links >= 1)
    )
