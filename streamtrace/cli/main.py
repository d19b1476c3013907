"""`streamtrace`: look at streams from the command line.

Exit codes: 0 done, 1 the command broke (with a traceback), 2 it was asked for something it cannot
do, as to read what is not there or to write where there is no room (with a message). Each command
is imported when it is asked for, and needs only its own packages.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence

from streamtrace.cli.errors import UsageError
from streamtrace.core.errors import ConfigError, MissingExtra


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code; wrong arguments raise SystemExit(2)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a stream's text may hold what it cannot write
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        if error.name not in _OF_THE_EXTRA:
            raise
        message = str(MissingExtra(error.name, "cli"))
    except (UsageError, ConfigError) as error:
        message = str(error)
    if sys.stderr is not None:
        print(f"streamtrace: {message}", file=sys.stderr)
    return 2


_OF_THE_EXTRA = ("rich", "starlette", "uvicorn", "prometheus_client")


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "demo":
            from streamtrace.cli.demo import demo  # noqa: PLC0415

            return demo(arguments.host, arguments.port, arguments.for_s)
        case "run":
            from streamtrace.cli.run import run  # noqa: PLC0415

            return run(arguments.app, arguments.host, arguments.port, arguments.metrics_port)
        case _:
            from streamtrace.cli.inspect import inspect, inspect_run  # noqa: PLC0415

            if arguments.run is not None:
                return inspect_run(arguments.file, arguments.run, arguments.json)
            return inspect(arguments.file, arguments.dialect, arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamtrace", description="See what happens inside streamed agent answers."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("demo", help="serve a chat with a scripted agent, and watch it")
    _address(command)
    command.add_argument(
        "--for",
        dest="for_s",
        metavar="SECONDS",
        type=_seconds,
        help="stop after so many seconds (default: run until interrupted)",
    )

    command = commands.add_parser("run", help="serve an ASGI app, observed")
    command.add_argument("app", metavar="MODULE:APP", help="for example main:app")
    _address(command)
    command.add_argument(
        "--metrics-port",
        metavar="PORT",
        type=_port,
        help="serve /metrics on this port, 0 for any (default: nowhere)",
    )

    command = commands.add_parser(
        "inspect", help="decode a recorded response body, or join the records of a run"
    )
    command.add_argument("file", metavar="FILE", help="the recording, or - for standard input")
    command.add_argument(
        "--run",
        metavar="ID",
        help="FILE holds run records, a line each: show this run across its connections",
    )
    command.add_argument("--dialect", metavar="NAME", help="read it as this dialect, do not guess")
    command.add_argument("--json", action="store_true", help="print the run summary as JSON")
    return parser


def _address(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=_port, default=8000, help="port, 0 for any (%(default)s)")


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds
