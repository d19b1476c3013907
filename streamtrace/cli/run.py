"""`streamtrace run MODULE:APP`: any ASGI app, observed, without a change to it."""

from __future__ import annotations

import sys
from pathlib import Path

from uvicorn.importer import ImportFromStringError, import_from_string

from streamtrace import StreamTraceMiddleware
from streamtrace.cli.errors import UsageError
from streamtrace.cli.serving import listen, serve
from streamtrace.cli.terminal import TerminalSink, console
from streamtrace.core.sink import Sink
from streamtrace.observe.asgi_types import ASGIApp
from streamtrace.sinks.env import sinks_from_env


def run(name: str, host: str, port: int) -> int:
    """Serve the app with the sinks that the environment asks for, else draw its runs here."""
    app = load(name)
    target = console()
    sinks: list[Sink] = list(sinks_from_env())
    if sinks:
        target.print(f"Runs go to: {', '.join(sink.name for sink in sinks)}")
    else:
        sinks = [TerminalSink(target, content="off")]
        target.print("No sink is set in the environment: runs are drawn here, without content.")
    taken, url = listen(host, port)
    target.print(f"{name} is served at {url} (Ctrl+C stops it)")
    serve(StreamTraceMiddleware(app, sinks=sinks), taken)
    return 0


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
