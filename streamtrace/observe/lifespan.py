"""The lifespan scope: passed through, and used to flush before the server goes.

A server asked to stop ends its process by the signal, after lifespan shutdown: exit handlers do not
run then. So this is where records leave. An app that does not speak lifespan (it raises before it
asks for a message) is left as it is, and its part of the conversation is held here instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from streamtrace.logs import WARNINGS
from streamtrace.observe.asgi_types import ASGIApp, Message, Receive, Scope, Send


async def run_lifespan(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, drain: Callable[[], Awaitable[None]]
) -> None:
    """Run the app's lifespan; `drain` before its shutdown is reported complete."""
    spoken = False

    async def heard_receive() -> Message:
        nonlocal spoken
        spoken = True
        return await receive()

    async def heard_send(message: Message) -> None:
        nonlocal spoken
        spoken = True
        if message.get("type") in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await _drained(drain)
        await send(message)

    try:
        await app(scope, heard_receive, heard_send)
    except Exception:
        if spoken:
            raise
        await _stand_in(receive, send, drain)


async def _stand_in(receive: Receive, send: Send, drain: Callable[[], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await _drained(drain)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _drained(drain: Callable[[], Awaitable[None]]) -> None:
    try:
        await drain()
    except Exception as error:
        WARNINGS.warn("drain", f"flushing at shutdown failed: {type(error).__name__}")
