"""Ollama's own API: what the official client reads, rule by rule, and through the middleware."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import ollama as client
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.hot import both_ways, frames_like
from support.recordings import STREAMS, Stream
from support.wire import events_of, frames_of

from streamtrace import StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, LineParser
from streamtrace.dialects import ollama
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.ollama import Ollama
from streamtrace.testing import RecordingSink

OURS = [stream for stream in STREAMS if stream.dialect == "ollama"]
CHATS = [one for one in OURS if one.lines and b'"message"' in one.body]
COMPLETIONS = [one for one in OURS if one.lines and b'"response"' in one.body]


def said(*values: Any) -> list[ev.Event]:
    lines = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    return events_of(Ollama(), frames_of(lines, parser=LineParser()))


def chat(text: str = "", *, done: bool = False, model: str = "m", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return {"model": model, "created_at": "now", "message": message, "done": done, **more}


# --- against the official client ------------------------------------------------------------


@contextmanager
def replayed(body: bytes) -> Iterator[client.Client]:
    """The official client, at a server that answers with these lines."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/x-ndjson")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Tests are quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with client.Client(host=f"http://127.0.0.1:{server.server_port}") as asking:
                yield asking
        finally:
            server.shutdown()


def official(stream: Stream) -> dict[str, Any]:
    """What the client yields, added up."""
    told: dict[str, Any] = {"text": "", "reasoning": "", "calls": []}
    with replayed(stream.body) as asking:
        if stream in COMPLETIONS:
            parts = asking.generate(model="m", prompt="x", stream=True)
        else:
            parts = asking.chat(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        try:
            for part in parts:
                message = part if stream in COMPLETIONS else part.message
                told["text"] += (message.response if message is part else message.content) or ""
                told["reasoning"] += message.thinking or ""
                for one in getattr(message, "tool_calls", None) or ():
                    told["calls"].append((one.function.name, dict(one.function.arguments)))
                told["model"] = part.model
                if part.done:
                    told["usage"] = (part.prompt_eval_count, part.eval_count)
                    told["finish"] = part.done_reason
        except client.ResponseError as error:
            told["error"] = error.error
    return told


def ours(events: list[ev.Event]) -> dict[str, Any]:
    told: dict[str, Any] = {"text": "", "reasoning": "", "calls": []}
    names: dict[str, str | None] = {}
    for event in events:
        match event:
            case ev.GenerationStarted():
                told["model"] = event.model
            case ev.TextDelta():
                told["text"] += event.text
            case ev.ReasoningDelta():
                told["reasoning"] += event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id] = event.name
            case ev.ToolCallReady(arguments=str(arguments)):
                told["calls"].append((names[event.tool_call_id], json.loads(arguments)))
            case ev.Usage():
                told["usage"] = (event.input_tokens, event.output_tokens)
            case ev.GenerationFinished():
                (told["finish"],) = event.finish_reasons
            case ev.RunFailed():
                told["error"] = event.message
    return told


@pytest.mark.parametrize("stream", CHATS + COMPLETIONS, ids=str)
def test_a_stream_says_what_the_official_client_reads(stream):
    assert ours(events_of(Ollama(), stream.frames())) == official(stream)


# --- rules ----------------------------------------------------------------------------------


def test_lines_and_events_read_the_same():
    stream = next(one for one in CHATS if one.name == "sample-ollama-chat")
    events = b"".join(b"data: %s\n\n" % line for line in stream.body.splitlines())
    assert events_of(Ollama(), frames_of(events)) == events_of(Ollama(), stream.frames())


def test_the_last_object_has_the_counts_the_reason_and_maybe_no_message():
    last = {"model": "m", "done": True, "done_reason": "stop", "eval_count": 2}
    assert said(chat("Hi"), last)[2:] == [
        ev.Usage(output_tokens=2),
        ev.GenerationFinished(finish_reasons=("stop",)),
        ev.RunFinished(),
    ]


@pytest.mark.parametrize("count", [-1, 1.5, "3", True, None, {}])
def test_a_count_that_is_none_is_absent(count):
    assert said(chat(done=True, prompt_eval_count=count))[1:] == [ev.RunFinished()]


def test_calls_come_whole_and_get_an_id_where_they_have_none():
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}},
        {"function": {"name": "g", "arguments": "{}"}},
        {"function": 7},
        8,
    ]
    assert said(chat(message={"tool_calls": calls}))[1:] == [
        ev.ToolCallStarted(tool_call_id="c1", name="f"),
        ev.ToolCallReady(tool_call_id="c1", arguments='{"a":1}'),
        ev.ToolCallStarted(tool_call_id="tool-2", name="g"),
        ev.ToolCallReady(tool_call_id="tool-2", arguments="{}"),
        ev.ToolCallStarted(tool_call_id="tool-3"),
        ev.ToolCallReady(tool_call_id="tool-3"),
        ev.ToolCallStarted(tool_call_id="tool-4"),
        ev.ToolCallReady(tool_call_id="tool-4"),
    ]


def test_what_follows_the_last_object_is_the_next_run():
    assert said(chat("a"), chat(done=True), chat("b"), {"error": "no"}, chat("c")) == [
        ev.GenerationStarted(model="m", provider="ollama"),
        ev.TextDelta(text="a"),
        ev.RunFinished(),
        ev.RunStarted(),
        ev.GenerationStarted(model="m", provider="ollama"),
        ev.TextDelta(text="b"),
        ev.RunFailed(message="no"),
        ev.RunStarted(),
        ev.GenerationStarted(model="m", provider="ollama"),
        ev.TextDelta(text="c"),
    ]


@pytest.mark.parametrize(("line", "expected"), [
    ({"error": "no"}, ev.RunFailed(message="no")),
    ({"error": {"code": 500, "message": "no"}}, ev.RunFailed(type="500", message="no")),
    ({"model": "m", "done": False, "error": "no"}, ev.RunFailed(message="no")),
    ({"status": "pulling"}, ev.Custom(name="message", value={"status": "pulling"})),
    ([1], ev.Custom(name="message", value=[1])),
])  # fmt: skip
def test_errors_and_what_is_not_known(line, expected):
    assert said(line) == [expected]


def test_pictures_are_told_as_such():
    assert said(chat(message={"images": ["aGk="]}))[1:] == [
        ev.Custom(name="images", value=["aGk="])
    ]


@pytest.mark.parametrize(("value", "media_type", "fit"), [
    (chat("x"), "text/event-stream", Fit.YES),
    ({"model": "m", "response": "x", "done": False}, "application/x-ndjson", Fit.YES),
    ({"model": "m", "done": True}, "application/x-ndjson", Fit.YES),
    ({"error": "no"}, "application/x-ndjson", Fit.MAYBE),
    ({"error": "no"}, "text/event-stream", Fit.NO),
    ({"error": {"message": "no"}}, "application/x-ndjson", Fit.NO),
    ({"model": "m", "message": "x", "done": False}, "application/x-ndjson", Fit.NO),
    ({"model": 7, "message": {}, "done": False}, "application/x-ndjson", Fit.NO),
    ({"model": "m", "message": {}, "done": "no"}, "application/x-ndjson", Fit.NO),
    ([chat("x")], "application/x-ndjson", Fit.NO),
])  # fmt: skip
def test_a_model_an_answer_and_done_are_sure(value, media_type, fit):
    frame = Frame(data=json.dumps(value).encode())
    assert Ollama().recognise(Head(media_type=media_type), frame) is fit


# --- through the middleware -----------------------------------------------------------------


@pytest.mark.parametrize("options", [{"json_lines": True}, {"dialect": "ollama"}], ids=str)
@pytest.mark.parametrize("media_type", Ollama.media_types)
def test_lines_are_observed_by_either_opt_in(options, media_type):
    stream = next(one for one in CHATS if one.name == "sample-ollama-chat")

    async def answer(request: Request) -> Response:
        async def pieces() -> Any:
            for start in range(0, len(stream.body), 100):
                yield stream.body[start : start + 100]

        return StreamingResponse(pieces(), media_type=media_type)

    sink = RecordingSink()
    app = Starlette(routes=[Route("/api/chat", answer, methods=["POST"])])
    wrapped = TestClient(StreamTraceMiddleware(app, sinks=[sink], **options))
    assert wrapped.post("/api/chat").content == stream.body
    [run] = sink.wait(1)
    [generation] = run.generations
    assert (run.dialect, run.status, run.frames) == ("ollama", "completed", 5)
    assert (generation.model, generation.finish_reasons) == ("qwen3", ["stop"])
    assert (generation.text.text, generation.reasoning.text) == (
        "Hello, 世界 👋",
        "The user greets.",
    )


# --- the fast path --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", OURS, ids=str)
def test_hot_lines_of_a_stream_read_as_the_others_do(stream):
    fast, slow = both_ways(Ollama(), ollama, "_read_piece", stream.frames())
    assert fast == slow


def test_hot_lines_of_any_shape_read_as_the_others_do():
    completion = {"model": "m", "response": "a", "thinking": "b", "done": False}
    frames = frames_like(chat("a", message={"thinking": "b"}), completion)
    for frame in frames:
        fast, slow = both_ways(Ollama(), ollama, "_read_piece", [*frames[:1], frame])
        assert fast == slow
