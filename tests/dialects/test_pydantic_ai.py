"""Pydantic AI's own events: against the messages in which they end, rule by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.hot import both_ways, frames_like
from support.recordings import STREAMS
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects import pydantic_ai
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.pydantic_ai import MAX_REMEMBERED, PydanticAi
from streamtrace.observe.pipeline import Pipeline

OURS = {stream.name: stream for stream in STREAMS if stream.dialect == "pydantic-ai"}
ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)


def said(*values: Any) -> list[ev.Event]:
    return events_of(PydanticAi(), [Frame(data=json.dumps(value).encode()) for value in values])


def part(event: str, kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"event_kind": event, "index": index, "part": {"part_kind": kind, **fields}}


def delta(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "event_kind": "part_delta",
        "index": index,
        "delta": {"part_delta_kind": kind, **fields},
    }


def call(event: str, args: Any = None, index: int = 0, **facts: Any) -> dict[str, Any]:
    return part(
        event, "tool-call", index, **{"tool_name": "f", "tool_call_id": "c"} | facts, args=args
    )


def result(event: str = "function_tool_result", **fields: Any) -> dict[str, Any]:
    known = {"tool_name": "f", "tool_call_id": "c", "part_kind": "tool-return"}
    return {"event_kind": event, "part": known | fields}


def finished(**fields: Any) -> dict[str, Any]:
    return {"event_kind": "agent_run_result", "result": {"output": "x", **fields}}


# --- against the messages of the result --------------------------------------------------------


def facts(events: list[ev.Event]) -> dict[str, Any]:
    told: dict[str, Any] = {"text": text_of(events), "reasoning": "", "calls": {}, "results": {}}
    names: dict[str, str | None] = {}
    arguments: dict[str, str] = {}
    for event in events:
        match event:
            case ev.ReasoningDelta():
                told["reasoning"] += event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id], arguments[event.tool_call_id] = event.name, ""
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady(tool_call_id=call_id):
                text = event.arguments or arguments[call_id]
                told["calls"][call_id] = (names[call_id], json.loads(text))
            case ev.ToolCallResult(result=str(text)):
                told["results"][event.tool_call_id] = text
            case ev.Usage():
                told["usage"] = (event.input_tokens, event.output_tokens)
                told["model"] = (event.provider, event.model)
            case ev.RunStarted() | ev.RunFinished():
                told["ids"] = (event.run_id, event.thread_id)
    return told


def official(run: dict[str, Any]) -> dict[str, Any]:
    """The same facts, from the result that the library dumped."""
    told: dict[str, Any] = {"text": "", "reasoning": "", "calls": {}, "results": {}}
    for message in run["messages"][run["new_message_index"] :]:
        for one in message["parts"]:
            match one["part_kind"]:
                case "text":
                    told["text"] += one["content"]
                case "thinking":
                    told["reasoning"] += one["content"]
                case "tool-call":
                    args = one["args"] if isinstance(one["args"], dict) else json.loads(one["args"])
                    told["calls"][one["tool_call_id"]] = (one["tool_name"], args)
                case "tool-return":
                    content = one["content"]
                    text = content if isinstance(content, str) else json.dumps(content)
                    told["results"][one["tool_call_id"]] = text.replace(": ", ":")
        if message["kind"] == "response":
            told["model"] = (message["provider_name"], message["model_name"])
    usage = run["usage"]
    told["usage"] = (usage["input_tokens"] or None, usage["output_tokens"] or None)
    told["ids"] = (run["run_id"], run["conversation_id"])
    return told


@pytest.mark.parametrize("name", [name for name in OURS if b"agent_run_result" in OURS[name].body])
def test_a_stream_says_what_its_result_says(name):
    frames = OURS[name].frames()
    [run] = [
        value["result"]
        for frame in frames
        if (value := frame.json())["event_kind"] == "agent_run_result"
    ]
    assert facts(events_of(PydanticAi(), frames)) == official(run)


@pytest.mark.parametrize("name", OURS)
def test_no_run_is_out_of_order(name):
    pipeline = Pipeline(OURS[name].head)
    pipeline.feed(OURS[name].body, 0)
    summary = pipeline.close(StreamEnd(at_ns=1, final=True), started_at_ns=0)
    assert summary.issues == {}


# --- parts -------------------------------------------------------------------------------------


def test_a_part_may_begin_with_content_and_its_end_repeats_all():
    assert said(
        part("part_start", "text", content="H"),
        delta("text", content_delta="i"),
        part("part_end", "text", content="Hi"),
        part("part_start", "thinking", 1, content="hm"),
        delta("thinking", 1, content_delta=None, signature_delta="s"),
        part("part_end", "thinking", 1, content="hm"),
    ) == [
        ev.TextDelta(text="H"),
        ev.TextDelta(text="i"),
        ev.ReasoningStarted(),
        ev.ReasoningDelta(text="hm"),
        ev.ReasoningFinished(),
    ]


def test_citations_are_told_when_the_part_ends():
    cited = [{"sources": [{"url": "u", "title": "t"}, {"document_id": "d", "title": None}]}, 7]
    assert said(
        delta("text", content_delta="x", citations_delta=cited),
        part("part_end", "text", content="x", citations=cited),
    ) == [ev.TextDelta(text="x"), ev.Source(url="u", title="t"), ev.Source()]


@pytest.mark.parametrize(("pieces", "events"), [
    ([call("part_start", '{"q"'), delta("tool_call", args_delta=":1}"), call("part_end", "{}")],
     [ev.ToolCallArgumentsDelta(tool_call_id="c", delta='{"q"'),
      ev.ToolCallArgumentsDelta(tool_call_id="c", delta=":1}"),
      ev.ToolCallReady(tool_call_id="c")]),
    ([call("part_start"), delta("tool_call", args_delta={"q": 1}), call("part_end", {"q": 1})],
     [ev.ToolCallReady(tool_call_id="c", arguments='{"q":1}')]),
    ([call("part_start"), call("part_end")], [ev.ToolCallReady(tool_call_id="c")]),
    ([call("part_start", "{}")], [ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{}")]),
])  # fmt: skip
def test_arguments_come_in_pieces_or_whole(pieces, events):
    assert said(*pieces) == [ev.ToolCallStarted(tool_call_id="c", name="f"), *events]


def test_a_tool_call_is_told_once_and_where_no_part_was():
    told = call("function_tool_call", '{"q":1}')
    assert said(told, told) == [
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c", arguments='{"q":1}'),
    ]
    assert said(call("part_start", "{}"), told)[2:] == [ev.ToolCallReady(tool_call_id="c")]
    assert said(call("part_start", "{}"), call("part_end", "{}"), told)[3:] == []


def test_a_call_without_an_id_gets_one():
    assert said(call("part_start", tool_call_id=None), call("part_end", "{}")) == [
        ev.ToolCallStarted(tool_call_id="tool-1", name="f"),
        ev.ToolCallReady(tool_call_id="tool-1", arguments="{}"),
    ]


def test_a_tool_of_the_provider_gives_its_result_as_a_part():
    returned = {"tool_name": "web", "tool_call_id": "c", "content": {"n": 1}}
    assert said(
        part("part_start", "builtin-tool-call", tool_name="web", tool_call_id="c", args="{}"),
        part("part_start", "builtin-tool-return", 1, **returned),
        part("part_end", "builtin-tool-return", 1, **returned),
    )[2:] == [ev.ToolCallResult(tool_call_id="c", result='{"n":1}')]


def test_open_parts_are_bounded():
    starts = [call("part_start", index=n, tool_call_id=f"c{n}") for n in range(MAX_REMEMBERED + 1)]
    first, last = said(
        *starts,
        delta("tool_call", 0, args_delta="x"),
        delta("tool_call", MAX_REMEMBERED, args_delta="y"),
    )[-2:]
    assert isinstance(first, ev.Custom)
    assert last == ev.ToolCallArgumentsDelta(tool_call_id=f"c{MAX_REMEMBERED}", delta="y")


# --- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "text", "is_error"), [
    ({"content": "ok", "outcome": "success"}, "ok", False),
    ({"content": {"a": 1}}, '{"a":1}', False),
    ({"content": None}, None, False),
    ({"content": "no", "outcome": "failed"}, "no", True),
    ({"content": "again", "outcome": "retried"}, "again", True),
    ({"content": "denied", "outcome": "denied"}, "denied", False),
    ({"content": "again", "part_kind": "retry-prompt"}, "again", True),
])  # fmt: skip
def test_a_result_is_text_or_json_and_may_be_an_error(fields, text, is_error):
    *_, told = said(result(**fields))
    assert told == ev.ToolCallResult(tool_call_id="c", result=text, is_error=is_error)


def test_a_result_may_stand_under_its_older_name():
    older = result(content="ok")
    older["result"] = older.pop("part")
    assert said(older)[-1] == ev.ToolCallResult(tool_call_id="c", result="ok")


# --- the run -----------------------------------------------------------------------------------

ASKED = {"tool_name": "f", "tool_call_id": "c", "args": "{}"}


@pytest.mark.parametrize(("requests", "reason"), [
    ({"calls": [], "approvals": [ASKED]}, "approvals"),
    ({"calls": [ASKED], "approvals": []}, "calls"),
])  # fmt: skip
def test_deferred_requests_end_the_run_as_a_question(requests, reason):
    deferred = {"event_kind": "deferred_tool_requests", "requests": requests}
    end = ev.RunInterrupted(reason=reason, tool_call_id="c")
    assert said(deferred)[-1] == end
    assert said(finished(output=requests))[-1] == end
    resumed = {"event_kind": "deferred_tool_results", "results": {}}
    assert said(deferred, resumed, finished())[-4:] == [
        ev.RunStarted(),
        ev.Custom(name="deferred_tool_results", value=resumed),
        ev.RunStarted(),
        ev.RunFinished(),
    ]


def response(count: int, model: str | None = "m", **more: Any) -> dict[str, Any]:
    return {"kind": "response", "model_name": model, "usage": {"input_tokens": count}, **more}


@pytest.mark.parametrize(("fields", "usages"), [
    ({"usage": {"input_tokens": 3, "output_tokens": 0, "cache_read_tokens": 2}},
     [ev.Usage(input_tokens=3, cached_input_tokens=2, scope="run")]),
    ({"usage": {"input_tokens": 3}, "messages": [response(2)]},
     [ev.Usage(input_tokens=3, model="m", scope="run")]),
    ({"usage": {"input_tokens": 9}, "messages": [response(2), response(3, "n"), response(4)]},
     [ev.Usage(input_tokens=6, model="m", scope="run"),
      ev.Usage(input_tokens=3, model="n", scope="run")]),
    ({"messages": [response(9), response(2, "n")], "new_message_index": 1},
     [ev.Usage(input_tokens=2, model="n", scope="run")]),
    ({"messages": [response(2), {"kind": "request"}, 7]},
     [ev.Usage(input_tokens=2, model="m", scope="run")]),
    ({"usage": {"input_tokens": 0, "output_tokens": 0}}, []),
    ({"usage": {"input_tokens": "3", "output_tokens": -1}}, []),
    ({}, []),
])  # fmt: skip
def test_usage_is_that_of_the_run_by_model(fields, usages):
    assert [one for one in said(finished(**fields)) if isinstance(one, ev.Usage)] == usages


def test_the_last_answer_says_why_it_stopped():
    messages = [response(1, finish_reason="tool_call"), response(1, finish_reason="stop")]
    assert ev.GenerationFinished(finish_reasons=("stop",)) in said(finished(messages=messages))


@pytest.mark.parametrize(("stream", "failure"), [
    ('data: {"error":"boom"}', ev.RunFailed(message="boom")),
    ('data: {"error":{"type":"T","message":"boom"}}', ev.RunFailed(type="T", message="boom")),
    ('event: error\ndata: {"message":"boom","code":7}', ev.RunFailed(type="7", message="boom")),
    ("event: error\ndata: boom", ev.RunFailed(message="boom")),
    ('data: {"event_kind":"error","message":"boom"}', ev.RunFailed(message="boom")),
])  # fmt: skip
def test_an_exception_is_told_as_people_write_it(stream, failure):
    assert events_of(PydanticAi(), frames_of(f"{stream}\n\n".encode())) == [failure]


def test_what_is_not_known_is_kept():
    named = {"event_kind": "custom", "name": "progress", "done": 1}
    newer = {"event_kind": "newer", "x": 1}
    image = part("part_start", "file", content={"media_type": "image/png"})
    spoken = delta("speech", transcript_delta="Hi")
    assert said(named, newer, image, spoken, [1]) == [
        ev.Custom(name="progress", value=named),
        ev.Custom(name="newer", value=newer),
        ev.Custom(name="file", value=image["part"]),
        ev.Custom(name="part_delta", value=spoken["delta"]),
        ev.Custom(name="unknown", value=[1]),
    ]


@pytest.mark.parametrize(("value", "fit"), [
    ({"event_kind": "part_start"}, Fit.YES),
    ({"event_kind": "newer"}, Fit.MAYBE),
    ({"event_kind": 7}, Fit.NO),
    ({"type": "part_start"}, Fit.NO),
    (["part_start"], Fit.NO),
])  # fmt: skip
def test_a_known_event_kind_is_sure(value, fit):
    assert PydanticAi().recognise(Head(), Frame(data=json.dumps(value).encode())) is fit


# --- the fast path -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_hot_frames_of_a_stream_read_as_the_others_do(name):
    frames = OURS[name].frames()
    fast, slow = both_ways(PydanticAi(), pydantic_ai, "_read_part_delta", frames)
    assert fast == slow


def test_hot_frames_of_any_shape_read_as_the_others_do():
    first = Frame(data=json.dumps(call("part_start")).encode())
    hot = (
        delta("text", content_delta="a"),
        delta("thinking", content_delta="b"),
        delta("tool_call", args_delta="c"),
    )
    for one in frames_like(*hot):
        fast, slow = both_ways(PydanticAi(), pydantic_ai, "_read_part_delta", [first, one])
        assert fast == slow
