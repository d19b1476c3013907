"""An SQLite file, used from an event loop.

Rules that hold here:

* One thread has the only connection of this process, and does one thing after the other. Both are
  there from the first use on.
* A commit outlives the process as soon as it is answered. What was committed last may be lost when
  the machine loses its power.
* A file that is locked for too long, full or broken is LogUnavailable, within seconds. It is opened
  anew for what is asked next.
* The file is for its owner only, if it is made here. What is in it, and where it is, is told to
  nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from streamtrace.core.errors import ConfigError, LogUnavailable
from streamtrace.logs import WARNINGS

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

ANSWERS_WITHIN_S = 2.0
_OPEN_EVERY_S = 0.01
_VERSION = 1


class SqliteFile:
    """Raises ConfigError where the folder is not there."""

    def __init__(self, path: str | os.PathLike[str], schema: str) -> None:
        self._path = Path(path).absolute()
        if not self._path.parent.is_dir():
            raise ConfigError(f"there is no folder {str(self._path.parent)!r}")
        self._schema = schema
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._seen: int | None = None

    async def ask(self, work: Work[T]) -> T:
        """What the work finds, as of one moment. Raises LogUnavailable."""
        return await self._in_thread(functools.partial(_at_once, work, "BEGIN"))

    async def change(self, work: Work[T]) -> T:
        """What the work does: all, or, if it raises, nothing. Raises LogUnavailable."""
        return await self._in_thread(functools.partial(_at_once, work, "BEGIN IMMEDIATE"))

    async def is_changed(self) -> bool:
        """Whether others wrote since this was asked last. Raises LogUnavailable."""
        return await self._in_thread(self._look)

    async def aclose(self) -> None:
        """Close the file when all is done that was asked."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    async def _in_thread(self, work: Work[T]) -> T:
        until = time.monotonic() + ANSWERS_WITHIN_S
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="streamtrace-log")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._tried, work, until)

    def _tried(self, work: Work[T], until: float) -> T:
        if time.monotonic() >= until:
            raise LogUnavailable("the file of the log is busy")
        try:
            return work(self._opened(until))
        except (sqlite3.Error, OSError) as error:
            self._close()
            WARNINGS.warn("sqlite", f"the file of the log cannot be used: {type(error).__name__}")
            raise LogUnavailable("the file of the log cannot be used") from None

    def _opened(self, until: float) -> sqlite3.Connection:
        """The connection, which waits for so long where others write."""
        while self._db is None:
            try:
                self._open()
            except sqlite3.OperationalError as error:
                self._close()
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= until:
                    raise
                time.sleep(_OPEN_EVERY_S)  # others make it: nobody can wait for that in SQLite
        self._db.execute(f"PRAGMA busy_timeout = {_ms_to(until)}")
        return self._db

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._db = sqlite3.connect(
            self._path, timeout=_OPEN_EVERY_S, isolation_level=None, check_same_thread=False
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._make(self._db)
        self._seen = None

    def _make(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(
                f"BEGIN IMMEDIATE; {self._schema} PRAGMA user_version = {_VERSION}; COMMIT"
            )
        elif version != _VERSION:
            raise sqlite3.DatabaseError("of another version")

    def _look(self, db: sqlite3.Connection) -> bool:
        before = self._seen
        (self._seen,) = db.execute("PRAGMA data_version").fetchone()
        return self._seen != before

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):  # it is given up
                db.close()


def _ms_to(until: float) -> int:
    return max(0, round((until - time.monotonic()) * 1000))


def _at_once(work: Work[T], begin: str, db: sqlite3.Connection) -> T:
    """In one transaction."""
    db.execute(begin)
    try:
        done = work(db)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return done
