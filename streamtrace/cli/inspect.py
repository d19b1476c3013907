"""`streamtrace inspect`: what a recorded response body says, or what records say of one run.

Rules that hold here:

* The file is read in pieces, so its size does not matter; text is kept up to a bound.
* A body that begins with a brace is JSON lines, one that begins as Vercel's data stream (`0:"`) is
  lines as well; anything else is Server-Sent Events.
* A body holds no times. For the drawing, each line is fed with its offset in bytes in the place of
  a time, and the axis says so; in JSON all times are null, since absent is not zero.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

import msgspec

from streamtrace.cli.errors import UsageError
from streamtrace.observe.offline import summarize

PIECE_BYTES = 64 * 1024
MAX_CONTENT_BYTES = 16 * 1024 * 1024
"""More than the middleware keeps of a stream: here there is one, and somebody wants to read it."""


def inspect(name: str, dialect: str | None, as_json: bool) -> int:
    """Print the waterfall, or the summary as JSON. Raises UsageError, ConfigError."""
    read = _pieces if as_json else _positions
    with _opened(name) as file:
        media_type = _media_type(file.peek())
        summary = summarize(
            read(file),
            dialect=dialect,
            media_type=media_type,
            max_content_bytes=MAX_CONTENT_BYTES,
        )
    if as_json:
        timeless = _without_times(summary.to_dict())
        with _written() as out:
            out.write(msgspec.json.encode(timeless).decode() + "\n")
    else:
        from streamtrace.cli.terminal import console, draw  # noqa: PLC0415

        with _written() as out:
            draw(console(out), summary, axis="position")
    return 0


def inspect_run(name: str, run_id: str, as_json: bool) -> int:
    """Print one run across its connections. Raises UsageError where FILE has no record of it."""
    from streamtrace.cli.connections import (  # noqa: PLC0415  draws, and so needs the extra
        MAX_LINE_BYTES,
        joined,
        records_of,
        render_connections,
    )

    with _opened(name) as file:
        records = records_of(run_id, iter(lambda: file.readline(MAX_LINE_BYTES), b""))
    if not records:
        raise UsageError(f"{name} holds no record of the run {run_id}")
    if as_json:
        with _written() as out:
            out.write(msgspec.json.encode(joined(records)).decode() + "\n")
    else:
        from streamtrace.cli.terminal import console  # noqa: PLC0415
        from streamtrace.cli.waterfall import ASCII, UNICODE  # noqa: PLC0415

        with _written() as out:
            target = console(out)
            glyphs = ASCII if target.options.ascii_only else UNICODE
            target.print(render_connections(records, target.width, glyphs=glyphs))
    return 0


@contextmanager
def _written() -> Iterator[TextIO]:
    """Standard output, written to the last byte. Raises UsageError if that cannot be."""
    if sys.stdout is None:
        raise UsageError("cannot write: standard output is closed")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # exit tries once more
        if not isinstance(error, BrokenPipeError):  # who reads has enough, as `head` does
            raise UsageError(f"cannot write: {error.strerror or error}") from error


@contextmanager
def _opened(name: str) -> Iterator[BufferedReader]:
    try:
        if name == "-":
            if sys.stdin is None:
                raise UsageError("cannot read -: standard input is closed")
            with open(sys.stdin.fileno(), "rb", closefd=False) as file:
                yield file
        else:
            with Path(name).open("rb") as file:
                yield file
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from error


_LINES = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{|[0-9a-k]:[\"\[{])")


def _media_type(head: bytes) -> str:
    return "application/x-ndjson" if _LINES.match(head) else "text/event-stream"


def _without_times(value: Any) -> Any:
    """All moments and lengths of time as null; their names end in `_s`, for seconds."""
    if isinstance(value, list):
        return [_without_times(one) for one in value]
    if isinstance(value, dict):
        return {
            name: None if name == "started_at" or name.endswith("_s") else _without_times(one)
            for name, one in value.items()
        }
    return value


def _pieces(file: BufferedReader) -> Iterator[bytes | tuple[int, bytes]]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _positions(file: BufferedReader) -> Iterator[bytes | tuple[int, bytes]]:
    offset = 0
    while line := file.readline(PIECE_BYTES):
        offset += len(line)
        yield offset, line
