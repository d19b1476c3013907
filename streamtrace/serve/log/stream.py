"""A run, told to one of its followers: the only writer of its connection.

Rules that hold here:

* Every entry leaves with its number, whole, and what is missing is told in its place.
* A ping is written only while nothing is due, and between frames. Who stops reading is given up
  after `send_timeout_s`, and may come back for the rest.
* A stream that ends without the end of its run ends between two frames: its client asks again.
* Nothing waits for a follower, and no follower for another. Whoever leaves is counted out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from streamtrace.core.delivery import CURRENT_DELIVERY, DeliveryCounts
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.core.served import SERVED
from streamtrace.core.summary import ConnectionKind, RunConnection
from streamtrace.dialects.base import Dialect
from streamtrace.serve.log.follow import Follower, Part
from streamtrace.serve.log.recorder import error_frames
from streamtrace.serve.log.runs import Found, Hosted, LoggedRuns
from streamtrace.serve.response import HEADERS, Delivery, Receive, Scope, Send
from streamtrace.serve.wire import PING, as_sse

RETRY_MS = 1000
"""What clients are told to wait before they come back."""
ORPHANED = "The server that made this answer is gone."


class FollowStream(Response):
    """The answer that tells a run to a follower.

    kind         of connection, as it is observed
    ids          what stands before the numbers: empty, or the run's id and a colon
    is_cut_at_gap  the stream ends where something is missing
    first        what is due at once
    """

    def __init__(
        self,
        runs: LoggedRuns,
        found: Found,
        follower: Follower,
        dialect: Dialect,
        *,
        kind: ConnectionKind,
        location: str,
        ids: str = "",
        is_cut_at_gap: bool = False,
        first: Part | None = None,
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.media_type = dialect.media_types[0]
        meta = found.meta
        self.init_headers(
            {
                **HEADERS,
                "content-type": self.media_type,
                "x-run-id": meta.run_id,
                "x-thread-id": meta.thread_id,
                "content-location": f"{quote(location)}/{quote(meta.run_id, safe='')}",
                **dialect.response_headers,
            }
        )
        del self.headers["content-length"]
        self._runs = runs
        self._found = found
        self._follower = follower
        self._dialect = dialect
        self._ids = b"id: " + ids.encode()
        self._is_cut_at_gap = is_cut_at_gap
        self._first = first
        self._delivery = delivery
        self._came_at = found.last_id
        self._is_ended = False
        self._connection = RunConnection(
            kind=kind,
            run_id=meta.run_id,
            thread_id=meta.thread_id,
            traceparent=meta.traceparent,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell it. Raises Refusal (429) before anything is sent."""
        kind, hosted = self._connection.kind, self._found.hosted
        with self._runs.following(self._found.key, began_it=kind == "start"):
            observed = CURRENT_DELIVERY.get()
            if observed is not None:
                observed.policy = "block"
                observed.connection = self._connection
            SERVED.resumes += kind == "resume"
            if hosted is not None:
                hosted.attendance.join()
            is_whole = False
            try:
                is_whole = await self._deliver(receive, send)
            finally:
                if hosted is not None:
                    hosted.attendance.leave(began_it=kind == "start", is_whole=is_whole)
                    if kind == "start" and not is_whole:
                        self._detach(hosted, observed)
        if hosted is not None and kind == "start" and hosted.recorder.run.context.cancel.is_set:
            await hosted.recorder.run.gone()

    def _detach(self, hosted: Hosted, observed: DeliveryCounts | None) -> None:
        """The client has left that began the run: what it does not see is told nevertheless."""
        run = hosted.recorder.run
        if run.context.cancel.reason != "disconnected" and observed is not None:
            self._connection.is_detached = True
            run.finished.add_done_callback(lambda run: observed.tell_rest(run.result()))

    async def _deliver(self, receive: Receive, send: Send) -> bool:
        """True if the client has got all there is."""

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        writing = asyncio.create_task(self._write(send))
        ending = {writing, asyncio.create_task(left())}
        if self._found.hosted is None:  # another replica will tell the rest
            ending.add(asyncio.create_task(self._drained()))
        try:
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            return writing.done() and writing.result()
        except OSError:  # of `send`: some servers say so that the client is gone
            return False
        finally:
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            if self._runs.runs.is_draining and not self._is_ended:
                with contextlib.suppress(TimeoutError, OSError):
                    await self._send(send, b"", more_body=False)

    async def _drained(self) -> None:
        await self._runs.runs.draining.wait()

    async def _write(self, send: Send) -> bool:
        follower, waits_s = self._follower, self._delivery.heartbeat_s
        try:
            async with asyncio.timeout(self._delivery.send_timeout_s):
                await send(
                    {
                        "type": "http.response.start",
                        "status": self.status_code,
                        "headers": self.raw_headers,
                    }
                )
            await self._send(send, b"retry: %d\n\n" % RETRY_MS)
            part = self._first
            while True:
                if part is None:
                    part = await follower.next(waits_s)
                if part is None and follower.end is not None:
                    break
                if part is not None and part.missed and self._is_cut_at_gap:
                    break
                await self._send(send, PING if part is None else self._bytes(part))
                part = None
            await self._send(send, self._last_words(), more_body=False)
            self._is_ended = True
        except TimeoutError:  # of `send`
            return False
        return follower.end in ("finished", "orphaned")

    async def _send(self, send: Send, body: bytes, *, more_body: bool = True) -> None:
        async with asyncio.timeout(self._delivery.send_timeout_s):
            await send({"type": "http.response.body", "body": body, "more_body": more_body})

    def _bytes(self, part: Part) -> bytes:
        connection, ids, lines = self._connection, self._ids, []
        if part.missed:
            SERVED.gaps += 1
            SERVED.gap_events += part.missed
            connection.gap_events += part.missed
            first = part.entries[0].id if part.entries else self._follower.cursor + 1
            lines.append(gap_frame(ids, first - 1 - part.missed, part.missed))
        replayed = 0
        for entry in part.entries:
            lines.append(b"%b%d\n%b" % (ids, entry.id, entry.data))
            replayed += entry.id <= self._came_at
        if connection.kind != "start":
            connection.replayed_events += replayed
            SERVED.replayed_events += replayed
        return b"".join(lines)

    def _last_words(self) -> bytes:
        if self._follower.end != "orphaned":
            return b""
        self._runs.note_orphan(self._found.key)
        return as_sse(error_frames(self._dialect, self._found.meta, "orphaned", ORPHANED))


def gap_frame(ids: bytes, after: int, missed: int) -> bytes:
    """That so many events behind `after` are missing: an event that AG-UI knows as a custom one.

    Its id is that of the last one missing, so that they are not asked for again.
    """
    value: Mapping[str, object] = {
        "type": "CUSTOM",
        "name": "gap",
        "value": {"after": after, "missed": missed},
    }
    data = encode_frame(Frame(event="gap", data=msgspec.json.encode(value)))
    return b"%b%d\n%b" % (ids, after + missed, data)
