"""Events to what goes over the wire: bytes of an SSE stream, or the text of WebSocket messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.core.errors import ConfigError
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.core.jsonio import dump_json, load_json
from streamtrace.dialects.base import Dialect
from streamtrace.dialects.detect import BUILT_IN, by_name

PING = b": ping\n"
"""A comment, and no blank line: it ends no frame, so no client takes it for an empty one."""


def written(dialect: str | Dialect) -> Dialect:
    """The dialect, if it can be written. Raises ConfigError, with those that can."""
    found = by_name(dialect) if isinstance(dialect, str) else dialect
    if not found.encodes:
        names = ", ".join(sorted(one.name for one in BUILT_IN if one.encodes))
        raise ConfigError(f"dialect {dialect!r} cannot be written; these can: {names}")
    return found


def as_sse(frames: Iterable[Frame]) -> bytes:
    """The frames as they stand in an SSE body."""
    return b"".join(map(encode_frame, frames))


def as_message(frame: Frame) -> str | None:
    """A frame as one JSON text: its data, if that is a JSON object and has no event's name beside
    it, else `{"event", "data", "id"}` with what there is. `None` for a frame without data."""
    if frame.data is None:
        return None
    value = load_json(frame.data)
    if isinstance(value, dict) and frame.event is None and frame.id is None:
        return frame.data.decode("utf-8", "replace")
    told: dict[str, Any] = {
        "event": frame.event,
        "id": frame.id,
        "data": frame.data.decode("utf-8", "replace") if value is None else value,
    }
    return dump_json({name: one for name, one in told.items() if one is not None})
