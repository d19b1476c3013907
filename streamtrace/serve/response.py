"""One stream to one client: the only writer of its connection.

Rules that hold here:

* The head leaves at once, and the first event before the agent has said anything.
* Whatever is due goes in one message of the server; nothing waits for more to come.
* A ping is written only while nothing is due, and between frames; never after the end.
* Whoever stops reading is given up: a send that takes longer than `send_timeout_s` is as a client
  who left. `receive` is read here, and nowhere else, for the client's leaving.
* What happens to the run then is the run's own business (`Run.client_left`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from streamtrace.core.delivery import CURRENT_DELIVERY
from streamtrace.core.errors import ConfigError
from streamtrace.core.events import Event
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Dialect, Encoder, Envelope
from streamtrace.serve.run import Run
from streamtrace.serve.wire import PING, as_sse, written

MAX_MESSAGE_BYTES = 64 * 1024
"""About the most that is handed to the server at once, if more is due."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]

HEADERS: Mapping[str, str] = {
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream is written.

    heartbeat_s     a ping after so long without an event; `None`: none
    send_timeout_s  how long a client may leave a message unread, once all buffers are full
    """

    heartbeat_s: float | None = 15.0
    send_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if self.send_timeout_s <= 0 or (self.heartbeat_s is not None and self.heartbeat_s <= 0):
            raise ConfigError("heartbeat_s and send_timeout_s must be over 0")


class EventStream(Response):
    """The answer that streams a run: return it from any Starlette or FastAPI route.

    `run` was started by `Runs.start`. After the stream, `await stream.summary()` says how it went.
    """

    def __init__(
        self,
        run: Run,
        dialect: str | Dialect = "ag-ui",
        *,
        envelope: Envelope | None = None,
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.dialect = written(dialect)
        self.run = run
        self.status_code = 200
        self.background = None
        self.body = b""
        self.media_type = self.dialect.media_types[0]
        self._delivery = delivery
        self._envelope = envelope or envelope_of(run)
        self.init_headers(
            {
                **HEADERS,
                "content-type": self.media_type,
                "x-run-id": run.run_id,
                "x-thread-id": run.context.thread_id,
                **self.dialect.response_headers,
                **(headers or {}),
            }
        )
        del self.headers["content-length"]

    async def summary(self) -> RunSummary:
        """How the run went, once it is over."""
        return await asyncio.shield(self.run.finished)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream it. Returns when the client has it all, or has left and the run is dealt with."""

        async def put(body: bytes) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async def head() -> None:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )

        async def tail() -> None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        def writer() -> SseWriter:
            return SseWriter(self.dialect.encoder(self._envelope), put, head, tail)

        await deliver(self.run, writer, left, self._delivery)


class Writer(Protocol):
    """Where the events of a run go: one wire, one client."""

    async def open(self) -> None:
        """What comes before all events."""

    async def write(self, first: Event, run: Run) -> None:
        """The event, and what else is due."""

    async def ping(self) -> None:
        """A sign of life."""

    async def close(self) -> None:
        """What the wire writes last."""


class SseWriter:
    """Frames as an SSE body."""

    def __init__(
        self,
        encoder: Encoder,
        put: Callable[[bytes], Awaitable[None]],
        head: Callable[[], Awaitable[None]],
        tail: Callable[[], Awaitable[None]],
    ) -> None:
        self._encoder = encoder
        self._put = put
        self._head = head
        self._tail = tail

    async def open(self) -> None:
        """The head of the response."""
        await self._head()

    async def write(self, first: Event, run: Run) -> None:
        """The event, and what else is due."""
        body = as_sse(self._encoder.encode(first))
        while len(body) < MAX_MESSAGE_BYTES and (event := run.channel.get_nowait()) is not None:
            body += as_sse(self._encoder.encode(event))
        if body:
            await self._put(body)

    async def ping(self) -> None:
        """A sign of life."""
        await self._put(PING)

    async def close(self) -> None:
        """What the wire writes last."""
        body = as_sse(self._encoder.close())
        if body:
            await self._put(body)
        await self._tail()


def envelope_of(run: Run) -> Envelope:
    """What a wire wants written of a run, from what is known of it."""
    asked = run.context.input
    model = asked.get("model") if isinstance(asked, dict) else None
    return Envelope(
        run_id=run.run_id,
        thread_id=run.context.thread_id,
        message_id=run.context.message_id,
        model=model if isinstance(model, str) else "agent",
        created_s=int(time.time()),
    )


async def deliver(
    run: Run,
    make_writer: Callable[[], Writer],
    left: Callable[[], Awaitable[None]],
    delivery: Delivery,
) -> bool:
    """Write the run until its end; `False` if the client left before it.

    `left` returns when the client is gone. Raises what encoders raise, after the run was stopped.
    """
    observed = CURRENT_DELIVERY.get()
    if observed is not None:
        observed.policy = run.policy
    writing = asyncio.create_task(_write(run, make_writer, delivery))
    leaving = asyncio.ensure_future(left())
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        is_whole = writing.done() and writing.result()
    except OSError:  # of `send`: some servers say so that the client is gone
        is_whole = False
    except BaseException:  # the server cancelled the request, or an encoder failed
        run.channel.abandon()  # nobody reads it any more
        run.stop("cancelled")
        raise
    finally:
        for task in (writing, leaving):
            task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(writing, leaving, return_exceptions=True)
        if observed is not None:  # over a WebSocket, of all runs together
            observed.dropped_events += run.channel.counts.dropped_events
            observed.dropped_chars += run.channel.counts.dropped_chars
            observed.joined_events += run.channel.counts.joined_events
    if not is_whole:
        run.client_left()
    if run.context.cancel.is_set or is_whole:
        await run.gone()
    return is_whole


async def _write(run: Run, make_writer: Callable[[], Writer], delivery: Delivery) -> bool:
    """Write until the end: true. False: the client reads no more."""
    channel = run.channel
    waits_s = delivery.heartbeat_s
    writer = make_writer()
    try:
        async with asyncio.timeout(delivery.send_timeout_s):
            await writer.open()
        while True:
            event = channel.get_nowait()
            if event is None:
                try:
                    async with asyncio.timeout(waits_s):
                        event = await channel.get()
                except TimeoutError:
                    async with asyncio.timeout(delivery.send_timeout_s):
                        await writer.ping()
                    continue
                if event is None:
                    break
            async with asyncio.timeout(delivery.send_timeout_s):
                await writer.write(event, run)
        if channel.reason != "finished":
            return False  # a stream that was cut must not look whole
        async with asyncio.timeout(delivery.send_timeout_s):
            await writer.close()
    except TimeoutError:
        return False
    return True
