"""Streams of a real A2A server, asked by the real client, as the middleware tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.helpers.proto_helpers import (
    new_data_part,
    new_task_from_user_message,
    new_text_message,
    new_text_part,
)
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError
from starlette.applications import Starlette
from support.live import live

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.testing import RecordingSink

BINDINGS = [("JSONRPC", "1.0"), ("HTTP+JSON", "1.0"), ("JSONRPC", "0.3")]
pytestmark = pytest.mark.parametrize("binding", BINDINGS, ids="-".join)


class Agent(AgentExecutor):
    """Does what it is told in one word."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        word = context.message.parts[0].text
        if word == "message":
            said = new_text_message("Just this.", context_id=context.context_id, role=pb.ROLE_AGENT)
            await event_queue.enqueue_event(said)
            return
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        await task.start_work()
        await getattr(self, word)(task)

    async def answer(self, task: TaskUpdater) -> None:
        await task.add_artifact([new_text_part("Hel")], artifact_id="a")
        await task.add_artifact(
            [new_text_part("lo"), new_data_part({"n": 1})],
            artifact_id="a",
            append=True,
            last_chunk=True,
        )
        await task.complete(task.new_agent_message([new_text_part("Hello")]))

    async def ask(self, task: TaskUpdater) -> None:
        await task.requires_input(task.new_agent_message([new_text_part("Which city?")]))

    async def fail(self, task: TaskUpdater) -> None:
        await task.failed(task.new_agent_message([new_text_part("No luck.")]))

    async def crash(self, task: TaskUpdater) -> None:
        await task.add_artifact([new_text_part("Hel")], artifact_id="a")
        raise RuntimeError("kaput")

    async def wait(self, task: TaskUpdater) -> None:
        await task.add_artifact([new_text_part("Hel")], artifact_id="a")
        await asyncio.Event().wait()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def make_card(url: str, binding: tuple[str, str]) -> pb.AgentCard:
    protocol, version = binding
    return pb.AgentCard(
        name="agent",
        description="d",
        version="1",
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        capabilities=pb.AgentCapabilities(streaming=True),
        supported_interfaces=[
            pb.AgentInterface(
                url=url + ("/rpc" if protocol == "JSONRPC" else "/rest"),
                protocol_binding=protocol,
                protocol_version=version,
            )
        ],
    )


@asynccontextmanager
async def agent(binding: tuple[str, str]) -> AsyncIterator[tuple[Client, RecordingSink]]:
    """A client of an observed server."""
    sink = RecordingSink()
    app = Starlette()
    async with (
        live(StreamTraceMiddleware(app, sinks=[sink])) as url,
        httpx.AsyncClient() as http,
    ):
        card = make_card(url, binding)
        handler = DefaultRequestHandler(
            agent_executor=Agent(), task_store=InMemoryTaskStore(), agent_card=card
        )
        app.router.routes += [
            *create_agent_card_routes(card),
            *create_jsonrpc_routes(handler, "/rpc", enable_v0_3_compat=True),
            *create_rest_routes(handler, path_prefix="/rest"),
        ]
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding[0]])
        card = await A2ACardResolver(http, url).get_agent_card()
        yield ClientFactory(config).create(card), sink


def say(word: str, **ids: str) -> pb.SendMessageRequest:
    return pb.SendMessageRequest(
        message=pb.Message(
            message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text=word)], **ids
        )
    )  # fmt: skip


async def ask(client: Client, word: str, **ids: str) -> list[Any]:
    return [one async for one in client.send_message(say(word, **ids))]


async def told(sink: RecordingSink, binding: tuple[str, str], count: int = 1) -> RunSummary:
    """The last run, of which all is right that is alike in every test."""
    run = (await asyncio.to_thread(sink.wait, count))[-1]
    assert run.dialect == ("a2a-0.3" if binding[1] == "0.3" else "a2a")
    assert (run.issues, run.terminal_seen, run.http_status) == ({}, True, 200)
    return run


async def test_an_answer(binding: tuple[str, str]) -> None:
    async with agent(binding) as (client, sink):
        task = (await ask(client, "answer"))[0].task
        run = await told(sink, binding)
    assert (run.status, run.output.text) == ("completed", "Hello")
    assert (run.run_id, run.thread_id) == (task.id, task.context_id)
    assert run.time_to_first_visible_token_ns is not None


async def test_a_question_and_the_run_that_goes_on_with_its_answer(
    binding: tuple[str, str],
) -> None:
    async with agent(binding) as (client, sink):
        task = (await ask(client, "ask"))[0].task
        asked = await told(sink, binding)
        await ask(client, "answer", task_id=task.id, context_id=task.context_id)
        answered = await told(sink, binding, 2)
    assert (asked.status, asked.output.text) == ("input_required", "Which city?")
    assert (answered.status, answered.output.text) == ("completed", "Hello")
    assert asked.run_id == answered.run_id == task.id
    assert asked.thread_id == answered.thread_id == task.context_id


async def test_a_task_that_failed(binding: tuple[str, str]) -> None:
    async with agent(binding) as (client, sink):
        await ask(client, "fail")
        run = await told(sink, binding)
    assert (run.status, run.output.text) == ("error", None)
    assert run.error is not None
    assert (run.error.type, run.error.message.text) == ("failed", "No luck.")


async def test_an_agent_that_crashed(binding: tuple[str, str]) -> None:
    async with agent(binding) as (client, sink):
        with pytest.raises(A2AError):
            await ask(client, "crash")
        run = await told(sink, binding)
    assert (run.status, run.output.text) == ("error", "Hel")
    assert run.error is not None
    is_rest = binding[0] == "HTTP+JSON"
    expected = ("INTERNAL", "unknown exception") if is_rest else ("-32603", "kaput")
    assert (run.error.type, run.error.message.text) == expected


async def test_a_task_that_was_cancelled(binding: tuple[str, str]) -> None:
    async with agent(binding) as (client, sink):
        async for response in client.send_message(say("wait")):
            if response.HasField("artifact_update"):
                task_id = response.artifact_update.task_id
                await client.cancel_task(pb.CancelTaskRequest(id=task_id))
        run = await told(sink, binding)
    assert (run.status, run.output.text) == ("cancelled", "Hel")


async def test_one_who_subscribes_to_a_task_sees_only_what_is_new(
    binding: tuple[str, str],
) -> None:
    async with agent(binding) as (client, sink):
        async for response in client.send_message(say("wait")):
            if response.HasField("artifact_update"):
                task_id = response.artifact_update.task_id
                follower = client.subscribe(pb.SubscribeToTaskRequest(id=task_id))
                assert (await anext(follower)).task.artifacts[0].parts[0].text == "Hel"
                await client.cancel_task(pb.CancelTaskRequest(id=task_id))
                async for _ in follower:
                    pass
        await told(sink, binding, 2)
        runs = sorted(sink.runs, key=lambda run: run.started_at_ns)
    assert [run.status for run in runs] == ["cancelled", "cancelled"]
    assert [run.output.text for run in runs] == ["Hel", None]
    assert runs[0].run_id == runs[1].run_id == task_id


async def test_a_message_without_a_task(binding: tuple[str, str]) -> None:
    async with agent(binding) as (client, sink):
        await ask(client, "message")
        run = await told(sink, binding)
    assert (run.status, run.output.text, run.run_id) == ("completed", "Just this.", None)


async def test_a_client_that_leaves_is_no_end_of_the_task(binding: tuple[str, str]) -> None:
    async with agent(binding) as (client, sink):
        stream = client.send_message(say("wait"))
        async for response in stream:
            if response.HasField("artifact_update"):
                break
        await stream.aclose()
        [run] = await asyncio.to_thread(sink.wait, 1)
    assert (run.status, run.output.text, run.terminal_seen) == ("disconnected", "Hel", False)
