"""What a slow client is not sent is on the record and in the metrics of the same run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry
from support.asgi import Server, http_scope, settle, until

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.serve.channel import Policy
from streamtrace.serve.context import RunContext
from streamtrace.serve.endpoint import Endpoint
from streamtrace.serve.run import Settings
from streamtrace.sinks.prometheus import PrometheusSink
from streamtrace.testing import RecordingSink

TOKENS, CHARS = 500, 10
JSON = [(b"content-type", b"application/json")]


class SlowClient(Server):
    """Takes the head and the first message, and the rest once it reads."""

    def __init__(self) -> None:
        super().__init__(b"{}")
        self.reads = asyncio.Event()

    async def send(self, message: Any) -> None:
        if len(self.sent) >= 2:
            await self.reads.wait()
        await super().send(message)


async def served(policy: Policy) -> tuple[RunSummary, int, CollectorRegistry]:
    """The record of a run of a fast agent, how many deltas its client got, and the metrics."""
    over = asyncio.Event()

    async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
        for _ in range(TOKENS):
            yield ev.TextDelta(text="x" * CHARS, message_id="m")
        over.set()

    sink, registry = RecordingSink(), CollectorRegistry()
    endpoint = Endpoint(agent, "generic", settings=Settings(policy=policy, max_events=50))
    app = StreamTraceMiddleware(endpoint, sinks=[sink, PrometheusSink(registry=registry)])
    client = SlowClient()
    serving = asyncio.create_task(client.run(app, http_scope(headers=JSON)))
    if policy == "drop":  # the agent does not wait
        await until(over.is_set)
    else:
        await until(lambda: len(client.sent) >= 2)
    client.reads.set()
    await serving
    await settle(app)
    [run] = sink.runs
    got = b"".join(message.get("body", b"") for message in client.sent).count(b'"token"')
    return run, got, registry


def counted(registry: CollectorRegistry, what: str) -> float | None:
    labels = {"route": "unmatched", "dialect": "generic"}
    return registry.get_sample_value(f"streamtrace_events_{what}_total", labels)


async def test_what_was_dropped_is_exactly_what_is_missing() -> None:
    run, got, registry = await served("drop")
    assert run.delivery_policy == "drop"
    assert run.dropped_events == TOKENS - got > 0
    assert run.dropped_chars == CHARS * run.dropped_events
    assert run.joined_events == 0
    assert counted(registry, "dropped") == run.dropped_events
    assert run.output.chars == CHARS * got


async def test_what_was_joined_is_counted_and_nothing_is_missing() -> None:
    run, got, registry = await served("coalesce")
    assert run.delivery_policy == "coalesce"
    assert run.joined_events == TOKENS - got > 0
    assert (run.dropped_events, run.dropped_chars) == (0, 0)
    assert counted(registry, "joined") == run.joined_events
    assert run.output.chars == CHARS * TOKENS


async def test_an_agent_that_waits_loses_nothing() -> None:
    run, got, registry = await served("block")
    assert (run.delivery_policy, run.dropped_events, run.joined_events) == ("block", 0, 0)
    assert got == TOKENS
    assert counted(registry, "dropped") == counted(registry, "joined") == 0
