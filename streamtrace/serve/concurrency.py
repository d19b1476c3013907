"""How many streams a user may have open at once.

Rules that hold here:

* A slot is free again when its stream ends, however it ends: an error, a cancelled task, and one
  that is cancelled again while it gives the slot back.
* Over Redis a slot is a lease that its process renews. One that crashed renews nothing, so its
  slots are free after the lease's time.
* What gives slots back is a task of this object, until it is done; `aclose` waits for it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.logs import WARNINGS
from streamtrace.serve.answers import retry_later
from streamtrace.serve.callers import caller_key

if TYPE_CHECKING:
    from streamtrace.serve.auth import User

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
        self._releasing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def slot(self, user: User | None, address: str | None = None) -> AsyncIterator[None]:
        """Hold a slot of this user's. Raises Refusal: 429 if all are taken, 503 without Redis."""
        key = caller_key(user, address, by_address=self._by_address)
        lease = secrets.token_hex(16)
        try:
            is_held = await self._leases.acquire(key, lease, self._max_streams)
        except BaseException:  # cancelled, or without an answer: it may be held all the same
            self._release(key, lease, None)
            raise
        if not is_held:
            raise retry_later(
                429, "too_many_streams", "Too many streams are open already.", RETRY_AFTER_S
            )
        renewing = self._renewing(key, lease)
        try:
            yield
        finally:
            await asyncio.shield(self._release(key, lease, renewing))

    async def aclose(self) -> None:
        """Wait until slots that were let go are given back, and close the connections to Redis."""
        await asyncio.gather(*self._releasing)
        await self._leases.aclose()

    def _renewing(self, key: str, lease: str) -> asyncio.Task[None] | None:
        every_s = self._leases.renew_every_s
        return None if every_s is None else asyncio.create_task(self._renew(key, lease, every_s))

    async def _renew(self, key: str, lease: str, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._leases.renew(key, lease)
            except Refusal:
                WARNINGS.warn("leases.renew", "the slot of a stream could not be renewed")

    def _release(
        self, key: str, lease: str, renewing: asyncio.Task[None] | None
    ) -> asyncio.Task[None]:
        """On a task of its own, which nobody cancels."""
        task = asyncio.create_task(self._released(key, lease, renewing))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        return task

    async def _released(self, key: str, lease: str, renewing: asyncio.Task[None] | None) -> None:
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait([renewing])
        try:
            await self._leases.release(key, lease)
        except Refusal:
            WARNINGS.warn("leases.release", "a slot could not be given back; its lease will end")
