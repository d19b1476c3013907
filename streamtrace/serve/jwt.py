"""JSON Web Tokens, checked with joserfc (the extra `jwt`).

Rules that hold here:

* The algorithms are those that were named, and each fits its keys by type: there is no "none", and
  no public key serves as a secret.
* A token needs `exp` and `sub`, and the audience and issuer that were named. One that is meant for
  an audience is refused where none was named (RFC 7519, 4.1.3).
* A token comes from a stranger: whatever goes wrong with it, it is refused, all in one way.
* A weak key fails at construction.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.core.jsonio import MAX_ID_CHARS
from streamtrace.serve.auth import (
    MAX_TOKEN_BYTES,
    AuthRequest,
    User,
    bearer_token,
    invalid_token,
)

try:
    from joserfc.errors import JoseError, SecurityWarning, UnsupportedAlgorithmError
    from joserfc.jwa import JWSAlgModel
    from joserfc.jwk import JWKRegistry, Key, KeySet, OctKey
    from joserfc.jws import JWSRegistry
    from joserfc.jwt import ClaimsOption, JWTClaimsRegistry, decode
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "joserfc", "jwt") from None

ALGORITHMS = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), "oct"),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("Ed25519", "Ed448", "EdDSA"), "OKP"),
}
"""What may be named, with the type of its keys."""

_MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A secret is as long as the hash. Source: RFC 7518, 3.2."""

MAX_LEEWAY_S = 300


class JwtAuth:
    """Users of signed tokens, from `Authorization: Bearer TOKEN`, or a field of the JSON body.

        auth = JwtAuth(
            secret, algorithms=["HS256"], audience="chat", issuer="https://login.example"
        )

    key           a secret, a public key in PEM, a JWK or a JWKS (as dicts)
    algorithms    those that are accepted: names of `ALGORITHMS`, either with secrets (HS...) or
                  with public keys
    audience      one that the token must name, or several; `None`: it must name none
    issuer        whose tokens these are; `None`: anybody's who has the key
    leeway_s      how far clocks may be apart
    tenant_claim  the claim that names the user's tenant, where there are several
    from_body     the field of the body that holds the token where no header does; it is taken out

    The user's id is the claim `sub`. Raises ConfigError for anything that is no such thing.
    """

    def __init__(
        self,
        key: str | bytes | Mapping[str, Any],
        *,
        algorithms: Collection[str],
        audience: str | Collection[str] | None,
        issuer: str | None,
        leeway_s: int = 10,
        tenant_claim: str | None = None,
        from_body: str | None = None,
    ) -> None:
        if not 0 <= leeway_s <= MAX_LEEWAY_S:
            raise ConfigError(f"leeway_s must be from 0 to {MAX_LEEWAY_S}, got {leeway_s!r}")
        audiences = [audience] if isinstance(audience, str) else list(audience or ())
        if audience is not None and not (audiences and all(audiences)):
            raise ConfigError("audience is empty: name one, or None for tokens that name none")
        if issuer == "":
            raise ConfigError("issuer is empty: name one, or None for anybody who has the key")
        self._keys = _keys(key, _checked(algorithms))
        self._registry = _Registry(algorithms=algorithms)
        self._wants_audience = bool(audiences)
        self._tenant_claim = tenant_claim
        self._from_body = from_body
        needed: ClaimsOption = {"essential": True}
        self._claims = JWTClaimsRegistry(
            leeway=leeway_s,
            exp=needed,
            aud={**needed, "values": audiences} if audiences else {},
            iss={**needed, "value": issuer} if issuer else {},
        )

    def __call__(self, request: AuthRequest) -> User | None:
        """The user of the token; `None` without one. Raises Refusal (401) for a wrong one."""
        in_body = self._take_from_body(request.body)
        token = bearer_token(request) or in_body
        if token is None:
            return None
        try:
            return self._user(token)
        except Exception:  # hostile headers make the library raise TypeErrors and more
            raise invalid_token() from None

    def _take_from_body(self, body: Any) -> str | None:
        if self._from_body is None or not isinstance(body, dict):
            return None
        token = body.pop(self._from_body, None)
        if token is not None and not isinstance(token, str):
            raise invalid_token()
        return token

    def _user(self, token: str) -> User:
        if len(token.encode()) > MAX_TOKEN_BYTES:
            raise ValueError("the token is too large")
        claims = decode(token, self._keys, registry=self._registry).claims
        self._claims.validate(claims)
        if "aud" in claims and not self._wants_audience:
            raise ValueError("the token is meant for an audience")
        tenant = None if self._tenant_claim is None else _word(claims.get(self._tenant_claim))
        return User(_word(claims.get("sub")), tenant, claims)


class _Registry(JWSRegistry):
    """What may be used is what was named; other parameters of a header mean nothing (RFC 7515, 4).

    joserfc's own warns of EdDSA at each use, since its name was replaced; tokens still have it.
    """

    max_header_length = MAX_TOKEN_BYTES

    def __init__(self, algorithms: Collection[str]) -> None:
        super().__init__(algorithms=frozenset(algorithms), strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


def _checked(algorithms: Collection[str]) -> list[str]:
    if isinstance(algorithms, str) or not algorithms:
        raise ConfigError(f"algorithms must be a list of names, got {algorithms!r}")
    for name in algorithms:
        if name not in ALGORITHMS:
            raise ConfigError(f"{name!r} is no accepted algorithm; these are: {list(ALGORITHMS)}")
    kinds = {ALGORITHMS[name] for name in algorithms}
    if "oct" in kinds and len(kinds) > 1:
        raise ConfigError(
            f"algorithms must be all with secrets (HS...) or all with public keys, got {algorithms}"
        )
    return list(algorithms)


def _keys(key: str | bytes | Mapping[str, Any], algorithms: list[str]) -> Key | KeySet:
    """The keys, each fit to verify with. What joserfc only warns of is refused."""
    kinds = {ALGORITHMS[name] for name in algorithms}
    if not isinstance(key, Mapping) and len(kinds) > 1:
        raise ConfigError(f"one key cannot serve {algorithms}: give a JWKS, or fewer algorithms")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SecurityWarning)
            keys = _imported(key, kinds)
    except (JoseError, SecurityWarning, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"key is not one for {algorithms}: {error}") from None
    each = list(keys) if isinstance(keys, KeySet) else [keys]
    for name in algorithms:
        _check_fit(name, each)
    return keys


def _imported(key: str | bytes | Mapping[str, Any], kinds: set[str]) -> Key | KeySet:
    if not isinstance(key, Mapping):
        return JWKRegistry.import_key(key, min(kinds))
    if "keys" in key:
        return KeySet.import_key_set({"keys": list(key["keys"])})
    return JWKRegistry.import_key(dict(key))


def _check_fit(algorithm: str, keys: list[Key]) -> None:
    fit = [key for key in keys if JWSRegistry.filter_algorithms(key, [algorithm])]
    if not fit:
        raise ConfigError(f"there is no key for {algorithm}, which needs {ALGORITHMS[algorithm]}")
    least = _MIN_SECRET_BYTES.get(algorithm, 0)
    for key in fit:
        if isinstance(key, OctKey) and len(key.raw_value) < least:
            raise ConfigError(
                f"the secret has {len(key.raw_value)} bytes; {algorithm} needs at least {least}"
            )


def _word(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS or not value.isprintable():
        raise ValueError("the claim is no name")
    return value
