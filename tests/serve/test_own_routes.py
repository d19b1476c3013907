"""Agents behind routes of an app of one's own: what goes wrong before the stream is an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.routing import Route
from support.talker import Talker

from streamtrace.core.errors import Refusal
from streamtrace.serve import EventStream, RunContext, Runs, Settings, begin, context_of, refused
from streamtrace.testing import Answer, ask

Door = Callable[[Runs], Any]


def route_of(runs: Runs) -> Callable[[Request], Awaitable[EventStream]]:
    async def chat(request: Request) -> EventStream:
        context = context_of(
            await request.json(),
            headers=request.headers,
            path_params=request.path_params,
            user=None,
        )
        return EventStream(begin(runs, Talker(), context, Settings()), "generic")

    return chat


def by_fastapi(runs: Runs) -> Any:
    app = FastAPI(exception_handlers={Refusal: refused})
    app.post("/{thread_id:path}")(route_of(runs))
    return app


def by_starlette(runs: Runs) -> Any:
    routes = [Route("/{thread_id:path}", route_of(runs), methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={Refusal: refused})


frameworks = pytest.mark.parametrize("app_of", [by_fastapi, by_starlette])


def error_of(answer: Answer) -> bytes:
    assert answer.error is None
    return answer.body


@frameworks
async def test_a_run_is_streamed(app_of: Door) -> None:
    answer = await ask(app_of(Runs()), "/t-1", json={"text": "hello"})
    assert (answer.status, answer.headers["x-thread-id"]) == (200, "t-1")
    assert b'{"type":"token","content":"Hel"}' in answer.body


@frameworks
@pytest.mark.parametrize("thread_id", ["t\rset-cookie: a=b", "t 1", "é", "t" * 300])
async def test_an_id_that_could_not_stand_in_a_header_is_refused(
    app_of: Door, thread_id: str
) -> None:
    runs = Runs()
    answer = await ask(app_of(runs), f"/{thread_id}", json={"text": "hello"})
    assert answer.status == 400
    assert b'"invalid_id"' in error_of(answer)
    assert runs.active == ()


@frameworks
async def test_a_server_that_drains_says_when_to_come_again(app_of: Door) -> None:
    runs = Runs()
    await runs.drain(0)
    answer = await ask(app_of(runs), "/t-1", json={"text": "hello"})
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert b'"draining"' in error_of(answer)


@pytest.mark.parametrize("name", ["run_id", "thread_id"])
async def test_no_run_is_started_with_an_id_that_is_none(name: str) -> None:
    """Whoever made the context: its ids go into headers."""
    ids = {"run_id": "r", "thread_id": "t", name: "a\r\nb: c"}
    runs = Runs()
    with pytest.raises(Refusal, match="visible ASCII"):
        runs.start(Talker(), RunContext(message_id="m", **ids), Settings())
    assert runs.active == ()
