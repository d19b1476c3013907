"""Who asks: decided before anything is started.

Rules that hold here:

* An `Auth` gives a `User`, or `None` where the request says nothing of who asks. What says it
  wrongly is refused: 401, one fixed sentence for all that can be wrong.
* A request passes only with a `User`. An `Auth` that fails, or gives anything else, refuses.
* A secret is compared in constant time, and appears in no message.
* A credential that came in a body or a query is taken out of it, so that nobody behind the door
  writes it down.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.logs import WARNINGS

if TYPE_CHECKING:
    from starlette.types import Scope

MAX_TOKEN_BYTES = 8 * 1024
MIN_KEY_CHARS = 16

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class User(msgspec.Struct, frozen=True):
    """Who was let in.

    id      unique within its tenant
    tenant  the customer that the user belongs to, where there are several
    claims  what else is known of it, as JSON has it
    """

    id: str
    tenant: str | None = None
    claims: dict[str, Any] = {}


class AuthRequest(msgspec.Struct, frozen=True):
    """What an `Auth` is shown.

    scope    the ASGI scope
    headers  by lower-case name; repeated ones are joined by a comma
    body     the JSON value of the body; `None` where it was not read
    """

    scope: Scope
    headers: Mapping[str, str]
    body: Any = None

    @classmethod
    def of(cls, scope: Scope, body: Any = None) -> AuthRequest:
        """That of an HTTP request or a WebSocket."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return cls(scope, headers, body)


Check: TypeAlias = "Callable[[str], Awaitable[User | None] | User | None]"
Auth: TypeAlias = "Callable[[AuthRequest], Awaitable[User | None] | User | None]"


def unauthenticated() -> Refusal:
    """The answer to who does not say who asks."""
    return Refusal(
        401, "unauthenticated", "Authentication is needed.", {"WWW-Authenticate": "Bearer"}
    )


def invalid_token() -> Refusal:
    """The answer to a credential that is wrong, whatever is wrong with it. Source: RFC 6750, 3."""
    return Refusal(
        401,
        "invalid_token",
        "The credentials are not valid.",
        {"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )


async def authenticate(auth: Auth, request: AuthRequest) -> User:
    """The user that asks. Raises Refusal: 401; 500 if `auth` failed or gave what is no user."""
    try:
        user = await _answer(auth(request))
    except Refusal:
        raise
    except Exception as error:
        WARNINGS.warn("auth", f"authentication failed with {type(error).__name__}")
        raise _failed() from None
    if user is None:
        raise unauthenticated()
    if not isinstance(user, User):
        WARNINGS.warn("auth", f"authentication gave {type(user).__name__}, and not a User or None")
        raise _failed()
    return user


def any_of(*auths: Auth) -> Auth:
    """The first of these that knows the user. Wrong for all of them is wrong."""

    async def auth(request: AuthRequest) -> User | None:
        wrong: Refusal | None = None
        for one in auths:
            try:
                user = await _answer(one(request))
            except Refusal as refusal:
                if refusal.status != 401:
                    raise
                wrong = wrong or refusal
            else:
                if user is not None:
                    return user
        if wrong is not None:
            raise wrong
        return None

    return auth


def bearer_token(request: AuthRequest) -> str | None:
    """The token of the Authorization header; `None` without one, or where it is of another scheme.

    Raises Refusal (401) for what is no token, and for one over `MAX_TOKEN_BYTES`.
    """
    header = request.headers.get("authorization")
    if header is None or header.partition(" ")[0].lower() != "bearer":
        return None
    found = _BEARER.fullmatch(header)
    if found is None or len(found[1]) > MAX_TOKEN_BYTES:
        raise invalid_token()
    return found[1]


class BearerAuth:
    """Asks `check`, a function or a coroutine function, whose the token is.

    auth = BearerAuth(look_up)      # look_up(token) -> User | None
    """

    def __init__(self, check: Check) -> None:
        self._check = check

    async def __call__(self, request: AuthRequest) -> User | None:
        """The user whom `check` knows. A token that it does not know is refused."""
        token = bearer_token(request)
        if token is None:
            return None
        user = await _answer(self._check(token))
        if user is None:
            raise invalid_token()
        return user


class ApiKeyAuth:
    """Keys of users, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.

        auth = ApiKeyAuth({os.environ["ALICES_KEY"]: User("alice")})

    Raises ConfigError for no keys, and for one that is short or cannot stand in a header.
    """

    def __init__(self, users: Mapping[str, User]) -> None:
        if not users:
            raise ConfigError("users is empty: give at least one key")
        for number, key in enumerate(users):
            if len(key) < MIN_KEY_CHARS or not _KEY.fullmatch(key):
                raise ConfigError(
                    f"key number {number + 1} must have at least {MIN_KEY_CHARS} characters, all"
                    f" of A-Z a-z 0-9 . _ ~ + / -, and has {len(key)}"
                )
        self._users = [(_hash(key), user) for key, user in users.items()]

    def __call__(self, request: AuthRequest) -> User | None:
        """The user of the key. An unknown key is refused."""
        key = bearer_token(request) or request.headers.get("x-api-key")
        if key is None:
            return None
        given = _hash(key)
        found = None
        for known, user in self._users:  # all of them, whichever it is: time tells nothing
            if hmac.compare_digest(known, given):
                found = user
        if found is None:
            raise invalid_token()
        return found


def _failed() -> Refusal:
    return Refusal(500, "internal_error", "The request could not be checked.")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def _answer(given: Awaitable[User | None] | User | None) -> User | None:
    return await given if inspect.isawaitable(given) else given
