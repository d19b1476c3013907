"""Every way a stream can end maps to exactly one status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.asgi import Server, body, http_scope, start, until

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.testing import RecordingSink

TOKEN = b'data: {"type":"token","content":"hi"}\n\n'
DONE = b'data: {"type":"done"}\n\n'
ERROR = b'data: {"type":"error","message":"secret","code":"overloaded"}\n\n'
PLAIN = b"data: whatever\n\n"

App = Callable[[Any, Any, Any], Awaitable[None]]


def script(*steps: Any) -> App:
    """An app that sends each message, calls each callable, and raises each exception."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if callable(step):
                await step(receive)
            else:
                await send(step)

    return app


async def observe(app: App, server: Server | None = None) -> RunSummary:
    """The one record of one request."""
    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with contextlib.suppress(BaseException):
        await (server or Server()).run(middleware)
    await middleware.drain()
    assert len(sink.started) == 1
    [run] = sink.runs
    return run


async def read_request(receive: Any) -> None:
    await receive()


CASES: dict[str, tuple[tuple[Any, ...], str]] = {
    "final body after the terminal event": (
        (start(), body(TOKEN), body(DONE), body(more=False)),
        "completed",
    ),
    "final body without it": ((start(), body(TOKEN), body(more=False)), "truncated"),
    "unknown dialect, final body": ((start(), body(PLAIN), body(more=False)), "completed"),
    "empty stream": ((start(), body(more=False)), "completed"),
    "return without a final body": ((start(), body(TOKEN)), "truncated"),
    "return after the terminal event, no final body": (
        (start(), body(TOKEN), body(DONE)),
        "completed",
    ),
    "in-band error": ((start(), body(TOKEN), body(ERROR), body(more=False)), "error"),
    "in-band error, then an exception": ((start(), body(ERROR), ValueError("x")), "error"),
    "exception": ((start(), body(TOKEN), ValueError("x")), "error"),
    "exception after the terminal event": ((start(), body(DONE), ValueError("x")), "error"),
    "timeout": ((start(), body(TOKEN), TimeoutError()), "timeout"),
    "cancel": ((start(), body(TOKEN), asyncio.CancelledError()), "cancelled"),
    "interpreter asked to exit": ((start(), body(TOKEN), KeyboardInterrupt()), "drained"),
    "exception group of one": ((start(), ExceptionGroup("g", [TimeoutError()])), "timeout"),
    "exception after the final body": (
        (start(), body(DONE), body(more=False), ValueError("x")),
        "completed",
    ),
    "HTTP error with a stream": ((start(503), body(PLAIN), body(more=False)), "error"),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_end_decides(name: str) -> None:
    steps, status = CASES[name]
    assert (await observe(script(*steps))).status == status


async def test_a_send_that_fails_is_a_client_that_left() -> None:
    run = await observe(
        script(start(), body(TOKEN), body(TOKEN), body(DONE), body(more=False)),
        Server(send_error_at=2),
    )
    assert run.status == "disconnected"
    assert run.error is None


async def test_a_disconnect_before_the_final_body_is_a_client_that_left() -> None:
    server = Server()
    server.gone.set()
    run = await observe(
        script(read_request, start(), body(TOKEN), read_request, body(TOKEN)), server
    )
    assert run.status == "disconnected"


async def test_a_disconnect_counts_even_if_the_app_goes_on_to_send() -> None:
    server = Server()
    server.gone.set()
    run = await observe(
        script(read_request, start(), body(TOKEN), read_request, body(TOKEN), body(more=False)),
        server,
    )
    assert run.status == "disconnected"


async def test_an_exception_that_a_departure_caused_is_still_a_departure() -> None:
    server = Server()
    server.gone.set()
    run = await observe(
        script(read_request, start(), body(TOKEN), read_request, ValueError("gone")), server
    )
    assert run.status == "disconnected"


async def test_a_late_disconnect_is_how_every_connection_ends() -> None:
    server = Server()
    server.gone.set()
    run = await observe(
        script(read_request, start(), body(DONE), body(more=False), read_request), server
    )
    assert run.status == "completed"


async def test_a_client_may_leave_once_it_has_the_terminal_event() -> None:
    server = Server()
    server.gone.set()
    run = await observe(
        script(read_request, start(), body(TOKEN), body(DONE), read_request), server
    )
    assert run.status == "completed"


async def test_input_required_is_told_by_the_stream() -> None:
    frames = (
        b'data: {"type":"RUN_STARTED","threadId":"t","runId":"r"}\n\n'
        b'data: {"type":"RUN_FINISHED","threadId":"t","runId":"r","outcome":'
        b'{"type":"interrupt","interrupts":[{"id":"i","reason":"confirmation"}]}}\n\n'
    )
    run = await observe(script(start(), body(frames), body(more=False)))
    assert run.status == "input_required"
    assert run.dialect == "ag-ui"


async def test_streams_open_at_shutdown_are_drained() -> None:
    sink = RecordingSink()
    waiting, streaming = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(TOKEN))
        streaming.set()
        await waiting.wait()

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    task = asyncio.create_task(Server().run(middleware))
    await streaming.wait()
    await middleware.drain()
    assert [run.status for run in sink.runs] == ["drained"]
    waiting.set()
    await task
    await middleware.drain()
    assert len(sink.runs) == 1


async def test_a_stream_that_goes_on_after_it_was_drained_holds_no_memory() -> None:
    go_on, streaming = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        streaming.set()
        await go_on.wait()
        for _ in range(100):
            await send(body(TOKEN))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app)
    task = asyncio.create_task(Server().run(middleware))
    await streaming.wait()
    await middleware.drain()
    budget = middleware._pumps.current().budget
    free_bytes = budget.free_bytes
    go_on.set()
    await task
    await until(lambda: budget.free_bytes == free_bytes)


async def test_the_error_type_is_kept_and_the_text_is_content() -> None:
    run = await observe(script(start(), body(ERROR), body(more=False)))
    assert run.error is not None
    assert run.error.type == "overloaded"
    assert run.error.message.text == "secret"


async def test_a_lost_chunk_makes_a_missing_terminal_event_prove_nothing() -> None:
    sink = RecordingSink()
    large = b"data: " + b"x" * 2000 + b"\n\n"
    middleware = StreamTraceMiddleware(
        script(start(), body(TOKEN), body(large), body(more=False)),
        sinks=[sink],
        max_tap_bytes=500,
    )
    await Server().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert run.status == "completed"
    assert (run.lost_chunks, run.lost_bytes) == (1, len(large))
    assert run.body_bytes == len(TOKEN) + len(large)


async def test_a_websocket_ends_by_close_disconnect_or_exception() -> None:
    accept = {"type": "websocket.accept"}
    token = {"type": "websocket.send", "text": '{"type":"token","content":"a"}'}
    done = {"type": "websocket.send", "bytes": b'{"type":"done"}'}
    close = {"type": "websocket.close", "code": 1000}
    gone = {"type": "websocket.disconnect", "code": 1001}
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((accept, token, done, close), "completed"),
        ((accept, token, close), "truncated"),
        ((accept, token, read_request), "disconnected"),
        ((accept, token, done, read_request), "completed"),
        ((accept, token, ValueError("x")), "error"),
    ]
    for steps, status in cases:
        sink = RecordingSink()
        middleware = StreamTraceMiddleware(script(*steps), sinks=[sink])
        server = Server(incoming=[gone])
        try:
            await server.run(middleware, {**http_scope(), "type": "websocket"})
        except ValueError:
            assert status == "error"
        await middleware.drain()
        [run] = sink.runs
        assert (run.status, run.transport) == (status, "websocket")
        assert [generation.text.text for generation in run.generations] == ["a"]
