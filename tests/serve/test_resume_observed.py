"""The connections of one run, traced: linked to the first, and nothing is counted twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.asgi import settle, until
from support.followed import Reader, Told, numbered

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.core.spans import project
from streamtrace.core.summary import ModelUsage, TokenCounts, add_up
from streamtrace.observe.delivery import less
from streamtrace.serve import AgentRouter
from streamtrace.serve.log.base import LogBounds
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.run import Settings
from streamtrace.sinks.prometheus import PrometheusSink
from streamtrace.testing import RecordingSink

START = json.dumps({"run_id": "r", "thread_id": "t", "model": "m-1"}).encode()
MODEL = ev.GenerationStarted(model="m-1", provider="openai")
USED = ev.Usage(input_tokens=30, output_tokens=12, model="m-1", provider="openai")


class Observed:
    """A resumable agent, observed. `dialect` may or may not carry usage."""

    def __init__(self, dialect: str = "openai-chat", **options: Any) -> None:
        self.agent = Told()
        self.sink = RecordingSink()
        self.registry = CollectorRegistry()
        router = AgentRouter().resumable("/chat", self.agent, dialect, **options)
        sinks = [self.sink, PrometheusSink(registry=self.registry)]
        self.app = StreamTraceMiddleware(router.app(), sinks=sinks)

    async def begin(self, **headers: str) -> Reader:
        reader = Reader(START).start(self.app, "/chat/runs", "POST", **headers)
        await until(lambda: bool(reader.sent))
        return reader

    def follow(self, query: str = "") -> Reader:
        return Reader().start(self.app, f"/chat/runs/r/events{query}")

    async def records(self, count: int) -> dict[str, RunSummary]:
        """By the kind of their connection, once all are there."""
        await settle(self.app)
        await until(lambda: len(self.sink.runs) >= count)
        found = {run.connection.kind: run for run in self.sink.runs if run.connection}
        assert len(found) == len(self.sink.runs) == count
        return found

    def counted(self, name: str, **labels: str) -> float:
        """Over all series that have these labels."""
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"streamtrace_{name}" and labels.items() <= sample.labels.items()
        )

    def assert_counted_once(self, status: str) -> None:
        assert self.counted("streams_started_total") == 1
        assert self.counted("streams_active") == 0
        assert self.counted("streams_total") == 1
        assert self.counted("streams_total", status=status) == 1
        assert self.counted("stream_duration_seconds_count") == 1
        assert self.counted("tokens_total", type="input") == 30
        assert self.counted("tokens_total", type="output") == 12
        assert self.counted("tool_calls_total") == 1


def tool() -> list[ev.Event]:
    return [
        ev.ToolCallStarted(tool_call_id="c", name="search"),
        ev.ToolCallReady(tool_call_id="c", arguments="{}"),
    ]


@pytest.mark.parametrize("dialect", ["openai-chat", "ag-ui", "generic"])
async def test_followers_of_a_whole_run_are_linked_to_its_first_trace(dialect: str) -> None:
    world = Observed(dialect)
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    first = await world.begin(traceparent=trace)
    world.agent.say(MODEL, *tool())
    world.agent.tell(3)
    await until(lambda: world.agent.said == 6)
    follower = world.follow()
    world.agent.say(USED)
    world.agent.end()
    whole = numbered(await first.whole())
    await follower.whole()
    await world.follow("?after=2").whole()
    records = await world.records(3)
    start = records["start"]
    assert start.trace is not None
    assert start.trace.trace_id == "ab" * 16
    assert start.connection is not None
    for kind in ("follow", "resume"):
        one = records[kind]
        assert one.connection is not None
        assert (one.run_id, one.thread_id) == ("r", "t")
        assert one.connection.traceparent == start.connection.traceparent
        assert (one.usage, one.usage_by_model, one.cost_usd) == (None, [], None)
        assert one.trace is not None
        assert one.trace.trace_id != start.trace.trace_id
        [span] = project(one)
        [link] = span.links
        assert (link.trace_id, link.span_id) == (start.trace.trace_id, start.trace.span_id)
        assert span.attributes["streamtrace.connection"] == kind
        assert one.to_dict()["connection"]["first_trace_id"] == "ab" * 16
    assert project(start)[0].links == []
    assert records["resume"].connection.replayed_events == len(whole) - 2  # type: ignore[union-attr]
    if dialect == "openai-chat":
        world.assert_counted_once("completed")


@pytest.mark.parametrize("dialect", ["openai-chat", "ag-ui"])
@pytest.mark.parametrize("left", ["before all", "before usage", "behind usage"])
async def test_what_a_run_says_without_its_client_is_told_and_counted_once(
    dialect: str, left: str
) -> None:
    world = Observed(dialect)
    first = await world.begin()
    if left != "before all":
        world.agent.say(MODEL, *tool())
        world.agent.tell(2)
        await until(lambda: b"w2" in first.got)
    if left == "behind usage":
        world.agent.say(USED)
        world.agent.tell(1)
        await until(lambda: b"w3" in first.got)
    await first.leave()
    await until(lambda: len(world.sink.runs) == 1)
    if left == "before all":
        world.agent.say(MODEL, *tool())
        world.agent.tell(2)
    if left != "behind usage":
        world.agent.say(USED)
        world.agent.tell(1)
    second = world.follow("" if left == "before all" else "?after=1")
    world.agent.end()
    await second.whole()
    records = await world.records(3)
    start, rest = records["start"], records["detached"]
    assert start.connection is not None
    assert start.connection.is_detached
    assert start.status == "disconnected"
    assert rest.status == "completed"
    assert rest.run_id == "r"
    assert rest.trace is not None
    assert start.trace is not None
    assert rest.trace.trace_id == start.trace.trace_id
    assert rest.trace.parent_span_id == start.trace.span_id
    assert rest.time_to_first_token_ns is None
    assert start.usage is None or rest.usage is None or left == "behind usage"
    world.assert_counted_once("completed")
    assert world.counted("cost_usd_total") == sum(run.cost_usd or 0 for run in (start, rest))


async def test_a_client_that_leaves_behind_the_end_of_the_run() -> None:
    world = Observed()
    first = await world.begin()
    await until(lambda: len(first.sent) > 1)
    first.reads.clear()
    world.agent.say(MODEL, *tool())
    world.agent.tell(3)
    world.agent.say(USED)
    world.agent.end()
    await until(lambda: world.agent.ended == [None])
    first.gone.set()  # without having read the rest
    await first.whole()
    records = await world.records(2)
    assert records["detached"].status == "completed"
    world.assert_counted_once("completed")


async def test_a_run_that_ends_with_its_client_has_one_record() -> None:
    world = Observed(settings=Settings(on_disconnect="cancel"))
    first = await world.begin()
    world.agent.say(MODEL, *tool())
    world.agent.tell(2)
    await until(lambda: b"w2" in first.got)
    await first.leave()
    records = await world.records(1)
    assert records["start"].status == "disconnected"
    assert not records["start"].connection.is_detached  # type: ignore[union-attr]
    assert world.counted("streams_total", status="disconnected") == 1


async def test_gaps_resumes_and_followers_are_metrics() -> None:
    log = MemoryLog(LogBounds(max_events=3))
    world = Observed("generic", log=log)
    before = {
        name: world.counted(name)
        for name in (
            "run_resumes_total",
            "run_gaps_total",
            "run_gap_events_total",
            "run_replayed_events_total",
            "run_logged_events_total",
            "run_unlogged_events_total",
            "run_log_bytes",
        )
    }
    first = await world.begin()
    world.agent.tell(9)
    await until(lambda: b"w9" in first.got)
    assert world.counted("run_followers") == 1
    assert world.counted("run_log_bytes") > before["run_log_bytes"]
    world.agent.end()
    whole = numbered(await first.whole())
    await world.follow("?after=1").whole()
    records = await world.records(2)
    rose = {name: world.counted(name) - value for name, value in before.items()}
    assert rose == {
        "run_resumes_total": 1,
        "run_gaps_total": 1,
        "run_gap_events_total": len(whole) - 1 - 3,
        "run_replayed_events_total": 3,
        "run_logged_events_total": len(whole),
        "run_unlogged_events_total": 0,
        "run_log_bytes": 0,
    }
    assert world.counted("run_followers") == 0
    connection = records["resume"].connection
    assert connection is not None
    assert (connection.gap_events, connection.replayed_events) == (len(whole) - 4, 3)


# --- the difference ----------------------------------------------------------------------------


def used(model: str | None, **counts: int) -> ModelUsage:
    return ModelUsage(model=model, provider=None, usage=TokenCounts(**counts))


@pytest.mark.parametrize(
    ("whole", "told", "rest"),
    [
        ([], [], []),
        ([used("a", input_tokens=3)], [], [used("a", input_tokens=3)]),
        ([used("a", input_tokens=3)], [used("a", input_tokens=3)], []),
        (
            [used("a", input_tokens=3, output_tokens=5)],
            [used("a", input_tokens=3, output_tokens=2)],
            [used("a", output_tokens=3)],
        ),
        (
            [used("a", input_tokens=3), used("b", input_tokens=4)],
            [used("a", input_tokens=3)],
            [used("b", input_tokens=4)],
        ),
        (  # the wire did not say the model
            [used("a", input_tokens=3, output_tokens=5)],
            [used(None, input_tokens=3)],
            [used("a", output_tokens=5)],
        ),
        (
            [used("a", input_tokens=3), used("b", input_tokens=4)],
            [used(None, input_tokens=3)],
            [used(None, input_tokens=4)],
        ),
        ([], [used("a", input_tokens=3)], []),
        ([used("a", input_tokens=3)], [used("a", input_tokens=9)], []),
    ],
)
def test_what_is_left_to_be_told(whole: Any, told: Any, rest: Any) -> None:
    assert less(whole, told) == rest


def test_what_nobody_tells_stays_absent() -> None:
    assert add_up([]) is None
    assert add_up([TokenCounts()]) is None
    assert add_up([TokenCounts(input_tokens=1), TokenCounts(output_tokens=0)]) == TokenCounts(
        input_tokens=1, output_tokens=0
    )
