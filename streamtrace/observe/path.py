"""The path of one HTTP request and its response: every message between the app and the server.

Rules that hold here:

* Every message goes on as the same object, in the same order, whatever happens on our side.
* Per chunk: a look at the clock, a note in the tap, and a second look where `send` waits (at once
  and later look alike to Python, which looks each time). Nothing else happens to a chunk of bytes
  in an open stream, so `observed_send` is written out for that case, call by call; compiled, it is
  the `Sender` of `streamtrace.speedups`. Per message of any other response: one check.
* What has slots here are no cells of closures: fewer objects per stream for the garbage collector
  to walk through.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from streamtrace.core import compiled
from streamtrace.observe.asgi_types import Message, Receive, Send
from streamtrace.observe.exchange import Exchange
from streamtrace.observe.stream import Stream
from streamtrace.observe.tap import ENTRY_BYTES, SHUT, Tap

_clock = time.perf_counter_ns


class HttpPath:
    """One request. `open_stream` is asked, of the head of the response, whether it is a stream."""

    __slots__ = ("_exchange", "_max_request_bytes", "_open", "_receive", "_send", "stream", "tap")

    def __init__(
        self,
        exchange: Exchange,
        open_stream: Callable[[Exchange, Message], Stream | None],
        receive: Receive,
        send: Send,
        max_request_bytes: int,
    ) -> None:
        self.stream: Stream | None = None
        """Once the response turned out to be one."""
        self.tap: Tap = SHUT
        """That of the stream, until its final body."""
        self._exchange = exchange
        self._open: Callable[[Exchange, Message], Stream | None] | None  # until it is decided
        self._open = open_stream
        self._receive = receive
        self._send = send
        self._max_request_bytes = max_request_bytes

    async def receive(self) -> Message:
        """Pass the message on."""
        message = await self._receive()
        kind = message.get("type")
        if kind == "http.disconnect":
            self._exchange.disconnected_ns = _clock()
        elif kind == "http.request":
            self._exchange.note_body(message.get("body"), self._max_request_bytes)
        return message

    def sender(self) -> Send:
        """The app's `send`."""
        return sender(self._send, self, self._exchange, SHUT)

    async def send_unusual(self, message: Message) -> None:
        """The head, the end, what does not fit, and what is no chunk of bytes."""
        tap, kind = self.tap, message.get("type")
        if tap is not SHUT and kind == "http.response.body":
            at_ns = _clock()
            is_noted = tap.push(at_ns, message.get("body", b""))
            await timed(self._send, message, at_ns, self._exchange, tap, is_noted=is_noted)
            if not message.get("more_body", False):
                assert self.stream is not None
                self.tap = SHUT
                self.stream.final(at_ns, self._exchange.gone_ns(at_ns))
            return
        if self._open is not None and kind == "http.response.start":
            opening, self._open = self._open, None
            self.stream = opening(self._exchange, message)
            if self.stream is not None:
                self.tap = self.stream.tap
        await self._send(message)


async def timed(
    send: Send, message: Message, at_ns: int, exchange: Exchange, tap: Tap, *, is_noted: bool
) -> None:
    """Send it at `at_ns`, and tell how long that took."""
    try:
        await send(message)
    except OSError:
        exchange.disconnected_ns = at_ns
        raise
    finally:
        tap.sent(at_ns, _clock(), is_noted)


def sender_in_python(send: Send, path: HttpPath, exchange: Exchange, shut: Any) -> Send:
    """Passes messages on, and notes the chunks of bytes of an open stream."""
    tap: Any = shut
    append, append_sent = tap.append, tap.append_sent

    async def observed_send(message: Message) -> None:
        nonlocal tap, append, append_sent
        try:
            body = message["body"]
            more_body = message["more_body"]
            size = len(body) + ENTRY_BYTES
        except (KeyError, TypeError):
            more_body = False
        if (
            not more_body
            or body.__class__ is not bytes
            or (tap.room_bytes < size and not tap.make_room(size))
        ):
            await path.send_unusual(message)
            tap = path.tap
            append, append_sent = tap.append, tap.append_sent
            return
        tap.room_bytes -= size
        at_ns = _clock()
        append(at_ns)
        append(body)
        try:
            await send(message)
        except OSError:
            exchange.disconnected_ns = at_ns
            raise
        finally:
            append_sent(_clock())

    return observed_send


sender: Callable[[Send, HttpPath, Exchange, Any], Send] = compiled.Sender or sender_in_python
