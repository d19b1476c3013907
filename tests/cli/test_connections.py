"""One run across its connections, joined from a file of records."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from support.summaries import (
    MS,
    STARTED_AT_NS,
    S,
    completed_run,
    disconnected_run,
    resumed_run,
    summaries,
)

from streamtrace.cli.connections import joined, records_of, render_connections
from streamtrace.cli.main import main
from streamtrace.core.summary import RunConnection, RunSummary, Status


def connection(kind: Any, **more: Any) -> RunConnection:
    return RunConnection(kind=kind, run_id="run-7", thread_id="thread-3", **more)


def runs() -> list[RunSummary]:
    """Of one run, in the order in which they ended, and one of another."""
    return [
        disconnected_run(connection=connection("start", is_detached=True), trace=None),
        completed_run(run_id="other"),
        resumed_run(
            started_at_ns=STARTED_AT_NS + 3 * S,
            duration_ns=1_500 * MS,
            status=Status.DISCONNECTED,
            trace=None,
        ),
        completed_run(connection=connection("detached"), duration_ns=6 * S, events=30, trace=None),
        resumed_run(started_at_ns=STARTED_AT_NS + 5 * S, duration_ns=S, trace=None),
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "runs.jsonl"
    lines = [run.to_json() for run in runs()]
    path.write_bytes(b"\n".join([b"no json", *lines, b'{"run_id":"run-7"}', b"[]"]) + b"\n")
    return path


def drawn(records: list[dict[str, Any]], width: int = 100) -> list[str]:
    target = Console(file=io.StringIO(), width=width, color_system=None, soft_wrap=True)
    target.print(render_connections(records, width))
    return target.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_run_looks_as_agreed(golden: Any) -> None:
    records = records_of("run-7", [run.to_json() for run in runs()])
    golden("tests/cli/golden/connections.txt", "\n".join(drawn(records)) + "\n")


def test_the_joined_run_counts_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--run", "run-7", "--json", str(file)]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["status"] == "completed"
    used = completed_run().to_dict()["usage"]
    assert run["usage"] == {name: count for name, count in used.items() if count is not None}
    assert run["cost_usd"] == completed_run().cost_usd
    kinds = [one["connection"]["kind"] for one in run["connections"]]
    assert kinds == ["start", "detached", "resume", "resume"]


def test_it_is_drawn(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--run", "run-7", str(file)]) == 0
    out = capsys.readouterr().out
    assert "4 connections" in out
    assert "17 replayed" in out
    assert "3 missing" in out
    assert "other" not in out


def test_the_rest_that_is_not_there_is_not_made_up() -> None:
    records = records_of("run-7", [run.to_json() for run in runs()[:3]])
    assert joined(records)["status"] is None
    assert "end not seen" in drawn(records)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"started_at": None},
        {"started_at": "soon"},
        {"started_at": 7},
        {"duration_s": None},
        {"duration_s": -1},
        {"duration_s": 1e300},
        {"status": "fine"},
        {"status": []},
        {"run_id": ["run-7"]},
    ],
)
def test_what_is_no_record_is_passed_over(change: dict[str, Any]) -> None:
    record = {**completed_run().to_dict(), **change}
    assert records_of("run-7", [json.dumps(record).encode()]) == []


def test_an_unknown_run_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--run", "nobodys", str(file)]) == 2
    assert "no record of the run nobodys" in capsys.readouterr().err


@given(runs=st.lists(summaries(hostile=True), min_size=1, max_size=4), width=st.integers(1, 130))
def test_whatever_the_records_hold_no_line_is_too_wide_or_moves_the_cursor(
    runs: list[RunSummary], width: int
) -> None:
    for run in runs:
        run.run_id = "r"
    records = records_of("r", [run.to_json() for run in runs])
    assert len(records) == len(runs)
    for line in drawn(records, max(width, 40)):
        assert cell_len(line) <= max(width, 40)
        assert line.isprintable() or not any(ord(char) < 32 for char in line)
