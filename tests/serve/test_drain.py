"""SIGTERM with open streams: they see it, finish or get their end, and the server goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from pathlib import Path

import pytest
from support.servers import PATIENT_SERVERS, Connection, serving

from streamtrace.serve.drain import SIGNALS, draining, hearing
from streamtrace.serve.runs import Runs

HERE = Path(__file__).parent

# uvicorn raises the signal again once it has shut down, so that its parent sees what ended it.
EXIT_CODES = dict.fromkeys(PATIENT_SERVERS, 0) | {"uvicorn-patient": -signal.SIGTERM}


@pytest.mark.parametrize("name", PATIENT_SERVERS)
def test_sigterm_with_open_streams(name: str, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with (
        serving(name, "life_app:app", HERE, log) as server,
        contextlib.ExitStack() as stack,
    ):
        polite, idle, silent = (
            stack.enter_context(Connection(server.port, f"/cancel?{query}"))
            for query in ("tokens=1&then=drain", "tokens=1&then=idle", "before=1&then=idle")
        )
        for client in (polite, idle, silent):
            client.read_head()
            client.read_bytes(10)  # the first event is here
        code = server.terminate()  # which fails if it waits for its clients
        polite_body, idle_body, silent_body = (
            client.read_bytes(-1) for client in (polite, idle, silent)
        )
    text = log.read_text()
    assert b"drains" in polite_body, text
    assert b'"drained"' not in polite_body
    assert polite_body.count(b'"done"') == 1
    for body in (idle_body, silent_body):
        assert body.count(b"drained") == 1
        assert body.endswith(b"0\r\n\r\n")
    assert code == EXIT_CODES[name], text
    assert "Traceback" not in text


# --- hearing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def handled_by(number: int, handler: object):
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_both_are_told_and_the_handler_is_put_back(number: int) -> None:
    told: list[str] = []

    def before(*_: object) -> None:
        told.append("server")

    with handled_by(number, before):
        with hearing(lambda: told.append("us")):
            signal.raise_signal(number)
        assert signal.getsignal(number) is before
        signal.raise_signal(number)
    assert told == ["us", "server", "server"]


def test_a_handler_that_came_later_stays() -> None:
    def later(*_: object) -> None:
        """Another."""

    with handled_by(signal.SIGTERM, later):
        with hearing(lambda: None):
            signal.signal(signal.SIGTERM, later)
        assert signal.getsignal(signal.SIGTERM) is later


@pytest.mark.parametrize("nobody", [signal.SIG_DFL, signal.SIG_IGN])
def test_what_nobody_handles_is_left_alone(nobody: object) -> None:
    with handled_by(signal.SIGTERM, nobody), hearing(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is nobody


def test_in_another_thread_nothing_is_heard_and_shutdown_drains() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    runs = Runs()

    async def main() -> None:
        async with draining(runs):
            assert [signal.getsignal(number) for number in SIGNALS] == before
            assert not runs.is_draining

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert runs.is_draining


async def test_a_handler_of_the_loop_is_told_as_well() -> None:
    runs, server = Runs(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.set)
    try:
        async with draining(runs):
            signal.raise_signal(signal.SIGTERM)
            await server.wait()
            await asyncio.sleep(0)
            assert runs.is_draining
            signal.raise_signal(signal.SIGTERM)  # again does no harm
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
