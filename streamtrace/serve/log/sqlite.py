"""The log of runs in an SQLite file: for one machine, several processes, and beyond a restart.

Rules that hold here:

* What is done to a run is one transaction.
* Who waits is woken at once by what this process writes. What others write is looked for, by one
  for all, and found within `LOOK_S` seconds.
* Leases are on the clock of the machine. What was kept for long enough goes when a run is begun;
  the file does not shrink, what is free in it is used again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from streamtrace.core.errors import LeaseLost, LogUnavailable, RunExists, UnknownRun
from streamtrace.serve.log.base import (
    LogBounds,
    LogEntry,
    Page,
    RunKey,
    RunPhase,
    RunState,
    Written,
)
from streamtrace.serve.log.sqlite_file import SqliteFile
from streamtrace.serve.log.waiters import Shared, Waiters, heard

T = TypeVar("T")

LOOK_S = 0.05
_LOOK_SOON_S = 0.005
_LOOK_LATER = 1.5
_SWEEP_EVERY_S = 1.0
_EVICT_AT_ONCE = 256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, run_id TEXT NOT NULL,
  owner TEXT NOT NULL, meta BLOB NOT NULL, outcome BLOB,
  last_id INTEGER NOT NULL, kept_events INTEGER NOT NULL DEFAULT 0,
  kept_bytes INTEGER NOT NULL DEFAULT 0, is_stopped INTEGER NOT NULL DEFAULT 0,
  lease_ends REAL NOT NULL, over_at REAL,
  UNIQUE (tenant, run_id)
);
CREATE TABLE IF NOT EXISTS threads (
  tenant TEXT NOT NULL, thread TEXT NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (tenant, thread)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS threads_run ON threads (run);
CREATE TABLE IF NOT EXISTS entries (
  run INTEGER NOT NULL, id INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, id)
) WITHOUT ROWID;
"""
_FIND = """
SELECT number, owner, meta, outcome, last_id, kept_events, kept_bytes, is_stopped, lease_ends,
  over_at
FROM runs WHERE tenant = ? AND run_id = ? AND coalesce(over_at, lease_ends) > ?
"""
_ORPHAN = """
UPDATE runs SET over_at = lease_ends
WHERE tenant = ? AND run_id = ? AND over_at IS NULL AND lease_ends <= ?
"""
_CURRENT = """
SELECT run_id FROM threads JOIN runs ON number = run
WHERE threads.tenant = ? AND threads.thread = ? AND coalesce(over_at, lease_ends) > ?
"""
_OLDEST = "SELECT id, length(data) FROM entries WHERE run = ? ORDER BY id LIMIT ?"
_BEHIND = "SELECT id, data FROM entries WHERE run = ? AND id > ? ORDER BY id"

_Asked: TypeAlias = tuple[RunKey, int, int]


class _Run:
    """A row."""

    def __init__(self, row: Sequence[Any]) -> None:
        (
            self.number, self.owner, self.meta, self.outcome, self.last_id, self.kept_events,
            self.kept_bytes, self.is_stopped, self.lease_ends, self.over_at,
        ) = row  # fmt: skip

    def is_owned_by(self, owner: str) -> bool:
        return secrets.compare_digest(self.owner.encode(), owner.encode())

    def state(self) -> RunState:
        phase: RunPhase = "live" if self.over_at is None else "orphaned"
        return RunState(
            phase=phase if self.outcome is None else "finished",
            meta=self.meta,
            last_id=self.last_id,
            outcome=self.outcome,
            is_stopped=bool(self.is_stopped),
        )


class SqliteLog:
    """`SqliteLog("/var/lib/app/runs.db")`. The file is made when it is first used.

    Raises ConfigError if its folder is not there.
    """

    def __init__(self, path: str | os.PathLike[str], bounds: LogBounds | None = None) -> None:
        self.bounds = bounds or LogBounds()
        self._file = SqliteFile(path, _SCHEMA)
        self._waiters = Waiters()
        self._pages = Shared(self._page)
        self._looks: asyncio.Task[None] | None = None
        self._sweep_at = 0.0
        self._closings = 0

    async def create(
        self,
        key: RunKey,
        owner: str,
        meta: bytes,
        *,
        thread_id: str | None = None,
        last_id: int = 0,
    ) -> None:
        """Begin a run: see `EventLog`."""

        def create(db: sqlite3.Connection, now: float) -> None:
            run = self._find(db, key, now)
            if run is not None:
                if run.is_owned_by(owner):
                    return
                raise RunExists("there is a run of this id")
            self._sweep(db, now, key)
            made = db.execute(
                "INSERT INTO runs (tenant, run_id, owner, meta, last_id, lease_ends)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*_name(key), owner, meta, last_id, now + self.bounds.lease_s),
            )
            if thread_id is not None:
                db.execute(
                    "REPLACE INTO threads VALUES (?, ?, ?)",
                    (_tenant(key.tenant), thread_id, made.lastrowid),
                )

        await self._do(create)

    async def append(
        self, key: RunKey, owner: str, entries: Sequence[bytes], *, after: int
    ) -> Written:
        """Write entries: see `EventLog`."""

        def append(db: sqlite3.Connection, now: float) -> Written:
            run = self._held(db, key, owner, now)
            new = [
                (run.number, number, data)
                for number, data in enumerate(entries, after + 1)
                if number > run.last_id
            ]
            db.executemany("INSERT INTO entries VALUES (?, ?, ?)", new)
            run.last_id = max(run.last_id, after + len(entries))
            run.kept_events += len(new)
            run.kept_bytes += sum(len(data) for _, _, data in new)
            self._evict(db, run)
            db.execute(
                "UPDATE runs SET last_id = ?, kept_events = ?, kept_bytes = ? WHERE number = ?",
                (run.last_id, run.kept_events, run.kept_bytes, run.number),
            )
            return Written(run.last_id, bool(run.is_stopped), run.kept_events, run.kept_bytes)

        written = await self._do(append)
        if entries:
            self._waiters.wake(key)
        return written

    async def renew(self, key: RunKey, owner: str) -> bool:
        """Hold the lease: see `EventLog`."""
        run = await self._do(lambda db, now: self._held(db, key, owner, now))
        return bool(run.is_stopped)

    async def finish(self, key: RunKey, owner: str, outcome: bytes, *, last_id: int) -> None:
        """The run is over: see `EventLog`."""

        def finish(db: sqlite3.Connection, now: float) -> None:
            run = self._find(db, key, now)
            if run is not None and run.outcome is not None and run.is_owned_by(owner):
                return
            run = self._held(db, key, owner, now)
            db.execute(
                "UPDATE runs SET outcome = ?, over_at = ?, last_id = ? WHERE number = ?",
                (outcome, now, max(run.last_id, last_id), run.number),
            )

        await self._do(finish)
        self._waiters.wake(key)

    async def read(
        self, key: RunKey, after: int, *, max_bytes: int = 64 * 1024, wait_s: float = 0.0
    ) -> Page:
        """What comes behind: see `EventLog`."""
        loop = asyncio.get_running_loop()
        wait_until = loop.time() + wait_s
        closings = self._closings
        while True:
            with self._waiters.listening(key) as waiter:
                page, lease_left = await self._pages.ask((key, after, max_bytes))
                left = wait_until - loop.time()
                if page.entries or page.state.phase != "live" or left <= 0:
                    return page
                self._look()
                await heard(waiter, min(left, lease_left))
            if closings != self._closings:
                raise LogUnavailable("the log was closed")

    async def state(self, key: RunKey) -> RunState:
        """How the run stands: see `EventLog`."""
        return await self._told(key, lambda db, run: run.state())

    async def ask_stop(self, key: RunKey) -> bool:
        """Ask its producer to stop it: see `EventLog`."""

        def ask_stop(db: sqlite3.Connection, now: float) -> bool:
            run = self._seen(db, key, now)
            if run.over_at is not None or run.is_stopped:
                return False
            db.execute("UPDATE runs SET is_stopped = 1 WHERE number = ?", (run.number,))
            return True

        return await self._do(ask_stop)

    async def current(self, tenant: str | None, thread_id: str) -> str | None:
        """The thread's newest run: see `EventLog`."""

        def current(db: sqlite3.Connection) -> str | None:
            thread = (_tenant(tenant), thread_id, time.time() - self.bounds.keep_s)
            row = db.execute(_CURRENT, thread).fetchone()
            return None if row is None else row[0]

        return await self._file.ask(current)

    async def aclose(self) -> None:
        """Close the file, send away those who wait: see `EventLog`."""
        self._closings += 1
        self._waiters.wake_all()
        if self._looks is not None:
            await asyncio.wait([self._looks])
        await self._file.aclose()

    async def _do(self, work: Callable[[sqlite3.Connection, float], T]) -> T:
        """In one transaction."""
        return await self._file.change(lambda db: work(db, time.time()))

    async def _page(self, asked: _Asked) -> tuple[Page, float]:
        """A page, and for how many seconds the lease holds."""
        key, after, max_bytes = asked
        return await self._told(
            key,
            lambda db, run: (
                Page(_entries(db, run, after, max_bytes), run.state()),
                run.lease_ends - time.time(),
            ),
        )

    async def _told(self, key: RunKey, tell: Callable[[sqlite3.Connection, _Run], T]) -> T:
        """What is told of a run. Where its lease ran out, that is decided first."""

        def told(db: sqlite3.Connection) -> T | None:
            now = time.time()
            run = self._known(db, key, now)
            is_overdue = run.over_at is None and run.lease_ends <= now
            return None if is_overdue else tell(db, run)

        found = await self._file.ask(told)
        while found is None:
            await self._do(lambda db, now: self._seen(db, key, now))
            found = await self._file.ask(told)
        return found

    def _look(self) -> None:
        """For what other processes write, as long as anybody waits."""
        if self._looks is None or self._looks.done():
            self._looks = asyncio.create_task(self._look_on())

    async def _look_on(self) -> None:
        wait_s = _LOOK_SOON_S
        while self._waiters:
            try:
                is_changed = await self._file.is_changed()
            except LogUnavailable:
                is_changed = True  # they ask, and are told
            if is_changed:
                self._waiters.wake_all()
            wait_s = _LOOK_SOON_S if is_changed else min(LOOK_S, wait_s * _LOOK_LATER)
            await asyncio.sleep(wait_s)

    def _find(self, db: sqlite3.Connection, key: RunKey, now: float) -> _Run | None:
        row = db.execute(_FIND, (*_name(key), now - self.bounds.keep_s)).fetchone()
        return None if row is None else _Run(row)

    def _known(self, db: sqlite3.Connection, key: RunKey, now: float) -> _Run:
        run = self._find(db, key, now)
        if run is None:
            raise UnknownRun("the log knows no such run, or none any more")
        return run

    def _seen(self, db: sqlite3.Connection, key: RunKey, now: float) -> _Run:
        """The run, by somebody who is told how it stands. Raises UnknownRun."""
        db.execute(_ORPHAN, (*_name(key), now))
        return self._known(db, key, now)

    def _held(self, db: sqlite3.Connection, key: RunKey, owner: str, now: float) -> _Run:
        """The run, by its producer, its lease renewed. Raises UnknownRun and LeaseLost."""
        run = self._known(db, key, now)
        if run.over_at is not None or not run.is_owned_by(owner):
            raise LeaseLost("the run is over, or somebody else's")
        ends = now + self.bounds.lease_s
        db.execute("UPDATE runs SET lease_ends = ? WHERE number = ?", (ends, run.number))
        return run

    def _evict(self, db: sqlite3.Connection, run: _Run) -> None:
        bounds = self.bounds
        while run.kept_events > bounds.max_events or run.kept_bytes > bounds.max_bytes:
            last_gone = 0
            for number, size in db.execute(_OLDEST, (run.number, _EVICT_AT_ONCE)).fetchall():
                if run.kept_events <= bounds.max_events and run.kept_bytes <= bounds.max_bytes:
                    break
                last_gone = number
                run.kept_events -= 1
                run.kept_bytes -= size
            db.execute("DELETE FROM entries WHERE run = ? AND id <= ?", (run.number, last_gone))

    def _sweep(self, db: sqlite3.Connection, now: float, key: RunKey) -> None:
        """Forget what was kept for long enough: now and then all, always what has this name."""
        which: str = "tenant = ? AND run_id = ?"
        names: tuple[Any, ...] = _name(key)
        if not self._sweep_at - _SWEEP_EVERY_S <= now < self._sweep_at:
            self._sweep_at = now + _SWEEP_EVERY_S
            which, names = "coalesce(over_at, lease_ends) <= ?", (now - self.bounds.keep_s,)
        gone = f"SELECT number FROM runs WHERE {which}"  # noqa: S608 - of two constants
        for table, column in (("entries", "run"), ("threads", "run"), ("runs", "number")):
            db.execute(f"DELETE FROM {table} WHERE {column} IN ({gone})", names)  # noqa: S608


def _entries(db: sqlite3.Connection, run: _Run, after: int, max_bytes: int) -> list[LogEntry]:
    entries: list[LogEntry] = []
    left = max_bytes
    for number, data in db.execute(_BEHIND, (run.number, after)):
        left -= len(data)
        if left < 0 and entries:
            break
        entries.append(LogEntry(number, data))
    return entries


def _tenant(tenant: str | None) -> str:
    """None, and an empty one, are told apart."""
    return "-" if tenant is None else "=" + tenant


def _name(key: RunKey) -> tuple[str, str]:
    return _tenant(key.tenant), key.run_id
