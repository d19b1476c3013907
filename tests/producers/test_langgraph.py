"""LangGraph's own development server, with our middleware where its users put it: in `http.app`.

The server has an environment of its own beside that of the tests (`.ci/producers`). Its official
client asks, and the middleware writes a record of each stream: what it says is compared with what
the scripted model of `langgraph_server/graph.py` said.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from langgraph_sdk import get_client
from support.servers import STARTS_WITHIN_S, STOPS_WITHIN_S, get, wait_for

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PREFIX = Path(sys.prefix)
PYTHON = PREFIX.with_name(f"{PREFIX.name}-langgraph") / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f".ci/producers made no {PYTHON}")

Record = dict[str, Any]

ANSWER, DRAFT = "It is 21 °C in Oslo.", "Dear all, it is warm."
CALLING = {"text": None, "reasoning": "Where is it?", "tokens": (20, 9), "reason": "tool_calls"}
ANSWERING = {"text": ANSWER, "reasoning": None, "tokens": (30, 6), "reason": "stop"}
DRAFTING = {"text": DRAFT, "reasoning": None, "tokens": (30, 5), "reason": "stop"}
LEFT, RIGHT = (
    {**ANSWERING, "text": text, "tokens": (30, 3)} for text in ("Oslo is warm.", "Bergen is wet.")
)
SEARCH = {"name": "search", "status": "completed", "arguments": {"city": "Oslo"},
          "result": "21 °C in Oslo"}  # fmt: skip

ONE_MODE = ("messages-tuple", "messages", "updates", "values", "events", "tasks", "debug")
ALL_MODES = [*ONE_MODE[:1], *ONE_MODE[2:], "custom", "checkpoints"]
SHOW_INTERRUPTS = ("updates", "values", "tasks")


@dataclass
class Server:
    """The running server."""

    port: int
    log: Path
    records_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def record(self, run_id: str) -> Record:
        """The record of the stream that named this run first."""

        def written() -> Record | None:
            lines = (
                self.records_file.read_bytes().splitlines() if self.records_file.exists() else []
            )
            records = (json.loads(line) for line in lines)
            return next((one for one in records if one["run_id"] == run_id), None)

        return wait_for(written)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("langgraph")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    running = Server(port, directory / "server.log", directory / "records.jsonl")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LANG", "PYTHON", "OTEL", "STREAMTRACE"))
    }
    environment = {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "LANGSMITH_TRACING": "false",
        "STREAMTRACE_TEST_RECORDS": str(running.records_file),
    }
    with running.log.open("wb") as output:
        process = subprocess.Popen(
            [PYTHON, HERE / "langgraph_server" / "serve.py", str(port)],
            cwd=directory,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: is_ready(running, process), STARTS_WITHIN_S)
        yield running
        process.send_signal(signal.SIGTERM)
        process.wait(STOPS_WITHIN_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_ready(running: Server, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, running.log.read_text("utf-8", "replace")
    with contextlib.suppress(OSError):
        return get(running.port, "/ok").status == 200
    return False


# --- what is asked: all at once, since a run waits up to a second for a worker -------------------


@dataclass
class Asked:
    """One stream: the thread and run that the client was told, and the parts it got."""

    thread_id: str | None
    run_id: str
    parts: list[Any]


async def ask(
    server: Server, text: str | None, modes: list[str], thread_id: str | None = None, **options: Any
) -> Asked:
    asked = None if text is None else {"messages": [{"role": "user", "content": text}]}
    async with get_client(url=server.url) as client:
        stream = client.runs.stream(
            thread_id, "agent", input=asked, stream_mode=modes, stream_subgraphs=True, **options
        )
        parts = [part async for part in stream]
    return Asked(thread_id, parts[0].data["run_id"], parts)


async def ask_and_answer(server: Server, modes: list[str]) -> tuple[Asked, Asked]:
    """A run that asks, and the one that goes on with the answer."""
    async with get_client(url=server.url) as client:
        thread = await client.threads.create()
    first = await ask(server, "send", modes, thread["thread_id"])
    return first, await ask(server, None, modes, thread["thread_id"], command={"resume": "yes"})


async def converse(server: Server) -> Asked:
    """The events of a thread over four runs: one that ends, one that asks, its answer, an error."""
    channels = ["messages", "values", "tools", "lifecycle", "input"]
    async with httpx2.AsyncClient(base_url=server.url, timeout=30) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        number = 0

        async def command(method: str, **params: Any) -> Any:
            nonlocal number
            number += 1
            body = {"id": number, "method": method, "params": params}
            answer = (await http.post(f"/threads/{thread_id}/commands", json=body)).json()
            assert answer["type"] == "success", answer
            return answer["result"]

        def start(text: str) -> Any:
            asked = {"messages": [{"role": "user", "content": text}]}
            return command("run.start", assistant_id="agent", input=asked)

        async with http.stream(
            "POST", f"/threads/{thread_id}/stream/events", json={"channels": channels}
        ) as response:
            events = thread_events(response)
            run_id = (await start("weather"))["run_id"]
            seen = await until_ended(events)
            await start("send")
            seen += await until_ended(events)
            [question] = [one for one in seen if one["method"] == "input.requested"]
            await command(
                "input.respond",
                namespace=[],
                interrupt_id=question["params"]["data"]["interrupt_id"],
                response="yes",
            )
            seen += await until_ended(events)
            await start("fail")
            seen += await until_ended(events)
    return Asked(thread_id, run_id, seen)


async def thread_events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def until_ended(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    seen = []
    async for event in events:
        seen.append(event)
        params = event["params"]
        is_root = event["method"] == "lifecycle" and not params["namespace"]
        if is_root and params["data"]["event"] in ("completed", "failed", "interrupted"):
            break
    return seen


@pytest.fixture(scope="module")
def streams(server: Server) -> dict[str, Any]:
    async def all_at_once() -> dict[str, Any]:
        asking = {mode: ask(server, "weather", [mode]) for mode in ONE_MODE}
        asking |= {
            "all": ask(server, "weather", ALL_MODES),
            "subgraph": ask(server, "weather, then write", ["messages-tuple", "updates"]),
            "subgraph updates": ask(server, "weather, then write", ["updates"]),
            "branches": ask(server, "compare", ["messages-tuple"]),
            "error": ask(server, "fail", ["messages-tuple"]),
            "thread": converse(server),
        }
        asking |= {f"ask {mode}": ask_and_answer(server, [mode]) for mode in SHOW_INTERRUPTS}
        return dict(zip(asking, await asyncio.gather(*asking.values()), strict=True))

    return asyncio.run(all_at_once())


# --- what is recorded ----------------------------------------------------------------------------


def generations(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "text": one["text"],
            "reasoning": one["reasoning"],
            "tokens": (one["usage"]["input_tokens"], one["usage"]["output_tokens"]),
            "reason": "".join(one["finish_reasons"]),
        }
        for one in record["generations"]
        if one["usage"] is not None  # what a node says by itself costs nothing
    ]


def tool_calls(record: Record) -> list[dict[str, Any]]:
    keys = ("name", "status", "arguments", "result")
    calls = [{key: call[key] for key in keys} for call in record["tool_calls"]]
    return [{**call, "arguments": json.loads(call["arguments"])} for call in calls]


@pytest.mark.parametrize("name", [*ONE_MODE, "all"])
def test_each_mode_tells_the_same_run(server: Server, streams: dict[str, Any], name: str) -> None:
    record = server.record(streams[name].run_id)
    assert (record["dialect"], record["status"]) == ("langgraph", "completed")
    assert generations(record) == [CALLING, ANSWERING]
    assert tool_calls(record) == [SEARCH]
    assert {one["model"] for one in record["generations"]} == {"scripted-1-2026"}
    usage = record["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (50, 15)
    assert (usage["cached_input_tokens"], usage["reasoning_tokens"]) == (8, 4)
    assert record["agent"] == "agent"
    steps = [step["name"] for step in record["steps"]]
    assert steps == ([] if name == "values" else ["agent", "tools", "agent"])
    assert [issue for issue in record["issues"] if issue["kind"] != "usage_partial"] == []


@pytest.mark.parametrize("name", ["subgraph", "subgraph updates"])
def test_a_graph_in_the_graph_speaks_too(
    server: Server, streams: dict[str, Any], name: str
) -> None:
    record = server.record(streams[name].run_id)
    assert generations(record) == [CALLING, ANSWERING, DRAFTING]
    assert tool_calls(record) == [SEARCH]
    names = [step["name"] for step in record["steps"]]
    assert sorted(names) == ["agent", "agent", "draft", "tools", "write"]


def test_branches_at_the_same_time_are_apart(server: Server, streams: dict[str, Any]) -> None:
    record = server.record(streams["branches"].run_id)
    assert generations(record)[0] == ANSWERING
    assert sorted(generations(record)[1:], key=lambda one: str(one["text"])) == [RIGHT, LEFT]
    assert record["usage"]["output_tokens"] == 12


@pytest.mark.parametrize("mode", SHOW_INTERRUPTS)
def test_a_question_and_its_answer(server: Server, streams: dict[str, Any], mode: str) -> None:
    asked, answered = streams[f"ask {mode}"]
    first, second = server.record(asked.run_id), server.record(answered.run_id)
    assert (first["status"], second["status"]) == ("input_required", "completed")
    assert first["thread_id"] == second["thread_id"] == asked.thread_id
    assert generations(first) == [ANSWERING]
    assert [one["text"] for one in second["generations"]] == [
        "Sent: yes"
    ]  # not what was said before
    assert second["usage"] is None


def test_an_error_of_a_node_is_the_runs(server: Server, streams: dict[str, Any]) -> None:
    record = server.record(streams["error"].run_id)
    assert record["status"] == "error"
    assert (record["error"]["type"], record["error"]["message"]) == ("ValueError", "kaput")
    assert generations(record) == [ANSWERING]


def test_the_events_of_a_thread_carry_run_after_run(
    server: Server, streams: dict[str, Any]
) -> None:
    thread = streams["thread"]
    record = server.record(thread.run_id)
    assert (record["dialect"], record["status"]) == ("langgraph-v2", "error")
    assert record["error"]["message"] == "kaput"
    assert record["thread_id"] == thread.thread_id
    assert generations(record) == [CALLING, ANSWERING, ANSWERING, ANSWERING]
    assert [one["text"] for one in record["generations"] if not one["usage"]] == ["Sent: yes"]
    assert tool_calls(record) == [SEARCH]
    assert (record["usage"]["input_tokens"], record["usage"]["output_tokens"]) == (110, 27)
    assert record["issues"] == []


def test_the_client_sees_what_it_would_see_without_us(
    server: Server, streams: dict[str, Any]
) -> None:
    """The official client reads the stream, and the server has nothing to complain of."""
    parts = streams["messages-tuple"].parts
    chunks = [part.data[0] for part in parts if part.event == "messages"]
    texts = [one["content"] for one in chunks if isinstance(one["content"], str)]
    assert ANSWER in "".join(texts)
    log = server.log.read_text("utf-8", "replace")
    assert "streamtrace" not in log
    assert "Blocking call" not in log
