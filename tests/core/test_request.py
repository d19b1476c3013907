"""Facts from request bodies of any shape; nothing from what is no JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrace.core.content import ContentPolicy
from streamtrace.core.jsonio import load_json
from streamtrace.core.request import read_request

RECORDINGS = Path(__file__).parents[1] / "recordings"
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "model",
                    "user",
                    "metadata",
                    "user_id",
                    "config",
                    "messages",
                    "input",
                    "temperature",
                ]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.request.json")), ids=lambda p: p.stem)
def test_the_model_of_every_recorded_request(path: Path) -> None:
    body = path.read_bytes()
    facts = read_request(load_json(body), ContentPolicy(keep=True))
    request: dict[str, Any] = json.loads(body)
    assert facts.model == request.get("model")
    asked = request.get("messages") or request.get("input") or request.get("contents")
    assert bool(facts.input.text) is bool(asked)


@pytest.mark.parametrize(
    ("body", "thread", "user"),
    [
        ({"thread_id": "t", "user": "u"}, "t", "u"),
        ({"threadId": "t", "runId": "r", "messages": []}, "t", None),
        ({"conversation": {"id": "t"}, "metadata": {"user_id": "u"}}, "t", "u"),
        ({"config": {"configurable": {"thread_id": "t"}}}, "t", None),
        ({"conversation": "t", "user": {"odd": 1}}, "t", None),
        ({"thread_id": 5, "session_id": "t"}, "t", None),
    ],
)
def test_thread_and_user_hide_behind_many_keys(
    body: dict[str, Any], thread: str | None, user: str | None
) -> None:
    facts = read_request(body, ContentPolicy())
    assert (facts.thread_id, facts.user) == (thread, user)


@pytest.mark.parametrize(
    "value",
    ["User: I am ill. Assistant:", "x" * 300, "", "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"],
)
def test_free_text_and_credentials_are_no_ids(value: str) -> None:
    body = json.dumps({"conversation": value, "user": value, "model": value}).encode()
    facts = read_request(load_json(body), ContentPolicy())
    assert (facts.thread_id, facts.user, facts.model) == (None, None, None)


def test_input_is_content() -> None:
    body = json.dumps({"message": "hello"}).encode()
    assert read_request(load_json(body), ContentPolicy()).input.text is None
    assert read_request(load_json(body), ContentPolicy(keep=True)).input.text == "hello"


def test_booleans_are_no_numbers() -> None:
    facts = read_request(
        load_json(b'{"temperature": true, "top_p": 0.9, "seed": 1}'), ContentPolicy()
    )
    assert facts.parameters == {"top_p": 0.9, "seed": 1}


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode())))
def test_no_body_raises(body: bytes) -> None:
    facts = read_request(load_json(body), ContentPolicy(keep=True))
    assert facts.model is None or len(facts.model) <= 256
