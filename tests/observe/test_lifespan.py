"""Lifespan passes through, and records leave before it is over."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from streamtrace import Sink, StreamTraceMiddleware

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


class Flushed(Sink):
    """Notes when it was flushed, in the log it shares with the server."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def flush(self, timeout_s: float) -> bool:
        self.log.append("flush")
        return True


async def serve(app: Any, log: list[Any]) -> list[Any]:
    incoming = [STARTUP, SHUTDOWN]

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        log.append(message["type"])

    await StreamTraceMiddleware(app, sinks=[Flushed(log)])({"type": "lifespan"}, receive, send)
    return log


async def test_sinks_are_flushed_before_shutdown_is_complete() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    assert await serve(app, []) == [
        "lifespan.startup.complete",
        "flush",
        "lifespan.shutdown.complete",
    ]


async def test_sinks_are_flushed_before_a_shutdown_that_failed_is_reported() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the database is gone"})

    assert await serve(app, []) == [
        "lifespan.startup.complete",
        "flush",
        "lifespan.shutdown.failed",
    ]


async def test_an_app_without_lifespan_gets_a_stand_in_that_flushes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    assert await serve(app, []) == [
        "lifespan.startup.complete",
        "flush",
        "lifespan.shutdown.complete",
    ]


async def test_a_startup_that_fails_still_fails() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        await serve(app, [])


async def test_a_sink_that_hangs_costs_no_more_than_the_limit() -> None:
    release = asyncio.Event()

    hang = threading.Event()

    class Hanging(Sink):
        def flush(self, timeout_s: float) -> bool:
            return hang.wait(60)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        release.set()

    log: list[Any] = []
    middleware = StreamTraceMiddleware(app, sinks=[Hanging(), Flushed(log)], flush_timeout_s=0.05)
    await middleware.drain()
    assert log == ["flush"]
    hang.set()
