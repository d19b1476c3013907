"""What holds of every adapter: its end, its failures, and that it closes what it opened."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import subprocess
import sys
from collections import OrderedDict
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest
from support.adapted import told
from support.pages import ROOT

import streamtrace.adapters
from streamtrace.adapters.base import Reader, adapter, to_json
from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError, StreamTraceError


class Words(Reader):
    """Events are given as they are; a word is text, and an exception is raised."""

    def __init__(self, needs_terminal: bool) -> None:
        self.needs_terminal = needs_terminal

    def read(self, item: Any) -> list[ev.Event]:
        return [item if isinstance(item, ev.Event) else ev.TextDelta(text=item)]

    def close(self) -> list[ev.Event]:
        return [ev.Usage(output_tokens=1)]


@adapter
def words(*, needs_terminal: bool = False) -> Reader:
    return Words(needs_terminal)


class Stream:
    """A framework's stream, in one of its shapes. It notes that it was closed."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.closed = 0

    async def generator(self):
        try:
            for item in self.items:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed += 1

    def plain(self):
        try:
            for item in self.items:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed += 1

    @asynccontextmanager
    async def context(self):
        try:
            yield self.generator()
        finally:
            self.closed += 1

    @contextmanager
    def plain_context(self):
        try:
            yield self.plain()
        finally:
            self.closed += 1

    async def awaitable(self):
        return self.generator()

    async def awaitable_context(self):
        return self.context()


SHAPES = {
    "generator": 1,
    "plain": 1,
    "context": 2,
    "plain_context": 2,
    "awaitable": 1,
    "awaitable_context": 2,
}
each_shape = pytest.mark.parametrize("shape", SHAPES)
HI, USAGE = ev.TextDelta(text="Hi"), ev.Usage(output_tokens=1)


@each_shape
async def test_each_shape_is_read_to_its_end_and_closed(shape):
    stream = Stream("Hi")
    events = await told(words(getattr(stream, shape)()))
    assert events == [HI, USAGE, ev.RunFinished()]
    assert stream.closed == SHAPES[shape]


@each_shape
async def test_who_closes_the_events_closes_the_stream(shape):
    stream = Stream("Hi", "there")
    events = words(getattr(stream, shape)())
    if hasattr(events, "aclose"):
        assert await anext(events) == HI
        await events.aclose()
    else:
        assert next(events) == HI
        events.close()
    assert stream.closed == SHAPES[shape]


@each_shape
async def test_what_is_raised_is_the_end(shape, caplog):
    stream = Stream("Hi", ValueError("the key is sk-1"))
    with caplog.at_level(logging.WARNING):
        events = await told(words(getattr(stream, shape)()))
    assert events == [HI, ev.RunFailed(type="ValueError", message="the key is sk-1")]
    assert stream.closed == SHAPES[shape]
    assert "sk-1" not in caplog.text


async def test_a_cancelled_reader_closes_the_stream():
    stream = Stream("Hi")
    begun = asyncio.Event()

    async def endless():
        async for item in stream.generator():
            yield item
            begun.set()
            await asyncio.Event().wait()

    async def read():
        source = endless()
        try:
            return await told(words(source))
        finally:
            assert source.ag_frame is None  # it has ended

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_our_own_errors_pass():
    """They are meant for whoever serves, such as one whose text is for users."""
    with pytest.raises(StreamTraceError, match="no credit"):
        await told(words(Stream("Hi", StreamTraceError("no credit")).generator()))
    with pytest.raises(StreamTraceError, match="no credit"):
        await told(words(Stream(StreamTraceError("no credit")).plain()))


async def test_the_end_is_told_last_and_once():
    asks, over = ev.RunInterrupted(reason="approval"), ev.RunFinished(run_id="r")
    assert await told(words(Stream(over, asks, "Hi").plain())) == [HI, USAGE, asks]


async def test_an_end_is_not_that_of_the_next_run():
    next_run = ev.RunStarted(run_id="2")
    events = await told(words(Stream(ev.RunFinished(run_id="1"), next_run, "Hi").plain()))
    assert events == [next_run, HI, USAGE, ev.RunFinished()]


async def test_a_failure_behind_the_end_is_the_end():
    events = await told(words(Stream(ev.RunFinished(), OSError()).plain()))
    assert events == [ev.RunFailed(type="OSError")]


async def test_a_stream_that_needs_an_end_and_has_none_was_cut():
    [*_, end] = await told(words(Stream("Hi").plain(), needs_terminal=True))
    assert isinstance(end, ev.RunFailed)
    assert end.type == "truncated"


@pytest.mark.parametrize("value", [None, 7, object()])
def test_what_is_no_stream_is_refused_at_once(value):
    with pytest.raises(ConfigError, match="words takes the stream of a framework's call"):
        words(value)


def test_adapters_are_documented_and_named():
    for name in streamtrace.adapters.__all__:
        one = getattr(streamtrace.adapters, name)
        assert one.__name__ == name
        assert one.__doc__.startswith("Events of ")


def test_no_framework_is_imported():
    code = (
        "import sys, streamtrace.adapters; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    frameworks = {"agents", "anthropic", "google", "langchain_core", "langgraph", "openai",
                  "pydantic", "pydantic_ai"}  # fmt: skip
    assert frameworks.isdisjoint(done.stdout.decode().split())


# --- items as JSON -----------------------------------------------------------------------------


class Model(pydantic.BaseModel):
    text: str
    inner: Any = None


class Text(str):
    """As LangChain's parsers give it."""

    def __repr__(self) -> str:
        return "not this"


class Number(float):
    """As of numpy."""


class Spoiled(pydantic.BaseModel):
    @pydantic.model_serializer
    def fail(self) -> Any:
        raise RuntimeError("cannot be written")


@dataclass
class Data:
    text: str
    inner: Any = None


class Colour(enum.Enum):
    RED = "red"


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


JSON: list[tuple[Any, Any]] = [
    ({"a": Model(text="b", inner=Data("c", Model(text="d")))},
     {"a": {"text": "b", "inner": {"text": "c", "inner": {"text": "d", "inner": None}}}}),
    ((1, Colour.RED, {2: b"x"}), [1, "red", {"2": "eA=="}]),
    (Model(text="\ud83d"), {"text": "\ud83d", "inner": None}),  # half an emoji
    ({("a", 1): 2, "b": Data("\ud83d")}, {"b": {"text": "\ud83d", "inner": None}}),
    (2**70, 2**70),
    (ValueError("no"), "ValueError('no')"),
    (Spoiled(), "<Spoiled>"),
    (cycle(), "<list>"),
    (Model, repr(Model)),
    ([Text("a"), Number(0.5), OrderedDict(b=1)], ["a", 0.5, {"b": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), JSON, ids=range(len(JSON)))
def test_whatever_is_streamed_becomes_json(value, expected):
    assert json.loads(to_json(value)) == expected
