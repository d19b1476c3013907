"""AG-UI, decoded, against the official models and the rules of the official client."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import EventType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ag_ui_oracle
from support.ag_ui_oracle import Run
from support.strategies import cuts, single_bytes
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, FrameParser
from streamtrace.dialects import ag_ui
from streamtrace.dialects.ag_ui import AgUi
from streamtrace.dialects.base import Fit, Head

RECORDINGS = Path(__file__).parents[1] / "recordings"
STREAMS = {
    meta.name.removesuffix(".meta.json"): meta.with_name(
        meta.name.replace(".meta.json", ".sse")
    ).read_bytes()
    for meta in sorted(RECORDINGS.glob("*.meta.json"))
    if json.loads(meta.read_bytes())["dialect"] == "ag-ui"
}


def decode(chunks: Iterable[bytes]) -> list[ev.Event]:
    return events_of(AgUi(), frames_of(*chunks))


def wire(*messages: dict[str, Any]) -> bytes:
    return b"".join(f"data: {json.dumps(message)}\n\n".encode() for message in messages)


def said(*messages: dict[str, Any]) -> list[ev.Event]:
    return decode([wire(*messages)])


def msg(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def text(delta: str, message_id: str | None = None, **fields: Any) -> dict[str, Any]:
    named = {} if message_id is None else {"messageId": message_id}
    return msg("TEXT_MESSAGE_CHUNK", delta=delta, **named, **fields)


def finished(**fields: Any) -> dict[str, Any]:
    return msg("RUN_FINISHED", threadId="t", runId="r", **fields)


# --- every event of the protocol -------------------------------------------------------------

SNAPSHOT = msg("MESSAGES_SNAPSHOT", messages=[{"id": "m", "role": "user", "content": "hi"}])
ACTIVITY = msg("ACTIVITY_SNAPSHOT", messageId="m", activityType="plan", content={"a": 1})
ACTIVITY_DELTA = msg("ACTIVITY_DELTA", messageId="m", activityType="plan", patch=[])
SECRET = msg("REASONING_ENCRYPTED_VALUE", subtype="message", entityId="m", encryptedValue="x")
RAW = msg("RAW", event={"a": 1}, source="s")
SUBAGENT_ERROR = msg("SUBAGENT_ERROR", subagentRunId="s", message="broke", code="c")
PATCH = [{"op": "add", "path": "/a", "value": 1}]

TABLE: dict[str, tuple[dict[str, Any], list[ev.Event]]] = {
    "RUN_STARTED": (
        {"threadId": "t", "runId": "r", "protocolVersion": "1.0"},
        [ev.RunStarted(run_id="r", thread_id="t")],
    ),
    "RUN_FINISHED": (
        {"threadId": "t", "runId": "r", "usage": [{"model": "m", "inputTokens": 1}]},
        [
            ev.Usage(input_tokens=1, model="m", scope="run"),
            ev.RunFinished(run_id="r", thread_id="t"),
        ],
    ),
    "RUN_ERROR": (
        {"message": "broke", "code": "c", "usage": [{"outputTokens": 2}]},
        [ev.Usage(output_tokens=2, scope="run"), ev.RunFailed(type="c", message="broke")],
    ),
    "STEP_STARTED": ({"stepName": "plan"}, [ev.StepStarted(name="plan")]),
    "STEP_FINISHED": ({"stepName": "plan"}, [ev.StepFinished(name="plan")]),
    "TEXT_MESSAGE_START": (
        {"messageId": "m", "role": "assistant"},
        [ev.MessageStarted(message_id="m", role="assistant")],
    ),
    "TEXT_MESSAGE_CONTENT": (
        {"messageId": "m", "delta": "hi"},
        [ev.TextDelta(text="hi", message_id="m")],
    ),
    "TEXT_MESSAGE_END": ({"messageId": "m"}, [ev.MessageFinished(message_id="m")]),
    "TEXT_MESSAGE_CHUNK": (
        {"messageId": "m", "delta": "hi"},
        [
            ev.MessageStarted(message_id="m", role="assistant"),
            ev.TextDelta(text="hi", message_id="m"),
        ],
    ),
    "TOOL_CALL_START": (
        {"toolCallId": "c", "toolCallName": "search", "parentMessageId": "m"},
        [ev.ToolCallStarted(tool_call_id="c", name="search")],
    ),
    "TOOL_CALL_ARGS": (
        {"toolCallId": "c", "delta": "{"},
        [ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{")],
    ),
    "TOOL_CALL_END": ({"toolCallId": "c"}, [ev.ToolCallReady(tool_call_id="c")]),
    "TOOL_CALL_CHUNK": (
        {"toolCallId": "c", "toolCallName": "search", "delta": "{"},
        [
            ev.ToolCallStarted(tool_call_id="c", name="search"),
            ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{"),
        ],
    ),
    "TOOL_CALL_RESULT": (
        {"messageId": "m", "toolCallId": "c", "content": "ok"},
        [ev.ToolCallResult(tool_call_id="c", result="ok")],
    ),
    "REASONING_START": ({"messageId": "m"}, [ev.ReasoningStarted(message_id="m")]),
    "REASONING_MESSAGE_START": (
        {"messageId": "m", "role": "reasoning"},
        [ev.ReasoningStarted(message_id="m")],
    ),
    "REASONING_MESSAGE_CONTENT": (
        {"messageId": "m", "delta": "hm"},
        [ev.ReasoningDelta(text="hm", message_id="m")],
    ),
    "REASONING_MESSAGE_END": ({"messageId": "m"}, [ev.ReasoningFinished(message_id="m")]),
    "REASONING_MESSAGE_CHUNK": (
        {"messageId": "m", "delta": "hm"},
        [ev.ReasoningStarted(message_id="m"), ev.ReasoningDelta(text="hm", message_id="m")],
    ),
    "REASONING_END": ({"messageId": "m"}, [ev.ReasoningFinished(message_id="m")]),
    "REASONING_ENCRYPTED_VALUE": (
        SECRET,
        [ev.Custom(name="REASONING_ENCRYPTED_VALUE", value=SECRET)],
    ),
    "STATE_SNAPSHOT": ({"snapshot": {"a": 1}}, [ev.State(value={"a": 1})]),
    "STATE_DELTA": ({"delta": PATCH}, [ev.State(value=PATCH, is_delta=True)]),
    "MESSAGES_SNAPSHOT": (SNAPSHOT, [ev.Custom(name="MESSAGES_SNAPSHOT", value=SNAPSHOT)]),
    "ACTIVITY_SNAPSHOT": (ACTIVITY, [ev.Custom(name="ACTIVITY_SNAPSHOT", value=ACTIVITY)]),
    "ACTIVITY_DELTA": (ACTIVITY_DELTA, [ev.Custom(name="ACTIVITY_DELTA", value=ACTIVITY_DELTA)]),
    "SUBAGENT_STARTED": (
        {"subagentRunId": "s", "name": "critic"},
        [ev.StepStarted(name="critic", step_id="s")],
    ),
    "SUBAGENT_FINISHED": ({"subagentRunId": "s"}, [ev.StepFinished(name="s", step_id="s")]),
    "SUBAGENT_ERROR": (
        SUBAGENT_ERROR,
        [
            ev.Custom(name="SUBAGENT_ERROR", value=SUBAGENT_ERROR),
            ev.StepFinished(name="s", step_id="s"),
        ],
    ),
    "RAW": (RAW, [ev.Custom(name="RAW", value=RAW)]),
    "CUSTOM": ({"name": "note", "value": [1]}, [ev.Custom(name="note", value=[1])]),
}

LEGACY: dict[str, tuple[dict[str, Any], list[ev.Event]]] = {
    "THINKING_START": ({"title": "plan"}, [ev.ReasoningStarted(message_id="thinking-1")]),
    "THINKING_TEXT_MESSAGE_START": ({}, [ev.ReasoningStarted(message_id="thinking-1")]),
    "THINKING_TEXT_MESSAGE_CONTENT": (
        {"delta": "hm"},
        [ev.ReasoningDelta(text="hm", message_id="thinking-0")],
    ),
    "THINKING_TEXT_MESSAGE_END": ({}, [ev.ReasoningFinished(message_id="thinking-0")]),
    "THINKING_END": ({}, [ev.ReasoningFinished(message_id="thinking-0")]),
}


def test_the_table_holds_every_event_of_the_protocol_and_no_other() -> None:
    assert {kind.value for kind in EventType} == TABLE.keys()


@pytest.mark.parametrize("kind", sorted(TABLE.keys() | LEGACY.keys()))
def test_each_event_is_read(kind: str) -> None:
    fields, expected = {**TABLE, **LEGACY}[kind]
    assert said({"type": kind, **fields}) == expected


@pytest.mark.parametrize("kind", TABLE)
def test_the_table_s_frames_are_such_as_the_official_models_accept(kind: str) -> None:
    fields, _ = TABLE[kind]
    assert ag_ui_oracle.adapter.validate_python({"type": kind, **fields}).type == kind


@pytest.mark.parametrize("kind", TABLE)
def test_each_event_is_read_as_python_producers_spell_it_too(kind: str) -> None:
    fields, expected = TABLE[kind]
    snake = {"".join(f"_{c.lower()}" if c.isupper() else c for c in key): value
             for key, value in fields.items()}  # fmt: skip
    assert said({"type": kind, **snake}) == expected


# --- against the official models -------------------------------------------------------------


def fold(events: Iterable[ev.Event]) -> Run:
    run = Run()
    for event in events:
        match event:
            case ev.RunStarted():
                run.run_id, run.thread_id = event.run_id, event.thread_id
            case ev.MessageStarted(message_id=str(message_id)):
                run.texts[message_id] = ""
            case ev.TextDelta(message_id=str(message_id)):
                run.texts[message_id] += event.text
            case ev.ReasoningStarted():
                run.reasoning_spans += 1
            case ev.ReasoningDelta():
                run.reasoning += event.text
            case ev.ToolCallStarted(name=str(name)):
                run.names[event.tool_call_id] = name
                run.arguments[event.tool_call_id] = ""
            case ev.ToolCallArgumentsDelta():
                run.arguments[event.tool_call_id] += event.delta
            case ev.ToolCallResult(result=str(result)):
                run.results[event.tool_call_id] = result
            case ev.StepStarted():
                run.steps.append(event.name)
            case ev.Usage(scope="run"):
                run.usage.append(
                    (
                        event.provider,
                        event.model,
                        event.input_tokens,
                        event.output_tokens,
                        event.cached_input_tokens,
                        event.cache_write_tokens,
                        event.reasoning_tokens,
                    )
                )
            case ev.RunFinished():
                run.outcome = "success"
            case ev.RunInterrupted():
                run.outcome = "interrupt"
            case ev.RunFailed():
                run.outcome, run.error = "error", (event.type, event.message)
    return run


@pytest.mark.parametrize("name", STREAMS)
def test_says_of_a_recorded_stream_what_the_official_models_hold(name: str) -> None:
    run = fold(decode([STREAMS[name]]))
    assert run.outcome is not None
    assert run == ag_ui_oracle.read(STREAMS[name])


@pytest.mark.parametrize("name", STREAMS)
def test_nothing_of_a_recorded_stream_is_unknown(name: str) -> None:
    assert not [event for event in decode([STREAMS[name]]) if isinstance(event, ev.Custom)]


# --- chunks ----------------------------------------------------------------------------------

SHAPES = {
    "TEXT_MESSAGE": ("CONTENT", "messageId", {}),
    "REASONING_MESSAGE": ("CONTENT", "messageId", {}),
    "TOOL_CALL": ("ARGS", "toolCallId", {"toolCallName": "f"}),
}
things = st.lists(
    st.tuples(st.sampled_from(sorted(SHAPES)), st.lists(st.text(max_size=4), max_size=4)),
    max_size=6,
)


@given(things=things, data=st.data())
def test_chunks_say_what_start_content_and_end_say(
    things: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    explicit, chunked = [], []
    for number, (kind, deltas) in enumerate(things):
        content, key, more = SHAPES[kind]
        named = {key: f"id{number}"}
        explicit.append(msg(f"{kind}_START", **named, **more))
        explicit += [msg(f"{kind}_{content}", **named, delta=delta) for delta in deltas]
        explicit.append(msg(f"{kind}_END", **named))
        chunked.append(msg(f"{kind}_CHUNK", **named, **more))
        for delta in deltas:
            again = named if data.draw(st.booleans()) else {}
            chunked.append(msg(f"{kind}_CHUNK", **again, delta=delta))
    assert said(*chunked, finished()) == said(*explicit, finished())


@pytest.mark.parametrize("closer", sorted(TABLE))
def test_what_ends_a_chunked_message(closer: str) -> None:
    stays_open = {"RAW", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "REASONING_ENCRYPTED_VALUE",
                  "SUBAGENT_STARTED", "SUBAGENT_FINISHED", "SUBAGENT_ERROR"}  # fmt: skip
    fields, _ = TABLE[closer]
    other = {"messageId": "other"} if closer.endswith("MESSAGE_CHUNK") else {}
    events = said(text("a", "open"), {"type": closer, **fields, **other})
    assert (ev.MessageFinished(message_id="open") in events) is (closer not in stays_open)


def test_lanes_do_not_end_each_other_and_the_run_ends_them_all() -> None:
    events = said(
        text("a", "main"),
        text("b", "side", subagentRunId="s"),
        text("c"),
        text("d", subagentRunId="s"),
        msg("STEP_STARTED", stepName="x", subagentRunId="s"),
        text("e"),
        finished(),
    )
    assert events == [
        ev.MessageStarted(message_id="main", role="assistant"),
        ev.TextDelta(text="a", message_id="main"),
        ev.MessageStarted(message_id="side", role="assistant"),
        ev.TextDelta(text="b", message_id="side"),
        ev.TextDelta(text="c", message_id="main"),
        ev.TextDelta(text="d", message_id="side"),
        ev.MessageFinished(message_id="side"),
        ev.StepStarted(name="x", step_id="s/x"),
        ev.TextDelta(text="e", message_id="main"),
        ev.MessageFinished(message_id="main"),
        ev.RunFinished(run_id="r", thread_id="t"),
    ]


def test_a_snapshot_of_the_messages_ends_the_chunks_of_all_lanes() -> None:
    assert said(text("a", "side", subagentRunId="s"), SNAPSHOT)[-2:] == [
        ev.MessageFinished(message_id="side"),
        ev.Custom(name="MESSAGES_SNAPSHOT", value=SNAPSHOT),
    ]


def test_a_first_chunk_without_an_id_is_not_guessed_at() -> None:
    assert said(text("a")) == [ev.Custom(name="TEXT_MESSAGE_CHUNK", value=text("a"))]


def test_a_cut_stream_completes_nothing() -> None:
    events = said(msg("TOOL_CALL_CHUNK", toolCallId="c", toolCallName="f", delta="{"))
    assert not [event for event in events if isinstance(event, ev.ToolCallReady)]


# --- single rules ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_text_of_others_is_not_the_agent_s(role: str) -> None:
    content = msg("TEXT_MESSAGE_CONTENT", messageId="u", delta="hi")
    events = said(
        msg("TEXT_MESSAGE_START", messageId="u", role=role),
        content,
        msg("TEXT_MESSAGE_CONTENT", messageId="m", delta="mine"),
        msg("TEXT_MESSAGE_END", messageId="u"),
        text("hi", "v", role=role),
        finished(),
    )
    assert events == [
        ev.MessageStarted(message_id="u", role=role),
        ev.Custom(name="TEXT_MESSAGE_CONTENT", value=content),
        ev.TextDelta(text="mine", message_id="m"),
        ev.MessageFinished(message_id="u"),
        ev.MessageStarted(message_id="v", role=role),
        ev.Custom(name="TEXT_MESSAGE_CONTENT", value={**text("hi", "v"), "role": role}),
        ev.MessageFinished(message_id="v"),
        ev.RunFinished(run_id="r", thread_id="t"),
    ]


def test_a_reasoning_span_of_several_messages_opens_and_closes_once() -> None:
    def thought(message_id: str, delta: str) -> list[dict[str, Any]]:
        return [
            msg("REASONING_MESSAGE_START", messageId=message_id, role="reasoning"),
            msg("REASONING_MESSAGE_CONTENT", messageId=message_id, delta=delta),
            msg("REASONING_MESSAGE_END", messageId=message_id),
        ]

    assert said(
        msg("REASONING_START", messageId="span"),
        *thought("a", "x"),
        *thought("b", "y"),
        msg("REASONING_MESSAGE_CHUNK", messageId="c", delta="z"),
        msg("REASONING_END", messageId="span"),
    ) == [
        ev.ReasoningStarted(message_id="span"),
        ev.ReasoningDelta(text="x", message_id="a"),
        ev.ReasoningDelta(text="y", message_id="b"),
        ev.ReasoningDelta(text="z", message_id="c"),
        ev.ReasoningFinished(message_id="span"),
    ]


def test_reasoning_of_old_producers_gets_one_id_per_span() -> None:
    ids = [
        event.message_id
        for event in decode([STREAMS["ag-ui__pydantic-ai__test_ag_ui_test_thinking_0"]])
        if isinstance(event, ev.ReasoningStarted | ev.ReasoningDelta | ev.ReasoningFinished)
    ]
    assert ids == ["thinking-1"] * 4 + ["thinking-2"] * 3 + ["thinking-3"] * 3


def test_a_subagent_is_a_step_of_its_name() -> None:
    assert said(
        msg("SUBAGENT_STARTED", subagentRunId="s", name="critic"),
        text("a", "m", subagentRunId="s"),
        msg("SUBAGENT_FINISHED", subagentRunId="s", outcome={"type": "success"}),
    ) == [
        ev.StepStarted(name="critic", step_id="s"),
        ev.MessageStarted(message_id="m", role="assistant"),
        ev.TextDelta(text="a", message_id="m"),
        ev.MessageFinished(message_id="m"),
        ev.StepFinished(name="critic", step_id="s"),
    ]


FINISHED = ev.RunFinished(run_id="r", thread_id="t")


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({}, FINISHED),
        ({"outcome": None}, FINISHED),
        ({"outcome": {"type": "success"}}, FINISHED),
        ({"outcome": {"type": "success", "pendingToolCallIds": []}}, FINISHED),
        ({"outcome": {"type": "later than 1.0"}}, FINISHED),
        (
            {"outcome": {"type": "success", "pendingToolCallIds": ["c", "d"]}},
            ev.RunInterrupted(reason="tool_call", tool_call_id="c"),
        ),
        (
            {"outcome": {"type": "success", "pending_tool_call_ids": ["c"]}},
            ev.RunInterrupted(reason="tool_call", tool_call_id="c"),
        ),
        (
            {
                "outcome": {
                    "type": "interrupt",
                    "interrupts": [
                        {"id": "i", "reason": "confirmation", "toolCallId": "c"},
                        {"id": "j", "reason": "input_required"},
                    ],
                }
            },
            ev.RunInterrupted(reason="confirmation", tool_call_id="c"),
        ),
        (
            {"outcome": {"type": "interrupt", "interrupts": [{"id": "i", "tool_call_id": "c"}]}},
            ev.RunInterrupted(tool_call_id="c"),
        ),
        ({"outcome": {"type": "interrupt"}}, ev.RunInterrupted()),
        ({"outcome": {"type": "cancelled"}}, ev.RunCancelled()),
    ],
)
def test_how_a_run_ended(outcome: dict[str, Any], expected: ev.Event) -> None:
    assert said(finished(**outcome)) == [expected]


def test_several_runs_may_share_a_stream() -> None:
    first = msg("RUN_STARTED", threadId="t", runId="r")
    second = msg("RUN_STARTED", threadId="t", runId="r2")
    assert said(first, msg("RUN_ERROR", message="broke"), second, finished()) == [
        ev.RunStarted(run_id="r", thread_id="t"),
        ev.RunFailed(message="broke"),
        ev.RunStarted(run_id="r2", thread_id="t"),
        FINISHED,
    ]


def test_a_new_run_inherits_nothing() -> None:
    events = said(
        msg("REASONING_START", messageId="x"),
        msg("TEXT_MESSAGE_START", messageId="m", role="user"),
        msg("SUBAGENT_STARTED", subagentRunId="s", name="critic"),
        msg("RUN_STARTED", threadId="t", runId="r"),
        msg("REASONING_MESSAGE_START", messageId="y", role="reasoning"),
        msg("TEXT_MESSAGE_CONTENT", messageId="m", delta="hi"),
        msg("SUBAGENT_FINISHED", subagentRunId="s"),
    )
    assert events[-3:] == [
        ev.ReasoningStarted(message_id="y"),
        ev.TextDelta(text="hi", message_id="m"),
        ev.StepFinished(name="s", step_id="s"),
    ]


def test_the_id_of_a_message_that_ended_is_free_again() -> None:
    events = said(
        msg("TEXT_MESSAGE_START", messageId="m", role="user"),
        msg("TEXT_MESSAGE_END", messageId="m"),
        msg("TEXT_MESSAGE_START", messageId="m", role="assistant"),
        msg("TEXT_MESSAGE_CONTENT", messageId="m", delta="hi"),
    )
    assert events[-1] == ev.TextDelta(text="hi", message_id="m")


def test_usage_is_told_per_model_and_bad_numbers_are_left_out() -> None:
    full = {"provider": "p", "model": "m", "inputTokens": 9, "outputTokens": 8, "totalTokens": 17,
            "reasoningTokens": 3, "cachedInputTokens": 2, "cacheWriteInputTokens": 1}  # fmt: skip
    bad = {"inputTokens": -1, "outputTokens": 5, "reasoningTokens": 1.5, "cachedInputTokens": True,
           "cacheWriteInputTokens": 2**53, "model": 7}  # fmt: skip
    snake = {"model": "n", "input_tokens": 4, "cache_write_input_tokens": 3}
    *usages, _ = said(finished(usage=[full, bad, snake, {"model": "no numbers"}, None, 3]))
    assert usages == [
        ev.Usage(
            provider="p", model="m", input_tokens=9, output_tokens=8, reasoning_tokens=3,
            cached_input_tokens=2, cache_write_tokens=1, scope="run",
        ),
        ev.Usage(output_tokens=5, scope="run"),
        ev.Usage(model="n", input_tokens=4, cache_write_tokens=3, scope="run"),
    ]  # fmt: skip


IMAGE = {"type": "image", "source": {"type": "url", "value": "https://example.org/x.png"}}


@pytest.mark.parametrize(
    ("content", "result"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": "a"}, IMAGE], json.dumps(
            [{"type": "text", "text": "a"}, IMAGE], separators=(",", ":"))),
        ({"a": 1}, '{"a":1}'),
        (None, None),
    ],
)  # fmt: skip
def test_a_tool_s_result_is_text_or_json(content: Any, result: str | None) -> None:
    frame = msg("TOOL_CALL_RESULT", messageId="m", toolCallId="c", content=content)
    assert said(frame) == [ev.ToolCallResult(tool_call_id="c", result=result)]


@pytest.mark.parametrize(
    "frame",
    [
        msg("BRAND_NEW", a=1),
        msg("TOOL_CALL_START", toolCallName="f"),
        msg("TOOL_CALL_ARGS", toolCallId="c", delta=None),
        msg("TEXT_MESSAGE_CONTENT", messageId="m"),
        msg("STEP_STARTED", stepName=1),
        msg("CUSTOM", value=1),
    ],
)
def test_what_is_unknown_or_lacks_what_it_needs_is_passed_on(frame: dict[str, Any]) -> None:
    assert said(frame) == [ev.Custom(name=frame["type"], value=frame)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: [DONE]\n\n", []),
        (b": comment\n\n", []),
        (b"data: hello\n\n", [ev.Custom(name="unknown", value="hello")]),
        (b'event: error\ndata: {"detail":"x"}\n\n', [
            ev.Custom(name="error", value={"detail": "x"})]),
        (b'data: {"type":"RUN_FIN', []),
        (b'data: {"type":"RUN_FINISHED","threadId":"t","runId":"r"}', [FINISHED]),
    ],
)  # fmt: skip
def test_frames_that_are_no_event(body: bytes, expected: list[ev.Event]) -> None:
    assert decode([body]) == expected


def test_crlf_makes_no_difference_to_an_observer() -> None:
    assert decode([STREAMS["agui10_crlf"]]) == decode([STREAMS["agui10_lf"]])


def test_messages_that_never_end_are_forgotten_oldest_first() -> None:
    decoder = AgUi().decoder()

    def feed(message: dict[str, Any]) -> ev.Event:
        (event,) = decoder.decode(Frame(data=json.dumps(message).encode()))
        return event

    for number in range(ag_ui.MAX_REMEMBERED + 1):
        feed(msg("TEXT_MESSAGE_START", messageId=str(number), role="user"))
    assert isinstance(feed(msg("TEXT_MESSAGE_CONTENT", messageId="0", delta="x")), ev.TextDelta)
    assert isinstance(feed(msg("TEXT_MESSAGE_CONTENT", messageId="1", delta="x")), ev.Custom)


# --- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_the_first_frame_of_a_recorded_stream_is_enough(name: str) -> None:
    assert AgUi().recognise(Head(), FrameParser().feed(STREAMS[name])[0]) is Fit.YES


@pytest.mark.parametrize("kind", sorted(TABLE.keys() | LEGACY.keys()))
def test_every_event_of_the_protocol_is_its_signature(kind: str) -> None:
    assert AgUi().recognise(Head(), Frame(data=json.dumps({"type": kind}).encode())) is Fit.YES


@pytest.mark.parametrize(
    ("data", "fit"),
    [
        (b'{"type":"BRAND_NEW"}', Fit.MAYBE),
        (b'{"type":"run_started"}', Fit.NO),
        (b'{"type":"A1"}', Fit.NO),
        (b'{"type":7}', Fit.NO),
        (b'{"event":"RUN_STARTED"}', Fit.NO),
        (b"[]", Fit.NO),
        (None, Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(data: bytes | None, fit: Fit) -> None:
    assert AgUi().recognise(Head(), Frame(data=data)) is fit


# --- robustness ------------------------------------------------------------------------------

MESSAGES = [
    json.loads(frame.data or b"")
    for body in (*STREAMS.values(), *(wire({"type": k, **f}) for k, (f, _) in TABLE.items()))
    for frame in FrameParser().feed(body)
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@st.composite
def spoiled_messages(draw: st.DrawFn) -> dict[str, Any]:
    """A real message with one of its values, however deep, dropped or replaced."""
    message = json.loads(json.dumps(draw(st.sampled_from(MESSAGES))))
    if draw(st.booleans()):
        message["subagentRunId"] = draw(st.sampled_from(("s", 1, None)))
    node = message
    while True:
        key = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.just(0))
        inner = node[key]
        if not (isinstance(inner, dict | list) and inner) or draw(st.booleans()):
            break
        node = inner
    if isinstance(node, dict) and draw(st.booleans()):
        del node[key]
    else:
        node[key] = draw(anything)
    return message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages=st.lists(spoiled_messages() | st.sampled_from(MESSAGES), min_size=1, max_size=10))
def test_no_json_makes_it_raise_and_the_quick_reading_is_only_quicker(
    messages: list[dict[str, Any]],
) -> None:
    quick, thorough = AgUi().decoder(), AgUi().decoder()
    for message in messages:
        frame = Frame(data=json.dumps(message).encode())
        AgUi().recognise(Head(), frame)
        events = list(quick.decode(frame))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ag_ui, "_read_piece", lambda data: None)
            assert repr(events) == repr(list(thorough.decode(frame)))
        assert all(isinstance(event, ev.Event) for event in events)


@pytest.mark.parametrize("name", STREAMS)
def test_single_bytes_give_the_same_events(name: str) -> None:
    assert decode(single_bytes(STREAMS[name])) == decode([STREAMS[name]])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_same_events(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(sorted(STREAMS.values())))
    assert decode(data.draw(cuts(body))) == decode([body])


@pytest.mark.parametrize("kind", ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RAW"])
def test_of_a_large_state_only_what_it_is(kind: str) -> None:
    frame = Frame(data=json.dumps({"snapshot": "x" * 100_000, "type": kind}).encode())
    (event,) = AgUi().decoder().decode(frame)
    assert len(repr(event)) < 200
    assert isinstance(event, ev.State if kind == "STATE_SNAPSHOT" else ev.Custom)
