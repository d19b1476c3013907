"""Times are those of the messages, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from support.apps import DONE, TOKENS
from support.asgi import Server, body, start, until
from support.clock import clock

from streamtrace import (
    StreamTraceMiddleware,
)
from streamtrace.testing import RecordingSink


async def test_duration_ends_with_the_final_body_not_with_background_work() -> None:
    sink = RecordingSink()
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE))
        await send(body(more=False))
        await release.wait()

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    task = asyncio.create_task(Server().run(middleware))
    await until(lambda: bool(sink.runs))
    assert not task.done()
    release.set()
    await task
    assert len(sink.runs) == 1


async def test_send_stall_is_the_time_that_send_took() -> None:
    """The server's clock is under control: it takes as long as the test says. What took less than a
    tenth of a millisecond was no wait for the client."""
    sink = RecordingSink()
    now_ns = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(3):
            await send(body(TOKENS[0]))
        await send(body(DONE))
        await send(body(more=False))

    waits_ns = iter([0, 100_000, 5_000_000, 99_999, 200_000, 3])

    class Slow(Server):
        async def send(self, message: Any) -> None:
            nonlocal now_ns
            now_ns += next(waits_ns)
            await asyncio.sleep(0)

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with clock(lambda: now_ns):
        await Slow().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert (run.send_stall_ns, run.longest_send_stall_ns) == (5_300_000, 5_000_000)
    assert run.duration_ns == 5_399_999
    assert run.time_to_first_byte_ns == 0
    assert run.gap_sum_ns == 5_100_000


async def test_token_times_are_those_of_the_messages_that_brought_them() -> None:
    sink = RecordingSink()
    now_ns = 1_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now_ns
        now_ns += 50
        await send(start())
        for wait_ns, data in (
            (10, b": comment\n\n"),
            (10, b'data: {"type":"ping"}\n\n'),
            (100, b'data: {"type":"thinking","content":"hm"}\n\n'),
            (200, TOKENS[0][:10]),
            (300, TOKENS[0][10:]),
            (400, DONE),
        ):
            now_ns += wait_ns
            await send(body(data))
        now_ns += 5
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with clock(lambda: now_ns):
        await Server().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert run.time_to_first_byte_ns == 60
    assert run.time_to_first_event_ns == run.time_to_first_token_ns == 170
    assert run.time_to_first_visible_token_ns == 670
    assert run.longest_gap_ns == 500
    assert run.duration_ns == 1075


async def test_the_time_in_a_send_that_never_returned_counts() -> None:
    now_ns = 0

    class Stuck(Server):
        async def send(self, message: Any) -> None:
            nonlocal now_ns
            if message["type"] == "http.response.body":
                now_ns += 500_000
                await asyncio.sleep(0)
                raise TimeoutError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(TOKENS[0]))

    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with clock(lambda: now_ns), pytest.raises(TimeoutError):
        await Stuck().run(middleware)
    await middleware.drain()
    assert (sink.runs[0].send_stall_ns, sink.runs[0].longest_send_stall_ns) == (500_000, 500_000)


async def test_a_jump_of_the_wall_clock_moves_no_duration() -> None:
    sink = RecordingSink()
    now_ns, wall_ns = 0, 2_000_000_000_000_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal now_ns, wall_ns
        await send(start())
        for data in (TOKENS[0], TOKENS[1], DONE, b""):
            now_ns += 100
            wall_ns -= 10**15
            await send(body(data, more=bool(data)))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with clock(lambda: now_ns), pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time_ns", lambda: wall_ns)
        await Server().run(middleware)
    await middleware.drain()
    [run] = sink.runs
    assert run.started_at_ns == 2_000_000_000_000_000_000
    assert (run.time_to_first_token_ns, run.longest_gap_ns, run.duration_ns) == (100, 100, 400)


async def test_the_time_spent_on_understanding_a_stream_is_measured_while_it_is_worked_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock that rises by 7 ns each time it is read, more frames take more reads."""
    spent = []
    for frames in (1, 1000):
        ticks = itertools.count(0, 7)
        monkeypatch.setattr(
            "streamtrace.observe.stream.time.perf_counter_ns", lambda ticks=ticks: next(ticks)
        )

        async def app(scope: Any, receive: Any, send: Any, frames: int = frames) -> None:
            await send(start())
            for _ in range(frames):
                await send(body(TOKENS[0]))
            await send(body(DONE, more=False))

        sink = RecordingSink()
        middleware = StreamTraceMiddleware(app, sinks=[sink])
        await Server().run(middleware)
        await middleware.drain()
        spent.append(sink.runs[0].decode_ns)
    assert 0 < spent[0] < spent[1]
