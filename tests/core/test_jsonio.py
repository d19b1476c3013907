"""JSON from strangers: what clients read is read, and nothing raises."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrace.core.jsonio import clean_text, dump_each, dump_json, load_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)  # fmt: skip


@given(values)
def test_what_others_write_is_read(value):
    assert load_json(json.dumps(value).encode()) == value


@given(values)
def test_what_is_written_reads_back(value):
    assert json.loads(dump_json(value)) == value


@given(st.binary(max_size=40))
def test_no_bytes_make_it_raise(data):
    dump_json(load_json(data))


@pytest.mark.parametrize("data", [
    b"", b"[DONE]", b"hello", b"{", b'{"a":}', b"[" * 200_000, b"[" * 200_000 + b"]" * 200_000,
    b"9" * 10_000, b"null", b"\xef\xbb\xbf{}", b"{}{}",
], ids=lambda data: repr(data[:12]))  # fmt: skip
def test_what_is_no_json_is_none(data):
    assert load_json(data) is None


@pytest.mark.parametrize(("data", "value"), [
    (b'"a\xffb"', "a\ufffdb"),
    (b'"\\ud83d"', "\ud83d"),
    (b'"\\ud83d\\ude00"', "\U0001f600"),
    (b"[Infinity]", [float("inf")]),
    (b"123456789012345678901234567890", 123456789012345678901234567890),
], ids=repr)  # fmt: skip
def test_what_only_lenient_clients_read_is_read(data, value):
    assert load_json(data) == value


@pytest.mark.parametrize("value", [
    "\ud83d", float("nan"), 2**70, {(1, 2): 3}, {1: {2}}, object(),
], ids=repr)  # fmt: skip
def test_no_value_makes_writing_raise(value):
    assert isinstance(dump_json(value), str)


@given(st.lists(values | st.sampled_from(["\ud83d", float("nan"), 2**70, object()]), max_size=5))
def test_many_values_are_written_as_each_of_them(many):
    assert dump_each(many) == [dump_json(one) for one in many]


def test_writing_many_leaves_nothing_behind():
    dump_each([0.5])
    before = sys.getallocatedblocks()
    for number in range(1000):
        dump_each([number / 3, str(number)])
    assert sys.getallocatedblocks() - before < 100


def test_a_value_nested_without_end_is_written_as_nothing():
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    assert dump_json(value) == ""


@pytest.mark.parametrize(("text", "clean"), [
    ("plain", "plain"),
    ("\ud83d" + "\ude00", "\U0001f600"),
    ("a\ud83d", "a\ufffd"),
    ("\ude00b", "\ufffdb"),
], ids=ascii)  # fmt: skip
def test_halves_of_an_emoji_are_joined_or_replaced(text, clean):
    assert clean_text(text) == clean


@given(st.text(st.characters(), max_size=9))
def test_clean_text_can_always_be_sent(text):
    clean = clean_text(text)
    clean.encode()
    assert clean_text(clean) == clean
