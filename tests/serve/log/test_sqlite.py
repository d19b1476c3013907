# ruff: noqa: ASYNC240 - nobody else is on these loops
from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.logs import check_a_killed_producer

from streamtrace.core.errors import ConfigError, LogUnavailable, UnknownRun
from streamtrace.serve.log import sqlite_file
from streamtrace.serve.log.base import EventLog, LogBounds, LogEntry, RunKey
from streamtrace.serve.log.sqlite import SqliteLog
from streamtrace.testing import EventLogContract

KEY = RunKey("run", "tenant")
OWNER = "the owner"


class TestSqliteLog(EventLogContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.db"

    def make(self, bounds: LogBounds) -> SqliteLog:
        return SqliteLog(self.path, bounds)

    def elsewhere(self, log: EventLog) -> EventLog:
        return SqliteLog(self.path, log.bounds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(path)
    yield log
    await log.aclose()


async def test_nothing_is_there_before_it_is_used_nor_behind_its_end(path: Path) -> None:
    before = threading.active_count()
    log = SqliteLog(path)
    assert threading.active_count() == before
    assert not path.exists()
    await log.create(KEY, OWNER, b"")
    assert threading.active_count() == before + 1
    await log.aclose()
    assert threading.active_count() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_its_files_are_for_their_owner_only(path: Path, log: SqliteLog) -> None:
    await log.create(KEY, OWNER, b"")
    files = list(path.parent.iterdir())
    assert len(files) == 3  # also what is not yet in the file itself
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    first = SqliteLog(path)
    await first.create(KEY, OWNER, b"meta", thread_id="thread")
    await first.append(KEY, OWNER, [b"a", b"b"], after=0)
    await first.aclose()
    second = SqliteLog(path)
    assert await second.current("tenant", "thread") == "run"
    assert (await second.append(KEY, OWNER, [b"c"], after=2)).kept_events == 3
    page = await second.read(KEY, 1)
    assert page.entries == [LogEntry(2, b"b"), LogEntry(3, b"c")]
    await second.aclose()


async def test_a_follower_gets_all_of_a_producer_that_was_killed(path: Path) -> None:
    await check_a_killed_producer("sqlite", str(path))


async def test_many_open_a_new_file_at_once(path: Path) -> None:
    logs = [SqliteLog(path) for _ in range(10)]
    keys = [RunKey(f"run-{number}") for number in range(10)]
    await asyncio.gather(
        *(log.create(key, OWNER, b"") for log, key in zip(logs, keys, strict=True))
    )
    assert [(await logs[0].state(key)).phase for key in keys] == ["live"] * 10
    for log in logs:
        await log.aclose()


async def test_a_file_that_others_lock_is_not_available_until_they_let_go(
    path: Path, log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "ANSWERS_WITHIN_S", 0.2)
    await log.create(KEY, OWNER, b"")
    await log.append(KEY, OWNER, [b"a"], after=0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    asked = [log.append(KEY, OWNER, [b"b"], after=1) for _ in range(5)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [LogUnavailable] * 5
    assert (await log.read(KEY, 0)).entries == [LogEntry(1, b"a")]  # who reads needs no lock
    other.execute("COMMIT")
    other.close()
    monkeypatch.setattr(sqlite_file, "ANSWERS_WITHIN_S", 20.0)
    assert (await log.append(KEY, OWNER, [b"b"], after=1)).last_id == 2


async def test_a_broken_file_is_not_available_and_a_new_one_is(
    path: Path, log: SqliteLog, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"secret words" * 1000)
    with pytest.raises(LogUnavailable, match="cannot be used") as raised:
        await log.create(KEY, OWNER, b"")
    assert raised.value.__cause__ is None
    with pytest.raises(LogUnavailable):
        await log.read(KEY, 0, wait_s=60)
    assert str(path) not in caplog.text + str(raised.value)
    path.unlink()
    with pytest.raises(UnknownRun):
        await log.append(KEY, OWNER, [b"d"], after=3)
    await log.create(KEY, OWNER, b"", last_id=4)
    assert (await log.append(KEY, OWNER, [b"e"], after=4)).last_id == 5


async def test_who_waits_is_told_when_the_file_breaks(path: Path, log: SqliteLog) -> None:
    await log.create(KEY, OWNER, b"")
    waits = asyncio.create_task(log.read(KEY, 0, wait_s=60))
    await asyncio.wait([waits], timeout=0.05)
    await log._file._in_thread(lambda db: log._file._close())
    for file in path.parent.iterdir():
        file.write_bytes(b"x" * 5000)
    with pytest.raises(LogUnavailable):
        await waits


async def test_a_file_of_another_version_is_left_alone(path: Path, log: SqliteLog) -> None:
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(LogUnavailable):
        await log.create(KEY, OWNER, b"")
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    other.close()


async def test_what_was_kept_for_long_enough_leaves_the_file(path: Path) -> None:
    log = SqliteLog(path)
    keys = [RunKey(f"run-{number}") for number in range(20)]
    for key in keys:
        await log.create(key, OWNER, b"", thread_id=key.run_id)
        await log.append(key, OWNER, [b"x"], after=0)
    log.bounds = LogBounds(keep_s=0.05, lease_s=0.05)
    for key in keys[::2]:
        await log.renew(key, OWNER)
    for key in keys[1::2]:
        await log.finish(key, OWNER, b"", last_id=1)
    rows = None
    while rows != [(1,), (0,), (1,)]:  # of the run that is begun now
        await log.create(RunKey(uuid.uuid4().hex), OWNER, b"", thread_id="last")
        await asyncio.sleep(0.2)
        rows = await log._file.ask(
            lambda db: [
                db.execute(f"SELECT count(*) FROM {table}").fetchone()
                for table in ("runs", "entries", "threads")
            ]
        )
    await log.aclose()


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder '.*/nowhere'"):
        SqliteLog(tmp_path / "nowhere" / "runs.db")
