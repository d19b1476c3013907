"""Apps that stream, for tests of the middleware."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from streamtrace import (
    Dialect,
)

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


class Odd(Dialect):
    """Says things that no dialect should say."""

    name = "odd"
    said: Any = ()

    def __init__(self, *said: Any) -> None:
        self.said = said

    def decode(self, frame: Any) -> Any:
        yield from self.said
