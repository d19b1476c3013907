"""The pages tell what is there: tests that exist, files that exist, statuses and dialects as they
are, and code that runs."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.live import live
from support.pages import ROOT, broken_links, execute, python_blocks, rows
from support.summaries import completed_run, failed_run

from streamtrace import Event, TextDelta
from streamtrace.client import RunClient
from streamtrace.core.spans import project
from streamtrace.core.summary import Status
from streamtrace.dialects.detect import BUILT_IN, UNKNOWN
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.sinks.langfuse.observations import LEVEL, observations
from streamtrace.testing import RecordingSink

PAGES = ("architecture", "backpressure", "clients", "dialects", "guarantees", "outcomes", "resume")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PROMISE = re.compile(r"^\*\*([A-Z]\d+b?)\.\*\* ", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text("utf-8")


@functools.cache
def names_in(path: str) -> set[str]:
    """The tests of a file: its functions, and what it assigns (state machines)."""
    file = ROOT / path
    body = ast.parse(file.read_text("utf-8")).body if file.exists() else []
    named = {one.name for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = {target.id for one in body if isinstance(one, ast.Assign) for target in one.targets
                if isinstance(target, ast.Name)}  # fmt: skip
    return {name for name in named | assigned if name.lower().startswith("test")}


# --- guarantees --------------------------------------------------------------------------------


def test_every_test_that_proves_a_promise_exists():
    """By file and name."""
    found = TEST.findall(text_of("guarantees"))
    assert len(found) > 100
    missing = [f"{path}::{name}" for path, name in found if name not in names_in(path)]
    assert missing == []


def test_every_promise_has_its_tests():
    """And stands on the page once."""
    promises = text_of("guarantees").split("\n## Not proven yet")[0]
    parts = PROMISE.split(promises)[1:]
    labels, texts = parts[::2], parts[1::2]
    assert len(labels) > 40
    assert len(set(labels)) == len(labels)
    assert [label for label, text in zip(labels, texts, strict=True) if not TEST.search(text)] == []


def test_what_is_not_proven_belongs_to_a_promise():
    """Its label is one of those above."""
    promised, open_ends = text_of("guarantees").split("\n## Not proven yet")
    labels = [row[0] for row in rows(open_ends)]
    assert labels
    assert set(labels) <= set(PROMISE.findall(promised))


# --- outcomes ----------------------------------------------------------------------------------


def test_every_status_is_decided_shown_and_explained():
    """Each has a row in the deciding table, an example, and a row for the sinks."""
    deciding, rest = text_of("outcomes").split("\n## Examples")
    examples, sinks = rest.split("\n## What sinks make of it")
    statuses = {f"`{status}`" for status in Status}
    assert {row[2] for row in rows(deciding)} == statuses
    assert all(any(status in row[1] for row in rows(examples)) for status in statuses)
    assert {row[0] for row in rows(sinks)} == statuses


@pytest.mark.parametrize("status", Status)
def test_sinks_make_of_a_status_what_is_said(status: Status):
    """The span's status and the level in Langfuse."""
    [row] = [row for row in rows(text_of("outcomes")) if row[0] == f"`{status}`"]
    failed = status in (Status.ERROR, Status.TIMEOUT)
    run = failed_run(status=status) if failed else completed_run(status=status)
    root = project(run)[0]
    assert row[1] == ("unset" if root.error is None else "error")
    assert row[2] == f"`{observations(run)[0].attributes.get(LEVEL, 'DEFAULT')}`"
    assert row[3] == ("no" if root.error is None else "yes")


# --- dialects ----------------------------------------------------------------------------------


def test_the_built_in_dialects_are_listed_in_the_order_in_which_they_are_asked():
    """And the unknown comes last."""
    table = text_of("dialects").split("\n## ")[0]
    listed = [row[0].strip("`") for row in rows(table)]
    assert listed == [dialect.name for dialect in (*BUILT_IN, UNKNOWN)]


def app_that_says(*pieces: str) -> Starlette:
    async def chat(request: Request) -> StreamingResponse:
        async def body() -> Any:
            for piece in pieces:
                yield piece

        return StreamingResponse(body(), media_type="text/event-stream")

    return Starlette(routes=[Route("/", chat)])


def test_the_code_for_dialects_runs():
    """The one without a memory, the one with, and the test of the first."""
    plain, with_memory, its_test = python_blocks("docs/dialects.md").values()
    sink = RecordingSink()
    app = app_that_says('data: {"say": "Hi"}\n\n', 'data: {"over": true}\n\n')
    names: dict[str, Any] = {"app": app, "sinks": [sink]}
    TestClient(execute("docs/dialects.md", plain, names)["app"]).get("/")
    [run] = sink.wait(1)
    assert (run.dialect, run.status, run.output.text) == ("acme", "completed", "Hi")
    execute("docs/dialects.md", its_test, names)

    execute("docs/dialects.md", with_memory, names)
    app = app_that_says("data: He\n\n", "data: Hello\n\n")
    observe = names["StreamTraceMiddleware"]
    TestClient(observe(app, sinks=[sink], dialects=[names["WholeText"]()])).get("/")
    run = sink.wait(2)[1]
    assert (run.dialect, run.status, run.output.text) == ("whole-text", "completed", "Hello")


# --- architecture ------------------------------------------------------------------------------


def test_every_file_is_in_the_table_and_every_file_of_the_table_is_there():
    """But for the command line and the C, which stand there as a whole."""
    section = text_of("architecture").split("\n## Files\n")[1].split("\n## ")[0]
    listed = [row[0].strip("`") for row in rows(section)]
    package = ROOT / "streamtrace"
    files = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    expected = {one for one in files if not one.startswith("cli/") and "__init__" not in one}
    assert sorted(listed) == sorted(expected | {"cli/", "c/"})


# --- all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    """To files and headings that are there."""
    assert broken_links(f"docs/{page}.md") == []


async def test_the_code_for_clients_runs():
    """Against an agent that says two words: from its start, and from its middle."""

    async def agent(run: RunContext) -> AsyncIterator[Event]:
        for word in ("Hello", " there."):
            yield TextDelta(text=word, message_id=run.message_id)

    [block] = python_blocks("docs/clients.md").values()
    names = execute("docs/clients.md", block, {})
    async with live(AgentRouter().resumable("/agents", agent).app()) as url:
        assert await names["talk"](f"{url}/agents") == "Hello there."
        async with RunClient(f"{url}/agents") as client:
            async with client.start({"run_id": "r-1", "message": "Hi"}) as run:
                last_id = max([event.id async for event in run])
            assert await names["go_on"](client, "r-1", 2) == last_id
            assert await names["go_on"](client, "r-2", 2) == 2


def test_the_code_for_resumable_runs_runs():
    """And its router has the paths of the contract, and no others."""

    async def agent(run: Any) -> Any:
        yield None

    [block] = python_blocks("docs/resume.md").values()
    router = execute("docs/resume.md", block, {"agent": agent})["router"]
    contract = text_of("resume").split("\n## The contract\n")[1].split("\n## ")[0]
    told = {
        path.replace("{prefix}", "/chat")
        for path in re.findall(r"^\| `(?:GET|POST) ([^`]+)` \|", contract, re.MULTILINE)
    }
    assert {route.path for route in router.routes} == told
