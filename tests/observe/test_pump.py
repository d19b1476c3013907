"""The pump: bounded slices, fair turns, nothing lost with a loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import Context, ContextVar
from typing import Any

import pytest
from support.asgi import Server, body, http_scope, settle, start, until

from streamtrace import StreamTraceMiddleware, annotate
from streamtrace.observe.pump import (
    LISTENED_INTERVAL_S,
    MAX_SLICE_NS,
    NEW_INTERVAL_S,
    SLICE_NS,
    InlinePump,
    Pump,
    Pumps,
)
from streamtrace.observe.tap import Budget
from streamtrace.testing import RecordingSink

TOKEN = b'data: {"type":"token","content":"hi"}\n\n'


class Worker:
    """Needs `pieces` pieces of work, each of which takes `cost_ns` on the given clock."""

    def __init__(self, clock: Clock, pieces: int, cost_ns: int, log: list[Any]) -> None:
        self.clock, self.pieces, self.cost_ns, self.log = clock, pieces, cost_ns, log

    def work(self, deadline_ns: int) -> bool:
        while self.pieces and self.clock.now_ns < deadline_ns:
            self.pieces -= 1
            self.clock.now_ns += self.cost_ns
            self.log.append(self)
        return bool(self.pieces)


class Clock:
    """A clock that goes only when work is done."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


async def test_a_slice_ends_at_its_limit_and_streams_take_turns() -> None:
    clock, log = Clock(), []
    pump = Pump(asyncio.get_running_loop(), Budget(), clock)
    one, two = (Worker(clock, 10, SLICE_NS // 2, log) for _ in range(2))
    for worker in (one, two):
        pump.add(worker)
    pump._take_all()
    slices = []
    while one.pieces or two.pieces:
        before = clock.now_ns
        pump._tick()
        slices.append(clock.now_ns - before)
    assert max(slices) <= SLICE_NS + SLICE_NS // 2
    assert log[:4] == [one, one, two, two]


@pytest.mark.parametrize(
    ("filled", "slice_ns"),
    [(0.0, SLICE_NS), (0.25, SLICE_NS), (0.625, 4_000_000), (1.0, MAX_SLICE_NS)],
)
async def test_the_fuller_the_taps_the_longer_a_slice_of_what_all_else_took(
    filled: float, slice_ns: int
) -> None:
    clock, log = Clock(), []
    budget = Budget(1000)
    pump = Pump(asyncio.get_running_loop(), budget, clock)
    worker = Worker(clock, 10**6, 1000, log)
    pump.add(worker, soon=True)
    budget.free_bytes = round(1000 * (1 - filled))
    pump._tick()
    assert clock.now_ns == SLICE_NS  # the first of a series, before which nothing was put off
    clock.now_ns += 4_000_000
    before = clock.now_ns
    pump._tick()
    assert clock.now_ns - before == slice_ns


def test_an_app_that_never_waits_for_long_loses_nothing_however_long_it_goes_on() -> None:
    """All of its streams together are a dozen times what the taps can hold."""
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for number in range(200):
            await send(body(b'data: {"type":"token","content":"%d"}\n\n' % number))
            if number % 50 == 0:
                await asyncio.sleep(0)
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink], max_total_bytes=2**20)

    async def client() -> None:
        for _ in range(40):
            await Server().run(middleware)

    async def main() -> None:
        await asyncio.gather(*(client() for _ in range(8)))
        await middleware.drain()

    asyncio.run(main())
    assert len(sink.runs) == 320
    assert sum(run.lost_chunks for run in sink.runs) == 0


async def test_who_comes_while_a_round_is_under_way_waits_for_the_next() -> None:
    loop = asyncio.get_running_loop()
    clock, log = Clock(), []
    pump = Pump(loop, Budget(), clock)
    early, late, ended = (Worker(clock, 1, SLICE_NS, log) for _ in range(3))
    pump.add(early)
    pump._take_all()
    pump.add(late)
    pump.add(ended)
    pump.add(ended, soon=True)  # nothing more comes: it waits for no round
    while pump._ready:
        pump._tick()
    assert log == [early, ended]
    pump._take_all()
    pump._tick()
    assert log == [early, ended, late]


async def test_work_is_called_for_once_and_an_idle_pump_is_silent() -> None:
    calls: list[Any] = []

    class Loop:
        def call_later(self, delay_s: float, callback: Any, *, context: Context) -> object:
            calls.append(delay_s)
            return object()

        def call_soon(self, callback: Any, *, context: Context) -> None:
            calls.append(0)

    clock: Clock = Clock()
    pump = Pump(Loop(), Budget(), clock)  # type: ignore[arg-type]
    workers = [Worker(clock, 1, 1, []) for _ in range(3)]
    pump.add(workers[0])
    pump.add(workers[1])
    assert len(calls) == 1
    pump.add(workers[2], soon=True)
    pump.add(workers[2], soon=True)
    assert calls[1:] == [0]
    pump._tick()
    assert calls[2:] == []


async def test_a_stream_is_first_looked_at_soon_and_then_in_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []
    call_later = Pump._call_later

    def noted(pump: Pump, delay_s: float, do: Any) -> Any:
        delays.append(delay_s)
        return call_later(pump, 0, do)

    monkeypatch.setattr(Pump, "_call_later", noted)
    sink = RecordingSink()
    looks: list[list[float]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await until(lambda: bool(sink.started))
        looks.append(delays.copy())
        for count in (1, 2):
            await send(body(TOKEN))
            await until(lambda count=count: middleware.active()[0].events == count)
            looks.append(delays.copy())
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await Server().run(middleware)
    new = [NEW_INTERVAL_S]
    assert looks == [new, 2 * new, [*new, *new, LISTENED_INTERVAL_S]]


async def test_a_worker_that_asks_twice_is_called_once() -> None:
    pump = Pump(asyncio.get_running_loop(), Budget())

    class Counting:
        calls = 0

        def work(self, deadline_ns: int) -> bool:
            self.calls += 1
            return False

    worker = Counting()
    pump.add(worker)
    pump.add(worker, soon=True)
    await until(lambda: worker.calls > 0)
    pump.drain()
    assert worker.calls == 1


async def test_what_a_fault_left_is_called_again_where_no_tick_will_come() -> None:
    class Faulty:
        calls = 0

        def work(self, deadline_ns: int) -> bool:
            self.calls += 1
            return self.calls == 1

    inline, drained = Faulty(), Faulty()
    InlinePump(Budget()).add(inline)
    pump = Pump(asyncio.get_running_loop(), Budget())
    pump.add(drained)
    pump.drain()
    assert inline.calls == drained.calls == 2


async def test_sinks_do_not_see_the_request_that_happened_to_wake_the_pump() -> None:
    request: ContextVar[str | None] = ContextVar("request", default=None)
    seen: list[Any] = []

    class Looking(RecordingSink):
        def start(self, info: Any) -> None:
            seen.append(request.get())

        def event(self, info: Any, event: Any, at_ns: int) -> None:
            seen.append((request.get(), annotate(user="somebody else")))

        def end(self, info: Any, summary: Any) -> None:
            seen.append(request.get())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request.set("mine")
        await send(start())
        await send(body(TOKEN))
        await until(lambda: len(seen) > 1)
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[Looking()])
    await Server().run(middleware, http_scope())
    await settle(middleware)
    assert seen == [None, (None, False), None]


def test_what_a_closed_loop_left_is_worked_off_by_the_next() -> None:
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(20):
            await send(body(TOKEN))
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    loop = asyncio.new_event_loop()
    streams = asyncio.gather(*(loop.create_task(Server().run(middleware)) for _ in range(500)))
    streams.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    loop.close()  # at once: no slice is long enough for five hundred streams
    assert len(sink.runs) < 500
    asyncio.run(Server().run(middleware))
    assert len(sink.runs) >= 500
    middleware.finish()
    assert [run.status for run in sink.runs] == ["truncated"] * 501


def test_without_an_asyncio_loop_the_work_is_done_at_once() -> None:
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(TOKEN))
        await send(body(more=False))

    async def send(message: Any) -> None:
        return

    middleware = StreamTraceMiddleware(app, sinks=[sink])
    with contextlib.suppress(StopIteration):
        middleware(http_scope(), None, send).send(None)  # type: ignore[arg-type, attr-defined]
    assert isinstance(Pumps(0).current(), InlinePump)
    assert [run.generations[0].text.text for run in sink.runs] == ["hi"]


def test_loops_in_threads_do_not_meet() -> None:
    sink = RecordingSink()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        for _ in range(50):
            await send(body(TOKEN))
            await asyncio.sleep(0)
        await send(body(more=False))

    middleware = StreamTraceMiddleware(app, sinks=[sink])

    async def main() -> None:
        await asyncio.gather(*(Server().run(middleware) for _ in range(20)))
        await until(lambda: True)
        await middleware.drain()

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    middleware.finish()
    assert len(sink.runs) == 80
    assert {run.generations[0].text.chars for run in sink.runs} == {100}
