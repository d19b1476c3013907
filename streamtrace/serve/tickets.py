"""Tickets: how an `EventSource`, which cannot set a header, shows who asks.

A page that is logged in asks for a ticket by POST, and opens `/stream?ticket=...` with it.

Rules that hold here:

* A ticket lets in once, within seconds, at one path. Unknown, used, expired and elsewhere are told
  in the same way, and a ticket that was tried is used.
* A store never holds a ticket, only its hash: who reads the store gets in nowhere.
* A ticket is taken out of the query before anything else is done with the request, in the very
  scope that the server made: so it is not in the server's access log either.
* Tickets in memory are bounded in number and bytes. A full store refuses; it takes no ticket from
  those who hold one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import msgspec

from streamtrace.core.errors import ConfigError, Disconnected, Refusal
from streamtrace.serve.answers import retry_later, send_json, send_refusal
from streamtrace.serve.auth import Auth, AuthRequest, User, authenticate, invalid_token
from streamtrace.serve.body import read_object

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from streamtrace.serve.limits import RateLimit

MAX_TTL_S = 300
MAX_BODY_BYTES = 16 * 1024

_RANDOM_BYTES = 32
_TICKET = re.compile(r"[A-Za-z0-9_-]{43}")
_PATH = re.compile(r"/[\x21-\x7e]{0,1023}")


class TicketStore(Protocol):
    """Where tickets wait to be used. Keys are hashes; values are for `Tickets` alone."""

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """Keep the value for so long. Raises Refusal (503) if there is no room."""

    async def take(self, key: str) -> bytes | None:
        """The value, and forget it, in one step: of many who ask at once, one gets it."""


class MemoryTicketStore:
    """Tickets of one process. Under several worker processes, use `RedisTicketStore`."""

    def __init__(
        self,
        max_tickets: int = 10_000,
        max_bytes: int = 16 * 1024 * 1024,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_tickets < 1 or max_bytes < 1:
            raise ConfigError(
                f"max_tickets and max_bytes must be at least 1, got {max_tickets!r}, {max_bytes!r}"
            )
        self._max_tickets = max_tickets
        self._max_bytes = max_bytes
        self._clock = clock
        self._waiting: dict[str, tuple[float, bytes]] = {}  # the oldest first
        self._bytes = 0

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """Keep the value. Raises Refusal (503) while the store is full of tickets in force."""
        now = self._clock()
        self._forget_expired(now)
        if len(self._waiting) >= self._max_tickets or self._bytes + len(value) > self._max_bytes:
            oldest = next((expires for expires, _ in self._waiting.values()), now)
            raise retry_later(
                503, "too_many_tickets", "Too many tickets wait to be used.", oldest - now
            )
        self._waiting[key] = (now + ttl_s, value)
        self._bytes += len(value)

    async def take(self, key: str) -> bytes | None:
        """The value, once."""
        expires, value = self._waiting.pop(key, (0.0, b""))
        self._bytes -= len(value)
        return value if expires > self._clock() else None

    def _forget_expired(self, now: float) -> None:
        while self._waiting:
            key, (expires, value) = next(iter(self._waiting.items()))
            if expires > now:
                return
            del self._waiting[key]
            self._bytes -= len(value)


class _Grant(msgspec.Struct):
    path: str
    user: User


class Tickets:
    """Issues and redeems tickets.

        tickets = Tickets()                                       # one process
        tickets = Tickets(RedisTicketStore("redis://localhost"))  # several

    A ticket that was not redeemed after `ttl_s` seconds is worth nothing.
    """

    def __init__(self, store: TicketStore | None = None, *, ttl_s: int = 30) -> None:
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise ConfigError(f"ttl_s must be from 1 to {MAX_TTL_S}, got {ttl_s!r}")
        self.ttl_s = ttl_s
        self._store = store or MemoryTicketStore()

    async def issue(self, user: User, path: str) -> str:
        """A new ticket that lets this user in at this path (as in the scope: unquoted).

        Raises Refusal (503) where there is no room for more, or no store to be reached.
        """
        ticket = secrets.token_urlsafe(_RANDOM_BYTES)
        grant = msgspec.json.encode(_Grant(path, user))
        await self._store.put(_key(ticket), grant, self.ttl_s)
        return ticket

    async def redeem(self, ticket: str, path: str) -> User | None:
        """The user of the ticket, the first time; `None` if it is no ticket for this path."""
        if not _TICKET.fullmatch(ticket):
            return None
        value = await self._store.take(_key(ticket))
        if value is None:
            return None
        grant = msgspec.json.decode(value, type=_Grant)
        return grant.user if grant.path == path else None


class TicketAuth:
    """An `Auth` that lets in who has a ticket in the query: `?ticket=...`.

    auth = any_of(TicketAuth(tickets), JwtAuth(...))
    """

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    async def __call__(self, request: AuthRequest) -> User | None:
        """The user of the ticket; `None` without one. Raises Refusal (401) for a wrong one."""
        ticket = take_ticket(request.scope)
        if ticket is None:
            return None
        user = await self._tickets.redeem(ticket, request.scope["path"])
        if user is None:
            raise invalid_token()
        return user


def take_ticket(scope: Scope) -> str | None:
    """The ticket of the query, which is then without it; `None` if there is none."""
    parts: list[bytes] = scope["query_string"].split(b"&")
    tickets = [part for part in parts if part.startswith(b"ticket=")]
    if not tickets:
        return None
    scope["query_string"] = b"&".join(part for part in parts if part not in tickets)
    return b" ".join(part.removeprefix(b"ticket=") for part in tickets).decode("latin-1")


def ticket_route(auth: Auth, tickets: Tickets, *, limit: RateLimit | None = None) -> ASGIApp:
    """An ASGI app that gives a ticket to who is let in by `auth`; mount it at any path.

        Route("/tickets", ticket_route(auth, tickets))

    POST `{"path": "/stream"}` is answered with `{"ticket": "...", "expires_in_s": 30}`. `limit`
    bounds how many a user gets.
    """
    return _TicketRoute(auth, tickets, limit)


class _TicketRoute:
    """An object, since Starlette takes a function for an endpoint of its own kind."""

    def __init__(self, auth: Auth, tickets: Tickets, limit: RateLimit | None) -> None:
        self._auth = auth
        self._tickets = tickets
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except Refusal as refusal:
            await send_refusal(refusal, scope, send)
        except Disconnected:
            return
        else:
            await send_json(answer, send)

    async def _answer(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        if scope["type"] != "http" or scope["method"] != "POST":
            raise Refusal(
                405, "method_not_allowed", "Tickets are given by POST.", {"Allow": "POST"}
            )
        body = await read_object(receive, scope["headers"], max_bytes=MAX_BODY_BYTES)
        user = await authenticate(self._auth, AuthRequest.of(scope, body))
        if self._limit is not None:
            await self._limit.check(user)
        path = body.get("path")
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise Refusal(400, "invalid_path", "The field path must be the path of a URL.")
        ticket = await self._tickets.issue(user, unquote(path))
        return {"ticket": ticket, "expires_in_s": self._tickets.ttl_s}


def _key(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
