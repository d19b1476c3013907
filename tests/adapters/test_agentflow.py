"""Graphs of AgentFlow, now 10xGraph. Its package needs a newer Python than we do. Where there is
one, graphs are run in an environment of their own (`.ci/producers`). What they gave is recorded,
and read everywhere."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.adapted import Events, generations, run_of, told, tool_calls
from support.pages import ROOT
from support.wire import text_of

from streamtrace.adapters import agentflow_events
from streamtrace.core import events as ev

HERE = Path(__file__).parent
PREFIX = Path(sys.prefix)
PYTHON = PREFIX.with_name(f"{PREFIX.name}-agentflow") / "bin" / "python"
RECORDED = dict(map(json.loads, (HERE / "agentflow_chunks.jsonl").read_text("utf-8").splitlines()))
SOURCES = ["recorded", *(["run"] if PYTHON.exists() else [])]

WEATHER = ("weather", "completed", {"city": "Oslo"}, "21 °C in Oslo")


async def replayed(chunks: list[Any]) -> AsyncIterator[Any]:
    """As the graph gave them, and raised what it raised."""
    for chunk in chunks:
        if "raised" in chunk:
            raise type(chunk["raised"], (Exception,), {})(chunk["text"])
        yield SimpleNamespace(**chunk)


def run(tmp_path: Path) -> dict[str, Any]:
    """What the script told."""
    done = subprocess.run(
        [PYTHON, HERE / "frameworks" / "agentflow_runs.py"],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-3000:]
    return json.loads(done.stdout)


def read(written: Any) -> Events:
    return [msgspec.convert(fields, getattr(ev, name)) for name, fields in written]


@pytest.fixture(scope="module", params=SOURCES)
def said(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Events]:
    """The events of each scenario."""
    if request.param == "recorded":
        return {
            name: asyncio.run(told(agentflow_events(replayed(chunks))))
            for name, chunks in RECORDED.items()
        }
    found = run(tmp_path_factory.mktemp("runs"))
    assert found["left"] == 0  # who closes the events leaves no task behind
    told_by_page = text_of(read(found["documented"]))
    assert told_by_page == "It is warm."
    return {name: read(written) for name, written in found["in_order"].items()}


def test_text_is_told_once(said):
    run = run_of(said["plain"])
    assert (run.status, run.thread_id is not None) == ("completed", True)
    assert [text for _, text, *_ in generations(run)] == ["It is warm."]


@pytest.mark.parametrize("scenario", ["tools", "tools_low"])
def test_a_tool_between_two_answers(said, scenario):
    run = run_of(said[scenario])
    assert run.status == "completed"
    assert tool_calls(run) == [WEATHER]
    assert [(thought, text) for thought, text, *_ in generations(run)] == [
        ("Where is it?", "Let me look. "),
        (None, "It is warm."),
    ]
    assert [step.name for step in run.steps] == ["model", "tools", "model"]


def test_the_state_is_told_where_it_is_asked_for(said):
    assert any(isinstance(one, ev.State) for one in said["tools"])
    assert not any(isinstance(one, ev.State) for one in said["tools_low"])


def test_a_tool_that_fails(said):
    run = run_of(said["broken_tool"])
    [(name, status, _, result)] = tool_calls(run)
    assert (run.status, name, status) == ("completed", "broken", "error")
    assert "no such table" in result


def test_a_model_that_fails(said):
    assert isinstance(said["model_fails"][-1], ev.RunFailed)
    assert said["model_fails"][-1].type == "NodeError"
    assert "no more to say" in said["model_fails"][-1].message


def test_a_question_and_its_answer(said):
    """The run that goes on tells the call again, which its client may not have seen."""
    asked, answered = run_of(said["asks"]), run_of(said["answered"])
    assert said["asks"][-1] == ev.RunInterrupted(reason="input_required", tool_call_id="call-1")
    assert (asked.status, answered.status) == ("input_required", "completed")
    assert tool_calls(answered) == [("delete", "completed", {"city": "Oslo"}, "Deleted: yes")]
    assert text_of(said["answered"]) == "Done."


async def events_of(*chunks: dict[str, Any]) -> Events:
    given = [{"run_id": "r", "thread_id": "t", **chunk} for chunk in chunks]
    return await told(agentflow_events(replayed(given)))


async def test_what_graphs_seldom_say():
    """A message that was not streamed has its model and its tokens; tools may tell of themselves;
    a client's own tool ends the run."""
    whole = {
        "message_id": "m", "role": "assistant", "delta": False,
        "content": [{"type": "reasoning", "summary": "Hm."}, {"type": "text", "text": "Hi."}],
        "metadata": {"model": "scripted-1", "provider": "openai"},
        "usages": {"prompt_tokens": 5, "completion_tokens": 2, "cache_read_input_tokens": 1},
    }  # fmt: skip
    progress = {"status": "tool_progress", "tool_call_id": "c", "message": "half"}
    remote = {"type": "remote_tool_call", "id": "c", "name": "open_page", "args": {"page": 7}}
    events = await events_of(
        {"event": "message", "message": {"role": "user", "content": []}},
        {"event": "message", "message": whole},
        {
            "event": "message",
            "message": {"message_id": "n", "role": "assistant", "content": [remote]},
        },
        {"event": "message", "data": progress},
        {"event": "updates", "data": {"status": "graph_invoked", "is_interrupted": True}},
    )
    run = run_of(events)
    assert run.status == "input_required"
    [first, _] = run.generations
    assert (first.model, first.provider, first.usage.input_tokens) == ("scripted-1", "openai", 5)
    assert (first.text.text, first.reasoning.text) == ("Hi.", "Hm.")
    assert ev.ToolCallReady(tool_call_id="c", arguments='{"page":7}') in events
    assert ev.Custom(name="tool_progress", value=progress) in events


@pytest.mark.parametrize(
    "chunk",
    [
        {"event": "message", "message": {"role": "assistant", "content": "text"}},
        {"event": "message", "message": {"role": "tool", "content": [7, {"type": "tool_result"}]}},
        {"event": "message", "message": {"role": "assistant", "content": [{"type": "tool_call"}]}},
        {"event": "error", "data": {"reason": 7}},
        {"event": "updates", "data": {"status": "interrupted", "interrupt": 7}},
        {"event": "new"},
        {},
    ],
)
async def test_odd_chunks_raise_nothing(chunk):
    events = await events_of(chunk)
    assert isinstance(events[-1], ev.TERMINAL)
    assert not isinstance(events[-1], ev.RunFailed) or chunk["event"] == "error"
