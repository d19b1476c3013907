"""What the README says is so: its code runs, and its tables are those of the package."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.otlp import OtlpReceiver
from support.pages import ROOT, broken_links, execute, python_blocks, rows

from streamtrace import StreamTraceMiddleware
from streamtrace.cli.main import _parser
from streamtrace.testing import RecordingSink

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = python_blocks("README.md")

HELLO = [
    'data: {"type": "token", "content": "Hello."}\n\n',
    'data: {"type": "done"}\n\n',
]
MAIL = [
    'data: {"type": "token", "content": "Write to ann@example.org."}\n\n',
    'data: {"type": "done"}\n\n',
]
ACME = ['data: {"say": "Hello."}\n\n', 'data: {"over": true}\n\n']


def agent_of(pieces: list[str]) -> Callable[[], AsyncIterator[str]]:
    async def my_agent() -> AsyncIterator[str]:
        for piece in pieces:
            yield piece

    return my_agent


def app_of(my_agent: Callable[[], AsyncIterator[str]]) -> Starlette:
    async def chat(request: Request) -> StreamingResponse:
        await request.body()
        return StreamingResponse(my_agent(), media_type="text/event-stream")

    return Starlette(routes=[Route("/chat", chat, methods=["POST"])])


class Page:
    """One block of the README in a world where all backends are there."""

    def __init__(self, folder: Path, otlp: OtlpReceiver) -> None:
        self.folder = folder
        self.otlp = otlp
        self.recording = RecordingSink()

    def run(self, block: str, pieces: list[str] | None = None) -> dict[str, Any]:
        """Run the block around an app that streams `pieces`."""
        my_agent = agent_of(pieces or HELLO)
        given = {"app": app_of(my_agent), "my_agent": my_agent, "sinks": [self.recording]}
        return execute("README.md", BLOCKS[block], given)

    def ask(self, app: Any, pieces: list[str] | None = None) -> None:
        """One stream through the app, to its last record: the client gets what the agent said."""
        with TestClient(app) as client:
            answer = client.post("/chat", json={"message": "hi"})
        assert answer.text == "".join(pieces or HELLO)
        for sink in sinks_of(app):
            sink.close(20)


def sinks_of(app: Any) -> tuple[Any, ...]:
    while not isinstance(app, StreamTraceMiddleware):
        app = getattr(app, "middleware_stack", None) or app.app
    return app.sinks


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.chdir(tmp_path)
    with OtlpReceiver() as otlp:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "LANGFUSE_BASE_URL": otlp.url,
            "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
            "LANGFUSE_SECRET_KEY": "sk-lf-1",
            "STREAMTRACE_JSONL": "from-env.jsonl",
            "STREAMTRACE_PROMETHEUS": "1",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield Page(tmp_path, otlp)


def streams_counted() -> float:
    labels = {"route": "/chat", "dialect": "generic", "status": "completed"}
    return REGISTRY.get_sample_value("streamtrace_streams_total", labels) or 0.0


def one_line_around_fastapi(page: Page) -> None:
    page.ask(page.run("One line")["app"])
    assert {span["name"] for span in page.otlp.spans} == {"invoke_agent", "chat"}


def any_other_app_is_wrapped(page: Page) -> None:
    app = page.run("One line 2")["app"]
    before = streams_counted()
    page.ask(app)
    assert streams_counted() == before + 1


def sinks_of_the_environment(page: Page) -> None:
    page.ask(page.run("Configuration")["app"])
    assert len((page.folder / "from-env.jsonl").read_text().splitlines()) == 1
    assert {one.path for one in page.otlp.requests} == {
        "/v1/traces",
        "/api/public/otel/v1/traces",
    }


def annotations_reach_the_run(page: Page) -> None:
    my_agent = page.run("Annotate")["my_agent"]
    page.ask(StreamTraceMiddleware(app_of(my_agent), sinks=[page.recording]))
    labels = page.recording.runs[0].labels
    assert (labels.user, labels.session, labels.agent) == ("user-7", "thread-1", "forecaster")
    assert (labels.tags, labels.metadata) == (["beta"], {"cache": "hit"})


def content_goes_through_the_redactor(page: Page) -> None:
    page.ask(page.run("Content and privacy", MAIL)["app"], MAIL)
    line = (page.folder / "runs.jsonl").read_bytes()
    assert json.loads(line)["generations"][0]["text"] == "Write to <mail>"
    for left in (line, page.otlp.raw_bytes):
        assert b"<mail>" in left
        assert b"ann@example.org" not in left


def streams_in_flight_are_shown(page: Page) -> None:
    slow_streams = page.run("Streams in flight")["slow_streams"]
    assert slow_streams() == []


def own_prices_come_first(page: Page) -> None:
    usage = '{"input_tokens":1000000,"output_tokens":500000}'
    pieces = ['data: {"type":"done","model":"my-model","usage":' + usage + "}\n\n"]
    page.ask(page.run("Prices", pieces)["app"], pieces)
    assert page.recording.runs[0].cost_usd == 3.0


def an_agent_is_served(page: Page) -> None:
    app = page.run("Serve an agent")["app"]
    with TestClient(StreamTraceMiddleware(app, sinks=[page.recording], content="full")) as client:
        client.post("/chat?dialect=openai-chat", json={"message": "hi"})
    [run] = page.recording.wait(1)
    assert (run.dialect, run.status, run.output.text) == (
        "openai-chat",
        "completed",
        "Hello there.",
    )


def a_dialect_is_used(page: Page) -> None:
    page.ask(page.run("Your own dialect", ACME)["app"], ACME)
    [run] = page.recording.runs
    assert (run.dialect, run.status, run.output.text) == ("acme", "completed", "Hello.")


def a_sink_is_told(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    silent = HELLO[1:]
    page.ask(page.run("Your own sink", silent)["app"], silent)
    assert "/chat: completed, first text after None ns" in caplog.text


def instrument_joins_both(page: Page) -> None:
    app = page.run("Beside OpenTelemetry's own instrumentation")["app"]
    assert isinstance(app, OpenTelemetryMiddleware)
    page.ask(app)
    assert {span["name"] for span in page.otlp.spans} == {"invoke_agent", "chat"}


def a_test_waits_for_its_run(page: Page) -> None:
    page.run("In tests")  # it asserts by itself


CHECKS: dict[str, Callable[..., None]] = {
    "One line": one_line_around_fastapi,
    "One line 2": any_other_app_is_wrapped,
    "Configuration": sinks_of_the_environment,
    "Annotate": annotations_reach_the_run,
    "Content and privacy": content_goes_through_the_redactor,
    "Streams in flight": streams_in_flight_are_shown,
    "Prices": own_prices_come_first,
    "Serve an agent": an_agent_is_served,
    "Your own dialect": a_dialect_is_used,
    "Your own sink": a_sink_is_told,
    "Beside OpenTelemetry's own instrumentation": instrument_joins_both,
    "In tests": a_test_waits_for_its_run,
}


def test_each_block_of_code_is_checked():
    """None is added without a check, and no check is left behind."""
    assert list(BLOCKS) == list(CHECKS)


@pytest.mark.parametrize("block", CHECKS)
def test_the_code_does_what_is_said(
    block: str, page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    """Each block runs as it stands, around an app that streams."""
    check = CHECKS[block]
    wanted = {"page": page, "caplog": caplog}
    check(**{name: wanted[name] for name in inspect.signature(check).parameters})


def section(heading: str) -> str:
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_every_option_is_listed_with_its_bounds():
    """All keywords of the middleware, and the defaults of those that are sizes."""
    parameters = inspect.signature(StreamTraceMiddleware).parameters
    listed = [(name, row[1]) for row in rows(section("Configuration")) for name in code(row[0])]
    assert {name for name, _ in listed} == parameters.keys() - {"app"}
    for name, default in listed:
        size = re.fullmatch(r"(\d+) ([KM])iB", default)
        if name.startswith("max_"):
            assert size is not None, name
            scale = {"K": 1024, "M": 1024**2}[size[2]]
            assert int(size[1]) * scale == parameters[name].default, name
        elif name.endswith("_s"):
            assert float(default) == parameters[name].default


def test_every_extra_is_listed():
    """The table of what to install is that of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [re.search(r"\[(\w+)\]", row[0]) for row in rows(section("Install"))]
    assert {one[1] for one in named if one} == extras["optional-dependencies"].keys()


def test_every_example_is_listed():
    """By its file."""
    listed = {name for row in rows(section("Examples")) for name in code(row[0])}
    assert listed == {path.name for path in (ROOT / "examples").glob("*.py")}


def test_the_commands_that_are_shown_exist():
    """`make` targets, and what the command line is told to do."""
    targets = re.findall(r"^make (\w+)$", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)
    commands = re.findall(r"^streamtrace ([^#\n]+)", section("Command line"), re.M)
    assert [_parser().parse_args(one.split()).command for one in commands] == [
        "demo",
        "run",
        "inspect",
    ]


def test_links_lead_somewhere():
    """To files and headings that are there."""
    assert broken_links("README.md") == []


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
