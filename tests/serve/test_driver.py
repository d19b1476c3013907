"""The driver: one run in order, whoever feeds it, with its ids, its enrichers and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError, EventOrderError
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Envelope
from streamtrace.serve.context import RunContext
from streamtrace.serve.driver import AgUiStreamDriver
from streamtrace.serve.run import SORRY, PublicError

HELLO = [ev.TextDelta(text="Hel"), ev.TextDelta(text="lo")]
WHOLE = [
    "RUN_STARTED",
    "TEXT_MESSAGE_START",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_END",
    "RUN_FINISHED",
]


def context() -> RunContext:
    return RunContext(run_id="r", thread_id="t", message_id="m")


def types(frames: Iterable[Frame]) -> list[str]:
    return [frame.json()["type"] for frame in frames]


async def driven(driver: AgUiStreamDriver, events: Any) -> list[Frame]:
    return [frame async for frame in driver.drive(events)]


class Loud:
    """An enricher: says a word behind each text, and one at the end."""

    def __init__(self, run: RunContext) -> None:
        self.run_id = run.run_id

    def feed(self, event: ev.Event) -> list[ev.Event]:
        is_text = isinstance(event, ev.TextDelta)
        return [event, ev.Custom(name="said", value=self.run_id)] if is_text else [event]

    def flush(self) -> list[ev.Event]:
        return [ev.Custom(name="all said")]


class Slow(Loud):
    async def feed(self, event: ev.Event) -> list[ev.Event]:
        await asyncio.sleep(0)
        return [event]


def test_a_run_that_is_fed():
    driver = AgUiStreamDriver(context())
    frames = [frame for event in HELLO for frame in driver.feed(event)]
    assert not driver.is_over
    frames += driver.finish()
    assert types(frames) == WHOLE
    started, message, *_ = [frame.json() for frame in frames]
    assert (started["runId"], started["threadId"], message["messageId"]) == ("r", "t", "m")
    assert driver.summary is not None
    assert driver.summary.status == "completed"
    assert driver.finish() == driver.feed(HELLO[0]) == []


def test_a_run_without_events_is_a_run():
    assert types(AgUiStreamDriver(context()).finish()) == ["RUN_STARTED", "RUN_FINISHED"]


def test_the_agents_own_end_is_the_end():
    driver = AgUiStreamDriver(context())
    frames = [*driver.feed(ev.RunFailed(type="x", message="No.")), *driver.finish()]
    assert types(frames) == ["RUN_STARTED", "RUN_ERROR"]
    assert driver.summary is not None
    assert driver.summary.status == "error"


def test_the_flag_ends_the_run():
    driver = AgUiStreamDriver(context())
    frames = driver.feed(HELLO[0])
    driver.context.cancel.set("stopped")
    frames += [*driver.feed(HELLO[1]), *driver.finish()]
    assert types(frames) == [*WHOLE[:3], *WHOLE[4:]]
    assert frames[-1].json()["outcome"] == {"type": "cancelled"}
    assert driver.summary is not None
    assert driver.summary.status == "cancelled"


def test_enrichers_speak_in_their_place():
    driver = AgUiStreamDriver(context(), enrichers=[Loud])
    names = [
        frame.json()["name"]
        for frame in (*driver.feed(HELLO[0]), *driver.finish())
        if frame.json()["type"] == "CUSTOM"
    ]
    assert names == ["said", "all said"]


def test_an_enricher_that_waits_needs_to_be_driven():
    driver = AgUiStreamDriver(context(), enrichers=[Slow])
    with pytest.raises(TypeError, match="use drive"):
        driver.feed(HELLO[0])


def test_what_is_out_of_order_is_raised():
    driver = AgUiStreamDriver(context())
    with pytest.raises(EventOrderError):
        driver.feed(ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{"))


def test_any_dialect_that_can_be_written():
    driver = AgUiStreamDriver(context(), dialect="openai-chat", envelope=Envelope(model="gpt"))
    *chunks, end = [frame for event in HELLO for frame in driver.feed(event)] + driver.finish()
    said = [chunk.json()["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(said) == "Hello"
    assert end.text == "[DONE]"
    with pytest.raises(ConfigError, match="cannot be written"):
        AgUiStreamDriver(context(), dialect="ollama")


# --- driven ------------------------------------------------------------------------------------


async def agent() -> AsyncIterator[ev.Event]:
    for event in HELLO:
        yield event


def plain() -> Iterator[ev.Event]:
    yield from HELLO


@pytest.mark.parametrize("events", [agent, plain, lambda: HELLO], ids=["async", "plain", "list"])
async def test_a_run_that_is_driven(events: Any) -> None:
    contexts: list[RunContext] = []

    def slow(run: RunContext) -> Slow:
        contexts.append(run)
        return Slow(run)

    driver = AgUiStreamDriver(context(), enrichers=[slow])
    frames = await driven(driver, events())
    assert [run.cancel.is_set for run in contexts] == [False]
    assert types(frames) == [*WHOLE[:4], "CUSTOM", *WHOLE[4:]]
    assert driver.summary is not None
    assert driver.summary.status == "completed"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PublicError("Too large.", "too_large"), "too_large", "Too large."),
        (ValueError("secret"), "internal_error", SORRY),
    ],
)
async def test_an_error_is_an_event(error: Exception, code: str, message: str) -> None:
    async def failing() -> AsyncIterator[ev.Event]:
        yield HELLO[0]
        raise error

    frames = await driven(AgUiStreamDriver(context()), failing())
    assert (frames[-1].json()["code"], frames[-1].json()["message"]) == (code, message)


async def test_the_flag_ends_a_run_that_waits():
    cleaned = asyncio.Event()

    async def waiting() -> AsyncIterator[ev.Event]:
        try:
            yield HELLO[0]
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    driver = AgUiStreamDriver(context())
    told = []
    async for frame in driver.drive(waiting()):
        told += types([frame])
        if told[-1] == "TEXT_MESSAGE_CONTENT":
            driver.context.cancel.set("stopped")
    assert told == [*WHOLE[:3], *WHOLE[4:]]
    assert cleaned.is_set()
    assert driver.summary is not None
    assert driver.summary.status == "cancelled"


async def test_who_leaves_stops_the_agent():
    cleaned = asyncio.Event()

    async def endless() -> AsyncIterator[ev.Event]:
        try:
            while True:
                yield HELLO[0]
        finally:
            cleaned.set()

    frames = AgUiStreamDriver(context()).drive(endless())
    await anext(frames)
    await frames.aclose()
    assert cleaned.is_set()
