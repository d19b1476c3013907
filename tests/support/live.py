"""A real server on the test's own loop, for clients that want a URL.

    async with live(app) as url: ...

The server is uvicorn on a free loopback port; it has ended when the block has.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from streamtrace.core.events import Event
from streamtrace.core.frames import encode_frame
from streamtrace.dialects.base import Dialect, Envelope


class _Server(uvicorn.Server):
    """One that says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.has_started.set()


@asynccontextmanager
async def live(app: Any, **config: Any) -> AsyncIterator[str]:
    """Serve `app`; yields its base URL, without a slash at the end. `config` is uvicorn's."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = {"log_level": "warning", "timeout_graceful_shutdown": 1, **config}
    server = _Server(uvicorn.Config(app, **config))
    serving = asyncio.create_task(server.serve([listener]))
    has_started = asyncio.create_task(server.has_started.wait())
    try:
        await asyncio.wait({serving, has_started}, return_when=asyncio.FIRST_COMPLETED)
        if not has_started.done():
            await serving
            raise AssertionError("the server ended before it started")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        has_started.cancel()
        server.should_exit = True
        await serving
        listener.close()


def speaking(
    dialect: Dialect,
    events: Iterable[Event] | Callable[[Any], Iterable[Event]],
    *,
    envelope: Envelope | Callable[[Any], Envelope] = Envelope(),  # noqa: B008
    headers: Mapping[str, str] | None = None,
) -> Starlette:
    """An app that answers every POST and GET with these events, written in that dialect.

    What depends on the request is given as a function of its JSON body (`None` without one).
    """

    async def answer(request: Request) -> Response:
        body = await request.body()
        asked = await request.json() if body else None
        encoder = dialect.encoder(envelope(asked) if callable(envelope) else envelope)
        told = events(asked) if callable(events) else events

        async def chunks() -> AsyncIterator[bytes]:
            for event in told:
                for frame in encoder.encode(event):
                    yield encode_frame(frame)
            for frame in encoder.close():
                yield encode_frame(frame)

        return StreamingResponse(
            chunks(), media_type=dialect.media_types[0], headers=dict(headers or {})
        )

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
