"""An agent behind OpenAI's API, against OpenAI's clients, which must not notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from support.clients import run_client
from support.live import live
from support.talker import CALL, SECRET, Talker

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.serve import openai_api
from streamtrace.serve.auth import ApiKeyAuth, User
from streamtrace.serve.context import RunContext
from streamtrace.serve.openai_api import ChatCompletions
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import SORRY
from streamtrace.testing import RecordingSink, ask

PATH = "/v1/chat/completions"
KEY = "st-0123456789abcdef"
TOOL = {"type": "function", "function": {"name": "open_page", "parameters": {"type": "object"}}}


class Served:
    """An observed router, and a client that never asks twice."""

    def __init__(self, url: str, talker: Talker, router: AgentRouter, sink: RecordingSink) -> None:
        self.url = f"{url}/v1"
        self.talker = talker
        self.router = router
        self.sink = sink
        self.client = AsyncOpenAI(api_key=KEY, base_url=self.url)

    async def records(self, count: int = 1) -> list[RunSummary]:
        return await asyncio.to_thread(self.sink.wait, count)

    async def complete(self, word: str, **options: Any) -> Any:
        return await self.client.chat.completions.create(**asking(word), **options)

    async def chunks(self, word: str, **options: Any) -> list[Any]:
        stream = await self.complete(word, stream=True, **options)
        return [chunk async for chunk in stream]


def asking(word: str) -> dict[str, Any]:
    return {"model": "talker", "messages": [{"role": "user", "content": word}]}


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Served]:
    talker, sink = Talker(), RecordingSink()
    router = AgentRouter(**options).openai({"talker": talker, "org/other": Talker()})
    async with live(StreamTraceMiddleware(router.app(), sinks=[sink])) as url:
        served = Served(url, talker, router, sink)
        async with served.client:
            yield served


def together(chunks: list[Any]) -> Any:
    """What the client's own accumulator holds at the end."""
    state: Any = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(chunk)
    return state.get_final_completion()


# --- both ways ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("word", "text", "finish_reason", "tools"),
    [
        ("hello", "Hello", "stop", []),
        ("weather", "Let me look. It is sunny.", "stop", []),
        ("weather", "Let me look. It is sunny.", "stop", [TOOL]),
        ("silent_tool", "It is sunny.", "stop", [TOOL]),
        ("ask", "Which city?", "stop", []),
        ("offered", None, "tool_calls", [TOOL]),
        ("offered", "", "stop", []),
    ],
)
async def test_what_a_client_is_told(
    word: str, text: str | None, finish_reason: str, tools: list[Any], streams: bool
) -> None:
    offered = {"tools": tools} if tools else {}
    async with serving() as served:
        if streams:
            chunks = await served.chunks(word, **offered)
            assert all(chunk.choices for chunk in chunks)
            completion = together(chunks)
        else:
            completion = await served.complete(word, **offered)
    [choice] = completion.choices
    calls = [
        (call.id, call.function.name, call.function.arguments)
        for call in choice.message.tool_calls or ()
    ]
    assert (choice.message.content or None, choice.finish_reason) == (text or None, finish_reason)
    assert calls == ([(CALL, "open_page", '{"page":7}')] if finish_reason == "tool_calls" else [])
    assert completion.id == served.talker.runs[0].run_id
    assert completion.id.startswith("chatcmpl-")


def test_the_client_that_blocks():
    async def with_blocking_client() -> tuple[str, str, int]:
        def talk(url: str) -> tuple[str, str, int]:
            with OpenAI(api_key=KEY, base_url=url) as client:
                stream = client.chat.completions.create(**asking("hello"), stream=True)
                said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                whole = client.chat.completions.create(**asking("hello"))
                return said, whole.choices[0].message.content, whole.usage.total_tokens

        async with serving() as served:
            return await asyncio.to_thread(talk, served.url)

    assert asyncio.run(with_blocking_client()) == ("Hello", "Hello", 5)


async def test_usage_is_streamed_to_who_asks_for_it():
    async with serving() as served:
        without = await served.chunks("hello")
        having = await served.chunks("hello", stream_options={"include_usage": True})
        records = await served.records(2)
    assert [chunk.usage for chunk in without] == [None] * len(without)
    assert having[-1].choices == []
    assert having[-1].usage.total_tokens == 5
    assert [one.dialect for one in records] == ["openai-chat"] * 2
    assert [one.status for one in records] == ["completed"] * 2
    assert [one.output.text for one in records] == ["Hello"] * 2
    assert [one.usage and one.usage.output_tokens for one in records] == [None, 2]
    assert records[0].issues == {}


async def test_calls_that_are_left_to_the_client_are_seen_by_the_observer():
    async with serving() as served:
        await served.chunks("offered", tools=[TOOL])
        await served.chunks("weather", tools=[TOOL])
        records = await served.records(2)
    assert [[call.name for call in one.tool_calls] for one in records] == [["open_page"], []]


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "code", "message"),
    [("fail", "too_large", "Your file is too large."), ("crash", "internal_error", SORRY)],
)
async def test_errors_of_the_agent(word: str, code: str, message: str) -> None:
    async with serving() as served:
        with pytest.raises(openai.APIError) as streamed:
            await served.chunks(word)
        with pytest.raises(openai.InternalServerError) as whole:
            await served.complete(word)
        [record] = await served.records()
    assert (streamed.value.code, streamed.value.message) == (code, message)
    assert (whole.value.code, whole.value.body["message"]) == (code, message)
    assert SECRET not in str(whole.value)
    assert len(served.talker.runs) == 2  # nobody asked again
    assert (record.status, record.error and record.error.type) == ("error", code)


BAD: list[tuple[Any, str]] = [
    ({}, "model must be"),
    ([], "The body must be a JSON object."),
    ({**asking("hello"), "model": 7}, "model must be"),
    ({**asking("hello"), "messages": []}, "messages must be"),
    ({**asking("hello"), "messages": [{"content": SECRET}]}, "messages must be"),
    ({**asking("hello"), "messages": [SECRET]}, "messages must be"),
    ({**asking("hello"), "stream": "yes"}, "stream must be"),
    ({**asking("hello"), "stream": 1}, "stream must be"),
    ({**asking("hello"), "stream_options": {"include_usage": "x"}}, "stream_options must be"),
    ({**asking("hello"), "stream_options": []}, "stream_options must be"),
    ({**asking("hello"), "n": 2}, "n must be 1"),
    ({**asking("hello"), "thread_id": "a\nb"}, "visible ASCII"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
async def test_what_is_no_request(body: Any, message: str) -> None:
    talker = Talker()
    answer = await ask(AgentRouter().openai({"talker": talker}).app(), PATH, json=body)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]
    assert SECRET not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert talker.runs == []


@pytest.mark.parametrize(
    "body",
    [
        {**asking("hello"), "stream": None, "stream_options": None, "n": None},
        {**asking("hello"), "stream_options": {}, "n": 1, "tools": [SECRET, {"function": 1}]},
        {**asking("hello"), "temperature": 0.5, "user": "u", "tools": SECRET},
    ],
)
async def test_what_is_a_request(body: Any) -> None:
    answer = await ask(AgentRouter().openai({"talker": Talker()}).app(), PATH, json=body)
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "Hello"


async def test_doors():
    async with serving(auth=ApiKeyAuth({KEY: User("alice")})) as served:
        stranger = AsyncOpenAI(api_key="st-aaaaaaaaaaaaaaaa", base_url=served.url)
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.chat.completions.create(**asking("hello"))
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
        await stranger.close()
        with pytest.raises(openai.NotFoundError) as unknown:
            await served.client.chat.completions.create(**{**asking("hello"), "model": "gpt-5"})
        assert (await served.complete("hello")).choices[0].message.content == "Hello"
    assert refused.value.code == "invalid_api_key"
    assert unknown.value.code == "model_not_found"
    [run] = served.talker.runs
    assert (run.user, run.messages) == (User("alice"), asking("hello")["messages"])
    assert "authorization" not in run.headers


async def test_no_new_ones_while_the_server_drains():
    router = AgentRouter().openai({"talker": Talker()})
    await router.drain(0)
    answer = await ask(router.app(), PATH, json=asking("hello"))
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"], error["code"]) == (503, "server_error", "draining")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_whole_answer_that_a_drain_cuts_may_be_asked_for_again():
    talker = Talker()
    router = AgentRouter().openai({"talker": talker})
    asked = asyncio.create_task(ask(router.app(), PATH, json=asking("wait")))
    await asyncio.wait_for(talker.waits.wait(), 5)
    await router.drain(0)
    answer = await asked
    assert answer.status == 503
    assert "x-should-retry" not in answer.headers


async def test_a_whole_answer_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_api, "MAX_WHOLE_CHARS", 10)
    cleaned = asyncio.Event()

    async def endless(run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            while True:
                yield ev.TextDelta(text="more ")
        finally:
            cleaned.set()

    router = AgentRouter().openai({"talker": endless})
    answer = await ask(router.app(), PATH, json=asking("hello"))
    assert (answer.status, answer.headers["x-should-retry"]) == (500, "false")
    assert json.loads(answer.body)["error"]["code"] == "answer_too_long"
    assert cleaned.is_set()


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_leaves_stops_the_agent(streams: bool) -> None:
    async with serving() as served:
        asked = asyncio.create_task(served.chunks("wait") if streams else served.complete("wait"))
        await asyncio.wait_for(served.talker.waits.wait(), 5)
        asked.cancel()
        await asyncio.wait({asked})
        await asyncio.wait_for(served.talker.cleaned.wait(), 5)
    assert served.talker.runs[0].cancel.reason == "disconnected"


def test_there_must_be_an_agent():
    with pytest.raises(ConfigError, match="agents is empty"):
        ChatCompletions({})


# --- models, and JavaScript --------------------------------------------------------------------


async def test_models():
    async with serving() as served:
        listed = [model.id async for model in served.client.models.list()]
        one = await served.client.models.retrieve("org/other")
        with pytest.raises(openai.NotFoundError):
            await served.client.models.retrieve("gpt-5")
    assert listed == ["talker", "org/other"]
    assert (one.id, one.object) == ("org/other", "model")
    answer = await ask(served.router.app(), "/v1/models", json={})
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


async def test_the_client_in_javascript():
    steps = [
        {"say": "hello", "stream": True, "usage": True},
        {"say": "hello"},
        {"say": "weather", "stream": True, "tools": [TOOL]},
        {"say": "offered", "stream": True, "tools": [TOOL]},
        {"say": "fail", "stream": True},
        {"say": "fail"},
        {"say": "hello", "model": "gpt-5"},
        {"say": "wait", "stream": True, "abortAtText": True},
    ]
    async with serving(auth=ApiKeyAuth({KEY: User("alice")})) as served:
        told = await run_client("openai_app.mjs", served.url, KEY, json.dumps(steps))
        await asyncio.wait_for(served.talker.cleaned.wait(), 5)
    streamed, whole, weather, offered, failed, failed_whole, unknown, stopped = told["answers"]
    assert told["models"] == ["talker", "org/other"]
    assert (streamed["text"], streamed["completion"]["usage"]["total_tokens"]) == ("Hello", 5)
    assert whole["completion"]["choices"][0]["message"]["content"] == "Hello"
    [choice] = weather["completion"]["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "Let me look. It is sunny."
    assert not choice["message"].get("tool_calls")
    [call] = offered["completion"]["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("open_page", '{"page":7}')
    assert (failed["text"], failed["error"]["message"]) == ("Hel", "Your file is too large.")
    assert (failed_whole["error"]["status"], failed_whole["error"]["code"]) == (500, "too_large")
    assert (unknown["error"]["name"], unknown["error"]["status"]) == ("NotFoundError", 404)
    assert (stopped["text"], stopped["error"]["name"]) == ("Hel", "APIUserAbortError")
    assert len(served.talker.runs) == 7  # nobody asked again
