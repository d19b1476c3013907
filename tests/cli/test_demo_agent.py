"""The demo's agent, written in each dialect, says the same thing."""

from __future__ import annotations

import json

import openai
import pytest
from support import ag_ui_oracle

from streamtrace.cli.demo_agent import PLACES, STALL_S, Pause, script
from streamtrace.cli.demo_wire import WRITERS
from streamtrace.core.frames import encode_frame
from streamtrace.core.summary import RunSummary, Status
from streamtrace.observe.offline import summarize

DIALECTS = list(WRITERS)
WITH_RESULTS = [name for name in DIALECTS if name != "openai-chat"]
WITH_QUESTIONS = ["openai-responses", "ag-ui"]


def body_of(dialect: str, message: str, thread_id: str = "t-1") -> bytes:
    writer = WRITERS[dialect]("r1", thread_id)
    beats = script(message, run_id="r1", thread_id=thread_id)
    events = [beat for beat in beats if not isinstance(beat, Pause)]
    return b"".join(encode_frame(frame) for event in events for frame in writer.write(event))


def run_of(dialect: str, message: str) -> RunSummary:
    """As observed: the dialect is found, not told."""
    return summarize([body_of(dialect, message)])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_reads_back(dialect):
    run = run_of(dialect, "Weather in Tokyo?")
    assert run.dialect == dialect
    assert run.status is Status.COMPLETED
    assert run.terminal_seen
    assert not run.issues
    said = "".join(one.text.text or "" for one in run.generations)
    assert said.startswith("Let me look up Tokyo for you. ")
    assert "sunny and dry, with a high of 19 °C.\n\nThe next" in said
    assert said.endswith("before the sun goes down.")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_its_tools_read_back(dialect):
    run = run_of(dialect, "Weather in Tokyo?")
    assert [call.name for call in run.tool_calls] == ["find_place", "get_forecast"]
    find, forecast = run.tool_calls
    if dialect != "generic":  # which has no word for arguments
        assert json.loads(find.arguments.text or "") == {"query": "Tokyo"}
        assert json.loads(forecast.arguments.text or "")["days"] == 3
    if dialect in WITH_RESULTS:
        assert [call.status for call in run.tool_calls] == ["completed", "completed"]
        assert "139.69" in (find.result.text or "")
        assert "sunny" in (forecast.result.text or "")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_its_usage_reads_back(dialect):
    usage = run_of(dialect, "Weather in Tokyo?").usage
    assert usage is not None
    assert usage.input_tokens == 43
    assert usage.output_tokens is not None
    assert usage.output_tokens > 50


@pytest.mark.parametrize("dialect", [name for name in WITH_RESULTS if name != "ag-ui"])
def test_a_tool_that_fails_reads_back(dialect):
    """AG-UI's results have no mark for failures."""
    run = run_of(dialect, "Weather in Atlantis?")
    assert run.status is Status.COMPLETED
    assert [(call.name, call.status) for call in run.tool_calls] == [("find_place", "error")]
    assert "Atlantis" in (run.tool_calls[0].result.text or "")


@pytest.mark.parametrize("word", ["fail", "Error!", "failing"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_inside_the_stream_reads_back(dialect, word):
    run = run_of(dialect, f"Paris, {word}")
    assert run.status is Status.ERROR
    assert run.error is not None
    assert "overloaded" in (run.error.message.text or "")


@pytest.mark.parametrize("word", ["drop", "truncate", "truncated"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_cut_stream_reads_back(dialect, word):
    run = run_of(dialect, f"{word} it")
    assert run.status is Status.TRUNCATED
    assert not run.terminal_seen


@pytest.mark.parametrize("dialect", WITH_QUESTIONS)
def test_a_question_reads_back(dialect):
    run = run_of(dialect, "Approve a trip to Oslo")
    assert run.status is Status.INPUT_REQUIRED
    assert [(call.name, call.status) for call in run.tool_calls] == [("book_trip", "ready")]


@pytest.mark.parametrize("dialect", ["openai-chat", "anthropic"])
def test_a_call_left_to_the_client_reads_back(dialect):
    """These end a model's turn, whoever runs the tool: it is no question of the run."""
    run = run_of(dialect, "Approve a trip to Oslo")
    assert run.status is Status.COMPLETED
    assert [(call.name, call.status) for call in run.tool_calls] == [("book_trip", "ready")]


@pytest.mark.parametrize("dialect", ["openai-chat", "openai-responses", "anthropic", "ag-ui"])
def test_reasoning_comes_before_the_first_visible_token(dialect):
    run = run_of(dialect, "Weather in Tokyo?")
    assert (run.generations[0].reasoning.text or "").startswith("They ask about Tokyo.")


def test_a_stall_is_long_and_shows_life():
    beats = list(script("stall", run_id="r", thread_id="t"))
    longest = max(beat.seconds for beat in beats if isinstance(beat, Pause))
    assert longest == STALL_S / 2
    for dialect in DIALECTS:
        with_life = body_of(dialect, "Oslo, stall")
        without = body_of(dialect, "Oslo, well")
        assert with_life.count(b"\n\n") == without.count(b"\n\n") + 1


def test_the_same_message_gives_the_same_run():
    assert body_of("ag-ui", "Oslo") == body_of("ag-ui", "Oslo")


@pytest.mark.parametrize("place", [place[0] for place in PLACES.values()])
def test_each_place_is_known(place):
    assert place in (run_of("cognis", f"What about {place}?").output.text or "")


@pytest.mark.parametrize(
    "message", ["Weather in Tokyo?", "Weather in Atlantis?", "stall", "approve", "fail"]
)
def test_ag_ui_events_are_what_the_official_models_and_client_accept(message):
    body = body_of("ag-ui", message).replace(b": keep-alive\n\n", b"")
    events = ag_ui_oracle.events(body)
    opened: list[tuple[str, str]] = []
    kinds = [str(event.type.value) for event in events]
    assert kinds[0] == "RUN_STARTED"
    assert kinds[-1] in ("RUN_FINISHED", "RUN_ERROR")
    for event, kind in zip(events, kinds, strict=True):
        subject = getattr(event, "message_id", None) or getattr(event, "tool_call_id", None)
        name, _, verb = kind.rpartition("_")
        if kind in ("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR", "TOOL_CALL_RESULT"):
            continue
        if verb == "START":
            assert (name, subject) not in opened
            opened.append((name, subject))
        else:
            assert (name, subject) in opened
            if verb == "END":
                opened.remove((name, subject))
    assert not opened or kinds[-1] == "RUN_ERROR"


def test_the_official_client_reads_our_responses():
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = body_of("openai-responses", "Weather in Tokyo?")
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        openai.OpenAI(api_key="none", base_url="http://127.0.0.1", http_client=http) as client,
        client.responses.create(model="any", input="hi", stream=True) as stream,
    ):
        events = list(stream)
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text.endswith("before the sun goes down.")
    assert [event.sequence_number for event in events] == list(range(len(events)))
