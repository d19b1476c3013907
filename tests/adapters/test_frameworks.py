"""The OpenAI Agents SDK and Google's ADK. They do not fit beside our other packages: their runs are
made in an environment of their own (`.ci/producers`), and what was told is looked at here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.adapted import Events, generations, run_of, tool_calls
from support.pages import ROOT
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.google_adk import GoogleAdk

HERE = Path(__file__).parent / "frameworks"
PREFIX = Path(sys.prefix)
PYTHON = PREFIX.with_name(f"{PREFIX.name}-frameworks") / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f".ci/producers made no {PYTHON}")


def runs_of(framework: str, tmp_path: Path) -> dict[str, Any]:
    """What its script printed, by scenario."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "OPENAI", "GOOGLE", "ADK"))
    }
    done = subprocess.run(
        [PYTHON, HERE / f"{framework}_runs.py"],
        cwd=tmp_path,
        env={
            **inherited,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def openai_agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return runs_of("openai_agents", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def google_adk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return runs_of("google_adk", tmp_path_factory.mktemp("runs"))


def read(written: Any) -> Events:
    """Events, as the script wrote them."""
    return [msgspec.convert(fields, getattr(ev, name)) for name, fields in written]


# --- OpenAI Agents -----------------------------------------------------------------------------

CALLING = ("Where is it?", None, (20, 9), "completed")
OSLO = {"city": "Oslo"}


@pytest.mark.parametrize("wire", ["responses", "chat"])
def test_agents_call_tools_over_both_apis(openai_agents, wire):
    run = run_of(read(openai_agents[f"tools by {wire}"]))
    assert run.status == "completed"
    assert generations(run) == [CALLING, (None, "It is warm.", (30, 2), "completed")]
    assert tool_calls(run) == [("weather", "completed", OSLO, "21 °C in Oslo")]
    assert {one.model for one in run.generations} == {"scripted-1"}
    assert (run.usage.reasoning_tokens, run.usage.cached_input_tokens) == (4, 8)
    assert [step.name for step in run.steps] == ["forecaster"]
    assert read(openai_agents[f"tools by {wire}"])[0] == ev.RunStarted(agent="forecaster")


def test_a_handoff_is_a_call_and_the_next_step(openai_agents):
    run = run_of(read(openai_agents["handoff"]))
    assert [step.name for step in run.steps] == ["router", "poet"]
    assert run.steps[0].finished_ns < run.steps[1].started_ns
    assert tool_calls(run) == [("transfer_to_poet", "completed", {}, '{"assistant": "poet"}')]
    assert generations(run)[-1][1] == "Warm Oslo."


def test_an_approval_interrupts_and_the_next_run_goes_on(openai_agents):
    events = read(openai_agents["approval"])
    [asked] = [at for at, one in enumerate(events) if isinstance(one, ev.RunInterrupted)]
    assert events[asked] == ev.RunInterrupted(reason="approval", tool_call_id="call-1")
    assert tool_calls(run_of(events[: asked + 1])) == [("delete", "ready", OSLO, None)]
    answered = run_of(events[asked + 1 :])
    assert tool_calls(answered) == [(None, "completed", None, "gone")]
    assert generations(answered) == [(None, "Done.", (30, 1), "completed")]
    assert answered.status == "completed"


def test_what_a_tool_raises_is_its_result(openai_agents):
    """The SDK tells the model in words, and nothing else shows it."""
    run = run_of(read(openai_agents["failing tool"]))
    [(name, status, _, result)] = tool_calls(run)
    assert (name, status) == ("broken", "completed")
    assert "error occurred" in result
    assert run.status == "completed"


FAILURES = {"too many turns": "MaxTurnsExceeded", "refused": "BadRequestError"}


@pytest.mark.parametrize("name", FAILURES)
def test_what_the_run_raises_fails_it(openai_agents, name):
    run = run_of(read(openai_agents[name]))
    assert (run.status, run.error.type) == ("error", FAILURES[name])


def test_a_run_that_is_cancelled_elsewhere_says_so(openai_agents):
    assert run_of(read(openai_agents["cancelled"])).status == "cancelled"


def test_who_closes_the_events_stops_the_agents(openai_agents):
    """No task of the run goes on."""
    assert openai_agents["closed"] == 0


def test_the_agent_of_the_docs_with_openai_agents(openai_agents):
    assert text_of(read(openai_agents["docs"])) == "It is warm."


# --- Google ADK --------------------------------------------------------------------------------

THINKING = ("Where is it?", None, (20, 9), "STOP")
SAYING = (None, "It is warm.", (20, 9), "STOP")
WEATHER = ("weather", "completed", OSLO, '{"weather":"21 °C in Oslo"}')

ENDS: dict[str, tuple[str, str | None]] = {
    "text": ("completed", None),
    "tools": ("completed", None),
    "tools without streaming": ("completed", None),
    "transfer": ("completed", None),
    "long running": ("input_required", "long_running"),
    "confirmation": ("input_required", "confirmation"),
    "credential": ("input_required", "credential"),
    "failing": ("error", None),
}


def facts(run: RunSummary) -> Any:
    """What two runs of one agent have in common: all but times and ids."""
    calls = [(one.name, one.status, one.result.text) for one in run.tool_calls]
    steps = [step.name for step in run.steps]
    return run.status, generations(run), calls, steps, run.error, run.usage


def on_the_wire(body: str) -> Events:
    """The answer of ADK's server, with its end where our adapter puts it."""
    events = events_of(GoogleAdk(), frames_of(body.encode()))
    return events if isinstance(events[-1], ev.TERMINAL) else [*events, ev.RunFinished()]


@pytest.mark.parametrize("name", ENDS)
def test_a_runner_tells_what_the_server_tells(google_adk, name):
    events = read(google_adk[name]["events"])
    run, served = run_of(events), run_of(on_the_wire(google_adk[name]["wire"]))
    assert facts(run) == facts(served)
    status, reason = ENDS[name]
    assert run.status == status
    assert getattr(events[-1], "reason", None) == reason


def test_a_run_with_a_tool(google_adk):
    run = run_of(read(google_adk["tools"]["events"]))
    assert generations(run) == [THINKING, SAYING]
    assert tool_calls(run) == [WEATHER]
    assert {one.model for one in run.generations} == {"scripted-1"}


def test_another_agent_takes_over(google_adk):
    run = run_of(read(google_adk["transfer"]["events"]))
    assert [step.name for step in run.steps] == ["forecaster", "poet"]


def test_a_failing_model_ends_its_step(google_adk):
    *_, step, end = read(google_adk["failing"]["events"])
    assert isinstance(step, ev.StepFinished)
    assert end == ev.RunFailed(type="RuntimeError", message="the provider is down")


def test_credentials_are_not_told(google_adk):
    """What a client needs to sign in remains."""
    assert google_adk["secrets"]["held"] == 6
    events = read(google_adk["secrets"]["events"])
    [ready] = [json.loads(one.arguments) for one in events if isinstance(one, ev.ToolCallReady)]
    assert ready == {
        "rawAuthCredential": {"authType": "oauth2", "oauth2": {"clientId": "c", "state": "s"}},
        "exchanged_auth_credential": {"authType": "http", "http": {"scheme": "basic"}},
        "kept": {"list": [{"authType": "apiKey"}]},
    }
    assert "client-secret-1" not in json.dumps(google_adk["secrets"])


def test_the_sync_runner(google_adk):
    run = run_of(read(google_adk["sync"]))
    assert tool_calls(run) == [WEATHER]
    assert generations(run) == [THINKING, SAYING]


def test_who_closes_the_events_stops_the_runner(google_adk):
    assert google_adk["closed"] == 0


def test_the_agent_of_the_docs_with_google_adk(google_adk):
    events = read(google_adk["docs"])
    assert [one.text for one in events if isinstance(one, ev.TextDelta)] == ["It is ", "warm."]
