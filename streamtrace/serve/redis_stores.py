"""Redis, for doors that several processes share (the extra `redis`, Redis 6.2 or newer).

Rules that hold here:

* What must happen in one step happens in one command or one script.
* A command is never cancelled half-way, whoever asked and left: a connection with an answer that
  nobody reads is lost to its pool. What was asked is answered, or given up, within seconds.
* Every key has an end, and begins with a namespace, so that deployments can share a server.
* Redis that cannot be reached within seconds is a refusal, 503: a door that cannot count or look up
  stays shut. The address of Redis, which may hold a password, is told to nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.logs import WARNINGS
from streamtrace.serve.answers import retry_later

try:
    from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError, RedisClusterException, RedisError
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "redis", "redis") from None

if TYPE_CHECKING:
    from limits import RateLimitItem

T = TypeVar("T")

NAMESPACE = "streamtrace"
ANSWERS_WITHIN_S = 2.0
MAX_CONNECTIONS = 32
RETRY_AFTER_S = 1
MIN_LEASE_S = 1
RENEWALS_PER_LEASE = 3
NO_ANSWER = (RedisError, RedisClusterException)
NO_SCRIPT = NoScriptError


def _refusal() -> Exception:
    return retry_later(
        503, "unavailable", "The service is not available: please try again.", RETRY_AFTER_S
    )


def _limits() -> dict[str, Any]:
    return {
        "socket_timeout": ANSWERS_WITHIN_S,
        "socket_connect_timeout": ANSWERS_WITHIN_S,
        "retry": Retry(NoBackoff(), 1),  # a connection that was kept may be gone
    }


class Client:
    """A client of Redis that connects when it is first used.

    `unavailable` makes what is raised when Redis does not answer. Raises ConfigError for what is no
    URL of Redis: `redis://`, `rediss://` or `unix://`.
    """

    def __init__(
        self,
        url: str,
        *,
        unavailable: Callable[[], Exception] = _refusal,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._unavailable = unavailable
        self.redis = self._connected(url, max_connections)
        self._tasks: set[asyncio.Task[Any]] = set()

    def _connected(self, url: str, max_connections: int) -> Redis:
        try:
            self.pool = BlockingConnectionPool.from_url(
                url,
                max_connections=max_connections,
                timeout=ANSWERS_WITHIN_S,  # who waits for a connection
                **_limits(),
            )
        except ValueError:
            raise ConfigError(
                "the URL of Redis must be like redis://host:6379/0, rediss://... or unix:///path"
            ) from None
        return Redis.from_pool(self.pool)

    async def ask(self, command: Awaitable[T]) -> T:
        """The answer to a command. Raises Refusal (503), or what else was chosen, without one."""
        task = asyncio.create_task(self._answer(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait for the answers that are to come, and close the connections."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.redis.aclose()

    async def _answer(self, command: Awaitable[T]) -> T:
        try:
            return await command
        except NO_ANSWER as error:
            WARNINGS.warn("redis", f"Redis did not answer: {type(error).__name__}")
            raise self._unavailable() from None


class ClusterClient(Client):
    """The same for a cluster, of which `url` names any node.

    Its own pools do not let anybody wait for a connection: that is done here.
    """

    def _connected(self, url: str, max_connections: int) -> Redis:
        self._free = asyncio.Semaphore(max_connections)
        self._finding = asyncio.Lock()
        try:
            cluster = RedisCluster.from_url(url, max_connections=max_connections, **_limits())
        except (ValueError, RedisClusterException):
            raise ConfigError(
                "the URL of a cluster must be like redis://host:6379 or rediss://host:6379"
            ) from None
        return cast("Redis", cluster)  # what is asked of it here, both have

    async def _answer(self, command: Awaitable[T]) -> T:
        async with self._free:
            try:
                return await super()._answer(self._with_nodes(command))
            except AttributeError:  # its connection was closed by another command, which failed
                raise self._unavailable() from None

    async def _with_nodes(self, command: Awaitable[T]) -> T:
        """Commands that find the nodes at the same time close each other's connections."""
        try:
            async with self._finding:
                await self.redis.initialize()
        except BaseException:
            if asyncio.iscoroutine(command):
                command.close()
            raise
        return await command


class RedisTicketStore:
    """Tickets that any process redeems: `Tickets(RedisTicketStore("redis://localhost"))`."""

    def __init__(self, url: str, *, namespace: str = NAMESPACE) -> None:
        self._client = Client(url)
        self._prefix = f"{namespace}:ticket:"

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """Keep the value for so long. Raises Refusal (503)."""
        await self._client.ask(self._client.redis.set(self._prefix + key, value, ex=ttl_s))

    async def take(self, key: str) -> bytes | None:
        """The value, once. Raises Refusal (503)."""
        value = await self._client.ask(self._client.redis.getdel(self._prefix + key))
        return value.encode() if isinstance(value, str) else value

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


# A sorted set per key: leases, each with the millisecond at which it ends. A script that is sent
# again, since its answer was lost, does no more than once.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_ACQUIRE = f"""{_NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == false
  and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
# Only of a lease that is held: a renewal that comes late must not bring back what was released.
_RENEW = f"""{_NOW}
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


class RedisLeases:
    """Slots of all processes: `Concurrency(4, leases=RedisLeases("redis://localhost"))`.

    The slots of a process that crashed are free after `ttl_s` seconds. A lease that could not be
    renewed for as long is lost: its stream goes on, and does not count.
    """

    def __init__(self, url: str, *, ttl_s: float = 30.0, namespace: str = NAMESPACE) -> None:
        if ttl_s < MIN_LEASE_S:
            raise ConfigError(f"ttl_s must be at least {MIN_LEASE_S}, got {ttl_s!r}")
        self.renew_every_s: float | None = ttl_s / RENEWALS_PER_LEASE
        self._ttl_ms = int(ttl_s * 1000)
        self._client = Client(url)
        self._prefix = f"{namespace}:streams:"
        self._acquire = self._client.redis.register_script(_ACQUIRE)
        self._renew = self._client.redis.register_script(_RENEW)

    async def acquire(self, key: str, lease: str, most: int) -> bool:
        """Hold this lease, if the key has fewer than `most`. Raises Refusal (503)."""
        asked = self._acquire([self._prefix + key], [lease, most, self._ttl_ms])
        return bool(await self._client.ask(asked))

    async def renew(self, key: str, lease: str) -> None:
        """Hold on to a lease that is still held. Raises Refusal (503)."""
        await self._client.ask(self._renew([self._prefix + key], [lease, self._ttl_ms]))

    async def release(self, key: str, lease: str) -> None:
        """Give it back. Raises Refusal (503)."""
        await self._client.ask(self._client.redis.zrem(self._prefix + key, lease))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class RedisWindows:
    """The requests of all processes, counted by `limits`, on the clocks of the processes."""

    def __init__(self, url: str, item: RateLimitItem, namespace: str = NAMESPACE) -> None:
        from limits.aio.storage import RedisStorage  # noqa: PLC0415 - of another extra
        from limits.aio.strategies import MovingWindowRateLimiter  # noqa: PLC0415

        self._client = Client(url)
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{namespace}:requests",
            connection_pool=self._client.pool,  # type: ignore[arg-type]
        )
        self._limiter = MovingWindowRateLimiter(storage)
        self._item = item

    async def hit(self, key: str) -> float | None:
        """Count one; or say when the next will be counted. Raises Refusal (503)."""
        if await self._client.ask(self._limiter.hit(self._item, key)):
            return None
        stats = await self._client.ask(self._limiter.get_window_stats(self._item, key))
        return stats.reset_time - time.time()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
