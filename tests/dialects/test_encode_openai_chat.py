"""OpenAI chat completions, written: each rule, and what OpenAI's clients make of it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from support.clients import run_client
from support.live import live, speaking
from support.openai_oracle import chat_usage
from support.runs import Run, agent_runs, any_events, facts, left_to_the_client, some
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.errors import EncodeError
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode import openai_chat
from streamtrace.dialects.openai_chat import OpenAIChat

ENVELOPE = Envelope(run_id="chatcmpl-1", model="agent", created_s=1_700_000_000)
END = ev.RunFinished()


def told(*events: ev.Event) -> list[Any]:
    """The objects on the wire; the sentinel as text."""
    encoder = OpenAIChat().encoder(ENVELOPE)
    frames = [frame for event in events for frame in encoder.encode(event)]
    return [frame.json() or frame.text for frame in (*frames, *encoder.close())]


def text(text: str, message_id: str | None = None) -> ev.TextDelta:
    return ev.TextDelta(text=text, message_id=message_id)


def call(call_id: str = "c", name: str | None = "f", arguments: str | None = '{"a":1}') -> Run:
    return [
        ev.ToolCallStarted(tool_call_id=call_id, name=name),
        ev.ToolCallReady(tool_call_id=call_id, arguments=arguments),
    ]


def result(call_id: str = "c") -> ev.ToolCallResult:
    return ev.ToolCallResult(tool_call_id=call_id, result="ok")


def generation(response_id: str | None = None, **facts: str) -> ev.GenerationStarted:
    return ev.GenerationStarted(response_id=response_id, **facts)


def finish(*reasons: str) -> ev.GenerationFinished:
    return ev.GenerationFinished(finish_reasons=reasons)


def test_a_whole_answer():
    head = {"id": "c-7", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": "gpt-5", "provider": "openai"}  # fmt: skip

    def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**head, "choices": [choice]}

    function = {"name": "f", "arguments": '{"a":1}'}
    assert told(
        ev.RunStarted(run_id="c-7"),
        generation("c-7", model="gpt-5", provider="openai"),
        ev.ReasoningDelta(text="Hm", message_id="c-7"),
        text("Hi", "c-7"),
        *call(),
        finish("tool_calls"),
        ev.Usage(input_tokens=5, output_tokens=3, cached_input_tokens=2, reasoning_tokens=1),
        END,
    ) == [
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Hm"),
        chunk(content="Hi"),
        chunk(tool_calls=[{"index": 0, "id": "c", "type": "function", "function": function}]),
        chunk(finish_reason="tool_calls"),
        {
            **head,
            "choices": [],
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 3,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
        },
        "[DONE]",
    ]


CANONICAL: dict[str, Run] = {
    "text": [
        ev.RunStarted(run_id="c"),
        generation("c", model="m", provider="p"),
        ev.ReasoningDelta(text="Hm", message_id="c"),
        text("Hi", "c"),
        text(" \n", "c"),
        finish("length"),
        ev.Usage(input_tokens=5, output_tokens=3, cache_write_tokens=2),
        END,
    ],
    "calls": [
        ev.RunStarted(run_id="c"),
        generation("c", model="m"),
        *(
            event
            for call_id in ("a", "b")
            for event in (
                ev.ToolCallStarted(tool_call_id=call_id, name="f"),
                ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta="{}"),
                ev.ToolCallReady(tool_call_id=call_id),
            )
        ),
        finish("tool_calls"),
        END,
    ],
    "two choices": [
        ev.RunStarted(run_id="c"),
        generation("c", model="m"),
        text("Yes", "c"),
        text("No", "c:1"),
        text("!", "c"),
        finish("stop", "content_filter"),
        END,
    ],
    "an error": [
        ev.RunStarted(run_id="c"),
        generation("c", model="m"),
        text("Yes", "c"),
        ev.Usage(input_tokens=5),
        ev.RunFailed(type="rate_limit", message="slow down"),
    ],
}


@pytest.mark.parametrize("name", CANONICAL)
def test_what_this_wire_says_is_read_as_it_was_told(name):
    frames = [frame for event in CANONICAL[name] for frame in OpenAIChat().encoder().encode(event)]
    assert frames  # each event by itself can be written
    body = "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n"
                   for one in told(*CANONICAL[name]))  # fmt: skip
    assert events_of(OpenAIChat(), frames_of(body.encode())) == CANONICAL[name]


# --- one completion --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "completion_id", "model"),
    [
        ([], "chatcmpl-1", "agent"),
        ([ev.RunStarted(run_id="r"), generation("c", model="m")], "r", "m"),
        ([ev.RunStarted(), generation("c"), generation("d")], "c", "agent"),
        ([generation(model="m"), generation(provider="p")], "chatcmpl-1", "m"),
    ],
)
def test_one_id_for_all_chunks(events, completion_id, model):
    *chunks, done = told(*events, text("Hi"), ev.Usage(input_tokens=1), END)
    assert {chunk["id"] for chunk in chunks} == {completion_id}
    assert chunks[-1]["model"] == model
    assert done == "[DONE]"


def test_a_run_of_several_generations_is_one_answer():
    chunks = told(
        generation("a", model="m"), text("Let me see. ", "x"), *call(), finish("tool_use"),
        ev.Usage(input_tokens=5, output_tokens=3), result(),
        generation("b", model="m"), text("Sunny.", "y"), finish("end_turn"),
        ev.Usage(input_tokens=9, output_tokens=4), END,
    )  # fmt: skip
    deltas = [choice["delta"] for chunk in chunks[:-1] for choice in chunk["choices"]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Let me see. "},
        {"content": "Sunny."},
        {},
    ]
    usage = {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21}
    assert [chunk["usage"] for chunk in chunks[:-1] if "usage" in chunk] == [usage]


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        (call(), ["c"]),
        ([*call(), *call("d")], ["c", "d"]),
        ([*call(), ev.GenerationFinished(), ev.RunInterrupted()], ["c"]),
        ([*call(), text("while it runs")], ["c"]),
        ([*call(), result()], []),
        ([*call(), *call("d"), result()], ["d"]),
        ([generation("a"), *call(), generation("b")], []),
        ([generation(), *call(), finish("tool_calls"), generation()], []),
        ([generation("a"), *call(), generation("a", model="known late")], ["c"]),
        ([*call(), ev.RunCancelled()], []),
        ([*call(), ev.RunFailed()], []),
        (call(name=None), []),
        ([*call(), *call()], ["c"]),
        ([result(), *call()], ["c"]),
    ],
)
def test_a_client_is_shown_the_calls_that_are_left_to_it(events, shown):
    deltas = [choice["delta"] for chunk in told(*events, END) if isinstance(chunk, dict)
              for choice in chunk.get("choices", ())]  # fmt: skip
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [one["id"] for one in calls] == shown
    assert [one["index"] for one in calls] == list(range(len(shown)))


def test_a_run_that_just_stops_shows_no_call():
    assert [list(one["choices"][0]["delta"]) for one in told(text("a"), *call())] == [
        ["role", "content"],
        ["content"],
    ]


def arguments_of(*events: ev.Event) -> str:
    *_, shown, _, _ = told(*events, END)
    return shown["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"]


def test_the_arguments_are_whole():
    start, ready = call(arguments='{"a":1}')
    pieces = [ev.ToolCallArgumentsDelta(tool_call_id="c", delta=one) for one in ('{"b"', ":2}")]
    assert arguments_of(start, ready) == '{"a":1}'
    assert arguments_of(start, *pieces, ready, *pieces) == '{"b":2}'
    assert arguments_of(*call(arguments=None), ready) == '{"a":1}'
    assert arguments_of(*call(arguments=None)) == "{}"


def test_calls_and_arguments_are_held_within_bounds(monkeypatch):
    many = [event for number in range(openai_chat.MAX_CALLS + 5) for event in call(str(number))]
    assert len(told(*many, END)) == openai_chat.MAX_CALLS + 3
    monkeypatch.setattr(openai_chat, "MAX_HELD_CHARS", 10)
    encoder = OpenAIChat().encoder()
    full = call(arguments="x" * 10)
    for event in (*full, result(), *full, call("d")[0]):
        encoder.encode(event)
    with pytest.raises(EncodeError, match="over 10 characters"):
        encoder.encode(ev.ToolCallArgumentsDelta(tool_call_id="d", delta="x"))


# --- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "stop"),
        (call(), "tool_calls"),
        ([finish("stop")], "stop"),
        ([finish("end_turn")], "stop"),
        ([finish("MAX_TOKENS")], "length"),
        ([finish("refusal")], "content_filter"),
        ([finish("something of their own")], "stop"),
        ([finish("tool_calls")], "stop"),
        ([*call(), finish("tool_use")], "tool_calls"),
        ([*call(), finish("completed")], "tool_calls"),
        ([*call(), finish("length")], "length"),
        ([*call(), finish("tool_use"), result()], "stop"),
        ([generation("a"), finish("length"), generation("b")], "stop"),
        ([ev.RunInterrupted(reason="confirmation")], "stop"),
        ([*call(), ev.RunInterrupted(tool_call_id="c")], "tool_calls"),
        ([finish("tool_use"), *call(), ev.RunCancelled()], "stop"),
    ],
)
def test_the_finish_reason_is_a_word_of_openai_s(events, reason):
    reasons = [choice["finish_reason"] for chunk in told(*events, END) if isinstance(chunk, dict)
               for choice in chunk["choices"]]  # fmt: skip
    assert [one for one in reasons if one] == [reason]


@pytest.mark.parametrize("end", [END, ev.RunFailed(), ev.RunInterrupted(), ev.RunCancelled()])
def test_behind_the_end_there_is_nothing(end):
    after = [text("b"), ev.Usage(input_tokens=1), ev.RunStarted(run_id="r"), *call(), END]
    assert told(text("a"), end, *after) == told(text("a"), end)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (ev.RunFailed(type="overloaded", message="x"),
         {"message": "x", "type": "overloaded", "param": None, "code": "overloaded"}),
        (ev.RunFailed(), {"message": "", "type": None, "param": None, "code": None}),
    ],
)  # fmt: skip
def test_an_error_is_told_alone_and_last(event, error):
    assert told(event) == [{"error": error}]
    *_, last = told(text("a"), *call(), finish("stop"), event)
    assert last == {"error": error}


def test_what_was_used_before_an_error_is_told():
    _, usage, _ = told(generation(), ev.Usage(input_tokens=7), ev.RunFailed())
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 7})


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([], None),
        ([ev.Usage()], None),
        ([ev.Usage(output_tokens=0)], {"completion_tokens": 0}),
        ([ev.Usage(cache_write_tokens=2)], {"prompt_tokens_details": {"cache_write_tokens": 2}}),
        ([ev.Usage(input_tokens=1), ev.Usage(input_tokens=9, scope="run")], {"prompt_tokens": 9}),
    ],
)
def test_usage_is_what_is_known_of_it(events, usage):
    found = [chunk["usage"] for chunk in told(*events, END)[:-1] if "usage" in chunk]
    assert found == ([] if usage is None else [usage])


# --- choices ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message_id", "index"),
    [(None, 0), ("c", 0), ("c:1", 1), ("c:x", 0), ("d:1", 0), (":1", 0), ("c:1:1", 0)],
)
def test_a_message_of_another_choice(message_id, index):
    chunks = told(generation("c"), text("a", message_id), END)
    assert [chunk["choices"][0]["index"] for chunk in chunks if "content" in chunk] == []
    said = [one for chunk in chunks[:-1] for one in chunk["choices"] if one["delta"].get("content")]
    assert [one["index"] for one in said] == [index]


def test_without_a_generation_there_is_one_choice():
    said = [one["choices"][0]["index"] for one in told(text("a", "c:1"), text("b", ":1"))]
    assert set(said) == {0}


def test_choices_begin_in_their_order_and_end_each():
    chunks = told(generation("c"), text("a", "c:2"), finish("length", "stop"), END)[:-1]
    choices = [(one["index"], one["finish_reason"]) for chunk in chunks for one in chunk["choices"]]
    assert choices == [(0, None), (1, None), (2, None), (2, None),
                       (0, "length"), (1, "stop"), (2, "stop")]  # fmt: skip
    assert len(told(generation("c"), text("a", "c:128"))) == 1


# --- the real clients ------------------------------------------------------------------------

KINDS: dict[str, Run] = {
    **CANONICAL,
    "several generations": [
        generation("a", model="m"), text("Let me see. "), *call(), finish("tool_calls"),
        ev.Usage(input_tokens=5, output_tokens=3), result(),
        generation("b", model="m"), text("Sunny."), finish("stop"),
        ev.Usage(input_tokens=9, output_tokens=4), END,
    ],
    "calls side by side": [
        text("Both: "), *call("a")[:1], *call("b"), ev.ToolCallArgumentsDelta(
            tool_call_id="a", delta="{}"), *call("a")[1:], END,
    ],
    "waiting": [text("Shall I?"), ev.RunInterrupted(reason="confirmation")],
    "cancelled": [text("Well"), ev.RunCancelled()],
    "nothing": [END],
    "failed at once": [ev.RunFailed(type="overloaded", message="later")],
}  # fmt: skip


def shown(run: Run) -> dict[str, Any]:
    """What a client should hold in the end, of the first choice."""
    seen = left_to_the_client(run)
    found, spent = facts(seen), facts(run)
    first = [one for one in seen if getattr(one, "message_id", None) != "c:1"]
    return {
        "text": facts(first)["text"],
        "calls": list(zip(found["call_ids"], found["calls"], found["arguments"], strict=True)),
        "tokens": spent["tokens"] | spent["token_parts"],
    }


def held(completion: Any) -> dict[str, Any]:
    """The same, of the completion that a client accumulated."""
    message = completion["choices"][0]["message"]
    usage = chat_usage({"prompt_tokens": None, "completion_tokens": None,
                        **(completion.get("usage") or {})})  # fmt: skip
    return {
        "text": message.get("content") or "",
        "calls": [
            (one["id"], one["function"]["name"], one["function"]["arguments"])
            for one in message.get("tool_calls") or ()
        ],
        "tokens": {name: count for name, count in usage.items() if count is not None},
    }


def serving(runs: list[Run]) -> Any:
    """An app that answers with the run that the model's name counts to."""
    return live(speaking(OpenAIChat(), lambda asked: runs[int(asked["model"])], envelope=ENVELOPE))


async def test_openai_for_node_holds_what_was_said():
    runs = [*KINDS.values(), *some(agent_runs(), 40)]
    async with serving(runs) as url:
        seen = await run_client("openai_chat.mjs", url, *map(str, range(len(runs))))
    for run, client in zip(runs, seen, strict=True):
        end = facts(run)["end"]
        if end is ev.RunFailed:
            type_, message = facts(run)["error_type"], facts(run)["error"]
            assert client["error"]["code"] == type_
            assert client["error"]["message"].endswith(message.strip())
        elif end is None:
            assert client["error"], "a cut answer is no answer"
        else:
            assert client["error"] is None
            assert held(client["completion"]) == shown(run)
            assert client["text"] == facts(run)["text"]  # of all choices, as it came in


async def accumulated(client: openai.AsyncOpenAI, model: str) -> Any:
    """What the accumulator of the Python client holds."""
    messages: Any = [{"role": "user", "content": "hi"}]
    async with client.chat.completions.stream(model=model, messages=messages) as stream:
        async for _ in stream:
            pass
        return stream.current_completion_snapshot.to_dict(mode="json", warnings=False)


async def test_openai_for_python_holds_what_was_said():
    runs = [*KINDS.values(), *some(agent_runs(whole=True), 40)]
    async with (
        serving(runs) as url,
        openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client,
    ):
        for number, run in enumerate(runs):
            if facts(run)["end"] is ev.RunFailed:
                type_, message = facts(run)["error_type"], facts(run)["error"]
                with pytest.raises(openai.APIError, match=message) as raised:
                    await accumulated(client, str(number))
                assert raised.value.code == type_
            else:
                assert held(await accumulated(client, str(number))) == shown(run)


async def test_openai_for_python_reads_every_chunk():
    async with (
        serving([CANONICAL["two choices"], KINDS["calls side by side"]]) as url,
        openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client,
    ):
        said: dict[int, str] = {}
        finished: dict[int, str] = {}
        async for chunk in await client.chat.completions.create(
            model="0", messages=[], stream=True
        ):
            assert chunk.object == "chat.completion.chunk"
            assert (chunk.id, chunk.created) == ("c", ENVELOPE.created_s)
            for choice in chunk.choices:
                said[choice.index] = said.get(choice.index, "") + (choice.delta.content or "")
                if choice.finish_reason:
                    finished[choice.index] = choice.finish_reason
        assert said == {0: "Yes!", 1: "No"}
        assert finished == {0: "stop", 1: "content_filter"}


async def test_no_client_stumbles_over_whatever_comes():
    runs = some(any_events, 60)
    async with serving(runs) as url:
        seen = await run_client("openai_chat.mjs", url, *map(str, range(len(runs))))
    for run, client in zip(runs, seen, strict=True):
        end = next((type(event) for event in run if isinstance(event, ev.TERMINAL)), None)
        assert (client["error"] is None) is (end not in (None, ev.RunFailed)), run
