"""What is tested of a log that several processes share, whatever it is kept in."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from support import log_writer

from streamtrace.serve.log.base import EventLog, RunKey

ROOT = Path(__file__).parents[2]
KILLED_AFTER = 50


async def check_a_killed_producer(backend: str, where: str) -> None:
    """A follower in another process gets everything that it wrote, and is told of its end."""
    key = RunKey(f"killed-{backend}")
    process = await asyncio.create_subprocess_exec(
        sys.executable, log_writer.__file__, backend, where, key.run_id,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    log = log_writer.opened(backend, where)
    try:
        assert await process.stdout.readline() == b"1\n"
        assert await log.current(None, "thread") == key.run_id
        follower = asyncio.create_task(_follow(log, key))
        printed = 0
        while printed < KILLED_AFTER:
            printed = int(await process.stdout.readline())
        process.kill()
        got, phase = await follower
        assert phase == "orphaned"
        assert got == [(number, b"%d" % number) for number in range(1, len(got) + 1)]
        assert len(got) >= printed
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await log.aclose()


async def _follow(log: EventLog, key: RunKey) -> tuple[list[tuple[int, bytes]], str]:
    got: list[tuple[int, bytes]] = []
    while True:
        page = await log.read(key, len(got), max_bytes=100, wait_s=60)
        got += [(entry.id, entry.data) for entry in page.entries]
        if not page.entries and page.state.phase != "live":
            return got, page.state.phase
