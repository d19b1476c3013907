"""`streamtrace demo`, as a process, over real connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
from collections.abc import Iterator

import httpx2
import pytest
from support.command import Command, started

from streamtrace.cli.demo import DIALECTS
from streamtrace.cli.recordings import RECORDINGS, messages
from streamtrace.core.summary import RunSummary, Status
from streamtrace.observe.offline import summarize


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with started("demo", "--port", "0", log=log) as command:
        command.url()
        yield command


@pytest.fixture
def client(demo: Command) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=demo.url(), timeout=30) as client:
        yield client


async def observed(client: httpx2.AsyncClient, path: str, body: dict[str, object]) -> RunSummary:
    """The stream at `path`, folded as it came."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    chunks: list[tuple[int, bytes]] = []
    async with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async for chunk in response.aiter_raw():
            chunks.append((int((loop.time() - begin) * 1e9), chunk))
    return summarize(chunks)


async def test_every_dialect_is_served_at_an_agents_pace_and_read_back(demo):
    async with httpx2.AsyncClient(base_url=demo.url(), timeout=30) as client:
        runs = await asyncio.gather(
            *(
                observed(client, "/chat", {"message": "Weather in Tokyo?", "dialect": name})
                for name in DIALECTS
            )
        )
    for name, run in zip(DIALECTS, runs, strict=True):
        assert run.dialect == name
        assert run.status is Status.COMPLETED
        shown = [] if name == "openai-chat" else ["find_place", "get_forecast"]
        assert [call.name for call in run.tool_calls] == shown
        assert (run.cost_usd or 0) > 0
        assert (run.output.text or "").endswith("before the sun goes down.")
        assert 0 < run.time_to_first_byte_ns <= run.time_to_first_token_ns
        assert run.time_to_first_token_ns <= run.time_to_first_visible_token_ns < run.duration_ns


def test_a_first_run_is_drawn_without_anybody_asking(demo):
    demo.wait_for(r"completed.* · ag-ui · POST /chat · thread first-run\b")


async def test_each_way_to_end_is_told_in_the_terminal(demo):
    asked = {
        "the end of it: fail": "error",
        "the end of it: drop": "truncated",
        "the end of it: approve": "input required",
        "the end of it: Atlantis?": "completed",
    }
    async with httpx2.AsyncClient(base_url=demo.url(), timeout=30) as client:
        await asyncio.gather(
            *(
                observed(
                    client,
                    "/chat",
                    {"message": message, "dialect": "ag-ui", "thread_id": f"way-{n}"},
                )
                for n, message in enumerate(asked)
            )
        )
    for n, status in enumerate(asked.values()):
        demo.wait_for(rf"{status}.* · ag-ui · POST /chat · thread way-{n}\b")


def test_a_client_that_leaves_is_told_in_the_terminal(demo, client):
    with client.stream("POST", "/chat", json={"message": "Oslo", "thread_id": "left"}) as response:
        next(response.iter_raw())
    demo.wait_for(r"disconnected · \S+ · POST /chat · thread left\b")


async def test_runs_are_counted(demo, client):
    async with httpx2.AsyncClient(base_url=demo.url(), timeout=30) as other:
        await observed(other, "/chat", {"message": "drop", "dialect": "agentflow"})
    demo.wait_for(r"truncated · agentflow")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    lines = [
        line
        for line in answer.text.splitlines()
        if line.startswith("streamtrace_") and 'dialect="agentflow"' in line
    ]
    assert any('status="truncated"' in line and 'route="/chat"' in line for line in lines)


async def test_recordings_are_replayed_byte_for_byte(demo):
    async def replayed(client: httpx2.AsyncClient, name: str) -> list[bytes]:
        async with client.stream("POST", f"/replay/{name}") as response:
            return [chunk async for chunk in response.aiter_raw()]

    async with httpx2.AsyncClient(base_url=demo.url(), timeout=30) as client:
        bodies = await asyncio.gather(*(replayed(client, name) for name in RECORDINGS))
    for chunks, one in zip(bodies, RECORDINGS.values(), strict=True):
        assert b"".join(chunks) == one.body
        assert len(chunks) > 1
        demo.wait_for(rf"· {one.dialect} · POST /replay/{{recording}}")


def test_recordings_are_listed_with_their_source(client):
    listed = client.get("/recordings").json()
    assert [one["name"] for one in listed] == list(RECORDINGS)
    for one in listed:
        assert one["dialect"] in DIALECTS
        assert one["licence"] in ("MIT", "Apache-2.0")
        assert "/" in one["source"]


def test_recordings_are_what_their_meta_files_say():
    from streamtrace.cli import recordings

    for name, one in RECORDINGS.items():
        meta = json.loads((recordings._FOLDER / f"{name}.meta.json").read_text())
        assert hashlib.sha256(one.body).hexdigest() == meta["sha256"]
        assert {"repo", "commit", "path", "licence"} <= meta["source"].keys()


@pytest.mark.parametrize(
    "body", [b"", b"data: 1\n\ndata: 2\n\n", b"a\r\n\r\nb\r\n\r\nc", b"\n\n\n\nx"]
)
def test_messages_join_to_their_body(body):
    assert b"".join(messages(body)) == body


@pytest.mark.parametrize(
    "name", ["nothing", "..%2Fdemo", "%2e%2e/demo.py", "ag-ui-tools.sse", "x" * 5000]
)
def test_an_unknown_recording_is_not_found(client, name):
    assert client.post(f"/replay/{name}").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b'{"message": "\xff"}', 400, "JSON"),
        (b"[]", 422, "object"),
        (b"{}", 422, "message"),
        (b'{"message": 1}', 422, "message"),
        (b'{"message": "  "}', 422, "empty"),
        (b'{"message": "hi", "dialect": "klingon"}', 422, "cognis"),
        (b'{"message": "hi", "thread_id": 7}', 422, "thread_id"),
        (json.dumps({"message": "hi", "thread_id": "x" * 129}).encode(), 422, "thread_id"),
        (json.dumps({"message": "x" * 8193}).encode(), 422, "8192 bytes"),
        (json.dumps({"message": "é" * 4097}).encode(), 422, "8192 bytes"),
        (json.dumps({"message": "x" * 70_000}).encode(), 413, "65536 bytes"),
    ],
)
def test_a_wrong_body_is_refused_with_the_reason(client, body, status, told):
    answer = client.post("/chat", content=body)
    assert answer.status_code == status
    assert told in answer.json()["error"]


def test_the_headers_that_a_client_looks_for_are_sent(client):
    body = {"message": "drop", "dialect": "vercel-ui"}
    with client.stream("POST", "/chat", json=body) as response:
        assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert response.headers.get_list("cache-control") == ["no-cache"]


def test_null_says_as_much_as_nothing(client):
    body = {"message": "drop", "thread_id": None, "dialect": None}
    with client.stream("POST", "/chat", json=body) as response:
        assert response.status_code == 200
        assert next(response.iter_raw()).startswith(b"event: token")


def test_chat_is_only_posted_to(client):
    assert client.get("/chat").status_code == 405


def test_the_page_and_all_it_needs_come_from_here(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    own = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
    assert len(own) > 2
    for path in own:
        assert client.get(path).status_code == 200
    for path in ("/", "/static/style.css", "/static/app.js", "/static/dialects.js"):
        assert not re.search(r"(?:https?:)?//[a-z]", client.get(path).text)


def test_it_tells_how_to_try_it(demo):
    url = demo.url()
    told = demo.output()
    assert told.count("curl ") == 3
    assert f"{url}/chat" in told
    assert "\x1b" not in told


def test_it_stops_by_itself_even_while_a_stream_is_open(tmp_path):
    with (
        started("demo", "--port", "0", "--for", "2", log=tmp_path / "log") as command,
        httpx2.Client(base_url=command.url(), timeout=30) as client,
        client.stream("POST", "/chat", json={"message": "stall"}) as response,
    ):
        next(response.iter_raw())
        assert command.process.wait(30) == 0
        assert "ERROR" not in command.output()


def test_ctrl_c_stops_it(tmp_path):
    with started("demo", "--port", "0", log=tmp_path / "log") as command:
        with httpx2.Client(base_url=command.url(), timeout=30) as client:
            assert client.get("/recordings").status_code == 200
        assert command.stop(signal.SIGINT) == 0
        assert "Traceback" not in command.output()
