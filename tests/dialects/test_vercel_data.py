"""The data stream of `ai` 4, decoded against what its own client made of the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.recordings import STREAMS
from support.wire import events_of, frames_of

from streamtrace import StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, LineParser
from streamtrace.dialects import vercel_data
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.vercel_data import VercelData
from streamtrace.observe.offline import summarize
from streamtrace.testing import RecordingSink

OURS = {stream.name: stream for stream in STREAMS if stream.dialect == "vercel-data"}
HEAD = Head(media_type="application/x-ndjson")


def lines(*parts: str) -> bytes:
    return "".join(f"{part}\n" for part in parts).encode()


def decode(body: bytes, head: Head = HEAD) -> list[ev.Event]:
    return events_of(VercelData(), frames_of(body, parser=LineParser()), head)


def said(*parts: str) -> list[ev.Event]:
    return decode(lines(*parts))


# --- against the client ------------------------------------------------------------------------

CLIENT = json.loads(Path(__file__).with_name("vercel_data_client.json").read_bytes())
"""What `processDataStream` of `@ai-sdk/ui-utils` 1.2.11 told of each recording. It asks for another
zod than today's clients, so it is not among the packages of the tests."""


def facts_of(events: Iterable[ev.Event]) -> dict[str, Any]:
    """The same facts, from our events; an error ends the client's reading."""
    facts: dict[str, Any] = {
        "id": None, "text": "", "reasoning": "", "steps": 0, "calls": {}, "results": {},
        "sources": [], "usage": None, "finish_reasons": [], "error": None,
    }  # fmt: skip
    names: dict[str, str | None] = {}
    arguments: dict[str, str] = {}
    for event in events:
        match event:
            case ev.RunStarted():
                facts["id"] = event.run_id
            case ev.GenerationStarted():
                facts["steps"] += 1
            case ev.TextDelta():
                facts["text"] += event.text
            case ev.ReasoningDelta():
                facts["reasoning"] += event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id] = event.name
                arguments[event.tool_call_id] = ""
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady():
                text = event.arguments or arguments[event.tool_call_id]
                facts["calls"][event.tool_call_id] = [names[event.tool_call_id], json.loads(text)]
            case ev.ToolCallResult():
                facts["results"][event.tool_call_id] = json.loads(event.result or "null")
            case ev.Source():
                facts["sources"].append([event.url, event.title])
            case ev.GenerationFinished():
                facts["finish_reasons"] += event.finish_reasons
            case ev.Usage(scope="run"):
                facts["usage"] = [event.input_tokens, event.output_tokens]
            case ev.RunFailed():
                facts["error"] = event.message
                break
    return facts


@pytest.mark.parametrize("name", CLIENT)
def test_says_of_a_recording_what_the_client_was_told(name):
    assert facts_of(decode(OURS[name].body)) == CLIENT[name]


def test_the_client_was_asked_about_every_recording_of_its_server():
    assert CLIENT.keys() == {name for name in OURS if name.startswith("ai4_")}


# --- rule by rule ------------------------------------------------------------------------------


def test_a_whole_stream_becomes_these_events():
    assert decode(OURS["ai4_tools"].body) == [
        ev.RunStarted(run_id="msg-1"),
        ev.MessageStarted(message_id="msg-1", role="assistant"),
        ev.GenerationStarted(key="1"),
        ev.ReasoningDelta(text="The user asks ", message_id="msg-1"),
        ev.ReasoningDelta(text="for the weather.", message_id="msg-1"),
        ev.Custom(name="reasoning_signature", value={"signature": "c2ln"}),
        ev.Custom(name="redacted_reasoning", value={"data": "cmVk"}),
        ev.TextDelta(text="Let me ", message_id="msg-1"),
        ev.TextDelta(text="look. ", message_id="msg-1"),
        ev.ToolCallStarted(tool_call_id="call_1", name="weather"),
        ev.ToolCallArgumentsDelta(tool_call_id="call_1", delta='{"cit'),
        ev.ToolCallArgumentsDelta(tool_call_id="call_1", delta='y":"Zürich"}'),
        ev.ToolCallReady(tool_call_id="call_1"),
        ev.ToolCallResult(
            tool_call_id="call_1", result='{"city":"Zürich","celsius":21,"sky":"clear"}'
        ),
        ev.Usage(input_tokens=20, output_tokens=30),
        ev.GenerationFinished(finish_reasons=("tool-calls",)),
        ev.GenerationStarted(key="2"),
        ev.Source(url="https://example.org/weather", title="Weather"),
        ev.Custom(name="file", value={"mimeType": "text/plain", "data": "SGk="}),
        ev.TextDelta(text="It is ", message_id="msg-1"),
        ev.TextDelta(text="21 °C", message_id="msg-1"),
        ev.TextDelta(text=" and clear.", message_id="msg-1"),
        ev.Usage(input_tokens=60, output_tokens=10),
        ev.GenerationFinished(finish_reasons=("stop",)),
        ev.Usage(input_tokens=80, output_tokens=40, scope="run"),
        ev.MessageFinished(message_id="msg-1"),
        ev.RunFinished(run_id="msg-1"),
    ]


def test_what_assistant_ui_adds_is_read():
    events = decode(OURS["sample-vercel-data-assistant_ui"].body)
    assert events[5:10] == [
        ev.ToolCallResult(tool_call_id="call_1", result="no such station", is_error=True),
        ev.State(value=[{"type": "set", "path": ["progress"], "value": 0.5}], is_delta=True),
        ev.ReasoningDelta(text="Try the airport."),
        ev.Custom(name="chart", value={"points": [1, 2]}),
        ev.TextDelta(text="I could not "),
    ]
    assert events[-4:] == [
        ev.TextDelta(text=" (nested)"),
        ev.Usage(input_tokens=12, output_tokens=9, scope="run"),
        ev.GenerationFinished(finish_reasons=("unknown",)),
        ev.RunFinished(),
    ]


STEP = 'f:{"messageId":"m"}'
CALL = '9:{"toolCallId":"c","toolName":"f","args":{}}'
RESULT = 'a:{"toolCallId":"c","result":null}'
FINISHED = ev.RunFinished(run_id="m")


def finish(code: str, reason: str, **more: Any) -> str:
    return f"{code}:{json.dumps({'finishReason': reason, **more})}"


@pytest.mark.parametrize(("parts", "ends"), [
    ([finish("e", "stop"), finish("d", "stop")], [FINISHED]),
    ([finish("d", "stop")], [FINISHED]),
    ([finish("e", "stop", isContinued=False)], [FINISHED]),
    ([finish("e", "length", isContinued=True)], []),
    ([CALL, RESULT, finish("e", "tool-calls")], []),
    ([finish("e", "stop"), STEP], []),
    ([finish("e", "stop"), STEP, finish("d", "stop")], [FINISHED]),
    ([finish("d", "stop"), STEP, finish("d", "stop")], [FINISHED, FINISHED]),
    ([], []),
    (['0:"x"'], []),
    (['3:"boom"', finish("e", "error"), finish("d", "error")], [ev.RunFailed(message="boom")]),
    (['3:""'], [ev.RunFailed()]),
    ([finish("d", "error")], [ev.RunFailed()]),
    (['{"error":"boom"}', finish("d", "stop")], [ev.RunFailed(message="boom")]),
    ([CALL, finish("d", "tool-calls")],
     [ev.RunInterrupted(reason="tool_call", tool_call_id="c")]),
    ([CALL, RESULT, finish("d", "tool-calls")], [FINISHED]),
    ([CALL, STEP, finish("d", "stop")], [FINISHED]),
    (['b:{"toolCallId":"c","toolName":"f"}', finish("d", "length")], [FINISHED]),
])  # fmt: skip
def test_how_a_run_ended(parts, ends):
    assert [one for one in said(STEP, *parts) if isinstance(one, ev.TERMINAL)] == ends


def test_a_finish_reason_is_told_once():
    events = said(STEP, finish("e", "stop"), finish("d", "stop"))
    assert [event for event in events if isinstance(event, ev.GenerationFinished)] == [
        ev.GenerationFinished(finish_reasons=("stop",))
    ]


@pytest.mark.parametrize(("usage", "expected"), [
    ({"promptTokens": 5, "completionTokens": 6}, ev.Usage(input_tokens=5, output_tokens=6)),
    ({"promptTokens": None, "completionTokens": 6}, ev.Usage(output_tokens=6)),
    ({"promptTokens": None, "completionTokens": None}, None),
    ({"promptTokens": -5, "completionTokens": "6"}, None),
    ("many", None),
])  # fmt: skip
def test_usage_that_is_no_number_is_absent(usage, expected):
    events = said(finish("e", "tool-calls", usage=usage))
    assert [event for event in events if isinstance(event, ev.Usage)] == [expected] * bool(expected)


@pytest.mark.parametrize(("line", "expected"), [
    ('2:[{"a":1}]', [ev.Custom(name="data", value=[{"a": 1}])]),
    ("8:[1]", [ev.Custom(name="message_annotations", value=[1])]),
    ('0:{"a":1}', [ev.Custom(name="0", value={"a": 1})]),
    ('6:{"a":1}', [ev.Custom(name="6", value={"a": 1})]),
    ("c:{}", [ev.Custom(name="tool_call_delta", value={})]),
    ('c:{"toolCallId":"c","argsTextDelta":7}', []),
    ('0:"cut', [ev.Custom(name="unknown", value='0:"cut')]),
    ("hello", [ev.Custom(name="unknown", value="hello")]),
    ('{"a":1}', [ev.Custom(name="unknown", value={"a": 1})]),
    ('0:"\\ud83d"', [ev.TextDelta(text="\ud83d")]),
])  # fmt: skip
def test_lines_that_are_odd(line, expected):
    assert said(line) == expected


def test_a_line_that_was_cut_says_nothing():
    assert decode(b'0:"whole"\n0:"cu') == [ev.TextDelta(text="whole")]
    assert decode(b'f:{"messageId":"m"}\nd:{"finishReason":"stop"}')[-1] == FINISHED


def test_open_calls_are_forgotten_oldest_first():
    decoder = VercelData().decoder()
    for number in range(vercel_data.MAX_REMEMBERED + 1):
        line = f'b:{{"toolCallId":"{number}","toolName":"f"}}'
        assert len(list(decoder.decode(Frame(data=line.encode())))) == 1
    events = [
        event
        for number in (0, vercel_data.MAX_REMEMBERED)
        for event in decoder.decode(Frame(data=b'9:{"toolCallId":"%d","args":{}}' % number))
    ]
    assert [type(event) for event in events] == [
        ev.ToolCallStarted, ev.ToolCallReady, ev.ToolCallReady,
    ]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=30), ascii_only=st.booleans())
def test_the_quick_reading_is_only_quicker(text, ascii_only):
    line = f"0:{json.dumps(text, ensure_ascii=ascii_only)}"
    with_space = f"0: {json.dumps(text)}"
    assert said(line) == said(with_space) == [ev.TextDelta(text=text)]


class WithoutEnd(VercelData):
    needs_terminal = False


@pytest.mark.parametrize(("dialect", "name", "status"), [
    (VercelData(), "assistant_stream_steps", "completed"),
    (VercelData(), "assistant_stream_run", "truncated"),
    (WithoutEnd(), "assistant_stream_run", "completed"),
])  # fmt: skip
def test_a_server_that_writes_no_end(dialect, name, status):
    run = summarize([OURS[name].body], dialect=dialect, media_type="text/plain")
    assert (run.dialect, run.status) == ("vercel-data", status)


# --- recognised --------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "fit"), [
    (b'0:"Hi"', Fit.YES),
    (b'f:{"messageId":"m"}', Fit.YES),
    (b'2:[{"a":1}]', Fit.YES),
    (b'aui-state:[]', Fit.YES),
    (b'0:"Hi', Fit.NO),
    (b"0:7", Fit.NO),
    (b"f:{}", Fit.NO),
    (b'x:"Hi"', Fit.NO),
    (b'{"0":"Hi"}', Fit.NO),
    (b"hello", Fit.NO),
    (None, Fit.NO),
])  # fmt: skip
def test_recognises_its_own_lines_only(data, fit):
    assert VercelData().recognise(HEAD, Frame(data=data)) is fit
    assert VercelData().recognise(HEAD, Frame(data=data, event="token")) is Fit.NO


def test_the_header_makes_it_sure():
    head = Head(headers={"x-vercel-ai-data-stream": "v1"})
    assert VercelData().recognise(head, Frame(data=b"whatever")) is Fit.YES


# --- through the middleware ----------------------------------------------------------------------


def observed(head: dict[str, str], **options: Any) -> tuple[RecordingSink, bytes]:
    """The record of one request, and what its client received."""
    body = OURS["ai4_tools"].body

    async def answer(request: Request) -> Response:
        await request.body()

        async def pieces() -> Any:
            for start in range(0, len(body), 7):
                yield body[start : start + 7]

        return StreamingResponse(pieces(), headers=head)

    sink = RecordingSink()
    app = Starlette(routes=[Route("/chat", answer, methods=["POST"])])
    app.add_middleware(StreamTraceMiddleware, sinks=[sink], content="full", **options)
    with TestClient(app) as client:
        asked = {"id": "chat-1", "messages": [{"role": "user", "content": "Weather?"}]}
        received = client.post("/chat", json=asked).content
    return sink, received


@pytest.mark.parametrize(("head", "options"), [
    ({"content-type": "text/plain; charset=utf-8", "x-vercel-ai-data-stream": "v1"}, {}),
    ({"content-type": "text/plain; charset=utf-8"}, {"dialect": "vercel-data"}),
    ({"content-type": "text/event-stream", "x-vercel-ai-data-stream": "v1"}, {}),
])  # fmt: skip
def test_a_data_stream_is_observed(head, options):
    sink, received = observed(head, **options)
    assert received == OURS["ai4_tools"].body
    (run,) = sink.runs
    assert (run.dialect, run.status, run.run_id) == ("vercel-data", "completed", "msg-1")
    assert run.thread_id == "chat-1"
    assert [one.text.text for one in run.generations] == ["Let me look. ", "It is 21 °C and clear."]
    assert [(one.name, one.status) for one in run.tool_calls] == [("weather", "completed")]
    assert (run.usage.input_tokens, run.usage.output_tokens) == (80, 40)
    assert not run.issues


def test_plain_text_that_nobody_announced_passes_by():
    sink, received = observed({"content-type": "text/plain; charset=utf-8"})
    assert received == OURS["ai4_tools"].body
    assert sink.runs == []
