"""The benchmarks over sockets measure whole streams, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import children, fleet, followers, load, saturation, streams

ROOT = Path(__file__).parent.parent
WAITS_S = 20.0
PARENT = """
from benchmarks.children import Child

with Child("benchmarks.receivers", core=None) as child:
    print(child.pid, flush=True)
    input()
"""


def test_a_round_of_saturation_exports_all_that_it_served() -> None:
    variants = ("bare", "all sinks")
    result = saturation.measure(variants, [("ag-ui", 2)], count=1, seconds=0.05)
    (kind,) = result["kinds"]
    assert kind["variants"].keys() == set(variants)
    assert all(one["cpu_us"]["median"] > 0 for one in kind["variants"].values())
    assert kind["variants"]["bare"]["throughput_ratio"]["median"] == 1
    assert "all sinks, CPU over bare" in saturation.tables(result)


def test_what_was_asked_of_the_server_is_what_its_sinks_were_told() -> None:
    with fleet.serving(["all sinks"]) as servers:
        server = servers["all sinks"]
        before = server.ask("usage")["counts"]["sinks"]
        seen = load.saturate(server.port, "openai", 3, 0.05)
        server.ask("rest", flush=True)
        after = server.ask("usage")["counts"]["sinks"]
    assert seen.streams >= 3
    for name, one in after.items():
        assert one["exported"] - before[name]["exported"] == seen.streams
        assert one["queued"] == 0


def test_followers_get_all_while_one_of_them_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "FOLLOWERS", 5)
    monkeypatch.setattr(followers, "SHORT", {"rounds": 1, "frames": 5})
    result = followers.run(short=True)
    assert all(one["median"] > 0 for one in result["late_ms"]["p99"].values())
    assert "99 and one stalled" in followers.tables(result)


def test_a_body_of_another_length_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streams.STREAMS, "ag-ui", lambda tokens: [b"data: {}\n\n"] * tokens)
    with fleet.serving(["bare"]) as servers, pytest.raises(load.LoadFailed, match="expected"):
        load.saturate(servers["bare"].port, "ag-ui", 1, 0.05)


def test_a_child_that_fails_says_why() -> None:
    child = children.Child("benchmarks.server", "no such variant", "", core=None)
    with pytest.raises(children.ChildFailed, match="no such variant"), child:
        raise AssertionError("it started")


def test_children_end_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert runs(pid)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not runs(pid))


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAITS_S
    while not holds():
        assert time.monotonic() < deadline, f"not so after {WAITS_S} s"
        time.sleep(0.02)
