"""Where the middleware stands: around apps, inside and beside others, and under which route."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.apps import DONE, TOKENS, chat, starlette_app
from support.asgi import Server, body, http_scope, start

from streamtrace import (
    StreamTraceMiddleware,
)
from streamtrace.observe.route import route_template
from streamtrace.testing import RecordingSink


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


def test_inside_gzip_the_stream_is_read() -> None:
    sink = RecordingSink()
    app = starlette_app(
        middleware=[Middleware(GZipMiddleware), Middleware(StreamTraceMiddleware, sinks=[sink])]
    )
    TestClient(app).post("/chat/1", headers={"accept-encoding": "gzip"})
    assert sink.wait(1)[0].generations[0].text.text == "ab"


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


def test_the_route_that_served_is_believed_only_if_it_is_one_of_the_app() -> None:
    """Else it may be that of a mount, whose template lacks the prefix."""
    app = Starlette(
        routes=[
            Route("/{anything}", chat, methods=["GET"]),
            Route("/chat", chat, methods=["POST"]),
            Mount("/sub/{x}", routes=[Route("/chat", chat, methods=["POST"])]),
        ]
    )
    first, second, mount = app.routes
    scope = {"type": "http", "method": "POST", "path": "/chat", "root_path": "", "headers": []}
    for route, told in (
        (None, "/chat"),
        (second, "/chat"),
        (first, "/{anything}"),  # whatever matches first: it is the router that chose
        (mount, "/chat"),
        (mount.routes[0], "/chat"),
        (Route("/other", chat), "/chat"),
    ):
        assert route_template({**scope, "route": route}, "/chat", "", app) == told
    inside = {**scope, "root_path": "/sub/7", "path": "/sub/7/chat", "route": mount.routes[0]}
    assert route_template(inside, "/sub/7/chat", "", app) == "/sub/{x}/chat"
