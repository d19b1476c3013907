"""Span records to OpenTelemetry spans, on one thread.

Rules that hold here:

* The root span has the ids that `RunSummary.trace` promised to the rest of the process.
* Only the parent span is carried over from the request, never its baggage; and the context given
  to the SDK is never empty, since processors take an empty one for none and read the thread's own.
* Order: the root starts, its children start and end, the root ends.
* Whole runs go into a request; ended spans go to the exporter without a processor between, so
  that its answer is the answer for these runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

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
from streamtrace.sinks.otel_ids import PromisedIds, parent_context, promised

SCOPE = "streamtrace"
MAX_SPANS_PER_EXPORT = 64
"""Encoding holds the interpreter's lock, so requests are small. A longer run still goes in one."""

_KINDS = {
    "run": SpanKind.INTERNAL,
    "generation": SpanKind.CLIENT,
    "tool_call": SpanKind.INTERNAL,
}


class SpanWriter:
    """Runs to spans of `provider`, and those to `exporter`, if the provider is ours."""

    def __init__(self, provider: trace.TracerProvider, exporter: SpanExporter | None) -> None:
        self._provider = provider
        self._exporter = exporter

    def write(self, batch: list[RunSummary]) -> dict[str, int]:
        """What was dropped, by reason."""
        tracer = self._tracer()
        dropped: Counter[str] = Counter()
        runs: list[list[trace.Span]] = []
        for summary in batch:
            try:
                spans = _spans(tracer, summary)
            except Exception:  # of the app's sampler or processors; the other runs are fine
                dropped["export_error"] += 1
                continue
            if spans:
                runs.append(spans)
            else:
                dropped["unsampled"] += 1
        if self._exporter is not None:
            for request in _requests(runs):
                if not _send(self._exporter, [span for spans in request for span in spans]):
                    dropped["export_error"] += len(request)
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


def app_provider() -> trace.TracerProvider | None:
    """The global provider, if the app set one."""
    provider = trace.get_tracer_provider()
    unset = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    return None if unset else provider


def own_provider(like: trace.TracerProvider | None) -> TracerProvider:
    """A provider without processors; the service it names is that of `like`, if there is one."""
    return TracerProvider(resource=getattr(like, "resource", None), shutdown_on_exit=False)


def _spans(tracer: trace.Tracer, run: RunSummary) -> list[trace.Span]:
    """The run's spans, ended, the root last; none if the sampler did not want the run."""
    root_record, *children = project(run)
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


def _start(tracer: trace.Tracer, record: SpanRecord, context: Context) -> trace.Span:
    span = tracer.start_span(
        record.name,
        context=context,
        kind=_KINDS[record.kind],
        attributes=record.attributes,
        start_time=record.start_ns,
    )
    for event in record.events:
        span.add_event(event.name, event.attributes, timestamp=event.at_ns)
    if record.error is not None:
        span.set_status(Status(StatusCode.ERROR, record.error))
    return span


def _is_sampled(span: trace.Span) -> bool:
    return span.is_recording() and span.get_span_context().trace_flags.sampled


def _requests(runs: Iterable[list[trace.Span]]) -> Iterator[list[list[trace.Span]]]:
    """Whole runs, as many as fit into a request."""
    request: list[list[trace.Span]] = []
    size = 0
    for spans in runs:
        if request and size + len(spans) > MAX_SPANS_PER_EXPORT:
            yield request
            request, size = [], 0
        request.append(spans)
        size += len(spans)
    if request:
        yield request


def _send(exporter: SpanExporter, spans: list[trace.Span]) -> bool:
    """Whether the exporter took them. Its own requests shall not become spans of the app."""
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        readable = [span for span in spans if isinstance(span, Span)]
        return exporter.export(readable) is SpanExportResult.SUCCESS
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
