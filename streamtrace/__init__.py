"""streamtrace: see what happens inside streamed agent answers.

    app = StreamTraceMiddleware(app, sinks=[OTelSink(), PrometheusSink()])

Sinks are in `streamtrace.sinks`, what tests need in `streamtrace.testing`.
"""

from __future__ import annotations

from streamtrace.core.errors import ConfigError, MissingExtra, StreamTraceError
from streamtrace.core.events import (
    Custom,
    Event,
    GenerationFinished,
    GenerationStarted,
    Heartbeat,
    MessageFinished,
    MessageStarted,
    ReasoningDelta,
    ReasoningFinished,
    ReasoningStarted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    Source,
    State,
    StepFinished,
    StepStarted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
from streamtrace.core.frames import Frame
from streamtrace.core.sink import Sink, SinkStats, StreamInfo
from streamtrace.core.summary import RunSummary, Status
from streamtrace.dialects.base import Dialect
from streamtrace.observe.cost import Price, Pricing
from streamtrace.observe.exchange import annotate
from streamtrace.observe.middleware import StreamTraceMiddleware, active_streams
from streamtrace.observe.otel_asgi import instrument
from streamtrace.sinks.env import sinks_from_env

__all__ = [
    "ConfigError",
    "Custom",
    "Dialect",
    "Event",
    "Frame",
    "GenerationFinished",
    "GenerationStarted",
    "Heartbeat",
    "MessageFinished",
    "MessageStarted",
    "MissingExtra",
    "Price",
    "Pricing",
    "ReasoningDelta",
    "ReasoningFinished",
    "ReasoningStarted",
    "RunCancelled",
    "RunFailed",
    "RunFinished",
    "RunInterrupted",
    "RunStarted",
    "RunSummary",
    "Sink",
    "SinkStats",
    "Source",
    "State",
    "Status",
    "StepFinished",
    "StepStarted",
    "StreamInfo",
    "StreamTraceError",
    "StreamTraceMiddleware",
    "TextDelta",
    "ToolCallArgumentsDelta",
    "ToolCallReady",
    "ToolCallResult",
    "ToolCallStarted",
    "Usage",
    "active_streams",
    "annotate",
    "instrument",
    "sinks_from_env",
]
