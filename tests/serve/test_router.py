"""One router, one agent, every vocabulary: each observed as what it is, and all drained at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from a2a.types import a2a_pb2 as pb
from support.talker import SECRET, Talker

from streamtrace import StreamTraceMiddleware
from streamtrace.serve import AgentRouter
from streamtrace.testing import Answer, RecordingSink, ask

CARD = pb.AgentCard(
    name="agent",
    description="d",
    version="1",
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    capabilities=pb.AgentCapabilities(streaming=True),
    supported_interfaces=[
        pb.AgentInterface(
            url="http://test/jsonrpc", protocol_binding="JSONRPC", protocol_version="1.0"
        )
    ],
)


def agui(word: str) -> dict[str, Any]:
    message = {"id": "m", "role": "user", "content": word}
    return {"threadId": "t", "runId": f"agui-{word}", "messages": [message]}


def a2a(word: str) -> dict[str, Any]:
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": word}], "contextId": "t"}
    asked = {"method": "SendStreamingMessage", "params": {"message": message}}
    return {"jsonrpc": "2.0", "id": 1, **asked}


def openai(word: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": word}]
    return {"model": "talker", "messages": messages, "stream": True, "thread_id": "t"}


def plain(word: str) -> dict[str, Any]:
    return {"message": word, "thread_id": "t"}


VOCABULARIES = [
    ("ag-ui", "/agui/v1/runs", agui),
    ("a2a", "/jsonrpc", a2a),
    ("agentflow", "/v1/graph/stream", plain),
    ("openai-chat", "/v1/chat/completions", openai),
    ("vercel-ui", "/chat", plain),
]
each = pytest.mark.parametrize(
    ("dialect", "path", "body"), [pytest.param(*one, id=one[0]) for one in VOCABULARIES]
)


def make(talker: Talker) -> AgentRouter:
    return (
        AgentRouter()
        .agui(talker)
        .a2a(talker, CARD, tell_tools=True)
        .agentflow(talker)
        .openai({"talker": talker})
        .stream("/chat", talker, "vercel-ui")
    )


async def answer_of(app: Any, path: str, body: Any) -> Answer:
    return await ask(app, path, json=body, headers={"A2A-Version": "1.0"})


@each
async def test_each_is_seen_as_what_it_is(dialect: str, path: str, body: Any) -> None:
    talker, sink = Talker(), RecordingSink()
    router = make(talker)
    app = StreamTraceMiddleware(router.app(), sinks=[sink])
    for word in ("hello", "weather", "crash"):
        answer = await answer_of(app, path, body(word))
        assert (answer.status, answer.error) == (200, None)
        assert SECRET.encode() not in answer.body
    records = await asyncio.to_thread(sink.wait, 3)
    await router.drain(0)
    hello, weather, _ = records
    assert {one.dialect for one in records} == {dialect}
    assert [one.status for one in records] == ["completed", "completed", "error"]
    assert hello.output.text == "Hello"
    assert hello.output.chars == 5
    calls = [] if dialect == "openai-chat" else ["get_weather"]
    assert [call.name for call in weather.tool_calls] == calls
    assert [run.thread_id for run in talker.runs] == ["t"] * 3
    assert [one.issues for one in records] == [{}] * 3


@each
async def test_each_ends_with_a_drain(dialect: str, path: str, body: Any) -> None:
    talker, sink = Talker(), RecordingSink()
    router = make(talker)
    app = StreamTraceMiddleware(router.app(), sinks=[sink])
    asked = asyncio.create_task(answer_of(app, path, body("wait")))
    await asyncio.wait_for(talker.waits.wait(), 5)
    draining = asyncio.create_task(router.drain(0.1))
    await asyncio.wait_for(talker.runs[0].draining.wait(), 5)
    refused = await answer_of(app, path, body("hello"))
    answer = await asked
    await draining
    [record] = await asyncio.to_thread(sink.wait, 1)
    assert (refused.status, "retry-after" in refused.headers) == (503, True)
    assert talker.cleaned.is_set()
    assert (talker.runs[0].cancel.reason, len(talker.runs)) == ("drained", 1)
    assert (answer.complete, record.status) == (True, "error")


@each
async def test_nothing_else_is_answered_there(dialect: str, path: str, body: Any) -> None:
    talker = Talker()
    app = make(talker).app()
    wrong = await ask(app, path, method="PUT", json=body("hello"))
    assert wrong.status == 405
    no_json = await ask(app, path, json=body("hello"), headers={"content-type": "text/plain"})
    assert no_json.status == 415
    assert json.loads(no_json.body)["error"]["message"].startswith("The body must be JSON")
    assert talker.runs == []
