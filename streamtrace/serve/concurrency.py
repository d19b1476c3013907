"""How many streams a user may have open at once.

Rules that hold here:

* A slot is free again when its stream ends, however it ends: an error, a cancelled task, and one
  that is cancelled again while it gives the slot back.
* Over Redis a slot is a lease that its process renews. One that crashed renews nothing, so its
  slots are free after the lease's time.
* What takes, renews and gives back is never cancelled half-way, so a slot is given back after it
  was taken, not before. It runs on tasks of this object, and `aclose` waits for them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.logs import WARNINGS
from streamtrace.serve.answers import retry_later
from streamtrace.serve.callers import caller_key

if TYPE_CHECKING:
    from streamtrace.serve.auth import User

T = TypeVar("T")

RETRY_AFTER_S = 5
"""What a client is told to wait: nobody knows when a stream of its user will end."""


class LeaseStore(Protocol):
    """Where slots are counted. A lease is a random text."""

    renew_every_s: float | None
    """`None`: leases need no renewal."""

    async def acquire(self, key: str, lease: str, most: int) -> bool:
        """Hold this lease, if the key has fewer than `most`."""

    async def renew(self, key: str, lease: str) -> None:
        """Hold on to a lease that is still held."""

    async def release(self, key: str, lease: str) -> None:
        """Give it back; nothing happens if it is not held."""

    async def aclose(self) -> None:
        """Close what is open."""


class MemoryLeases:
    """The slots of one process."""

    renew_every_s: float | None = None

    def __init__(self) -> None:
        self._held: dict[str, set[str]] = {}

    async def acquire(self, key: str, lease: str, most: int) -> bool:
        """Hold this lease, if the key has fewer than `most`."""
        held = self._held.setdefault(key, set())
        if len(held) >= most:
            return False
        held.add(lease)
        return True

    async def renew(self, key: str, lease: str) -> None:
        """Leases in memory end with the process."""

    async def release(self, key: str, lease: str) -> None:
        """Give it back."""
        held = self._held.get(key, set())
        held.discard(lease)
        if not held:
            self._held.pop(key, None)

    async def aclose(self) -> None:
        """There is nothing to close."""


class Concurrency:
    """At most `max_streams` at once for each user.

        concurrency = Concurrency(max_streams=4)
        concurrency = Concurrency(max_streams=4, leases=RedisLeases("redis://localhost"))
        async with concurrency.slot(user):
            ...                                      # the whole stream

    by_address  without a user, count by address; see `RateLimit`
    """

    def __init__(
        self, max_streams: int, *, leases: LeaseStore | None = None, by_address: bool = False
    ) -> None:
        if max_streams < 1:
            raise ConfigError(f"max_streams must be at least 1, got {max_streams!r}")
        self._max_streams = max_streams
        self._leases = leases or MemoryLeases()
        self._by_address = by_address
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def slot(self, user: User | None, address: str | None = None) -> AsyncIterator[None]:
        """Hold a slot of this user's. Raises Refusal: 429 if all are taken, 503 without Redis."""
        key = caller_key(user, address, by_address=self._by_address)
        lease = secrets.token_hex(16)
        taking = self._start(self._leases.acquire(key, lease, self._max_streams))
        try:
            is_held = await asyncio.shield(taking)
        except BaseException:  # cancelled, or without an answer: it may be held all the same
            self._start(self._give_back(key, lease, taking))
            raise
        if not is_held:
            raise retry_later(
                429, "too_many_streams", "Too many streams are open already.", RETRY_AFTER_S
            )
        ended = asyncio.Event()
        renewing = self._start(self._renew(key, lease, ended))
        try:
            yield
        finally:
            ended.set()
            await asyncio.shield(self._start(self._give_back(key, lease, renewing)))

    async def aclose(self) -> None:
        """Wait until slots that were let go are given back, and close the connections to Redis."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._leases.aclose()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _renew(self, key: str, lease: str, ended: asyncio.Event) -> None:
        while self._leases.renew_every_s is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._leases.renew_every_s):
                    await ended.wait()
                return
            try:
                await self._leases.renew(key, lease)
            except Refusal:
                WARNINGS.warn("leases.renew", "the slot of a stream could not be renewed")

    async def _give_back(self, key: str, lease: str, after: asyncio.Task[Any]) -> None:
        await asyncio.wait([after])
        try:
            await self._leases.release(key, lease)
        except Refusal:
            WARNINGS.warn("leases.release", "a slot could not be given back; its lease will end")
