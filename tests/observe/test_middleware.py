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
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.asgi import STREAM_HEADERS, Server, body, http_scope, settle, start, until

from streamtrace import (
    ConfigError,
    Dialect,
    GenerationStarted,
    RunFailed,
    RunFinished,
    Sink,
    StreamTraceMiddleware,
    TextDelta,
    Usage,
    active_streams,
    annotate,
)
from streamtrace.dialects.base import Fit
from streamtrace.observe.cost import Pricing
from streamtrace.observe.pipeline import Pipeline
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


def test_headers_that_can_be_read_once_are_left_to_the_server() -> None:
    headers = iter(STREAM_HEADERS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=headers))
        await send(body(more=False))

    server = Server.__new__(Server)

    async def main() -> None:
        Server.__init__(server)
        await server.run(StreamTraceMiddleware(app))

    asyncio.run(main())
    assert list(server.sent[0]["headers"]) == STREAM_HEADERS


async def test_a_scope_without_headers_is_served_and_observed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await Server().run(middleware, {"type": "http"})
    await middleware.drain()
    assert [run.status for run in sink.runs] == ["completed"]


async def test_a_large_body_is_read_whole_though_in_pieces() -> None:
    tokens = b"".join(b'data: {"type":"token","content":"%06d"}\n\n' % n for n in range(20_000))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(tokens + DONE))
        await send(body(more=False))

    sink = RecordingSink(content="off")
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await Server().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert (run.status, run.frames, run.generations[0].text.chars) == ("completed", 20_001, 120_000)


async def test_a_long_input_leaves_room_for_the_answer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(start())
        await send(body(b'data: {"type":"token","content":"' + b"y" * 400 + b'"}\n\n'))
        await send(body(DONE))
        await send(body(more=False))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink], max_content_bytes=1000)
    await Server(json.dumps({"message": "x" * 5000}).encode()).run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert (len(run.request.input.text or ""), run.request.input.truncated) == (500, True)
    assert run.request.input.chars == 5000
    assert run.generations[0].text.text == "y" * 400


async def test_websocket_text_that_is_no_unicode_is_forwarded_and_read() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.receive", "text": "\ud800"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.send", "text": '{"type":"token","content":"\ud800"}'})
        await send({"type": "websocket.close"})

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await middleware({**http_scope(), "type": "websocket"}, receive, send)
    await middleware.drain()
    assert len(sent) == 3
    assert sink.runs[0].generations[0].text.text == "?"


class Odd(Dialect):
    """Says things that no dialect should say."""

    name = "odd"
    said: Any = ()

    def __init__(self, *said: Any) -> None:
        self.said = said

    def decode(self, frame: Any) -> Any:
        yield from self.said


class Unmakeable(Dialect):
    name = "unmakeable"

    def recognise(self, head: Any, frame: Any) -> Fit:
        return Fit.YES

    def decoder(self) -> Any:
        raise RuntimeError("no decoder today")


@pytest.mark.parametrize(
    "dialect",
    [
        Odd(RunFailed(type=500)),  # type: ignore[arg-type]
        Odd(Usage(input_tokens="5")),  # type: ignore[arg-type]
        Odd(TextDelta(text=5)),  # type: ignore[arg-type]
        Odd("no event"),
        Odd(GenerationStarted(model=["x"])),  # type: ignore[arg-type]
        Unmakeable(),
    ],
    ids=lambda dialect: repr(getattr(dialect, "said", dialect.name))[:40],
)
async def test_whatever_a_dialect_says_the_run_is_told_once(dialect: Dialect) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink], dialect=dialect)
    await Server().run(middleware)
    await middleware.drain()
    assert len(sink.started) == len(sink.runs) == 1
    assert sink.runs[0].to_json()
    assert middleware.active() == []


async def test_a_fault_of_ours_costs_the_detail_and_not_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("a bug")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))

    for method in ("feed", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, method, broken)
            sink = RecordingSink()
            middleware = StreamTraceMiddleware(app, sinks=[sink])
            await Server().run(middleware)
            await middleware.drain()
        assert [run.status for run in sink.runs] == ["completed"]
        assert sink.runs[0].issues == {"record_incomplete": 1}
        assert middleware.active() == []


async def test_prices_that_fail_cost_the_price_only() -> None:
    class Free(Pricing):
        def apply(self, summary: Any) -> None:
            raise RuntimeError("no price today")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink], pricing=Free())
    await Server().run(middleware)
    await middleware.drain()
    assert sink.runs[0].issues == {"pricing_failed": 1}


def test_annotate_never_raises() -> None:
    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        annotate(user="u", tags=5, metadata=[1])  # type: ignore[arg-type]
        annotate(session="s")
        return sse()

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink])).get("/x")
    labels = sink.wait(1)[0].labels
    assert (labels.user, labels.session) == ("u", "s")


def test_a_dialect_of_your_own_can_be_named() -> None:
    mine = Odd(TextDelta(text="x"), RunFinished())
    sink = RecordingSink()
    app = starlette_app()
    TestClient(StreamTraceMiddleware(app, sinks=[sink], dialect="odd", dialects=[mine])).post(
        "/chat/1"
    )
    assert sink.wait(1)[0].dialect == "odd"


async def test_send_stall_is_the_time_that_send_took() -> None:
    """The server's clock is under control: it takes as long as the test says."""
    sink = RecordingSink()
    now_ns = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(3):
            await send(body(TOKENS[0]))
        await send(body(DONE))
        await send(body(more=False))

    waits_ns = iter([0, 10, 500, 20, 7, 3])

    class Slow(Server):
        async def send(self, message: Any) -> None:
            nonlocal now_ns
            now_ns += next(waits_ns)

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrace.observe.middleware._clock", lambda: now_ns)
        await Slow().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert (run.send_stall_ns, run.longest_send_stall_ns) == (540, 500)
    assert run.duration_ns == 537
    assert run.time_to_first_byte_ns == 0
    assert run.gap_sum_ns == 510


async def test_token_times_are_those_of_the_messages_that_brought_them() -> None:
    sink = RecordingSink()
    now_ns = 1_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now_ns
        now_ns += 50
        await send(start())
        for wait_ns, data in (
            (10, b": comment\n\n"),
            (10, b'data: {"type":"ping"}\n\n'),
            (100, b'data: {"type":"thinking","content":"hm"}\n\n'),
            (200, TOKENS[0][:10]),
            (300, TOKENS[0][10:]),
            (400, DONE),
        ):
            now_ns += wait_ns
            await send(body(data))
        now_ns += 5
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrace.observe.middleware._clock", lambda: now_ns)
        await Server().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert run.time_to_first_byte_ns == 60
    assert run.time_to_first_event_ns == run.time_to_first_token_ns == 170
    assert run.time_to_first_visible_token_ns == 670
    assert run.longest_gap_ns == 500
    assert run.duration_ns == 1075


def test_the_full_template_of_a_mounted_app_and_never_that_of_a_sibling() -> None:
    sink = RecordingSink(content=None)
    inner = StreamTraceMiddleware(
        Starlette(routes=[Route("/chat", chat, methods=["POST"])]),
        sinks=[sink],
        content={"/chat": "full", "*": "off"},
        exclude=["/private/{x}/other"],
    )
    app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Mount("/private/{x}", inner)])
    TestClient(app).post("/private/7/chat")
    [run] = sink.wait(1)
    assert run.route == "/private/{x}/chat"
    assert run.generations[0].text.text is None


def test_behind_a_root_path_templates_are_those_of_the_app() -> None:
    sink = RecordingSink()
    app = starlette_app(middleware=[Middleware(StreamTraceMiddleware, sinks=[sink])])
    TestClient(app, root_path="/api").post("/chat/7")
    assert sink.wait(1)[0].route == "/chat/{thread}"


def test_nested_middlewares_know_each_other_through_those_who_copy_headers() -> None:
    sink = RecordingSink()
    inner = starlette_app(
        middleware=[
            Middleware(CORSMiddleware, allow_origins=["*"]),
            Middleware(StreamTraceMiddleware, sinks=[sink]),
        ]
    )

    async def copying(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "headers": list(scope["headers"])}, receive, send)

    for app in (inner, copying):
        sink.started.clear()
        TestClient(StreamTraceMiddleware(app, sinks=[sink])).post("/chat/1")
        assert len(sink.started) == 1


async def test_what_is_raised_behind_the_final_body_explains_a_stream_that_was_cut() -> None:
    for error, status in ((ValueError("x"), "error"), (TimeoutError(), "timeout")):

        async def broken(request: Request, error: Exception = error) -> Response:
            async def pieces() -> Any:
                yield TOKENS[0]
                raise error

            return StreamingResponse(pieces(), media_type="text/event-stream")

        class Other(BaseHTTPMiddleware):
            async def dispatch(self, request: Request, call_next: Any) -> Response:
                return await call_next(request)

        sink = RecordingSink()
        app = Starlette(routes=[Route("/x", broken)], middleware=[Middleware(Other)])
        client = TestClient(StreamTraceMiddleware(app, sinks=[sink]), raise_server_exceptions=False)
        await asyncio.to_thread(client.get, "/x")
        [run] = sink.wait(1)
        assert (run.status, run.error and run.error.type) == (status, type(error).__name__)


async def test_the_time_in_a_send_that_never_returned_counts() -> None:
    now_ns = 0

    class Stuck(Server):
        async def send(self, message: Any) -> None:
            nonlocal now_ns
            if message["type"] == "http.response.body":
                now_ns += 500
                raise TimeoutError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(TOKENS[0]))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrace.observe.middleware._clock", lambda: now_ns)
        with pytest.raises(TimeoutError):
            await Stuck().run(middleware)
    await middleware.drain()
    assert (sink.runs[0].send_stall_ns, sink.runs[0].longest_send_stall_ns) == (500, 500)


async def test_an_app_has_until_its_first_chunk_to_name_the_dialect_and_read_the_request() -> None:
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await until(lambda: bool(sink.started))
        annotate(dialect="cognis")
        await receive()
        await send(body(b"event: done\ndata: {}\n\n"))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await Server(b'{"model":"m","thread_id":"t"}').run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert (run.dialect, run.request.model, run.thread_id) == ("cognis", "m", "t")


async def test_a_websocket_client_may_speak_late() -> None:
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await until(lambda: bool(sink.started))
        await receive()
        await send({"type": "websocket.send", "text": '{"type":"token","content":"a"}'})
        await send({"type": "websocket.send", "text": '{"type":"done"}'})
        await send({"type": "websocket.close"})

    server = Server(incoming=[{"type": "websocket.receive", "text": '{"model":"m"}'}])
    middleware = StreamTraceMiddleware(app, sinks=[sink], max_frame_bytes=100)
    await server.run(middleware, {**http_scope(), "type": "websocket"})
    await middleware.drain()
    assert sink.runs[0].request.model == "m"


async def test_a_message_over_the_limit_of_a_frame_is_not_read() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        text = '{"type":"token","content":"' + "x" * 200 + '"}'
        await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close"})

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink], max_frame_bytes=100)
    await Server().run(middleware, {**http_scope(), "type": "websocket"})
    await middleware.drain()
    assert sink.runs[0].issues["frame_oversized"] == 1
    assert sink.runs[0].generations == []


@pytest.mark.parametrize("dialect", ["nonesuch", ["x"], 5, Odd(RunFinished())])
def test_whatever_dialect_the_app_names_the_run_starts_and_ends(dialect: Any) -> None:
    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        annotate(dialect=dialect)
        return sse()

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink])).get("/x")
    [run] = sink.wait(1)
    assert run.dialect == ("odd" if isinstance(dialect, Odd) else "generic")
    assert len(sink.started) == 1


async def test_a_sink_that_raises_what_is_no_exception_stops_nothing() -> None:
    class Cancelling(Sink):
        name = "cancelling"

        def end(self, info: Any, summary: Any) -> None:
            raise asyncio.CancelledError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[Cancelling(), sink])
    await asyncio.gather(*(Server().run(middleware) for _ in range(5)))
    await settle(middleware)
    assert len(sink.runs) == 5
