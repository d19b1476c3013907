"""The client that reads and leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from streamtrace import StreamTraceMiddleware
from streamtrace.testing import RecordingSink, ask


async def chat(request: Request) -> Response:
    asked = await request.json()

    async def pieces() -> Any:
        for number in range(asked["tokens"]):
            yield f'data: {{"type":"token","content":"{number}"}}\n\n'
        if asked.get("raise"):
            raise ValueError("broken")
        if asked.get("wait"):
            await asyncio.Event().wait()
        if asked.get("cut"):
            return
        yield 'data: {"type":"done"}\n\n'

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def echo(request: Request) -> Response:
    return JSONResponse({"q": request.query_params["q"], "auth": request.headers["authorization"]})


app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/echo", echo)])


async def observed(**options: Any) -> tuple[Any, Any]:
    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    answer = await ask(middleware, "/chat", **options)
    await middleware.drain()
    return answer, sink.runs[0]


async def test_it_reads_to_the_end() -> None:
    answer, run = await observed(json={"tokens": 3})
    assert (answer.status, answer.complete, len(answer.chunks)) == (200, True, 4)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b'{"type":"done"}\n\n')
    assert run.status == "completed"


async def test_it_stays_until_the_final_body_is_sent() -> None:
    answer, run = await observed(json={"tokens": 3, "cut": True})
    assert (answer.complete, len(answer.chunks)) == (True, 3)
    assert run.status == "truncated"


@pytest.mark.parametrize("wait", [True, False])
async def test_it_leaves_and_the_app_hears_of_it(wait: bool) -> None:
    answer, run = await observed(json={"tokens": 1000, "wait": wait}, leave_after_chunks=2)
    assert (len(answer.chunks), answer.complete) == (2, False)
    assert run.status == "disconnected"


async def test_what_the_app_raises_is_told() -> None:
    answer, run = await observed(json={"tokens": 1, "raise": True})
    assert isinstance(answer.error, ValueError)
    assert not answer.complete
    assert run.status == "error"


async def test_an_app_that_never_ends_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        await ask(app, "/chat", json={"tokens": 0, "wait": True}, timeout_s=0.05)


async def test_path_query_and_headers_arrive() -> None:
    answer = await ask(app, "/echo?q=1", method="GET", headers={"Authorization": "x"})
    assert answer.body == b'{"q":"1","auth":"x"}'
