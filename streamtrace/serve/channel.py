"""The bounded channel between an agent and its client, and what happens when the client is slow.

Rules that hold here:

* One producer puts, one consumer gets, on one event loop. At most `max_events` and `max_bytes`
  wait in the channel; a single event that is larger than `max_bytes` enters when it is empty.
* Order is kept, and everything is counted, at all times:
  accepted = delivered + joined + dropped + unsent + queued.
* A put that was cancelled before it returned has not put anything; a get that was cancelled has
  taken nothing.
* Slow is a consumer that was given a turn of the loop and still has left the channel full.

| policy | when the channel is full |
|---|---|
| `block` | the put waits: a slow client slows the agent |
| `drop` | text and reasoning deltas are dropped, oldest first; for anything else, the put waits |
| `coalesce` | as `block`, but deltas that follow one another in a message are joined: where the |
|  | consumer lags, or within `window_s` of the last one that was delivered; no text is lost |
| `disconnect` | the channel ends, with the reason `slow_client` |
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from io import StringIO
from typing import Any, ClassVar, Literal, TypedDict, get_args

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.errors import ClientGone, ConfigError
from streamtrace.serve.weight import EVENT_BYTES, event_bytes
from streamtrace.serve.whole import Message, Messages

Policy = Literal["block", "drop", "coalesce", "disconnect"]

_DELTAS = (ev.TextDelta, ev.ReasoningDelta)


class ChannelOptions(TypedDict, total=False):
    """What a channel can be made with."""

    policy: Policy
    max_events: int
    max_bytes: int
    window_s: float
    whole_messages: bool
    clock_ns: Callable[[], int]


class ChannelCounts(msgspec.Struct):
    """What a channel did so far: events, chars of text, and ns that puts waited for room.

    `unsent` are those that were queued when the consumer left. `wholes` are the events that tell a
    message whole; they are of the channel, and counted nowhere else.
    """

    accepted_events: int = 0
    delivered_events: int = 0
    joined_events: int = 0
    dropped_events: int = 0
    dropped_chars: int = 0
    unsent_events: int = 0
    wholes: int = 0
    waited_ns: int = 0
    most_events: int = 0
    most_bytes: int = 0


class _Entry(msgspec.Struct):
    """An event that is queued."""

    event: ev.Event
    bytes: int
    number: int
    pieces: StringIO | None = None
    """The text so far, where deltas were joined."""
    message: Message | None = None
    ends: list[Message] | None = None


class Channel:
    """Events from an agent to whoever writes them to the client.

    `clock_ns` is only asked for the window and for the time that puts wait. With `whole_messages`
    (and `drop`), a message that lost text is told whole before its end, or before that of the run,
    as `Custom(name="message_whole")`; for that, up to `max_bytes` of text are kept beside the
    channel. Raises ConfigError for what it cannot be made with.
    """

    def __init__(
        self,
        policy: Policy = "block",
        *,
        max_events: int = 256,
        max_bytes: int = 1024 * 1024,
        window_s: float = 0.075,
        whole_messages: bool = False,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if policy not in get_args(Policy):
            raise ConfigError(f"policy is one of {', '.join(get_args(Policy))}, not {policy!r}")
        for name, bound in (("max_events", max_events), ("max_bytes", max_bytes)):
            if bound < 1:
                raise ConfigError(f"{name} must be at least 1, got {bound}")
        if not 0 <= window_s <= 60:
            raise ConfigError(f"window_s is in seconds, from 0 to 60, got {window_s}")
        if whole_messages and policy != "drop":
            raise ConfigError(f"whole_messages is for policy 'drop'; {policy!r} loses no text")
        self.counts = ChannelCounts()
        self.queued_bytes = 0
        self.reason: str | None = None
        """Why it ended: that given to `close` or `abandon`; `None` while it is open."""
        self._full = self._when_full[policy]
        self._joins = policy == "coalesce"
        self._messages = Messages(max_bytes if whole_messages else 0) if policy == "drop" else None
        self._max_events, self.max_bytes = max_events, max_bytes
        self._window_ns = int(window_s * 1_000_000_000) if self._joins else 0
        self._clock_ns = clock_ns
        self._kept: deque[_Entry] = deque()
        self._loose: deque[_Entry] = deque()  # what may be dropped: the deltas, under `drop`
        self._loose_bytes = 0
        self._number = 0
        self._puts_since_take = 0
        self._last_delta: tuple[type[ev.Event], str | None] | None = None
        self._last_delta_ns = 0
        self._ending: list[Message] | None = None
        self._abandoned = False
        self._putter: asyncio.Future[None] | None = None
        self._getter: asyncio.Future[None] | None = None

    @property
    def queued_events(self) -> int:
        """Events that wait in the channel."""
        return len(self._kept) + len(self._loose)

    @property
    def missing(self) -> dict[str | None, int]:
        """Chars of text that were dropped, by id of the message; `None` is text without one."""
        return {} if self._messages is None else dict(self._messages.missing)

    # --- the producer ----------------------------------------------------------------------

    async def put(self, event: ev.Event) -> None:
        """Give an event to the consumer; waits for room where the policy says so.

        Raises ClientGone if the consumer has left, or was too slow under `disconnect`.
        """
        size = event_bytes(event, self.max_bytes)
        if self._puts_since_take >= self._max_events or not self._has_room(size):
            await asyncio.sleep(0)
            self._puts_since_take = 0
        while not self.offer(event, size):
            await self._room()

    def offer(self, event: ev.Event, size_bytes: int | None = None) -> bool:
        """As `put`, without waiting: false if the event had to wait, and was not accepted."""
        if self.reason is not None:
            if self._abandoned:
                raise ClientGone(self.reason)
            raise RuntimeError(f"put into a channel that was closed: {self.reason}")
        size = event_bytes(event, self.max_bytes) if size_bytes is None else size_bytes
        if self._joins and self._join(event, size - EVENT_BYTES):
            return True
        if not self._has_room(size):
            return self._full(self, event, size)
        self._append(event, size)
        return True

    def close(self, reason: str = "finished") -> None:
        """The producer is done: the consumer gets what is queued, and then the end."""
        if self.reason is None:
            self.reason = reason
            if self._messages is not None:
                self._ending = self._messages.end()
            self._wake()

    # --- the consumer ----------------------------------------------------------------------

    async def get(self) -> ev.Event | None:
        """The next event; `None` at the end."""
        while True:
            event = self.get_nowait()
            if event is not None or self.is_over:
                return event
            await self._news()

    def get_nowait(self) -> ev.Event | None:
        """The next event, if one is due now."""
        kept, loose = self._kept, self._loose
        queue = loose if loose and (not kept or loose[0].number < kept[0].number) else kept
        if not queue:
            return self._whole(self._ending)
        if self._window_ns and self._hold_ns() > 0:
            return None
        return self._whole(queue[0].ends) or self._take(queue)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and nothing is left to get."""
        return self.reason is not None and not (self._kept or self._loose or self._ending)

    def abandon(self, reason: str = "client_gone") -> None:
        """The consumer takes no more: what is queued is given up, and puts raise ClientGone."""
        if not self._abandoned and not self.is_over:
            self._abandoned, self.reason = True, reason
            self.counts.unsent_events += self.queued_events
            self._kept.clear()
            self._loose.clear()
            self._ending = None
            self.queued_bytes = self._loose_bytes = 0
            self._wake()

    def __aiter__(self) -> Channel:
        """As `get`, up to the end."""
        return self

    async def __anext__(self) -> ev.Event:
        """The next event."""
        event = await self.get()
        if event is None:
            raise StopAsyncIteration
        return event

    # --- the queue -------------------------------------------------------------------------

    def _has_room(self, size: int) -> bool:
        queued = len(self._kept) + len(self._loose)
        return not queued or (
            queued < self._max_events and self.queued_bytes + size <= self.max_bytes
        )

    def _append(self, event: ev.Event, size: int) -> None:
        self._number += 1
        entry = _Entry(event, size, self._number)
        queue = self._kept
        if self._messages is not None:
            if isinstance(event, _DELTAS):
                queue = self._loose
                self._loose_bytes += size
                entry.message = self._grow(event)
            else:
                entry.ends = self._messages.ended_by(event)
        queue.append(entry)
        self.queued_bytes += size
        self._puts_since_take += 1
        counts = self.counts
        counts.accepted_events += 1
        counts.most_events = max(counts.most_events, self.queued_events)
        counts.most_bytes = max(counts.most_bytes, self.queued_bytes)
        _wake(self._getter)

    def _take(self, queue: deque[_Entry]) -> ev.Event:
        entry = queue.popleft()
        self.queued_bytes -= entry.bytes
        if queue is self._loose:
            self._loose_bytes -= entry.bytes
        self._puts_since_take = 0
        self.counts.delivered_events += 1
        _wake(self._putter)
        event = entry.event
        if self._joins and isinstance(event, _DELTAS):
            self._last_delta = (type(event), event.message_id)
            self._last_delta_ns = self._clock_ns()
            if entry.pieces is not None:
                return msgspec.structs.replace(event, text=entry.pieces.getvalue())
        return event

    # --- full ------------------------------------------------------------------------------

    def _refuse(self, event: ev.Event, size: int) -> bool:
        return False

    def _drop(self, event: ev.Event, size: int) -> bool:
        kept_bytes = self.queued_bytes - self._loose_bytes
        if self._kept and (
            len(self._kept) >= self._max_events or kept_bytes + size > self.max_bytes
        ):  # even with no delta in it, there is no room
            if not isinstance(event, _DELTAS):
                return False
            self.counts.accepted_events += 1
            self._lose(event, self._grow(event))
            return True
        while not self._has_room(size):
            entry = self._loose.popleft()
            self.queued_bytes -= entry.bytes
            self._loose_bytes -= entry.bytes
            self._lose(entry.event, entry.message)
        self._append(event, size)
        return True

    def _grow(self, delta: ev.Event) -> Message | None:
        """The message that the text belongs to, if it is text."""
        if self._messages is None or not isinstance(delta, ev.TextDelta):
            return None
        return self._messages.grow(delta)

    def _lose(self, delta: ev.Event, message: Message | None) -> None:
        chars = len(delta.text) if isinstance(delta, _DELTAS) else 0
        self.counts.dropped_events += 1
        self.counts.dropped_chars += chars
        if message is not None and self._messages is not None:
            self._messages.lose(message, chars)

    def _disconnect(self, event: ev.Event, size: int) -> bool:
        self.abandon("slow_client")
        raise ClientGone("slow_client")

    _when_full: ClassVar[dict[str, Callable[[Any, ev.Event, int], bool]]] = {
        "block": _refuse,
        "coalesce": _refuse,
        "drop": _drop,
        "disconnect": _disconnect,
    }

    def _whole(self, ended: list[Message] | None) -> ev.Event | None:
        """The first of the messages that ended here and lacks text, told whole."""
        while ended and self._messages is not None:
            event = self._messages.whole(ended.pop(0))
            if event is not None:
                self.counts.wholes += 1
                return event
        return None

    # --- joining ---------------------------------------------------------------------------

    def _join(self, event: ev.Event, size: int) -> bool:
        """Add the text of a delta to the last event, if that is one of its kind and message."""
        if not self._kept or not isinstance(event, _DELTAS):
            return False
        tail = self._kept[-1]
        last = tail.event
        if (
            type(last) is not type(event)
            or last.message_id != event.message_id
            or self.queued_bytes + size > self.max_bytes
        ):
            return False
        if tail.pieces is None:
            tail.pieces = StringIO()
            tail.pieces.write(last.text)
        tail.pieces.write(event.text)
        tail.bytes += size
        self.queued_bytes += size
        self._puts_since_take += 1
        self.counts.accepted_events += 1
        self.counts.joined_events += 1
        self.counts.most_bytes = max(self.counts.most_bytes, self.queued_bytes)
        return True

    def _hold_ns(self) -> int:
        """How long the first event waits for more of its kind: not at all if anybody waits for it
        to go, or if it is the first of its message."""
        first = self._kept[0].event
        if len(self._kept) > 1 or self.reason is not None or self._putter is not None:
            return 0
        if not isinstance(first, _DELTAS) or self._last_delta != (type(first), first.message_id):
            return 0
        return self._last_delta_ns + self._window_ns - self._clock_ns()

    # --- waiting ---------------------------------------------------------------------------

    async def _room(self) -> None:
        if self._putter is not None:
            raise RuntimeError("a channel has one producer, and another put is waiting")
        self._putter = asyncio.get_running_loop().create_future()
        since_ns = self._clock_ns()
        _wake(self._getter)
        try:
            await self._putter
        finally:
            self._putter = None
            self.counts.waited_ns += self._clock_ns() - since_ns

    async def _news(self) -> None:
        if self._getter is not None:
            raise RuntimeError("a channel has one consumer, and another get is waiting")
        loop = asyncio.get_running_loop()
        self._getter = getter = loop.create_future()
        timer = None
        if self._kept:
            timer = loop.call_later(self._hold_ns() / 1_000_000_000, _wake, getter)
        try:
            await getter
        finally:
            self._getter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        _wake(self._putter)
        _wake(self._getter)


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
