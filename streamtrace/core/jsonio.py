"""JSON from strangers: read whatever a client would have read, and never raise.

msgspec reads strict JSON and is fast. What it refuses is tried once more as clients in JavaScript
and Python read it: bytes that are no UTF-8 replaced, NaN allowed, lone surrogates (a model's token
can be half an emoji) kept until the text is whole and mended by `clean_text`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode_lines = msgspec.json.Encoder().encode_lines


def load_json(data: bytes) -> Any:
    """The value, or `None` where `data` is no JSON. Never raises."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None


def dump_json(value: Any) -> str:
    """Compact JSON text of what `load_json` returned. Never raises."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        try:
            return json.dumps(value, ensure_ascii=True, default=str)
        except (TypeError, ValueError, RecursionError):
            return ""


def dump_each(values: list[Any]) -> list[str]:
    """As `dump_json`, of many at once, which costs little more than of one. Never raises.

    Of a list: for anything else, msgspec 0.22 loses an object at each call.
    """
    try:
        return _encode_lines(values).decode().split("\n")[: len(values)]
    except (TypeError, ValueError, RecursionError):
        return [dump_json(value) for value in values]


def typed_reader(wire: Any) -> Callable[[bytes], Any]:
    """A fast reader of `wire` (a msgspec type), with the tolerance of `load_json`.

    It returns `None` for what is no JSON or does not fit the type. It never raises.
    """
    decode = msgspec.json.Decoder(wire).decode

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            try:
                return msgspec.convert(load_json(data), wire)
            except (ValueError, RecursionError):
                return None

    return read


MAX_COUNT = 2**53 - 1
"""The largest count that every reader of JSON keeps exact."""


def as_object(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_string(value: Any) -> str | None:
    """The value if it is a string."""
    return value if isinstance(value, str) else None


def as_count(value: Any) -> int | None:
    """The value if it is a whole number that can count something; booleans are none."""
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None


def as_word(value: Any) -> str | None:
    """A string, or a small number as text; what is empty says nothing."""
    if isinstance(value, str):
        return value or None
    return str(value) if type(value) is int and abs(value) <= MAX_COUNT else None


MAX_ID_CHARS = 256
"""Ids and names come from outside, and are remembered: longer ones are cut, always the same way."""


def as_id(value: Any) -> str | None:
    """`as_word`, cut to what may be remembered."""
    text = as_word(value)
    return None if text is None else text[:MAX_ID_CHARS]


def clean_text(text: str) -> str:
    """Join surrogate pairs that came in two deltas; a half that stayed alone becomes U+FFFD."""
    if text.isascii():  # known of every string, without a look at its characters
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
