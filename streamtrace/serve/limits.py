"""How often a user may ask, in the notation of the package `limits` (the extra `limits`).

Rules that hold here:

* The window moves: in any stretch of its length there are at most so many requests, and a client
  that waits for `Retry-After` is let in. A request that was refused does not count.
* In memory, a user costs a number per counted request, and the number of users is bounded.
  (`limits` has a store in memory too. It looks through all of its users at each request, on a task
  that nobody owns, and keeps as many as there are.)
* Where Redis cannot be asked, requests are refused: 503, and not counted by nobody.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.logs import WARNINGS
from streamtrace.serve.answers import retry_later
from streamtrace.serve.callers import caller_key

try:
    from limits import RateLimitItem, parse_many
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "limits", "limits") from None

if TYPE_CHECKING:
    from streamtrace.serve.auth import User

MAX_USERS = 100_000


class RateLimit:
    """At most so many requests of a user in a time.

        limit = RateLimit("30/minute")
        limit = RateLimit("500 per day", redis_url="redis://localhost")    # of all processes
        await limit.check(user)

    rate        a number and a time: `30/minute`, `5 per 10 seconds`
    redis_url   where to count; without it each process counts for itself
    namespace   limits with the same namespace and rate share one count in Redis; another
                deployment on the same Redis needs its own
    by_address  without a user, count by address (that of IPv6 by its /64): behind a proxy only if
                the server was told to trust what that says. Else all without a user share a count
    """

    def __init__(
        self,
        rate: str,
        *,
        redis_url: str | None = None,
        namespace: str = "streamtrace",
        by_address: bool = False,
    ) -> None:
        item = _parsed(rate)
        self._by_address = by_address
        self._windows: Windows
        if redis_url is None:
            self._windows = MemoryWindows(item.amount, item.get_expiry())
        else:
            from streamtrace.serve.redis_stores import RedisWindows  # noqa: PLC0415

            self._windows = RedisWindows(redis_url, item, namespace)

    async def check(self, user: User | None, address: str | None = None) -> None:
        """Count a request. Raises Refusal: 429 if it is one too many, 503 if Redis is away."""
        key = caller_key(user, address, by_address=self._by_address)
        wait_s = await self._windows.hit(key)
        if wait_s is not None:
            raise retry_later(429, "rate_limited", "Too many requests: please wait.", wait_s)

    async def aclose(self) -> None:
        """Close the connections to Redis, if there are any."""
        await self._windows.aclose()


class Windows(Protocol):
    """Where requests are counted."""

    async def hit(self, key: str) -> float | None:
        """Count one; or not, and say in how many seconds the next will be counted."""

    async def aclose(self) -> None:
        """Close what is open."""


class MemoryWindows:
    """The times of each user's latest requests, the oldest first."""

    def __init__(
        self,
        amount: int,
        window_s: float,
        *,
        max_users: int = MAX_USERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._amount = amount
        self._window_s = window_s
        self._max_users = max_users
        self._clock = clock
        self._hits: dict[str, deque[float]] = {}  # who asked the longest ago, first

    async def hit(self, key: str) -> float | None:
        """Count one; or not, and say in how many seconds the next will be counted."""
        now = self._clock()
        gone = now - self._window_s
        hits = self._hits.pop(key, None) or deque()
        self._hits[key] = hits
        self._forget(gone)
        while hits and hits[0] <= gone:
            hits.popleft()
        if len(hits) >= self._amount:
            return hits[0] + self._window_s - now
        hits.append(now)
        return None

    def _forget(self, gone: float) -> None:
        """Users who have no request in the window; and of too many, who asked the longest ago."""
        while len(self._hits) > 1:
            key, hits = next(iter(self._hits.items()))
            if hits[-1] > gone:
                if len(self._hits) <= self._max_users:
                    return
                WARNINGS.warn("limits.users", f"over {self._max_users} users: some are forgotten")
            del self._hits[key]

    async def aclose(self) -> None:
        """There is nothing to close."""


def _parsed(rate: str) -> RateLimitItem:
    try:
        items = parse_many(rate)
    except ValueError:
        raise ConfigError(f"rate must be like '30/minute', got {rate!r}") from None
    if len(items) != 1:
        raise ConfigError(f"rate must be one rate, got {rate!r}: make a RateLimit for each")
    if items[0].amount < 1 or items[0].get_expiry() < 1:
        raise ConfigError(f"rate must allow at least one request, got {rate!r}")
    return items[0]
