"""Clients that people have, against an agent of ours: the chat of `ai`, Anthropic's, and httpx-sse.

Those of AG-UI, A2A, AgentFlow, OpenAI and the browser are in the tests of their vocabulary.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import pytest
from httpx_sse import SSEError, aconnect_sse
from support.clients import run_client
from support.live import live
from support.talker import Talker

from streamtrace import StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.serve.auth import ApiKeyAuth, User
from streamtrace.serve.context import RunContext
from streamtrace.serve.response import Delivery
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import SORRY
from streamtrace.serve.wire import PING
from streamtrace.testing import RecordingSink

KEY = "st-0123456789abcdef"
DOOR = ApiKeyAuth({KEY: User("alice")})


@asynccontextmanager
async def serving(path: str, dialect: str) -> AsyncIterator[tuple[str, Talker, RecordingSink]]:
    talker, sink = Talker(), RecordingSink()
    app = AgentRouter(auth=DOOR).stream(path, talker, dialect).app()
    async with live(StreamTraceMiddleware(app, sinks=[sink])) as url:
        yield url, talker, sink


# --- the Vercel AI SDK -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6", "7"])
async def test_the_chat_of_ai(version: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    steps = [
        {"say": "hello", "headers": headers},
        {"say": "weather", "headers": headers},
        {"say": "offered", "headers": headers, "fresh": True},
        {"say": "fail", "headers": headers, "fresh": True},
        {"say": "crash", "headers": headers, "fresh": True},
        {"say": "hello", "fresh": True},
        {"say": "wait", "headers": headers, "fresh": True, "stopAtText": "Hel"},
        {"say": "hello", "headers": headers},
    ]
    async with serving("/chat", "vercel-ui") as (url, talker, sink):
        told = await run_client("ai_app.mjs", version, f"{url}/chat", json.dumps(steps))
        await asyncio.wait_for(talker.cleaned.wait(), 5)
        records = await asyncio.to_thread(sink.wait, 7)
    hello, weather, offered, fail, crash, refused, stopped, again = told
    assert (hello["text"], hello["role"], hello["status"]) == ("Hello", "assistant", "ready")
    assert weather["text"] == "Let me look. It is sunny."
    [call] = [one for one in weather["parts"] if one["type"] == "tool-get_weather"]
    assert (call["state"], call["input"], call["output"]) == (
        "output-available",
        {"city": "Tokyo"},
        "sunny",
    )
    [call] = [one for one in offered["parts"] if one["type"] == "tool-open_page"]
    assert (call["state"], call["input"]) == ("input-available", {"page": 7})
    assert (fail["text"], fail["status"]) == ("Hel", "error")
    assert (fail["error"], crash["error"]) == ("Your file is too large.", SORRY)
    assert refused["status"] == "error"
    assert json.loads(refused["error"])["error"]["type"] == "unauthenticated"
    assert (stopped["text"], stopped["isAbort"], stopped["status"]) == ("Hel", True, "ready")
    assert (again["text"], again["status"]) == ("Hello", "ready")
    assert not any(one["isDisconnect"] for one in told)

    assert [run.cancel.reason for run in talker.runs] == [None] * 5 + ["disconnected", None]
    assert [run.thread_id for run in talker.runs[:3]] == ["chat-0", "chat-0", "chat-2"]
    assert [len(run.messages) for run in talker.runs[:3]] == [1, 3, 1]  # what was said comes along
    assert [one.status for one in records] == [
        "completed", "completed", "input_required", "error", "error", "disconnected", "completed",
    ]  # fmt: skip
    assert {one.dialect for one in records} == {"vercel-ui"}


# --- Anthropic ---------------------------------------------------------------------------------

LOOKED_UP = [
    ("text", "Let me look. "),
    ("tool_use", {"city": "Tokyo"}),
    ("mcp_tool_result", "sunny"),
    ("text", "It is sunny."),
]


def blocks(message: Any) -> list[tuple[str, Any]]:
    """Kind and content of each block."""
    return [
        (one["type"], next(one[key] for key in ("text", "input", "content") if key in one))
        for one in message["content"]
    ]


async def test_anthropics_client_for_javascript() -> None:
    steps = [{"say": word} for word in ("hello", "weather", "offered", "fail", "crash")]
    stop = {"say": "wait", "abortAtText": True}
    async with serving("/v1/messages", "anthropic") as (url, talker, sink):
        told = await run_client("anthropic_app.mjs", url, KEY, json.dumps([*steps, stop]))
        await asyncio.wait_for(talker.cleaned.wait(), 5)
        [refused] = await run_client("anthropic_app.mjs", url, "st-wrong", json.dumps(steps[:1]))
        records = await asyncio.to_thread(sink.wait, 6)
    hello, weather, offered, fail, crash, stopped = told
    assert (hello["text"], blocks(hello["message"])) == ("Hello", [("text", "Hello")])
    assert hello["message"]["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert hello["message"]["id"] == talker.runs[0].run_id
    assert blocks(weather["message"]) == LOOKED_UP
    assert blocks(offered["message"]) == [("tool_use", {"page": 7})]
    assert offered["message"]["stop_reason"] == "tool_use"
    assert (fail["text"], fail["error"]["type"]) == ("Hel", "too_large")
    assert "Your file is too large." in fail["error"]["message"]
    assert (crash["error"]["type"], SORRY in crash["error"]["message"]) == ("internal_error", True)
    assert (stopped["text"], stopped["error"]["name"]) == ("Hel", "APIUserAbortError")
    assert (refused["error"]["name"], refused["error"]["status"]) == ("AuthenticationError", 401)
    assert (talker.runs[-1].cancel.reason, len(talker.runs)) == ("disconnected", 6)
    assert {one.dialect for one in records} == {"anthropic"}
    assert [one.status for one in records[3:]] == ["error", "error", "disconnected"]


async def test_anthropics_client_for_python() -> None:
    async with serving("/v1/messages", "anthropic") as (url, talker, _):

        async def say(word: str, token: str = KEY, leave: bool = False) -> Any:
            async with (
                anthropic.AsyncAnthropic(auth_token=token, base_url=url, max_retries=0) as client,
                client.messages.stream(
                    model="talker", max_tokens=9, messages=[{"role": "user", "content": word}]
                ) as stream,
            ):
                async for text in stream.text_stream:
                    if leave:
                        return text
                snapshot = await stream.get_final_message()
                return snapshot.to_dict(mode="json", warnings=False)

        assert blocks(await say("hello")) == [("text", "Hello")]
        assert blocks(await say("weather")) == LOOKED_UP
        with pytest.raises(anthropic.APIStatusError, match=r"Your file is too large\."):
            await say("fail")
        with pytest.raises(anthropic.APIStatusError, match=SORRY):
            await say("crash")
        with pytest.raises(anthropic.AuthenticationError):
            await say("hello", token="st-wrong")
        assert await say("wait", leave=True) == "Hel"
        await asyncio.wait_for(talker.cleaned.wait(), 5)
    assert [run.cancel.reason for run in talker.runs] == [None] * 4 + ["disconnected"]


# --- httpx-sse ---------------------------------------------------------------------------------


async def test_httpx_sse_reads_every_event_and_no_heartbeat() -> None:
    """The agent waits until a ping was sent before each of its words."""
    pinged = asyncio.Event()

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        for word in ("Hel", "lo"):
            pinged.clear()
            await pinged.wait()
            yield ev.TextDelta(text=word, message_id="m")

    app = AgentRouter(delivery=Delivery(heartbeat_s=0.02)).stream("/chat", agent, "cognis").app()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def forward(message: Any) -> None:
            await send(message)
            if message.get("body") == PING:
                pinged.set()

        await app(scope, receive, forward)

    async with (
        live(watched) as url,
        httpx.AsyncClient() as client,
        aconnect_sse(client, "POST", f"{url}/chat", json={}) as source,
    ):
        events = [event async for event in source.aiter_sse()]
    assert [event.data for event in events if event.event == "token"] == ["Hel", "lo"]
    assert (events[-1].event, all(event.data for event in events)) == ("done", True)


async def test_httpx_sse_is_told_of_a_refusal() -> None:
    async with (
        serving("/chat", "cognis") as (url, _, _),
        httpx.AsyncClient() as client,
        aconnect_sse(client, "POST", f"{url}/chat", json={}) as source,
    ):
        assert source.response.status_code == 401
        with pytest.raises(SSEError, match="application/json"):
            await anext(source.aiter_sse())
