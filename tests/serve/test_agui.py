"""AG-UI as an app, against its own client; and what is not a request of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from support.clients import run_client
from support.live import live
from support.talker import CALL, SECRET, Talker

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.core.frames import FrameParser
from streamtrace.serve.agents import shared
from streamtrace.serve.agui import AgUiApp
from streamtrace.serve.auth import ApiKeyAuth, User
from streamtrace.serve.run import SORRY
from streamtrace.testing import RecordingSink, ask

PATH = "/agui/v1/runs"
KEY = "st-0123456789abcdef"
ALICE = User("alice")


class Served:
    """An observed app, and what its clients make of it."""

    def __init__(self, url: str, talker: Talker, app: AgUiApp, sink: RecordingSink) -> None:
        self.url = url + PATH
        self.talker = talker
        self.app = app
        self.sink = sink

    async def client(self, *steps: dict[str, Any]) -> list[Any]:
        told: list[Any] = await run_client("ag_ui_app.mjs", self.url, json.dumps(steps))
        return told

    async def records(self, count: int) -> list[RunSummary]:
        return await asyncio.to_thread(self.sink.wait, count)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Served]:
    talker, sink = Talker(), RecordingSink()
    app = AgUiApp(talker, **options)
    async with live(StreamTraceMiddleware(app, sinks=[sink])) as url:
        yield Served(url, talker, app, sink)


async def test_text_tools_and_errors_at_the_client():
    async with serving() as served:
        hello, weather, fail, crash = await served.client(
            {"say": "hello"},
            {"say": "weather", "fresh": True},
            {"say": "fail", "fresh": True},
            {"say": "crash", "fresh": True},
        )
        records = await served.records(4)
    [said] = hello["messages"]
    assert (said["role"], said["content"]) == ("assistant", "Hello")
    assert said["id"] == served.talker.runs[0].message_id
    texts = [one["content"] for one in weather["messages"] if one["role"] == "assistant"]
    calls = [call for one in weather["messages"] for call in one.get("toolCalls", ())]
    results = [one["content"] for one in weather["messages"] if one["role"] == "tool"]
    assert texts == ["Let me look. ", "It is sunny."]
    assert [call["function"] for call in calls] == [
        {"name": "get_weather", "arguments": '{"city":"Tokyo"}'}
    ]
    assert results == ["sunny"]
    assert fail["runError"] == ["too_large", "Your file is too large."]
    assert crash["runError"] == ["internal_error", SORRY]
    assert all(one["error"] is None for one in (hello, weather, fail, crash))

    assert [one.status for one in records] == ["completed", "completed", "error", "error"]
    assert {one.dialect for one in records} == {"ag-ui"}
    assert [one.output.text for one in records[:2]] == ["Hello", "It is sunny."]
    assert [one.name for one in records[1].tool_calls] == ["get_weather"]
    assert records[0].usage.output_tokens == 2
    assert all(one.issues == {} for one in records)


async def test_what_the_agent_is_given():
    tool = {"name": "open_page", "description": "d", "parameters": {"type": "object"}}
    async with serving() as served:
        await served.client({"say": "hello", "tools": [tool], "state": {"page": 1}})
    [run] = served.talker.runs
    assert (run.run_id, run.thread_id, run.user) == ("run-0", "thread-0", None)
    assert [(one["role"], one["content"]) for one in run.messages] == [("user", "hello")]
    assert (run.tools, run.state, run.resume) == ([tool], {"page": 1}, None)
    assert run.input["threadId"] == "thread-0"


async def test_a_question_and_the_run_that_goes_on_with_its_answer():
    async with serving() as served:
        asked, answered = await served.client({"say": "ask"}, {"resume": "Tokyo"})
        records = await served.records(2)
    [interrupt] = asked["interrupts"]
    assert (interrupt["id"], interrupt["reason"]) == ("run-0-interrupt", "input_required")
    assert served.talker.runs[1].resume == [
        {"interruptId": "run-0-interrupt", "status": "resolved", "payload": "Tokyo"}
    ]
    assert served.talker.runs[1].thread_id == served.talker.runs[0].thread_id
    assert (answered["text"], answered["interrupts"]) == ("So Tokyo.", [])
    assert [one.status for one in records] == ["input_required", "completed"]


async def test_a_tool_that_is_left_to_the_client():
    async with serving() as served:
        [asked] = await served.client({"say": "offered"})
        [record] = await served.records(1)
    assert [(one["reason"], one["toolCallId"]) for one in asked["interrupts"]] == [
        ("tool_call", CALL)
    ]
    assert record.status == "input_required"


async def test_a_client_that_stops():
    async with serving() as served:
        [stopped] = await served.client({"say": "wait", "abortAtText": True})
        await asyncio.wait_for(served.talker.cleaned.wait(), 5)
        [record] = await served.records(1)
    assert stopped["text"] == "Hel"
    assert record.status == "disconnected"
    assert served.talker.runs[0].cancel.reason == "disconnected"
    assert served.app.runs.active == ()


async def test_a_run_that_is_stopped_from_elsewhere():
    async with serving() as served, httpx.AsyncClient() as http:
        waiting = asyncio.create_task(served.client({"say": "wait"}))
        await asyncio.wait_for(served.talker.waits.wait(), 20)
        stopped = await http.post(f"{served.url}/run-0/stop")
        [run] = await waiting
        gone = await http.post(f"{served.url}/run-0/stop")
        [record] = await served.records(1)
    assert (stopped.status_code, stopped.json()) == (200, {"run_id": "run-0", "stopped": True})
    assert gone.status_code == 404
    assert (run["types"][-1], run["text"], run["error"]) == ("RUN_FINISHED", "Hel", None)
    assert record.status == "cancelled"


async def test_who_is_not_let_in_starts_nothing():
    async with serving(auth=ApiKeyAuth({KEY: ALICE})) as served:
        refused, let_in = await served.client(
            {"say": "hello"},
            {"say": "hello", "fresh": True, "headers": {"Authorization": f"Bearer {KEY}"}},
        )
    assert refused["error"]["status"] == 401
    assert let_in["text"] == "Hello"
    assert [run.user for run in served.talker.runs] == [ALICE]
    assert "authorization" not in served.talker.runs[0].headers


async def test_a_shared_agent_serves_one_at_a_time():
    inside = most = 0

    async def agent(run: Any) -> AsyncIterator[ev.Event]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        yield ev.TextDelta(text="Hi")
        await asyncio.sleep(0)
        inside -= 1

    app = AgUiApp(shared(agent), route_path="/runs")
    answers = await asyncio.gather(
        *[ask(app, "/runs", json=run_input(runId=f"r{number}")) for number in range(4)]
    )
    assert most == 1
    assert [one.body.count(b"RUN_FINISHED") for one in answers] == [1] * 4


def run_input(**more: Any) -> dict[str, Any]:
    message = {"id": "m", "role": "user", "content": "hello"}
    return {"threadId": "t", "runId": "r", "messages": [message], **more}


@pytest.mark.parametrize(
    ("body", "status", "code", "names"),
    [
        ({}, 422, "invalid_run_input", "messages, runId, threadId"),
        ([], 422, "invalid_run_input", "it must be an object"),
        (run_input(messages=[{"role": SECRET}]), 422, "invalid_run_input", "messages"),
        (run_input(resume=[{"interruptId": 1}]), 422, "invalid_run_input", "resume"),
        (run_input(runId="a\r\nX-Evil: 1"), 400, "invalid_id", "visible ASCII"),
        (run_input(threadId="t" * 1000), 400, "invalid_id", "visible ASCII"),
    ],
)
async def test_what_is_no_run_input(body: Any, status: int, code: str, names: str) -> None:
    talker = Talker()
    answer = await ask(AgUiApp(talker), PATH, json=body)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type"]) == (status, code)
    assert names in error["message"]
    assert SECRET not in error["message"]
    assert talker.runs == []


async def test_the_fields_of_python_are_read_as_well():
    talker = Talker()
    body = run_input(parent_run_id="p")
    body["thread_id"] = body.pop("threadId")
    await ask(AgUiApp(talker), PATH, json=body)
    assert talker.runs[0].thread_id == "t"
    assert talker.runs[0].input["parentRunId"] == "p"


async def test_an_id_that_is_under_way_is_refused():
    talker = Talker()
    app = AgUiApp(talker)
    body = run_input(messages=[{"id": "m", "role": "user", "content": "wait"}])
    first = asyncio.create_task(ask(app, PATH, json=body))
    await asyncio.wait_for(talker.waits.wait(), 5)
    second = await ask(app, PATH, json=body)
    app.runs.stop("r")
    await first
    assert second.status == 409


async def test_its_routes_go_into_an_app_of_yours():
    app = Starlette(routes=AgUiApp(Talker()).routes)
    answer = await ask(app, PATH, json=run_input())
    frames = FrameParser().feed(answer.body)
    assert [frame.json()["type"] for frame in frames][-1] == "RUN_FINISHED"
