"""What is observed, what is not, and what is known of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.asgi import STREAM_HEADERS, Server, body, http_scope, settle, start, until

from streamtrace import (
    ConfigError,
    Dialect,
    RunFinished,
    StreamTraceMiddleware,
    TextDelta,
    annotate,
)
from streamtrace.testing import RecordingSink

RECORDINGS = Path(__file__).parents[1] / "recordings"
TOKENS = [b'data: {"type":"token","content":"a"}\n\n', b'data: {"type":"token","content":"b"}\n\n']
DONE = b'data: {"type":"done"}\n\n'


def sse(*pieces: bytes, **options: Any) -> StreamingResponse:
    async def generate() -> Any:
        for piece in pieces or (*TOKENS, DONE):
            yield piece

    return StreamingResponse(generate(), media_type="text/event-stream", **options)


async def chat(request: Request) -> Response:
    await request.body()
    return sse()


async def plain(request: Request) -> Response:
    return JSONResponse({"ok": True})


def starlette_app(**more: Any) -> Starlette:
    return Starlette(
        routes=[
            Route("/chat/{thread}", chat, methods=["GET", "POST"]),
            Route("/plain", plain),
            Mount("/sub", routes=[Route("/{x}/stream", chat, methods=["POST"])]),
        ],
        **more,
    )


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


@pytest.mark.parametrize("outside", [True, False])
def test_above_and_below_other_peoples_middleware(outside: bool) -> None:
    class Other(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            return await call_next(request)

    sink = RecordingSink()
    ours = Middleware(StreamTraceMiddleware, sinks=[sink])
    other = Middleware(Other)
    app = starlette_app(middleware=[ours, other] if outside else [other, ours])
    TestClient(app).post("/chat/7", json={"model": "m", "thread_id": "t"})
    [run] = sink.wait(1)
    assert (run.status, run.request.model, run.thread_id) == ("completed", "m", "t")


def test_nested_middlewares_observe_once() -> None:
    outer, inner = RecordingSink(), RecordingSink()
    app = StreamTraceMiddleware(
        starlette_app(middleware=[Middleware(StreamTraceMiddleware, sinks=[inner])]), sinks=[outer]
    )
    client = TestClient(app)
    client.post("/chat/1")
    client.post("/chat/2")
    assert len(outer.wait(2)) == 2
    assert inner.started == []


def test_a_request_made_inside_a_request_is_observed_by_itself() -> None:
    sink = RecordingSink()
    inner = StreamTraceMiddleware(starlette_app(), sinks=[sink])

    async def relay(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await Server().run(inner, http_scope("/chat/1"))
        await send(body(DONE))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(relay, sinks=[sink])

    async def main() -> None:
        await Server().run(middleware)
        await middleware.drain()
        await inner.drain()

    asyncio.run(main())
    assert sorted(run.route for run in sink.runs) == ["/chat/{thread}", "unmatched"]


def test_other_responses_pass_by() -> None:
    sink = RecordingSink()
    middleware = StreamTraceMiddleware(starlette_app(), sinks=[sink])
    client = TestClient(middleware)
    client.get("/plain")
    client.get("/nowhere")
    client.post("/chat/1")
    assert [run.route for run in sink.wait(1)] == ["/chat/{thread}"]


def test_include_and_exclude_by_route_template() -> None:
    for options, expected in (
        ({"exclude": ["/chat/{thread}"]}, ["/sub/{x}/stream"]),
        ({"include": ["/chat/{thread}"]}, ["/chat/{thread}"]),
    ):
        sink = RecordingSink()
        client = TestClient(StreamTraceMiddleware(starlette_app(), sinks=[sink], **options))  # type: ignore[arg-type]
        client.post("/chat/1")
        client.post("/sub/1/stream")
        assert [run.route for run in sink.wait(1)] == expected


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


def test_inside_gzip_the_stream_is_read() -> None:
    sink = RecordingSink()
    app = starlette_app(
        middleware=[Middleware(GZipMiddleware), Middleware(StreamTraceMiddleware, sinks=[sink])]
    )
    TestClient(app).post("/chat/1", headers={"accept-encoding": "gzip"})
    assert sink.wait(1)[0].generations[0].text.text == "ab"


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


def test_the_request_tells_model_thread_user_and_parameters() -> None:
    sink = RecordingSink()
    client = TestClient(StreamTraceMiddleware(starlette_app(), sinks=[sink]))
    client.post(
        "/chat/1",
        json={
            "model": "gpt-x",
            "threadId": "t1",
            "metadata": {"user_id": "u1"},
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.5,
            "max_completion_tokens": 10,
            "stream": True,
        },
    )
    [run] = sink.wait(1)
    assert (run.request.model, run.thread_id, run.labels.user) == ("gpt-x", "t1", "u1")
    assert run.request.parameters == {"temperature": 0.5, "max_tokens": 10}
    assert run.request.input.text == '[{"role":"user","content":"hello"}]'


def test_a_request_body_over_the_limit_is_not_kept() -> None:
    sink = RecordingSink()
    middleware = StreamTraceMiddleware(starlette_app(), sinks=[sink], max_request_bytes=100)
    TestClient(middleware).post("/chat/1", json={"model": "m", "message": "x" * 200})
    [run] = sink.wait(1)
    assert run.request.model is None
    assert run.request.input.text is None


def test_annotate_from_inside_the_app_its_tasks_and_threads() -> None:
    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        assert annotate(user="u", tags=["a"], metadata={"k": 1})

        def blocking() -> Any:
            annotate(session="s", tags=["b"], environment="prod")
            yield DONE

        return StreamingResponse(blocking(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink], release="1.0", agent="bot")).get("/x")
    labels = sink.wait(1)[0].labels
    assert (labels.user, labels.session, labels.tags) == ("u", "s", ["a", "b"])
    assert (labels.environment, labels.release, labels.agent) == ("prod", "1.0", "bot")
    assert labels.metadata == {"k": 1}


def test_annotate_outside_a_stream_changes_nothing() -> None:
    assert annotate(user="nobody") is False


def test_annotations_are_bounded() -> None:
    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        annotate(
            user="u" * 1000,
            tags=[str(n) for n in range(100)],
            metadata={str(n): object() for n in range(100)},
        )
        return sse()

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink])).get("/x")
    labels = sink.wait(1)[0].labels
    assert (len(labels.user or ""), len(labels.tags), len(labels.metadata)) == (200, 20, 32)


def test_the_app_can_name_its_dialect() -> None:
    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        annotate(dialect="cognis")
        return sse(b"event: done\ndata: {}\n\n")

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink])).get("/x")
    assert sink.wait(1)[0].dialect == "cognis"


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


async def test_duration_ends_with_the_final_body_not_with_background_work() -> None:
    sink = RecordingSink()
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))
        await release.wait()

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    task = asyncio.create_task(Server().run(middleware))
    await until(lambda: bool(sink.runs))
    assert not task.done()
    release.set()
    await task
    assert len(sink.runs) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dialect": "nope"}, "nope"),
        ({"content": "maybe"}, "maybe"),
        ({"content": {"/x": "some"}}, "/x"),
        ({"sinks": [object()]}, "Sink"),
        ({"max_tap_bytes": -1}, "max_tap_bytes"),
        ({"dialects": [object()]}, "Dialect"),
    ],
)
def test_bad_configuration_fails_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StreamTraceMiddleware(starlette_app(), **options)
