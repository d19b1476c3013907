"""The pages about serving: each block of code does what the page says, and the first two are all
that somebody with an agent needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import jwt
import pytest
from starlette.testclient import TestClient
from support.command import environment, started
from support.pages import ROOT, broken_links, execute, python_blocks
from support.talker import Talker
from support.wire import events_of, frames_of, text_of

import streamtrace
from streamtrace import RunSummary, Source, StreamTraceMiddleware, TextDelta, adapters, serve
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.dialects.detect import by_name
from streamtrace.serve import PublicError, RunContext
from streamtrace.testing import Answer, RecordingSink, ask

PAGES = [
    "docs/serving.md",
    *sorted(f"docs/serving/{one.name}" for one in (ROOT / "docs" / "serving").glob("*.md")),
]
KEY = "a-key-of-16-characters-or-more"
SECRET = "a-secret-of-no-less-than-32-bytes"
SOURCES = [Source(url="https://example.org/forecast", title="The forecast")]


async def agent(run: RunContext) -> AsyncIterator[TextDelta]:
    """Cites a source, after a thought that is nobody's business."""
    if run.messages and run.messages[-1]["content"] == "fail":
        raise PublicError("Ask later.")
    for text in ("<think>hm</think>", "It ", "snows [1]."):
        yield TextDelta(text=text)


async def model_stream(messages: Any) -> AsyncIterator[Any]:
    yield SimpleNamespace(type="text_delta", text="Let me look. ")
    yield SimpleNamespace(type="tool_call", id="c", tool_name="weather", arguments='{"at":"Oslo"}')
    yield SimpleNamespace(type="tool_result", id="c", result="snow")
    yield SimpleNamespace(type="text_delta", text=f"Snow, {messages[-1]['content']}.")


async def source() -> AsyncIterator[TextDelta]:
    for text in ("one ", "two"):
        yield TextDelta(text=text)


@pytest.fixture(autouse=True)
def my_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the blocks import as theirs."""
    from serve.test_a2a import card_of

    module = ModuleType("my_agent")
    names = {
        "agent": agent, "build_agent": Talker, "card": card_of(), "SOURCES": SOURCES,
        "source": source, "model": SimpleNamespace(stream=model_stream),
    }  # fmt: skip
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "my_agent", module)
    monkeypatch.setenv("ALICES_KEY", KEY)
    monkeypatch.setenv("JWT_SECRET", SECRET)


def names_of(page: str, block: str, **given: Any) -> dict[str, Any]:
    return execute(page, python_blocks(page)[block], given)


async def said(app: Any, path: str, dialect: str, message: str = "hi", **options: Any) -> str:
    """The text of an answer."""
    body = {"message": message} | options.pop("body", {})
    answer = await ask(app, path, json=body, **options)
    assert answer.status == 200, answer.body
    return text_of(events_of(by_name(dialect), frames_of(answer.body)))


def kinds(answer: Answer) -> list[str]:
    return [frame.json()["type"] for frame in frames_of(answer.body) if frame.data]


# --- docs/serving.md ---------------------------------------------------------------------------


async def the_endpoint() -> None:
    app = names_of("docs/serving.md", "Serving agents 2")["app"]
    assert (await ask(app, "/chat", json={})).status == 401
    headers = {"authorization": f"Bearer {KEY}"}
    assert "snows" in await said(app, "/chat", "ag-ui", headers=headers)
    assert "snows" in await said(app, "/chat?dialect=openai-chat", "openai-chat", headers=headers)


async def the_agent() -> None:
    names = names_of("docs/serving.md", "Serving agents")
    run = RunContext(run_id="r", thread_id="t", message_id="m", messages=[{"content": "hi"}])
    assert text_of([one async for one in names["agent"](run)]) == "You said: hi"


async def the_doors() -> None:
    assert names_of("docs/serving.md", "Doors")["router"].door.auth is not None


async def the_vocabularies() -> None:
    block = "Vocabularies with a door of their own"
    router = names_of("docs/serving.md", block)["router"]
    paths = {route.path for route in router.routes}
    assert {"/agui/v1/runs", "/v1/graph/stream", "/v1/chat/completions", "/ws"} <= paths


async def what_the_client_sees() -> None:
    app = names_of("docs/serving.md", "What the client sees")["app"]
    answer = await ask(app, "/chat", json={"message": "hi"})
    assert await said(app, "/chat", "generic") == "It snows [1]."
    assert "source" in kinds(answer)
    assert await said(app, "/chat?granularity=messages", "generic") == "It snows [1]."


async def a_route_of_ones_own() -> None:
    app = names_of("docs/serving.md", "A route of your own")["app"]
    with TestClient(app) as client:  # with its lifespan
        answer = client.post("/threads/t-1/chat", json={"message": "hi"})
        refused = client.post("/threads/t 1/chat", json={"message": "hi"})
    assert answer.headers["x-thread-id"] == "t-1"
    assert "snows" in answer.text
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_id")


# --- docs/serving/ -----------------------------------------------------------------------------


async def cognis() -> None:
    sink = RecordingSink()
    app = names_of("docs/serving/cognis.md", "From Cognis")["app"]
    app = StreamTraceMiddleware(app, sinks=[sink])
    for path in ("/chat", "/mobile", "/tokens"):
        assert "snows" in await said(app, path, "cognis", headers={"x-thread-id": "t-1"})
    assert await said(app, "/v2/chat", "cognis", "hello") == "Hello"
    failed = await ask(app, "/chat", json={"message": "fail"})
    assert [frame.event for frame in frames_of(failed.body)][-1] == "error"
    assert b"Ask later." in failed.body
    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        socket.send_json({"message": "hi"})
        told = [socket.receive_json()]
        while told[-1]["event"] != "done":
            told.append(socket.receive_json())
    assert {one["event"] for one in told} == {"token", "done"}
    *runs, _ = sink.runs
    assert {run.dialect for run in runs} == {"cognis"}
    assert {run.thread_id for run in runs[:3]} == {"t-1"}
    assert [run.delivery_policy for run in runs[:2]] == ["block", "drop"]


def run_input(word: str) -> dict[str, Any]:
    messages = [{"id": "m", "role": "user", "content": word}]
    fields = {"state": {}, "tools": [], "context": [], "forwardedProps": {}}
    return {"threadId": "t", "runId": "r", "messages": messages, **fields}


async def ag_ui_app() -> None:
    app = names_of("docs/serving/ag-ui.md", "From an agent SDK with AG-UI")["app"]
    answer = await ask(app, "/agui/v1/runs", json=run_input("hi"))
    assert kinds(answer)[0] == "RUN_STARTED"
    assert kinds(answer)[-1] == "RUN_FINISHED"


async def ag_ui_beside_a2a() -> None:
    app = names_of("docs/serving/ag-ui.md", "From an agent SDK with AG-UI 2")["app"]
    assert (await ask(app, "/agui/v1/runs", json=run_input("hi"))).status == 200
    card = await ask(app, "/.well-known/agent-card.json", method="GET")
    assert json.loads(card.body)["name"] == "agent"
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
    request = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage"}
    asked = {**request, "params": {"message": message}}
    answer = await ask(app, "/jsonrpc", json=asked, headers={"a2a-version": "1.0"})
    assert b"snows" in answer.body


async def the_driver() -> None:
    send_all = names_of("docs/serving/ag-ui.md", "The driver")["send_all"]
    sent: list[bytes] = []

    async def send(data: bytes) -> None:
        sent.append(data)

    run = RunContext(run_id="r", thread_id="t", message_id="m")
    summary = await send_all(agent(run), SimpleNamespace(send=send))
    assert isinstance(summary, RunSummary)
    assert (summary.status, summary.thread_id) == ("completed", "thread-123")
    told = events_of(by_name("ag-ui"), [Frame(data=data) for data in sent])
    assert b"".join(encode_frame(Frame(data=data)) for data in sent).count(b'"source"') == 1
    assert "snows" in text_of(told)


async def an_enricher() -> None:
    app = names_of("docs/serving/ag-ui.md", "An enricher of your own")["app"]
    answer = await ask(app, "/agui/v1/runs", json=run_input("hi"))
    assert kinds(answer)[:2] == ["RUN_STARTED", "CUSTOM"]
    assert b"2026-11" in answer.body


async def a_broadcast() -> None:
    names = names_of("docs/serving/ag-ui.md", "Broadcast")
    following = [
        asyncio.create_task(ask(names["app"], "/live", method="GET")),
        asyncio.create_task(ask(names["app"], "/live", method="GET")),
    ]
    await names["broadcast"].run()
    for answer in await asyncio.gather(*following):
        assert text_of(events_of(by_name("ag-ui"), frames_of(answer.body))) == "one two"


async def by_hand() -> None:
    app = names_of("docs/serving/hand-made.md", "From a FastAPI route made by hand")["app"]
    answer = await ask(app, "/stream?query=Ann", method="GET")
    told = [frame.json() for frame in frames_of(answer.body)]
    names = [one["type"] for one in told if one.get("content") != ""]
    assert names == [
        "run_started", "status", "token", "tool_call", "tool_result", "token", "done",
    ]  # fmt: skip
    assert {"type": "status", "content": "Thinking..."} in told
    assert b"Snow, Ann." in answer.body
    assert await said(app, "/answers", "generic", "Ann") == "Snow, Ann."
    assert "Snow" in await said(app, "/stream?dialect=vercel-ui", "vercel-ui", "Ann")


async def agentflow() -> None:
    names = names_of("docs/serving/agentflow.md", "From AgentFlow")
    app, path = names["app"], "/v1/graph/stream"
    token = jwt.encode({"sub": "alice", "aud": "chat", "exp": 4e9}, SECRET, "HS256")
    body = {"text": "hi", "thread_id": "t-1"}
    assert (await ask(app, path, json=body)).status == 401
    answer = await ask(app, path, json={**body, "token": token})
    assert [frame.event for frame in frames_of(answer.body)][-1] == "done"
    assert "snows" in text_of(events_of(by_name("agentflow"), frames_of(answer.body)))
    asked = {"path": path, "token": token}
    ticket = json.loads((await ask(app, "/tickets", json=asked)).body)["ticket"]
    by_ticket = f"{path}?text=hi&thread_id=t-1&ticket={ticket}"
    first = await ask(app, by_ticket, method="GET")
    again = await ask(app, by_ticket, method="GET")
    assert (first.status, again.status) == (200, 401)
    stop = {"thread_id": "t-1", "token": token}
    stopped = json.loads((await ask(app, "/v1/graph/stop", json=stop)).body)
    assert stopped == {"thread_id": "t-1", "stopped": False}


async def elsewhere() -> None:
    """By tests/serve/test_cors.py."""


CHECKS: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {
    ("serving.md", "Serving agents"): the_agent,
    ("serving.md", "Serving agents 2"): the_endpoint,
    ("serving.md", "Doors"): the_doors,
    ("serving.md", "Vocabularies with a door of their own"): the_vocabularies,
    ("serving.md", "What the client sees"): what_the_client_sees,
    ("serving.md", "A route of your own"): a_route_of_ones_own,
    ("ag-ui.md", "From an agent SDK with AG-UI"): ag_ui_app,
    ("ag-ui.md", "From an agent SDK with AG-UI 2"): ag_ui_beside_a2a,
    ("ag-ui.md", "The driver"): the_driver,
    ("ag-ui.md", "An enricher of your own"): an_enricher,
    ("ag-ui.md", "Broadcast"): a_broadcast,
    ("agentflow.md", "From AgentFlow"): agentflow,
    ("cognis.md", "From Cognis"): cognis,
    ("cors.md", "Pages of another origin"): elsewhere,
    ("hand-made.md", "From a FastAPI route made by hand"): by_hand,
}


def test_each_block_of_code_is_checked() -> None:
    assert [(Path(page).name, block) for page in PAGES for block in python_blocks(page)] == list(
        CHECKS
    )


@pytest.mark.parametrize(("page", "block"), CHECKS, ids=str)
async def test_the_code_does_what_is_said(page: str, block: str) -> None:
    await CHECKS[page, block]()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(page) == []


NOT_OURS = {"astream_events", "stream_events"}
NO_FUNCTIONS = {"max_events", "keep_events"}


@pytest.mark.parametrize("page", PAGES)
def test_names_that_are_shown_exist(page: str) -> None:
    """Classes of ours that are called in a text or a table, and adapters."""
    text = (ROOT / page).read_text("utf-8")
    classes = set(re.findall(r"`([A-Z][a-zA-Z]+)\([^`]*\)`", text))
    assert classes <= {*serve.__all__, *streamtrace.__all__}
    named = set(re.findall(r"\b(\w+_events)\b", text)) - NOT_OURS - NO_FUNCTIONS
    assert named <= set(adapters.__all__)


# --- from the page alone -----------------------------------------------------------------------


def test_who_has_an_agent_and_no_endpoint_gets_there_in_ten_lines(tmp_path: Path) -> None:
    """What the page says, typed in: two files, a command, and a request as its curl makes it."""
    page = (ROOT / "docs/serving.md").read_text("utf-8")
    blocks = python_blocks("docs/serving.md")
    (tmp_path / "my_agent.py").write_text(blocks["Serving agents"])
    (tmp_path / "main.py").write_text(blocks["Serving agents 2"])
    assert len([line for line in blocks["Serving agents 2"].splitlines() if line]) <= 10
    [command] = re.findall(r"^streamtrace (run .+)$", page, re.MULTILINE)
    log = tmp_path / "log"
    with started(
        *command.split(), "--port=0", log=log, cwd=tmp_path, env=environment(ALICES_KEY=KEY)
    ) as served:
        url = served.url()
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=20) as alice:
            answer = alice.post("/chat", json={"message": "hello"})
            stop = alice.post(f"/chat/{answer.headers['x-run-id']}/stop")
        refused = httpx2.post(f"{url}/chat", json={"message": "hello"}, timeout=20)
        served.wait_for("completed")
        with contextlib.suppress(ProcessLookupError):
            served.stop(signal.SIGTERM)
    assert "You said: hello" in text_of(events_of(by_name("ag-ui"), frames_of(answer.content)))
    assert (stop.status_code, refused.status_code) == (404, 401)
    assert "Traceback" not in log.read_text("utf-8")
