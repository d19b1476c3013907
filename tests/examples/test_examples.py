"""Each example is started as its docstring says, asked something, and stopped."""

from __future__ import annotations

import ast
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from support.command import ROOT, Command, environment
from support.otlp import OtlpReceiver
from support.servers import wait_for

from streamtrace.client import RunClient

EXAMPLES = ROOT / "examples"


@contextlib.contextmanager
def started(name: str, log: Path, **variables: str) -> Iterator[Command]:
    """`python examples/NAME 0`, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, "0"],
            cwd=ROOT,
            env=environment(PYTHONUNBUFFERED="1", **variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Command(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def printed_run(command: Command) -> dict[str, Any]:
    """The run that was printed, at the latest when the server was told to stop."""
    command.stop(signal.SIGTERM)
    found = [line for line in command.output().splitlines() if line.startswith("{")]
    assert len(found) == 1, command.output()
    run: dict[str, Any] = json.loads(found[0])
    return run


def test_every_example_is_tested():
    """By a test that names its file."""
    tested = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    files = [path.name for path in EXAMPLES.glob("*.py")]
    assert len(files) >= 9
    assert [name for name in files if f'"{name}"' not in tested] == []


def test_fastapi_with_one_line(tmp_path):
    """The stream is as the app wrote it, and the run is printed without its texts."""
    with started("wrap_fastapi.py", tmp_path / "log") as command:
        asked = {"message": "parrots are green", "thread_id": "t-1"}
        answer = httpx2.post(f"{command.url()}/chat", json=asked, timeout=30)
        run = printed_run(command)
        assert "parrots" not in command.output()
    assert answer.text.count("\n\n") == 6
    assert answer.text.endswith('data: {"type": "done"}\n\n')
    assert (run["status"], run["dialect"], run["route"]) == ("completed", "generic", "/chat")
    assert (run["thread_id"], run["bytes"]) == ("t-1", len(answer.content))
    assert run["generations"][0]["text_chars"] == len("You said: parrots are green ")
    assert run["time_to_first_token_s"] < run["duration_s"]


def test_starlette_with_metrics(tmp_path):
    """After two runs, the metrics of both are there to be scraped."""
    with started("wrap_starlette.py", tmp_path / "log") as command:
        for _ in range(2):
            answer = httpx2.post(
                f"{command.url()}/v1/chat/completions", json={"model": "parrot-1"}, timeout=30
            )
            assert answer.text.endswith("data: [DONE]\n\n")
        ended = scraped(command.url(), 'streamtrace_streams_total{dialect="openai-chat"', 2)
        metrics = httpx2.get(f"{command.url()}/metrics", timeout=30).text
        assert command.stop(signal.SIGINT) in (0, -signal.SIGINT)
    assert 'route="/v1/chat/completions"' in ended
    assert 'status="completed"' in ended
    assert 'streamtrace_tokens_total{model="parrot-1",type="output"} 6.0' in metrics


def scraped(url: str, series: str, value: float) -> str:
    """The sample of a series, once it has this value: runs are recorded just after their end."""

    def found() -> str | None:
        lines = httpx2.get(f"{url}/metrics", timeout=30).text.splitlines()
        return next(
            (
                line
                for line in lines
                if line.startswith(series) and float(line.rpartition(" ")[2]) == value
            ),
            None,
        )

    return wait_for(found)


def test_langfuse_gets_agent_tool_and_generations(tmp_path):
    """With the keys, user, session, tags and texts."""
    asked = {"message": "What is the weather in Oslo?"}
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}
    log = tmp_path / "log"
    with (
        OtlpReceiver() as langfuse,
        started("langfuse_trace.py", log, LANGFUSE_BASE_URL=langfuse.url, **keys) as command,
    ):
        httpx2.post(f"{command.url()}/chat", json=asked, timeout=30)
        spans = langfuse.wait_for_spans(4)
        [request] = langfuse.requests
    assert request.path == "/api/public/otel/v1/traces"
    assert request.headers["authorization"] == "Basic cGstbGYtMTpzay1sZi0x"
    assert sorted(one["name"] for one in spans) == ["chat", "chat", "forecaster", "get_forecast"]
    root = next(one for one in spans if one["name"] == "forecaster")
    assert {one["parent_span_id"] for one in spans} == {None, root["span_id"]}
    assert {one["attributes"]["user.id"] for one in spans} == {"user-7"}
    assert {one["attributes"]["session.id"] for one in spans} == {"thread-1"}
    assert root["attributes"]["langfuse.trace.tags"] == ["example"]
    assert root["attributes"]["langfuse.observation.input"] == asked["message"]
    assert root["attributes"]["langfuse.observation.output"] == "Snow until noon."


def test_a_dialect_in_ten_lines(tmp_path):
    """Its class has ten lines that are not blank, and its runs are read."""
    with started("custom_dialect.py", tmp_path / "log") as command:
        httpx2.get(f"{command.url()}/ask", timeout=30)
        run = printed_run(command)
    source = (EXAMPLES / "custom_dialect.py").read_text("utf-8")
    [dialect] = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    lines = source.splitlines()[dialect.lineno - 1 : dialect.end_lineno]
    assert len([line for line in lines if line]) == 10
    assert (run["dialect"], run["status"]) == ("acme", "completed")
    assert run["usage"]["output_tokens"] == 2
    assert run["generations"][0]["text_chars"] == len("Hello.")


def test_a_sink_that_posts_what_did_not_end_well(tmp_path):
    """The webhook gets the failed run, without its texts."""
    with (
        OtlpReceiver() as webhook,
        started("custom_sink.py", tmp_path / "log", WEBHOOK_URL=webhook.url) as command,
    ):
        httpx2.get(f"{command.url()}/chat", timeout=30)
        [request] = webhook.wait_for_requests(1)
    [run] = json.loads(request.body)
    assert run["status"] == "error"
    assert (run["error"]["type"], run["error"]["message"]) == ("overloaded", None)


async def test_a_chat_that_is_resumed(tmp_path):
    """The page and its module are there; a client that left goes on where it was, and stops it."""
    with started("resumable_chat.py", tmp_path / "log") as command:
        page = httpx2.get(command.url(), timeout=30).text
        assert 'from "/streamtrace.js"' in page
        module = httpx2.get(f"{command.url()}/streamtrace.js", timeout=30)
        assert module.headers["content-type"].startswith("text/javascript")
        async with RunClient(f"{command.url()}/agents") as client:
            told = []
            async with client.start({"message": "Hi"}) as run:
                async for event in run:
                    told.append(event)
                    if event.id == 4:
                        break
            async with client.follow(run.run_id, after=4) as again:
                async for event in again:
                    told.append(event)
                    if event.id == 6:
                        assert await again.stop()
            state = await client.state(run.run_id)
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    words = [event.json().get("delta") for event in told]
    assert "".join(filter(None, words)).startswith("A parrot sat on ")
    assert state["summary"]["status"] == "cancelled"
