"""Runs over HTTP that outlive their connection: started, followed, resumed and stopped.

The contract is in docs/resume.md. Rules that hold here:

* Who asks for a run is let in as at its start. Not yours is not found.
* To follow is not to start: it costs no start of a limit, and has a bound of its own.
* A cursor is understood, or refused. What lies behind it is told exactly, or told as missing.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from streamtrace.core.errors import ConfigError, Disconnected, Refusal
from streamtrace.core.summary import iso_utc
from streamtrace.dialects.base import Dialect
from streamtrace.serve.answers import send_json, send_refusal
from streamtrace.serve.auth import AuthRequest, User
from streamtrace.serve.body import checked_id
from streamtrace.serve.endpoint import Door, Endpoint, NotFound, shut
from streamtrace.serve.log.follow import Follower
from streamtrace.serve.log.runs import Found, LoggedRuns
from streamtrace.serve.log.stream import FollowStream
from streamtrace.serve.response import Delivery, Receive, Scope, Send
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Draining

CURSOR_PARAMETER = "after"
GAP_PARAMETER = "gap"

_CURSOR = re.compile(r"(?:(.{1,1024}):)?([0-9]{1,15})")
_BAD_CURSOR = Refusal(400, "bad_cursor", "This is no cursor of this run.")
_BAD_ID = Refusal(400, "invalid_id", "The id of a run must not hold a slash.")
_BAD_GAP = Refusal(400, "unknown_gap", "A gap can be told as an event, or as 410.")
_GAP = Refusal(410, "gap", "Events behind this cursor are missing.")


class RunsEndpoint(Endpoint):
    """`POST …/runs`: an `Endpoint` whose runs are logged, and outlive their request."""

    def __init__(self, agent: Any, dialects: Any, *, logged: LoggedRuns, **options: Any) -> None:
        super().__init__(agent, dialects, runs=logged.runs, **options)
        self._logged = logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with contextlib.AsyncExitStack() as held:
            try:
                dialect, context, settings = await self.open(scope, receive, held)
                if "/" in context.run_id:
                    raise _BAD_ID
                found = await self._logged.start(self.agent, context, settings, dialect, held)
            except Refusal as refusal:
                await send_refusal(refusal, scope, send)
                return
            except Disconnected:
                return
        assert found.hosted is not None
        stream = FollowStream(
            self._logged,
            found,
            Follower(self._logged.log, found.key, 0, found.hosted.recorder.tail),
            dialect,
            kind="start",
            location=scope["path"],
            delivery=self.delivery,
        )
        await stream(scope, receive, send)


class _RunRoute:
    """What the other paths of a run share."""

    method = "GET"

    def __init__(
        self,
        logged: LoggedRuns,
        dialects: list[Dialect],
        door: Door = Door(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
    ) -> None:
        self.logged = logged
        self.delivery = delivery
        self._dialects = {one.name: one for one in reversed(dialects)}
        self._first = dialects[0]
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            if scope["method"] != self.method:
                raise Refusal(
                    405,
                    "method_not_allowed",
                    "This method is not served here.",
                    {"Allow": self.method},
                )
            asked, user = await self._door.enter(scope, None)
            await self.answer(asked, user, receive, send)
        except Refusal as refusal:
            await send_refusal(refusal, scope, send)

    async def answer(
        self, asked: AuthRequest, user: User | None, receive: Receive, send: Send
    ) -> None:
        """Answer who was let in. Raises Refusal before anything is sent."""
        raise NotImplementedError

    async def found(self, asked: AuthRequest, user: User | None) -> Found:
        """The run that the path names. Raises Refusal."""
        run_id = checked_id(asked.scope["path_params"]["run_id"])
        return await self.logged.find(run_id, user)

    def dialect(self, found: Found) -> Dialect:
        """That in which the run was written."""
        return self._dialects.get(found.meta.dialect, self._first)


class RunEvents(_RunRoute):
    """`GET …/runs/{run_id}/events`: what is missing, and then live."""

    below = "/runs/"
    names_run = False
    """Whether ids say of which run they are."""

    async def answer(
        self, asked: AuthRequest, user: User | None, receive: Receive, send: Send
    ) -> None:
        """Stream it, or 204."""
        found = await self.found(asked, user)
        run_id, after = cursor_of(asked) or (None, 0)
        if run_id not in (None, found.key.run_id):
            raise _BAD_CURSOR
        await self.follow(asked, found, after, receive, send)

    async def follow(
        self,
        asked: AuthRequest,
        found: Found,
        after: int,
        receive: Receive,
        send: Send,
    ) -> None:
        """Tell what lies behind `after`. Raises Refusal."""
        gap = _query(asked).get(GAP_PARAMETER, "event")
        if gap not in ("event", "410"):
            raise _BAD_GAP
        hosted, state = found.hosted, found.state
        is_known = hosted is not None or (state is not None and state.phase == "finished")
        if is_known and after > found.last_id:
            raise _BAD_CURSOR
        self._check_open(found)
        tail = None if hosted is None else hosted.recorder.tail
        follower = Follower(self.logged.log, found.key, after, tail)
        first = await follower.next(0)
        if first is None and follower.end == "finished":
            await _send_nothing(send)
            return
        if first is not None and first.missed and gap == "410":
            raise _GAP
        stream = FollowStream(
            self.logged,
            found,
            follower,
            self.dialect(found),
            kind="resume" if after else "follow",
            location=f"{asked.scope['path'].rpartition(self.below)[0]}/runs",
            ids=f"{found.key.run_id}:" if self.names_run else "",
            is_cut_at_gap=gap == "410",
            first=first,
            delivery=self.delivery,
        )
        await stream(asked.scope, receive, send)

    def _check_open(self, found: Found) -> None:
        """A server that shuts down tells what is here to its end, and nothing else."""
        if found.hosted is None:
            try:
                self.logged.runs.check_open()
            except Draining as draining:
                raise shut(draining) from None


class ThreadEvents(RunEvents):
    """`GET …/threads/{thread_id}/events`: the run that the thread began last."""

    below = "/threads/"
    names_run = True

    async def answer(
        self, asked: AuthRequest, user: User | None, receive: Receive, send: Send
    ) -> None:
        """Stream it, or 204 where there is none that is live, and the client followed none."""
        thread_id = checked_id(asked.scope["path_params"]["thread_id"])
        cursor = cursor_of(asked)
        if cursor is not None and cursor[0] is None:
            raise _BAD_CURSOR
        run_id = await self.logged.current(thread_id, user)
        found = None if run_id is None else await self._found(run_id, user)
        if found is None or (cursor is None and found.hosted is None and not _is_live(found)):
            await _send_nothing(send)
            return
        after = cursor[1] if cursor is not None and cursor[0] == run_id else 0
        await self.follow(asked, found, after, receive, send)

    async def _found(self, run_id: str, user: User | None) -> Found | None:
        try:
            return await self.logged.find(run_id, user)
        except Refusal as refusal:
            if refusal is NotFound:
                return None
            raise


class StopRun(_RunRoute):
    """`POST …/runs/{run_id}/stop`: end a run, wherever it is."""

    method = "POST"

    async def answer(
        self, asked: AuthRequest, user: User | None, receive: Receive, send: Send
    ) -> None:
        """`{"run_id", "stopped"}`."""
        found = await self.found(asked, user)
        stopped = await self.logged.stop(found)
        await send_json({"run_id": found.key.run_id, "stopped": stopped}, send)


class RunStatus(_RunRoute):
    """`GET …/runs/{run_id}`: how the run stands, and its record once it has finished."""

    async def answer(
        self, asked: AuthRequest, user: User | None, receive: Receive, send: Send
    ) -> None:
        """As docs/resume.md says."""
        found = await self.found(asked, user)
        meta = found.meta
        told = {
            "run_id": meta.run_id,
            "thread_id": meta.thread_id,
            "dialect": meta.dialect,
            "started_at": iso_utc(meta.started_at_ns),
            "last_event_id": str(found.last_id),
            **_standing(found),
        }
        await send_json(told, send)


def cursor_of(asked: AuthRequest) -> tuple[str | None, int] | None:
    """The run and the number of the cursor, where there is one. Raises Refusal (400)."""
    text = asked.headers.get("last-event-id") or _query(asked).get(CURSOR_PARAMETER)
    if not text:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise _BAD_CURSOR
    return found[1], int(found[2])


def logged_settings(settings: Settings | None, default: Settings) -> Settings:
    """How logged runs are kept: as they are told to, else as all others, but that a client's
    leaving does not end them. Raises ConfigError."""
    if settings is None:
        settings = default
        if settings.on_disconnect == "cancel":
            settings = msgspec.structs.replace(settings, on_disconnect="continue")
    if settings.policy != "block":
        raise ConfigError(
            f"policy of logged runs is 'block', got {settings.policy!r}: nobody waits for a slow"
            " client, since it reads from the log"
        )
    return settings


def _standing(found: Found) -> dict[str, Any]:
    hosted, state = found.hosted, found.state
    if hosted is not None:
        run = hosted.recorder.run
        is_over = run.finished.done()
        return {
            "state": "finished" if is_over else "live",
            "stop_requested": run.context.cancel.is_set,
            "summary": hosted.recorder.told_of(run.finished.result()).to_dict()
            if is_over
            else None,
        }
    assert state is not None
    return {
        "state": state.phase,
        "stop_requested": state.is_stopped,
        "summary": None if state.outcome is None else msgspec.Raw(state.outcome),
    }


def _is_live(found: Found) -> bool:
    return found.state is not None and found.state.phase == "live"


def _query(asked: AuthRequest) -> dict[str, str]:
    return dict(parse_qsl(asked.scope["query_string"].decode("latin-1")))


async def _send_nothing(send: Send) -> None:
    headers = [(b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
