"""One line for both: OpenTelemetry's server span outside, our run inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamtrace.core.errors import MissingExtra
from streamtrace.core.sink import Sink
from streamtrace.observe.asgi_types import ASGIApp
from streamtrace.observe.middleware import StreamTraceMiddleware


def instrument(
    app: ASGIApp, sinks: Sequence[Sink] = (), *, tracer_provider: Any = None, **options: Any
) -> ASGIApp:
    """Wrap an app with OpenTelemetry's ASGI middleware and ours, in the order that joins them.

    The server span then holds the run and what the app's own instrumentation adds. Its spans per
    `send` and `receive`, one per chunk, are left out: they cost more than the stream itself.
    `options` go to StreamTraceMiddleware. Raises MissingExtra without the `otel` extra.
    """
    try:
        from opentelemetry.instrumentation.asgi import (  # noqa: PLC0415  an optional package
            OpenTelemetryMiddleware,
        )
    except ImportError:
        raise MissingExtra("opentelemetry-instrumentation-asgi", "otel") from None
    wrapped: ASGIApp = OpenTelemetryMiddleware(
        StreamTraceMiddleware(app, sinks, **options),
        tracer_provider=tracer_provider,
        exclude_spans=["send", "receive"],
    )
    return wrapped
