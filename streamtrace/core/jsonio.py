"""JSON from strangers: read whatever a client would have read, and never raise.

msgspec reads strict JSON and is fast. What it refuses is tried once more as clients in JavaScript
and Python read it: bytes that are no UTF-8 replaced, NaN allowed, lone surrogates (a model's token
can be half an emoji) kept until the text is whole and mended by `clean_text`.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


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


def clean_text(text: str) -> str:
    """Join surrogate pairs that came in two deltas; a half that stayed alone becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
