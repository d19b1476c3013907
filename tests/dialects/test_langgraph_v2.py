"""The events of a LangGraph thread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Head
from streamtrace.dialects.langgraph_v2 import LangGraphV2

RECORDINGS = Path(__file__).parents[1] / "recordings"
V2 = LangGraphV2()
ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)
Event = dict[str, Any]


def recorded(name: str) -> list[ev.Event]:
    return events_of(V2, frames_of((RECORDINGS / f"langgraph_v2_{name}.sse").read_bytes()))


def event(method: str, data: Any, *namespace: str, **fields: Any) -> Event:
    params = {"namespace": [*namespace], "timestamp": 1, "data": data}
    return {"type": "event", "seq": 1, "method": method, "params": params, **fields}


def said(*events: Event, head: Head | None = None) -> list[ev.Event]:
    body = "".join(
        f"event: {one['method']}\r\ndata: {json.dumps(one)}\r\nid: 1\r\n\r\n" for one in events
    )
    return events_of(V2, frames_of(body.encode()), head)


def of(kind: type[ev.Event] | tuple[type[ev.Event], ...], events: list[ev.Event]) -> list[Any]:
    return [one for one in events if isinstance(one, kind)]


def folded(events: list[ev.Event]) -> RunSummary:
    machine = RunMachine()
    for one in events:
        machine.feed(one, 1)
    return machine.summary(StreamEnd(at_ns=2, final=True), started_at_ns=0)


def root(status: str, run_id: str | None = None, **data: Any) -> Event:
    event_id = f"synth:{run_id}:lc||{status}" if run_id else "1795-0"
    return event("lifecycle", {"event": status, "graph_name": "weather", **data}, event_id=event_id)


def message(*moments: Event, namespace: tuple[str, ...] = ()) -> list[Event]:
    return [event("messages", data, *namespace) for data in moments]


def start(message_id: str = "m1", **data: Any) -> Event:
    return {"event": "message-start", "role": "ai", "id": message_id, **data}


def block(moment: str, index: int = 0, **content: Any) -> Event:
    return {"event": f"content-block-{moment}", "index": index, "content": content}


def piece(index: int = 0, **delta: Any) -> Event:
    return {"event": "content-block-delta", "index": index, "delta": delta}


def text(value: str, index: int = 0, **data: Any) -> Event:
    return {**piece(index, type="text-delta", text=value), **data}


def finish(**data: Any) -> Event:
    return {"event": "message-finish", **data}


ASKS = event("input.requested", {"interrupt_id": "i", "payload": {"question": "Which?"}})
QUESTION = ev.RunInterrupted(reason='{"question":"Which?"}')

# --- runs ----------------------------------------------------------------------------------------


def test_a_connection_carries_run_after_run():
    """Four of them: one that calls a tool, one that asks, its answer, and one that fails."""
    events = recorded("runs")
    started = of(ev.RunStarted, events)
    assert len({one.run_id for one in started}) == len(started) == 4
    assert [type(one) for one in of(ENDS, events)] == [
        ev.RunFinished, ev.RunInterrupted, ev.RunFinished, ev.RunFailed,
    ]  # fmt: skip
    run = folded(events)
    assert (run.status, run.error.type, run.issues) == ("error", "unspecified", {})
    assert run.run_id == started[0].run_id
    assert [one.usage.output_tokens for one in run.generations] == [9, 6, 6, 6]
    assert (run.usage.input_tokens, run.usage.output_tokens) == (110, 27)
    assert [(one.name, one.status) for one in run.tool_calls] == [("search", "ready")]


@pytest.mark.parametrize(("last", "status"), [
    ([root("completed", "r2")], "completed"),
    ([root("failed", "r2", error="kaput")], "error"),
    ([ASKS, root("interrupted", "r2")], "input_required"),
    ([root("interrupted", "r2")], "cancelled"),
    ([], "truncated"),
])  # fmt: skip
def test_the_last_run_decides(last, status):
    one = message(start(), text("One."), finish(usage={"output_tokens": 3}))
    two = message(start("m2"), text("Two."), finish(usage={"output_tokens": 4}))
    events = said(root("running", "r1"), *one, root("failed", "r1"), root("running", "r2"), *two,
                  *last)  # fmt: skip
    run = folded(events)
    assert (run.status, run.usage.output_tokens) == (status, 7)
    assert text_of(events) == "One.Two."


def test_path_and_event_ids_name_thread_and_run():
    head = Head(path="/threads/thread-1/stream/events")
    events = said(root("running", "r1"), root("completed", "r1"), head=head)
    assert events == [
        ev.RunStarted(run_id="r1", thread_id="thread-1", agent="weather"),
        ev.RunFinished(run_id="r1", thread_id="thread-1"),
    ]


def test_a_message_may_name_them_as_well():
    metadata = {"run_id": "r1", "thread_id": "t1", "model": "gpt", "provider": "openai"}
    events = said(root("running"), *message(start(metadata=metadata)), root("completed"))
    assert of((ev.RunStarted, ev.RunFinished), events) == [
        ev.RunStarted(agent="weather"),
        ev.RunStarted(run_id="r1", thread_id="t1"),
        ev.RunFinished(run_id="r1", thread_id="t1"),
    ]
    assert ev.GenerationStarted(response_id="m1", model="gpt", provider="openai") in events


def test_that_a_run_runs_is_told_once():
    events = said(root("started", "r1"), root("running", "r1"))
    assert of(ev.RunStarted, events) == [ev.RunStarted(run_id="r1", agent="weather")]


@pytest.mark.parametrize(("channels", "end"), [
    (["lifecycle", "input"], ev.RunCancelled()),
    (["lifecycle", "messages"], ev.RunInterrupted()),
    (None, ev.RunCancelled()),
])  # fmt: skip
def test_who_did_not_ask_was_stopped_if_it_could_be_heard(channels, end):
    head = Head(request={"channels": channels})
    assert said(root("running", "r"), root("interrupted", "r"), head=head)[-1] == end


def test_a_question_ends_the_stream_of_a_client_that_wants_no_lifecycle():
    assert said(ASKS)[-1] == QUESTION
    assert of(ENDS, said(root("running", "r"), ASKS, root("interrupted", "r"))) == [QUESTION]
    assert of(ENDS, said(ASKS, root("running", "r"))) == []


def test_a_state_may_follow_the_end():
    state = event("values", {"messages": []})
    events = said(root("running", "r"), state, root("interrupted", "r"), state)
    assert events[-1] == ev.Custom(name="values", value={"messages": []})
    assert folded(events).issues == {}


# --- messages ------------------------------------------------------------------------------------


def test_a_message_becomes_these_events():
    usage = {"input_tokens": 20, "output_tokens": 9, "output_token_details": {"reasoning": 4}}
    metadata = {"finish_reason": "tool_calls", "model_name": "gpt-5"}
    events = said(*message(
        start(), block("start", 0, type="reasoning", reasoning=""),
        piece(0, type="reasoning-delta", reasoning="hm"),
        block("finish", 0, type="reasoning", reasoning="hm"),
        block("start", 1, type="tool_call_chunk", id="c", name="f", args=""),
        piece(1, type="tool-call-delta", args="{}"),
        block("finish", 1, type="tool_call", id="c", name="f", args={}),
        finish(usage=usage, metadata=metadata),
    ))  # fmt: skip
    assert events == [
        ev.GenerationStarted(response_id="m1"),
        ev.MessageStarted(message_id="m1", role="assistant"),
        ev.ReasoningStarted(message_id="m1"),
        ev.ReasoningDelta(text="hm", message_id="m1"),
        ev.ReasoningFinished(message_id="m1"),
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{}"),
        ev.ToolCallReady(tool_call_id="c"),
        ev.Usage(input_tokens=20, output_tokens=9, reasoning_tokens=4),
        ev.GenerationStarted(response_id="m1", model="gpt-5"),
        ev.GenerationFinished(finish_reasons=("tool_calls",)),
        ev.MessageFinished(message_id="m1"),
    ]


@pytest.mark.parametrize(("moments", "told"), [
    ([block("start", type="text", text="Hi"), block("finish", type="text", text="Hi")], "Hi"),
    ([block("start", type="text", text=""), block("finish", type="text", text="Hi")], "Hi"),
    ([block("finish", type="text", text="Hi")], "Hi"),
    ([block("start", type="text", text="H"), text("i"), block("finish", type="text", text="Hi")],
     "Hi"),
    ([text("Hi")], "Hi"),
    ([text("Hi"), text("")], "Hi"),
])  # fmt: skip
def test_what_was_told_in_pieces_is_not_repeated(moments, told):
    assert text_of(said(*message(start(), *moments))) == told


@pytest.mark.parametrize(("begin", "end", "arguments"), [
    ({"args": None}, {"args": {"a": 1}}, '{"a":1}'),
    ({"args": '{"a":1}'}, {"args": {"a": 1}}, None),
    ({"args": ""}, {"args": '{"a":', "type": "invalid_tool_call"}, '{"a":'),
])  # fmt: skip
def test_arguments_are_told_once(begin, end, arguments):
    call = {"id": "c", "name": "f"}
    events = said(*message(
        start(), block("start", **{"type": "tool_call_chunk", **call, **begin}),
        block("finish", **{"type": "tool_call", **call, **end}),
    ))  # fmt: skip
    assert events[-1] == ev.ToolCallReady(tool_call_id="c", arguments=arguments)
    assert len(of(ev.ToolCallArgumentsDelta, events)) == (arguments is None)


def test_sources_stand_at_the_end_of_a_text():
    cited = [{"type": "citation", "url": "u", "title": "t"}]
    moments = start(), text("Hi"), block("finish", type="text", text="Hi", annotations=cited)
    assert said(*message(*moments))[-1] == ev.Source(url="u", title="t")


def test_pieces_go_by_their_namespace():
    events = said(
        *message(start("m1"), text("a")), *message(start("m2"), text("x"), namespace=("sub:1",)),
        *message(text("b"), finish(usage={"output_tokens": 1})),
        *message(text("y"), finish(usage={"output_tokens": 2}), namespace=("sub:1",)),
    )  # fmt: skip
    first, second = folded(events).generations
    assert (first.text.chars, first.usage.output_tokens) == (2, 1)
    assert (second.text.chars, second.usage.output_tokens) == (2, 2)
    told = [(one.text, one.message_id) for one in of(ev.TextDelta, events)]
    assert told == [("a", "m1"), ("x", "m2"), ("b", "m1"), ("y", "m2")]


@pytest.mark.parametrize("key", ["id", "message_id"])
def test_pieces_go_by_their_id_if_the_server_adds_it(key):
    moments = [text("a", **{key: "m1"}), text("x", **{key: "m2"}), text("b", **{key: "m1"})]
    events = said(*message(start("m1"), start("m2"), *moments, finish(**{key: "m2"})))
    told = [(one.text, one.message_id) for one in of(ev.TextDelta, events)]
    assert told == [("a", "m1"), ("x", "m2"), ("b", "m1")]
    assert events[-1] == ev.MessageFinished(message_id="m2")


def test_of_messages_that_cannot_be_told_apart_the_totals_are_right():
    events = recorded("parallel")
    said_by_both = "OsloBergen is is warm. wet."
    assert text_of(events) == "It is 21 °C in Oslo." + said_by_both
    run = folded(events)
    assert [one.usage.output_tokens for one in run.generations] == [6, 3, 3]
    assert [one.finish_reasons for one in run.generations] == [["stop"]] * 3
    assert run.issues == {}


def test_an_error_of_a_message_is_not_yet_one_of_the_run():
    error = {"event": "error", "message": "Overloaded", "code": "overloaded"}
    events = said(root("running", "r"), *message(start(), text("One mo"), error))
    assert of(ENDS, events) == []
    assert events[-2:] == [
        ev.Custom(name="message_error", value=error), ev.MessageFinished(message_id="m1"),
    ]  # fmt: skip


def test_what_others_say_is_no_output():
    human = message(start(role="human"), text("Hi"), block("finish", type="text", text="Hi"),
                    finish())  # fmt: skip
    assert text_of(said(*human)) == ""


@pytest.mark.parametrize("order", [1, -1])
def test_a_result_is_told_once(order):
    """As the end of a tool, and mirrored as a message."""
    call = {"event": "tool-started", "tool_call_id": "c", "tool_name": "f", "input": {}}
    output = {"type": "tool", "content": "21", "tool_call_id": "c", "status": "success"}
    ended = [event("tools", {"event": "tool-finished", "tool_call_id": "c", "output": output})]
    mirrored = message(
        start("t", role="tool", tool_call_id="c"), block("start", type="text", text=""),
        {"event": "content-block-delta", "index": 0, "content": {"type": "text", "text": "21"}},
        block("finish", type="text", text="21"), finish(metadata={}), namespace=("tools:c",),
    )  # fmt: skip
    events = said(event("tools", call), *[*ended, *mirrored][::order][::order])
    assert events[:3] == [
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c", arguments="{}"),
        ev.ToolCallResult(tool_call_id="c", result="21"),
    ]
    assert text_of(events) == ""


# --- states and steps ----------------------------------------------------------------------------


def test_states_tell_what_no_message_told():
    old, new = ({"type": "ai", "content": one, "id": one} for one in ("Old.", "New."))
    events = said(
        root("running", "r"), event("values", {"messages": [old]}),
        *message(start("m1"), text("Hi"), finish()),
        event("values", {"messages": [old, {"type": "ai", "content": "Hi", "id": "m1"}, new]}),
        event("updates", {"node": "n", "values": {"messages": [new]}}),
    )  # fmt: skip
    assert text_of(events) == "HiNew."


def test_namespaces_and_tasks_are_steps():
    events = said(
        event("lifecycle", {"event": "started", "graph_name": "writer"}, "write:1"),
        event("tasks", {"id": "1", "name": "write"}),
        event("tasks", {"id": "2", "name": "draft"}, "write:1"),
        event("tasks", {"id": "2", "name": "draft", "error": "boom", "result": {}}, "write:1"),
        event("lifecycle", {"event": "failed", "graph_name": "writer"}, "write:1"),
        event("lifecycle", {"event": "completed"}, "unseen:3"),
    )
    assert events == [
        ev.StepStarted(name="writer", step_id="1"),
        ev.StepStarted(name="draft", step_id="2"),
        ev.Custom(name="task_error", value="boom"),
        ev.StepFinished(name="draft", step_id="2"),
        ev.StepFinished(name="writer", step_id="1"),
    ]


@pytest.mark.parametrize(("wire", "name", "value"), [
    (event("custom", {"name": "progress", "payload": 80}), "progress", 80),
    (event("custom", {"payload": 80}), "custom", 80),
    (event("custom", "x"), "custom", "x"),
    (event("brand.new", {}), "brand.new", event("brand.new", {})),
    (event("checkpoints", {"id": "c"}), "checkpoints", event("checkpoints", {"id": "c"})),
    (event("messages", {"event": "brand-new"}), "brand-new", {"event": "brand-new"}),
    (event("messages", text("x")), "content-block-delta", text("x")),
    (event("lifecycle", {"event": "odd"}), "lifecycle", {"event": "odd"}),
    (event("tasks", {"odd": 1}), "tasks", {"odd": 1}),
])  # fmt: skip
def test_what_nobody_knows_is_passed_on(wire, name, value):
    assert said(wire) == [ev.Custom(name=name, value=value)]


def test_answers_to_commands_are_passed_on():
    """On a WebSocket they come between the events."""
    answer = {"type": "error", "id": 1, "error": "no_such_run", "message": "No."}
    [event] = events_of(V2, frames_of(f"data: {json.dumps(answer)}\n\n".encode()))
    assert event == ev.Custom(name="unknown", value=answer)
