"""The log of runs: what each said, under numbers, so that whoever lost the connection reads on.

Rules that hold here:

* One producer writes a run, and holds a lease on it while it lives. Who lost the lease writes no
  more: nobody can tell one run in two ways. A lease that ran out is lost when somebody is told of
  it; until then its producer may come back.
* Entries are opaque bytes, numbered from 1. A number is never given twice, and what could not be
  written keeps its numbers: a hole tells every reader how many it misses, whether they were
  evicted or never came.
* How a run stands is told beside its entries, never among them: live, finished with its outcome,
  orphaned (its lease ran out), or no longer known.
* Everything is bounded: entries and bytes per run, the oldest go first, and one that is larger than
  the bound is not kept; runs, by the time that they are kept behind their end.
* A log that cannot be reached raises `LogUnavailable`, within seconds. The run goes on without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from streamtrace.core.errors import ConfigError

RunPhase = Literal["live", "finished", "orphaned"]

MAX_EVENTS = 100_000
MAX_BYTES = 16 * 1024 * 1024
KEEP_S = 600.0
LEASE_S = 10.0


class RunKey(msgspec.Struct, frozen=True, order=True):
    """Whose run: ids are unique within a tenant. The log itself has the namespace."""

    run_id: str
    tenant: str | None = None


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """What was said, and its number."""

    id: int
    data: bytes


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands.

    meta      what its producer said of it when it began, as opaque bytes
    last_id   of the newest entry, or of the newest that is missing; 0 before the first
    outcome   what its producer said of its end, as opaque bytes; `None` until then
    is_stopped   whether somebody asked that it stops
    """

    phase: RunPhase
    meta: bytes
    last_id: int = 0
    outcome: bytes | None = None
    is_stopped: bool = False


class Page(msgspec.Struct, frozen=True):
    """Entries behind a cursor, in order, and how the run stood when they were read.

    A hole before the first, or between two, is what is missing. With no entries and a run that is
    over, what lies between the cursor and `last_id` is.
    """

    entries: list[LogEntry]
    state: RunState


class Written(msgspec.Struct, frozen=True):
    """What became of an `append`: the number of its last entry, whether somebody asked the run to
    stop, and what the log now keeps of it."""

    last_id: int
    is_stopped: bool
    kept_events: int
    kept_bytes: int


class LogBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a log keeps.

    max_events, max_bytes   of each run; the oldest go first
    keep_s                  how long a run is kept behind its end, and one that was orphaned behind
                            that of its lease
    lease_s                 how long a producer may be silent before its run is orphaned
    """

    max_events: int = MAX_EVENTS
    max_bytes: int = MAX_BYTES
    keep_s: float = KEEP_S
    lease_s: float = LEASE_S

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value <= 0:
                raise ConfigError(f"{name} must be over 0, got {value!r}")


class EventLog(Protocol):
    """What a backend does; `streamtrace.testing.EventLogContract` says it as tests.

    All but `create` raise UnknownRun for a run that is not known; all raise LogUnavailable. `owner`
    is a secret of the producer, by which the log knows it again.
    """

    bounds: LogBounds

    async def create(
        self,
        key: RunKey,
        owner: str,
        meta: bytes,
        *,
        thread_id: str | None = None,
        last_id: int = 0,
    ) -> None:
        """Begin a run, live, and make it its thread's current one. Raises RunExists.

        Done again by the same owner, it does nothing. `last_id`: of a run that the log has lost,
        and whose producer goes on: what was said is missing, and its numbers are not given again.
        """

    async def append(
        self, key: RunKey, owner: str, entries: Sequence[bytes], *, after: int
    ) -> Written:
        """Write the entries `after + 1`, `after + 2`, ..., and renew the lease. Raises LeaseLost.

        `after`: what the producer numbered last. What the log lacks up to there is missing. What it
        has beyond is there already, from an append whose answer was lost, and is not written again:
        so the same may be asked twice, and may come late.
        """

    async def renew(self, key: RunKey, owner: str) -> bool:
        """Hold the lease; whether somebody asked the run to stop. Raises LeaseLost."""

    async def finish(self, key: RunKey, owner: str, outcome: bytes, *, last_id: int) -> None:
        """The run is over. Raises LeaseLost; not if the same owner has said it before.

        `last_id`: what the producer numbered last, which the log may lack.
        """

    async def read(
        self, key: RunKey, after: int, *, max_bytes: int = 64 * 1024, wait_s: float = 0.0
    ) -> Page:
        """What comes behind `after`: at least one entry if there is one, else up to `max_bytes`.

        Where there is none and the run lives, waits up to `wait_s` for one, or for its end: a hole
        at its end is told with the entry behind it.
        """

    async def state(self, key: RunKey) -> RunState:
        """How the run stands."""

    async def ask_stop(self, key: RunKey) -> bool:
        """Ask its producer to stop it; `False` if it is over, or was asked before."""

    async def current(self, tenant: str | None, thread_id: str) -> str | None:
        """The id of the run that the thread began last, as long as it is known."""

    async def aclose(self) -> None:
        """Let go of files and connections; who waits gets LogUnavailable. Used again, it opens
        again."""
