"""Span records to OpenTelemetry spans, on one thread.

Rules that hold here:

* The root span has the ids that `RunSummary.trace` promised to the rest of the process.
* Only the parent span is carried over from the request, never its baggage; and the context given
  to the SDK is never empty, since processors take an empty one for none and read the thread's own.
* Order: the root starts, its children start and end, the root ends.
* Whole runs go into a request; ended spans go to the exporter without a processor between, so
  that its answer is the answer for these runs.
* There are two ways, and what arrives is the same: through spans of the SDK, which any provider and
  exporter understand, and straight to bytes (`otel_straight`), where that is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol, cast

from opentelemetry import trace
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    Context,
    attach,
    detach,
    set_value,
)
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)

from streamtrace.core.spans import SpanRecord, project
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.otel_ids import PromisedIds, link_to, parent_context, promised
from streamtrace.sinks.otlp import (
    MAX_BYTES_PER_REQUEST,
    MAX_SDK_SPANS_PER_REQUEST,
    about_bytes,
    packed,
)

if TYPE_CHECKING:
    from streamtrace.sinks.otel_straight import StraightSpans

SCOPE = "streamtrace"

_OTLP_HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_KINDS = {
    "run": SpanKind.INTERNAL,
    "generation": SpanKind.CLIENT,
    "tool_call": SpanKind.INTERNAL,
}


class Way(Protocol):
    """How a run becomes spans, and how these leave the process."""

    max_spans: int
    max_bytes: int

    def spans(self, run: RunSummary) -> tuple[list[Any], int]:
        """The run's spans, ended, the root last, and about how long they are; none: unsampled."""

    def send(self, spans: Sequence[Any]) -> bool:
        """Whether they arrived."""


class SpanWriter:
    """Runs to spans of `provider`, and those to `exporter`, if the provider is ours."""

    def __init__(self, provider: trace.TracerProvider, exporter: SpanExporter | None) -> None:
        self._provider = provider
        self._exporter = exporter
        self._straight = self._straight_way()

    def write(self, batch: Iterable[RunSummary]) -> dict[str, int]:
        """What was dropped, by reason."""
        way: Way = self._straight or SdkSpans(self._tracer(), self._exporter)
        dropped: Counter[str] = Counter()
        for spans, runs in packed(_made(way, batch, dropped), way.max_spans, way.max_bytes):
            if not _send(way, spans):
                dropped["export_error"] += runs
        return dropped

    def shutdown(self) -> None:
        """Shut the exporter down."""
        if self._exporter is not None:
            self._exporter.shutdown()

    def _tracer(self) -> trace.Tracer:
        """Asked for each batch: a proxy gives a better one when the app has set its provider."""
        tracer: Any = self._provider.get_tracer(SCOPE, _VERSION)
        ids = getattr(tracer, "id_generator", None)  # the SDK's tracers have one
        if ids is not None and not isinstance(ids, PromisedIds):
            tracer.id_generator = PromisedIds(ids)
        return cast("trace.Tracer", tracer)

    def _straight_way(self) -> StraightSpans | None:
        provider, exporter = self._provider, self._exporter
        if (
            exporter is None
            or not isinstance(provider, TracerProvider)
            or type(exporter).__module__ != _OTLP_HTTP
        ):
            return None  # what the other way imports may not even be installed
        from streamtrace.sinks.otel_straight import straight_spans  # noqa: PLC0415

        tracer = self._tracer()
        by_sdk = SdkSpans(tracer, exporter)
        return straight_spans(provider, tracer, exporter, lambda run: by_sdk.spans(run)[0])


class SdkSpans:
    """The way through spans of the SDK."""

    max_spans = MAX_SDK_SPANS_PER_REQUEST
    max_bytes = MAX_BYTES_PER_REQUEST

    def __init__(self, tracer: trace.Tracer, exporter: SpanExporter | None) -> None:
        self._tracer = tracer
        self._exporter = exporter

    def spans(self, run: RunSummary) -> tuple[list[trace.Span], int]:
        """The run's spans, ended, the root last; none if the sampler did not want the run."""
        records = project(run)
        spans = self._ended(run, records)
        return spans, sum(about_bytes(record.attributes) for record in records)

    def send(self, spans: Sequence[trace.Span]) -> bool:
        """Whether the exporter took them. The app's provider got them when they ended."""
        if self._exporter is None:
            return True
        readable = [span for span in spans if isinstance(span, Span)]
        return self._exporter.export(readable) is SpanExportResult.SUCCESS

    def _ended(self, run: RunSummary, records: list[SpanRecord]) -> list[trace.Span]:
        tracer = self._tracer
        root_record, *children = records
        with promised(run.trace):
            root = _start(tracer, root_record, parent_context(run.trace))
        spans: list[trace.Span] = []
        if _is_sampled(root):
            below_root = set_span_in_context(root, Context())
            for record in children:
                span = _start(tracer, record, below_root)
                if _is_sampled(span):
                    spans.append(span)
                span.end(record.end_ns)
            spans.append(root)
        root.end(root_record.end_ns)
        return spans


def app_provider() -> trace.TracerProvider | None:
    """The global provider, if the app set one."""
    provider = trace.get_tracer_provider()
    unset = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    return None if unset else provider


def own_provider(like: trace.TracerProvider | None) -> TracerProvider:
    """A provider without processors; the service it names is that of `like`, if there is one."""
    return TracerProvider(resource=getattr(like, "resource", None), shutdown_on_exit=False)


def _start(tracer: trace.Tracer, record: SpanRecord, context: Context) -> trace.Span:
    span = tracer.start_span(
        record.name,
        context=context,
        kind=_KINDS[record.kind],
        attributes=record.attributes,
        links=[link_to(one) for one in record.links],
        start_time=record.start_ns,
    )
    for event in record.events:
        span.add_event(event.name, event.attributes, timestamp=event.at_ns)
    if record.error is not None:
        span.set_status(Status(StatusCode.ERROR, record.error))
    return span


def _is_sampled(span: trace.Span) -> bool:
    return span.is_recording() and span.get_span_context().trace_flags.sampled


def _made(
    way: Way, batch: Iterable[RunSummary], dropped: Counter[str]
) -> Iterator[tuple[list[Any], int]]:
    """The spans of each run that has any; the others are counted."""
    for summary in batch:
        try:
            made = way.spans(summary)
        except Exception:  # of the app's sampler or processors; the other runs are fine
            dropped["export_error"] += 1
            continue
        if made[0]:
            yield made
        else:
            dropped["unsampled"] += 1


def _send(way: Way, spans: list[Any]) -> bool:
    """Whether they arrived. The requests of exporters shall not become spans of the app."""
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        return way.send(spans)
    except Exception:
        return False
    finally:
        detach(token)


def _version() -> str | None:
    try:
        return version("streamtrace")
    except PackageNotFoundError:  # run from a source tree
        return None


_VERSION = _version()
