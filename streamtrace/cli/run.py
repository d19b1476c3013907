"""`streamtrace run MODULE:APP`: any ASGI app, observed, without a change to it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from uvicorn.importer import ImportFromStringError, import_from_string

from streamtrace import StreamTraceMiddleware
from streamtrace.cli.errors import UsageError
from streamtrace.cli.serving import beside, listen, serve
from streamtrace.cli.terminal import TerminalSink, console
from streamtrace.core.sink import Sink
from streamtrace.observe.asgi_types import ASGIApp
from streamtrace.sinks.env import PROMETHEUS, sinks_from_env
from streamtrace.sinks.prometheus import PrometheusSink, metrics_app


def run(name: str, host: str, port: int, metrics_port: int | None) -> int:
    """Serve the app with the sinks that the environment asks for, else draw its runs here."""
    app = load(name)
    target = console()
    sinks: list[Sink] = list(sinks_from_env())
    counts = any(isinstance(sink, PrometheusSink) for sink in sinks)
    if metrics_port is not None and not counts:
        raise UsageError(f"--metrics-port has nothing to show: set {PROMETHEUS}=1, too")
    if sinks:
        target.print(f"Runs go to: {', '.join(sink.name for sink in sinks)}")
    else:
        sinks = [TerminalSink(target, content="off")]
        target.print("No sink is set in the environment: runs are drawn here, without content.")
    taken, url = listen(host, port)
    target.print(f"{name} is served at {url} (Ctrl+C stops it)")
    with contextlib.ExitStack() as stack:
        if metrics_port is not None:
            metrics_taken, metrics_url = listen(host, metrics_port)
            stack.enter_context(beside(metrics_app(), metrics_taken))
            target.print(f"Metrics are served at {metrics_url}/metrics")
        elif counts:
            target.print(_HOW_TO_SEE_METRICS)
        serve(StreamTraceMiddleware(app, sinks=sinks), taken)
    return 0


_HOW_TO_SEE_METRICS = (
    "To see the metrics, mount streamtrace.sinks.prometheus.metrics_app() in your app, "
    "or use --metrics-port PORT"
)


def load(name: str) -> ASGIApp:
    """The app. Raises UsageError if it is not there; what its module raises is not caught."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        app: ASGIApp = import_from_string(name)
    except ImportFromStringError as error:
        raise UsageError(str(error)) from error
    if not callable(app):
        raise UsageError(f"{name} is no ASGI app: {type(app).__name__} cannot be called")
    return app
