"""JsonLinesSink on real files, pipes and full disks."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from support.summaries import (
    CANARY,
    EXAMPLES,
    completed_run,
    minimal_run,
    stream_info,
    summaries,
    without_content,
)

from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import SinkStats
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.jsonl import JsonLinesSink

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0


def write(sink: JsonLinesSink, *runs: RunSummary) -> SinkStats:
    """Tell the runs and wait until they are settled."""
    for run in runs:
        sink.end(stream_info(run), run)
    assert sink.flush(WAIT_S)
    return sink.stats()


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_each_run_is_one_line(tmp_path):
    """A line is `to_dict`, in order, for every way a run can end."""
    runs = [make() for make in EXAMPLES.values()]
    sink = JsonLinesSink(tmp_path / "runs.jsonl", interval_s=0.0)
    assert write(sink, *runs) == SinkStats(accepted=len(runs), exported=len(runs))
    sink.close(WAIT_S)

    assert lines_of(tmp_path / "runs.jsonl") == [run.to_dict() for run in runs]


@settings(max_examples=60)
@given(run=summaries(hostile=True))
def test_any_run_is_exactly_one_line_of_json(run):
    """Line ends, half surrogates and endless numbers of strangers stay inside their line."""
    file = io.BytesIO()
    sink = JsonLinesSink(file, interval_s=0.0)
    assert write(sink, run).exported == 1
    sink.close(WAIT_S)

    [line] = file.getvalue().decode().split("\n")[:-1]
    told = json.loads(line)
    assert told["run_id"] == run.run_id
    assert told["frames"] == run.frames


def test_nothing_is_touched_before_the_first_run(tmp_path):
    """Construction opens no file; a missing folder is no error until a run is lost to it."""
    sink = JsonLinesSink(tmp_path / "later" / "runs.jsonl", interval_s=0.0)
    assert list(tmp_path.iterdir()) == []
    assert write(sink, minimal_run()).dropped == {"export_error": 1}

    (tmp_path / "later").mkdir()
    assert write(sink, minimal_run()).exported == 1
    sink.close(WAIT_S)


def test_a_new_file_is_for_its_owner_and_an_old_one_keeps_its_mode(tmp_path):
    """Runs may hold what users wrote."""
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_bytes(b"{}\n")
    old.chmod(0o644)
    for path in (new, old):
        sink = JsonLinesSink(path, interval_s=0.0)
        write(sink, minimal_run())
        sink.close(WAIT_S)

    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.stat().st_mode) == 0o644
    assert len(lines_of(old)) == 2


def test_a_rotated_file_is_left_and_a_new_one_begun(tmp_path):
    """As logrotate does it: rename, and no signal."""
    path = tmp_path / "runs.jsonl"
    sink = JsonLinesSink(str(path), interval_s=0.0)
    write(sink, minimal_run(run_id="before"))
    path.rename(tmp_path / "runs.jsonl.1")
    write(sink, minimal_run(run_id="after"))
    sink.close(WAIT_S)

    assert [line["run_id"] for line in lines_of(tmp_path / "runs.jsonl.1")] == ["before"]
    assert [line["run_id"] for line in lines_of(path)] == ["after"]


def test_a_file_object_is_flushed_and_not_closed(tmp_path):
    """It is the app's; what was written is there at once."""
    with (tmp_path / "runs.jsonl").open("wb") as file:
        sink = JsonLinesSink(file, interval_s=0.0)
        write(sink, minimal_run())
        assert len(lines_of(tmp_path / "runs.jsonl")) == 1
        sink.close(WAIT_S)
        assert not file.closed


def test_a_text_file_is_refused():
    """It would fail at the first run; it is told at construction instead."""
    with pytest.raises(ConfigError, match="binary"):
        JsonLinesSink(io.StringIO())  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_counts_as_export_error():
    """Nothing could be written: all runs of the batch are dropped, the sink lives on."""
    sink = JsonLinesSink("/dev/full", batch_runs=3, interval_s=WAIT_S)
    assert write(sink, *(minimal_run() for _ in range(3))).dropped == {"export_error": 3}
    assert write(sink, minimal_run()).dropped == {"export_error": 4}
    sink.close(WAIT_S)


def test_what_was_written_with_content_off_holds_no_text(tmp_path):
    """Lengths stay, texts are null."""
    path = tmp_path / "runs.jsonl"
    sink = JsonLinesSink(path, interval_s=0.0)
    write(sink, *(without_content(make()) for make in EXAMPLES.values()))
    sink.close(WAIT_S)

    assert CANARY not in path.read_text()
    assert lines_of(path)[0]["generations"][1]["text"] is None
    assert lines_of(path)[0]["generations"][1]["text_chars"] > 0


def run_python(code: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        timeout=WAIT_S * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dash_is_standard_output():
    """One line per run and nothing else, also where the app prints."""
    out = run_python(
        "from streamtrace.sinks.jsonl import JsonLinesSink\n"
        "from support.summaries import completed_run, stream_info\n"
        "sink = JsonLinesSink('-', interval_s=0.0)\n"
        "for n in range(3):\n"
        "    run = completed_run(run_id=str(n))\n"
        "    sink.end(stream_info(run), run)\n"
        "sink.close(20)\n"
    )

    assert [json.loads(line)["run_id"] for line in out.splitlines()] == ["0", "1", "2"]


SMALL_DISK = """
import resource, sys
from streamtrace.sinks.jsonl import JsonLinesSink
from support.summaries import completed_run, stream_info
path, limit = sys.argv[1], int(sys.argv[2])
def write(*names):
    for name in names:
        run = completed_run(run_id=name)
        sink.end(stream_info(run), run)
    assert sink.flush(20)
sink = JsonLinesSink(path, batch_runs=3, interval_s=20)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
write("a", "b", "c")
write("d")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write("e", "f")
sink.close(5)
stats = sink.stats()
print(stats.accepted, stats.exported, stats.dropped)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit here")
@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_disk_that_fills_within_a_batch_cuts_one_line_and_is_counted_exactly(whole, tmp_path):
    """Lines that fitted are exported; the one that was cut is ended before the next is written."""
    path = tmp_path / "runs.jsonl"
    line_bytes = (
        len(completed_run(run_id="a", trace=None).to_json())
        + len('"0123456789abcdef0123456789abcdef"')
        - len("null")
        + 1
    )
    limit = whole * line_bytes + 100
    code = SMALL_DISK.replace("sys.argv[1]", repr(str(path))).replace("sys.argv[2]", str(limit))
    out = run_python(code).decode()

    assert out.split(maxsplit=2)[:2] == ["6", str(whole + 2)]
    assert f"'export_error': {4 - whole}" in out
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line)["run_id"])
        except ValueError:
            found.append("cut")
    assert found == [*["a", "b", "c"][:whole], "cut", "e", "f"]


SHARED = """
import os
from streamtrace.sinks.jsonl import JsonLinesSink
from support.summaries import completed_run, content, generation, stream_info
sink = JsonLinesSink({path!r}, batch_runs=4, interval_s=0.0)
workers = []
for worker in range(4):
    child = os.fork()
    if child == 0:
        for n in range(50):
            text = content(str(worker) * 20_000)
            run = completed_run(run_id=f"{{worker}}-{{n}}", generations=[generation(text=text)])
            sink.end(stream_info(run), run)
        sink.close(20)
        os._exit(0 if sink.stats().exported == 50 else 1)
    workers.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in workers]
assert codes == [0] * 4, codes
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_workers_share_a_file_without_mixing_their_lines(tmp_path):
    """Four processes append batches of large lines to one file."""
    path = tmp_path / "runs.jsonl"
    run_python(SHARED.format(path=str(path)))
    told = lines_of(path)

    assert len(told) == 200
    assert {line["run_id"] for line in told} == {f"{w}-{n}" for w in range(4) for n in range(50)}
    for worker in range(4):  # each worker's own order is kept
        mine = [line["run_id"] for line in told if line["run_id"].startswith(f"{worker}-")]
        assert mine == [f"{worker}-{n}" for n in range(50)]
