"""The agent that is observed: the same answers, whatever stands around it.

    POST /openai?tokens=N, /ag-ui?tokens=N    as fast as it can, without a yield to the loop
    POST /paced?tokens=N&rate=R               R tokens per second, one timer per stream
    POST /idle                                opens, and says nothing

The text of a paced token is the time at which it was due, in ns on the clock that all processes of
the machine share (`time.monotonic_ns`): who receives it knows how late it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from benchmarks import streams

Frames = AsyncIterator[bytes]
Respond = Callable[[Any, Frames], Awaitable[Response]]
"""Makes the response, of the request's JSON and the frames that answer it."""

_frames = lru_cache(lambda stream, tokens: streams.STREAMS[stream](tokens))
_FIRST, _TOKEN, *_END = streams.openai(1)
_BEFORE, _AFTER = _TOKEN.split(streams.WORDS[0].encode())


async def tight(frames: list[bytes]) -> Frames:
    """Never waits: the hardest case for whoever observes it."""
    for frame in frames:
        yield frame


async def paced(tokens: int, rate: float) -> Frames:
    """Each token at its time, counted from the start and not from the token before."""
    began_ns = time.monotonic_ns()
    yield _FIRST
    for number in range(1, tokens + 1):
        due_ns = began_ns + round(number * 1e9 / rate)
        await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
        yield b"%b %d%b" % (_BEFORE, due_ns, _AFTER)
    for frame in _END:
        yield frame


async def idle() -> Frames:
    """Until the client leaves."""
    await asyncio.Event().wait()
    yield b""


async def respond(asked: Any, frames: Frames) -> Response:
    """As most apps do."""
    return StreamingResponse(frames, media_type="text/event-stream")


def endpoints(respond: Respond) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """By path."""

    def of_stream(stream: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            tokens = int(request.query_params["tokens"])
            return await respond(await request.json(), tight(_frames(stream, tokens)))

        return answer

    async def answer_paced(request: Request) -> Response:
        tokens, rate = (float(request.query_params[name]) for name in ("tokens", "rate"))
        return await respond(await request.json(), paced(int(tokens), rate))

    async def answer_idle(request: Request) -> Response:
        return await respond(await request.json(), idle())

    return {
        **{f"/{stream}": of_stream(stream) for stream in streams.STREAMS},
        "/paced": answer_paced,
        "/idle": answer_idle,
    }


def starlette(respond: Respond = respond) -> Starlette:
    """The agent as a Starlette app."""
    return Starlette(
        routes=[
            Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints(respond).items()
        ]
    )


def fastapi(**options: Any) -> FastAPI:
    """The agent as a FastAPI app."""
    app = FastAPI(**options)
    for path, endpoint in endpoints(respond).items():
        app.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    return app
