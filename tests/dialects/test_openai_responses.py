"""OpenAI Responses, decoded, against what OpenAI's own client makes of the same bytes."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from support import openai_oracle
from support.openai_frames import USAGE, altered, recorded
from support.openai_oracle import Facts
from support.strategies import cuts, single_bytes
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects import openai_responses
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.openai_responses import OpenAIResponses

STREAMS = recorded("openai-responses")
FRAMES = [frame for body in STREAMS.values() for frame in frames_of(body)[:40]]

# The first and the last frame of this recording lack a brace. The client stops at the first; the
# wire still tells one whole tool call, and no end.
NO_JSON = "openai-responses__ai__parallel_tool_call_wrapper.1"

CLIENT_READS = sorted(STREAMS.keys() - {NO_JSON})


def decode(*chunks: bytes) -> list[ev.Event]:
    return events_of(OpenAIResponses(), frames_of(*chunks))


def wire(*events: dict[str, Any]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps({'sequence_number': n, **event})}\n\n".encode()
        for n, event in enumerate(events)
    )


def told(*events: dict[str, Any]) -> list[ev.Event]:
    return decode(wire(*events))


def created(response_id: str = "r", **response: Any) -> dict[str, Any]:
    return lifecycle("created", "in_progress", id=response_id, **response)


def lifecycle(stage: str, status: str | None = None, **response: Any) -> dict[str, Any]:
    body = {"id": "r", "model": "m", "output": [], "usage": None, **response}
    return {"type": f"response.{stage}", "response": {**body, "status": status or stage}}


def added(index: int, kind: str, **item: Any) -> dict[str, Any]:
    item = {"id": f"i{index}", "type": kind, **item}
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, kind: str, **item: Any) -> dict[str, Any]:
    return {**added(index, kind, **item), "type": "response.output_item.done"}


def at(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    event = {"type": f"response.{kind}", "output_index": index, "item_id": f"i{index}", **fields}
    return {key: value for key, value in event.items() if value is not None}


def fold(events: list[ev.Event]) -> Facts:
    """The facts that our events tell."""
    facts = Facts()
    names: dict[str, str | None] = {}
    arguments: dict[str, str] = {}
    for event in events:
        match event:
            case ev.GenerationStarted():
                facts.response_id, facts.model = event.response_id, event.model
            case ev.TextDelta() | ev.ReasoningDelta():
                into = facts.texts if isinstance(event, ev.TextDelta) else facts.reasoning
                into[event.message_id] = into.get(event.message_id, "") + event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id], arguments[event.tool_call_id] = event.name, ""
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady():
                assert not arguments[event.tool_call_id] or (
                    event.arguments in (None, arguments[event.tool_call_id])
                )
                arguments[event.tool_call_id] = event.arguments or arguments[event.tool_call_id]
            case ev.ToolCallResult():
                facts.results[event.tool_call_id] = event.result
            case ev.Usage():
                facts.usage = {name: getattr(event, name) for name in USAGE}
            case ev.GenerationFinished():
                facts.finish_reasons += event.finish_reasons
            case ev.RunFailed():
                facts.error = (event.type, event.message or "")
    facts.calls = [(call_id, names[call_id], text) for call_id, text in arguments.items()]
    return facts


def plain(text: str) -> Any:
    """JSON as its value, since the client spaces it in its own way; other text as it stands."""
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- against the client --------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIENT_READS)
def test_a_recording_tells_what_the_client_yields(name):
    ours, (theirs, _) = fold(decode(STREAMS[name])), openai_oracle.read_responses(STREAMS[name])
    for facts in (ours, theirs):
        facts.calls = sorted((call_id, tool, plain(given)) for call_id, tool, given in facts.calls)
    for call_id, result in theirs.results.items():
        text = ours.results[call_id]
        assert (text if isinstance(result, str) else plain(text or "null")) == result
    assert ours.results.keys() == theirs.results.keys()
    ours.results = theirs.results = {}
    assert ours == theirs


@pytest.mark.parametrize("name", CLIENT_READS)
def test_the_text_told_is_that_of_the_finished_response(name):
    _, response = openai_oracle.read_responses(STREAMS[name])
    said = {
        item["id"]: "".join(part["text"] for part in item["content"])
        for item in response["output"]
        if item["type"] == "message"
    }
    texts = fold(decode(STREAMS[name])).texts
    if said:
        assert texts == {item_id: text for item_id, text in said.items() if text}


def test_a_recording_that_is_no_json_at_both_ends_tells_what_is_between_them():
    with pytest.raises(json.JSONDecodeError):
        openai_oracle.read_responses(STREAMS[NO_JSON])
    events = decode(STREAMS[NO_JSON])
    assert [type(event) for event in events] == [
        ev.Custom, ev.ToolCallStarted, ev.ToolCallArgumentsDelta, ev.ToolCallReady, ev.Custom,
    ]  # fmt: skip


@pytest.mark.parametrize("name", CLIENT_READS)
def test_a_recording_ends_once_and_in_order(name):
    events = decode(STREAMS[name])
    assert sum(isinstance(event, ev.TERMINAL) for event in events) == 1
    assert isinstance(events[-1], ev.TERMINAL)
    machine = RunMachine()
    for at_ns, event in enumerate(events):
        machine.feed(event, at_ns)
    assert machine.issues == {}


WAITING = {
    "openai-responses__pydantic-ai__deepseek_responses_function_tool_stream": "function_call",
    "openai-responses__pydantic-ai__openai_native_tool_search_streaming": "function_call",
    "openai-responses__pydantic-ai__reused_tool_call_ids_stream": "function_call",
}


@pytest.mark.parametrize("name", CLIENT_READS)
def test_a_recording_is_interrupted_where_its_last_item_waits_for_the_client(name):
    facts, response = openai_oracle.read_responses(STREAMS[name])
    end = decode(STREAMS[name])[-1]
    if name in WAITING:
        (call,) = [item for item in response["output"] if item["type"] == WAITING[name]]
        assert end == ev.RunInterrupted(reason=WAITING[name], tool_call_id=call["call_id"])
    elif facts.error is None:
        assert end == ev.RunFinished(run_id=facts.response_id)
    else:
        assert end == ev.RunFailed(type=facts.error[0], message=facts.error[1])


def test_citations_are_sources():
    events = decode(STREAMS["openai-responses__pydantic-ai__vercel_ai_test_run"])
    sources = [event for event in events if isinstance(event, ev.Source)]
    assert len(sources) == 4
    assert all(source.url.startswith("https://") and source.title for source in sources)


# --- what is known -------------------------------------------------------------------------

# These say nothing that other events do not say, so they count and time, as custom.
PROGRESS = {
    *("audio.delta", "audio.done", "compaction.compacting", "content_part.added"),
    *("code_interpreter_call.completed", "code_interpreter_call.in_progress"),
    *("file_search_call.completed", "file_search_call.in_progress"),
    *("image_generation_call.completed", "image_generation_call.in_progress"),
    *("image_generation_call.partial_image", "mcp_call.completed", "mcp_call.failed"),
    *("mcp_call.in_progress", "mcp_list_tools.completed", "mcp_list_tools.failed"),
    *("mcp_list_tools.in_progress", "reasoning_summary_part.added"),
    *("shell_call_command.added", "shell_call_command.done"),
    *("shell_call_output_content.delta", "shell_call_output_content.done"),
    *("web_search_call.completed", "web_search_call.in_progress"),
}


def test_every_type_of_the_client_has_a_meaning_or_is_known_to_have_none():
    types = {
        get_args(model.model_fields["type"].annotation)[0]
        for model in get_args(get_args(ResponseStreamEvent)[0])
    }
    assert len(types) > 50
    unknown = {kind.removeprefix("response.") for kind in types - openai_responses._HANDLERS.keys()}
    assert unknown == PROGRESS


def test_a_type_that_is_not_known_is_custom_and_changes_nothing():
    new = {"type": "response.brand_new.thing", "delta": "x", "output_index": 0}
    events = told(created(), added(0, "message"), new)
    assert events[-1] == ev.Custom(name="response.brand_new.thing")


@pytest.mark.parametrize(
    ("frame", "fit"),
    [
        (Frame(data=b'{"type":"response.created","sequence_number":0}'), Fit.YES),
        (Frame(data=b'{"type":"response.brand_new","sequence_number":7}'), Fit.YES),
        (Frame(data=b'{"type":"response.created","response":{}}'), Fit.YES),
        (Frame(data=b'{"type":"response.queued"}', event="response.queued"), Fit.YES),
        (Frame(data=b'{"type":"response.text"}'), Fit.MAYBE),
        (Frame(data=b'{"type":"error","sequence_number":0,"code":"c"}', event="error"), Fit.MAYBE),
        (Frame(data=b'{"type":"error","error":{"message":"m"}}', event="error"), Fit.NO),
        (Frame(data=b'{"type":["response."],"sequence_number":0}'), Fit.NO),
        (Frame(data=b"[DONE]"), Fit.NO),
        (Frame(data=b"no JSON", event="response.created"), Fit.NO),
        (Frame(event="response.created"), Fit.NO),
    ],
)
def test_only_its_own_types_are_recognised(frame, fit):
    assert OpenAIResponses().recognise(Head(), frame) is fit


# --- the response --------------------------------------------------------------------------

COMPLETED = lifecycle("completed")


def test_the_run_is_the_response_and_is_told_once():
    events = told(lifecycle("queued"), created(), lifecycle("in_progress"), COMPLETED)
    assert events == [
        ev.RunStarted(run_id="r"),
        ev.GenerationStarted(response_id="r", model="m"),
        ev.GenerationFinished(finish_reasons=("completed",)),
        ev.RunFinished(run_id="r"),
    ]


@pytest.mark.parametrize(
    ("fields", "thread_id"),
    [
        ({"conversation": {"id": "conv"}, "previous_response_id": "p"}, "conv"),
        ({"conversation": "conv"}, "conv"),
        ({"conversation": None, "previous_response_id": "p"}, "p"),
        ({"conversation": [], "previous_response_id": {}}, None),
    ],
)
def test_the_thread_is_the_conversation_or_the_response_before(fields, thread_id):
    assert told(created(**fields))[0] == ev.RunStarted(run_id="r", thread_id=thread_id)


@pytest.mark.parametrize(
    ("end", "reason", "outcome"),
    [
        (COMPLETED, "completed", ev.RunFinished(run_id="r")),
        (lifecycle("incomplete", incomplete_details={"reason": "max_output_tokens"}),
         "max_output_tokens", ev.RunFinished(run_id="r")),
        (lifecycle("incomplete"), "incomplete", ev.RunFinished(run_id="r")),
        (lifecycle("failed", error={"code": "c", "message": "m"}),
         "failed", ev.RunFailed(type="c", message="m")),
        (lifecycle("failed"), "failed", ev.RunFailed(type="failed")),
        (lifecycle("completed", "cancelled"), "cancelled", ev.RunCancelled()),
        (lifecycle("in_progress", "cancelled"), "cancelled", ev.RunCancelled()),
        (lifecycle("cancelled", "cancelled"), "cancelled", ev.RunCancelled()),
        (lifecycle("completed", "failed", error={"code": "c", "message": "m"}),
         "failed", ev.RunFailed(type="c", message="m")),
        ({"type": "response.completed"}, "completed", ev.RunFinished(run_id="r")),
    ],
)  # fmt: skip
def test_the_status_decides_how_the_run_ended(end, reason, outcome):
    assert told(created(), end)[-2:] == [ev.GenerationFinished(finish_reasons=(reason,)), outcome]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ({"type": "error", "code": "c", "message": "m", "param": None}, "c", "m"),
        ({"type": "error", "code": None, "message": "m"}, None, "m"),
        ({"type": "error", "error": {"type": "t", "code": None, "message": "m"}}, "t", "m"),
        ({"type": "error", "error": {"type": "t", "code": "c", "message": "m"}}, "c", "m"),
        ({"type": "error", "error": "m"}, None, "m"),
    ],
)
def test_both_shapes_of_an_error_fail_the_run_once(error, kind, message):
    after = lifecycle("failed", error={"code": "late", "message": "again"})
    events = told(created(), error, after)
    assert [event for event in events if isinstance(event, ev.TERMINAL)] == [
        ev.RunFailed(type=kind, message=message)
    ]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'data: {"error":{"message":"m","type":"t"}}\n\n', "t", "m"),
        (b"event: error\ndata: it broke\n\n", None, "it broke"),
        (b'event: error\ndata: "it broke"\n\n', None, "it broke"),
        (b'event: error\ndata: {"message":"m","code":5}\n\n', "5", "m"),
    ],
)
def test_an_error_of_a_gateway_fails_the_run(body, kind, message):
    assert decode(wire(created()) + body)[-1] == ev.RunFailed(type=kind, message=message)


def test_a_stream_that_just_stops_tells_no_end():
    assert not [e for e in told(created(), added(0, "message")) if isinstance(e, ev.TERMINAL)]


def test_done_and_comments_are_quiet():
    events = decode(b": hello\n\n" + wire(created(), COMPLETED) + b"data: [DONE]\n\n")
    assert events == told(created(), COMPLETED)


def test_usage_is_told_before_the_end_and_its_totals_include_their_parts():
    usage = {
        "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 8,
    }  # fmt: skip
    events = told(created(), lifecycle("failed", usage=usage))
    assert [type(e) for e in events[-3:]] == [ev.Usage, ev.GenerationFinished, ev.RunFailed]
    assert events[-3] == ev.Usage(
        input_tokens=5, output_tokens=3, cached_input_tokens=2, cache_write_tokens=1,
        reasoning_tokens=1,
    )  # fmt: skip


@pytest.mark.parametrize("usage", [None, {}, 7, [1]])
def test_usage_that_is_none_is_not_told(usage):
    events = told(created(), lifecycle("completed", usage=usage))
    assert not [event for event in events if isinstance(event, ev.Usage)]


def test_numbers_that_are_none_stay_absent():
    usage = {"input_tokens": "5", "output_tokens": True, "output_tokens_details": []}
    assert told(created(), lifecycle("completed", usage=usage))[2] == ev.Usage()


def test_a_stream_joined_late_still_tells_its_model_and_end():
    machine = RunMachine()
    for event in told(at(0, "output_text.delta", delta="Hi"), COMPLETED):
        machine.feed(event, 0)
    (generation,) = machine._generations
    assert (generation.response_id, generation.model) == ("r", "m")
    assert machine.terminal == ev.RunFinished(run_id="r")


def test_a_stream_may_carry_the_responses_of_a_whole_agent_run():
    call = {"call_id": "a", "name": "f", "arguments": "{}"}
    events = told(
        created("r1"), added(0, "function_call", **call), done(0, "function_call", **call),
        lifecycle("completed", id="r1"),
        created("r2"), added(0, "message"), at(0, "output_text.delta", delta="Hi"),
        lifecycle("completed", id="r2"),
    )  # fmt: skip
    machine = RunMachine()
    for event in events:
        machine.feed(event, 0)
    assert machine.issues == {}
    assert machine.terminal == ev.RunFinished(run_id="r2")
    assert [g.response_id for g in machine._generations] == ["r1", "r2"]


def test_an_id_that_changes_from_event_to_event_is_one_response():
    text = at(0, "output_text.delta", delta="Hi", content_index=0)
    events = told(
        created("r1"), lifecycle("in_progress", id="r2"), added(0, "message", id="x1"),
        {**text, "item_id": "x2"}, {**text, "item_id": "x3"},
        {**at(0, "output_text.done", text="HiHi", content_index=0), "item_id": "x4"},
        done(0, "message", id="x5", content=[{"type": "output_text", "text": "HiHi"}]),
        lifecycle("completed", id="r9"),
    )  # fmt: skip
    assert fold(events).texts == {"x1": "HiHi"}
    assert len([event for event in events if isinstance(event, ev.GenerationStarted)]) == 1


# --- text ----------------------------------------------------------------------------------

PARTS = [
    ("output_text", {"text": "Hi"}, {"type": "output_text", "text": "Hi"}, ev.TextDelta),
    ("refusal", {"refusal": "Hi"}, {"type": "refusal", "refusal": "Hi"}, ev.TextDelta),
    ("reasoning_text", {"text": "Hi"}, {"type": "reasoning_text", "text": "Hi"}, ev.ReasoningDelta),
]


@pytest.mark.parametrize(("kind", "whole", "part", "event"), PARTS)
@pytest.mark.parametrize("told_by", range(1, 16))
def test_a_text_is_told_once_by_whichever_events_come(kind, whole, part, event, told_by):
    item = "reasoning" if event is ev.ReasoningDelta else "message"
    ways = [
        at(0, f"{kind}.delta", content_index=0, delta="Hi"),
        at(0, f"{kind}.done", content_index=0, **whole),
        at(0, "content_part.done", content_index=0, part=part),
        done(0, item, content=[part]),
    ]
    chosen = [way for n, way in enumerate(ways) if told_by & 1 << n]
    events = told(
        created(),
        added(0, item),
        *chosen,
        lifecycle("completed", output=[done(0, item, content=[part])["item"]]),
    )
    assert [e for e in events if isinstance(e, (ev.TextDelta, ev.ReasoningDelta))] == [
        event(text="Hi", message_id="i0")
    ]


def test_a_summary_of_the_reasoning_is_told_once_for_each_part():
    text = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    events = told(
        created(), added(0, "reasoning"),
        at(0, "reasoning_summary_text.delta", summary_index=0, delta="a"),
        at(0, "reasoning_summary_text.done", summary_index=0, text="a"),
        at(0, "reasoning_summary_part.done", summary_index=1, part=text[1]),
        done(0, "reasoning", summary=text, content=[{"type": "reasoning_text", "text": "c"}]),
    )  # fmt: skip
    assert fold(events).reasoning == {"i0": "abc"}
    assert events[-1] == ev.ReasoningFinished(message_id="i0")


def test_a_response_told_only_by_its_last_event_is_told_whole():
    output = [
        {"id": "rs", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"id": "msg", "type": "message", "role": "assistant",
         "content": [{"type": "output_text", "text": "Hi"}, {"type": "refusal", "refusal": "!"}]},
        {"id": "fc", "type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
    ]  # fmt: skip
    events = told(created(), lifecycle("completed", output=output))
    facts = fold(events)
    assert (facts.texts, facts.reasoning) == ({"msg": "Hi!"}, {"rs": "hm"})
    assert facts.calls == [("a", "f", "{}")]
    assert events[-1] == ev.RunInterrupted(reason="function_call", tool_call_id="a")


@pytest.mark.parametrize("name", CLIENT_READS)
def test_the_output_that_the_last_event_repeats_is_told_once(name):
    *frames, last = [
        frame for frame in frames_of(STREAMS[name]) if b'"type"' in (frame.data or b"")
    ]
    end = last.json()
    if "response" in end:
        end["response"]["output"] = []
    shorter = Frame(data=json.dumps(end).encode(), event=last.event)
    assert events_of(OpenAIResponses(), [*frames, shorter]) == [
        event for event in decode(STREAMS[name]) if event != ev.Custom(name="unknown")
    ]


def test_what_is_spoken_belongs_to_the_open_message():
    spoken = {"type": "response.audio.transcript.delta", "delta": "Hi"}
    events = told(created(), added(0, "message", role="assistant"), spoken)
    assert events[-2:] == [
        ev.MessageStarted(message_id="i0", role="assistant"),
        ev.TextDelta(text="Hi", message_id="i0"),
    ]


@pytest.mark.parametrize("delta", [None, "", 7, ["Hi"], {"text": "Hi"}])
def test_a_delta_that_is_no_text_tells_none(delta):
    assert told(at(0, "output_text.delta", delta=delta)) == []


def test_a_text_without_an_item_bears_the_item_id_of_its_event():
    assert told(at(3, "output_text.delta", delta="Hi")) == [
        ev.TextDelta(text="Hi", message_id="i3")
    ]


# --- tool calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "pieces", "whole", "name"),
    [
        ({"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
         "function_call_arguments", "arguments", "f"),
        ({"type": "custom_tool_call", "call_id": "a", "name": "f", "input": "{}"},
         "custom_tool_call_input", "input", "f"),
        ({"type": "mcp_call", "id": "a", "name": "f", "arguments": "{}"},
         "mcp_call_arguments", "arguments", "f"),
        ({"type": "code_interpreter_call", "id": "a", "code": "{}"},
         "code_interpreter_call_code", "code", "code_interpreter"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("said", ["", "delta", "done", "delta done"])
def test_the_arguments_are_told_whole_once(item, pieces, whole, name, said):
    kind, empty = item["type"], {whole: "", "status": "in_progress"}
    events = [created(), added(0, kind, **{**item, **empty})]
    if "delta" in said:
        events += [at(0, f"{pieces}.delta", delta="{"), at(0, f"{pieces}.delta", delta="}")]
    if "done" in said:
        events.append(at(0, f"{pieces}.done", **{whole: "{}"}))
    events.append(done(0, kind, **item))
    decoded = told(*events)
    assert fold(decoded).calls == [("a", name, "{}")]
    assert len([event for event in decoded if isinstance(event, ev.ToolCallReady)]) == 1


def test_arguments_told_piece_by_piece_make_a_call_ready_once():
    pieces = (at(0, "code_interpreter_call_code.delta", delta=part) for part in "1+1")
    events = told(
        created(), added(0, "code_interpreter_call"), *pieces,
        at(0, "code_interpreter_call.interpreting"), done(0, "code_interpreter_call", code="1+1"),
    )  # fmt: skip
    ready = [event for event in events if isinstance(event, ev.ToolCallReady)]
    assert ready == [ev.ToolCallReady(tool_call_id="i0")]


@pytest.mark.parametrize(
    ("kind", "working", "given", "expected"),
    [
        ("web_search_call", "searching", {"action": {"query": "x"}}, '{"query":"x"}'),
        ("file_search_call", "searching", {"queries": ["x"]}, '["x"]'),
        ("image_generation_call", "generating", {"result": "aGk="}, None),
    ],
)
def test_a_tool_of_the_server_is_ready_when_it_starts_to_work(kind, working, given, expected):
    events = told(
        created(), added(0, kind), at(0, f"{kind}.{working}"), at(0, f"{kind}.{working}"),
        done(0, kind, status="completed", **given),
    )  # fmt: skip
    ready = [event for event in events if isinstance(event, ev.ToolCallReady)]
    again = [ev.ToolCallReady(tool_call_id="i0", arguments=expected)] if expected else []
    assert ready == [ev.ToolCallReady(tool_call_id="i0"), *again]
    assert events[-1] == ev.ToolCallResult(tool_call_id="i0")


@pytest.mark.parametrize(
    ("item", "result", "is_error"),
    [
        ({"type": "mcp_call", "output": "42"}, "42", False),
        ({"type": "mcp_call", "output": None, "error": "no route"}, "no route", True),
        ({"type": "mcp_call", "error": {"code": 1}}, '{"code":1}', True),
        ({"type": "mcp_call", "status": "failed"}, None, True),
        ({"type": "file_search_call", "results": [{"text": "x"}]}, '[{"text":"x"}]', False),
        ({"type": "code_interpreter_call", "outputs": [{"logs": "x"}]}, '[{"logs":"x"}]', False),
        ({"type": "image_generation_call", "result": "aGk="}, None, False),
        ({"type": "program_output", "result": "x"}, "x", False),
        ({"type": "brand_new_call", "output": "x"}, "x", False),
        ({"type": "function_call_output", "output": "x", "status": "completed"}, "x", False),
        ({"type": "function_call_output", "output": "x", "status": "incomplete"}, "x", True),
    ],
)
def test_the_result_of_a_server_tool_comes_with_its_item(item, result, is_error):
    kind = item.pop("type")
    events = told(created(), added(0, kind), done(0, kind, **item))
    assert events[-1] == ev.ToolCallResult(tool_call_id="i0", result=result, is_error=is_error)


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"type": "function_call", "name": "f"}, "f"),
        ({"type": "function_call", "name": ""}, None),
        ({"type": "web_search_call"}, "web_search"),
    ],
)
def test_a_call_is_named_by_its_item_or_by_what_the_item_is(item, name):
    kind = item.pop("type")
    (started,) = [e for e in told(added(0, kind, **item)) if isinstance(e, ev.ToolCallStarted)]
    assert started.name == name


def test_a_call_that_was_not_completed_has_no_result():
    events = told(created(), done(0, "mcp_call", status="incomplete", arguments="{"))
    assert not [event for event in events if isinstance(event, ev.ToolCallResult)]


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("function_call", {"call_id": "a"}), ("function_call_output", {"call_id": "a"})),
        (("shell_call", {"call_id": "a"}), ("shell_call_output", {"call_id": "a"})),
        (("tool_search_call", {"id": "a", "execution": "server"}), ("tool_search_output", {})),
        (("custom_tool_call", {"call_id": "a"}), ("message", {})),
        (("program", {"call_id": "a", "code": "1"}), ("program_output", {"call_id": "a"})),
    ],
)
def test_a_call_that_was_answered_in_the_response_interrupts_nothing(call, answer):
    (kind, item), (answer_kind, answer_item) = call, answer
    events = told(
        created(), added(0, kind, **item), done(0, kind, **item),
        added(1, answer_kind, **answer_item), done(1, answer_kind, output="x", **answer_item),
        COMPLETED,
    )  # fmt: skip
    assert events[-1] == ev.RunFinished(run_id="r")
    if answer_kind != "message":
        assert ev.ToolCallResult(tool_call_id="a", result="x") in events


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("function_call", {"call_id": "a"}),
        ("custom_tool_call", {"call_id": "a"}),
        ("mcp_approval_request", {"id": "a", "name": "f", "arguments": "{}"}),
        ("computer_call", {"call_id": "a", "pending_safety_checks": [{"id": "s"}]}),
        ("computer_call", {"call_id": "a", "pending_safety_checks": []}),
        ("local_shell_call", {"call_id": "a"}),
        ("apply_patch_call", {"call_id": "a"}),
        ("tool_search_call", {"call_id": "a", "execution": "client"}),
    ],
)
def test_a_call_left_to_the_client_interrupts_the_run(kind, item):
    events = told(created(), added(0, "message"), added(1, kind, **item), COMPLETED)
    assert events[-1] == ev.RunInterrupted(reason=kind, tool_call_id="a")


def test_an_unanswered_call_of_a_response_that_was_cut_interrupts_nothing():
    events = told(created(), added(0, "function_call", call_id="a"), lifecycle("incomplete"))
    assert events[-1] == ev.RunFinished(run_id="r")


def test_arguments_of_a_call_never_seen_are_custom():
    name = "response.function_call_arguments.delta"
    assert told(at(0, "function_call_arguments.delta", delta="{")) == [ev.Custom(name=name)]


# --- bounds, and what is broken ------------------------------------------------------------


def test_memory_is_bounded():
    decoder = OpenAIResponses().decoder()
    for n in range(3 * openai_responses.MAX_REMEMBERED):
        for event in (
            added(n, "function_call", call_id=f"a{n}"),
            added(-n - 1, "shell_call"),
            at(n, "output_text.delta", content_index=n, delta="x"),
        ):
            assert list(decoder.decode(Frame(data=json.dumps(event).encode())))
    memories = (decoder._items, decoder._told, decoder._unanswered, decoder._nameless)
    assert all(len(memory) <= openai_responses.MAX_REMEMBERED for memory in memories)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(altered(FRAMES), min_size=1, max_size=6))
def test_any_value_in_any_field_leaves_the_rest_of_the_stream(frames):
    decoder = OpenAIResponses().decoder()
    for frame in frames:
        for event in decoder.decode(frame):
            assert isinstance(event, ev.Event)
            assert isinstance(getattr(event, "text", ""), str)
    healthy = json.dumps(at(999, "output_text.delta", delta="still here")).encode()
    assert "still here" in [getattr(e, "text", None) for e in decoder.decode(Frame(data=healthy))]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_cuts_change_nothing(data):
    body = STREAMS["openai-responses__pydantic-ai__openai_responses_raw_cot_stream_openrouter"]
    assert decode(*data.draw(cuts(body))) == decode(body) == decode(*single_bytes(body))
