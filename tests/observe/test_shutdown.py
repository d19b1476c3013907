"""The end of the process: the last records leave, and nothing holds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from streamtrace import Sink
from streamtrace.observe import shutdown
from streamtrace.testing import RecordingSink

ROOT = Path(__file__).parents[2]
ENDS_WITHIN_S = 40.0

STREAM = """
import asyncio, sys, threading
from streamtrace import Sink, StreamTraceMiddleware
from streamtrace.sinks.jsonl import JsonLinesSink
from streamtrace.sinks.queued import QueuedSink
from support.asgi import Server, body, http_scope, start

async def app(scope, receive, send):
    await receive()
    await send(start())
    await send(body(b'data: {"type":"token","content":"hi"}\\n\\n'))
    if scope["path"] == "/open":
        await asyncio.Event().wait()
    await send(body(b'data: {"type":"done"}\\n\\n'))
    await send(body(more=False))

async def streams(*sinks, flush_timeout_s=5.0):
    global middleware, left_open
    middleware = StreamTraceMiddleware(app, sinks=sinks, flush_timeout_s=flush_timeout_s)
    await Server().run(middleware, http_scope())
    server = Server()
    left_open = asyncio.ensure_future(server.run(middleware, {**http_scope(), "path": "/open"}))
    while len(server.sent) < 2:
        await asyncio.sleep(0)

loop = asyncio.new_event_loop()
"""


def run_to_its_exit(code: str, *arguments: str) -> str:
    """A process that ends by itself; what it wrote to standard error."""
    ended = subprocess.run(
        [sys.executable, "-c", STREAM + code, *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_at_exit_finished_and_open_streams_leave_a_record_each(tmp_path: Path) -> None:
    """No lifespan, no drain, and a batch that would wait for an hour."""
    file = tmp_path / "runs.jsonl"
    code = "loop.run_until_complete(streams(JsonLinesSink(sys.argv[1], interval_s=3_600)))"
    errors = run_to_its_exit(code, str(file))
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(one["status"] for one in records) == ["completed", "drained"]
    assert "Error" not in errors


HANGS = """
class HangsInClose(Sink):
    def close(self, timeout_s):
        threading.Event().wait()
class HangsInExport(QueuedSink):
    name = "slow"
    def export(self, batch):
        threading.Event().wait()
loop.run_until_complete(streams({sink}(), HangsInExport(), flush_timeout_s=2.0))
"""
HANGING = ["HangsInExport"]
if sys.version_info[:2] != (3, 12):  # which gives no thread to close it on
    HANGING.append("HangsInClose")


HANGS_IN_FLUSH = """
class HangsInFlush(Sink):
    def flush(self, timeout_s):
        threading.Event().wait()
    def close(self, timeout_s):
        pass
loop.run_until_complete(streams(HangsInFlush(), flush_timeout_s=0.2))
loop.run_until_complete(middleware.drain())
"""


def test_a_flush_that_hangs_does_not_hold_the_exit() -> None:
    """Python waits for all threads but daemons."""
    run_to_its_exit(HANGS_IN_FLUSH)


@pytest.mark.parametrize("sink", HANGING)
def test_sinks_that_hang_do_not_hold_the_exit_and_losses_are_told(sink: str) -> None:
    """Within the limit; what was not exported is the last thing said."""
    assert "sink slow: 2 runs not exported at exit" in run_to_its_exit(HANGS.format(sink=sink))


class Clock:
    """In the place of the `time` module."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(shutdown, "time", one)
    return one


class Told(Sink):
    """Notes how much time it was given to close, and uses all of it."""

    def __init__(self, clock: Clock | None = None, error: BaseException | None = None) -> None:
        self.clock = clock
        self.error = error
        self.told_s: list[float] = []

    def close(self, timeout_s: float) -> None:
        self.told_s.append(timeout_s)
        if self.clock is not None:
            self.clock.now += timeout_s
        if self.error is not None:
            raise self.error


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("no_threads")
def test_where_no_thread_can_be_had_all_sinks_share_the_time(clock: Clock) -> None:
    sinks = [Told(clock), Told(clock, GeneratorExit()), Told(clock)]
    shutdown.close_sinks(sinks, 30.0)
    told = [told_s for sink in sinks for told_s in sink.told_s]
    assert len(told) == 3
    assert all(9.0 <= told_s <= 11.0 for told_s in told)
    assert sum(told) <= 30.0


class Middleware:
    """As `_at_exit` sees one."""

    flush_timeout_s = 5.0

    def __init__(self, sink: Sink, finish: Callable[[], None]) -> None:
        self.sinks = (sink,)
        self.finish = finish


def fail() -> None:
    raise GeneratorExit


def test_records_that_cannot_be_made_do_not_keep_sinks_from_being_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished: list[str] = []
    sinks = [Told(), Told()]
    middlewares = [
        Middleware(sinks[0], fail),
        Middleware(sinks[1], lambda: finished.append("other")),
    ]
    monkeypatch.setattr(shutdown, "_OPEN", weakref.WeakSet(middlewares))
    shutdown._at_exit()
    assert finished == ["other"]
    assert [len(sink.told_s) for sink in sinks] == [1, 1]


def test_what_flushing_took_is_not_given_again_at_exit_unless_time_went_by(clock: Clock) -> None:
    spent = shutdown._Spent()
    assert spent.rest_of(5.0) == 5.0
    clock.now += 3.0
    spent.add(began=1_000.0)
    assert spent.rest_of(5.0) == 2.0
    clock.now += 2.0
    spent.add(began=1_003.0)
    assert spent.rest_of(5.0) == shutdown.MOMENT_S
    assert spent.rest_of(0.1) == 0.1
    clock.now += 3_600.0
    assert spent.rest_of(5.0) == 5.0


def test_the_exit_handler_runs_before_those_of_what_sinks_may_need(tmp_path: Path) -> None:
    """The app's tracer provider, say, that is there when the middleware is made."""
    file = tmp_path / "order"
    code = (
        "import atexit\n"
        "def note(text): open(sys.argv[1], 'a').write(text)\n"
        "class Notes(Sink):\n"
        "    def close(self, timeout_s): note('sink ')\n"
        "atexit.register(note, 'provider ')\n"
        "loop.run_until_complete(streams(Notes()))\n"
    )
    run_to_its_exit(code, str(file))
    assert file.read_text() == "sink provider "


def test_flushing_gives_each_sink_time_to_say_what_it_lost() -> None:
    sink = RecordingSink()
    given: list[float] = []
    sink.flush = lambda timeout_s: bool(given.append(timeout_s))  # type: ignore[method-assign]
    shutdown.flush_sinks([sink], 2.0)
    [told_s] = given
    assert 0 < told_s < 2.0
