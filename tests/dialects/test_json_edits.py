"""JSON that is told as edits of its leaves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrace.dialects import json_edits
from streamtrace.dialects.json_edits import JsonEdits, parse_path


def written(*edits: tuple[str, Any, bool]) -> list[str | None]:
    """What each edit adds, and then the end."""
    text = JsonEdits()
    return [*(text.edit(path, value, more=more) for path, value, more in edits), text.close()]


def test_each_edit_adds_its_piece_of_the_text() -> None:
    assert written(
        ("$.item.name", 'Tea "ear', True),
        ("$.item.name", "l", True),
        ("$.item.name", "", False),
        ("$.item.count", 2, False),
        ("$.gift", True, False),
        ("$.list[0]", None, False),
        ("$.list[2].a", "x", True),
    ) == [
        '{"item":{"name":"Tea \\"ear',
        "l",
        '"',
        ',"count":2',
        '},"gift":true',
        ',"list":[null',
        ',null,{"a":"x',
        '"}]}',
    ]


def test_nothing_told_is_no_object() -> None:
    assert written() == [""]


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("$.a.b[0]['x y']", ("a", "b", 0, "x y")),
        ('$["q\\"x"][ 12 ]', ('q"x', 12)),
        ("$['it\\'s \"so\"']", ('it\'s "so"',)),
        ("$['\\u00e9\\n']", ("é\n",)),
        ("$", None),
        ("a.b", None),
        ("$..a", None),
        ("$.a[", None),
        ("$.a[*]", None),
        ("$['\\x']", None),
        ("$" + ".a" * (json_edits.MAX_DEPTH + 1), None),
        ("$." + "a" * json_edits.MAX_PATH_CHARS, None),
    ],
)
def test_paths_lead_to_one_place(path: str, keys: Any) -> None:
    assert parse_path(path) == keys


@pytest.mark.parametrize(
    ("before", "edit"),
    [
        ([], ("$[0]", 1)),  # arguments are an object
        ([("$.a", 1)], ("$.a", 2)),  # written
        ([("$.a", "x")], ("$.a", "y")),  # written, and not open
        ([("$.a", 1)], ("$.a.b", 2)),  # a leaf is no container
        ([("$.a.b", 1)], ("$.a", 2)),  # nor a container a leaf
        ([("$.a[0]", 1)], ("$.a.b", 2)),  # nor an array an object
        ([("$.a", 1), ("$.b", 2)], ("$.a", 3)),
        ([("$.a.x", 1), ("$.b", 2)], ("$.a.y", 3)),
        ([("$.a[1]", 1)], ("$.a[0]", 2)),
        ([("$.a[0]", 1)], (f"$.a[{json_edits.MAX_SKIPPED + 2}]", 2)),
    ],
)
def test_an_edit_without_a_place_is_refused_and_the_text_stays_whole(
    before: list[tuple[str, Any]], edit: tuple[str, Any]
) -> None:
    *told, refused, end = written(*((path, value, False) for path, value in [*before, edit]))
    assert refused is None
    text = "".join(piece or "" for piece in told) + (end or "")
    assert text == "" if not before else isinstance(json.loads(text), dict)


def test_an_open_string_ends_before_the_next_value() -> None:
    pieces = written(("$.a", "x", True), ("$.b", 1, False))
    assert "".join(piece or "" for piece in pieces) == '{"a":"x","b":1}'


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
objects = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=4)
            | st.dictionaries(st.text(max_size=8), inner, min_size=1, max_size=4)
        ),
        max_leaves=12,
    ),
    min_size=1,
    max_size=6,
)


def edits_of(value: Any, path: str = "$") -> list[tuple[str, Any]]:
    """The leaves of a value, in the order of its text."""
    if isinstance(value, dict):
        named = ((f"{path}[{json.dumps(key)}]", one) for key, one in value.items())
    elif isinstance(value, list):
        named = ((f"{path}[{index}]", one) for index, one in enumerate(value))
    else:
        return [(path, value)]
    return [edit for inner, one in named for edit in edits_of(one, inner)]


@given(value=objects, data=st.data())
def test_the_leaves_of_any_object_make_its_text(value: dict[str, Any], data: Any) -> None:
    text, grown = JsonEdits(), ""
    for path, leaf in edits_of(value):
        if isinstance(leaf, str) and data.draw(st.booleans()):
            cut = data.draw(st.integers(0, len(leaf)))
            grown += text.edit(path, leaf[:cut], more=True) or ""
            grown += text.edit(path, leaf[cut:], more=data.draw(st.booleans())) or ""
        else:
            grown += text.edit(path, leaf) or ""
    assert json.loads(grown + text.close()) == value


@given(st.lists(st.tuples(st.text(max_size=12) | st.sampled_from(("$.a", "$.a[0]", "$.b.c")),
                          leaves, st.booleans()), max_size=12))  # fmt: skip
def test_whatever_is_told_the_text_is_an_object(edits: list[tuple[str, Any, bool]]) -> None:
    text = "".join(piece or "" for piece in written(*edits))
    assert text == "" or isinstance(json.loads(text), dict)


def test_keys_are_remembered_up_to_a_limit() -> None:
    text = JsonEdits()
    for number in range(2 * json_edits.MAX_KEYS):
        assert text.edit(f"$.k{number}", 1) is not None
    assert len(text._keys[0]) == json_edits.MAX_KEYS
