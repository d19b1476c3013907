"""A run drawn in the terminal."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from support.summaries import (
    MS,
    completed_run,
    content,
    disconnected_run,
    failed_run,
    generation,
    lossy_run,
    minimal_run,
    run_with_status,
    stream_info,
    summaries,
    tool_call,
    without_content,
)

from streamtrace.cli.terminal import TerminalSink, console, draw
from streamtrace.cli.text import clean, duration, filled, size
from streamtrace.cli.waterfall import ASCII, MAX_ROWS, MAX_WIDTH, MIN_WIDTH, UNICODE, render
from streamtrace.core.summary import RunSummary, Status


def drawn(summary: RunSummary, width: int = 100, **how: object) -> list[str]:
    """The lines as they are printed, without colour."""
    target = Console(file=io.StringIO(), width=width, color_system=None, soft_wrap=True)
    target.print(render(summary, width, **how))  # type: ignore[arg-type]
    return target.file.getvalue().splitlines()  # type: ignore[attr-defined]


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if re.match(rf"\W*{re.escape(name)}", line))


@pytest.mark.parametrize(
    ("name", "summary", "width"),
    [
        ("completed", completed_run(), 100),
        ("completed-narrow", completed_run(), 50),
        ("failed", failed_run(), 100),
        ("disconnected", disconnected_run(), 100),
        ("minimal", minimal_run(), 100),
        ("lossy", lossy_run(), 100),
    ],
)
def test_a_run_looks_as_agreed(golden, name, summary, width):
    golden(f"tests/cli/golden/{name}.txt", "\n".join(drawn(summary, width)) + "\n")


def test_a_recording_is_drawn_by_position_and_says_so():
    lines = drawn(completed_run(duration_ns=9_876), axis="position")
    assert any("no times" in line for line in lines)
    assert " ms" not in "\n".join(lines)
    assert " s " not in "\n".join(lines)
    assert row(lines, "weather-agent").rstrip().endswith("9.9 kB")


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_named_in_words(status):
    assert str(status).replace("_", " ") in drawn(run_with_status(status))[0]


def test_bars_lie_where_their_times_are():
    summary = completed_run(
        duration_ns=1000 * MS,
        longest_gap_ns=None,
        longest_gap_at_ns=None,
        generations=[
            generation(
                started_ns=0, first_token_ns=250 * MS, last_token_ns=500 * MS, finished_ns=500 * MS
            )
        ],
        tool_calls=[tool_call(started_ns=500 * MS, ready_ns=500 * MS, finished_ns=750 * MS)],
    )
    lines = drawn(summary)
    run = row(lines, "weather-agent")
    start, width = run.index(UNICODE.work), run.rindex(UNICODE.end) - run.index(UNICODE.work) + 1
    model = row(lines, generation().model)
    tool = row(lines, tool_call().name)
    for line, glyph, begin, end in (
        (model, UNICODE.wait, 0, 0.25),
        (model, UNICODE.work, 0.25, 0.5),
        (tool, UNICODE.tool, 0.5, 0.75),
    ):
        cells = line[start:]
        assert cells.index(glyph) == pytest.approx(begin * width, abs=2)
        assert cells.rindex(glyph) == pytest.approx(end * width, abs=2)


def test_a_tool_without_a_result_has_no_running_time():
    lines = drawn(disconnected_run())
    tool = row(lines, tool_call().name)
    assert tool.rstrip().endswith("asked")
    assert UNICODE.tool not in tool


def test_what_is_not_known_is_left_out():
    text = "\n".join(drawn(minimal_run()))
    for word in ("first token", "gap", "tokens", "$", "None"):
        assert word not in text


def test_many_parts_are_cut_and_counted():
    calls = [tool_call(id=str(n), name=f"tool_{n}") for n in range(MAX_ROWS + 30)]
    lines = drawn(completed_run(tool_calls=calls, generations=[]))
    assert "and 30 more" in "\n".join(lines)
    assert len(lines) < 3 * MAX_ROWS


def test_text_from_the_stream_cannot_speak_to_the_terminal():
    bad = "a\x1b[31mb\x07c\x9b2Jd\r\ne\u202ef"
    lines = drawn(
        completed_run(
            dialect=bad,
            thread_id=bad,
            tool_calls=[tool_call(name=bad, arguments=content(bad), result=content(bad))],
            generations=[generation(model=bad, text=content(bad))],
        )
    )
    text = "\n".join(lines)
    for char in "\x1b\x07\x9b\r\u202e":
        assert char not in text


def test_a_name_that_looks_like_markup_is_shown_as_it_is():
    text = "\n".join(drawn(completed_run(tool_calls=[tool_call(name="[red]x[/red]")])))
    assert "[red]x[/red]" in text


@given(summaries(hostile=True), st.integers(1, 300), st.sampled_from([UNICODE, ASCII]))
def test_any_run_fits_its_width(summary, width, glyphs):
    limit = max(MIN_WIDTH, min(width, MAX_WIDTH))
    for line in drawn(summary, width=limit, glyphs=glyphs):
        assert cell_len(line) <= limit
        assert not any(char < " " or char == "\x7f" for char in line)


def test_a_terminal_without_unicode_gets_plain_glyphs():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    draw(console(file), without_content(completed_run()))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "completed" in text
    assert ASCII.work * 3 in text


def test_no_colour_reaches_a_file(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    file = io.StringIO()
    draw(console(file), failed_run())
    assert "\x1b" not in file.getvalue()


def test_colour_is_left_out_where_it_is_not_wanted(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    draw(console(coloured), failed_run())
    monkeypatch.setenv("NO_COLOR", "1")
    draw(console(plain), failed_run())
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_the_terminal_sink_draws_each_run_once():
    file = io.StringIO()
    sink = TerminalSink(console(file), content="full")
    for summary in (completed_run(), failed_run()):
        sink.end(stream_info(summary), summary)
    assert sink.flush(10)
    assert file.getvalue().count("completed") == 1
    assert file.getvalue().count("rate_limit_exceeded") == 1
    assert sink.stats().exported == sink.stats().accepted == 2
    sink.close(10)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.0 ms"),
        (400_000, "0.4 ms"),
        (640 * MS, "640 ms"),
        (999_600_000, "1.00 s"),
        (4_830 * MS, "4.83 s"),
        (59_999 * MS, "1m00s"),
        (125_000 * MS, "2m05s"),
    ],
)
def test_lengths_of_time_are_short(ns, text):
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (27_826, "27.8 kB"), (999_999, "1.0 MB"), (5_000_000, "5.0 MB")],
)
def test_sizes_are_short(count, text):
    assert size(count) == text


@given(st.text("ab -€漢字😀\n"), st.integers(2, 40))
def test_filled_rows_keep_every_word_and_the_width(text, width):
    rows = filled(clean(text), width)
    assert all(cell_len(one) <= width for one in rows)
    assert "".join(rows).replace(" ", "") == clean(text).replace(" ", "")
