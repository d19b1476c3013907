"""An agent behind A2A, against the clients of both SDKs; and beside AG-UI on one router."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError, TaskNotFoundError
from starlette.applications import Starlette
from support.clients import run_client
from support.live import live
from support.talker import SECRET, Talker

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.serve import a2a
from streamtrace.serve.a2a import RecentTasks
from streamtrace.serve.auth import ApiKeyAuth, User
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import SORRY
from streamtrace.testing import RecordingSink, ask

ALICE, BOB = User("alice", "acme"), User("bob", "acme")
KEYS = {"st-alice-0123456789": ALICE, "st-bob-0123456789ab": BOB}


class Served:
    """An observed router with both vocabularies."""

    def __init__(self, url: str, talker: Talker, router: AgentRouter, sink: RecordingSink) -> None:
        self.url = url
        self.talker = talker
        self.router = router
        self.sink = sink

    @asynccontextmanager
    async def client(
        self, version: str = "1.0", key: str | None = None, *, streaming: bool = True
    ) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(headers=headers) as http:
            card = await A2ACardResolver(http, self.url).get_agent_card()
            for interface in [*card.supported_interfaces]:
                if interface.protocol_version != version:
                    card.supported_interfaces.remove(interface)
            yield ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create(card)

    async def js(self, *steps: dict[str, Any]) -> list[Any]:
        told: list[Any] = await run_client("a2a_app.mjs", self.url, json.dumps(steps))
        return told

    async def records(self, count: int = 1) -> list[RunSummary]:
        return await asyncio.to_thread(self.sink.wait, count)


def card_of(url: str = "http://localhost") -> pb.AgentCard:
    return pb.AgentCard(
        name="agent",
        description="d",
        version="1",
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        capabilities=pb.AgentCapabilities(streaming=True),
        supported_interfaces=[
            pb.AgentInterface(
                url=f"{url}/jsonrpc", protocol_binding="JSONRPC", protocol_version=version
            )
            for version in ("1.0", "0.3")
        ],
    )


@asynccontextmanager
async def serving(
    agent: Agent | None = None, *, tell_tools: bool = False, **options: Any
) -> AsyncIterator[Served]:
    talker, sink, app = Talker(), RecordingSink(), Starlette()
    async with live(StreamTraceMiddleware(app, sinks=[sink])) as url:
        router = AgentRouter(**options).agui(talker)
        router.a2a(agent or talker, card_of(url), tell_tools=tell_tools)
        app.router.routes += router.routes
        try:
            yield Served(url, talker, router, sink)
        finally:
            await router.drain(0)


def say(word: str, **ids: str) -> pb.SendMessageRequest:
    message = pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text=word)], **ids)
    return pb.SendMessageRequest(message=message)


async def tell(client: Client, word: str, **ids: str) -> list[Any]:
    return [one async for one in client.send_message(say(word, **ids))]


def texts(updates: list[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for update in updates:
        if update.HasField("artifact_update"):
            one = update.artifact_update
            before = found[one.artifact.artifact_id] if one.append else ""
            found[one.artifact.artifact_id] = before + one.artifact.parts[0].text
    return found


def last_state(updates: list[Any]) -> str:
    state: str = pb.TaskState.Name(updates[-1].status_update.status.state)
    return state.removeprefix("TASK_STATE_")


# --- Python ------------------------------------------------------------------------------------

versions = pytest.mark.parametrize("version", ["1.0", "0.3"])


@versions
async def test_an_answer(version: str) -> None:
    async with serving() as served, served.client(version) as client:
        updates = await tell(client, "hello", context_id="ctx")
        [record] = await served.records()
    [run] = served.talker.runs
    assert not run.cancel.is_set
    task = updates[0].task
    assert (task.id, task.context_id) == (run.run_id, run.thread_id)
    assert run.thread_id == "ctx"
    assert run.messages == [{"role": "user", "content": "hello"}]
    assert texts(updates) == {run.message_id: "Hello"}
    assert last_state(updates) == "COMPLETED"
    assert record.dialect == ("a2a" if version == "1.0" else "a2a-0.3")
    assert (record.status, record.output.text, record.issues) == ("completed", "Hello", {})
    assert record.run_id == run.run_id


async def test_a_client_that_does_not_stream_gets_whole_messages():
    async with serving() as served, served.client(streaming=False) as client:
        [answer] = await tell(client, "weather")
        [failed] = await tell(client, "fail")
    [artifact] = answer.task.artifacts
    assert [part.text for part in artifact.parts] == ["Let me look. It is sunny."]
    assert answer.task.status.state == pb.TASK_STATE_COMPLETED
    assert failed.task.status.state == pb.TASK_STATE_FAILED
    assert failed.task.status.message.parts[0].text == "Your file is too large."
    assert [part.text for part in failed.task.artifacts[0].parts] == ["Hel"]


@versions
async def test_tool_calls_are_the_agents_own_business(version: str) -> None:
    async with serving() as served, served.client(version) as client:
        updates = await tell(client, "weather")
        [record] = await served.records()
    assert list(texts(updates).values()) == ["Let me look. It is sunny."]
    assert "Tokyo" not in str(updates)
    assert record.tool_calls == []


@versions
async def test_tool_calls_are_told_where_that_is_wanted(version: str) -> None:
    async with serving(tell_tools=True) as served, served.client(version) as client:
        updates = await tell(client, "weather")
        [record] = await served.records()
    parts = [
        part
        for update in updates
        if update.HasField("status_update")
        for part in update.status_update.status.message.parts
    ]
    kinds = [part.metadata["adk_type"] for part in parts]
    assert kinds == ["function_call", "function_response"]
    [call] = record.tool_calls
    assert (call.name, call.arguments.text, call.result.text) == (
        "get_weather",
        '{"city":"Tokyo"}',
        '{"result":"sunny"}',
    )


@versions
async def test_half_a_character_does_no_harm(version: str) -> None:
    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        yield ev.TextDelta(text="half \ud83d")
        yield ev.ToolCallStarted(tool_call_id="c", name="f")
        yield ev.ToolCallReady(tool_call_id="c", arguments='{"a":"\\ud83d","b":[1,"\\ud83d"]}')

    async with serving(agent, tell_tools=True) as served, served.client(version) as client:
        updates = await tell(client, "hello")
    assert list(texts(updates).values()) == ["half \N{REPLACEMENT CHARACTER}"]
    assert last_state(updates) == "COMPLETED"


@versions
async def test_errors(version: str) -> None:
    async with serving() as served, served.client(version) as client:
        failed = await tell(client, "fail")
        crashed = await tell(client, "crash")
        records = await served.records(2)
    for updates, text in ((failed, "Your file is too large."), (crashed, SORRY)):
        assert last_state(updates) == "FAILED"
        assert updates[-1].status_update.status.message.parts[0].text == text
        assert SECRET not in str(updates)
    assert [(one.status, one.error.type) for one in records if one.error] == [
        ("error", "too_large"),
        ("error", "internal_error"),
    ]


@versions
async def test_a_question_and_the_run_that_goes_on_with_its_answer(version: str) -> None:
    async with serving() as served, served.client(version) as client:
        asked = await tell(client, "ask")
        task = asked[0].task
        answered = await tell(client, "Tokyo", task_id=task.id, context_id=task.context_id)
        stored = await client.get_task(pb.GetTaskRequest(id=task.id))
        records = await served.records(2)
    first, second = served.talker.runs
    assert last_state(asked) == "INPUT_REQUIRED"
    assert (second.run_id, second.thread_id) == (first.run_id, first.thread_id)
    assert (first.resume, second.resume) == (None, "Tokyo")
    assert texts(answered) == {second.message_id: "So Tokyo."}
    assert last_state(answered) == "COMPLETED"
    assert [one.parts[0].text for one in stored.artifacts] == ["Which city?", "So Tokyo."]
    assert [one.status for one in records] == ["input_required", "completed"]


@versions
async def test_a_task_that_is_cancelled(version: str) -> None:
    async with serving() as served, served.client(version) as client:
        updates = []
        async for update in client.send_message(say("wait")):
            updates.append(update)
            if update.HasField("artifact_update"):
                task_id = update.artifact_update.task_id
                task = await client.cancel_task(pb.CancelTaskRequest(id=task_id))
        await asyncio.wait_for(served.talker.cleaned.wait(), 5)
        [record] = await served.records()
    assert task.status.state == pb.TASK_STATE_CANCELED
    assert last_state(updates) == "CANCELED"
    assert served.talker.runs[0].cancel.reason == "stopped"
    assert served.router.runs.active == ()
    assert (record.status, record.output.text) == ("cancelled", "Hel")


async def test_a_task_that_waits_for_input_is_cancelled():
    async with serving() as served, served.client() as client:
        asked = await tell(client, "ask")
        task = await client.cancel_task(pb.CancelTaskRequest(id=asked[0].task.id))
    assert task.status.state == pb.TASK_STATE_CANCELED


async def test_a_task_is_cancelled_even_where_its_agent_does_not_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(a2a, "_CANCEL_S", 0.05)
    let_go = asyncio.Event()

    async def stubborn(run: RunContext) -> AsyncIterator[ev.Event]:
        yield ev.TextDelta(text="Hel")
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    async with serving(stubborn) as served, served.client() as client:
        async for update in client.send_message(say("wait")):
            if update.HasField("artifact_update"):
                task_id = update.artifact_update.task_id
                task = await client.cancel_task(pb.CancelTaskRequest(id=task_id))
        assert served.router.runs.get(task_id) is not None
        let_go.set()
    assert task.status.state == pb.TASK_STATE_CANCELED


async def test_a_task_lives_on_when_its_client_leaves():
    async with serving() as served, served.client() as client:
        stream = client.send_message(say("wait"))
        async for update in stream:
            if update.HasField("artifact_update"):
                task_id = update.artifact_update.task_id
                break
        await stream.aclose()
        [record] = await served.records()
        task = await client.get_task(pb.GetTaskRequest(id=task_id))
        [active] = served.router.runs.active
        assert (task.status.state, active.run_id) == (pb.TASK_STATE_WORKING, task_id)
        await client.cancel_task(pb.CancelTaskRequest(id=task_id))
        assert served.talker.cleaned.is_set()
    assert record.status == "disconnected"


@versions
async def test_a_client_that_comes_back_sees_what_was_said_and_the_end(version: str) -> None:
    async with serving() as served, served.client(version) as client:
        stream = client.send_message(say("wait"))
        async for update in stream:
            if update.HasField("artifact_update"):
                task_id = update.artifact_update.task_id
                break
        await stream.aclose()
        await served.records()
        seen = []
        async for update in client.subscribe(pb.SubscribeToTaskRequest(id=task_id)):
            seen.append(update)
            if update.HasField("task"):
                await client.cancel_task(pb.CancelTaskRequest(id=task_id))
        with pytest.raises(TaskNotFoundError):
            await anext(client.subscribe(pb.SubscribeToTaskRequest(id="nobodys")))
    assert [part.text for one in seen[0].task.artifacts for part in one.parts] == ["Hel"]
    assert last_state(seen) == "CANCELED"
    assert len(served.talker.runs) == 1


async def test_a_drain_ends_what_is_under_way():
    async with serving() as served, served.client() as client:
        updates = []
        async for update in client.send_message(say("wait")):
            updates.append(update)
            if update.HasField("artifact_update"):
                draining = asyncio.create_task(served.router.drain(0))
        await draining
        with pytest.raises(Exception, match="503"):
            await tell(client, "hello")
        assert last_state(updates) == "FAILED"
    assert len(served.talker.runs) == 1


# --- doors -------------------------------------------------------------------------------------


async def test_users_see_their_own_tasks():
    alices, bobs = KEYS
    async with serving(auth=ApiKeyAuth(KEYS)) as served:
        async with served.client(key=alices) as alice, served.client(key=bobs) as bob:
            task_id = (await tell(alice, "ask"))[0].task.id
            with pytest.raises(TaskNotFoundError):
                await bob.get_task(pb.GetTaskRequest(id=task_id))
            with pytest.raises(TaskNotFoundError):
                await bob.cancel_task(pb.CancelTaskRequest(id=task_id))
            with pytest.raises(TaskNotFoundError):
                await tell(bob, "Tokyo", task_id=task_id)
            assert (await alice.get_task(pb.GetTaskRequest(id=task_id))).id == task_id
        async with served.client() as nobody:
            with pytest.raises(Exception, match="401"):
                await tell(nobody, "hello")
    [run] = served.talker.runs
    assert run.user == ALICE
    assert "authorization" not in run.headers


async def test_a_context_that_is_no_id_is_refused():
    async with serving() as served, served.client() as client:
        with pytest.raises(A2AError, match="visible ASCII"):
            await tell(client, "hello", context_id="a\nb")
    assert served.talker.runs == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"x" * (1 << 21), 413), (b"[" * 5000 + b"]" * 5000, 400)],
    ids=["malformed", "large", "deep"],
)
async def test_bad_bodies_do_not_reach_the_sdk(body: bytes, status: int) -> None:
    app = AgentRouter().a2a(Talker(), card_of()).app()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        headers = {"Content-Type": "application/json"}
        answer = await http.post("/jsonrpc", content=body, headers=headers)
    assert answer.status_code == status
    assert "error" in answer.json()


async def test_tasks_are_kept_within_bounds():
    context = ServerCallContext()

    async def kept(store: RecentTasks) -> list[str]:
        tasks = (await store.list(pb.ListTasksRequest(), context)).tasks
        return sorted(task.id for task in tasks)

    by_number, by_size = RecentTasks(max_tasks=2), RecentTasks(max_bytes=200)
    for task_id in ("a", "b", "a", "c"):
        await by_number.save(pb.Task(id=task_id), context)
        await by_size.save(pb.Task(id=task_id, context_id="x" * 80), context)
    assert await kept(by_number) == await kept(by_size) == ["a", "c"]
    await by_size.save(pb.Task(id="d", context_id="x" * 500), context)
    assert await kept(by_size) == ["d"]


# --- JavaScript, and AG-UI beside it -----------------------------------------------------------


async def test_the_client_in_javascript():
    async with serving() as served:
        hello, sent, failed, asked, answered, stopped, left, back = await served.js(
            {"say": "hello", "stream": True},
            {"say": "weather"},
            {"say": "fail", "stream": True},
            {"say": "ask", "stream": True},
            {"say": "Tokyo", "stream": True, "goOn": True},
            {"say": "wait", "stream": True, "cancelAtText": True},
            {"say": "wait", "stream": True, "leaveAtText": True},
            {"follow": True, "cancelAtText": True},
        )
        records = await served.records(7)
    done = ["TASK_STATE_SUBMITTED", "TASK_STATE_WORKING", "TASK_STATE_COMPLETED"]
    assert (hello["texts"], hello["states"]) == (["Hello"], done)
    assert (sent["texts"], sent["parts"], sent["states"]) == (
        ["Let me look. It is sunny."],
        [1],
        done[-1:],
    )
    assert (failed["said"], failed["states"][-1]) == (
        "Your file is too large.",
        "TASK_STATE_FAILED",
    )
    assert (asked["texts"], asked["states"][-1]) == (["Which city?"], "TASK_STATE_INPUT_REQUIRED")
    assert (answered["texts"], answered["states"][-1]) == (["So Tokyo."], done[-1])
    assert stopped["cancelled"] == stopped["states"][-1] == "TASK_STATE_CANCELED"
    assert left["texts"] == back["texts"] == ["Hel"]
    assert back["cancelled"] == back["states"][-1] == "TASK_STATE_CANCELED"
    assert all(
        one["error"] is None for one in (hello, failed, asked, answered, stopped, left, back)
    )
    assert [one.status for one in records] == [
        "completed", "error", "input_required", "completed", "cancelled", "disconnected",
        "cancelled",
    ]  # fmt: skip


async def test_ag_ui_is_on_the_same_router():
    async with serving() as served:
        message = {"id": "m", "role": "user", "content": "hello"}
        body = {"threadId": "t", "runId": "r", "messages": [message]}
        answer = await ask(Starlette(routes=served.router.routes), "/agui/v1/runs", json=body)
        async with served.client() as client:
            updates = await tell(client, "hello")
    assert b"RUN_FINISHED" in answer.body
    assert last_state(updates) == "COMPLETED"
    assert len(served.talker.runs) == 2
