"""One source, many followers: the same run on several screens, or one that came late.

Rules that hold here:

* To publish never waits: each follower has a channel of its own. One that is full where its policy
  would wait is closed with the reason `slow_client`, and the others notice nothing.
* A follower sees everything from where it began, in order; but for what its policy drops or joins.
* What is kept for those who come late is bounded in events and bytes, the oldest goes first, and a
  follower is told how many events it came too late for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

from streamtrace.core.errors import ClientGone, ConfigError
from streamtrace.core.events import Event
from streamtrace.serve.channel import Channel, ChannelCounts, ChannelOptions
from streamtrace.serve.weight import event_bytes


class Follower:
    """Iterates over the events. `missed_events` were published before, and are not told to it."""

    def __init__(self, channel: Channel, replay: list[Event], missed_events: int) -> None:
        self.missed_events = missed_events
        self._channel = channel
        self._replay = deque(replay)

    @property
    def reason(self) -> str | None:
        """Why it ends: `finished`, `failed` or `cancelled` like its source, or `slow_client`."""
        return self._channel.reason

    @property
    def counts(self) -> ChannelCounts:
        """What its channel did; what was kept from before did not pass through it."""
        return self._channel.counts

    async def get(self) -> Event | None:
        """The next event; `None` at the end."""
        return self._replay.popleft() if self._replay else await self._channel.get()

    def __aiter__(self) -> Follower:
        """As `get`, up to the end."""
        return self

    async def __anext__(self) -> Event:
        """The next event."""
        event = await self.get()
        if event is None:
            raise StopAsyncIteration
        return event


class Broadcast:
    """Publishes what a source says. Somebody must await `run`, whoever follows.

    For those who come late, the last `keep_events` are kept, of `keep_bytes` at most; 0 keeps none.
    Raises ConfigError for a bound below 0.
    """

    def __init__(
        self,
        source: AsyncIterable[Event],
        *,
        keep_events: int = 1024,
        keep_bytes: int = 1024 * 1024,
    ) -> None:
        for name, bound in (("keep_events", keep_events), ("keep_bytes", keep_bytes)):
            if bound < 0:
                raise ConfigError(f"{name} must be at least 0, got {bound}")
        self.published_events = 0
        self.slow_followers = 0
        """Followers that were closed because they could not keep up."""
        self.reason: str | None = None
        """Why it ended; `None` while it runs."""
        self._source: AsyncIterable[Event] | None = source
        self._keep_events, self._keep_bytes = keep_events, keep_bytes
        self._kept: deque[tuple[Event, int]] = deque()
        self._kept_bytes = 0
        self._channels: set[Channel] = set()
        self._heaviest = keep_bytes

    @property
    def followers(self) -> int:
        """How many follow now."""
        return len(self._channels)

    async def run(self) -> None:
        """Publish everything; then the followers end. Raises what the source raises."""
        source, self._source = self._source, None
        if source is None:
            raise RuntimeError("a broadcast runs once")
        try:
            async for event in source:
                self.publish(event)
                await asyncio.sleep(0)  # a turn for all, also where the source never waits
        except asyncio.CancelledError:
            self.close("cancelled")
            raise
        except BaseException:
            self.close("failed")
            raise
        finally:
            self.close()
            aclose = getattr(source, "aclose", None)
            if aclose is not None:
                await aclose()

    def publish(self, event: Event) -> None:
        """Tell all followers at once, and close those who are full."""
        size = event_bytes(event, self._heaviest)
        self.published_events += 1
        self._kept.append((event, size))
        self._kept_bytes += size
        while len(self._kept) > self._keep_events or self._kept_bytes > self._keep_bytes:
            self._kept_bytes -= self._kept.popleft()[1]
        for channel in tuple(self._channels):
            try:
                keeps_up = channel.offer(event, size)
            except ClientGone:
                keeps_up = False
            if not keeps_up:
                channel.abandon("slow_client")
                self.slow_followers += 1
                self._channels.discard(channel)

    def close(self, reason: str = "finished") -> None:
        """The followers get what waits for them, and then the end."""
        self.reason = self.reason or reason
        for channel in self._channels:
            channel.close(reason)
        self._channels.clear()

    @asynccontextmanager
    async def follow(
        self, *, replay: bool = True, **options: Unpack[ChannelOptions]
    ) -> AsyncIterator[Follower]:
        """Follow as long as the block runs, from what is kept or (`replay=False`) from now on.

        `options` are those of its channel; the policy is `disconnect`, unless another is given.
        """
        options.setdefault("policy", "disconnect")
        channel = Channel(**options)
        self._heaviest = max(self._heaviest, channel.max_bytes)
        kept = [event for event, _ in self._kept] if replay else []
        follower = Follower(channel, kept, self.published_events - len(kept))
        if self.reason is None:
            self._channels.add(channel)
        else:
            channel.close(self.reason)
        try:
            yield follower
        finally:
            self._channels.discard(channel)
            channel.abandon()
