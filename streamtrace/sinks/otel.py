"""Runs as OpenTelemetry traces.

Rules that hold here:

* No OpenTelemetry global is set, and no span is ever made current: a run becomes spans after it
  has ended, on the sink's worker thread, with the times that were measured.
* A run counts as `exported` when the exporter said so. Spans made with the app's own provider are
  `exported` when they were handed over: what its processors do cannot be seen from here.
* A run that the sampler, or the caller's sampling flag, did not want is dropped as `unsampled`.

Where the spans go, the first that applies:

    tracer_provider=                        the app's provider: its resource, sampler, processors
    exporter=                               this exporter
    OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT    there
    the global tracer provider              if the app set one before the first run ended
    else                                    http://localhost:4318

Without a provider of the app the standard variables hold: OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and OTEL_EXPORTER_OTLP_*.

The module needs no OpenTelemetry to be imported; `otel_spans` does.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.core.sink import ContentMode
from streamtrace.core.summary import RunSummary
from streamtrace.environment import variable
from streamtrace.sinks.queued import QueuedSink, QueueOptions

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider

    from streamtrace.sinks.otel_spans import SpanWriter

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_GRPC = "opentelemetry-exporter-otlp-proto-grpc"  # not in the extra: few need it, and it is big


class OTelSink(QueuedSink):
    """Write each run as a trace: `invoke_agent` over `chat` and `execute_tool` spans.

    `close` shuts an `exporter` down, but not a provider of the app. An exporter that was used
    before a fork must not be used after it, so let this sink make its own where workers fork.
    """

    name = "otel"

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        exporter: SpanExporter | None = None,
        content: ContentMode | None = None,
        **queue: Unpack[QueueOptions],
    ) -> None:
        if tracer_provider is not None and exporter is not None:
            raise ConfigError("give tracer_provider or exporter, not both")
        super().__init__(**queue)
        self.content = content
        self._otel = _load("streamtrace.sinks.otel_spans")
        self._given_provider = tracer_provider
        self._given_exporter = exporter
        self._make_exporter = None
        if tracer_provider is None and exporter is None:
            self._make_exporter = _otlp_exporter()
        self._writer: SpanWriter

    def open(self) -> None:
        """Decide where the spans go."""
        provider, exporter = self._given_provider, self._given_exporter
        if provider is None:
            app_provider = self._otel.app_provider()
            if exporter is None and (app_provider is None or _has_endpoint()):
                assert self._make_exporter is not None
                exporter = self._make_exporter()
            provider = (
                app_provider if exporter is None else self._otel.own_provider(like=app_provider)
            )
        self._writer = self._otel.SpanWriter(provider, exporter)

    def export(self, batch: Sequence[RunSummary]) -> dict[str, int]:
        """Make spans of the runs and export them."""
        return self._writer.write(self.in_turn(batch))

    def release(self) -> None:
        """Shut the exporter down."""
        self._writer.shutdown()


def _otlp_exporter() -> Any:
    """The exporter class that the standard variables ask for."""
    name = next((name for name in _PROTOCOLS if variable(os.environ, name)), None)
    protocol = "http/protobuf" if name is None else variable(os.environ, name).lower()
    if protocol not in _EXPORTERS:
        raise ConfigError(f"{name} is {protocol!r}, accepted are {sorted(_EXPORTERS)}")
    try:
        return _load(_EXPORTERS[protocol]).OTLPSpanExporter
    except MissingExtra as error:
        if protocol != "grpc":
            raise
        raise ConfigError(f"{name} is grpc, which needs: pip install {_GRPC}") from error


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(error.name or module, "otel") from error


def _has_endpoint() -> bool:
    return any(variable(os.environ, name) for name in _ENDPOINTS)
