"""Who is let in, and that all who are not hear the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from support.asgi import http_scope
from support.live import live
from support.raw_http import Answer, ask, request

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.serve.answers import send_refusal
from streamtrace.serve.auth import (
    MAX_TOKEN_BYTES,
    ApiKeyAuth,
    Auth,
    AuthRequest,
    BearerAuth,
    User,
    any_of,
    authenticate,
)

ALICE = User("alice", "acme")
BOB = User("bob")
KEY = "st-0123456789abcdef"
OTHER_KEY = "st-fedcba9876543210"
UNKNOWN_KEY = "st-aaaaaaaaaaaaaaaa"
INVALID = (401, "invalid_token", 'Bearer error="invalid_token"')
NOBODY = (401, "unauthenticated", "Bearer")


def asking(body: Any = None, **headers: str) -> AuthRequest:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return AuthRequest.of(http_scope(headers=raw), body)


async def refused(auth: Auth, asked: AuthRequest) -> tuple[int, str, str | None]:
    with pytest.raises(Refusal) as caught:
        await authenticate(auth, asked)
    return (
        caught.value.status,
        caught.value.code,
        caught.value.headers.get("WWW-Authenticate"),
    )


async def look_up(token: str) -> User | None:
    return ALICE if token == "good" else None


@pytest.mark.parametrize("check", [look_up, lambda token: ALICE if token == "good" else None])
async def test_a_bearer_token_is_looked_up(check: Any) -> None:
    auth = BearerAuth(check)
    assert await authenticate(auth, asking(authorization="Bearer good")) == ALICE
    assert await authenticate(auth, asking(authorization="bearer  good")) == ALICE
    assert await refused(auth, asking(authorization="Bearer bad")) == INVALID


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer a b",
        "Bearer good, Bearer good",
        "Bearer good\r\nX: y",
        "Bearer g\xf6\xf6d",
        "Bearer " + "x" * (MAX_TOKEN_BYTES + 1),
    ],
)
async def test_what_is_no_token_is_not_looked_up(header: str) -> None:
    def check(token: str) -> User:
        raise AssertionError("not to be asked")

    assert await refused(BearerAuth(check), asking(authorization=header)) == INVALID


async def test_two_headers_are_not_one() -> None:
    scope = http_scope(
        headers=[(b"authorization", b"Bearer good"), (b"authorization", b"Bearer evil")]
    )
    assert await refused(BearerAuth(look_up), AuthRequest.of(scope)) == INVALID


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic good"}, {"cookie": "a=good"}])
async def test_who_says_nothing_is_asked_who_it_is(headers: dict[str, str]) -> None:
    assert await refused(BearerAuth(look_up), asking(**headers)) == NOBODY
    assert await refused(ApiKeyAuth({KEY: ALICE}), asking(**headers)) == NOBODY


async def test_api_keys() -> None:
    auth = ApiKeyAuth({KEY: ALICE, OTHER_KEY: BOB})
    assert await authenticate(auth, asking(authorization=f"Bearer {KEY}")) == ALICE
    assert await authenticate(auth, asking(x_api_key=OTHER_KEY)) == BOB
    for wrong in (UNKNOWN_KEY, KEY[:-1], KEY + "0", KEY.upper(), "\xff" * 20):
        assert await refused(auth, asking(x_api_key=wrong)) == INVALID


async def test_every_key_is_compared_wherever_the_right_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import hmac

    compared = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append(len(a))
        return compare(a, b)

    auth = ApiKeyAuth({KEY: ALICE, OTHER_KEY: BOB, UNKNOWN_KEY: BOB})
    monkeypatch.setattr(hmac, "compare_digest", counted)
    for key in (KEY, UNKNOWN_KEY, "x" * 50):
        compared.clear()
        try:
            auth(asking(x_api_key=key))
        except Refusal:
            assert key == "x" * 50
        assert compared == [32, 32, 32]


@pytest.mark.parametrize("key", ["", "short", "has spaces in it 12", "line\r\nbreak-0123456789"])
def test_a_key_that_cannot_be_used_fails_at_construction_and_is_not_told(key: str) -> None:
    with pytest.raises(ConfigError, match="key number 2") as caught:
        ApiKeyAuth({KEY: ALICE, key: BOB})
    assert not key or key not in str(caught.value)


def test_no_keys_are_an_error() -> None:
    with pytest.raises(ConfigError, match="empty"):
        ApiKeyAuth({})


async def test_any_of_several() -> None:
    auth = any_of(BearerAuth(look_up), ApiKeyAuth({KEY: BOB}))
    assert await authenticate(auth, asking(authorization="Bearer good")) == ALICE
    assert await authenticate(auth, asking(authorization=f"Bearer {KEY}")) == BOB
    assert await authenticate(auth, asking(x_api_key=KEY)) == BOB
    assert await refused(auth, asking(x_api_key=UNKNOWN_KEY)) == INVALID
    assert await refused(auth, asking(authorization="Bearer bad")) == INVALID
    assert await refused(auth, asking()) == NOBODY


async def test_any_of_several_does_not_pass_over_one_that_cannot_answer() -> None:
    def down(request: AuthRequest) -> User | None:
        raise Refusal(503, "unavailable", "Later.")

    with pytest.raises(Refusal) as caught:
        await authenticate(any_of(down, BearerAuth(look_up)), asking(authorization="Bearer good"))
    assert caught.value.status == 503


async def raises(request: AuthRequest) -> User | None:
    raise RuntimeError("postgres://secret@db")


@pytest.mark.parametrize("auth", [raises, lambda request: True, lambda request: "alice"])
async def test_an_auth_that_fails_lets_nobody_in(
    auth: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert await refused(auth, asking(authorization="Bearer good")) == (500, "internal_error", None)
    assert "secret" not in caplog.text
    assert "alice" not in caplog.text


# Behind a real server.

AUTH = any_of(BearerAuth(look_up), ApiKeyAuth({KEY: BOB}))


async def whoami(request: Request) -> Response:
    user = await authenticate(AUTH, AuthRequest.of(request.scope))
    return JSONResponse({"id": user.id, "tenant": user.tenant})


async def refusing(request: Request, error: Exception) -> Any:
    assert isinstance(error, Refusal)

    class Sent(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send_refusal(error, scope, send)

    return Sent()


APP = Starlette(routes=[Route("/", whoami)], exception_handlers={Refusal: refusing})


async def get(url: str, **headers: str) -> Answer:
    return await ask(url, request("/", b"", headers, "GET"))


async def test_a_real_server() -> None:
    async with live(APP) as url:
        ok = await get(url, Authorization="Bearer good")
        assert (ok.status, ok.json) == (200, {"id": "alice", "tenant": "acme"})
        nobody = await get(url)
        assert (nobody.status, nobody.headers["www-authenticate"]) == (401, "Bearer")
        wrong = [
            await get(url, Authorization=f"Bearer {token}")
            for token in ("bad", "", "a b", "x" * 9000, UNKNOWN_KEY)
        ]
    assert {answer.status for answer in wrong} == {401}
    assert len({answer.body for answer in wrong}) == 1
    assert {answer.headers["www-authenticate"] for answer in wrong} == {
        'Bearer error="invalid_token"'
    }
