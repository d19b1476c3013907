"""Every log of runs, whatever is done to it, beside a model."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis.asyncio import Redis
from support.log_model import BOUNDS, LogMachine
from support.redis_server import REDIS_SERVER, RedisServer, redis_server

from streamtrace.serve import redis_stores
from streamtrace.serve.log.base import EventLog, RunKey
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.log.redis import RedisLog
from streamtrace.serve.log.sqlite import SqliteLog

SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


def test_in_memory() -> None:
    class Machine(LogMachine):
        def opened(self) -> tuple[EventLog, EventLog]:
            log = MemoryLog(BOUNDS)
            return log, log

        async def lease_ran_out(self, key: RunKey) -> None:
            assert isinstance(self.log, MemoryLog)
            self.log._runs[key].lease_ends = asyncio.get_running_loop().time()

    run_state_machine_as_test(Machine, settings=SETTINGS)


def test_in_sqlite() -> None:
    class Machine(LogMachine):
        def opened(self) -> tuple[EventLog, EventLog]:
            self.folder = tempfile.TemporaryDirectory()
            path = Path(self.folder.name) / "runs.db"
            return SqliteLog(path, BOUNDS), SqliteLog(path, BOUNDS)

        async def lease_ran_out(self, key: RunKey) -> None:
            assert isinstance(self.log, SqliteLog)
            name = (time.time(), "-" if key.tenant is None else f"={key.tenant}", key.run_id)
            await self.log._file.change(
                lambda db: db.execute(
                    "UPDATE runs SET lease_ends = ? WHERE tenant = ? AND run_id = ?", name
                )
            )

        def teardown(self) -> None:
            super().teardown()
            if hasattr(self, "folder"):
                self.folder.cleanup()

    run_state_machine_as_test(Machine, settings=SETTINGS)


@pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: .ci/services")
def test_in_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_stores, "ANSWERS_WITHIN_S", 15.0)

    class Machine(LogMachine):
        def opened(self) -> tuple[EventLog, EventLog]:
            namespace = uuid.uuid4().hex
            logs = [RedisLog(server.url, BOUNDS, namespace=namespace) for _ in range(2)]
            return logs[0], logs[1]

        async def lease_ran_out(self, key: RunKey) -> None:
            assert isinstance(self.log, RedisLog)
            async with Redis.from_url(server.url) as redis:
                await redis.hset(self.log._keys(key)[0], "lease", 1)

    run_state_machine_as_test(Machine, settings=SETTINGS)
