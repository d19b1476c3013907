"""Law 1: the client's stream is untouched, whatever happens on our side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.asgi import STREAM_HEADERS, Server, http_scope

from streamtrace import Dialect, Sink, StreamTraceMiddleware
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Decoder


class BrokenSink(Sink):
    """Raises wherever it is called."""

    name = "broken"

    def start(self, info: Any) -> None:
        raise RuntimeError("start")

    def event(self, info: Any, event: Any, at_ns: int) -> None:
        raise RuntimeError("event")

    def end(self, info: Any, summary: Any) -> None:
        raise RuntimeError("end")


class BrokenDialect(Dialect):
    """Claims every frame and can read none."""

    name = "broken"

    def decoder(self) -> Decoder:
        return self

    def recognise(self, head: Any, frame: Frame) -> Any:
        raise RuntimeError("recognise")

    def decode(self, frame: Frame) -> Any:
        raise RuntimeError("decode")


HEADERS = st.sampled_from(
    [
        [(b"content-type", b"text/event-stream")],
        [(b"Content-Type", b"text/event-stream; charset=utf-8")],
        [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")],
        [(b"content-type", b"application/x-ndjson")],
        [(b"content-type", b"application/json")],
        [(b"content-type", b"\xff\xfe")],
        [],
        (),
    ]
)
PIECES = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(
        [
            b'data: {"type":"token","content":"a"}\n\n',
            b"event: token\r\ndata: x\r\n\r\n",
            b"data: [DONE]\n\n",
            b"\xef\xbb\xbfdata: 1\r",
            b"x" * 5000,
        ]
    ),
)
BODIES = st.one_of(PIECES, PIECES.map(bytearray), PIECES.map(memoryview), st.none())
MESSAGES = st.one_of(
    st.builds(
        lambda status, headers: {
            "type": "http.response.start",
            "status": status,
            "headers": headers,
        },
        st.sampled_from([200, 204, 404, 500]),
        HEADERS,
    ),
    st.builds(
        lambda body, more: {"type": "http.response.body", "body": body, "more_body": more},
        BODIES,
        st.booleans(),
    ),
    st.sampled_from(
        [
            {"type": "http.response.body"},
            {"type": "http.response.trailers", "headers": [], "more_trailers": False},
            {"type": "http.response.pathsend", "path": "/x"},
            {"type": "http.response.debug", "info": {}},
            {"type": "x.unknown", "anything": object()},
        ]
    ),
)
SETUPS: list[dict[str, Any]] = [
    {},
    {"sinks": [BrokenSink(), BrokenSink()], "content": "full"},
    {"dialect": BrokenDialect()},
    {"dialects": [BrokenDialect()], "sinks": [BrokenSink()]},
    {"max_tap_bytes": 0},
    {"max_total_bytes": 0, "max_frame_bytes": 0, "max_request_bytes": 0, "max_content_bytes": 0},
    {"json_lines": True, "include": ["/nowhere"]},
    {"redactor": lambda text, where: 1 / 0, "content": "full", "sinks": [BrokenSink()]},
]


async def _play(script: list[Any], options: dict[str, Any], error: BaseException | None) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for number, message in enumerate(script):
            await send(message)
            assert server.sent[-1] is message  # it is there before the app goes on
            if number % 3 == 0:
                await asyncio.sleep(0)
        if error is not None:
            raise error

    middleware = StreamTraceMiddleware(app, **options)
    server = Server(b'{"message": "hi"}')
    scope = http_scope()
    before = dict(scope)
    raised: BaseException | None = None
    try:
        await server.run(middleware, scope)
    except Exception as caught:
        raised = caught
    await middleware.drain()
    assert raised is error
    assert len(server.sent) == len(script)
    assert all(got is given for got, given in zip(server.sent, script, strict=True))
    assert scope == before
    assert middleware.active() == []


@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(MESSAGES, max_size=12),
    options=st.sampled_from(SETUPS),
    error=st.sampled_from([None, ValueError("x"), TimeoutError(), OSError("y")]),
)
def test_every_message_arrives_as_the_same_object_in_the_same_order(
    script: list[Any], options: dict[str, Any], error: BaseException | None
) -> None:
    asyncio.run(_play(script, options, error))


async def test_the_app_gets_the_very_messages_of_the_server() -> None:
    incoming = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.disconnect"},
    ]
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.extend([await receive() for _ in incoming])

    server = Server(incoming=incoming)
    expected = list(incoming)
    await server.run(StreamTraceMiddleware(app))
    assert all(one is other for one, other in zip(got, expected, strict=True))


async def test_receive_is_called_only_when_the_app_calls_it() -> None:
    calls = 0

    async def receive() -> Any:
        nonlocal calls
        calls += 1
        return {"type": "http.request", "body": b"", "more_body": False}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = Server()
    await StreamTraceMiddleware(app)(http_scope(), receive, server.send)
    assert calls == 0


async def test_no_task_is_made_between_the_app_and_the_server() -> None:
    seen: list[set[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            seen.append(asyncio.all_tasks())
        await send({"type": "http.response.body", "body": b""})

    before = asyncio.all_tasks()
    await Server().run(StreamTraceMiddleware(app))
    assert all(tasks == before for tasks in seen)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()])
def test_what_is_no_exception_passes_through_unchanged(error: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": STREAM_HEADERS,
            }
        )
        raise error

    server = Server.__new__(Server)
    server.sent, server._send_error_at = [], None
    coroutine = StreamTraceMiddleware(app)(http_scope(), None, server.send)  # type: ignore[arg-type]
    with pytest.raises(type(error)) as caught:
        coroutine.send(None)
    assert caught.value is error
