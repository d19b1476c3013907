"""Text in pieces, followed as far as it is a JSON object, against the parser of the clients."""

from __future__ import annotations

import json

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import cuts

from streamtrace.dialects.encode.json_object import MAX_DEPTH, JsonObject


def taken(*pieces: str) -> str:
    follower = JsonObject()
    return "".join(map(follower.take, pieces))


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip
objects = st.builds(
    lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only),
    st.dictionaries(st.text(max_size=3), _values, max_size=4),
    st.none() | st.just(1),
    st.booleans(),
)


@given(text=objects, data=st.data())
def test_an_object_is_taken_whole_however_it_is_cut(text, data):
    pieces = [piece.decode("utf-8", "replace") for piece in data.draw(cuts(text.encode()))]
    if "".join(pieces) == text:
        assert taken(*pieces) == text
    assert taken(*text) == text
    assert taken(text, "}") == text


_marks = st.lists(
    st.sampled_from(tuple('{}[]:,"\\ \n0123456789.-+eEtrufalsn/bx\0ä')) | st.sampled_from(
        ('"a":', "true", "null", "1.5e-3", '\\u00e9', '"b"', "{}", "[]", ",")
    ),
    max_size=12,
).map("".join)  # fmt: skip


@given(text=objects, at=st.integers(0, 30), spoil=_marks)
def test_what_is_taken_can_be_parsed_at_any_time_and_no_more_could_be(text, at, spoil):
    spoiled = text[:at] + spoil + text[at:]
    kept = taken(spoiled)
    assert spoiled.startswith(kept)
    for end in range(len(kept) - len(kept.lstrip()) + 1, len(kept) + 1):
        assert isinstance(jiter.from_json(kept[:end].encode(), partial_mode=True), dict)
    if kept != spoiled:
        with pytest.raises(ValueError, match="line"):
            jiter.from_json(spoiled.encode(), allow_inf_nan=False)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"a":1}{"b":2}', '{"a":1}'),
        ('{"a":1} \n', '{"a":1} \n'),
        ('{"a":"x\ny"}', '{"a":"x'),
        ("{'a':1}", "{"),
        ('{"a":1,}', '{"a":1,'),
        ('{"a":[1}', '{"a":[1'),
        ('{"a":01}', '{"a":0'),
        ('{"a":1.}', '{"a":1.'),
        ('{"a":True}', '{"a":'),
        ('{"a":NaN}', '{"a":'),
        ('{"a":"\\x"}', '{"a":"\\'),
        ('{"a":"\\u12g4"}', '{"a":"\\u12'),
        ('{"a" "b"}', '{"a" '),
        ('{"a":"\\ud83d\\ude00"}', '{"a":"\\ud83d\\ude00"}'),
        ('{"a":"\\ud83dx"}', '{"a":"\\ud83d'),
        ('{"a":"\\ude00"}', '{"a":"\\ud'),
        ("[1]", ""),
        ("1", ""),
    ],
)
def test_it_ends_where_the_object_does(text, kept):
    assert taken(text) == kept
    assert taken(*text) == kept


def test_depth_is_bounded():
    text = '{"a":' * (MAX_DEPTH + 1)
    assert taken(text) == '{"a":' * MAX_DEPTH
