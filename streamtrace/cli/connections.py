"""One run across its connections, from a file of run records: `streamtrace inspect --run ID FILE`.

Rules that hold here:

* The file is read a line at a time; lines that are no records, or of other runs, are passed over.
* Tokens and cost are summed up: each is told by one record only (docs/run-summary.md).
* What comes from the file is cleaned before it is shown, as in the waterfall.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from streamtrace.cli.text import clean, duration
from streamtrace.cli.waterfall import MAX_WIDTH, MIN_WIDTH, STYLES, UNICODE, Bar, Glyphs, round_step
from streamtrace.core.jsonio import load_json
from streamtrace.core.summary import Status

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_CONNECTIONS = 200
MAX_DURATION_S = 1e9

_LABEL_WIDTH = 10
_RIGHT_WIDTH = 22
_QUIET = "bright_black"


def records_of(run_id: str, lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The records of the run, in the order in which they began; the first `MAX_CONNECTIONS`."""
    found = []
    for line in lines:
        record = load_json(line)
        if (
            isinstance(record, dict)
            and record.get("run_id") == run_id
            and _moment_s(record.get("started_at")) is not None
            and _is_number(record.get("duration_s"), MAX_DURATION_S)
            and record.get("status") in list(Status)
        ):
            found.append(record)
            if len(found) == MAX_CONNECTIONS:
                break
    return sorted(found, key=lambda record: (_start_ns(record), _kind(record) != "start"))


def joined(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The run, and its records. `status` is `null` where no record tells how it ended."""
    first = records[0]
    usage: dict[str, int] = {}
    for record in records:
        for name, count in (record.get("usage") or {}).items():
            if isinstance(count, int):
                usage[name] = usage.get(name, 0) + count
    costs = [one["cost_usd"] for one in records if _is_number(one.get("cost_usd"), math.inf)]
    return {
        "run_id": first["run_id"],
        "thread_id": first.get("thread_id"),
        "status": next((one["status"] for one in records if _tells_end(one)), None),
        "usage": usage or None,
        "cost_usd": sum(costs) if costs else None,
        "connections": records,
    }


def render_connections(
    records: list[dict[str, Any]], width: int, *, glyphs: Glyphs = UNICODE
) -> Group:
    """The run as lines of `width` columns, at most: one for each connection, on one axis."""
    return Group(*_lines(records, max(MIN_WIDTH, min(width, MAX_WIDTH)), glyphs))


def _lines(records: list[dict[str, Any]], width: int, glyphs: Glyphs) -> Iterator[Text]:
    run = joined(records)
    status, thread = run["status"], run["thread_id"]
    style = STYLES[Status(status)] if status else "yellow"
    line = Text.assemble((str(status or "end not seen").replace("_", " "), f"bold {style}"))
    count = len(records)
    for word in (
        f"run {clean(run['run_id'])}",
        f"thread {clean(str(thread))}" if thread else "",
        f"{count} connection{'s' if count != 1 else ''}",
        *_used(run),
    ):
        if word:
            line.append(glyphs.dot, _QUIET).append(word)
    yield _cut(line, width, glyphs)
    begin_ns = min(map(_start_ns, records))
    total_ns = max(_start_ns(one) + _taken_ns(one) for one in records) - begin_ns
    bar_width = max(8, width - _LABEL_WIDTH - _RIGHT_WIDTH - 4)
    yield _scale(total_ns, bar_width)
    for record in records:
        bar = Bar(bar_width, total_ns)
        start_ns = _start_ns(record) - begin_ns
        its_style = STYLES[Status(record["status"])]
        bar.stroke(start_ns, start_ns + _taken_ns(record), glyphs.work, its_style)
        bar.mark(start_ns + _taken_ns(record), glyphs.end, f"bold {its_style}")
        label = f"{_kind(record):<{_LABEL_WIDTH}}"
        right = f"{duration(_taken_ns(record)):>7} {record['status']}".replace("_", " ")
        row = Text.assemble("  ", (label, "bold"), " ", bar.text(), " ", right)
        yield _cut(row, width, glyphs)
        told = glyphs.dot.join(_told(record))
        if told:
            yield _cut(Text(f"    {told}", _QUIET), width, glyphs)


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= most


def _told(record: dict[str, Any]) -> Iterator[str]:
    connection = record.get("connection") or {}
    events = record.get("events")
    if isinstance(events, int) and events:
        yield f"{events:,} events"
    for name, word in (("replayed_events", "replayed"), ("gap_events", "missing")):
        told = connection.get(name)
        if isinstance(told, int) and told:
            yield f"{told:,} {word}"
    if connection.get("detached") is True:
        yield "the run went on without it"
    if isinstance(record.get("trace_id"), str):
        yield f"trace {clean(record['trace_id'])[:32]}"


def _used(run: dict[str, Any]) -> Iterator[str]:
    usage = run["usage"] or {}
    counts = (("in", usage.get("input_tokens")), ("out", usage.get("output_tokens")))
    words = [f"{count:,} {side}" for side, count in counts if count is not None]
    if words:
        yield f"tokens {' '.join(words)}"
    if run["cost_usd"] is not None:
        yield f"${run['cost_usd']:.6f}".rstrip("0")


def _scale(total_ns: int, bar_width: int) -> Text:
    labels = [" "] * bar_width
    bar = Bar(bar_width, total_ns)
    for at in range(0, max(1, total_ns), round_step(total_ns * len("  999 ms  ") // bar_width)):
        label, column = duration(at) if at else "0", bar.column(at)
        if column + len(label) <= bar_width:
            labels[column : column + len(label)] = label
    return Text(" " * (_LABEL_WIDTH + 3) + "".join(labels).rstrip(), _QUIET)


def _kind(record: dict[str, Any]) -> str:
    connection = record.get("connection")
    kind = connection.get("kind") if isinstance(connection, dict) else None
    return clean(kind)[:_LABEL_WIDTH] if isinstance(kind, str) else "run"


def _tells_end(record: dict[str, Any]) -> bool:
    connection = record.get("connection") or {}
    return _kind(record) in ("run", "start", "detached") and not connection.get("detached")


def _start_ns(record: dict[str, Any]) -> int:
    began_s: float = _moment_s(record["started_at"]) or 0.0
    return round(began_s * 1e6) * 1000


def _moment_s(text: Any) -> float | None:
    """Unix time; `None` for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _taken_ns(record: dict[str, Any]) -> int:
    taken_s: float = record["duration_s"]
    return round(taken_s * 1e9)


def _cut(line: Text, width: int, glyphs: Glyphs) -> Text:
    if cell_len(line.plain) > width:
        line.truncate(width - len(glyphs.more), overflow="crop")
        line.append(glyphs.more)
    return line
