"""Frames of JSON, such as every client reads."""

from __future__ import annotations

import json

import pytest

from streamtrace.core.errors import EncodeError
from streamtrace.core.frames import Frame
from streamtrace.dialects.encode import base
from streamtrace.dialects.encode.base import json_frame

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"a": ["é", 1, None]}, '{"a":["é",1,null]}'),
        ("\u2028\r\n", '"\\u2028\\r\\n"'),
        (NAN, "null"),
        ("\ud83d", '"\\ud83d"'),
        (["\ud83d", NAN, float("inf")], '["\\ud83d", null, null]'),
        (["\ud83d", 2**70], f'["\\ud83d", {2**70}]'),
        (2**70, str(2**70)),
    ],
)
def test_json_as_every_client_reads_it(value, data):
    frame = json_frame(value, "named")
    assert frame == Frame(data=data.encode(), event="named")
    json.loads(frame.text, parse_constant=pytest.fail)


@pytest.mark.parametrize("also", ["", "\ud83d"], ids=["quick", "slow"])
def test_no_text_holds_what_a_line_reader_takes_for_a_line_end(also):
    ends = "".join(filter(lambda char: len(f"a{char}b".splitlines()) > 1, map(chr, range(0x3000))))
    assert {"\n", "\x85", "\u2028", "\u2029"} < {*ends}
    value = {ends + also: [ends, "é \N{HORIZONTAL ELLIPSIS}"]}
    frame = json_frame(value)
    assert frame.text.splitlines() == [frame.text]
    assert json.loads(frame.text) == value


def deep(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{(1, 2): 3}, deep(100_000)], ids=["keys", "deep"])
def test_what_is_no_json_is_an_error(value):
    with pytest.raises(EncodeError, match="no JSON"):
        json_frame(value)


def test_arguments_that_wait_are_bounded(monkeypatch):
    monkeypatch.setattr(base, "MAX_HELD_CHARS", 8)
    held = base.Held()
    held.add("12345678")
    assert held.take() == "12345678"
    held.add("1234")
    with pytest.raises(EncodeError, match="over 8 characters"):
        held.add("56789")
