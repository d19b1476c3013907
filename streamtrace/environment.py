"""How content may be seen, as the environment says it; docs/configuration.md has the table.

Rules: an empty variable counts as not set. A wrong value of ours raises ConfigError with the
variable, the value and what is accepted; one of OpenTelemetry's is a warning, since others read it
too. Of two settings the stricter holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import CONTENT_MODES, ContentMode
from streamtrace.logs import WARNINGS

CONTENT = "STREAMTRACE_CONTENT"
OTEL_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

_CONTENT_PER_SINK = {
    "otel": "STREAMTRACE_CONTENT_OTEL",
    "langfuse": "STREAMTRACE_CONTENT_LANGFUSE",
    "jsonl": "STREAMTRACE_CONTENT_JSONL",
}
_OTEL_MODES: dict[str, ContentMode] = {
    "NO_CONTENT": "off",
    "EVENT_ONLY": "off",  # we write no events with content
    "SPAN_ONLY": "full",
    "SPAN_AND_EVENT": "full",
}
_SINKS_OF_SPANS = ("otel", "langfuse")


def variable(environ: Mapping[str, str], name: str) -> str:
    """Its value without spaces around it, as OpenTelemetry reads variables; "" if not set."""
    return environ.get(name, "").strip()


def content_from_env(environ: Mapping[str, str], sink: str) -> ContentMode | None:
    """What the sink of this name may see; `None` where no variable says it.

    Its own variable decides. Else it is the stricter of `STREAMTRACE_CONTENT` and, for sinks that
    write spans, OpenTelemetry's variable.
    """
    own = _mode(environ, _CONTENT_PER_SINK[sink]) if sink in _CONTENT_PER_SINK else None
    if own is not None:
        return own
    told = [_mode(environ, CONTENT)]
    if sink in _SINKS_OF_SPANS:
        told.append(_otel_mode(environ))
    modes = [mode for mode in told if mode is not None]
    return min(modes, key=CONTENT_MODES.index, default=None)


def _mode(environ: Mapping[str, str], name: str) -> ContentMode | None:
    value = variable(environ, name)
    if not value:
        return None
    for mode in CONTENT_MODES:
        if mode == value.lower():
            return mode
    raise ConfigError(f"{name} is {value!r}; accepted are {', '.join(CONTENT_MODES)}")


def _otel_mode(environ: Mapping[str, str]) -> ContentMode | None:
    value = variable(environ, OTEL_CONTENT)
    if value and value.upper() not in _OTEL_MODES:
        WARNINGS.warn(
            "content.otel",
            f"{OTEL_CONTENT} is {value[:40]!r}, which means no content; accepted are"
            f" {', '.join(_OTEL_MODES)}",
        )
    return _OTEL_MODES.get(value.upper(), "off") if value else None
