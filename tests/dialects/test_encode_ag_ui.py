"""AG-UI, written: each event, each rule, and what the official models and client make of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from starlette.responses import Response
from support import ag_ui_oracle
from support.clients import run_client
from support.live import live, speaking
from support.runs import Run, agent_runs, any_events, some, wild_patches
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.core.errors import EncodeError
from streamtrace.core.frames import encode_frame
from streamtrace.dialects.ag_ui import AgUi
from streamtrace.dialects.base import Encoder, Envelope
from streamtrace.dialects.encode import ag_ui
from streamtrace.dialects.encode.base import json_frame

ENVELOPE = Envelope(run_id="r", thread_id="t")


def tell(encoder: Encoder, *events: ev.Event) -> list[dict[str, Any]]:
    """The objects on the wire. What is no JSON is passed over."""
    told = []
    for event in events:
        try:
            told += [frame.json() for frame in encoder.encode(event)]
        except EncodeError:
            continue
    return told


def told(*events: ev.Event) -> list[dict[str, Any]]:
    """What is written behind RUN_STARTED."""
    started, *rest = tell(AgUi().encoder(ENVELOPE), *events) or [None]
    assert started is None or started["type"] == "RUN_STARTED"
    return rest


def short(*events: ev.Event) -> str:
    """`text+ m` to open a message, `text m` to add to it, `text- m` to end it, and so on."""
    words = []
    for one in told(*events):
        thing, _, part = one["type"].rpartition("_")
        names = [one.get(key) for key in ("subagentRunId", "stepName", "toolCallId", "messageId")]
        words.append(
            " ".join([_THINGS.get(thing, thing.lower()) + _PARTS[part], *filter(None, names)])
        )
    return ", ".join(words)


_THINGS = {
    "TEXT_MESSAGE": "text",
    "TOOL_CALL": "call",
    "REASONING": "span",
    "REASONING_MESSAGE": "thought",
}
_PARTS = {"START": "+", "STARTED": "+", "CONTENT": "", "ARGS": "", "END": "-", "FINISHED": "-",
          "RESULT": "=", "ERROR": "!"}  # fmt: skip


def text(text: str, message_id: str | None = None) -> ev.TextDelta:
    return ev.TextDelta(text=text, message_id=message_id)


def thought(text: str, message_id: str | None = None) -> ev.ReasoningDelta:
    return ev.ReasoningDelta(text=text, message_id=message_id)


def call(call_id: str = "c", name: str | None = "f") -> ev.ToolCallStarted:
    return ev.ToolCallStarted(tool_call_id=call_id, name=name)


def arguments(delta: str, call_id: str = "c") -> ev.ToolCallArgumentsDelta:
    return ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta)


def ready(whole: str | None = None, call_id: str = "c") -> ev.ToolCallReady:
    return ev.ToolCallReady(tool_call_id=call_id, arguments=whole)


def result(text: str | None = "ok", call_id: str = "c") -> ev.ToolCallResult:
    return ev.ToolCallResult(tool_call_id=call_id, result=text)


def message(message_id: str | None = None, role: str | None = None) -> ev.MessageStarted:
    return ev.MessageStarted(message_id=message_id, role=role)


def no_message(message_id: str | None = None) -> ev.MessageFinished:
    return ev.MessageFinished(message_id=message_id)


def thinking(message_id: str | None = None) -> ev.ReasoningStarted:
    return ev.ReasoningStarted(message_id=message_id)


def no_thinking(message_id: str | None = None) -> ev.ReasoningFinished:
    return ev.ReasoningFinished(message_id=message_id)


def generation(response_id: str | None = None) -> ev.GenerationStarted:
    return ev.GenerationStarted(response_id=response_id)


def step(name: str, step_id: str | None = None) -> ev.StepStarted:
    return ev.StepStarted(name=name, step_id=step_id)


def stepped(name: str, step_id: str | None = None) -> ev.StepFinished:
    return ev.StepFinished(name=name, step_id=step_id)


END = ev.RunFinished()

# --- each event ------------------------------------------------------------------------------

PATCH = [{"op": "add", "path": "/a", "value": 1}]
FINISHED = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}


@pytest.mark.parametrize(
    ("events", "wire"),
    [
        (
            [message("m", "user")],
            {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "user"},
        ),
        (
            [message("m", "ai")],
            {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
        ),
        ([text("Hi", "m")], {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "Hi"}),
        (
            [thought("Hm", "m")],
            {"type": "REASONING_MESSAGE_CONTENT", "messageId": "m", "delta": "Hm"},
        ),
        ([call()], {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "f"}),
        ([call(name=None)], {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": ""}),
        ([call(), arguments("{")], {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{"}),
        (
            [result()],
            {"type": "TOOL_CALL_RESULT", "messageId": "c-result", "toolCallId": "c",
             "content": "ok", "role": "tool"},
        ),
        ([step("plan")], {"type": "STEP_STARTED", "stepName": "plan"}),
        ([ev.State(value={"a": 1})], {"type": "STATE_SNAPSHOT", "snapshot": {"a": 1}}),
        ([ev.State(value=None)], {"type": "STATE_SNAPSHOT", "snapshot": None}),
        ([ev.State(value=PATCH, is_delta=True)], {"type": "STATE_DELTA", "delta": PATCH}),
        ([ev.Custom(name="n", value=[1])], {"type": "CUSTOM", "name": "n", "value": [1]}),
        (
            [ev.Source(url="https://a.example")],
            {"type": "CUSTOM", "name": "source", "value": {"url": "https://a.example"}},
        ),
        ([END], {**FINISHED, "outcome": {"type": "success"}}),
        ([ev.RunCancelled(reason="x")], {**FINISHED, "outcome": {"type": "cancelled"}}),
        ([ev.RunFailed(type="c", message="x")],
         {"type": "RUN_ERROR", "message": "x", "code": "c"}),
        ([ev.RunFailed()], {"type": "RUN_ERROR", "message": ""}),
    ],
)  # fmt: skip
def test_the_last_event_of_these_is_written_as(events: Run, wire: dict[str, Any]) -> None:
    *_, last = told(*events)
    assert last == wire
    ag_ui_oracle.adapter.validate_python(last)


@pytest.mark.parametrize(
    ("event", "interrupt"),
    [
        ({}, {"id": "r-interrupt", "reason": "input_required"}),
        ({"reason": "confirmation"}, {"id": "r-interrupt", "reason": "confirmation"}),
        ({"tool_call_id": "c"}, {"id": "c", "reason": "tool_call", "toolCallId": "c"}),
    ],
)
def test_a_run_that_waits_says_for_what(event: dict[str, Any], interrupt: Any) -> None:
    (finished,) = told(ev.RunInterrupted(**event))
    assert finished == {**FINISHED, "outcome": {"type": "interrupt", "interrupts": [interrupt]}}


@pytest.mark.parametrize(
    ("event", "ids"),
    [
        (ev.RunStarted(run_id="r2", thread_id="t2"), {"threadId": "t2", "runId": "r2"}),
        (ev.RunStarted(run_id="r2", agent="a"), {"threadId": "t", "runId": "r2"}),
        (text("Hi"), {"threadId": "t", "runId": "r"}),
        (ev.RunFailed(), {"threadId": "t", "runId": "r"}),
        (END, {"threadId": "t", "runId": "r"}),
    ],
)
def test_every_run_starts_with_its_ids_and_the_protocol(event: ev.Event, ids: Any) -> None:
    first, *_ = tell(AgUi().encoder(ENVELOPE), event)
    assert first == {"type": "RUN_STARTED", **ids, "protocolVersion": "1.0"}


def test_what_is_only_noted_does_not_start_a_run() -> None:
    silent = [ev.GenerationStarted(), ev.Usage(input_tokens=1), ev.Heartbeat(), text("")]
    assert tell(AgUi().encoder(ENVELOPE), *silent) == []
    first, *_ = tell(AgUi().encoder(ENVELOPE), *silent, ev.RunStarted(run_id="r9"))
    assert first["runId"] == "r9"


# --- what is open ----------------------------------------------------------------------------

OPEN = [step("plan"), message("m"), thinking("s"), thought("Hm"), call(), arguments("{")]


@pytest.mark.parametrize(
    "end", [END, ev.RunFailed(message="x"), ev.RunInterrupted(), ev.RunCancelled()]
)
def test_what_is_open_is_closed_before_an_end(end: ev.Event) -> None:
    closed = "call- c, thought- s, span- s, text- m, step- plan, run"
    assert closed in short(*OPEN, end)
    assert told(*OPEN, end, *OPEN, END) == told(*OPEN, end)


def test_a_stream_that_just_ends_closes_nothing() -> None:
    encoder = AgUi().encoder(ENVELOPE)
    tell(encoder, *OPEN)
    assert list(encoder.close()) == []


ORDER: dict[str, tuple[Run, str]] = {
    # messages
    "a delta opens its message": (
        [text("a", "m"), text("b", "m"), END],
        "text+ m, text m, text m, text- m, run-",
    ),
    "messages side by side": (
        [text("a", "m"), text("b", "n"), text("c", "m")],
        "text+ m, text m, text+ n, text n, text m",
    ),
    "text without an id joins the open message": (
        [message("m"), text("a"), no_message()],
        "text+ m, text m, text- m",
    ),
    "or opens one": ([text("a"), text("b")], "text+ r-1, text r-1, text r-1"),
    "a message without an id": (
        [message(), text("a"), no_message()],
        "text+ r-1, text r-1, text- r-1",
    ),
    "a message that is open already": ([message("m"), message("m")], "text+ m"),
    "the end of no message": ([no_message("m"), no_message()], ""),
    "empty deltas": ([text("", "m"), thought("", "m"), call(), arguments("")], "call+ c"),
    # a message without an id ends with its turn
    "a tool's result ends the turn": (
        [text("a"), result(), text("b")],
        "text+ r-1, text r-1, text- r-1, call= c c-result, text+ r-2, text r-2",
    ),
    "the next generation does": (
        [generation("x"), text("a"), generation("x"), text("b"), generation("y"), text("c")],
        "text+ r-1, text r-1, text r-1, text- r-1, text+ r-2, text r-2",
    ),
    "a step does": (
        [text("a"), step("s"), text("b"), stepped("s")],
        "text+ r-1, text r-1, text- r-1, step+ s, text+ r-2, text r-2, text- r-2, step- s",
    ),
    "a message with an id goes on": (
        [text("a", "m"), result(), step("s"), text("b", "m")],
        "text+ m, text m, call= c c-result, step+ s, text m",
    ),
    # an id is one message
    "text behind the end of its message": (
        [text("a", "m"), no_message("m"), text("b", "m"), text("c", "m"), END],
        "text+ m, text m, text- m, text+ r-1, text r-1, text r-1, text- r-1, run-",
    ),
    "text with the id of reasoning": (
        [thought("a", "m"), text("b", "m"), text("c", "m")],
        "span+ m, thought+ m, thought m, thought- m, span- m, text+ r-1, text r-1, text r-1",
    ),
    "reasoning with the id of text": (
        [text("a", "m"), thought("b", "m")],
        "text+ m, text m, span+ r-1, thought+ r-1, thought r-1",
    ),
    "text with the id of a call": ([call("m"), text("a", "m")], "call+ m, text+ r-1, text r-1"),
    "an id such as would be made": (
        [text("a", "r-1"), thought("b")],
        "text+ r-1, text r-1, span+ r-2, thought+ r-2, thought r-2",
    ),
    "an id such as a result would get": (
        [text("a", "c-result"), result()],
        "text+ c-result, text c-result, call= c r-1",
    ),
    # reasoning
    "a span without words": ([thinking("s"), no_thinking("s")], "span+ s, span- s"),
    "a span without an id": (
        [thinking(), thought("a"), no_thinking(), no_thinking()],
        "span+ r-1, thought+ r-1, thought r-1, thought- r-1, span- r-1",
    ),
    "a span of several messages": (
        [thinking("s"), thought("x", "a"), thought("y", "b"), no_thinking("s")],
        "span+ s, thought+ a, thought a, thought- a, thought+ b, thought b, thought- b, span- s",
    ),
    "the end of something else": (
        [thinking("s"), thought("x", "a"), no_thinking("a")],
        "span+ s, thought+ a, thought a",
    ),
    "a span that was opened goes on": (
        [thinking("s"), text("a", "m"), thought("b")],
        "span+ s, text+ m, text m, thought+ s, thought s",
    ),
    "reasoning that no event opened does not": (
        [thought("a"), call()],
        "span+ r-1, thought+ r-1, thought r-1, thought- r-1, span- r-1, call+ c",
    ),
    "a span that is open already": ([thinking("s"), thinking("s"), thinking()], "span+ s"),
    "another span": ([thinking("s"), thinking("z")], "span+ s, span- s, span+ z"),
    # tool calls
    "whole arguments": ([call(), ready("{}")], "call+ c, call c, call- c"),
    "arguments that were told": (
        [call(), arguments("{}"), ready("{}")],
        "call+ c, call c, call- c",
    ),
    "arguments told late": (
        [call(), ready(), ready("{}"), result()],
        "call+ c, call c, call- c, call= c c-result",
    ),
    "no arguments": ([call(), ready(), result()], "call+ c, call- c, call= c c-result"),
    "no arguments and no result": (
        [step("s"), call(), ready(), stepped("s"), END],
        "step+ s, call+ c, step- s, call- c, run-",
    ),
    "calls side by side": (
        [call(), call("d"), arguments("{}"), arguments("[]", "d"), ready(call_id="d"), ready()],
        "call+ c, call+ d, call c, call d, call- d, call- c",
    ),
    "a call that was started, and what follows its end": (
        [call(), call(), arguments("{}"), ready(), arguments("!"), ready("!"), call()],
        "call+ c, call c, call- c",
    ),
    "a call that was never started": ([arguments("{}"), ready(), ready("{}")], ""),
    "a result of an earlier run's call": ([result(), result("again")], "call= c c-result"),
    # steps
    "a step that is open already": ([step("s"), step("s"), stepped("s"), stepped("s")],
                                    "step+ s, step- s"),
    "a step with an id": ([step("s", "1"), stepped("s", "1")], "step+ s, step- s"),
    "a step of a subagent": ([step("s", "a/s"), stepped("s", "a/s")], "step+ a s, step- a s"),
    "steps of one name": (
        [step("s", "1"), step("s", "2"), step("s"), stepped("s", "1"), stepped("s", "2")],
        "step+ s, step+ 2 s, step+ s s, step- s, step- 2 s",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDER)
def test_what_is_in_order_and_what_is_put_in_order(case: str) -> None:
    events, wire = ORDER[case]
    assert short(*events) == wire


@pytest.mark.parametrize(
    ("events", "parent"),
    [
        ([text("a", "m"), call()], "m"),
        ([text("a", "m"), no_message("m"), call()], "m"),
        ([text("a"), call()], "r-1"),
        ([message("u", "user"), call()], None),
        ([text("a", "m"), result("x", "before"), call()], None),
        ([generation("x"), text("a", "m"), generation("y")], None),
        ([call()], None),
    ],
)
def test_a_call_belongs_to_the_message_of_its_turn(events: Run, parent: str | None) -> None:
    starts = [one for one in told(*events, call()) if one["type"] == "TOOL_CALL_START"]
    assert starts[-1].get("parentMessageId") == parent


def test_a_new_run_may_follow_an_end() -> None:
    wire = tell(
        AgUi().encoder(ENVELOPE),
        text("a"), call(), ready("{}"), result(), ev.Usage(input_tokens=1), END,
        ev.RunStarted(run_id="r2"),
        text("b"), call("d"), ready("{}", "d"), result("ok", "d"), ev.RunFailed(type="x"),
        ev.RunStarted(),
        END,
    )  # fmt: skip
    ids = [one["runId"] for one in wire if one["type"] == "RUN_STARTED"]
    assert ids == ["r", "r2", "r"]
    messages = [one["messageId"] for one in wire if one["type"] == "TEXT_MESSAGE_START"]
    assert messages == ["r-1", "r2-2"]
    assert [one["messageId"] for one in wire if one["type"] == "TOOL_CALL_RESULT"] == [
        "c-result",
        "d-result",
    ]
    assert "usage" not in wire[-1]


def test_a_call_of_an_earlier_run_is_not_made_again() -> None:
    again = [call(), ready("{}"), result()]
    wire = tell(AgUi().encoder(ENVELOPE), *again, END, ev.RunStarted(), *again, END)
    kinds = [one["type"] for one in wire if one["type"].startswith("TOOL_CALL")]
    assert kinds == ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"]


def test_of_very_much_that_is_open_the_oldest_is_closed() -> None:
    encoder = AgUi().encoder(ENVELOPE)
    for number in range(ag_ui.MAX_OPEN):
        tell(encoder, message(f"m{number}"))
    wire = tell(encoder, message("last"), text("b", "m0"), END)
    assert [one["type"] for one in wire[:3]] == [
        "TEXT_MESSAGE_END",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_END",
    ]
    ends = [one for one in wire if one["type"] == "TEXT_MESSAGE_END"]
    assert len(ends) == ag_ui.MAX_OPEN + 2


def test_half_an_emoji_is_passed_on_as_it_is() -> None:
    frames = [
        frame
        for event in (text("\ud83d", "m"), text("\ude42", "m"))
        for frame in AgUi().encoder(ENVELOPE).encode(event)
    ]
    assert json.loads(frames[2].data or b"")["delta"] == "\ud83d"
    assert b"\\ud83d" in encode_frame(frames[2])


def test_what_is_no_json_is_an_error_and_costs_nothing_else() -> None:
    endless: list[Any] = []
    endless.append(endless)
    encoder = AgUi().encoder(ENVELOPE)
    with pytest.raises(EncodeError, match="no JSON"):
        encoder.encode(ev.State(value=endless))
    assert [one["type"] for one in tell(encoder, END)] == ["RUN_STARTED", "RUN_FINISHED"]


@settings(max_examples=300, deadline=None)
@given(value=wild_patches)
def test_a_delta_of_the_state_is_written_if_it_is_one(value: Any) -> None:
    try:
        ag_ui_oracle.adapter.validate_python({"type": "STATE_DELTA", "delta": value})
        is_patch = True
    except ValueError:
        is_patch = False
    assert bool(told(ev.State(value=value, is_delta=True))) is is_patch


# --- usage -----------------------------------------------------------------------------------


def usage_of(*events: ev.Event) -> Any:
    return told(*events, END)[-1].get("usage")


def test_usage_is_told_at_the_end_summed_per_model() -> None:
    events = [
        ev.GenerationStarted(response_id="a", model="m", provider="p"),
        ev.Usage(input_tokens=1, output_tokens=1),
        ev.Usage(output_tokens=2, reasoning_tokens=1),
        ev.GenerationStarted(response_id="b", model="m", provider="p"),
        ev.Usage(input_tokens=10, output_tokens=20, cached_input_tokens=3, cache_write_tokens=4),
        ev.GenerationStarted(response_id="c", model="other"),
        ev.Usage(output_tokens=5),
        ev.GenerationStarted(response_id="d", model="silent"),
    ]
    assert usage_of(*events) == [
        {"provider": "p", "model": "m", "inputTokens": 11, "outputTokens": 22, "totalTokens": 33,
         "cachedInputTokens": 3, "cacheWriteInputTokens": 4, "reasoningTokens": 1},
        {"model": "other", "outputTokens": 5},
    ]  # fmt: skip


def test_usage_of_the_whole_run_stands_in_place_of_its_parts() -> None:
    events = [ev.Usage(input_tokens=1), ev.Usage(input_tokens=7, model="m", scope="run")]
    assert usage_of(*events) == [{"model": "m", "inputTokens": 7}]


@pytest.mark.parametrize("count", [None, -1, 1.5, True, "3", 2**53])
def test_what_is_no_count_is_not_told(count: Any) -> None:
    assert usage_of(ev.Usage(input_tokens=count)) is None
    huge = ev.Usage(input_tokens=2**53 - 1, output_tokens=1)
    assert usage_of(huge) == [{"inputTokens": 2**53 - 1, "outputTokens": 1}]


# --- there and back --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=any_events)
def test_what_was_made_of_anything_reads_the_same_when_written_again(events: Run) -> None:
    once = read(0, events)
    assert read(0, once) == once


# --- the official models, and the real client ------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=agent_runs() | any_events)
def test_the_official_models_take_every_event(events: Run) -> None:
    for one in tell(AgUi().encoder(), *events):
        ag_ui_oracle.adapter.validate_python(one)


async def shown_to_the_client(runs: list[Run]) -> list[Any]:
    """What `HttpAgent` made of each run."""

    def written(asked: Any) -> list[ev.Event]:
        return runs[int(asked["threadId"])]

    def envelope(asked: Any) -> Envelope:
        return Envelope(run_id=asked["runId"], thread_id=asked["threadId"])

    async with live(speaking(AgUi(), written, envelope=envelope)) as url:
        return await run_client("ag_ui.mjs", url, *map(str, range(len(runs))))


def read(number: int, run: Run) -> Run:
    """What our decoder reads in the bytes that the client got."""
    wire = tell(AgUi().encoder(Envelope(run_id=f"run-{number}", thread_id=str(number))), *run)
    return events_of(AgUi(), [json_frame(one) for one in wire])


def messages_of(events: Run) -> dict[str, dict[str, Any]]:
    """The messages that a client keeps, by role and id; calls and results by the call's id."""
    found: dict[str, dict[str, Any]] = {"assistant": {}, "reasoning": {}, "calls": {}, "tool": {}}
    for event in events:
        match event:
            case ev.MessageStarted(message_id=message_id):
                found["assistant"].setdefault(message_id, "")
            case ev.TextDelta(message_id=message_id):
                found["assistant"][message_id] += event.text
            case ev.ReasoningDelta(message_id=message_id):
                known = found["reasoning"].get(message_id, "")
                found["reasoning"][message_id] = known + event.text
            case ev.ToolCallStarted(tool_call_id=call_id):
                found["calls"][call_id] = [event.name or "", ""]
            case ev.ToolCallArgumentsDelta(tool_call_id=call_id):
                found["calls"][call_id][1] += event.delta
            case ev.ToolCallResult(tool_call_id=call_id):
                found["tool"][call_id] = event.result
    return found


def messages_at(client: Any) -> dict[str, dict[str, Any]]:
    """The same, of the messages that the client holds."""
    found: dict[str, dict[str, Any]] = {"assistant": {}, "reasoning": {}, "calls": {}, "tool": {}}
    for message in client["messages"]:
        key = message["toolCallId"] if message["role"] == "tool" else message["id"]
        if "content" in message:
            found[message["role"]][key] = message["content"]
        for one in message.get("toolCalls", ()):
            found["calls"][one["id"]] = [one["function"]["name"], one["function"]["arguments"]]
    return found


KINDS: dict[str, tuple[Run, dict[str, Any]]] = {
    "an answer": (
        [thought("Hm"), text("Hi"), text("!"), END],
        {
            "messages": [
                {"id": "run-0-1", "role": "reasoning", "content": "Hm"},
                {"id": "run-0-2", "role": "assistant", "content": "Hi!"},
            ],
            "end": {"outcome": {"type": "success"}},
        },
    ),
    "a tool": (
        [text("Let me see."), call(), ready("{}"), result("21"), text("It is 21."), END],
        {
            "messages": [
                {"id": "run-1-1", "role": "assistant", "content": "Let me see.", "toolCalls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ]},
                {"id": "c-result", "role": "tool", "toolCallId": "c", "content": "21"},
                {"id": "run-1-2", "role": "assistant", "content": "It is 21."},
            ],
        },
    ),
    "state": (
        [ev.State(value={"a": 0}), ev.State(value=PATCH, is_delta=True), END],
        {"state": {"a": 1}},
    ),
    "an interrupt": (
        [call(), arguments("{}"), ev.RunInterrupted(reason="confirmation", tool_call_id="c")],
        {"interrupts": [{"id": "c", "reason": "confirmation", "toolCallId": "c"}]},
    ),
    "a stop": ([*OPEN[:4], ev.RunCancelled()], {"end": {"outcome": {"type": "cancelled"}}}),
    "an error": (
        [*OPEN, ev.RunFailed(type="overloaded", message="later")],
        {"end": {"type": "RUN_ERROR", "code": "overloaded", "message": "later"}},
    ),
    "two runs": (
        [text("a"), END, ev.RunStarted(run_id="next"), text("b"), ev.RunFailed(message="x")],
        {"messages": [
            {"id": "run-6-1", "role": "assistant", "content": "a"},
            {"id": "next-2", "role": "assistant", "content": "b"},
        ]},
    ),
    "a cut run": ([text("a")], {"end": {"type": "TEXT_MESSAGE_CONTENT", "delta": "a"}}),
}  # fmt: skip


async def test_the_client_ends_with_what_was_said() -> None:
    seen = await shown_to_the_client([run for run, _ in KINDS.values()])
    for (name, (_, expected)), client in zip(KINDS.items(), seen, strict=True):
        assert (client["error"], client["warnings"]) == (None, []), name
        end = client["events"][-1]
        client["end"] = {key: end.get(key) for key in expected.get("end", ())}
        assert {key: client[key] for key in expected} == expected, name


async def test_the_client_does_complain_of_what_is_out_of_order() -> None:
    frames = [json_frame({"type": "RUN_STARTED", "threadId": "t", "runId": "r"}),
              json_frame({"type": "TEXT_MESSAGE_END", "messageId": "m"})]  # fmt: skip
    app = Response(b"".join(map(encode_frame, frames)), media_type="text/event-stream")
    async with live(app) as url:
        (client,) = await run_client("ag_ui.mjs", url, "0")
    assert "No active text message found with ID 'm'" in client["error"]


async def test_the_client_takes_any_run_and_holds_what_was_said() -> None:
    runs = some(agent_runs(), 60)
    for number, client in enumerate(await shown_to_the_client(runs)):
        events = read(number, runs[number])
        assert client["error"] is None, (client["error"], runs[number])
        assert [one for one in client["warnings"] if "state patch" not in one] == []
        assert messages_at(client) == messages_of(events)


async def test_the_client_takes_whatever_comes() -> None:
    runs = some(any_events, 60)
    for number, client in enumerate(await shown_to_the_client(runs)):
        assert client["error"] is None, (client["error"], runs[number])


def test_the_first_message_without_an_id_has_the_envelopes():
    encoder = AgUi().encoder(Envelope(run_id="r", thread_id="t", message_id="first"))
    ids = [
        one["messageId"]
        for one in tell(encoder, text("a", "own"), no_message(), text("b"), step("s"), text("c"))
        if one["type"] == "TEXT_MESSAGE_START"
    ]
    assert ids == ["own", "first", "r-1"]
