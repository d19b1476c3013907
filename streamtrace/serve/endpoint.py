"""An agent behind a path: the doors, then the request, then the stream.

Rules that hold here:

* Nothing of an agent is started before the request was let in and read.
* A refusal is an answer with a 4xx or 5xx, a short code and a fixed sentence, never a stream.
* What a limit gave is given back when the run is over, however it ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, cast, get_args
from urllib.parse import parse_qsl

import msgspec

from streamtrace.core.errors import ConfigError, Disconnected, Refusal
from streamtrace.dialects.base import Dialect
from streamtrace.serve.answers import retry_later, send_json, send_refusal
from streamtrace.serve.asked import context_of
from streamtrace.serve.auth import Auth, AuthRequest, User, authenticate
from streamtrace.serve.body import MAX_BYTES, TIMEOUT_S, checked_id, read_json
from streamtrace.serve.callers import address_of
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.filters import Granularity, filters_for
from streamtrace.serve.response import Delivery, EventStream, Receive, Scope, Send
from streamtrace.serve.run import Run, Settings
from streamtrace.serve.runs import Draining, Runs
from streamtrace.serve.stages import Stage
from streamtrace.serve.wire import written

DIALECT_PARAMETER = "dialect"
GRANULARITY_PARAMETER = "granularity"

NotFound = Refusal(404, "not_found", "There is no such run.")
_METHOD = Refusal(405, "method_not_allowed", "This method is not served here.", {"Allow": "POST"})
RunTaken = Refusal(409, "run_exists", "A run of this id is under way.")
_GRANULARITY = Refusal(400, "unknown_granularity", "This granularity is not served here.")
_DIALECT = Refusal(400, "unknown_dialect", "This vocabulary is not served here.")


class Rate(Protocol):
    """What `RateLimit` is to a door."""

    async def check(self, user: User | None, address: str | None = None) -> None:
        """Count a request. Raises Refusal."""


class Slots(Protocol):
    """What `Concurrency` is to a door."""

    def slot(
        self, user: User | None, address: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """A slot, for the time of the block. Raises Refusal."""


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """Who is let in, and with how much.

    auth             who asks; `None`: anybody
    rate             how often a user may start runs: a `RateLimit`
    concurrency      how many a user may have at once: a `Concurrency`
    max_body_bytes   of the request
    body_timeout_s   for the request's body to arrive
    """

    auth: Auth | None = None
    rate: Rate | None = None
    concurrency: Slots | None = None
    max_body_bytes: int = MAX_BYTES
    body_timeout_s: float = TIMEOUT_S

    async def enter(self, scope: Scope, receive: Receive | None) -> tuple[AuthRequest, User | None]:
        """The request, read, and its user. Raises Refusal, Disconnected."""
        body: Any = None
        if receive is not None:
            body = await read_json(
                receive,
                scope["headers"],
                max_bytes=self.max_body_bytes,
                timeout_s=self.body_timeout_s,
            )
        asked = AuthRequest.of(scope, body)
        user = None if self.auth is None else await authenticate(self.auth, asked)
        return asked, user

    @contextlib.asynccontextmanager
    async def admitted(self, user: User | None, scope: Scope) -> AsyncIterator[None]:
        """For the time of a stream. Raises Refusal if the user asks too often, or for too much."""
        await self.count(user, scope)
        if self.concurrency is None:
            yield
        else:
            async with self.concurrency.slot(user, address_of(scope)):
                yield

    async def count(self, user: User | None, scope: Scope) -> None:
        """One more run of this user. Raises Refusal if that is too often."""
        if self.rate is not None:
            await self.rate.check(user, address_of(scope))


class Endpoint:
    """The ASGI app of one path.

    POST: the body is the agent's input, as JSON. GET, where `allow_get` (for `EventSource`): the
    query is. With several `dialects` the client may choose, by the query's `dialect`; the first is
    meant where it does not. The query's `granularity` says how finely text is cut: `tokens`,
    `batches` or `messages`.
    """

    def __init__(
        self,
        agent: Agent,
        dialects: str | Dialect | Sequence[str | Dialect] = "ag-ui",
        *,
        runs: Runs | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        door: Door = Door(),  # noqa: B008  immutable
        allow_get: bool = False,
        read: Callable[..., RunContext] = context_of,
    ) -> None:
        if not callable(agent):
            raise ConfigError(f"agent must be callable, got {agent!r}")
        names = [dialects] if isinstance(dialects, str | Dialect) else dialects
        self.dialects = [written(name) for name in names]
        if not self.dialects:
            raise ConfigError("dialects is empty: give at least one")
        self.runs = runs or Runs()
        self.delivery = delivery
        self.agent = agent
        self._settings = settings
        self._door = door
        self._allow_get = allow_get
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        async with contextlib.AsyncExitStack() as held:
            try:
                dialect, context, settings = await self.open(scope, receive, held)
                run = begin(self.runs, self.agent, context, settings)
            except Refusal as refusal:
                await self.refuse(refusal, scope, send)
            except Disconnected:
                return
            else:
                await self.answer(run, dialect, scope, receive, send)

    # What a vocabulary may have in a way of its own.

    def settings_of(self, context: RunContext) -> Settings:
        """How this run is kept. Raises Refusal for what may not be asked."""
        return self._settings

    async def refuse(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        """Say that the request is not served."""
        await send_refusal(refusal, scope, send)

    async def answer(
        self, run: Run, dialect: Dialect, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Tell the run to the client."""
        await EventStream(run, dialect, delivery=self.delivery)(scope, receive, send)

    async def open(
        self, scope: Scope, receive: Receive, held: contextlib.AsyncExitStack
    ) -> tuple[Dialect, RunContext, Settings]:
        """What is asked, by whom: let in, and read. Raises Refusal, Disconnected."""
        method = scope["method"]
        if method != "POST" and not (self._allow_get and method == "GET"):
            raise _METHOD
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        dialect = self._dialect(query.pop(DIALECT_PARAMETER, None))
        filters = _filters(query.pop(GRANULARITY_PARAMETER, None))
        asked, user = await self._door.enter(scope, receive if method == "POST" else None)
        context = self._read(
            asked.body if method == "POST" else query,
            headers=asked.headers,
            path_params=scope.get("path_params", {}),
            user=user,
        )
        await held.enter_async_context(self._door.admitted(user, scope))
        settings = self.settings_of(context)
        if filters:
            settings = msgspec.structs.replace(settings, filters=(*settings.filters, *filters))
        return dialect, context, settings

    def _dialect(self, name: str | None) -> Dialect:
        if name is None:
            return self.dialects[0]
        for dialect in self.dialects:
            if dialect.name == name:
                return dialect
        raise _DIALECT


def _filters(granularity: str | None) -> tuple[Callable[[object], Stage], ...]:
    if granularity is None:
        return ()
    if granularity not in get_args(Granularity):
        raise _GRANULARITY
    return filters_for(cast("Granularity", granularity))


def begin(runs: Runs, agent: Agent, context: RunContext, settings: Settings) -> Run:
    """Start a run. Raises Refusal: 503 while the server drains, 409 for an id under way, 400 for
    what is no id."""
    try:
        return runs.start(agent, context, settings)
    except Draining as draining:
        raise shut(draining) from None
    except KeyError:
        raise RunTaken from None


def shut(draining: Draining) -> Refusal:
    """The answer of a server that shuts down."""
    return retry_later(503, "draining", "The server is shutting down.", draining.retry_after_s)


class StopEndpoint:
    """`POST …/{run_id}/stop`: end a run. To stop what was stopped does no harm.

    A run of somebody else's is not found.
    """

    def __init__(self, runs: Runs, door: Door = Door()) -> None:  # noqa: B008  immutable
        self._runs = runs
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: `{"run_id", "stopped"}`."""
        try:
            answer = await self._stop(scope)
        except Refusal as refusal:
            await send_refusal(refusal, scope, send)
        else:
            await send_json(answer, send)

    async def _stop(self, scope: Scope) -> Mapping[str, Any]:
        if scope["method"] != "POST":
            raise _METHOD
        _, user = await self._door.enter(scope, None)
        run_id = checked_id(scope.get("path_params", {}).get("run_id"))
        run = self._runs.get(run_id)
        if run is None or not is_of(run, user):
            raise NotFound
        return {"run_id": run_id, "stopped": run.stop("stopped")}


def is_of(run: Run, user: User | None) -> bool:
    """Whether the run is that user's: of the same id, in the same tenant."""
    owner = run.context.user
    if owner is None or user is None:
        return owner is user
    return (owner.tenant, owner.id) == (user.tenant, user.id)
