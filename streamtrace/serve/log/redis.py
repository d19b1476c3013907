"""The log of runs in Redis Streams, for any number of machines (the extra `redis`, Redis 7.0 or
newer, or Valkey).

Rules that hold here:

* What is done to a run is one script, which also checks whose it is: `redis_scripts`.
* The keys of a run share a hash tag, of which there are `TAGS`: so all of it is on one node of a
  cluster.
* What producers write is sent together: `redis_together`.
* Who waits takes no connection: all who do here share one that blocks, and are woken from it. In a
  cluster it is one per tag, since nobody can wait for keys of two.
* Every key has an end. A server that is short of memory may take any of them: that is a hole, or a
  run that is not known.
* Readers that ask for the very same at once are answered once.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from streamtrace.core.errors import ConfigError, LeaseLost, LogUnavailable, RunExists, UnknownRun
from streamtrace.serve.log import redis_scripts as scripts
from streamtrace.serve.log.base import (
    LogBounds,
    LogEntry,
    Page,
    RunKey,
    RunPhase,
    RunState,
    Written,
)
from streamtrace.serve.log.redis_together import Together
from streamtrace.serve.log.redis_waiting import Waiting
from streamtrace.serve.log.waiters import Shared
from streamtrace.serve.redis_stores import NAMESPACE, Client, ClusterClient

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

TAGS = 256
"""No cluster of more nodes is used in full. To change it is to lose what is kept."""
_REFUSALS = {
    scripts.UNKNOWN: (UnknownRun, "the log knows no such run, or none any more"),
    scripts.LOST: (LeaseLost, "the run is over, or somebody else's"),
    scripts.EXISTS: (RunExists, "there is a run of this id"),
}

_Said: TypeAlias = str | int | bytes
_Asked: TypeAlias = tuple[RunKey, int, int]


class RedisLog:
    """`RedisLog("redis://localhost")`; `RedisLog("redis://node", cluster=True)`.

    Raises ConfigError.
    """

    def __init__(
        self,
        url: str,
        bounds: LogBounds | None = None,
        *,
        cluster: bool = False,
        namespace: str = NAMESPACE,
    ) -> None:
        if "{" in namespace or "}" in namespace:
            raise ConfigError(f"namespace must not hold braces, got {namespace!r}")
        self.bounds = bounds or LogBounds()
        self._lease_ms = round(self.bounds.lease_s * 1000)
        self._known_ms = self._lease_ms + round(self.bounds.keep_s * 1000)
        self._producer = [self._lease_ms, self._known_ms - self._lease_ms]
        client = ClusterClient if cluster else Client
        self._client = client(url, unavailable=_unavailable)
        self._blocks = client(url, unavailable=_unavailable, max_connections=cluster * TAGS or 1)
        self._prefix = f"{namespace}:log:"
        self._is_cluster = cluster
        self._me = secrets.token_hex(8)
        self._waiting: dict[str, Waiting] = {}
        self._closings = 0
        self._pages = Shared(self._page)
        self._together = Together(self._client)
        script = self._client.redis.register_script
        self._set_thread = script(scripts.SET_THREAD)
        self._create, self._append = script(scripts.CREATE), script(scripts.APPEND)
        self._renew, self._finish = script(scripts.RENEW), script(scripts.FINISH)
        self._read, self._stop = script(scripts.READ), script(scripts.STOP)

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
        thread = "" if thread_id is None else self._thread(key.tenant, thread_id)
        said: list[_Said] = [owner, *self._producer, meta, last_id, thread]
        began, named = await self._ask(self._create(self._keys(key), said))
        if named is not None:
            await self._ask(self._set_thread([named], [began, key.run_id, 2 * self._known_ms]))

    async def append(
        self, key: RunKey, owner: str, entries: Sequence[bytes], *, after: int
    ) -> Written:
        """Write entries: see `EventLog`."""
        most = [self.bounds.max_events, self.bounds.max_bytes]
        said: list[_Said] = [owner, *self._producer, *most, after, *entries]
        thread, last_id, is_stopped, count, size = await self._ask_together(self._append, key, said)
        await self._keep_thread(thread)
        return Written(last_id, bool(is_stopped), count, size)

    async def renew(self, key: RunKey, owner: str) -> bool:
        """Hold the lease: see `EventLog`."""
        said: list[_Said] = [owner, *self._producer]
        thread, is_stopped = await self._ask_together(self._renew, key, said)
        await self._keep_thread(thread)
        return bool(is_stopped)

    async def finish(self, key: RunKey, owner: str, outcome: bytes, *, last_id: int) -> None:
        """The run is over: see `EventLog`."""
        said: list[_Said] = [owner, *self._producer, last_id, outcome]
        (thread,) = await self._ask_together(self._finish, key, said)
        await self._keep_thread(thread)

    async def read(
        self, key: RunKey, after: int, *, max_bytes: int = 64 * 1024, wait_s: float = 0.0
    ) -> Page:
        """What comes behind: see `EventLog`."""
        loop = asyncio.get_running_loop()
        wait_until = loop.time() + wait_s
        closings = self._closings
        while True:
            page, lease_left = await self._pages.ask((key, after, max_bytes))
            left = wait_until - loop.time()
            if page.entries or page.state.phase != "live" or left <= 0:
                return page
            newest = min(after, page.state.last_id)
            stream = self._keys(key)[1]
            await self._group(key).wait(stream, newest, min(left, lease_left))
            if closings != self._closings:
                raise LogUnavailable("the log was closed")

    async def state(self, key: RunKey) -> RunState:
        """How the run stands: see `EventLog`."""
        return _page(await self._ask(self._read(self._keys(key), [0, 0])))[0].state

    async def ask_stop(self, key: RunKey) -> bool:
        """Ask its producer to stop it: see `EventLog`."""
        (is_first,) = await self._ask(self._stop(self._keys(key)))
        return bool(is_first)

    async def current(self, tenant: str | None, thread_id: str) -> str | None:
        """The thread's newest run: see `EventLog`."""
        redis = self._client.redis
        found: Any = await self._client.ask(redis.get(self._thread(tenant, thread_id)))
        if found is None:
            return None
        run_id: str = found.decode().partition(":")[2]
        run = self._keys(RunKey(run_id, tenant))[0]
        return run_id if await self._client.ask(redis.exists(run)) else None

    async def aclose(self) -> None:
        """Close the connections, send away those who wait: see `EventLog`."""
        self._closings += 1
        waiting, self._waiting = self._waiting, {}
        for group in waiting.values():
            await group.aclose()
        await self._together.aclose()
        await self._blocks.aclose()
        await self._client.aclose()

    def _keys(self, key: RunKey) -> tuple[str, str]:
        run = f"{self._prefix}{_tag(key)}:run:{_quoted(key.tenant)}:{_quoted(key.run_id)}"
        return run, f"{run}:entries"

    def _group(self, key: RunKey) -> Waiting:
        """Of runs that can be waited for in one command."""
        tag = _tag(key) if self._is_cluster else ""
        if tag not in self._waiting:
            nudge = f"{self._prefix}{tag}:nudge:{self._me}"
            self._waiting[tag] = Waiting(self._blocks, self._client, nudge)
        return self._waiting[tag]

    def _thread(self, tenant: str | None, thread_id: str) -> str:
        return f"{self._prefix}thread:{_quoted(tenant)}:{_quoted(thread_id)}"

    async def _keep_thread(self, thread: bytes | None) -> None:
        if thread is not None:
            await self._client.ask(self._client.redis.pexpire(thread, 2 * self._known_ms))

    async def _ask(self, script: Awaitable[Any]) -> Any:
        return _checked(await self._client.ask(script))

    async def _ask_together(self, script: AsyncScript, key: RunKey, said: Sequence[_Said]) -> Any:
        return _checked(await self._together.ask(script, self._keys(key), said))

    async def _page(self, asked: _Asked) -> tuple[Page, float]:
        """A page, and for how many seconds the lease holds."""
        key, after, max_bytes = asked
        return _page(await self._ask(self._read(self._keys(key), [after, max_bytes])))


def _unavailable() -> LogUnavailable:
    return LogUnavailable("Redis did not answer")


def _checked(answer: Any) -> Any:
    if isinstance(answer, int):
        error, message = _REFUSALS[answer]
        raise error(message)
    return answer


def _tag(key: RunKey) -> str:
    return f"{{{zlib.crc32(key.run_id.encode()) % TAGS}}}"


def _quoted(name: str | None) -> str:
    """In characters that mean nothing in a key; none, and an empty one, are told apart."""
    return "-" if name is None else "=" + quote(name, safe="")


def _page(answer: list[Any]) -> tuple[Page, float]:
    meta, last_id, outcome, is_stopped, is_orphaned, lease_left_ms, *packed = answer
    phase: RunPhase = "live"
    if outcome is not None:
        phase = "finished"
    elif is_orphaned:
        phase = "orphaned"
    state = RunState(
        phase=phase,
        meta=meta,
        last_id=int(last_id),
        outcome=outcome,
        is_stopped=bool(is_stopped),
    )
    return Page(_unpacked(*packed), state), lease_left_ms / 1000


def _unpacked(numbers: bytes, sizes: bytes, data: bytes) -> list[LogEntry]:
    entries: list[LogEntry] = []
    begin = 0
    for number, size in zip(numbers.split(), sizes.split(), strict=True):
        end = begin + int(size)
        entries.append(LogEntry(int(number), data[begin:end]))
        begin = end
    return entries
