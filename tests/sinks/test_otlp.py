"""The encoder of spans against the official one, whose messages must come out equal."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from http import HTTPStatus
from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from streamtrace.core import compiled
from streamtrace.core.spans import SpanEvent
from streamtrace.sinks import otlp
from streamtrace.sinks.otlp import SpanIds, encode_request, encode_span, packed
from streamtrace.sinks.otlp_http import OtlpHttp, ids_of

KINDS = {SpanKind.INTERNAL: otlp.INTERNAL, SpanKind.CLIENT: otlp.CLIENT}
RESOURCE = Resource({"service.name": "shop", "k": [1, 2]}, schema_url="https://example.org/1")
SCOPE = InstrumentationScope("streamtrace", "1.0", "https://example.org/2", {"public_key": "pk"})

unicode = st.text(st.characters(exclude_categories=["Cs"]))
long_text = st.builds(lambda text, n: text * n, unicode.filter(bool), st.integers(100, 20_000))
int64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [edge + step for edge in (0, 2**7, 2**11, 2**14, 2**32) for step in (-1, 0, 1)]
    + [-(2**63), 2**63 - 1]
)
plain = unicode | st.booleans() | int64 | st.floats()
values = plain | long_text | st.lists(plain, max_size=5) | st.lists(int64 | long_text, max_size=200)
attributes = st.dictionaries(unicode.filter(bool), values, max_size=8)
times = st.integers(0, 2**64 - 1)
ids = st.builds(
    lambda trace_id, span_id, parent_id, remote: SpanIds(
        trace_id, span_id, parent_id, remote and bool(parent_id)
    ),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.just(0) | st.integers(1, 2**64 - 1),
    st.booleans(),
)
events = st.builds(SpanEvent, name=unicode, at_ns=times, attributes=attributes)
spans = st.fixed_dictionaries(
    {
        "ids": ids,
        "name": unicode | long_text,
        "kind": st.sampled_from(sorted(KINDS, key=str)),
        "start_ns": times,
        "end_ns": times,
        "attributes": attributes,
        "events": st.lists(events, max_size=3),
        "error": st.none() | unicode,
    }
)


@pytest.fixture(params=["compiled", "in Python"], scope="module", autouse=True)
def attributes_encoded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both, and so both make the same bytes."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "in Python":
            patch.setattr(otlp, "encode_attributes", otlp.encode_attributes_in_python)
        elif compiled.encode_attributes is None:
            pytest.skip("not compiled")
        yield


def official(span: dict[str, Any]) -> ReadableSpan:
    trace_id, span_id, parent_id, is_remote = span["ids"]
    flags, error = TraceFlags(TraceFlags.SAMPLED), span["error"]
    return ReadableSpan(
        name=span["name"],
        context=SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags),
        parent=SpanContext(trace_id, parent_id, is_remote=is_remote) if parent_id else None,
        resource=RESOURCE,
        instrumentation_scope=SCOPE,
        attributes=span["attributes"],
        events=[Event(one.name, one.attributes, timestamp=one.at_ns) for one in span["events"]],
        kind=span["kind"],
        status=Status() if error is None else Status(StatusCode.ERROR, error),
        start_time=span["start_ns"],
        end_time=span["end_ns"],
    )


def ours(span: dict[str, Any]) -> bytes:
    return encode_span(**{**span, "kind": KINDS[span["kind"]]})


def assert_equal(told: list[dict[str, Any]]) -> None:
    """Compared as bytes of parsed messages too: NaN does not equal itself."""
    expected = encode_spans([official(one) for one in told])
    http = OtlpHttp(SimpleNamespace(_max_request_size=0), expected)
    found = type(expected).FromString(http.request([ours(one) for one in told]))
    assert found.SerializeToString() == expected.SerializeToString()


def span(**changes: Any) -> dict[str, Any]:
    given = {
        "ids": SpanIds(2**127, 2**63, 5, True),
        "name": "chat",
        "kind": SpanKind.CLIENT,
        "start_ns": 1,
        "end_ns": 2,
        "attributes": {},
        "events": [],
        "error": None,
    }
    return {**given, **changes}


@given(told=st.lists(spans, min_size=1, max_size=3))
@example(told=[span(attributes={"empty": "", "none": [], "lists": ["", "é"], "no": False})])
@example(told=[span(error=""), span(error="boom", ids=SpanIds(1, 1))])
def test_what_is_encoded_is_what_the_official_encoder_makes(told: list[dict[str, Any]]) -> None:
    assert_equal(told)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 2045, 2046, 2047, 2048, 16_384, 2**21])
def test_lengths_at_the_edges_of_the_tables(size: int) -> None:
    text = "x" * size
    event = SpanEvent(name=text, at_ns=1, attributes={"k": text})
    assert_equal([span(name=text, error=text, attributes={"k": text, "l": [text]}, events=[event])])


class Colour(IntEnum):
    RED = 2


class Word(StrEnum):
    YES = "yes"


class Many(list[int]):
    pass


@pytest.mark.parametrize("value", [HTTPStatus.OK, Colour.RED, Word.YES, Many([1]), (1, "a")])
def test_values_of_subclasses_are_encoded_as_what_they_are(value: Any) -> None:
    assert_equal([span(attributes={"k": value, "l": [value]})])


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("\ud800", UnicodeEncodeError),
        (["\udfff"], UnicodeEncodeError),
        (2**63, OverflowError),
        (-(2**63) - 1, OverflowError),
        (2**64, OverflowError),
        (None, TypeError),
        ({}, TypeError),
        (b"", TypeError),
        ([object()], TypeError),
    ],
)
def test_what_no_record_holds_is_refused(value: Any, error: type[Exception]) -> None:
    """Records are cleaned before; a mistake there costs its own run, and is counted."""
    with pytest.raises(error):
        ours(span(attributes={"k": value}))


def test_a_list_without_an_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        ours(span(attributes={"k": endless}))


@given(attributes)
def test_compiled_or_not_attributes_are_the_same_bytes(attributes: dict[str, Any]) -> None:
    for tag in (otlp._OF_SPAN, otlp._OF_EVENT):
        in_python = otlp.encode_attributes_in_python(tag, attributes)
        assert otlp.encode_attributes(tag, attributes) == in_python


@pytest.mark.parametrize(
    "wrong", [(), (0x4A,), (0, {}), (128, {}), (0x4A, []), ("a", {}), (2, {3: 4})]
)
def test_the_compiled_encoder_refuses_what_are_no_attributes(wrong: Any) -> None:
    if compiled.encode_attributes is None:
        pytest.skip("not compiled")
    with pytest.raises(TypeError):
        compiled.encode_attributes(*wrong)


def test_names_of_metadata_are_not_remembered_for_ever() -> None:
    for number in range(3_000):
        ours(span(attributes={f"streamtrace.metadata.{number}": 1}))
    assert len(otlp._KEYS) <= otlp._MAX_KEYS
    assert_equal([span(attributes={"streamtrace.metadata.2999": 1})])


def test_the_ids_of_a_span_are_read_as_they_are_written() -> None:
    for written in (SpanIds(7, 8), SpanIds(7, 8, 9), SpanIds(7, 8, 9, True)):
        assert ids_of(official(span(ids=written))) == written


# --- runs packed into requests -------------------------------------------------------------------


@given(runs=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 50)), max_size=40))
def test_requests_hold_whole_runs_in_order_and_only_a_single_run_is_too_long(
    runs: list[tuple[int, int]],
) -> None:
    made = [([number] * spans, size) for number, (spans, size) in enumerate(runs)]
    requests = list(packed(made, max_spans=128, max_bytes=100))
    assert [span for spans, _ in requests for span in spans] == [
        span for spans, _ in made for span in spans
    ]
    rest = iter(made)
    held = [list(islice(rest, count)) for _, count in requests]
    for (spans, count), one in zip(requests, held, strict=True):
        assert len(spans) == sum(len(run) for run, _ in one)
        assert count == 1 or (len(spans) <= 128 and sum(size for _, size in one) <= 100)
    for one, following in pairwise(held):  # none could hold another
        more = [*one, following[0]]
        assert sum(len(run) for run, _ in more) > 128 or sum(size for _, size in more) > 100


def test_a_request_of_nothing_is_valid() -> None:
    parsed = type(encode_spans([])).FromString(encode_request(b"", b"", []))
    assert len(parsed.resource_spans) == 1
