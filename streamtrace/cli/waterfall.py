"""A run drawn as a waterfall: one line per generation and tool call, over a common axis.

Rules that hold here:

* A pure function of the summary and the width: nothing is printed, measured or looked up.
* Everything from the stream is cleaned before it is shown. Control characters could move the cursor
  or set colours in the reader's terminal, and bidirectional overrides could reorder a line.
* Colour only repeats what a word or a glyph already says.
* What is not known is left out, never drawn as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal

import msgspec
from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from streamtrace.cli.text import clean, duration, filled, size
from streamtrace.core.summary import Content, Generation, RunSummary, Status, ToolCall

Axis = Literal["time", "position"]

MIN_WIDTH = 40
MAX_WIDTH = 120
MAX_ROWS = 24
ANSWER_LINES = 3
_VALUE_WIDTH = len("999.9 kB")
STALL_SHOWN_NS = 250_000_000
"""Every `send` takes a little; below this it says nothing of the client."""

STYLES = {
    Status.COMPLETED: "green",
    Status.ERROR: "red",
    Status.INPUT_REQUIRED: "yellow",
    Status.CANCELLED: "magenta",
    Status.DISCONNECTED: "magenta",
    Status.TRUNCATED: "red",
    Status.TIMEOUT: "red",
    Status.DRAINED: "blue",
}
_GENERATION, _TOOL, _FAILED, _QUIET = "cyan", "yellow", "red", "bright_black"


class Glyphs(msgspec.Struct, frozen=True, kw_only=True):
    """What bars, marks and the tree are drawn with."""

    good: str = "●"
    bad: str = "✗"
    dot: str = " · "
    wait: str = "─"
    work: str = "━"
    tool: str = "█"
    gap: str = "╌"
    first: str = "◇"
    visible: str = "◆"
    end: str = "■"
    tick: str = "│"
    branch: str = "├ "
    last: str = "└ "
    stem: str = "│ "
    arrow: str = " → "
    more: str = "…"


UNICODE = Glyphs()
ASCII = Glyphs(
    good="*",
    bad="x",
    dot=", ",
    wait="-",
    work="=",
    tool="#",
    gap=".",
    first="o",
    visible="@",
    end="|",
    tick="|",
    branch="|-",
    last="`-",
    stem="| ",
    arrow=" -> ",
    more="...",
)


def render(
    summary: RunSummary, width: int, *, axis: Axis = "time", glyphs: Glyphs = UNICODE
) -> Group:
    """The run as lines of `width` columns, at most.

    `axis="position"` is for a recorded body, which has no times: all "times" of the summary are
    then offsets in bytes, and are drawn and named as such.
    """
    return Group(*_Drawing(summary, width, axis, glyphs).lines())


class Bar:
    """The cells of one row; later strokes cover earlier ones."""

    def __init__(self, width: int, total: int) -> None:
        self._cells: list[tuple[str, str]] = [(" ", "")] * width
        self._total = total

    def column(self, at: int) -> int:
        """Where that is."""
        last = len(self._cells) - 1
        return 0 if self._total <= 0 else min(last, max(0, at) * len(self._cells) // self._total)

    def stroke(self, start: int, end: int, glyph: str, style: str) -> None:
        """From there to there."""
        for column in range(self.column(start), self.column(end) + 1):
            self._cells[column] = (glyph, style)

    def mark(self, at: int | None, glyph: str, style: str) -> None:
        """One cell, where it is known."""
        if at is not None:
            self._cells[self.column(at)] = (glyph, style)

    def text(self) -> Text:
        """As it is drawn."""
        text = Text()
        for style, cells in groupby(self._cells, key=itemgetter(1)):
            text.append("".join(glyph for glyph, _ in cells), style)
        return text


class _Drawing:
    def __init__(self, summary: RunSummary, width: int, axis: Axis, glyphs: Glyphs) -> None:
        self.summary = summary
        self.width = max(MIN_WIDTH, min(width, MAX_WIDTH))
        self.glyphs = glyphs
        self.by_position = axis == "position"
        self.length: Callable[[int], str] = size if self.by_position else duration
        self.style = STYLES[summary.status]
        parts: list[Generation | ToolCall] = [*summary.generations, *summary.tool_calls]
        self.parts = sorted(parts, key=lambda part: part.started_ns)
        self.label_width = self._label_width()
        self.bar_width = self.width - self.label_width - _VALUE_WIDTH - 4

    def lines(self) -> Iterator[Text]:
        yield self._headline()
        yield from self._wrapped(self._facts())
        yield self._scale()
        yield self._root()
        shown = self.parts[:MAX_ROWS]
        for part in shown:
            is_last = part is self.parts[-1]
            yield self._row(part, is_last)
            if isinstance(part, ToolCall):
                yield from self._tool_detail(part, is_last)
        if len(self.parts) > len(shown):
            more = len(self.parts) - len(shown)
            yield Text(f"  {self.glyphs.last}{self.glyphs.more} and {more} more", _QUIET)
        yield from self._wrapped(self._legend())
        yield from self._remarks()

    # --- above the bars --------------------------------------------------------------------

    def _headline(self) -> Text:
        one = self.summary
        good = one.status in (Status.COMPLETED, Status.INPUT_REQUIRED)
        glyph = self.glyphs.good if good else self.glyphs.bad
        status = str(one.status).replace("_", " ")
        line = Text.assemble((f"{glyph} {status}", f"bold {self.style}"))
        if one.error is not None:
            line.append(f" {clean(one.error.type)}", self.style)
        route = None if one.route == "unmatched" and one.method is None else one.route
        where = " ".join(clean(word) for word in (one.method, route) if word)
        thread = one.thread_id and f"thread {clean(one.thread_id)}"
        for word in (clean(one.dialect), where, thread):
            if word:
                line.append(self.glyphs.dot, _QUIET).append(word)
        return self._cut(line)

    def _facts(self) -> list[Text]:
        one = self.summary
        at = " at" if self.by_position else ""
        stall = one.send_stall_ns
        facts = [
            (f"first token{at}", one.time_to_first_token_ns),
            (f"first visible{at}", one.time_to_first_visible_token_ns),
            ("longest gap", one.longest_gap_ns),
            ("per token", one.time_per_output_token_ns),
            ("waited for the client", stall if stall >= STALL_SHOWN_NS else None),
        ]
        texts = [
            Text.assemble(f"{name} ", (self.length(value), "bold"))
            for name, value in facts[: 2 if self.by_position else None]
            if value is not None
        ]
        if one.usage is not None:
            counts = (("in", one.usage.input_tokens), ("out", one.usage.output_tokens))
            words = [f"{count:,} {side}" for side, count in counts if count is not None]
            if words:
                texts.append(Text.assemble("tokens ", (" ".join(words), "bold")))
        models = {use.model for use in one.usage_by_model if use.model}
        shown = {part.model for part in one.generations}
        texts += [Text(clean(model)) for model in sorted(models - shown)]
        if one.cost_usd is not None:
            texts.append(Text(f"${one.cost_usd:.6f}".rstrip("0"), "bold"))
        texts.append(Text(f"{one.events:,} events"))
        texts.append(Text(size(one.body_bytes)))
        return texts

    def _scale(self) -> Text:
        """The axis: labels at round values, as many as fit."""
        total = self.summary.duration_ns
        labels = [" "] * self.bar_width
        step = round_step(total * len("  999 ms  ") // self.bar_width)
        bar = Bar(self.bar_width, total)
        for at in range(0, max(1, total), step):
            label = self._tick(at)
            column = bar.column(at)
            if column + len(label) <= self.bar_width:
                labels[column : column + len(label)] = label
        return Text(" " * (self.label_width + 3) + "".join(labels).rstrip(), _QUIET)

    def _tick(self, at: int) -> str:
        units = (("B", 1), ("kB", 10**3)) if self.by_position else (("ms", 10**6), ("s", 10**9))
        unit, scale = units[self.summary.duration_ns >= units[1][1]]
        return f"{at / scale:g} {unit}" if at else "0"

    # --- the bars --------------------------------------------------------------------------

    def _root(self) -> Text:
        one, glyphs = self.summary, self.glyphs
        bar = Bar(self.bar_width, one.duration_ns)
        bar.stroke(0, one.duration_ns, glyphs.work, self.style)
        if one.longest_gap_at_ns is not None and not self.by_position:
            start = one.longest_gap_at_ns - (one.longest_gap_ns or 0)
            bar.stroke(start, one.longest_gap_at_ns, glyphs.gap, "magenta")
        bar.mark(one.time_to_first_token_ns, glyphs.first, "bold")
        bar.mark(one.time_to_first_visible_token_ns, glyphs.visible, "bold")
        bar.mark(one.duration_ns, glyphs.end, f"bold {self.style}")
        label = clean(one.agent) if one.agent else "run"
        return self._line(Text(label, "bold"), bar, self.length(one.duration_ns))

    def _row(self, part: Generation | ToolCall, is_last: bool) -> Text:
        bar = Bar(self.bar_width, self.summary.duration_ns)
        branch = Text(self.glyphs.last if is_last else self.glyphs.branch, _QUIET)
        if isinstance(part, Generation):
            return self._line(branch + self._generation(part, bar), bar, self._taken(part))
        return self._line(branch + self._tool(part, bar), bar, self._taken(part))

    def _generation(self, part: Generation, bar: Bar) -> Text:
        first = part.finished_ns if part.first_token_ns is None else part.first_token_ns
        bar.stroke(part.started_ns, first, self.glyphs.wait, _QUIET)
        if part.first_token_ns is not None:
            last = part.last_token_ns or part.finished_ns
            bar.stroke(part.first_token_ns, last, self.glyphs.work, _GENERATION)
        return Text(_label(part), _GENERATION)

    def _tool(self, part: ToolCall, bar: Bar) -> Text:
        style = _FAILED if part.status == "error" else _TOOL
        ready = part.started_ns if part.ready_ns is None else part.ready_ns
        bar.stroke(part.started_ns, ready, self.glyphs.wait, style)
        if part.finished_ns is not None:
            bar.stroke(ready, part.finished_ns, self.glyphs.tool, style)
        return Text(_label(part), style)

    def _taken(self, part: Generation | ToolCall) -> str:
        if isinstance(part, Generation):
            return self.length(part.finished_ns - part.started_ns)
        if part.finished_ns is None:
            return "asked"
        start = part.started_ns if part.ready_ns is None or self.by_position else part.ready_ns
        return self.length(part.finished_ns - start)

    def _tool_detail(self, part: ToolCall, is_last: bool) -> Iterator[Text]:
        arguments, result = _shown(part.arguments), _shown(part.result)
        if not arguments and not result:
            return
        stem = "  " if is_last else self.glyphs.stem
        text = Text.assemble((f"  {stem}  {arguments}", _QUIET))
        if result:
            text.append(self.glyphs.arrow, _QUIET)
            text.append(result, _FAILED if part.status == "error" else "")
        yield self._cut(text)

    # --- below the bars --------------------------------------------------------------------

    def _legend(self) -> list[Text]:
        one, glyphs = self.summary, self.glyphs
        marks = [
            (glyphs.first, "first token", one.time_to_first_token_ns),
            (glyphs.visible, "first visible token", one.time_to_first_visible_token_ns),
            (glyphs.gap * 2, "longest gap", None if self.by_position else one.longest_gap_ns),
            (glyphs.end, "end", one.duration_ns),
        ]
        return [Text(f"{glyph} {name}", _QUIET) for glyph, name, at in marks if at is not None]

    def _remarks(self) -> Iterator[Text]:
        one = self.summary
        if self.by_position:
            yield self._cut(
                Text("  drawn by position in the body: a recording has no times", _QUIET)
            )
        message = "" if one.error is None else _shown(one.error.message)
        if message:
            yield self._cut(Text(f"  error: {message}", self.style))
        steps = [name for name, _ in groupby(clean(step.name) for step in one.steps)]
        if steps:
            yield self._cut(Text(f"  steps: {', '.join(steps)}", _QUIET))
        if one.lost_chunks:
            lost = f"  {one.lost_chunks:,} chunks ({size(one.lost_bytes)}) went by unseen"
            yield self._cut(Text(lost, "yellow"))
        if one.issues:
            kinds = ", ".join(f"{clean(kind)} {n}" for kind, n in sorted(one.issues.items()))
            yield self._cut(Text(f"  issues: {kinds}", "yellow"))
        answer = _shown(one.output)
        if answer:
            rows = filled(answer, self.width - 4)
            for row in rows[: ANSWER_LINES - 1]:
                yield Text(f"  {row}", "italic")
            rest = " ".join(rows[ANSWER_LINES - 1 :])
            if rest:
                yield self._cut(Text(f"  {rest}", "italic"))

    # --- layout ----------------------------------------------------------------------------

    def _label_width(self) -> int:
        names = [_label(part) for part in self.parts]
        widest = max((cell_len(name) + 2 for name in names), default=0)
        return min(max(widest, cell_len(self.summary.agent or "run"), 10), self.width // 3)

    def _line(self, label: Text, bar: Bar, value: str) -> Text:
        label = self._cut(label, self.label_width)
        label.pad_right(self.label_width - cell_len(label.plain))
        shown = (value.rjust(_VALUE_WIDTH), "bold")
        return self._cut(Text.assemble("  ", label, " ", bar.text(), " ", shown))

    def _wrapped(self, items: Sequence[Text]) -> Iterator[Text]:
        """The items, as many to a line as fit."""
        line = Text("  ")
        for item in items:
            gap = self.glyphs.dot if cell_len(line.plain) > 2 else ""
            if gap and cell_len(line.plain) + len(gap) + cell_len(item.plain) > self.width:
                yield self._cut(line)
                line, gap = Text("  "), ""
            line.append(gap, _QUIET)
            line.append_text(item)
        if items:
            yield self._cut(line)

    def _cut(self, line: Text, width: int | None = None) -> Text:
        width = self.width if width is None else width
        more = self.glyphs.more
        if cell_len(line.plain) > width:
            line.truncate(width - len(more), overflow="crop")
            line.append(more)
        return line


def _shown(content: Content) -> str:
    return "" if content.text is None else clean(content.text[:2000])


def _label(part: Generation | ToolCall) -> str:
    if isinstance(part, Generation):
        return clean(part.model or "generation")
    return clean(part.name or "tool call")


def round_step(least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not under `least`."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10
