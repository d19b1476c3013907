"""Law 3: every start has exactly one end, on every way a stream can go."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.asgi import Server, body, http_scope, settle, start, until

from streamtrace import StreamTraceMiddleware
from streamtrace.testing import RecordingSink

TOKEN = b'data: {"type":"token","content":"hi"}\n\n'
DONE = b'data: {"type":"done"}\n\n'


class Connection:
    """An app under remote control: it does what is put into its queue."""

    def __init__(self, middleware: StreamTraceMiddleware) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()
        self.server = Server()
        self.final = False
        self.task = asyncio.create_task(self._run(middleware))

    async def _run(self, middleware: StreamTraceMiddleware) -> None:
        scope = http_scope()
        scope["control"] = self
        await self.server.run(middleware, scope)


async def remote_app(scope: Any, receive: Any, send: Any) -> None:
    control: Connection = scope["control"]
    await receive()
    while (step := await control.steps.get()) is not None:
        if isinstance(step, BaseException):
            raise step
        if step == "receive":
            await receive()
        else:
            await send(step)


class Streams(RuleBasedStateMachine):
    """Connections that stream, finish, fail, are cancelled, lose their client, or just stop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.sink = RecordingSink()
        self.middleware = StreamTraceMiddleware(remote_app, sinks=[self.sink], max_tap_bytes=4096)
        self.open: list[Connection] = []
        self.opened = 0
        self.closed = 0

    def run(self, coroutine: Any) -> None:
        self.loop.run_until_complete(coroutine)

    async def spin(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def put(self, connection: Connection, *steps: Any) -> None:
        for step in steps:
            connection.steps.put_nowait(step)
        await self.spin()

    async def close(self, connection: Connection) -> None:
        self.open.remove(connection)
        self.closed += 1
        await asyncio.wait([connection.task])
        if not connection.task.cancelled():
            connection.task.exception()

    @rule()
    def connect(self) -> None:
        async def go() -> None:
            connection = Connection(self.middleware)
            self.open.append(connection)
            self.opened += 1
            await self.put(connection, start())

        self.run(go())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), times=st.integers(1, 50))
    def stream(self, data: Any, times: int) -> None:
        connection = data.draw(st.sampled_from(self.open))
        self.run(self.put(connection, *[body(TOKEN)] * times))

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        steps=st.sampled_from(
            [
                (body(DONE), body(more=False), None),
                (body(more=False), None),
                (body(more=False), ValueError("late")),
                (body(DONE), None),
                (None,),
                (ValueError("x"),),
                (TimeoutError(),),
                (body(TOKEN), asyncio.CancelledError()),
            ]
        ),
    )
    def end(self, data: Any, steps: Any) -> None:
        connection = data.draw(st.sampled_from(self.open))

        async def go() -> None:
            await self.put(connection, *steps)
            await self.close(connection)

        self.run(go())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), twice=st.booleans())
    def cancel(self, data: Any, twice: bool) -> None:
        connection = data.draw(st.sampled_from(self.open))

        async def go() -> None:
            connection.task.cancel()
            if twice:
                connection.task.cancel()
            await self.close(connection)

        self.run(go())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), late=st.booleans())
    def client_leaves(self, data: Any, late: bool) -> None:
        connection = data.draw(st.sampled_from(self.open))

        async def go() -> None:
            connection.server.gone.set()
            if late:
                await self.put(connection, body(DONE), body(more=False), "receive", None)
            else:
                await self.put(connection, "receive", None)
            await self.close(connection)

        self.run(go())

    @invariant()
    def starts_and_ends_balance(self) -> None:
        async def go() -> None:
            await settle(self.middleware, len(self.open))

        self.run(go())
        assert len(self.sink.runs) == self.closed
        assert len(self.middleware.active()) == len(self.open)

    def teardown(self) -> None:
        self.run(self.middleware.drain())
        assert len(self.sink.started) == len(self.sink.runs) == self.opened
        assert len({id(info) for info in self.sink.started}) == self.opened
        for connection in self.open:
            connection.task.cancel()
        self.run(asyncio.sleep(0))
        self.loop.close()


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_ten_thousand_aborted_streams_leave_nothing_behind() -> None:
    class Count(RecordingSink):
        """Counts, and keeps nothing."""

        ended = 0

        def event(self, info: Any, event: Any, at_ns: int) -> None:
            return

        def start(self, info: Any) -> None:
            return

        def end(self, info: Any, summary: Any) -> None:
            self.ended += 1

    sink = Count()
    middleware = StreamTraceMiddleware(remote_app, sinks=[sink])

    async def abort(number: int) -> None:
        connection = Connection(middleware)
        for step in (start(), *[body(TOKEN)] * (number % 3)):
            connection.steps.put_nowait(step)
        if number % 3 == 0:
            connection.steps.put_nowait(ValueError("x"))
        elif number % 3 == 1:
            connection.server.gone.set()
            connection.steps.put_nowait("receive")
            connection.steps.put_nowait(None)
        else:
            await until(lambda: len(connection.server.sent) > number % 3)
            connection.task.cancel()
        await asyncio.wait([connection.task])
        if not connection.task.cancelled():
            connection.task.exception()

    async def collect() -> None:
        await settle(middleware)
        await asyncio.sleep(0)  # the loop's turn that woke us still holds what it woke us with
        gc.collect()

    await asyncio.gather(*(abort(n) for n in range(300)))
    await collect()
    tasks, threads = len(asyncio.all_tasks()), threading.active_count()
    files, objects = open_files(), len(gc.get_objects())
    ended = sink.ended
    for _ in range(100):
        await asyncio.gather(*(abort(n) for n in range(100)))
    await collect()
    assert sink.ended - ended == 10_000
    assert middleware.active() == []
    assert len(asyncio.all_tasks()) == tasks
    assert threading.active_count() == threads
    assert open_files() == files
    assert len(gc.get_objects()) - objects < 1000


@pytest.mark.parametrize("ending", ["ends", "raises", "is cancelled", "goes on after a drain"])
async def test_no_stream_waits_for_the_garbage_collector(ending: str) -> None:
    """What a stream held is free when it is over: the collector, which stops the loop, is called
    no more often for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(TOKEN))
        await scope["go_on"].wait()
        if ending == "raises":
            raise ValueError
        await send(body(TOKEN))
        await send(body(more=False))

    async def take(message: Any) -> None:
        """A client that takes everything."""

    middleware = StreamTraceMiddleware(app, sinks=[])

    async def one() -> None:
        go_on = asyncio.Event()
        scope = http_scope(go_on=go_on)
        task = asyncio.create_task(middleware(scope, None, take))  # type: ignore[arg-type]
        await until(lambda: bool(middleware.active()))
        if ending == "goes on after a drain":
            await middleware.drain()
        if ending == "is cancelled":
            task.cancel()
        go_on.set()
        await asyncio.wait([task])
        assert task.cancelled() == (ending == "is cancelled")
        assert task.cancelled() or bool(task.exception()) == (ending == "raises")
        await settle(middleware)

    for _ in range(3):
        await one()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await one()
        assert gc.collect() < 20
    finally:
        gc.enable()
