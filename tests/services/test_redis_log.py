"""The log of runs over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from support.logs import check_a_killed_producer
from support.redis_server import REDIS_SERVER, RedisServer, redis_cluster, redis_server

from streamtrace.core.errors import ConfigError, LogUnavailable, UnknownRun
from streamtrace.serve import redis_stores
from streamtrace.serve.log import redis_waiting
from streamtrace.serve.log.base import EventLog, LogBounds, LogEntry, Page, RunKey
from streamtrace.serve.log.redis import RedisLog
from streamtrace.testing import EventLogContract

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: .ci/services")

OWNER = "the owner"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other work is not what these tests are about."""
    monkeypatch.setattr(redis_stores, "ANSWERS_WITHIN_S", 15.0)


class TestRedisLog(EventLogContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer) -> None:
        self.url = server.url

    def make(self, bounds: LogBounds) -> RedisLog:
        return RedisLog(self.url, bounds)

    def elsewhere(self, log: EventLog) -> EventLog:
        return RedisLog(self.url, log.bounds)


class TestRedisLogOnACluster(EventLogContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RedisServer) -> None:
        self.url = cluster.url

    def make(self, bounds: LogBounds) -> RedisLog:
        return RedisLog(self.url, bounds, cluster=True)

    def elsewhere(self, log: EventLog) -> EventLog:
        return RedisLog(self.url, log.bounds, cluster=True)


@pytest.fixture
async def log(server: RedisServer) -> AsyncIterator[RedisLog]:
    async with Redis.from_url(server.url) as redis:
        await redis.flushall()
    log = RedisLog(server.url)
    yield log
    await log.aclose()


async def _info(server: RedisServer, section: str) -> dict[str, Any]:
    async with Redis.from_url(server.url) as redis:
        found: dict[str, Any] = await redis.info(section)
        return found


async def _waiting(log: RedisLog, keys: list[RunKey], after: int = 0) -> list[asyncio.Task[Page]]:
    """Readers that wait."""
    tasks = [asyncio.create_task(log.read(key, after, wait_s=60)) for key in keys]
    done, _ = await asyncio.wait(tasks, timeout=0.1)
    assert not done
    return tasks


async def test_all_who_wait_share_one_connection_and_those_of_a_run_one_answer(
    server: RedisServer, log: RedisLog
) -> None:
    keys = [RunKey(f"run-{number}") for number in range(20)]
    for key in keys:
        await log.create(key, OWNER, b"")
    readers = await _waiting(log, keys[:1] * 100 + keys[1:])
    assert (await _info(server, "clients"))["blocked_clients"] == 1
    scripts = (await _info(server, "commandstats"))["cmdstat_evalsha"]["calls"]
    await log.append(keys[0], OWNER, [b"x"], after=0)
    pages = await asyncio.gather(*readers[:100])
    assert {tuple(page.entries) for page in pages} == {(LogEntry(1, b"x"),)}
    after = (await _info(server, "commandstats"))["cmdstat_evalsha"]["calls"]
    assert after - scripts <= 3
    for key in keys[1:]:
        await log.finish(key, OWNER, b"", last_id=0)
    await asyncio.gather(*readers)


async def test_who_is_one_too_many_to_be_woken_looks_by_themselves(
    log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_waiting, "MAX_STREAMS", 1)
    keys = [RunKey(f"run-{number}") for number in range(3)]
    for key in keys:
        await log.create(key, OWNER, b"")
    readers = await _waiting(log, keys)
    for key in keys:
        await log.append(key, OWNER, [b"x"], after=0)
    assert [len((await reader).entries) for reader in readers] == [1, 1, 1]


async def test_every_key_has_an_end_and_the_namespace(server: RedisServer, log: RedisLog) -> None:
    other = RedisLog(server.url, namespace="other")
    try:
        keys = [RunKey(name, "tenant") for name in ("live", "also-live", "over", "also-over")]
        for key in keys:
            await other.create(key, OWNER, b"", thread_id=f"of-{key.run_id}")
            await other.append(key, OWNER, [b"x"], after=0)
        await other.finish(keys[2], OWNER, b"", last_id=1)
        await other.finish(keys[3], OWNER, b"", last_id=5)
        readers = await _waiting(other, keys[:1], after=1)
        readers += await _waiting(other, keys[1:2], after=1)  # for which the first is nudged
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            names = await redis.keys("*")
            assert len(names) == 4 * 3 + 1
            assert all(name.startswith("other:log:") for name in names)
            known_for = other.bounds.lease_s + other.bounds.keep_s
            assert all([0 < await redis.ttl(name) <= 2 * known_for for name in names])
        with pytest.raises(UnknownRun):
            await log.state(keys[0])
        for key in keys[:2]:
            await other.finish(key, OWNER, b"", last_id=1)
        await asyncio.gather(*readers)
    finally:
        await other.aclose()


async def test_a_thread_is_known_as_long_as_its_run(server: RedisServer, log: RedisLog) -> None:
    key = RunKey("run", "tenant")
    await log.create(key, OWNER, b"", thread_id="thread")
    thread, run = log._thread("tenant", "thread"), log._keys(key)[0]
    async with Redis.from_url(server.url) as redis:
        for holds in (
            lambda: log.append(key, OWNER, [b"x"], after=0),
            lambda: log.renew(key, OWNER),
            lambda: log.finish(key, OWNER, b"", last_id=1),
        ):
            await redis.pexpire(thread, 60_000)
            await redis.hset(run, "thread_until", 1)  # as if it had lived for long
            await holds()
            assert await redis.pttl(thread) > 1_000_000


async def test_what_a_server_short_of_memory_took_is_missing(
    server: RedisServer, log: RedisLog
) -> None:
    log.bounds = LogBounds(max_events=3)
    key = RunKey("run")
    await log.create(key, OWNER, b"")
    await log.append(key, OWNER, [b"a", b"b", b"c"], after=0)
    async with Redis.from_url(server.url) as redis:
        await redis.delete(log._keys(key)[1])
    assert (await log.read(key, 0)).entries == []
    written = await log.append(key, OWNER, [b"d"], after=3)
    assert (written.last_id, written.kept_events, written.kept_bytes) == (4, 1, 1)
    assert (await log.read(key, 0)).entries == [LogEntry(4, b"d")]


async def test_where_redis_hangs_it_is_told_and_what_was_asked_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_stores, "ANSWERS_WITHIN_S", 1.2)  # blocks for a second
    with redis_server(tmp_path) as server:
        log = RedisLog(server.url)
        key = RunKey("run")
        await log.create(key, OWNER, b"")
        await log.append(key, OWNER, [b"a"], after=0)
        (reader,) = await _waiting(log, [key], after=1)
        with server.stopped():
            with pytest.raises(LogUnavailable, match="Redis did not answer"):
                await log.append(key, OWNER, [b"b"], after=1)
            with pytest.raises(LogUnavailable):
                await reader
        assert (await log.append(key, OWNER, [b"b"], after=1)).last_id == 2
        assert (await log.append(key, OWNER, [b"d"], after=3)).last_id == 4
        assert [entry.id for entry in (await log.read(key, 0)).entries] == [1, 2, 4]
        await log.aclose()


async def test_a_run_goes_on_in_a_redis_that_has_lost_it(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        log = RedisLog(server.url)
        key = RunKey("run")
        await log.create(key, OWNER, b"meta")
        await log.append(key, OWNER, [b"a", b"b"], after=0)
        (reader,) = await _waiting(log, [key], after=2)
        server.end()
        with pytest.raises(LogUnavailable):
            await reader
        with pytest.raises(LogUnavailable):
            await log.append(key, OWNER, [b"c"], after=2)
        server.start()
        with pytest.raises(UnknownRun):
            await log.append(key, OWNER, [b"d"], after=3)
        await log.create(key, OWNER, b"meta", last_id=3)
        (reader,) = await _waiting(log, [key], after=2)
        await log.append(key, OWNER, [b"e"], after=4)
        assert (await reader).entries == [LogEntry(5, b"e")]
        assert (await log.read(key, 0)).entries == [LogEntry(5, b"e")]
        await log.aclose()


async def test_a_follower_gets_all_of_a_producer_that_was_killed(server: RedisServer) -> None:
    await check_a_killed_producer("redis", server.url)


@pytest.mark.parametrize("cluster", [False, True])
def test_what_is_no_url_is_said_so(cluster: bool) -> None:
    with pytest.raises(ConfigError, match="must be like redis://"):
        RedisLog("http://secret@localhost", cluster=cluster)


def test_a_namespace_leaves_the_hash_tags_alone() -> None:
    with pytest.raises(ConfigError, match=r"namespace must not hold braces, got 'a\{b'"):
        RedisLog("redis://localhost", namespace="a{b")
