"""What the request and the app say of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.apps import DONE, Odd, sse, starlette_app
from support.asgi import Server, body, http_scope, start, until

from streamtrace import (
    RunFinished,
    StreamTraceMiddleware,
    annotate,
)
from streamtrace.testing import RecordingSink


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


def test_the_app_can_name_its_dialect() -> None:
    sink = RecordingSink()

    async def endpoint(request: Request) -> Response:
        annotate(dialect="cognis")
        return sse(b"event: done\ndata: {}\n\n")

    app = Starlette(routes=[Route("/x", endpoint)])
    TestClient(StreamTraceMiddleware(app, sinks=[sink])).get("/x")
    assert sink.wait(1)[0].dialect == "cognis"


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
