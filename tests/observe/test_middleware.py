"""What is observed, what is not, and what is known of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.apps import DONE, TOKENS, Odd, sse, starlette_app
from support.asgi import STREAM_HEADERS, Server, body, http_scope, settle, start, until

from streamtrace import (
    ConfigError,
    Dialect,
    RunFinished,
    StreamTraceMiddleware,
    TextDelta,
    active_streams,
)
from streamtrace.testing import RecordingSink

RECORDINGS = Path(__file__).parents[1] / "recordings"


def test_one_line_around_a_starlette_app() -> None:
    sink = RecordingSink()
    client = TestClient(StreamTraceMiddleware(starlette_app(), sinks=[sink]))
    assert client.post("/chat/7").content == b"".join([*TOKENS, DONE])
    [run] = sink.wait(1)
    assert (run.route, run.method, run.http_status, run.dialect) == (
        "/chat/{thread}",
        "POST",
        200,
        "generic",
    )
    assert run.generations[0].text.text == "ab"


def test_add_middleware_of_starlette_and_fastapi() -> None:
    sink = RecordingSink()
    app = starlette_app()
    app.add_middleware(StreamTraceMiddleware, sinks=[sink])
    api = FastAPI()
    api.post("/api/{x}")(lambda x: sse())
    api.add_middleware(StreamTraceMiddleware, sinks=[sink])
    TestClient(app).post("/sub/1/stream")
    TestClient(api).post("/api/1")
    assert [run.route for run in sink.wait(2)] == ["/sub/{x}/stream", "/api/{x}"]


def test_other_responses_pass_by() -> None:
    sink = RecordingSink()
    middleware = StreamTraceMiddleware(starlette_app(), sinks=[sink])
    client = TestClient(middleware)
    client.get("/plain")
    client.get("/nowhere")
    client.post("/chat/1")
    assert [run.route for run in sink.wait(1)] == ["/chat/{thread}"]


def test_media_types_as_browsers_read_them() -> None:
    cases = json.loads((RECORDINGS / "sse_extra.json").read_text())["mime_cases"]
    for case in cases:
        sink = RecordingSink()
        headers = [(b"content-type", case["content_type"].encode())]

        async def app(scope: Any, receive: Any, send: Any, headers: Any = headers) -> None:
            await send(start(headers=headers))
            await send(body(more=False))

        middleware = StreamTraceMiddleware(app, sinks=[sink])

        async def main(middleware: StreamTraceMiddleware = middleware) -> None:
            await Server().run(middleware)
            await middleware.drain()

        asyncio.run(main())
        assert bool(sink.runs) is case["is_event_stream"], case


def test_a_compressed_stream_is_timed_and_counted_but_not_read() -> None:
    sink = RecordingSink()

    async def zipped(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=[*STREAM_HEADERS, (b"content-encoding", b"gzip")]))
        await send(body(b"\x1f\x8b garbage\n\n"))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(zipped, sinks=[sink])

    async def main() -> None:
        await Server().run(middleware)
        await middleware.drain()

    asyncio.run(main())
    [run] = sink.runs
    assert (run.status, run.frames, run.body_bytes) == ("completed", 0, 12)
    assert run.time_to_first_byte_ns is not None
    assert run.issues == {"content_encoded": 1}


def test_json_lines_by_opt_in() -> None:
    async def lines(request: Request) -> Response:
        async def generate() -> Any:
            yield b'{"type":"token","content":"a"}\n{"type":"tok'
            yield b'en","content":"b"}\n{"type":"done"}'

        return StreamingResponse(generate(), media_type="application/x-ndjson")

    app = Starlette(routes=[Route("/lines", lines)])
    off, on = RecordingSink(), RecordingSink()
    TestClient(StreamTraceMiddleware(app, sinks=[off])).get("/lines")
    TestClient(StreamTraceMiddleware(app, sinks=[on], json_lines=True)).get("/lines")
    [run] = on.wait(1)
    assert (run.status, run.generations[0].text.text, run.frames) == ("completed", "ab", 3)
    assert off.started == []


def test_a_dialect_of_your_own_in_ten_lines() -> None:
    class Mine(Dialect):
        name = "mine"

        def decode(self, frame: Any) -> Any:
            match frame.json():
                case {"kind": "tok", "t": str(text)}:
                    yield TextDelta(text=text)
                case {"kind": "end"}:
                    yield RunFinished()

    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        return sse(b'data: {"kind":"tok","t":"hi"}\n\n', b'data: {"kind":"end"}\n\n')

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink], dialects=[Mine()])).get("/x")
    [run] = sink.wait(1)
    assert (run.dialect, run.status, run.generations[0].text.text) == ("mine", "completed", "hi")


async def test_active_shows_streams_in_flight() -> None:
    sink = RecordingSink()
    go_on, sent = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(TOKENS[0]))
        sent.set()
        await go_on.wait()
        await send(body(DONE))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    task = asyncio.create_task(Server().run(middleware))
    await sent.wait()
    await until(lambda: bool(sink.events))
    [stream] = middleware.active()
    assert (stream.dialect, stream.events, stream.route) == ("generic", 1, "unmatched")
    assert stream.last_event_age_s is not None
    assert 0 <= stream.last_event_age_s <= stream.age_s
    assert stream.trace_id in {one.trace_id for one in active_streams()}
    go_on.set()
    await task
    await settle(middleware)
    assert [run.status for run in sink.runs] == ["completed"]


async def test_interleaved_streams_keep_their_own_numbers() -> None:
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tokens = int(scope["path"][1:])
        await send(start())
        for _ in range(tokens):
            await send(body(TOKENS[0]))
            await asyncio.sleep(0)
        await send(body(DONE))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await asyncio.gather(*(Server().run(middleware, http_scope(f"/{n}")) for n in range(200)))
    await middleware.drain()
    assert sorted(run.generations[0].text.chars if run.generations else 0 for run in sink.runs) == (
        list(range(200))
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dialect": "nope"}, "nope"),
        ({"content": "maybe"}, "maybe"),
        ({"content": {"/x": "some"}}, "/x"),
        ({"sinks": [object()]}, "Sink"),
        ({"max_tap_bytes": -1}, "max_tap_bytes"),
        ({"dialects": [object()]}, "Dialect"),
        ({"dialect": Dialect}, "Dialect"),
        ({"include": "/chat"}, "include"),
        ({"exclude": "/chat"}, "exclude"),
        ({"sinks": RecordingSink()}, "list of sinks"),
        ({"max_tap_bytes": "2MB"}, "max_tap_bytes"),
        ({"pricing": {"gpt": 1}}, "pricing"),
        ({"redactor": "x"}, "redactor"),
    ],
)
def test_bad_configuration_fails_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StreamTraceMiddleware(starlette_app(), **options)


def test_a_dialect_of_your_own_can_be_named() -> None:
    mine = Odd(TextDelta(text="x"), RunFinished())
    sink = RecordingSink()
    app = starlette_app()
    TestClient(StreamTraceMiddleware(app, sinks=[sink], dialect="odd", dialects=[mine])).post(
        "/chat/1"
    )
    assert sink.wait(1)[0].dialect == "odd"
