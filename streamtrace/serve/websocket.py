"""An agent behind a WebSocket: the frames of a dialect as JSON messages, and words from the client.

From the client, each a JSON object:

    {"type": "stop"}             end the run that is under way
    {"type": "resume", …}        answer what the run before asked for: `resume` goes to the agent
    anything else                the input of the next run

Rules that hold here:

* One run at a time. Who asks for another meanwhile gets an error message, and the run goes on.
* Messages are bounded, and read while a run is under way: `stop` does not wait for its turn.
* The connection outlives its runs; it ends when the client leaves, or is too slow.
* Each run counts for the door's rate, the first at the handshake. A connection has one of the
  door's slots for as long as it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from streamtrace.core.errors import Refusal
from streamtrace.core.events import Event
from streamtrace.core.jsonio import dump_json, load_json
from streamtrace.dialects.base import Dialect, Encoder
from streamtrace.serve.answers import send_refusal
from streamtrace.serve.asked import context_of
from streamtrace.serve.auth import AuthRequest, User
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.endpoint import Door, begin
from streamtrace.serve.response import Delivery, Receive, Scope, Send, deliver, envelope_of
from streamtrace.serve.run import Run, Settings
from streamtrace.serve.runs import Runs
from streamtrace.serve.wire import as_message, written

_MALFORMED = Refusal(400, "malformed_json", "A message must be a JSON object.")
_TOO_LARGE = Refusal(413, "message_too_large", "The message is larger than is accepted here.")
_BUSY = Refusal(409, "busy", "A run is under way; stop it first.")
_PING = dump_json({"type": "ping"})
_TOO_SLOW = 1013
_CLOSE_TIMEOUT_S = 1.0


class WebSocketEndpoint:
    """The ASGI app of one path. Its door looks at the handshake: a token comes in a header, or as a
    ticket in the query."""

    def __init__(
        self,
        agent: Agent,
        dialect: str | Dialect = "ag-ui",
        *,
        runs: Runs | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        door: Door = Door(),  # noqa: B008  immutable
        read: Callable[..., RunContext] = context_of,
    ) -> None:
        self.dialect = written(dialect)
        self.runs = runs or Runs()
        self._agent = agent
        self._settings = settings
        self._delivery = delivery
        self._door = door
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await receive()  # websocket.connect
        async with contextlib.AsyncExitStack() as held:
            try:
                asked, user = await self._door.enter(scope, None)
                await held.enter_async_context(self._door.admitted(user, scope))
            except Refusal as refusal:
                await send_refusal(refusal, scope, send)
            else:
                await self._serve(asked, user, scope, receive, send)

    async def _serve(
        self, asked: AuthRequest, user: User | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        await send({"type": "websocket.accept"})
        is_counted = True  # the first, at the handshake

        async def start(value: dict[str, Any]) -> Run:
            nonlocal is_counted
            context = self._read(
                value,
                headers=asked.headers,
                path_params=scope.get("path_params", {}),
                user=user,
            )
            if not is_counted:
                await self._door.count(user, scope)
            is_counted = False
            return begin(self.runs, self._agent, context, self._settings)

        await _Connection(self, start, receive, send).serve()

    def encoder(self, run: Run) -> Encoder:
        """A writer of the run's frames."""
        return self.dialect.encoder(envelope_of(run))

    @property
    def max_message_bytes(self) -> int:
        """What a client may send at once."""
        return self._door.max_body_bytes

    @property
    def delivery(self) -> Delivery:
        """How messages are written."""
        return self._delivery


class _Connection:
    def __init__(
        self,
        endpoint: WebSocketEndpoint,
        start: Callable[[dict[str, Any]], Awaitable[Run]],
        receive: Receive,
        send: Send,
    ) -> None:
        self._endpoint = endpoint
        self._start = start
        self._receive = receive
        self._send = send
        self._run: Run | None = None
        self._asked: asyncio.Queue[Run | None] = asyncio.Queue()  # one run, and the end
        self._left = asyncio.Event()

    async def serve(self) -> None:
        """Read and write until the client leaves."""
        reading = asyncio.create_task(self._read())
        try:
            while (run := await self._asked.get()) is not None:
                whole = await deliver(
                    run,
                    partial(self._writer, run),
                    self._gone,
                    self._endpoint.delivery,
                )
                self._run = None
                if not whole and not self._left.is_set():
                    await self._turn_out()
                    return
        finally:
            if self._run is not None:  # the server cancelled us before it was delivered
                self._run.channel.abandon()
                self._run.stop("cancelled")
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await reading

    def _writer(self, run: Run) -> MessageWriter:
        return MessageWriter(self._endpoint.encoder(run), self._text)

    async def _turn_out(self) -> None:
        """Close on a client that is too slow, and may not even read that."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._send({"type": "websocket.close", "code": _TOO_SLOW})

    async def _read(self) -> None:
        try:
            while (message := await self._receive())["type"] != "websocket.disconnect":
                try:
                    await self._obey(self._value(message))
                except Refusal as refusal:
                    error = {"type": refusal.code, "message": refusal.message}
                    await self._text(dump_json({"type": "error", "error": error}))
        finally:  # also if an answer could not be sent
            self._left.set()
            self._asked.put_nowait(None)

    def _value(self, message: Any) -> dict[str, Any]:
        data = message.get("bytes") or (message.get("text") or "").encode()
        if len(data) > self._endpoint.max_message_bytes:
            raise _TOO_LARGE
        value = load_json(data)
        if not isinstance(value, dict):
            raise _MALFORMED
        return value

    async def _obey(self, value: dict[str, Any]) -> None:
        if value.get("type") == "stop":
            if self._run is not None:
                self._run.stop("stopped")
        elif self._run is not None:
            raise _BUSY
        else:
            self._run = await self._start(value)
            self._asked.put_nowait(self._run)

    async def _gone(self) -> None:
        await self._left.wait()

    async def _text(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})


class MessageWriter:
    """Frames as WebSocket messages, one each."""

    def __init__(self, encoder: Encoder, put: Callable[[str], Awaitable[None]]) -> None:
        self._encoder = encoder
        self._put = put

    async def open(self) -> None:
        """Nothing comes before the first event: the connection is open."""

    async def write(self, first: Event, run: Run) -> None:
        """The event."""
        for frame in self._encoder.encode(first):
            text = as_message(frame)
            if text is not None:
                await self._put(text)

    async def ping(self) -> None:
        """A sign of life."""
        await self._put(_PING)

    async def close(self) -> None:
        """What the wire writes last."""
        for frame in self._encoder.close():
            text = as_message(frame)
            if text is not None:
                await self._put(text)
