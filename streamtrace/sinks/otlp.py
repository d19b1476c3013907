"""Spans as OTLP protobuf, written straight to bytes.

Rules that hold here:

* Pure functions: no span of the SDK, no protobuf message, no clock and no I/O.
* The bytes say what the official encoder says of the same span; it is the oracle of the tests.
* Names and texts must be valid Unicode, and whole numbers must fit into 64 bits, as the records of
  `core.spans` promise; anything else raises, and so costs its own run only.
* A run is never cut: requests hold whole runs, and are bounded in spans and bytes.

Attributes are compiled where there was a compiler; both do the same.

The SDK's way makes an object for each span, event and value, and a message for each of these again.

Source: opentelemetry-proto 1, trace/v1/trace.proto and common/v1/common.proto. The numbers below
are tags: a field's number times 8, plus how its value is written (0 varint, 1 eight bytes, 2 a
length and so many bytes, 5 four bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from streamtrace.core import compiled

MAX_SPANS_PER_REQUEST = 512
"""Of encoded spans. A request costs half a millisecond, as much as ten runs; to join them, next to
nothing."""
MAX_SDK_SPANS_PER_REQUEST = 128
"""Of spans of the SDK, which are encoded all at once, and so hold the interpreter's lock."""
MAX_BYTES_PER_REQUEST = 1024 * 1024
"""Compressing holds a core, so requests are small. A longer run still goes in one."""

INTERNAL, CLIENT = 1, 3
"""Kinds of spans."""

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_MAX_KEYS = 1024
_T = TypeVar("_T")


class SpanIds(NamedTuple):
    """Whose span it is; `parent_id` 0: nobody's. A trace state is not carried over by us."""

    trace_id: int
    span_id: int
    parent_id: int = 0
    is_remote: bool = False


class Link(Protocol):
    """Another span, by its ids as lower-case hex."""

    @property
    def trace_id(self) -> str:
        """Of its trace."""

    @property
    def span_id(self) -> str:
        """Its own."""


class Event(Protocol):
    """A moment inside a span."""

    name: str
    at_ns: int
    attributes: Any


def encode_request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """An ExportTraceServiceRequest of encoded spans, which all have this Resource and Scope.

    `resource` are the fields of ResourceSpans without its spans, `scope` those of ScopeSpans.
    """
    scope_spans = b"".join((scope, *spans))
    resource_spans = b"".join((resource, b"\x12", _varint(len(scope_spans)), scope_spans))
    return b"".join((b"\x0a", _varint(len(resource_spans)), resource_spans))


def encode_span(
    ids: SpanIds,
    name: str,
    *,
    kind: int,
    start_ns: int,
    end_ns: int,
    attributes: dict[str, Any],
    events: Sequence[Event] = (),
    links: Iterable[Link] = (),
    error: str | None = None,
) -> bytes:
    """A span as a field of ScopeSpans. `error` is the description of a failed span's status."""
    trace_id, span_id, parent_id, is_remote = ids
    parts = [b"\x0a\x10", trace_id.to_bytes(16, "big"), b"\x12\x08", span_id.to_bytes(8, "big")]
    flags = _HAS_IS_REMOTE
    if parent_id:
        parts += (b"\x22\x08", parent_id.to_bytes(8, "big"))
        flags |= _IS_REMOTE * is_remote
    parts += (_text(b"\x2a", name), _KIND_AND_TIMES(0x30, kind, 0x39, start_ns, 0x41, end_ns))
    parts.append(encode_attributes(_OF_SPAN, attributes))
    for event in events:
        encoded = b"".join(
            (
                _TIME(0x09, event.at_ns),
                _text(b"\x12", event.name),
                encode_attributes(_OF_EVENT, event.attributes),
            )
        )
        parts += (b"\x5a", _varint(len(encoded)), encoded)
    for link in links:
        parts += (b"\x6a\x21\x0a\x10", bytes.fromhex(link.trace_id))
        parts += (b"\x12\x08", bytes.fromhex(link.span_id), _REMOTE)
    if error is None:
        parts.append(b"\x7a\x00")
    else:
        status = _text(b"\x12", error) if error else b""
        parts += (b"\x7a", _varint(len(status) + 2), status, b"\x18\x02")
    parts.append(_FLAGS(0x85, 0x01, flags))
    span = b"".join(parts)
    return b"".join((b"\x12", _varint(len(span)), span))


def packed(
    runs: Iterable[tuple[list[_T], int]], max_spans: int, max_bytes: int
) -> Iterator[tuple[list[_T], int]]:
    """Whole runs, given as their spans and their size in bytes, as many as fit into a request:
    their spans, and how many runs these are."""
    request: list[_T] = []
    count = size = 0
    for spans, run_bytes in runs:
        if count and (len(request) + len(spans) > max_spans or size + run_bytes > max_bytes):
            yield request, count
            request, count, size = [], 0, 0
        request += spans
        count += 1
        size += run_bytes
    if count:
        yield request, count


def about_bytes(attributes: Mapping[str, Any]) -> int:
    """How long attributes are that somebody else encodes: only texts can be long."""
    return sum(len(one) for one in attributes.values() if isinstance(one, str))


_KIND_AND_TIMES = struct.Struct("<BBBQBQ").pack
_TIME = struct.Struct("<BQ").pack
_DOUBLE = struct.Struct("<d").pack
_FLAGS = struct.Struct("<BBI").pack
_REMOTE = struct.pack("<BI", 0x35, _HAS_IS_REMOTE | _IS_REMOTE)

_MORE = [bytes([0x80 | low]) for low in range(128)]
_VARINTS = [bytes([number]) for number in range(128)]
for _number in range(128, 2048):
    _VARINTS.append(_MORE[_number & 0x7F] + _VARINTS[_number >> 7])


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; all but the last have the highest bit set."""
    if number < len(_VARINTS):
        return _VARINTS[number]
    return _MORE[number & 0x7F] + _varint(number >> 7)


def _text(tag: bytes, text: str) -> bytes:
    encoded = text.encode()
    return tag + _varint(len(encoded)) + encoded


# --- attributes: KeyValues, of which most are short ----------------------------------------------


def encode_attributes_in_python(tag: int, attributes: dict[str, Any]) -> bytes:
    """Each as a KeyValue under this tag, which is below 128. Raises as the rules above say."""
    lengths = _LENGTHS[tag]
    parts: list[bytes] = []
    for name, value in attributes.items():
        pair = _KEYS[name] + _VALUES[type(value)](value)
        if len(pair) < len(lengths):
            parts.append(lengths[len(pair)] + pair)
        else:
            parts += (lengths[0][:1], _varint(len(pair)), pair)
    return b"".join(parts)


encode_attributes: Callable[[int, dict[str, Any]], bytes] = (
    compiled.encode_attributes or encode_attributes_in_python
)

_OF_SPAN, _OF_EVENT = 0x4A, 0x1A
_LENGTHS = {tag: [bytes([tag]) + length for length in _VARINTS] for tag in (_OF_SPAN, _OF_EVENT)}
"""The tag of attributes with each length that is not long."""


class _Keys(dict[str, bytes]):
    """Names as the first field of a KeyValue. Ours are few; those of metadata could be any."""

    def __missing__(self, name: str) -> bytes:
        encoded = _text(b"\x0a", name)
        if len(self) < _MAX_KEYS:
            self[name] = encoded
        return encoded


_KEYS = _Keys()


def _string(value: str) -> bytes:
    encoded = value.encode()
    size = len(encoded)
    return (_STRING[size] if size < len(_STRING) else _string_head(size)) + encoded


def _string_head(size: int) -> bytes:
    length = _varint(size)
    return b"\x12" + _varint(1 + len(length) + size) + b"\x0a" + length


_STRING = [_string_head(size) for size in range(2048)]


def _int(value: int) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise OverflowError("an attribute's number needs more than 64 bits")
    encoded = _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    return _INT[len(encoded)] + encoded


_INT = [b"\x12" + bytes([1 + size, 0x18]) for size in range(11)]


def _bool(value: bool) -> bytes:
    return b"\x12\x02\x10\x01" if value else b"\x12\x02\x10\x00"


def _float(value: float) -> bytes:
    return b"\x12\x09\x21" + _DOUBLE(value)


def _list(value: Sequence[Any]) -> bytes:
    """An ArrayValue has its values under tag 10, where a KeyValue has its value under 18."""
    values = b"".join([b"\x0a" + _VALUES[type(one)](one)[1:] for one in value])
    length = _varint(len(values))
    return b"\x12" + _varint(1 + len(length) + len(values)) + b"\x2a" + length + values


class _Values(dict[type, Callable[[Any], bytes]]):
    """Values as the second field of a KeyValue, by their class."""

    def __missing__(self, kind: type) -> Callable[[Any], bytes]:
        """Of a subclass: `http.HTTPStatus` is an int."""
        for base, encode in self.items():
            if issubclass(kind, base):
                return encode
        raise TypeError(f"an attribute of type {kind.__name__} cannot be encoded")


_VALUES = _Values({bool: _bool, str: _string, int: _int, float: _float, list: _list, tuple: _list})
