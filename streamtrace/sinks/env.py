"""Sinks as the environment asks for them. docs/configuration.md has the table of all variables.

Rules that hold here:

* A value of ours that is wrong raises ConfigError, which names the variable and what is accepted.
* Variables of others (OTEL_*, LANGFUSE_*) are often there for somebody else: if an extra is not
  installed, or a value is not one that we know, the sink is left out with a warning.
* What the sinks may see of content is decided by the middleware, from code and environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import Sink
from streamtrace.environment import variable
from streamtrace.logs import WARNINGS
from streamtrace.sinks.jsonl import JsonLinesSink
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus import PrometheusSink

JSONL = "STREAMTRACE_JSONL"
PROMETHEUS = "STREAMTRACE_PROMETHEUS"

_OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTERS = "OTEL_TRACES_EXPORTER"
_LANGFUSE_KEYS = ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
_SWITCH = {"1": True, "true": True, "yes": True, "on": True}
_SWITCH |= {"0": False, "false": False, "no": False, "off": False}


def sinks_from_env(environ: Mapping[str, str] = os.environ) -> list[Sink]:
    """The sinks that these variables switch on; none is an empty list.

    Sinks read their own settings (endpoints, keys) from the environment of the process.
    """
    sinks: list[Sink] = []
    sdk_enabled = not _says(environ, "OTEL_SDK_DISABLED", "true")
    otlp = _asks_for_otlp(environ)
    keys = [name for name in _LANGFUSE_KEYS if variable(environ, name)]
    if sdk_enabled and otlp:
        sinks += _optional(OTelSink, otlp)
    if (
        sdk_enabled
        and len(keys) == len(_LANGFUSE_KEYS)
        and not _says(environ, "LANGFUSE_TRACING_ENABLED", "false")
    ):
        sinks += _optional(LangfuseSink, keys[0])
    target = variable(environ, JSONL)
    if target:
        sinks.append(JsonLinesSink(target))
    if _switch(environ, PROMETHEUS):
        sinks.append(PrometheusSink())  # the last, so that it sees what the others did
    return sinks


def _asks_for_otlp(environ: Mapping[str, str]) -> str | None:
    """The variable that asks for the OpenTelemetry sink, if one does."""
    exporters = variable(environ, _EXPORTERS)
    if exporters:  # a list; what else is in it is not ours to do
        names = [name.strip().lower() for name in exporters.split(",")]
        return _EXPORTERS if "otlp" in names else None
    return next((name for name in _OTLP_ENDPOINTS if variable(environ, name)), None)


def _switch(environ: Mapping[str, str], name: str) -> bool:
    value = variable(environ, name)
    if value.lower() not in _SWITCH and value:
        raise ConfigError(f"{name} is {value!r}; accepted are {', '.join(_SWITCH)}")
    return _SWITCH.get(value.lower(), False)


def _optional(make: Callable[[], Sink], name: str) -> list[Sink]:
    try:
        return [make()]
    except ConfigError as error:
        WARNINGS.warn(f"env.{name}", f"{name} is set, but {error}; this sink is left out")
        return []


def _says(environ: Mapping[str, str], name: str, value: str) -> bool:
    return variable(environ, name).lower() == value
