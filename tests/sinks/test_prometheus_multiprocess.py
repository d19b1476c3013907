"""Several worker processes, one set of totals: also when one is killed, and after a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.prometheus import Samples, parse

TESTS = Path(__file__).parent.parent
WORKER = TESTS / "sinks" / "prometheus_worker.py"
SETTLES_WITHIN_S = 20.0


class Worker:
    """A process that runs streams on command."""

    def __init__(self, directory: Path) -> None:
        path = os.pathsep.join((str(TESTS), str(TESTS.parent)))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": path},
        )

    def tell(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the worker is gone: {self.process.wait()}"
        return json.loads(answer)

    def scrape(self) -> Samples:
        return parse(self.tell("scrape"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    started = [Worker(tmp_path) for _ in range(4)]
    yield started
    for worker in started:
        worker.stop()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    started = Worker(tmp_path)
    yield started
    started.stop()


def total(samples: Samples, name: str, **labels: str) -> float:
    wanted = labels.items()
    return sum(one.value for one in samples[name] if wanted <= one.labels.items())


def slow(samples: Samples) -> dict[str, float]:
    return {
        what: total(samples, f"streamtrace_sink_{what}", sink="slow")
        for what in ("accepted_total", "exported_total", "dropped_total", "queued")
    }


def settled(worker: Worker, expected: dict[str, float]) -> Samples:
    """Scrape until the records of the slow sink are where they should be. No scrape is atomic."""
    deadline = time.monotonic() + SETTLES_WITHIN_S
    samples = worker.scrape()
    while slow(samples) != expected and time.monotonic() < deadline:
        samples = worker.scrape()
    assert slow(samples) == expected
    return samples


def counts(accepted: int, exported: int, queued: int) -> dict[str, float]:
    return {
        "accepted_total": accepted,
        "exported_total": exported,
        "dropped_total": 0,
        "queued": queued,
    }


def test_totals_are_exact_over_all_workers_also_when_one_is_killed(workers: list[Worker]) -> None:
    for number, worker in enumerate(workers, 1):
        worker.tell(f"run {number * 10}")
        worker.tell(f"start {number}")
    before = workers[0].scrape()
    assert total(before, "streamtrace_streams_total", status="completed") == 100
    assert total(before, "streamtrace_streams_started_total") == 110
    assert total(before, "streamtrace_streams_active") == 10
    workers[3].kill()
    workers[0].tell(f"dead {workers[3].process.pid}")
    after = workers[0].scrape()
    assert total(after, "streamtrace_streams_active") == 6
    for name in before:
        if name.endswith(("_total", "_count", "_sum", "_bucket")):
            assert after[name] == before[name], name


def test_the_streams_of_a_killed_worker_are_no_longer_active_though_nobody_told(
    workers: list[Worker],
) -> None:
    for number, worker in enumerate(workers, 1):
        worker.tell("run 2")
        worker.tell(f"start {number}")
    workers[3].kill()
    samples = workers[0].scrape()
    assert total(samples, "streamtrace_streams_active") == 6
    assert total(samples, "streamtrace_streams_total") == 8


ONLY_SHOWS = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
import asyncio
from streamtrace.sinks.prometheus import metrics_app
from streamtrace.testing import ask
print(asyncio.run(ask(metrics_app(), "/metrics", method="GET")).body.decode())
"""


def test_a_process_without_gauges_judges_nobody(worker: Worker, tmp_path: Path) -> None:
    """In another container the ids of processes are others: all workers would seem gone."""
    worker.tell("start 3")
    worker.kill()
    shown = subprocess.run(
        [sys.executable, "-c", ONLY_SHOWS],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert total(parse(shown.stdout), "streamtrace_streams_active") == 3


def test_histograms_add_up_over_workers_and_no_sample_names_a_process(
    workers: list[Worker],
) -> None:
    for worker in workers:
        worker.tell("run 5")
    samples = workers[1].scrape()
    assert total(samples, "streamtrace_time_to_first_token_seconds_count") == 20
    assert total(samples, "streamtrace_time_to_first_token_seconds_sum") == pytest.approx(7.0)
    assert total(samples, "streamtrace_event_gap_seconds_count") == 20 * 58
    assert total(samples, "streamtrace_event_gap_seconds_bucket", le="0.02") == 20 * 40
    assert total(samples, "streamtrace_build_info") == 1
    assert not any("pid" in one.labels for group in samples.values() for one in group)


def test_records_of_other_workers_are_told_though_no_further_stream_comes(
    workers: list[Worker],
) -> None:
    for worker in workers:
        worker.tell("run 3")
    settled(workers[0], counts(accepted=12, exported=0, queued=12))
    for worker in workers:
        assert worker.tell("export") is True
    settled(workers[0], counts(accepted=12, exported=12, queued=0))


def test_a_worker_that_stops_leaves_its_last_counts(workers: list[Worker]) -> None:
    workers[1].tell("run 3")
    workers[1].tell("export")
    workers[1].tell("close")
    workers[1].kill()
    assert slow(workers[0].scrape()) == counts(accepted=3, exported=3, queued=0)


def test_a_forked_worker_adds_its_own_counts_once(worker: Worker) -> None:
    worker.tell("run 4")
    child = worker.tell("fork 5")
    samples = settled(worker, counts(accepted=9, exported=5, queued=4))
    assert total(samples, "streamtrace_streams_total") == 9
    assert total(samples, "streamtrace_streams_active") == 0
    assert total(samples, "streamtrace_sink_exported_total", sink="prometheus") == 9
    worker.tell(f"dead {child}")
    assert total(worker.scrape(), "streamtrace_streams_total") == 9
