"""The benchmark of the logs runs, and says what it found."""

from __future__ import annotations

import asyncio

from support.redis_server import REDIS_SERVER

from benchmarks import log

TINY = {"rounds": 1, "events": 100, "kept": 1_000, "reads": 2, "runs": 2, "each": 100}
LOGS = ["memory", "sqlite", *(["redis"] if REDIS_SERVER else [])]


def test_every_log_is_measured_and_is_in_the_tables() -> None:
    result = asyncio.run(log._run(TINY))
    assert [list(logs) for logs in result["cost"].values()] == [LOGS] * 3
    assert all(
        one["cpu_us"]["median"] > 0 for logs in result["cost"].values() for one in logs.values()
    )
    assert list(result["resume"]) == list(result["wake"]) == LOGS
    text = log.tables(result)
    assert "a run of 1,000 events" in text
    for name in LOGS:
        assert sum(line.startswith(f"| {name} ") for line in text.splitlines()) == 4
    if REDIS_SERVER:
        assert list(result["redis"]) == ["1", "10", "100"]
