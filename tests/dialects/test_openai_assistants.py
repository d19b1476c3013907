"""OpenAI Assistants, decoded, against what OpenAI's own client gathers from the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import openai_oracle
from support.openai_frames import USAGE
from support.openai_oracle import Facts
from support.recordings import STREAMS
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects import openai_assistants
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.openai_assistants import OpenAIAssistants

OURS = {one.name: one for one in STREAMS if one.dialect == "openai-assistants"}
READ_BY_THE_CLIENT = sorted(name for name, one in OURS.items() if not one.lines)
AZURE = "sample-openai-assistants-azure"  # whose tools OpenAI's client does not know

ENDS: dict[str, type[ev.Event] | None] = {
    "queued": None,
    "completed": ev.RunFinished,
    "incomplete": ev.RunFinished,
    "requires_action": ev.RunInterrupted,
    "cancelled": ev.RunCancelled,
    "failed": ev.RunFailed,
    "expired": ev.RunFailed,
}


def wire(*frames: tuple[str, Any]) -> bytes:
    """Events with their data; a string is data as it stands."""
    return b"".join(
        f"event: {event}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        for event, data in frames
    )


def said(*frames: tuple[str, Any]) -> list[ev.Event]:
    return events_of(OpenAIAssistants(), frames_of(wire(*frames)))


def run(status: str = "queued", **more: Any) -> tuple[str, Any]:
    fields = {"id": "run", "object": "thread.run", "status": status, "model": "m", **more}
    return f"thread.run.{status}", fields


def step(status: str, *calls: Any, step_id: str = "step", **more: Any) -> tuple[str, Any]:
    details = {"type": "tool_calls", "tool_calls": list(calls)}
    fields = {"id": step_id, "object": "thread.run.step", "type": "tool_calls", **more}
    return f"thread.run.step.{status}", {**fields, "run_id": "run", "step_details": details}


def more(*calls: Any) -> tuple[str, Any]:
    details = {"type": "tool_calls", "tool_calls": list(calls)}
    return "thread.run.step.delta", {"id": "step", "delta": {"step_details": details}}


def message(status: str, *parts: Any, role: str = "assistant") -> tuple[str, Any]:
    fields = {"id": "msg", "object": "thread.message", "role": role, "content": list(parts)}
    return f"thread.message.{status}", fields


def delta(*parts: Any) -> tuple[str, Any]:
    return "thread.message.delta", {"id": "msg", "delta": {"content": list(parts)}}


def text(value: str, **extra: Any) -> dict[str, Any]:
    return {"index": 0, "type": "text", "text": {"value": value, **extra}}


def function(index: int, call_id: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "id": call_id, "type": "function", "function": fields}


def fold(events: list[ev.Event]) -> Facts:
    """The facts that our events tell."""
    facts = Facts()
    names: dict[str, str | None] = {}
    arguments: dict[str, str] = {}
    for event in events:
        match event:
            case ev.RunStarted(run_id=str(run_id)):
                facts.response_id = run_id
            case ev.TextDelta():
                known = facts.texts.get(event.message_id, "")
                facts.texts[event.message_id] = known + event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id], arguments[event.tool_call_id] = event.name, ""
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady():
                call_id = event.tool_call_id
                told = arguments[call_id] or event.arguments or ""
                facts.calls.append((call_id, names[call_id], told))
            case ev.ToolCallResult():
                facts.results[event.tool_call_id] = event.result
            case ev.Usage(scope="run"):
                facts.usage = {name: getattr(event, name) for name in USAGE}
            case ev.RunFailed():
                facts.error = (event.type, event.message)
    return facts


# --- against the client --------------------------------------------------------------------


@pytest.mark.parametrize("name", [one for one in READ_BY_THE_CLIENT if one != AZURE])
def test_says_what_the_official_client_gathers(name):
    stream = OURS[name]
    events = events_of(OpenAIAssistants(), stream.frames())
    ours, theirs = fold(events), openai_oracle.read_assistants(stream.body)
    assert ours.texts == theirs.texts
    assert ours.usage == theirs.usage
    assert ours.response_id == theirs.response_id
    # The client gathers calls of steps that it saw begin; of the others it passes the results on.
    assert [call for call in ours.calls if call in theirs.calls] == theirs.calls
    assert {call[0] for call in ours.calls} == {call[0] for call in theirs.calls} | {
        *theirs.results
    }
    told = {
        key: json.loads(one) if one and one[0] == "[" else one for key, one in ours.results.items()
    }
    assert told == theirs.results
    if theirs.finish_reasons != ["expired"]:  # which has no error of its own
        assert ours.error == theirs.error
    ended = [type(event) for event in events if isinstance(event, ev.TERMINAL)]
    ending = ev.RunFailed if theirs.error else ENDS[theirs.finish_reasons[0]]
    assert ended == ([ending] if ending else [])


@pytest.mark.parametrize("name", OURS)
def test_a_stream_is_told_in_order(name):
    machine = RunMachine()
    for at_ns, event in enumerate(events_of(OpenAIAssistants(), OURS[name].frames())):
        machine.feed(event, at_ns)
    assert machine.issues == {}


def test_what_a_client_passes_on_tells_the_same():
    stream = OURS["openai-assistants__openllmetry__streaming_existing_assistant"]
    passed_on = b"".join(
        json.dumps({"data": frame.json(), "event": frame.event}).encode().join((b"data: ", b"\n\n"))
        for frame in stream.frames()[:-1]
    )
    assert events_of(OpenAIAssistants(), frames_of(passed_on)) == events_of(
        OpenAIAssistants(), stream.frames()
    )


# --- single rules --------------------------------------------------------------------------


def test_a_step_is_a_call_of_the_model_and_the_run_has_the_sum():
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    events = said(
        run(), step("created"), step("completed", usage=usage), run("completed", usage=usage)
    )
    assert events[1:] == [
        ev.StepStarted(name="tool_calls", step_id="step"),
        ev.GenerationStarted(key="step", model="m"),
        ev.Usage(input_tokens=5, output_tokens=3),
        ev.StepFinished(name="tool_calls", step_id="step"),
        ev.Usage(input_tokens=5, output_tokens=3, model="m", scope="run"),
        ev.RunFinished(run_id="run"),
    ]


def test_a_step_that_began_before_tells_results_and_no_arguments():
    call = function(0, "a", name="f", arguments="{}", output="sunny")
    assert said(step("completed", call, usage={"prompt_tokens": 1}))[1:] == [
        ev.ToolCallStarted(tool_call_id="a", name="f"),
        ev.ToolCallReady(tool_call_id="a"),
        ev.ToolCallResult(tool_call_id="a", result="sunny"),
    ]


@pytest.mark.parametrize(
    ("call", "name", "arguments", "result"),
    [
        (function(0, "a", name="f", arguments="{}", output="x"), "f", "{}", "x"),
        ({"id": "a", "type": "code_interpreter", "code_interpreter": {"input": "1", "outputs": []}},
         "code_interpreter", "1", None),
        ({"id": "a", "type": "file_search", "file_search": {}}, "file_search", None, None),
        ({"id": "a", "type": "bing_grounding", "bing_grounding": {"requesturl": "u"}},
         "bing_grounding", '{"requesturl":"u"}', None),
        ({"id": "a", "type": "azure_ai_search", "azure_ai_search": {"input": "q", "output": "r"}},
         "azure_ai_search", "q", "r"),
        ({"id": "a", "type": "mcp", "name": "wiki", "arguments": "{}", "output": "r"},
         "wiki", "{}", "r"),
        ({"id": "a", "type": "new", "new": 7}, "new", None, None),
    ],
)  # fmt: skip
def test_tools_of_any_type_are_calls(call, name, arguments, result):
    events = said(step("created"), step("completed", call))
    assert events[3:-1] == [
        ev.ToolCallStarted(tool_call_id="a", name=name),
        ev.ToolCallReady(tool_call_id="a", arguments=arguments),
        ev.ToolCallResult(tool_call_id="a", result=result),
    ]


def test_arguments_end_where_a_result_begins():
    events = said(
        step("created"),
        more(
            {"index": 0, "id": "a", "type": "code_interpreter", "code_interpreter": {"input": "1"}}
        ),
        more({"index": 0, "type": "code_interpreter", "code_interpreter": {"outputs": [{}]}}),
    )
    assert events[-1] == ev.ToolCallReady(tool_call_id="a")


def test_a_call_without_an_id_gets_one():
    events = said(step("created"), more(function(0, name="f"), function(1, name="g")))
    assert [e.tool_call_id for e in events if isinstance(e, ev.ToolCallStarted)] == [
        "step:0", "step:1",
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_a_step_that_failed_has_no_result(status):
    events = said(step("created"), step(status, function(0, "a", name="f", arguments="{}")))
    assert not [event for event in events if isinstance(event, ev.ToolCallResult)]
    assert events[-1] == ev.StepFinished(name="tool_calls", step_id="step")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ((message("created"), message("completed", text("Hi"))), "Hi"),
        ((message("created", text("Hi")), message("completed", text("Hi"))), "Hi"),
        ((delta(text("H")), delta(text("i")), message("completed", text("Hi"))), "Hi"),
        ((message("created"), delta({"type": "refusal", "refusal": "No"})), "No"),
        ((message("created", text("Hello"), role="user"),), ""),
        ((delta(text("a"), text("b")), delta(text("")), delta()), "ab"),
    ],
)  # fmt: skip
def test_text_is_told_once_and_only_the_assistants(frames, expected):
    assert text_of(said(*frames)) == expected


def test_a_picture_is_no_text():
    part = {"index": 0, "type": "image_file", "image_file": {"file_id": "f"}}
    assert said(delta(part)) == [ev.Custom(name="image_file", value=part)]


@pytest.mark.parametrize(
    ("note", "source"),
    [
        ({"url_citation": {"url": "u", "title": "t"}}, ev.Source(url="u", title="t")),
        ({"file_citation": {"file_id": "f", "quote": "q"}}, ev.Source(title="f")),
        ({"file_path": {"file_id": "f"}}, ev.Source(title="f")),
        ({"type": "new"}, ev.Source()),
    ],
)
def test_what_a_text_cites_is_a_source(note, source):
    events = said(delta(text("a")), delta(text("b", annotations=[note])))
    assert events[1:] == [ev.TextDelta(text="b", message_id="msg"), source]


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        ({"error": {"message": "m", "type": "t", "code": None}}, ("t", "m")),
        ({"message": "m", "type": "t", "code": "c"}, ("c", "m")),
        ({"error": "m"}, (None, "m")),
        ("it broke", (None, "it broke")),
        ('"it broke"', (None, "it broke")),
    ],
)
def test_an_error_of_any_shape_fails_the_run_once(data, failed):
    events = said(run(), ("error", data), ("done", "[DONE]"))
    ends = [event for event in events if isinstance(event, ev.TERMINAL)]
    assert ends == [ev.RunFailed(type=failed[0], message=failed[1])]


def test_done_ends_a_run_that_said_nothing_of_its_end():
    assert said(run(), ("done", "[DONE]"))[-1] == ev.RunFinished(run_id="run")
    cut = frames_of(wire(run()) + b"event: done\ndata: [DONE]")
    assert events_of(OpenAIAssistants(), cut)[-1] == ev.RunFinished(run_id="run")


@pytest.mark.parametrize(
    ("frame", "name"),
    [(("thread.brand_new", {"id": "x"}), "thread.brand_new"), (("note", "7"), "note")],
)
def test_what_is_not_known_is_told_as_custom(frame, name):
    assert [event.name for event in said(frame)] == [name]


# --- quick and in full ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        text("x"), text(""), text("x", annotations=[]), text("x", annotations=[{"type": "new"}]),
        {"type": "text"}, {"type": "text", "text": {"value": 7}},
        {"type": "refusal", "refusal": "x"},
    ],
)  # fmt: skip
def test_a_delta_says_the_same_read_quickly_or_in_full(part):
    event, fields = delta(part)
    quick = said(delta(text("a")), (event, fields))
    in_full = said(delta(text("a")), (event, {**fields, "delta": {"content": [part, 7]}}))
    assert quick == in_full


def test_memory_is_bounded():
    decoder = OpenAIAssistants().decoder()
    for n in range(2 * openai_assistants.MAX_REMEMBERED):
        for name, data in (
            step("created", step_id=f"s{n}"),
            (
                "thread.run.step.delta",
                {"id": f"s{n}", "delta": more(function(0, f"c{n}"))[1]["delta"]},
            ),
            ("thread.message.delta", {"id": f"m{n}", "delta": {"content": [text("x")]}}),
        ):
            list(decoder.decode(Frame(event=name, data=json.dumps(data).encode())))
    memories = (decoder._steps, decoder._calls, decoder._told)
    assert all(len(memory) == openai_assistants.MAX_REMEMBERED for memory in memories)


# --- recognition ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "data", "fit"),
    [
        ("thread.created", {"id": "t", "object": "thread"}, Fit.YES),
        ("thread.run.step.completed", {"id": "s", "object": "thread.run.step"}, Fit.YES),
        ("thread.run.created", {"id": "r"}, Fit.YES),
        (None, {"event": "thread.run.created", "data": {"id": "r"}}, Fit.YES),
        ("thread.run.created", {"object": "thread.message"}, Fit.NO),
        ("thread.message.delta", {"object": "thread.message.delta", "choices": []}, Fit.NO),
        (None, {"type": "thread.created", "thread": {"id": "t"}}, Fit.NO),
        ("error", {"error": {"message": "m"}}, Fit.NO),
        ("done", "[DONE]", Fit.NO),
        ("thread.run.created", [1], Fit.NO),
    ],
)  # fmt: skip
def test_recognises_its_own_frames_only(event, data, fit):
    frame = Frame(event=event, data=json.dumps(data).encode())
    assert OpenAIAssistants().recognise(Head(), frame) is fit
