"""The garbage collector, which stops the loop, is not called more often for what is observed.

CPython counts objects as they are made, and takes off the count what is freed: the young are
collected when it reaches 700. So what matters is what is made, or kept, for many streams at once.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from support.asgi import body, http_scope, settle, start
from support.recordings import RECORDED, Stream

from streamtrace import StreamTraceMiddleware

DIALECTS = ("ag-ui", "anthropic", "gemini", "openai-chat", "openai-responses", "vercel-ui")
FIRST = {name: next(one for one in RECORDED if one.dialect == name) for name in DIALECTS}


@pytest.fixture
def counted() -> Iterator[None]:
    """No collection, and so much on the count that nothing that is freed is missing there."""
    gc.collect()
    gc.disable()
    held = [[] for _ in range(100_000)]  # type: ignore[var-annotated]
    yield
    del held
    gc.enable()


async def take(message: Any) -> None:
    """A client that takes everything."""


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("stream", FIRST.values(), ids=FIRST)
async def test_what_is_made_for_a_stream_is_taken_off_the_count_when_it_is_freed(
    stream: Stream,
) -> None:
    """Of some objects CPython keeps the memory for the next of their kind, and does not take them
    off; where that is made in another way, the count only grows (tuples of a generator, of 20)."""
    chunks = [chunk + b"\n\n" for chunk in stream.body.split(b"\n\n")]

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for chunk in chunks:
            await send(body(chunk))
        await send(body(more=False))

    observed = StreamTraceMiddleware(answer, sinks=[])

    async def excess(app: Any, streams: int) -> float:
        before = gc.get_count()[0]
        for _ in range(streams):
            await app(http_scope(), None, take)
            await settle(observed)
        return (gc.get_count()[0] - before) / streams

    for app in (answer, observed):
        await excess(app, 100)
    assert await excess(observed, 100) < await excess(answer, 100) + 0.8


@pytest.mark.usefixtures("counted")
async def test_few_objects_are_made_for_a_stream_and_none_for_what_it_says() -> None:
    chunks = [chunk + b"\n\n" for chunk in FIRST["openai-chat"].body.split(b"\n\n")]
    streams, looks = 100, 4
    go_on = [asyncio.Event() for _ in range(looks)]

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for number, event in enumerate(go_on):
            await send(body(chunks[number]))
            await event.wait()
        await send(body(more=False))

    middleware = StreamTraceMiddleware(answer, sinks=[])
    tasks = [asyncio.create_task(middleware(http_scope(), None, take)) for _ in range(streams)]  # type: ignore[arg-type]
    made = []
    for event in go_on:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        before = gc.get_count()[0]
        for pump in middleware._pumps._pumps.values():
            pump.drain()
        made.append((gc.get_count()[0] - before) / streams)
        event.set()
    await asyncio.gather(*tasks)
    first, *others = made
    assert first < 14
    assert sum(others) < 4, others
