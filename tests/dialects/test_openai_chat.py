"""OpenAI chat, decoded, against what OpenAI's own client makes of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import openai_oracle
from support.openai_frames import USAGE, altered, recorded
from support.openai_oracle import Facts
from support.recordings import STREAMS as EVERY
from support.strategies import cuts, single_bytes
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects import openai_chat
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.openai_chat import OpenAIChat

STREAMS = recorded("openai-chat")
SAMPLES = {
    one.path.stem: one.body
    for one in EVERY
    if one.dialect == "openai-chat" and one.name not in STREAMS
}
FRAMES = [frame for body in STREAMS.values() for frame in frames_of(body)[:40]]

# The client raises at an error and drops the rest of its chunk, where OpenRouter puts the usage.
USAGE_ONLY_ON_THE_WIRE = {"openai-chat__pydantic-ai__openrouter_stream_error"}

ACCUMULATOR_FAILS = {
    "openai-chat__ai__anthropic_fallback_tool_call": "it takes the first index of a call for 0",
    "openai-chat__logfire__openrouter_streaming_reasoning": "reasoning_details have no index",
    "openai-chat__pydantic-ai__mistral_model_thinking_part_iter": "content is a list",
    "openai-chat__pydantic-ai__groq_model_thinking_part_iter_i1": "usage stands in x_groq",
}


def decode(*chunks: bytes) -> list[ev.Event]:
    return events_of(OpenAIChat(), frames_of(*chunks))


def wire(*chunks: Any) -> bytes:
    """Chunks as bytes; a string is data as it stands."""
    data = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    return b"".join(f"data: {one}\n\n".encode() for one in data)


def told(*chunks: Any) -> list[ev.Event]:
    """What the chunks say, but for the name of the run."""
    return [event for event in decode(wire(*chunks)) if event != ev.RunStarted(run_id="c")]


def test_the_first_id_names_the_run():
    """Once, whatever other ids come."""
    events = decode(
        wire(chunk(choice()), chunk(choice(finish="stop")), chunk(choice(), chunk_id="d"))
    )
    assert events[0] == ev.RunStarted(run_id="c")
    named = [one.run_id for one in events if isinstance(one, ev.RunStarted)]
    assert named == ["c"]


def chunk(*choices: dict[str, Any], chunk_id: str | None = "c", **fields: Any) -> dict[str, Any]:
    return {
        "id": chunk_id, "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": list(choices), **fields,
    }  # fmt: skip


def choice(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def tool(
    index: int | None = 0,
    call_id: str | None = None,
    name: str | None = None,
    arguments: Any = None,
    **more: Any,
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {
        "index": index,
        "id": call_id,
        "function": {k: v for k, v in function.items() if v is not None},
    }
    return {k: v for k, v in {**call, **more}.items() if v is not None}


def fold(events: list[ev.Event]) -> Facts:
    """The facts that our events tell; a message is a choice."""
    facts = Facts()
    names: dict[str, str | None] = {}
    arguments: dict[str, str] = {}
    for event in events:
        match event:
            case ev.GenerationStarted():
                facts.response_id, facts.model = event.response_id, event.model
            case ev.TextDelta() | ev.ReasoningDelta():
                index = 0
                if event.message_id != facts.response_id:
                    index = int((event.message_id or "").removeprefix(f"{facts.response_id}:"))
                into = facts.texts if isinstance(event, ev.TextDelta) else facts.reasoning
                into[index] = into.get(index, "") + event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id], arguments[event.tool_call_id] = event.name, ""
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady():
                call_id = event.tool_call_id
                facts.calls.append((call_id, names[call_id], arguments[call_id]))
            case ev.Usage():
                facts.usage = {name: getattr(event, name) for name in USAGE}
            case ev.GenerationFinished():
                facts.finish_reasons += event.finish_reasons
            case ev.RunFailed():
                facts.error = (event.type, event.message or "")
    return facts


# --- against the client --------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_recording_tells_what_the_client_yields(name):
    ours, theirs = fold(decode(STREAMS[name])), openai_oracle.read_chat(STREAMS[name])
    if name in USAGE_ONLY_ON_THE_WIRE:
        assert theirs.usage is None
        assert ours.usage is not None
        ours.usage = None
    assert ours == theirs


CLIENT_SEES_NO_ERROR = {"error_field", "bare_error"}  # in lines that are no field of SSE


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"arrays"}))
def test_a_sample_tells_what_the_client_yields(name):
    ours, theirs = fold(decode(SAMPLES[name])), openai_oracle.read_chat(SAMPLES[name])
    if name in CLIENT_SEES_NO_ERROR:
        assert theirs.error is None
        assert ours.error is not None
        ours.error = None
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("moderation", ev.RunFinished()),
        ("azure_first_chunk", ev.RunFinished()),
        ("web_search", ev.RunFinished()),
        ("arrays", ev.RunFinished()),
        ("request_timeout", None),  # a comment, which no client reads: the stream was cut
        ("error_field",
         ev.RunFailed(type="upstream_timeout", message="The model did not answer in time.")),
        ("bare_error", ev.RunFailed(type="500", message="Internal server error")),
    ],
)  # fmt: skip
def test_a_sample_ends_as_it_says(name, end):
    ends = [event for event in decode(SAMPLES[name]) if isinstance(event, ev.TERMINAL)]
    assert ends == ([end] if end else [])


@pytest.mark.parametrize("name", sorted(STREAMS.keys() - ACCUMULATOR_FAILS.keys()))
def test_a_recording_tells_what_the_client_accumulates(name):
    ours, theirs = fold(decode(STREAMS[name])), openai_oracle.accumulate_chat(STREAMS[name])
    assert (ours.texts, ours.calls, ours.finish_reasons) == (
        theirs.texts,
        theirs.calls,
        theirs.finish_reasons,
    )
    assert ours.error == theirs.error
    if name not in USAGE_ONLY_ON_THE_WIRE:
        assert ours.usage == theirs.usage


@pytest.mark.parametrize("name", STREAMS)
def test_a_recording_ends_once_and_in_order(name):
    events = decode(STREAMS[name])
    assert sum(isinstance(event, ev.TERMINAL) for event in events) == 1
    assert isinstance(events[-1], ev.TERMINAL)
    machine = RunMachine()
    for at_ns, event in enumerate(events):
        machine.feed(event, at_ns)
    assert machine.issues == {}


@pytest.mark.parametrize("name", STREAMS)
def test_nothing_in_a_recording_is_unknown(name):
    assert not [event for event in decode(STREAMS[name]) if isinstance(event, ev.Custom)]


def test_the_provider_of_openrouter_is_told():
    events = decode(STREAMS["openai-chat__pydantic-ai__openrouter_advisor_tool_stream"])
    assert [e.provider for e in events if isinstance(e, ev.GenerationStarted)] == ["OpenAI"]


# --- the end -------------------------------------------------------------------------------

END = chunk(choice(finish="stop"))


def test_done_ends_the_run_without_any_finish_reason():
    events = told(chunk(choice(content="Hi")), "[DONE]")
    assert events[-1] == ev.RunFinished()


def test_done_without_its_blank_line_ends_the_run():
    assert decode(wire(chunk(choice(content="Hi"))) + b"data: [DONE]")[-1] == ev.RunFinished()


def test_a_finish_reason_for_each_choice_ends_a_run_without_done():
    events = told(chunk(choice(0), choice(1)), chunk(choice(1, "stop")), chunk(choice(0, "length")))
    assert events[-2:] == [
        ev.GenerationFinished(finish_reasons=("length", "stop")),
        ev.RunFinished(),
    ]


def test_a_choice_that_never_finished_leaves_the_run_open():
    events = told(chunk(choice(0), choice(1)), chunk(choice(1, "stop")))
    assert events[-1] == ev.GenerationFinished(finish_reasons=("stop",))


def test_a_stream_that_just_stops_tells_no_end():
    assert told(chunk(choice(content="Hi")))[-1] == ev.TextDelta(text="Hi", message_id="c")
    assert told() == []


def test_a_repeated_finish_reason_is_told_once():
    events = told(END, END, "[DONE]")
    assert [e for e in events if isinstance(e, ev.GenerationFinished)] == [
        ev.GenerationFinished(finish_reasons=("stop",))
    ]


@pytest.mark.parametrize("ends", [("[DONE]",), ()])
def test_the_finish_reason_error_fails_the_run_once(ends):
    end = chunk(choice(finish="error"))
    events = told(end, end, *ends)
    assert events[-2:] == [
        ev.GenerationFinished(finish_reasons=("error",)),
        ev.RunFailed(type="error"),
    ]


def test_the_error_told_after_its_finish_reason_is_the_one_that_counts():
    end = chunk(choice(finish="error"))
    events = told(end, {**end, "error": {"code": 502, "message": "gone"}}, "[DONE]")
    assert events[-1] == ev.RunFailed(type="502", message="gone")


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'data: {"error":{"message":"m","type":"t","code":null}}\n\n', "t", "m"),
        (b'data: {"error":{"message":"m","type":"t","code":429}}\n\n', "429", "m"),
        (b'data: {"error":"m"}\n\n', None, "m"),
        (b'data: {"error":{"message":{"deep":1}}}\n\n', None, None),
        (b'data: {"error":{"detail":"m"}}\n\n', None, "m"),
        (b'event: error\ndata: {"message":"m","code":"c"}\n\n', "c", "m"),
        (b'event: error\ndata: {"error":{"message":"m"}}\n\n', None, "m"),
        (b"event: error\ndata: it broke\n\n", None, "it broke"),
        (b'error: {"message":"m","code":"c"}\n\n', "c", "m"),
        (b'error: {"error":{"message":"m","type":"t"}}\n\n', "t", "m"),
        (b"error: it broke\n\n", None, "it broke"),
        (b'{"error":{"message":"m","type":"t"}}', "t", "m"),
        (wire(chunk({**choice(), "error": {"code": 1, "message": "m"}})), "1", "m"),
    ],
)
def test_an_error_of_any_shape_fails_the_run(body, kind, message):
    more = b"data: [DONE]\n\n" if body.endswith(b"\n\n") else b""
    events = decode(wire(chunk(choice(content="Hi"))) + body + more)
    failed = ev.RunFailed(type=kind, message=message)
    assert [event for event in events if isinstance(event, ev.TERMINAL)] == [failed]


def test_a_chunk_with_an_error_still_tells_its_text_and_usage():
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    events = told(chunk(choice(content="Hi"), error={"code": 1, "message": "m"}, usage=usage))
    assert [type(event) for event in events] == [
        ev.GenerationStarted, ev.TextDelta, ev.Usage, ev.RunFailed,
    ]  # fmt: skip


# --- tool calls ----------------------------------------------------------------------------


def calls(*chunks: Any) -> list[tuple[str, str | None, str]]:
    return fold(told(*chunks)).calls


def test_a_call_is_ready_when_the_next_one_begins_and_at_the_finish():
    events = told(
        chunk(choice(tool_calls=[tool(0, "a", "f", "{}")])),
        chunk(choice(tool_calls=[tool(1, "b", "g", "{}")])),
        chunk(choice(finish="tool_calls")),
    )
    ready = [n for n, event in enumerate(events) if isinstance(event, ev.ToolCallReady)]
    assert isinstance(events[ready[0] + 1], ev.ToolCallStarted)
    assert isinstance(events[ready[1] + 1], ev.GenerationFinished)


def test_a_call_is_not_ready_when_the_stream_was_cut():
    events = told(chunk(choice(tool_calls=[tool(0, "a", "f", '{"x')])))
    assert not [event for event in events if isinstance(event, ev.ToolCallReady)]


F = ("a", "f", "{}")
F0 = ("c:0:0", "f", "{}")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # OpenAI: the id and the name come once
        (tool(0, "a", "f", "{"), tool(0, arguments="}"), [F]),
        # the id is repeated, or the id and the name are
        (tool(0, "a", "f", "{"), tool(0, "a", arguments="}"), [F]),
        (tool(0, "a", "f", "{"), tool(0, "a", "f", "}"), [F]),
        # an id is made for each chunk
        (tool(0, "a", "f", "{"), tool(0, "b", arguments="}"), [F]),
        # an empty id in what follows
        (tool(0, "a", "f", "{"), tool(0, "", "", "}"), [F]),
        # index 0 for every call
        (tool(0, "a", "f", "{}"), tool(0, "b", "f", "[]"), [F, ("b", "f", "[]")]),
        # no index at all
        (tool(None, "a", "f", "{"), tool(None, arguments="}"), [F]),
        (tool(None, "a", "f", "{}"), tool(None, "b", "f", "[]"), [F, ("b", "f", "[]")]),
        # no id at all
        (tool(0, None, "f", "{}"), tool(1, None, "f", "[]"), [F0, ("c:0:1", "f", "[]")]),
        (tool(0, None, "f", "{}"), tool(0, None, "g", "[]"), [F0, ("c:0:1", "g", "[]")]),
        # the name after the id
        (tool(0, "a"), tool(0, None, "f", "{}"), [F]),
        # both after the index
        (tool(0), tool(0, "a", "f", "{}"), [F]),
        # arguments as an object
        (tool(0, "a", "f", {}), tool(1, "b", "g", ["x"]), [F, ("b", "g", '["x"]')]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_one_chunk", [False, True])
def test_calls_are_told_apart_however_a_server_numbers_them(first, second, expected, in_one_chunk):
    end = chunk(choice(finish="tool_calls"))
    if in_one_chunk:
        assert calls(chunk(choice(tool_calls=[first, second])), end) == expected
    else:
        pair = (chunk(choice(tool_calls=[first])), chunk(choice(tool_calls=[second])))
        assert calls(*pair, end) == expected


def test_calls_of_several_choices_stay_apart():
    both = chunk(choice(0, tool_calls=[tool(name="f")]), choice(1, tool_calls=[tool(name="f")]))
    more = chunk(
        choice(1, tool_calls=[tool(arguments="[]")]), choice(0, tool_calls=[tool(arguments="{}")])
    )
    assert sorted(calls(both, more, "[DONE]")) == [("c:0:0", "f", "{}"), ("c:1:0", "f", "[]")]


def test_the_old_function_call_is_a_tool_call():
    assert calls(
        chunk(choice(function_call={"name": "f", "arguments": ""})),
        chunk(choice(function_call={"arguments": "{}"})),
        chunk(choice(finish="function_call")),
    ) == [("c:0:0", "f", "{}")]


def test_memory_of_choices_and_tool_calls_is_bounded():
    decoder = OpenAIChat().decoder()
    list(decoder.decode(Frame(data=json.dumps(chunk(choice(0))).encode())))  # never finished
    for n in range(3 * openai_chat.MAX_REMEMBERED):
        calls_one = choice(n + 1, "stop", tool_calls=[tool(n, f"id{n}", "f", "{}")])
        data = json.dumps(chunk(calls_one))
        assert len(list(decoder.decode(Frame(data=data.encode())))) >= 2
    memories = (decoder._calls, decoder._answers, decoder._finish_reasons)
    assert all(len(memory) <= openai_chat.MAX_REMEMBERED for memory in memories)


# --- text, reasoning and who speaks --------------------------------------------------------


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},  # vLLM, while it renamed the field
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
    ],
)
def test_reasoning_is_told_once_wherever_it_stands(delta):
    events = told(chunk(choice(**delta)))
    assert events[1:] == [ev.ReasoningDelta(text="hm", message_id="c")]


def test_what_is_refused_spoken_or_in_parts_is_text():
    parts = [{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [1]}, "b"]
    events = told(
        chunk(choice(refusal="No")),
        chunk(choice(audio={"id": "x", "transcript": "Hi"})),
        chunk(choice(content=parts)),
    )
    assert [event.text for event in events[1:]] == ["No", "Hi", "a", "b"]


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ([{"url_citation": {"url": "u", "title": "t"}}, 7], [ev.Source(url="u", title="t")]),
        ([{"type": "new"}], [ev.Custom(name="annotation", value={"type": "new"})]),
        ({"url_citation": {}}, []),
        (None, []),
    ],
)
def test_what_an_answer_cites_is_a_source(notes, expected):
    assert told(chunk(choice(annotations=notes)))[1:] == expected


def test_what_the_moderation_found_is_told_as_custom():
    found = {"input": {"type": "error"}}
    assert ev.Custom(name="moderation", value=found) in told(chunk(moderation=found))


def test_reasoning_comes_before_the_text_of_its_chunk():
    events = told(chunk(choice(content="4", reasoning="2+2")))
    assert [type(event) for event in events[1:]] == [ev.ReasoningDelta, ev.TextDelta]


@pytest.mark.parametrize("model", ["", "m"])
def test_a_chunk_about_the_prompt_starts_no_generation(model):
    prompt = chunk(chunk_id="", model=model, prompt_filter_results=[])
    assert told(prompt) == []
    events = told(prompt, chunk(choice(content="Hi")))
    assert events[0] == ev.GenerationStarted(response_id="c", model="m")


def test_a_model_that_changes_is_told_for_the_same_generation():
    events = told(chunk(choice(content="a")), chunk(choice(content="b"), model="n"))
    assert [e for e in events if isinstance(e, ev.GenerationStarted)] == [
        ev.GenerationStarted(response_id="c", model="m"),
        ev.GenerationStarted(response_id="c", model="n"),
    ]


def test_an_id_that_changes_with_each_chunk_is_one_generation():
    events = told(*(chunk(choice(content="x"), chunk_id=f"c{n}") for n in range(5)))
    assert len([e for e in events if isinstance(e, ev.GenerationStarted)]) == 1
    assert {e.message_id for e in events if isinstance(e, ev.TextDelta)} == {"c0"}


def test_an_id_that_changes_after_the_finish_is_the_next_generation():
    events = told(
        chunk(choice(tool_calls=[tool(0, "a", "f", "{}")])),
        chunk(choice(finish="tool_calls")),
        chunk(choice(content="Hi"), chunk_id="d"),
        {**END, "id": "d"},
        "[DONE]",
    )
    assert [e.response_id for e in events if isinstance(e, ev.GenerationStarted)] == ["c", "d"]
    assert [e.message_id for e in events if isinstance(e, ev.TextDelta)] == ["d"]
    assert [e for e in events if isinstance(e, ev.TERMINAL)] == [ev.RunFinished()]


def test_each_of_several_answers_in_one_stream_may_end_with_done():
    machine = RunMachine()
    for event in told(END, "[DONE]", chunk(choice(content="Hi"), chunk_id="d"), {**END, "id": "d"}):
        machine.feed(event, 0)
    assert machine.issues == {}
    assert machine.terminal == ev.RunFinished()


# --- usage ---------------------------------------------------------------------------------

NUMBERS = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


@pytest.mark.parametrize(
    "last",
    [
        chunk(usage=NUMBERS),
        chunk(choice(), usage=NUMBERS),
        chunk(choice(), x_groq={"usage": NUMBERS}),
        chunk({**choice(), "usage": NUMBERS}),  # Moonshot
    ],
)
def test_usage_is_found_wherever_a_server_puts_it(last):
    assert told(last)[-1] == ev.Usage(input_tokens=5, output_tokens=3)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"prompt_cache_hit_tokens": 4}, {"cached_input_tokens": 4}),  # DeepSeek
        ({"prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1}},
         {"cached_input_tokens": 2, "cache_write_tokens": 1}),
        ({"completion_tokens_details": {"reasoning_tokens": 3}}, {"reasoning_tokens": 3}),
        ({"completion_tokens_details": {"reasoning_tokens": 7}, "total_tokens": 15},  # xAI
         {"reasoning_tokens": 7, "output_tokens": 10}),
        ({"completion_tokens": None, "total_tokens": None}, {"output_tokens": None}),
        ({"completion_tokens": True, "prompt_tokens": "5"},
         {"output_tokens": None, "input_tokens": None}),
        ({"completion_tokens": -1}, {"output_tokens": None}),
    ],
)  # fmt: skip
def test_totals_include_their_parts_and_what_is_absent_stays_absent(extra, expected):
    usage = ev.Usage(**{"input_tokens": 5, "output_tokens": 3, **expected})
    assert told(chunk(usage={**NUMBERS, **extra}))[-1] == usage


@pytest.mark.parametrize("usage", [None, {}, [], "none", 0])
def test_usage_that_is_none_is_not_told(usage):
    assert told(chunk(choice(), usage=usage)) == [ev.GenerationStarted(response_id="c", model="m")]


# --- what is not ours, and what is broken --------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "fit"),
    [
        (Frame(data=json.dumps(chunk()).encode()), Fit.YES),
        (Frame(data=b'{"choices":[],"object":"","prompt_filter_results":[]}'), Fit.MAYBE),
        (Frame(data=b'{"error":{"message":"m"}}'), Fit.MAYBE),
        (Frame(data=b"[DONE]"), Fit.MAYBE),
        (Frame(data=b"it broke", event="error"), Fit.MAYBE),
        (Frame(stray=b"error: {}"), Fit.MAYBE),
        (Frame(data=b'{"object":"text_completion","choices":[{"text":"Hi"}]}'), Fit.NO),
        (Frame(data=b'{"type":"response.created"}'), Fit.NO),
        (Frame(data=b'[{"object":"chat.completion.chunk"}]'), Fit.NO),
        (Frame(data=b"no JSON"), Fit.NO),
        (Frame(comment=b"OPENROUTER PROCESSING"), Fit.NO),
    ],
)
def test_only_a_chunk_is_recognised_for_sure(frame, fit):
    assert OpenAIChat().recognise(Head(), frame) is fit


def test_comments_and_frames_that_were_too_big_tell_nothing():
    decoder = OpenAIChat().decoder()
    assert list(decoder.decode(Frame(comment=b"OPENROUTER PROCESSING"))) == []
    assert list(decoder.decode(Frame(oversized=True))) == []


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'data: {"object":"chat.completion.brand_new"}\n\n', "chat.completion.brand_new"),
        (b"event: usage_hint\ndata: 7\n\n", "usage_hint"),
        (b'data: {"id":"c","obj\n\n', "unknown"),
        (b"field: value\n\n", "stray"),
    ],
)
def test_what_is_not_known_is_told_as_custom(body, name):
    assert decode(body) == [ev.Custom(name=name)]


def test_a_wrong_type_loses_its_field_only():
    odd = {**choice(finish="stop", content="Hi", tool_calls={"0": 1}), "index": "0"}
    events = told(chunk(odd, 7, ["x"], model=["m"], usage=NUMBERS, created="now"))
    assert events == [
        ev.GenerationStarted(response_id="c"),
        ev.TextDelta(text="Hi", message_id="c"),
        ev.GenerationFinished(finish_reasons=("stop",)),
        ev.Usage(input_tokens=5, output_tokens=3),
        ev.RunFinished(),
    ]


def test_half_an_emoji_and_bytes_that_are_no_text_are_kept():
    half = (
        b'data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    )
    broken = half.replace(b"\\ud83d", b"\xff")
    assert [e.text for e in decode(half, broken)] == ["\ud83d", "\ufffd"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(altered(FRAMES), min_size=1, max_size=6))
def test_any_value_in_any_field_leaves_the_rest_of_the_stream(frames):
    decoder = OpenAIChat().decoder()
    for frame in frames:
        for event in decoder.decode(frame):
            assert isinstance(event, ev.Event)
            assert isinstance(getattr(event, "text", ""), str)
    healthy = json.dumps(chunk(choice(index=9, content="still here"))).encode()
    assert "still here" in [getattr(e, "text", None) for e in decoder.decode(Frame(data=healthy))]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cuts_change_nothing(data):
    body = STREAMS["openai-chat__pydantic-ai__openrouter_stream_error"]
    assert decode(*data.draw(cuts(body))) == decode(body) == decode(*single_bytes(body))
