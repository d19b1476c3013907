"""Captured texts as chat messages of the semantic conventions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.summaries import content, tool_call

from streamtrace.core.content import ContentPolicy
from streamtrace.core.jsonio import load_json
from streamtrace.core.messages import input_messages, output_messages
from streamtrace.core.request import read_request
from streamtrace.core.summary import Content

RECORDINGS = Path(__file__).parents[1] / "recordings"


def told(text: str) -> Any:
    """The messages of a request with this input."""
    return json.loads(input_messages(content(text)) or "null")


def parts_of(message: Any) -> Any:
    """The parts of the only message of a request."""
    [one] = told(json.dumps([message]))
    return one["parts"]


# --- what was asked ------------------------------------------------------------------------------


def test_the_messages_of_a_chat_keep_their_roles():
    """Not one message of the user with the JSON of all."""
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, "you"]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]

    assert told(json.dumps(chat)) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {
            "role": "user",
            "parts": [{"type": "text", "content": "Hi"}, {"type": "text", "content": "you"}],
        },
        {"role": "assistant", "parts": []},
    ]


ASKED = {"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"city":"Paris"}'}
ANSWERED = {"type": "tool_call_response", "id": "c1", "response": "sunny"}
FUNCTION = {"name": "weather", "arguments": '{"city":"Paris"}'}


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ({"role": "assistant", "tool_calls": [{"id": "c1"}]}, '{"id":"c1"}'),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}],
            },
            ASKED,
        ),
        (
            {"role": "assistant", "toolCalls": [{"id": "c1", "type": "function"}]},
            {"type": "tool_call", "id": "c1"},
        ),
        ({"role": "tool", "tool_call_id": "c1", "content": "sunny"}, ANSWERED),
        ({"role": "tool", "toolCallId": "c1", "content": "sunny"}, ANSWERED),
        ({"type": "function_call", "call_id": "c1", **FUNCTION}, ASKED),
        ({"type": "function_call_output", "call_id": "c1", "output": "sunny"}, ANSWERED),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}}
                ],
            },
            {**ASKED, "arguments": {"city": "Paris"}},
        ),
        (
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}],
            },
            ANSWERED,
        ),
        ({"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, "Hi"),
        (
            {"role": "user", "content": [{"type": "image", "url": "u"}]},
            '{"type":"image","url":"u"}',
        ),
        ({"role": "user", "content": 7}, "7"),
        ({"role": "user", "content": [{"type": ["x"]}]}, '{"type":["x"]}'),
    ],
)
def test_a_part_is_told_as_the_conventions_tell_it(message, part):
    """OpenAI chat and Responses, Anthropic and AG-UI; what nobody knows as the text of its JSON."""
    expected = {"type": "text", "content": part} if isinstance(part, str) else part

    assert parts_of(message) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "What is the weather?",
        '[{"role":"user","content":"What is the wea',
        "[1, 2]",
        "[]",
        "[not JSON",
        '{"role":"user","content":"alone"}',
        '[{"role":"user","content":"a"},{"content":"of nobody"}]',
        '[{"role":"user"}]',
        "[" * 50_000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_whole_chat_is_a_text_of_the_user(text):
    """Plain questions, and JSON that was cut at the cap."""
    assert told(text) == [{"role": "user", "parts": [{"type": "text", "content": text}]}]


@pytest.mark.parametrize("body", sorted(RECORDINGS.glob("*.request.json")), ids=lambda p: p.stem)
def test_no_role_and_no_text_of_a_recorded_request_is_lost(body: Path):
    """Each message of a real request is there, and all of its plain texts."""
    request = json.loads(body.read_bytes())
    facts = read_request(load_json(body.read_bytes()), ContentPolicy(keep=True, room_bytes=2**30))
    messages = request.get("messages")
    if not isinstance(messages, list):
        messages = []
    found = json.loads(input_messages(facts.input) or "[]")

    if messages:
        assert [one["role"] for one in found] == [one["role"] for one in messages]
    for one, message in zip(found, messages, strict=False):
        if isinstance(message.get("content"), str) and message["role"] != "tool":
            assert one["parts"][0] == {"type": "text", "content": message["content"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "tool_calls",
                    "function",
                    "name",
                    "tool_call_id",
                ]
            )
            | st.text(max_size=3),
            inner
            | st.sampled_from(["user", "tool", "function", "tool_use", "function_call", "text"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(value=st.lists(JSON, max_size=3))
def test_whatever_a_stranger_asks_becomes_messages_with_parts(value):
    """Any JSON: roles are texts, and every part has a type."""
    for message in told(json.dumps(value)):
        assert isinstance(message["role"], str)
        assert all(isinstance(part["type"], str) for part in message["parts"])


@pytest.mark.parametrize("text", ["\ud83d", "[\ud83d"])
def test_half_a_surrogate_is_mended_before_it_becomes_an_escape(text):
    """Readers of JSON refuse the escape of one; a redactor, or a stream's ids, may hold it."""
    call = tool_call(id=text, name=text, arguments=content(text))
    for messages in (
        input_messages(content(text)),
        output_messages(content(text), content(text), [call]),
    ):
        assert messages is not None
        assert "\\ud83d" not in messages
        assert messages.count("\ufffd") in (1, 5)


def test_nothing_captured_is_nothing_said():
    """And hashed content shows its hash: equal texts can be told apart from others."""
    assert input_messages(Content(chars=5)) is None
    assert output_messages(Content(chars=5)) is None
    assert told_hash(input_messages(Content(chars=5, sha256="ab" * 32))) == "sha256:" + "ab" * 32
    assert told_hash(output_messages(Content(chars=5, sha256="ab" * 32))) == "sha256:" + "ab" * 32


def told_hash(messages: str | None) -> str:
    [message] = json.loads(messages or "[]")
    [part] = message["parts"]
    text: str = part["content"]
    return text


# --- what was answered ---------------------------------------------------------------------------


def test_reasoning_text_and_tool_calls_are_parts_of_one_answer():
    """In the order in which a model makes them."""
    calls = [
        tool_call(arguments=content('{"city":"Paris"}'), result=content("not the model's")),
        tool_call(id="c2", name=None, arguments=Content()),
    ]
    [message] = json.loads(output_messages(content("Wait."), content("Hm"), calls) or "[]")

    assert message == {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Hm"},
            {"type": "text", "content": "Wait."},
            {
                "type": "tool_call",
                "id": "call_weather_1",
                "name": "get_weather",
                "arguments": '{"city":"Paris"}',
            },
            {"type": "tool_call", "id": "c2"},
        ],
    }


def test_without_captured_content_tool_calls_make_no_message():
    """Their names and ids are attributes; a message would say that content was captured."""
    assert output_messages(Content(), Content(), [tool_call(arguments=Content(chars=9))]) is None
