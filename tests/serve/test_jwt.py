"""Tokens: what other libraries sign is read, and what nobody signed is not believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from support.asgi import http_scope

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.serve.auth import MAX_TOKEN_BYTES, AuthRequest, User, authenticate
from streamtrace.serve.jwt import ALGORITHMS, MAX_LEEWAY_S, JwtAuth

SECRET = b"0123456789abcdef0123456789abcdef"
LONG_SECRET = SECRET * 2
NOW = int(time.time())
DAY_S = 24 * 3600  # the tests may run long after they were collected
CLAIMS: dict[str, Any] = {
    "sub": "alice",
    "aud": "chat",
    "iss": "https://login.example",
    "exp": NOW + DAY_S,
    "org": "acme",
}


@cache
def rsa_key() -> Any:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def curve_key(algorithm: str) -> Any:
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return ec.generate_private_key(curves[algorithm])


@cache
def edwards_key() -> Any:
    return ed25519.Ed25519PrivateKey.generate()


def private(algorithm: str) -> Any:
    kind = ALGORITHMS[algorithm]
    if kind == "oct":
        return LONG_SECRET
    if kind == "RSA":
        return rsa_key()
    return curve_key(algorithm) if kind == "EC" else edwards_key()


def public(algorithm: str) -> bytes:
    key = private(algorithm)
    return key if isinstance(key, bytes) else pem(key)


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def encode(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def signed(claims: Any, header: Any = None, secret: bytes = SECRET) -> str:
    """A token with HMAC, made by hand, so that it may be wrong."""
    header = {"alg": "HS256", "typ": "JWT"} if header is None else header
    head = b".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    return (head + b"." + encode(hmac.digest(secret, head, hashlib.sha256))).decode()


def door(**options: Any) -> JwtAuth:
    given: dict[str, Any] = {
        "algorithms": ["HS256"],
        "audience": "chat",
        "issuer": "https://login.example",
        **options,
    }
    return JwtAuth(given.pop("key", SECRET), **given)


def asking(token: str | None, body: Any = None) -> AuthRequest:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return AuthRequest.of(http_scope(headers=headers), body)


async def user_of(auth: JwtAuth, token: str | None, body: Any = None) -> User:
    return await authenticate(auth, asking(token, body))


async def assert_refused(auth: JwtAuth, token: str, body: Any = None) -> None:
    with pytest.raises(Refusal) as caught:
        await user_of(auth, token, body)
    refusal = caught.value
    assert (refusal.status, refusal.code) == (401, "invalid_token")
    assert refusal.message == "The credentials are not valid."
    assert refusal.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}


SIGNABLE = [name for name in ALGORITHMS if name not in ("Ed448", "Ed25519")]


@pytest.mark.parametrize("algorithm", SIGNABLE)
async def test_what_another_library_signed_is_read(algorithm: str) -> None:
    token = pyjwt.encode(CLAIMS, private(algorithm), algorithm, headers={"kid": "k", "cat": "x"})
    auth = door(key=public(algorithm), algorithms=[algorithm], tenant_claim="org")
    assert await user_of(auth, token) == User("alice", "acme", CLAIMS)


async def test_the_new_name_of_the_edwards_curve() -> None:
    head = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "Ed25519"}, CLAIMS))
    token = (head + b"." + encode(edwards_key().sign(head))).decode()
    auth = door(key=pem(edwards_key()), algorithms=["Ed25519"])
    assert (await user_of(auth, token)).id == "alice"
    await assert_refused(door(key=pem(edwards_key()), algorithms=["EdDSA"]), token)


async def test_a_token_of_ours_is_read() -> None:
    assert await user_of(door(), signed(CLAIMS)) == User("alice", None, CLAIMS)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


def cut(token: str, part: int, piece: str) -> str:
    parts = token.split(".")
    parts[part] = piece
    return ".".join(parts)


GOOD = signed(CLAIMS)
NONE_HEADER = encode(json.dumps({"alg": "none"}).encode()).decode()

FORGED: dict[str, str] = {
    "expired": signed({**CLAIMS, "exp": NOW - 60}),
    "expires as text": signed({**CLAIMS, "exp": str(NOW + 60)}),
    "expires as true": signed({**CLAIMS, "exp": True}),
    "never expires": signed(without("exp")),
    "expires at NaN": signed({**CLAIMS, "exp": float("nan")}),
    "not yet valid": signed({**CLAIMS, "nbf": NOW + DAY_S}),
    "issued in the future": signed({**CLAIMS, "iat": NOW + DAY_S}),
    "other audience": signed({**CLAIMS, "aud": "billing"}),
    "other audiences": signed({**CLAIMS, "aud": ["billing", "mail"]}),
    "audience within another": signed({**CLAIMS, "aud": "chat2"}),
    "audience as object": signed({**CLAIMS, "aud": {"chat": 1}}),
    "no audience": signed(without("aud")),
    "other issuer": signed({**CLAIMS, "iss": "https://evil.example"}),
    "issuers": signed({**CLAIMS, "iss": ["https://login.example"]}),
    "no issuer": signed(without("iss")),
    "no subject": signed(without("sub")),
    "empty subject": signed({**CLAIMS, "sub": ""}),
    "subject as number": signed({**CLAIMS, "sub": 7}),
    "subject with a line break": signed({**CLAIMS, "sub": "a\r\nb"}),
    "long subject": signed({**CLAIMS, "sub": "a" * 257}),
    "other secret": signed(CLAIMS, secret=LONG_SECRET),
    "empty secret": signed(CLAIMS, secret=b""),
    "claims changed": cut(GOOD, 1, encode(json.dumps({**CLAIMS, "sub": "root"}).encode()).decode()),
    "signature cut": GOOD[:-4],
    "no signature": cut(GOOD, 2, ""),
    "alg none": cut(cut(GOOD, 0, NONE_HEADER), 2, ""),
    "alg none, with a signature": signed(CLAIMS, {"alg": "none"}),
    "alg None": signed(CLAIMS, {"alg": "None"}),
    "alg not allowed": signed(CLAIMS, {"alg": "HS512"}),
    "alg unknown": signed(CLAIMS, {"alg": "XX256"}),
    "alg as list": signed(CLAIMS, {"alg": ["HS256"]}),
    "no alg": signed(CLAIMS, {"typ": "JWT"}),
    "critical header": signed(CLAIMS, {"alg": "HS256", "crit": ["exp"], "exp": 1}),
    "critical as number": signed(CLAIMS, {"alg": "HS256", "crit": 5}),
    "header as list": signed(CLAIMS, ["alg"]),
    "header as number": signed(CLAIMS, 5),
    "claims as list": signed(["sub"]),
    "claims as text": signed("sub"),
    "no token": "x",
    "two dots": "..",
    "encrypted": GOOD + ".a.b",
    "oversized": signed({**CLAIMS, "more": "x" * MAX_TOKEN_BYTES}),
    "deep": signed({**CLAIMS, "more": []}).replace(
        encode(json.dumps({**CLAIMS, "more": []}).encode()).decode(), encode(b"[" * 4000).decode()
    ),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED)
async def test_a_wrong_token_is_refused_all_in_one_way(token: str) -> None:
    await assert_refused(door(), token)
    with pytest.raises(Refusal):
        await user_of(door(from_body="token"), None, {"token": token})


@given(token=st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_refused(token: str) -> None:
    with pytest.raises(Refusal):
        door(from_body="token")(asking(None, {"token": token}))


async def test_a_key_that_the_token_brings_is_not_used() -> None:
    own = OctKey.import_key(LONG_SECRET).as_dict()
    await assert_refused(door(), signed(CLAIMS, {"alg": "HS256", "jwk": own}, LONG_SECRET))


async def test_a_public_key_is_no_secret() -> None:
    """The oldest trick: HMAC with the public key, which everybody has, as the secret."""
    known = pem(rsa_key())
    for auth in (
        door(key=known, algorithms=["RS256"]),
        door(key={"keys": [RSAKey.import_key(known).as_dict()]}, algorithms=["RS256"]),
    ):
        await assert_refused(auth, signed(CLAIMS, {"alg": "HS256"}, known))
        await assert_refused(auth, signed(CLAIMS, {"alg": "RS256"}, known))


async def test_a_header_may_bring_its_certificates() -> None:
    token = signed(CLAIMS, {"alg": "HS256", "x5c": ["x" * 1000]})
    assert (await user_of(door(), token)).id == "alice"


async def test_leeway() -> None:
    now = int(time.time())  # the tests before this one may have taken a while
    late = signed({**CLAIMS, "exp": now - 60})
    early = signed({**CLAIMS, "nbf": now + 60})
    for token in (late, early):
        await assert_refused(door(leeway_s=0), token)
        assert (await user_of(door(leeway_s=MAX_LEEWAY_S), token)).id == "alice"


async def test_one_of_several_audiences() -> None:
    auth = door(audience=["mail", "chat"])
    for audience in ("chat", ["chat"], ["other", "mail"]):
        assert (await user_of(auth, signed({**CLAIMS, "aud": audience}))).id == "alice"


async def test_a_token_for_an_audience_is_not_for_everybody() -> None:
    auth = door(audience=None, issuer=None)
    assert (await user_of(auth, signed(without("aud", "iss")))).id == "alice"
    await assert_refused(auth, signed(without("iss")))


async def test_the_tenant_is_needed_where_it_was_named() -> None:
    auth = door(tenant_claim="org")
    assert (await user_of(auth, signed(CLAIMS))).tenant == "acme"
    for org in (None, "", 7, ["acme"]):
        await assert_refused(auth, signed({**CLAIMS, "org": org}))
    await assert_refused(auth, signed(without("org")))


async def test_a_token_in_the_body_is_taken_out_of_it() -> None:
    body = {"token": GOOD, "message": "hi"}
    assert (await user_of(door(from_body="token"), None, body)).id == "alice"
    assert body == {"message": "hi"}


async def test_a_token_in_the_body_is_not_read_unless_asked_for() -> None:
    body = {"token": GOOD}
    with pytest.raises(Refusal, match="Authentication is needed"):
        await user_of(door(), None, body)
    assert body == {"token": GOOD}


@pytest.mark.parametrize("body", [None, [], "text", {}, {"other": GOOD}, {"token": None}])
async def test_a_body_without_a_token_says_nothing(body: Any) -> None:
    with pytest.raises(Refusal) as caught:
        await user_of(door(from_body="token"), None, body)
    assert caught.value.code == "unauthenticated"


@pytest.mark.parametrize("token", [7, {"a": 1}, [GOOD], True])
async def test_a_token_of_another_type_is_wrong(token: Any) -> None:
    with pytest.raises(Refusal) as caught:
        await user_of(door(from_body="token"), None, {"token": token})
    assert caught.value.code == "invalid_token"


async def test_the_header_comes_before_the_body() -> None:
    auth = door(from_body="token")
    await assert_refused(auth, signed(CLAIMS, secret=LONG_SECRET), {"token": GOOD})
    body = {"token": "x"}
    assert (await user_of(auth, GOOD, body)).id == "alice"
    assert body == {}


async def test_a_set_of_keys_is_searched_by_the_id_of_the_key() -> None:
    new, old = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in "ab")
    keys = [
        {**RSAKey.import_key(pem(key)).as_dict(), "kid": kid}
        for kid, key in (("new", new), ("old", old))
    ]
    curve = {**ECKey.import_key(pem(curve_key("ES256"))).as_dict(), "kid": "curve"}
    encryption = {**keys[0], "kid": "enc", "use": "enc"}
    future = {"kty": "PQC", "kid": "later"}
    auth = door(key={"keys": [future, encryption, *keys, curve]}, algorithms=["RS256", "ES256"])

    def token(key: Any, kid: str | None, algorithm: str = "RS256") -> str:
        return pyjwt.encode(CLAIMS, key, algorithm, headers={} if kid is None else {"kid": kid})

    assert (await user_of(auth, token(new, "new"))).id == "alice"
    assert (await user_of(auth, token(old, "old"))).id == "alice"
    assert (await user_of(auth, token(curve_key("ES256"), "curve", "ES256"))).id == "alice"
    for key, kid in ((old, "new"), (new, "other"), (new, "enc"), (new, None), (new, "curve")):
        await assert_refused(auth, token(key, kid))


async def test_a_single_key_needs_no_id() -> None:
    auth = door(key=RSAKey.import_key(pem(rsa_key())).as_dict(), algorithms=["RS256"])
    for headers in ({}, {"kid": "whatever"}):
        token = pyjwt.encode(CLAIMS, rsa_key(), "RS256", headers=headers)
        assert (await user_of(auth, token)).id == "alice"


@cache
def small_rsa() -> bytes:
    return pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no algorithms": ({"algorithms": []}, "algorithms must be a list"),
    "algorithms as text": ({"algorithms": "HS256"}, "algorithms must be a list"),
    "none": ({"algorithms": ["none"]}, "'none' is no accepted algorithm"),
    "none beside another": ({"algorithms": ["HS256", "none"]}, "'none' is no accepted"),
    "unknown": ({"algorithms": ["HS257"]}, "HS257"),
    "secrets and public keys": ({"algorithms": ["HS256", "RS256"]}, "all with secrets"),
    "one key for two kinds": (
        {"key": pem(rsa_key()), "algorithms": ["RS256", "ES256"]},
        "one key cannot serve",
    ),
    "no key": ({"key": b""}, "key is not one for"),
    "short": ({"key": "x" * 31}, "31 bytes; HS256 needs at least 32"),
    "very short": ({"key": "x"}, "key is not one for"),
    "short for its hash": (
        {"key": SECRET, "algorithms": ["HS256", "HS512"]},
        "HS512 needs at least 64",
    ),
    "short in a JWK": ({"key": OctKey.import_key(b"x" * 20).as_dict()}, "20 bytes"),
    "public key as secret": ({"key": pem(rsa_key())}, "Asymmetric"),
    "secret as public key": ({"algorithms": ["RS256"]}, "key is not one for"),
    "small RSA": ({"key": small_rsa(), "algorithms": ["RS256"]}, "2048"),
    "other curve": ({"key": pem(curve_key("ES384")), "algorithms": ["ES256"]}, "no key for ES256"),
    "no keys": ({"key": {"keys": []}}, "key is not one for"),
    "no JWK": ({"key": {}}, "key is not one for"),
    "broken JWK": ({"key": {"kty": "oct"}}, "key is not one for"),
    "keys of another type": (
        {"key": {"keys": [OKPKey.generate_key("Ed25519").as_dict()]}, "algorithms": ["RS256"]},
        "no key for RS256",
    ),
    "empty audience": ({"audience": ""}, "audience is empty"),
    "no audiences": ({"audience": []}, "audience is empty"),
    "empty issuer": ({"issuer": ""}, "issuer is empty"),
    "negative leeway": ({"leeway_s": -1}, "leeway_s"),
    "leeway of a day": ({"leeway_s": 86400}, "leeway_s"),
}


@pytest.mark.parametrize(("options", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_configuration_fails_at_construction(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        door(**options)


def test_a_secret_is_not_told() -> None:
    with pytest.raises(ConfigError) as caught:
        door(key="hunter2hunter2hunter2")
    assert "hunter2" not in str(caught.value)


async def test_the_signature_is_checked_by_the_cryptography() -> None:
    """Signed by hand with the primitive, and no library of tokens between."""
    head = b".".join(encode(json.dumps(part).encode()) for part in ({"alg": "RS256"}, CLAIMS))
    signature = rsa_key().sign(head, padding.PKCS1v15(), hashes.SHA256())
    auth = door(key=pem(rsa_key()), algorithms=["RS256"])
    assert (await user_of(auth, (head + b"." + encode(signature)).decode())).id == "alice"
    wrong = bytes([signature[0] ^ 1]) + signature[1:]
    await assert_refused(auth, (head + b"." + encode(wrong)).decode())
