"""The logs of runs: what an event costs, how soon who comes back reads on, and what Redis carries.

CPU is that of this process, with its threads, and, apart from it, that of the Redis server. An
entry is a frame of about 200 bytes. Logs take turns, as all variants here do.

Redis shares the cores of the machine with what is measured, as it would not where it matters: so
what its own CPU time per event allows says more of what one server carries than what was reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks import report
from benchmarks.rounds import quartiles, turns
from streamtrace.serve.log.base import EventLog, LogBounds, RunKey
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.log.redis import RedisLog
from streamtrace.serve.log.sqlite import SqliteLog

BATCHES = (1, 10, 100)
LOGS = ("memory", "sqlite", "redis")
BOUNDS = LogBounds(max_bytes=64 * 1024 * 1024)
ENTRY = b'data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"msg_%s","delta":" piece"}\n\n' % (
    b"x" * 120
)
OWNER = "owner"
SERVICES = Path(__file__).parent.parent / ".services" / "usr"

FULL = {"rounds": 9, "events": 4_000, "kept": 100_000, "reads": 200, "runs": 64, "each": 2_000}
SHORT = {"rounds": 1, "events": 400, "kept": 2_000, "reads": 5, "runs": 4, "each": 100}


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    return asyncio.run(_run(SHORT if short else FULL))


async def _run(size: dict[str, int]) -> dict[str, Any]:
    with _redis_server() as url, tempfile.TemporaryDirectory() as folder:
        opened: dict[str, Callable[[], EventLog]] = {
            "memory": lambda: MemoryLog(BOUNDS),
            "sqlite": lambda: SqliteLog(Path(folder) / "runs.db", BOUNDS),
        }
        if url is not None:
            opened["redis"] = lambda: RedisLog(url, BOUNDS)
        result: dict[str, Any] = {
            "kept": size["kept"],
            "cost": await _cost(opened, url, size),
            "resume": {name: await _resume(make, size) for name, make in opened.items()},
            "wake": {name: await _wake(make, size) for name, make in opened.items()},
        }
        if url is not None:
            result["redis"] = {
                str(batch): await _through_redis(url, batch, size) for batch in BATCHES
            }
        return result


async def _cost(
    opened: dict[str, Callable[[], EventLog]], url: str | None, size: dict[str, int]
) -> dict[str, Any]:
    """µs of CPU and of time per event, one append after the other."""
    cost: dict[str, Any] = {}
    for batch in BATCHES:
        samples: dict[str, dict[str, list[float]]] = {
            name: {"cpu_us": [], "wall_us": [], "server_us": []} for name in opened
        }
        for number, name in turns(tuple(opened), size["rounds"]):
            async with _log(opened[name]) as log:
                server = await _server_cpu(url) if name == "redis" else 0.0
                cpu, wall = time.process_time(), time.perf_counter()
                await _append(log, size["events"], batch)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                server = await _server_cpu(url) - server if name == "redis" else 0.0
            if number:
                for what, seconds in (("cpu_us", cpu), ("wall_us", wall), ("server_us", server)):
                    samples[name][what].append(seconds / size["events"] * 1e6)
        cost[str(batch)] = {
            name: {what: quartiles(values) for what, values in one.items()}
            for name, one in samples.items()
        }
    return cost


async def _resume(make: Callable[[], EventLog], size: dict[str, int]) -> dict[str, Any]:
    """ms to the first page behind a cursor, and to have read everything."""
    async with _log(make) as log:
        key = await _append(log, size["kept"], 500)
        result: dict[str, Any] = {}
        for where, after in (
            ("first", 0), ("middle", size["kept"] // 2), ("last 10", size["kept"] - 10),
        ):  # fmt: skip
            times = []
            for _ in range(size["reads"]):
                began = time.perf_counter()
                page = await log.read(key, after)
                times.append((time.perf_counter() - began) * 1e3)
                assert page.entries[0].id == after + 1
            result[where] = quartiles(times)
        began, after = time.perf_counter(), 0
        while (page := await log.read(key, after)).entries:
            after = page.entries[-1].id
        assert after == size["kept"]
        result["whole_s"] = time.perf_counter() - began
        return result


async def _wake(make: Callable[[], EventLog], size: dict[str, int]) -> dict[str, float]:
    """ms from an append to the answer of a reader who waited for it, at the pace of a model.

    In a log of its own where there can be two: as in another process.
    """
    times = []
    async with _log(make) as log, _log(make) as other:
        reads = log if isinstance(log, MemoryLog) else other
        key = RunKey(uuid.uuid4().hex)
        await log.create(key, OWNER, b"")
        for number in range(size["reads"]):
            waits = asyncio.create_task(reads.read(key, number, wait_s=10))
            await asyncio.sleep(0.033)
            began = time.perf_counter()
            await log.append(key, OWNER, [ENTRY], after=number)
            assert (await waits).entries
            times.append((time.perf_counter() - began) * 1e3)
    return quartiles(times)


async def _through_redis(url: str, batch: int, size: dict[str, int]) -> dict[str, float]:
    """Many runs at once, from one process: what is reached, and what the server needs for it."""
    async with _log(lambda: RedisLog(url, BOUNDS)) as log, _info(url) as info:
        await info.flushall()
        await asyncio.gather(*(_append(log, batch, batch) for _ in range(size["runs"])))
        await info.flushall()
        before = await info.info()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(_append(log, size["each"], batch) for _ in range(size["runs"])))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        after = await info.info()
        events = size["runs"] * (size["each"] // batch) * batch
        server = _cpu_of(after) - _cpu_of(before)
        return {
            "events_per_s": events / wall,
            "cpu_us": cpu / events * 1e6,
            "server_us": server / events * 1e6,
            "server_share": server / wall,
            "bytes_per_event": (after["used_memory"] - before["used_memory"]) / events,
        }


async def _append(log: EventLog, events: int, batch: int) -> RunKey:
    """A run of so many events."""
    key = RunKey(uuid.uuid4().hex)
    await log.create(key, OWNER, b"")
    entries = [ENTRY] * batch
    for after in range(0, events // batch * batch, batch):
        await log.append(key, OWNER, entries, after=after)
    return key


@contextlib.asynccontextmanager
async def _log(make: Callable[[], EventLog]) -> AsyncIterator[EventLog]:
    log = make()
    try:
        yield log
    finally:
        await log.aclose()


@contextlib.asynccontextmanager
async def _info(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url) as redis:
        yield redis


async def _server_cpu(url: str | None) -> float:
    assert url is not None
    async with _info(url) as redis:
        return _cpu_of(await redis.info("cpu"))


def _cpu_of(info: dict[str, Any]) -> float:
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


@contextlib.contextmanager
def _redis_server() -> Iterator[str | None]:
    """The URL of a server that keeps nothing on disk; `None` where there is no program for it."""
    program = shutil.which("redis-server", path=f"{os.environ['PATH']}:{SERVICES / 'bin'}")
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    libraries = ":".join(str(path) for path in (SERVICES / "lib").glob("*-linux-gnu"))
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def tables(result: dict[str, Any]) -> str:
    """The result as people read it."""
    cost = [
        [
            name,
            batch,
            report.spread(one["cpu_us"], 1),
            f"{one['server_us']['median']:.1f}" if name == "redis" else "",
            f"{one['wall_us']['median']:.1f}",
            f"{one['cpu_us']['median'] / logs['memory']['cpu_us']['median']:.1f}",
        ]
        for batch, logs in result["cost"].items()
        for name, one in logs.items()
    ]
    columns = ["log", "batch", "µs CPU/event", "µs CPU/event of Redis", "µs/event", "CPU / memory"]
    resume = [
        [
            name,
            *(f"{one[where]['median']:.2f}" for where in ("first", "middle", "last 10")),
            f"{one['whole_s'] * 1e3:.0f}",
            report.spread(result["wake"][name], 1),
        ]
        for name, one in result["resume"].items()
    ]
    behind = [
        "log",
        "page behind 0, ms",
        "behind the middle",
        "behind all but 10",
        "the whole",
        "woken, ms",
    ]
    parts = [
        "### What an event costs\n\n" + report.table(columns, cost),
        f"### Who comes back to a run of {result['kept']:,} events\n\n"
        + report.table(behind, resume),
    ]
    if "redis" in result:
        redis = [
            [
                batch,
                f"{one['events_per_s'] / 1e3:.1f}k",
                f"{one['cpu_us']:.1f}",
                f"{one['server_us']:.1f}",
                f"{one['server_share'] * 100:.0f}%",
                f"{1e3 / one['server_us']:.0f}k",
                f"{one['bytes_per_event']:.0f}",
            ]
            for batch, one in result["redis"].items()
        ]
        columns = [
            "batch", "events/s reached", "µs CPU/event", "of Redis", "of a core",
            "events/s of a core", "bytes/event in Redis",
        ]  # fmt: skip
        title = "### Through Redis, from one process, 64 runs at once\n\n"
        parts.append(title + report.table(columns, redis))
    return "\n\n".join(parts)
