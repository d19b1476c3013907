"""Whatever a dialect, a price, a sink or we ourselves get wrong: one record, same stream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.apps import DONE, Odd
from support.asgi import STREAM_HEADERS, Server, body, http_scope, settle, start

from streamtrace import (
    Dialect,
    GenerationStarted,
    RunFailed,
    Sink,
    StreamTraceMiddleware,
    TextDelta,
    Usage,
)
from streamtrace.dialects.base import Fit
from streamtrace.observe.cost import Pricing
from streamtrace.observe.pipeline import Pipeline
from streamtrace.testing import RecordingSink


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
