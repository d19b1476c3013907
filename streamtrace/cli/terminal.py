"""The terminal as a sink: each run is drawn when it has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console

from streamtrace.cli.waterfall import ASCII, UNICODE, Axis, render
from streamtrace.core.sink import ContentMode
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.queued import QueuedSink


def console(file: TextIO | None = None) -> Console:
    """Standard output as rich sees it; plain text where it is no terminal or NO_COLOR is set."""
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(
        file=sys.stdout if file is None else file,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def draw(target: Console, summary: RunSummary, axis: Axis = "time") -> None:
    """Print one run, with a blank line before it."""
    glyphs = ASCII if target.options.ascii_only else UNICODE
    target.print()
    target.print(render(summary, target.width, axis=axis, glyphs=glyphs))


class TerminalSink(QueuedSink):
    """Draws runs on a console. `content` says whether texts, arguments and results are shown.

    It draws on a thread of its own: a terminal that is held (Ctrl+S) must not hold the server.
    """

    name = "terminal"

    def __init__(self, target: Console, content: ContentMode) -> None:
        super().__init__(interval_s=0)
        self.content = content
        self._console = target

    def export(self, batch: Sequence[RunSummary]) -> dict[str, int]:
        """Draw the runs; none is dropped."""
        for summary in batch:
            draw(self._console, summary)
        return {}
