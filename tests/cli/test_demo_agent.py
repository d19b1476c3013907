"""The demo's agent: what it does in each dialect, as the middleware sees it."""

from __future__ import annotations

import json

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamtrace import StreamTraceMiddleware
from streamtrace.cli.demo import DIALECTS, written
from streamtrace.cli.demo_agent import PLACES, STALL_S, Pause
from streamtrace.core.summary import RunSummary, Status
from streamtrace.dialects.base import Envelope
from streamtrace.testing import RecordingSink, ask

TELLING_OWN_CALLS = [name for name in DIALECTS if name != "openai-chat"]
TELLING_REASONING = [name for name in DIALECTS if name not in ("cognis", "agentflow")]
ASKING = ("openai-responses", "ag-ui", "vercel-ui")
COUNTING_BEFORE_THE_END = ("generic", "vercel-ui")


def beats_of(dialect: str, message: str) -> list[bytes | Pause]:
    return list(written(dialect, message, Envelope(run_id="r1", thread_id="t1")))


def pieces_of(dialect: str, message: str) -> list[bytes]:
    return [beat for beat in beats_of(dialect, message) if not isinstance(beat, Pause)]


async def run_of(dialect: str, message: str) -> RunSummary:
    """The run without its pauses. Its dialect is found, not told."""
    pieces = pieces_of(dialect, message)

    async def chat(request: Request) -> StreamingResponse:
        return StreamingResponse(iter(pieces), media_type="text/event-stream")

    sink = RecordingSink()
    app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    answer = await ask(middleware, "/chat")
    await middleware.drain()
    assert answer.body == b"".join(pieces)
    [run] = sink.runs
    assert run.dialect == dialect
    assert run.issues.keys() <= {"usage_partial"}
    return run


def calls_of(run: RunSummary) -> list[tuple[str | None, str]]:
    return [(call.name, call.status) for call in run.tool_calls]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_answer_is_whole(dialect):
    run = await run_of(dialect, "Weather in Tokyo?")
    assert run.status is Status.COMPLETED
    assert run.terminal_seen
    assert not run.issues
    said = "".join(one.text.text or "" for one in run.generations)
    assert said.startswith("Let me look up Tokyo for you. ")
    assert "sunny and dry, with a high of 19 °C.\n\nThe next" in said
    assert said.endswith("before the sun goes down.")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_its_tokens_and_their_cost_are_told(dialect):
    """Three calls of the model, each of which reads what was said before."""
    run = await run_of(dialect, "Weather in Tokyo?")
    assert run.usage is not None
    assert (run.usage.input_tokens, run.usage.output_tokens) == (178, 72)
    assert {one.model for one in run.generations} == {DIALECTS[dialect].name}
    assert (run.cost_usd or 0) > 0


@pytest.mark.parametrize("dialect", TELLING_OWN_CALLS)
async def test_its_tools_are_told(dialect):
    run = await run_of(dialect, "Weather in Tokyo?")
    assert calls_of(run) == [("find_place", "completed"), ("get_forecast", "completed")]
    find, forecast = run.tool_calls
    assert json.loads(find.arguments.text or "") == {"query": "Tokyo"}
    assert json.loads(forecast.arguments.text or "")["days"] == 3
    assert "139.69" in (find.result.text or "")
    assert "sunny" in (forecast.result.text or "")


async def test_a_client_of_chat_completions_is_shown_no_call_that_is_not_its_own():
    assert calls_of(await run_of("openai-chat", "Weather in Tokyo?")) == []


@pytest.mark.parametrize("dialect", TELLING_OWN_CALLS)
async def test_a_tool_that_fails_is_told(dialect):
    run = await run_of(dialect, "Weather in Atlantis?")
    told = "completed" if dialect == "ag-ui" else "error"  # AG-UI's results have no such mark
    assert run.status is Status.COMPLETED
    assert calls_of(run) == [("find_place", told)]
    assert "Atlantis" in (run.tool_calls[0].result.text or "")


@pytest.mark.parametrize("word", ["fail", "Error!", "failing"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_inside_the_stream_is_told(dialect, word):
    run = await run_of(dialect, f"Paris, {word}")
    assert run.status is Status.ERROR
    assert run.error is not None
    assert "overloaded" in (run.error.message.text or "")


@pytest.mark.parametrize("word", ["drop", "truncate", "truncated"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_cut_stream_is_told(dialect, word):
    run = await run_of(dialect, f"{word} it")
    assert run.status is Status.TRUNCATED
    assert not run.terminal_seen
    assert (run.usage is not None) == (dialect in COUNTING_BEFORE_THE_END)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_call_that_waits_is_told(dialect):
    """It is a question where the wire has a word for one; else it only ends the model's turn."""
    run = await run_of(dialect, "Approve a trip to Oslo")
    assert run.status is (Status.INPUT_REQUIRED if dialect in ASKING else Status.COMPLETED)
    assert calls_of(run) == [("book_trip", "ready")]


@pytest.mark.parametrize("dialect", TELLING_REASONING)
async def test_reasoning_comes_first(dialect):
    run = await run_of(dialect, "Weather in Tokyo?")
    assert (run.generations[0].reasoning.text or "").startswith("They ask about Tokyo.")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stall_is_long_and_shows_life(dialect):
    beats = beats_of(dialect, "Oslo, stall")
    assert max(beat.seconds for beat in beats if isinstance(beat, Pause)) == STALL_S / 2
    assert len(pieces_of(dialect, "Oslo, stall")) == len(pieces_of(dialect, "Oslo, well")) + 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_same_message_gives_the_same_run(dialect):
    assert pieces_of(dialect, "Oslo") == pieces_of(dialect, "Oslo")


@pytest.mark.parametrize("place", [place[0] for place in PLACES.values()])
async def test_each_place_is_known(place):
    run = await run_of("cognis", f"What about {place}?")
    assert f"{place} today:" in (run.output.text or "")
