"""What must hold of any decoder, whatever the wire holds: for property tests and for the fuzzer."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from streamtrace.core.events import Event, TextDelta
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import clean_text, load_json

_TEXTS = frozenset(
    ("text", "delta", "tool_call_id", "result", "arguments", "run_id", "thread_id", "message_id",
     "message", "type", "name", "model", "response_id", "key", "url", "title", "reason", "role")
)  # fmt: skip


def well_formed(events: Iterable[Event]) -> None:
    """The vocabulary promises text and counts, whatever the wire held in their place."""
    for event in events:
        for field in event.__struct_fields__:
            value = getattr(event, field)
            if field in _TEXTS:
                assert value is None or isinstance(value, str), (field, event)
            elif field.endswith("_tokens"):
                assert value is None or (type(value) is int and value >= 0), (field, event)


def not_invented(events: Iterable[Event], frames: Iterable[Frame]) -> None:
    """The text is made of what stood on the wire, and is no longer than it."""
    said = "".join(frame.text + "".join(_strings(_json_of(frame))) for frame in frames)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert set(text) <= set(said)
    assert len(clean_text(text)) <= len(said)


def held_bytes(root: object) -> int:
    """About how much memory an object keeps alive, shared things and code left aside."""
    seen: set[int] = set()
    pending, total = [root], 0
    while pending:
        one = pending.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        # `Raw` has no size that could be asked for.
        total += len(bytes(one)) if isinstance(one, msgspec.Raw) else sys.getsizeof(one)
        match one:
            case dict():
                pending += [*one.keys(), *one.values()]
            case list() | tuple() | set() | frozenset():
                pending += one
            case _:
                pending += _fields(one)
    return total


def _fields(one: object) -> list[Any]:
    names = [*getattr(one, "__dict__", ())]
    names += [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    names += getattr(one, "__struct_fields__", ())
    return [getattr(one, name, None) for name in names]


def _json_of(frame: Frame) -> Any:
    """The JSON of a frame, or that behind a code, as in `0:"text"`."""
    data = frame.data or b""
    value = load_json(data)
    return load_json(data.partition(b":")[2]) if value is None else value


def _strings(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for inner in value.values() for text in _strings(inner)]
        case list():
            return [text for inner in value for text in _strings(inner)]
    return []
