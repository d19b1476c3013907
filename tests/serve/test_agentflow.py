"""AgentFlow's API: streams and stops by thread, as far as its users may have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from support.clients import run_client
from support.live import live
from support.talker import SECRET, Talker
from support.wire import frames_of

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.serve import agentflow
from streamtrace.serve.agentflow import GraphStream
from streamtrace.serve.auth import ApiKeyAuth, User
from streamtrace.serve.context import RunContext
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import SORRY, Limits, Settings
from streamtrace.testing import RecordingSink, ask

STREAM, STOP = "/v1/graph/stream", "/v1/graph/stop"
KEYS = {"st-alice-0123456789": User("alice"), "st-bob-0123456789ab": User("bob")}
ALICE, BOB = ({"Authorization": f"Bearer {key}"} for key in KEYS)


def say(word: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": word}], "config": {"thread_id": "t"}, **more}


def told(body: bytes) -> list[tuple[str | None, Any]]:
    return [(frame.event, frame.json()) for frame in frames_of(body)]


class Served:
    """An observed router."""

    def __init__(self, url: str, talker: Talker, router: AgentRouter, sink: RecordingSink) -> None:
        self.url = url
        self.talker = talker
        self.router = router
        self.sink = sink

    async def records(self, count: int = 1) -> list[RunSummary]:
        return await asyncio.to_thread(self.sink.wait, count)


@asynccontextmanager
async def serving(*, allow_get: bool = False, **options: Any) -> AsyncIterator[Served]:
    talker, sink = Talker(), RecordingSink()
    router = AgentRouter(**options).agentflow(talker, allow_get=allow_get)
    async with live(StreamTraceMiddleware(router.app(), sinks=[sink])) as url:
        yield Served(url, talker, router, sink)


async def test_text_tools_and_errors():
    async with serving() as served, httpx.AsyncClient(base_url=served.url) as http:
        bodies = [
            (await http.post(STREAM, json=say(word))).content
            for word in ("hello", "weather", "fail", "crash")
        ]
        records = await served.records(4)
    hello, weather, fail, crash = map(told, bodies)
    run_id = served.talker.runs[0].run_id
    usage = {"input_tokens": 3, "output_tokens": 2}
    done = hello.pop()
    assert hello == [
        ("message_chunk", {"role": "assistant", "content": "Hel"}),
        ("message_chunk", {"role": "assistant", "content": "lo"}),
    ]
    assert (done[0], done[1]["run_id"], done[1]["thread_id"]) == ("done", run_id, "t")
    assert done[1]["usage"].items() >= usage.items()
    assert [(kind, data) for kind, data in weather if kind in ("tool_start", "tool_end")] == [
        ("tool_start", {"id": "call-1", "name": "get_weather", "args": {"city": "Tokyo"}}),
        ("tool_end", {"id": "call-1", "name": "get_weather", "output": "sunny"}),
    ]
    assert fail[-1] == ("error", {"code": "too_large", "message": "Your file is too large."})
    assert crash[-1] == ("error", {"code": "internal_error", "message": SORRY})
    assert {one.dialect for one in records} == {"agentflow"}
    assert [one.status for one in records] == ["completed", "completed", "error", "error"]
    assert [one.output.text for one in records[:2]] == ["Hello", "It is sunny."]
    assert [one.name for one in records[1].tool_calls] == ["get_weather"]


async def test_a_browsers_event_source():
    async with serving(allow_get=True) as served:
        query = "thread_id=u1&text=weather&recursion_limit=5"
        heard = await run_client(
            "eventsource.mjs", f"{served.url}{STREAM}?{query}",
            "message_chunk", "tool_start", "tool_end", "done",
        )  # fmt: skip
    kinds = [kind for kind, _ in heard]
    assert kinds == ["message_chunk", "tool_start", "tool_end", "message_chunk", "done"]
    assert json.loads(heard[-1][1])["thread_id"] == "u1"
    assert served.talker.runs[0].messages == [{"role": "user", "content": "weather"}]


@pytest.mark.parametrize(
    "body",
    [
        say("hello"),
        {"thread_id": "t", "text": "hello"},
        {"thread_id": "t", "message": "hello", "config": None},
        say("hello", recursion_limit=None, response_granularity="LOW"),
    ],
)
async def test_what_is_a_request(body: Any) -> None:
    talker = Talker()
    answer = await ask(AgentRouter().agentflow(talker).app(), STREAM, json=body)
    assert answer.status == 200
    assert (talker.runs[0].thread_id, talker.runs[0].messages[0]["content"]) == ("t", "hello")


async def test_an_answer_to_a_question():
    talker = Talker()
    app = AgentRouter().agentflow(talker).app()
    body = {"config": {"thread_id": "t"}, "resume": "Tokyo", "text": "and then?"}
    answer = await ask(app, STREAM, json=body)
    assert talker.runs[0].resume == "Tokyo"
    assert told(answer.body)[0][1]["content"] == "So Tokyo."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "One of messages, text and resume"),
        ([], "must be a JSON object"),
        (say("hello", messages=[SECRET]), "messages must be"),
        (say("hello", config=[]), "config must be"),
        (say("hello", config={"thread_id": "a b"}), "visible ASCII"),
        (say("hello", recursion_limit=0), "recursion_limit must be"),
        (say("hello", recursion_limit=True), "recursion_limit must be"),
        (say("hello", recursion_limit="many"), "recursion_limit must be"),
        (say("hello", config={"recursion_limit": -1}), "recursion_limit must be"),
        (say("hello", response_granularity="huge"), "granularity is not served"),
        (say("hello", response_granularity=["low"]), "granularity is not served"),
    ],
)
async def test_what_is_no_request(body: Any, message: str) -> None:
    talker = Talker()
    answer = await ask(AgentRouter().agentflow(talker).app(), STREAM, json=body)
    assert answer.status == 400
    assert message in json.loads(answer.body)["error"]["message"]
    assert SECRET.encode() not in answer.body
    assert talker.runs == []


# --- limits and granularity --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "asked", "steps"),
    [(3, 100, 3), (3, 2, 2), (3, None, 3), (None, 2, 2)],
)
async def test_a_client_may_ask_for_fewer_steps_only(
    servers: int | None, asked: int | None, steps: int
) -> None:
    async def stepping(run: RunContext) -> AsyncIterator[ev.Event]:
        for number in range(10):
            yield ev.StepStarted(name=f"step-{number}")
            yield ev.TextDelta(text=".")
            yield ev.StepFinished(name=f"step-{number}")

    settings = Settings(limits=Limits(max_steps=servers))
    app = AgentRouter(settings=settings).agentflow(stepping).app()
    answer = await ask(app, STREAM, json=say("go", recursion_limit=asked))
    *texts, end = told(answer.body)
    assert len(texts) == steps
    assert (end[0], end[1]["code"]) == ("error", "max_steps")


class Shout:
    def __init__(self, run: RunContext) -> None: ...

    def feed(self, event: ev.Event) -> list[ev.Event]:
        is_text = isinstance(event, ev.TextDelta)
        return [ev.TextDelta(text=event.text.upper())] if is_text else [event]

    def flush(self) -> list[ev.Event]:
        return []


@pytest.mark.parametrize(
    ("granularity", "text"), [("low", "Hel"), (None, "Hel"), ("full", "HEL"), ("FULL", "HEL")]
)
async def test_a_granularity_is_its_filters(granularity: str | None, text: str) -> None:
    granularities: Any = {"low": (), "full": [Shout]}
    app = AgentRouter().agentflow(Talker(), granularities=granularities).app()
    answer = await ask(app, STREAM, json=say("hello", response_granularity=granularity))
    assert told(answer.body)[0][1]["content"] == text


def test_there_must_be_a_granularity():
    with pytest.raises(ConfigError, match="granularities is empty"):
        GraphStream(Talker(), granularities={})


# --- stop --------------------------------------------------------------------------------------


async def test_a_thread_is_stopped_by_its_user_as_often_as_they_like():
    async with serving(auth=ApiKeyAuth(KEYS)) as served:
        async with httpx.AsyncClient(base_url=served.url) as http:

            async def stop(headers: dict[str, str], thread_id: Any = "t") -> tuple[int, Any]:
                answer = await http.post(STOP, json={"thread_id": thread_id}, headers=headers)
                return answer.status_code, answer.json()

            never = await stop(ALICE)
            asked = asyncio.create_task(http.post(STREAM, json=say("wait"), headers=ALICE))
            await asyncio.wait_for(served.talker.waits.wait(), 5)
            not_bobs, nobodys = await stop(BOB), await stop({})
            assert not served.talker.cleaned.is_set()
            first = await stop(ALICE)
            stream = told((await asked).content)
            second, still_not_bobs = await stop(ALICE), await stop(BOB)
        [record] = await served.records()
    assert never[0] == not_bobs[0] == still_not_bobs[0] == 404
    assert never[1] == not_bobs[1]
    assert nobodys[0] == 401
    assert first == (200, {"thread_id": "t", "stopped": True})
    assert second == (200, {"thread_id": "t", "stopped": False})
    assert served.talker.cleaned.is_set()
    assert [kind for kind, _ in stream] == ["message_chunk", "done"]
    assert served.talker.runs[0].cancel.reason == "stopped"
    assert record.output.text == "Hel"


@pytest.mark.parametrize("body", [{}, [], {"thread_id": 7}, {"thread_id": "a\r\nb"}])
async def test_what_is_no_thread(body: Any) -> None:
    answer = await ask(AgentRouter().agentflow(Talker()).app(), STOP, json=body)
    assert answer.status == 400


async def test_only_so_many_threads_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentflow, "MAX_THREADS", 2)
    app = AgentRouter().agentflow(Talker()).app()
    for thread_id in "abc":
        await ask(app, STREAM, json=say("hello", config={"thread_id": thread_id}))
    statuses = [(await ask(app, STOP, json={"thread_id": one})).status for one in "abc"]
    assert statuses == [404, 200, 200]


async def test_a_client_that_leaves():
    async with serving() as served, httpx.AsyncClient(base_url=served.url) as http:
        async with http.stream("POST", STREAM, json=say("wait")) as answer:
            await anext(answer.aiter_bytes())
        await asyncio.wait_for(served.talker.cleaned.wait(), 5)
        [record] = await served.records()
    assert (record.status, served.talker.runs[0].cancel.reason) == ("disconnected",) * 2
