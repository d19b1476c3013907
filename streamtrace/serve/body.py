"""The body of a request: JSON, within bounds of size, time and depth, or a refusal that says why.

Rules that hold here:

* Nothing is kept beyond `max_bytes`, whatever length was declared; nobody is waited for longer than
  `timeout_s` in all.
* What is read is strict JSON in UTF-8. A bad body is refused with a fixed sentence; what the parser
  had to say is not told.
* The depth is bounded, so that whoever walks the value later does not run out of stack.
* An id from a client is checked before it is used: it may come back in a header, a log or a key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from streamtrace.core.errors import Disconnected, Refusal
from streamtrace.core.jsonio import MAX_ID_CHARS

if TYPE_CHECKING:
    from starlette.types import Receive

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case."""

MAX_BYTES = 1024 * 1024
TIMEOUT_S = 10.0
MAX_DEPTH = 64

_JSON = re.compile(rb"application/(?:json|[\w.!#$&^-]+\+json)", re.IGNORECASE)
_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_ID_CHARS}}}")

_decode = msgspec.json.Decoder().decode


def _refusal(status: int, code: str, message: str) -> Callable[[], Refusal]:
    return lambda: Refusal(status, code, message)


_no_json = _refusal(
    415, "unsupported_media_type", "The body must be JSON: send Content-Type: application/json."
)
_encoded = _refusal(
    415, "unsupported_encoding", "The body must be sent as it is, without a Content-Encoding."
)
_too_large = _refusal(413, "body_too_large", "The body is larger than is accepted here.")
_too_slow = _refusal(408, "body_too_slow", "The body took too long to arrive.")
_bad_length = _refusal(400, "invalid_header", "The Content-Length is not a number of bytes.")
_malformed = _refusal(400, "malformed_json", "The body is not valid JSON in UTF-8.")
_too_deep = _refusal(400, "json_too_deep", "The JSON is nested too deeply.")
_no_object = _refusal(400, "invalid_request", "The body must be a JSON object.")
_bad_id = _refusal(
    400,
    "invalid_id",
    f"An id must be a text of 1 to {MAX_ID_CHARS} visible ASCII characters without spaces.",
)


async def read_json(
    receive: Receive,
    headers: Headers,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    """The JSON value of a request's body.

    Raises Refusal: 415 (no JSON by its headers, or compressed), 413 (over `max_bytes`, declared or
    not), 408 (not there after `timeout_s`), 400 (malformed, not UTF-8, nested over `MAX_DEPTH`).
    Raises Disconnected if the client left.
    """
    _check_headers(headers, max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read(receive, max_bytes)
    except TimeoutError:
        raise _too_slow() from None
    return _parse(body)


async def read_object(
    receive: Receive,
    headers: Headers,
    *,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """`read_json` of a body that must be an object; any other value is refused with 400."""
    value = await read_json(receive, headers, max_bytes=max_bytes, timeout_s=timeout_s)
    if not isinstance(value, dict):
        raise _no_object()
    return value


def checked_id(value: object) -> str:
    """An id that came from a client, in a header, a path or a body.

    Raises Refusal (400) for whatever could not stand in a header or on a line of a log.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _bad_id()
    return value


def _check_headers(headers: Headers, max_bytes: int) -> None:
    found = {name.lower(): value for name, value in headers}
    media_type, _, parameters = found.get(b"content-type", b"").partition(b";")
    charset = _CHARSET.search(b";" + parameters)
    if not _JSON.fullmatch(media_type.strip()):
        raise _no_json()
    if charset and charset[1].lower() not in (b"utf-8", b"utf8"):
        raise _no_json()
    if found.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
        raise _encoded()
    length = found.get(b"content-length")
    if length is None:
        return
    if not _LENGTH.fullmatch(length):
        raise _bad_length()
    if int(length) > max_bytes:
        raise _too_large()


async def _read(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected("the client left before its request was read")
        piece = message.get("body", b"")
        if len(body) + len(piece) > max_bytes:
            raise _too_large()
        body += piece
        if not message.get("more_body", False):
            return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        value = _decode(body)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # msgspec's errors, and bytes that are no UTF-8
        raise _malformed() from None
    if _is_too_deep(value):
        raise _too_deep()
    return value


def _is_too_deep(value: Any) -> bool:
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
