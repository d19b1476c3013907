"""An agent behind a path and behind a WebSocket: the head, the stream, pings, stop, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import websockets
from starlette.applications import Starlette
from support.asgi import Server, http_scope, until
from support.clients import run_client
from support.live import live

from streamtrace.core import events as ev
from streamtrace.core.errors import EncodeError
from streamtrace.serve.auth import User
from streamtrace.serve.context import RunContext
from streamtrace.serve.endpoint import Door, Endpoint
from streamtrace.serve.response import Delivery, EventStream, deliver
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Runs
from streamtrace.serve.wire import PING
from streamtrace.testing import ask

HELLO = ev.TextDelta(text="hello", message_id="m")
PINGING = Delivery(heartbeat_s=0.02)


async def hello(run: RunContext) -> AsyncIterator[ev.Event]:
    yield HELLO


async def forever(run: RunContext) -> AsyncIterator[ev.Event]:
    yield HELLO
    await asyncio.Event().wait()


def data_of(body: bytes) -> list[Any]:
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


# --- the stream --------------------------------------------------------------------------------


async def test_the_head_is_right_for_every_proxy() -> None:
    answer = await ask(Endpoint(hello, "ag-ui"), "/", json={"threadId": "t1", "runId": "r1"})
    assert answer.status == 200
    assert answer.complete
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-run-id"] == "r1"
    assert answer.headers["x-thread-id"] == "t1"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not {"content-length", "content-encoding"} & set(answer.headers)
    kinds = [one["type"] for one in data_of(answer.body)]
    assert kinds[0] == "RUN_STARTED"
    assert kinds[-1] == "RUN_FINISHED"


async def test_the_first_event_leaves_before_the_agent_says_anything() -> None:
    go_on = asyncio.Event()

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        await go_on.wait()
        yield HELLO

    server = Server(b"{}")
    scope = http_scope(headers=[(b"content-type", b"application/json")])
    serving = asyncio.create_task(server.run(Endpoint(agent, "ag-ui"), scope))
    await until(lambda: len(server.sent) >= 2)
    assert b"RUN_STARTED" in server.sent[1]["body"]
    go_on.set()
    await serving
    assert server.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    ("path", "headers", "body", "thread_id"),
    [
        ("/a/path", {"x-thread-id": "header"}, {"thread_id": "body"}, "header"),
        ("/a/path", {}, {"thread_id": "body"}, "path"),
        ("/a", {}, {"thread_id": "body"}, "body"),
        ("/a", {}, {"threadId": "body"}, "body"),
        ("/a", {}, {"config": {"thread_id": "config"}}, "config"),
    ],
)
async def test_the_thread_comes_from_header_path_or_body(
    path: str, headers: dict[str, str], body: Any, thread_id: str
) -> None:
    seen: list[RunContext] = []

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        seen.append(run)
        yield HELLO

    router = AgentRouter().stream("/a", agent).stream("/a/{thread_id}", agent)
    secret = {"authorization": "Bearer secret", "cookie": "secret"}
    answer = await ask(router.app(), path, json=body, headers=headers | secret)
    assert answer.headers["x-thread-id"] == thread_id
    assert seen[0].thread_id == thread_id
    assert "secret" not in str(dict(seen[0].headers))


@pytest.mark.parametrize("bad", ["", "a b", "x\r\nset-cookie: a=b", "é", 7, ["a"], "x" * 5000])
async def test_ids_that_are_none_are_refused(bad: Any) -> None:
    runs = Runs()
    for key in ("run_id", "thread_id"):
        answer = await ask(Endpoint(hello, runs=runs), "/", json={key: bad})
        assert answer.status == 400
    assert runs.active == ()


async def test_the_summary_is_there_after_the_stream() -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield HELLO
        yield ev.Usage(input_tokens=3, output_tokens=2)

    run = Runs().start(agent, RunContext(run_id="r", thread_id="t", message_id="m"), Settings())
    stream = EventStream(run, "ag-ui")
    await ask(stream, "/")
    summary = await stream.summary()
    assert summary.status == "completed"
    assert summary.run_id == "r"


# --- pings -------------------------------------------------------------------------------------


async def pausing(run: RunContext) -> AsyncIterator[ev.Event]:
    yield ev.MessageStarted(message_id="m", role="assistant")
    for word in ("hello", " ", "world"):
        await asyncio.sleep(0.1)  # several pings long
        yield ev.TextDelta(text=word, message_id="m")
    yield ev.MessageFinished(message_id="m")


async def test_pings_come_between_frames_and_never_after_the_end() -> None:
    answer = await ask(Endpoint(pausing, "ag-ui", delivery=PINGING), "/", json={})
    pings = [at for at, chunk in enumerate(answer.chunks) if chunk == PING]
    assert len(pings) >= 3
    assert pings[-1] < len(answer.chunks) - 1
    for chunk in answer.chunks:
        assert chunk == PING or (PING not in chunk and chunk.endswith(b"\n\n"))
    busy = await ask(Endpoint(hello, "ag-ui", delivery=Delivery(heartbeat_s=None)), "/", json={})
    assert PING not in busy.body


async def test_openai_reads_a_stream_with_pings() -> None:
    router = AgentRouter(delivery=PINGING).stream("/v1/chat/completions", pausing, "openai-chat")
    async with live(router.app()) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x")
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        said = [one.choices[0].delta.content async for one in stream if one.choices]
        await client.close()
    assert "".join(word for word in said if word) == "hello world"


async def test_event_source_reads_a_stream_with_pings() -> None:
    router = AgentRouter(delivery=PINGING).stream("/chat", pausing, "cognis", allow_get=True)
    async with live(router.app()) as url:
        told = await run_client("eventsource.mjs", f"{url}/chat", "token", "done")
    assert [name for name, _ in told] == ["token"] * 3 + ["done"]


# --- ways out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_send_that_fails_leaves_no_run(at: int) -> None:
    runs = Runs()
    server = Server(b"{}", send_error_at=at)
    scope = http_scope(headers=[(b"content-type", b"application/json")])
    await server.run(Endpoint(forever, "ag-ui", runs=runs, delivery=PINGING), scope)
    await until(lambda: not runs.active)


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_that_is_cancelled_anywhere_leaves_no_run(turns: int) -> None:
    runs = Runs()
    scope = http_scope(headers=[(b"content-type", b"application/json")])
    serving = asyncio.create_task(Server(b"{}").run(Endpoint(forever, runs=runs), scope))
    for _ in range(turns):
        await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await until(lambda: not runs.active)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("turns", range(8))
async def test_a_client_that_leaves_anywhere_leaves_no_run(turns: int) -> None:
    runs, server = Runs(), Server(b"{}")
    scope = http_scope(headers=[(b"content-type", b"application/json")])
    serving = asyncio.create_task(server.run(Endpoint(forever, runs=runs), scope))
    for _ in range(turns):
        await asyncio.sleep(0)
    server.gone.set()
    await serving
    await until(lambda: not runs.active)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_client_that_reads_no_more_is_given_up() -> None:
    runs = Runs()
    delivery = Delivery(send_timeout_s=0.05)

    async def send(message: Any) -> None:
        if message.get("body"):
            await asyncio.Event().wait()

    scope = http_scope(headers=[(b"content-type", b"application/json")])
    endpoint = Endpoint(forever, runs=runs, delivery=delivery)
    await endpoint(scope, Server(b"{}").receive, send)
    await until(lambda: not runs.active)


async def test_an_encoder_that_fails_ends_the_run() -> None:
    class Broken:
        async def open(self) -> None:
            raise EncodeError("no")

    run = Runs().start(
        forever, RunContext(run_id="r", thread_id="t", message_id="m"), Settings(max_events=1)
    )
    with pytest.raises(EncodeError):
        await deliver(run, Broken, asyncio.Event().wait, Delivery())  # type: ignore[arg-type]
    assert (await run.finished).run_id == "r"


# --- stop and refusals ---------------------------------------------------------------------------


def user_of(request: Any) -> User | None:
    name = request.headers.get("x-user")
    return None if name is None else User(name)


async def test_stop_is_idempotent_and_only_for_whose_run_it_is() -> None:
    router = AgentRouter(auth=user_of).stream("/chat", forever)
    app = router.app()
    mine, other = {"x-user": "me"}, {"x-user": "you"}
    asking = asyncio.create_task(ask(app, "/chat", json={"runId": "r1"}, headers=mine))
    await until(lambda: bool(router.runs.active))
    assert (await ask(app, "/chat/r1/stop", headers=other)).status == 404
    assert (await ask(app, "/chat/none/stop", headers=mine)).status == 404
    assert (await ask(app, "/chat/r1/stop")).status == 401
    first, second = await asyncio.gather(
        *(ask(app, "/chat/r1/stop", headers=mine) for _ in range(2))
    )
    assert json.loads(first.body) == {"run_id": "r1", "stopped": True}
    assert json.loads(second.body) == {"run_id": "r1", "stopped": False}
    assert (await asking).complete


async def test_refusals() -> None:
    runs = Runs()
    app = Endpoint(forever, ["ag-ui", "cognis"], runs=runs, door=Door(max_body_bytes=100))
    assert (await ask(app, "/", method="GET")).status == 405
    assert (await ask(app, "/?dialect=nope", json={})).status == 400
    assert (await ask(app, "/", json={"x": "y" * 200})).status == 413
    await runs.drain(0)
    answer = await ask(app, "/", json={})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert runs.active == ()


# --- WebSockets ----------------------------------------------------------------------------------


async def test_a_websocket_serves_runs_one_after_the_other() -> None:
    router = AgentRouter(delivery=PINGING).websocket("/ws", forever)
    app: Starlette = router.app()
    async with live(app) as url, websockets.connect(f"{url.replace('http', 'ws')}/ws") as socket:

        async def until_type(*kinds: str) -> Any:
            async for text in socket:
                value = json.loads(text)
                if value["type"] in kinds:
                    return value
            raise AssertionError("closed")

        for number in range(2):
            await socket.send(json.dumps({"runId": f"r{number}"}))
            await until_type("TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CHUNK")
            await until_type("ping")
            await socket.send(json.dumps({"input": "another"}))
            assert (await until_type("error"))["error"]["type"] == "busy"
            await socket.send("no json")
            assert (await until_type("error"))["error"]["type"] == "malformed_json"
            await socket.send('{"type": "stop"}')
            await until_type("RUN_ERROR", "RUN_FINISHED", "CUSTOM")
            await until(lambda: not router.runs.active)
        await socket.send("{}")
        await until_type("RUN_STARTED")
        await socket.close()
        await until(lambda: not router.runs.active)
