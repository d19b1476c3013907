"""Mistral's conversations, decoded, against what Mistral's own client makes of the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import mistral_oracle
from support.mistral_oracle import Facts, result_of
from support.recordings import STREAMS
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects import mistral_conversations
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.mistral_conversations import MistralConversations

OURS = {one.name: one for one in STREAMS if one.dialect == "mistral-conversations"}

START = {"type": "conversation.response.started", "conversation_id": "conv"}
DONE = {"type": "conversation.response.done", "usage": {}}


def said(*bodies: Any) -> list[ev.Event]:
    wire = "".join(f"data: {json.dumps(body)}\n\n" for body in bodies)
    return events_of(MistralConversations(), frames_of(wire.encode()))


def out(content: Any, message_id: str = "msg", **more: Any) -> dict[str, Any]:
    return {"type": "message.output.delta", "id": message_id, "content": content, **more}


def tool(stage: str, **more: Any) -> dict[str, Any]:
    return {"type": f"tool.execution.{stage}", "id": "t", "name": "web_search", **more}


def function(call_id: str = "a", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    fields = {"id": f"fc_{call_id}", "tool_call_id": call_id, "name": "f", "arguments": arguments}
    return {"type": "function.call.delta", **fields, **more}


def ends(events: list[ev.Event]) -> list[ev.Event]:
    return [event for event in events if isinstance(event, ev.TERMINAL)]


def fold(events: list[ev.Event]) -> Facts:
    facts = Facts()
    calls: dict[str, tuple[str | None, str]] = {}
    for event in events:
        match event:
            case ev.RunStarted(thread_id=str(thread_id)):
                facts.conversation_id = thread_id
            case ev.TextDelta(text=text, message_id=str(message_id)):
                facts.texts[message_id] = facts.texts.get(message_id, "") + text
            case ev.ReasoningDelta(text=text):
                facts.reasoning += text
            case ev.Source(url=url):
                facts.cited.append(url)
            case ev.ToolCallStarted():
                calls[event.tool_call_id] = (event.name, "")
            case ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta):
                name, known = calls[call_id]
                calls[call_id] = (name, known + delta)
            case ev.ToolCallResult():
                facts.results[event.tool_call_id] = event.result
            case ev.Usage():
                facts.usage = (event.input_tokens or 0, event.output_tokens or 0)
            case ev.RunFailed():
                facts.error = (event.type or "", event.message or "")
            case ev.RunFinished() | ev.RunInterrupted():
                facts.has_ended = True
    facts.executions = {key: one for key, one in calls.items() if key in facts.results}
    facts.functions = {key: one for key, one in calls.items() if key not in facts.results}
    return facts


@pytest.mark.parametrize("name", OURS)
def test_says_what_the_official_client_makes_of_a_stream(name):
    theirs = mistral_oracle.read(OURS[name].body)
    theirs.results = {key: result_of(info) for key, info in theirs.results.items()}
    assert fold(events_of(MistralConversations(), OURS[name].frames())) == theirs


@pytest.mark.parametrize("name", OURS)
def test_a_stream_is_told_in_order(name):
    machine = RunMachine()
    for at_ns, event in enumerate(events_of(MistralConversations(), OURS[name].frames())):
        machine.feed(event, at_ns)
    assert machine.issues == {}


# --- calls of the model, and agents --------------------------------------------------------


def test_what_follows_a_tool_is_the_next_call_of_the_model():
    events = said(START, tool("started", model="m"), tool("done"), out("a", model="m"))
    assert [e.response_id for e in events if isinstance(e, ev.GenerationStarted)] == ["t", "msg"]


def test_output_side_by_side_is_one_call_of_the_model():
    events = said(out("a", "msg", model="m"), function(model="m"), function("b", model="m"))
    assert [e.response_id for e in events if isinstance(e, ev.GenerationStarted)] == ["msg"]


def test_each_agent_after_a_handoff_is_a_step():
    first = {"type": "agent.handoff.started", "previous_agent_name": "triage"}
    then = {"type": "agent.handoff.done", "next_agent_name": "finance"}
    again = {"type": "agent.handoff.done", "next_agent_id": "ag_3"}
    events = said(START, first, then, out("a"), first, again, out("b", "msg2"), DONE)
    assert [e for e in events if isinstance(e, ev.StepStarted | ev.StepFinished)] == [
        ev.StepStarted(name="finance"),
        ev.StepFinished(name="finance"),
        ev.StepStarted(name="ag_3"),
        ev.StepFinished(name="ag_3"),
    ]
    assert [e.agent for e in events if isinstance(e, ev.RunStarted)] == [None, "triage"]


# --- content -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Hi", [ev.TextDelta(text="Hi", message_id="msg")]),
        ("", []),
        ({"type": "text", "text": "Hi"}, [ev.TextDelta(text="Hi", message_id="msg")]),
        ({"type": "thinking", "thinking": [{"type": "text", "text": "h"}, "m", {"type": "new"}]},
         [ev.ReasoningDelta(text="hm", message_id="msg")]),
        ({"type": "thinking", "thinking": "hm"}, [ev.ReasoningDelta(text="hm", message_id="msg")]),
        ({"type": "tool_reference", "url": "u", "title": "t"}, [ev.Source(url="u", title="t")]),
        ({"type": "document_url", "document_url": "u", "document_name": "d"},
         [ev.Source(url="u", title="d")]),
        ({"type": "tool_file", "file_id": "f"},
         [ev.Custom(name="tool_file", value={"type": "tool_file", "file_id": "f"})]),
        (["a", {"type": "text", "text": "b"}],
         [ev.TextDelta(text="a", message_id="msg"), ev.TextDelta(text="b", message_id="msg")]),
        (7, []),
    ],
)  # fmt: skip
def test_content_is_text_or_a_chunk(content, expected):
    assert said(out(""), out(content))[2:] == expected


@pytest.mark.parametrize("content", ["b", "", {"type": "text", "text": "b"}, 7])
@pytest.mark.parametrize("more", [{}, {"model": "m"}, {"model": "n"}, {"message_id": "other"}])
def test_a_delta_says_the_same_read_quickly_or_in_full(content, more):
    body = out(content, **{"model": "m", **more})
    quick = said(out("a", model="m"), body)
    in_full = said(out("a", model="m"), out(["", content], **{"model": "m", **more}))
    assert quick == in_full


# --- tools ---------------------------------------------------------------------------------

STARTED = ev.ToolCallStarted(tool_call_id="t", name="web_search")
READY = ev.ToolCallReady(tool_call_id="t")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([tool("started")], [STARTED, READY]),
        ([tool("started", arguments="{}")],
         [STARTED, ev.ToolCallArgumentsDelta(tool_call_id="t", delta="{}"), READY]),
        ([tool("started", arguments={})],
         [STARTED, ev.ToolCallArgumentsDelta(tool_call_id="t", delta="{}"), READY]),
        ([tool("started", arguments=""), tool("delta", arguments="{}"), tool("done")],
         [STARTED, ev.ToolCallArgumentsDelta(tool_call_id="t", delta="{}"), READY,
          ev.ToolCallResult(tool_call_id="t")]),
        ([tool("done", info={"a": 1})],
         [STARTED, READY, ev.ToolCallResult(tool_call_id="t", result='{"a":1}')]),
    ],
)  # fmt: skip
def test_a_connector_is_ready_when_its_arguments_are_whole(frames, expected):
    events = [e for e in said(*frames) if not isinstance(e, ev.GenerationStarted)]
    assert events == expected


def test_a_connector_without_an_id_is_found_by_its_name():
    frames = [tool("started", id=None), tool("done", id=None)] * 2
    results = [e.tool_call_id for e in said(*frames) if isinstance(e, ev.ToolCallResult)]
    assert results == ["tool-1", "tool-2"]


def test_functions_wait_for_the_client_and_are_ready_at_the_end():
    events = said(START, function("a", '{"x'), function("b"), function("a", '":1}'), DONE)
    assert [e.tool_call_id for e in events if isinstance(e, ev.ToolCallReady)] == ["a", "b"]
    assert ends(events) == [ev.RunInterrupted(reason="function_call", tool_call_id="a")]


def test_a_function_is_ready_when_the_message_goes_on():
    events = said(out("a"), function(), out("b"))
    assert events[-2:] == [
        ev.ToolCallReady(tool_call_id="a"),
        ev.TextDelta(text="b", message_id="msg"),
    ]


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("pending", ev.RunInterrupted(reason="confirmation", tool_call_id="a")),
        ("allowed", ev.RunFinished(thread_id="conv")),
        ("denied", ev.RunFinished(thread_id="conv")),
    ],
)
def test_a_call_that_was_decided_on_waits_no_more(status, end):
    assert ends(said(START, function(confirmation_status=status), DONE)) == [end]


# --- usage and ends ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, (5, 3)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 10, "connector_tokens": 2},
         (7, 3)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "connector_tokens": 2},
         (5, 3)),
        ({"completion_tokens": 3, "total_tokens": 5, "connector_tokens": 2}, (None, 3)),
    ],
)  # fmt: skip
def test_what_connectors_put_in_is_input_where_the_total_counts_it(usage, expected):
    (told,) = [e for e in said(START, {**DONE, "usage": usage}) if isinstance(e, ev.Usage)]
    assert (told.input_tokens, told.output_tokens) == expected
    assert (told.scope, told.provider) == ("run", "mistral_ai")


def test_usage_that_was_not_said_is_absent_and_names_a_model_only_if_there_was_one():
    assert not [e for e in said(START, DONE) if isinstance(e, ev.Usage)]
    done = {**DONE, "usage": {"prompt_tokens": 1}}
    handoff = {"type": "agent.handoff.done", "next_agent_name": "x"}
    one, other = out("a", model="m"), out("b", "msg2", model="n")
    models = [
        [e.model for e in said(*frames) if isinstance(e, ev.Usage)]
        for frames in ([one, done], [one, handoff, other, done])
    ]
    assert models == [["m"], [None]]


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        ({"type": "conversation.response.error", "code": 3505, "message": "m"}, ("3505", "m")),
        ({"type": "conversation.response.error", "error": {"type": "t", "message": "m"}},
         ("t", "m")),
        ({"type": "conversation.response.error", "error": "m"}, (None, "m")),
        ({"error": {"code": "c", "message": "m"}}, ("c", "m")),
    ],
)  # fmt: skip
def test_an_error_of_any_shape_fails_the_run_once(body, failed):
    assert ends(said(START, body, DONE)) == [ev.RunFailed(type=failed[0], message=failed[1])]


def test_plain_text_under_an_error_event_fails_the_run():
    frames = frames_of(b"event: error\ndata: it broke\n\n")
    assert events_of(MistralConversations(), frames) == [ev.RunFailed(message="it broke")]


def test_the_next_response_of_a_stream_is_a_new_run():
    assert len(ends(said(START, DONE, START, DONE))) == 2


def test_what_is_not_known_is_told_as_custom():
    body = {"type": "conversation.brand_new"}
    assert said(body) == [ev.Custom(name="conversation.brand_new", value=body)]
    assert said("[DONE]") == [ev.Custom(name="unknown", value="[DONE]")]
    assert events_of(MistralConversations(), frames_of(b"data: [DONE]\n\n")) == []


def test_memory_is_bounded():
    decoder = MistralConversations().decoder()
    for n in range(2 * mistral_conversations.MAX_REMEMBERED):
        for body in (function(f"a{n}", model=f"m{n}"), tool("started", id=f"t{n}", arguments="")):
            list(decoder.decode(Frame(data=json.dumps(body).encode())))
    memories = (decoder._functions, decoder._executions, decoder._unanswered, decoder._models)
    assert all(len(memory) == mistral_conversations.MAX_REMEMBERED for memory in memories)


@pytest.mark.parametrize(
    ("event", "data", "fit"),
    [
        ("message.output.delta", out("x"), Fit.YES),
        (None, START, Fit.YES),
        ("message", START, Fit.YES),
        ("other", START, Fit.NO),
        (None, {"type": "conversation.item.created"}, Fit.NO),
        (None, {"type": ["message.output.delta"]}, Fit.NO),
        (None, [1], Fit.NO),
    ],
)
def test_recognises_its_own_events_only(event, data, fit):
    frame = Frame(event=event, data=json.dumps(data).encode())
    assert MistralConversations().recognise(Head(), frame) is fit
