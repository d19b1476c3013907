"""The events of one run over as many connections as it takes.

Rules that hold here:

* A run has ended when the server says so: by 204, or by a frame that is not of the run and then the
  end. The end of a connection is never taken for it.
* Bytes are read when an event is asked for: a slow reader holds back the network, not memory.
* Waiting always has an end: for bytes, for the next attempt, and for attempts that bring nothing.
"""

from __future__ import annotations

import contextlib
from asyncio import sleep
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import msgspec

from streamtrace.client.backoff import Backoff, is_worth_another
from streamtrace.client.cursor import Cursor, GapEvent, RunEvent
from streamtrace.core.errors import ConnectionLost, MissingExtra, RunRefused
from streamtrace.core.frames import FrameParser

try:
    import httpx2
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "httpx2", "client") from None

if TYPE_CHECKING:
    from streamtrace.client.client import RunClient

MAX_FRAME_BYTES = 16 * 1024 * 1024
_CONFLICT = 409
_NO_CONTENT = 204


class Waiting(msgspec.Struct, frozen=True):
    """A pause between two connections: how long, which in a row without anything new, and why."""

    delay_s: float
    attempt: int
    cause: Exception | None


class RunStream:
    """`async with client.start(…) as run`, then `async for event in run`, once.

    Entering connects; leaving lets go of the connection, and the run goes on if its server lets it.
    Both raise RunRefused and ConnectionLost; reading also ClientError for what is no stream of a
    run.
    """

    def __init__(
        self,
        client: RunClient,
        path: str,
        run_id: str | None,
        *,
        body: bytes | None = None,
        after: int = 0,
        on_waiting: Callable[[Waiting], None] | None = None,
    ) -> None:
        self.thread_id: str | None = None
        self._client = client
        self._path = path
        self._run_id = run_id
        self._body = body
        self._on_waiting = on_waiting
        self._cursor = Cursor(after)
        self._backoff = Backoff(client.max_attempts)
        self._attempts = 0
        self._answer: httpx2.Response | None = None
        self._is_over = False
        self._events = self._read()

    @property
    def run_id(self) -> str | None:
        """The id of the run; `None` until it is known, for a thread may have none."""
        return self._run_id or self._cursor.run_id

    @property
    def last_id(self) -> int:
        """The number of the last event that was told."""
        return self._cursor.last_id

    async def stop(self) -> bool:
        """Ask the server to stop the run; its last events and its end still come."""
        return self.run_id is not None and await self._client.stop(self.run_id)

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the connection."""
        await self._events.aclose()
        self._is_over = True
        await self._hang_up()

    def __aiter__(self) -> AsyncIterator[RunEvent | GapEvent]:
        """What the run says, and what is missing."""
        return self._events

    async def _read(self) -> AsyncGenerator[RunEvent | GapEvent, None]:
        while self._answer is not None or await self._connect():
            assert self._answer is not None
            before, cause = self.last_id, None
            try:
                async with contextlib.aclosing(self._told(self._answer)) as events:
                    async for event in events:
                        yield event
            except httpx2.TransportError as error:
                cause = error
            await self._hang_up()
            if self._is_over:
                return
            if self.last_id > before:
                self._backoff.failures = 0
            if cause is not None or self.last_id == before:  # else ask at once if that was all
                await self._pause(cause)

    async def _told(self, answer: httpx2.Response) -> AsyncGenerator[RunEvent | GapEvent, None]:
        parser = FrameParser(MAX_FRAME_BYTES)
        async with contextlib.aclosing(answer.aiter_bytes()) as chunks:
            async for chunk in chunks:
                for frame in parser.feed(chunk):
                    if frame.retry is not None:
                        self._backoff.retry_s = frame.retry / 1000
                    self._is_over |= frame.data is not None and frame.id is None
                    for event in self._cursor.read(frame):
                        yield event

    async def _connect(self) -> bool:
        """An answer that streams, after as many attempts as it takes; `False` if it is over."""
        while not self._is_over:
            try:
                self._answer = await self._attempt()
            except RunRefused as refusal:
                if self._may_have_begun(refusal):
                    self._follow(self._run_id)
                elif is_worth_another(refusal, is_start=self._body is not None):
                    await self._pause(refusal)
                else:
                    raise
            except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol):
                raise  # what was asked cannot be sent, now or later
            except httpx2.TransportError as error:
                await self._pause(error)
            else:
                self._is_over = self._answer is None
                return not self._is_over
        return False

    async def _attempt(self) -> httpx2.Response | None:
        self._attempts += 1
        headers = {"accept": "text/event-stream"}
        if self._body is not None:
            headers["content-type"] = "application/json"
        if self.last_id:
            headers["last-event-id"] = str(self.last_id)
        method = "GET" if self._body is None else "POST"
        answer = await self._client.ask(method, self._path, headers, self._body)
        if answer.status_code == _NO_CONTENT:
            await answer.aclose()
            return None
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aclose()
            raise RunRefused(answer.status_code, "no_event_stream", "the answer is no event stream")
        self.thread_id = answer.headers.get("x-thread-id", self.thread_id)
        self._follow(answer.headers.get("x-run-id", self.run_id))
        return answer

    def _may_have_begun(self, refusal: RunRefused) -> bool:
        """Whether an earlier attempt, of which no answer came, has begun the run."""
        return refusal.status == _CONFLICT and self._body is not None and self._attempts > 1

    def _follow(self, run_id: str | None) -> None:
        """From now on, follow that run."""
        self._run_id, self._body = run_id, None
        if run_id is not None:
            self._path = events_of(run_id)

    async def _pause(self, cause: Exception | None) -> None:
        delay_s = self._backoff.next_delay_s(cause)
        if delay_s is None:
            raise ConnectionLost(self.run_id, self.last_id) from cause
        if self._on_waiting is not None:
            self._on_waiting(Waiting(delay_s, self._backoff.failures, cause))
        await sleep(delay_s)

    async def _hang_up(self) -> None:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            await answer.aclose()


def events_of(run_id: str) -> str:
    """The path of a run's events."""
    return f"/runs/{quoted(run_id)}/events"


def quoted(value: str) -> str:
    """An id as a part of a path."""
    return quote(value, safe="")
