"""One line of JSON per run, to a file, to standard output, or to a binary file object.

Rules that hold here:

* A line is `RunSummary.to_json()`, described in docs/run-summary.md. No line holds part of a run,
  but for the one that a full disk cut; it is ended before the next one is written.
* A path is opened for each batch, written with one append, and closed. So worker processes can
  share a file, log rotation needs no signal, and nothing is held over a fork.
* A new file is readable by its owner only. An existing file keeps its mode.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Unpack

from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import ContentMode
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.queued import QueuedSink, QueueOptions

_OWNER_ONLY = 0o600


class JsonLinesSink(QueuedSink):
    """Write each run as a line of JSON to `target`: a path, "-" for standard output, or a file.

    A file object must be open for writing bytes. It is flushed after each batch, never closed.
    """

    name = "jsonl"

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        content: ContentMode | None = None,
        **queue: Unpack[QueueOptions],
    ) -> None:
        if isinstance(target, io.TextIOBase):
            raise ConfigError("target is a text file; open it in binary mode")
        super().__init__(**queue)
        self.content = content
        self._path = Path(target) if isinstance(target, str | os.PathLike) else None
        self._file = None if isinstance(target, str | os.PathLike) else target
        if target == "-":
            self._path, self._file = None, sys.stdout.buffer
        self._cut = False  # the file ends in half a line

    def export(self, batch: Sequence[RunSummary]) -> dict[str, int]:
        """Append the batch. Lines that did not fit on the disk count as `export_error`."""
        lines = b"".join(summary.to_json() + b"\n" for summary in batch)
        if self._file is not None:
            self._file.write(lines)
            self._file.flush()
            return {}
        missing = len(batch) - self._append(lines)
        return {"export_error": missing} if missing else {}

    def _append(self, lines: bytes) -> int:
        """How many of the lines the file took."""
        assert self._path is not None
        before = b"\n" if self._cut else b""
        data = before + lines
        written = 0
        try:
            with open(self._path, "ab", buffering=0, opener=_open) as file:
                while written < len(data):
                    written += file.write(data[written:])
        except OSError:
            if written <= len(before):
                raise
        taken = data[len(before) : written]
        if written:
            self._cut = not data[:written].endswith(b"\n")
        return taken.count(b"\n")


def _open(path: str, flags: int) -> int:
    return os.open(path, flags, _OWNER_ONLY)
