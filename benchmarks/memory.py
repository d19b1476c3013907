"""Memory that observing takes: of streams that are over, none; of those that wait, little.

Each measurement runs in a process of its own, since memory that was taken once is seldom given back
to the system:

    python -m benchmarks.memory growth 100000       RSS at each tenth, after a tenth to warm up
    python -m benchmarks.memory idle "all sinks" 5000 [--traced]

Idle streams have opened, sent one frame, and wait. What the app and its task take is in the bare
variant as well, and is subtracted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.inprocess import (
    HEAD,
    LAST,
    SETUPS,
    App,
    Receive,
    Send,
    body,
    receive,
    scope,
    settled,
    take,
    traced,
)
from benchmarks.receivers import Receivers
from benchmarks.streams import openai
from streamtrace import StreamTraceMiddleware

ROOT = Path(__file__).parent.parent
TOKENS = 4
AT_ONCE = 100
TARGET_IDLE_BYTES = 8 * 1024
MAX_BYTES_PER_STREAM = 16
"""What is forgotten to be freed is an object, and those are larger; RSS moves by less in a long
run, once it is divided by the streams."""
JUDGED_STREAMS = 50_000
"""With fewer, a page that the allocator took is more than that per stream."""
BARE = "bare"
IDLE = ("no sinks", "all sinks", "all sinks, content full")


def growth(streams: int) -> dict[str, Any]:
    """RSS over so many short streams, one after the other, with all sinks."""
    samples = _child("growth", str(streams))
    at, rss = samples["streams"][1:], samples["rss_bytes"][1:]
    slope = statistics.linear_regression(at, rss).slope
    return samples | {"bytes_per_stream": slope}


def idle(streams: int) -> dict[str, Any]:
    """Bytes per stream that waits, over the bare one, by setup: as Python counts, and as RSS."""
    found: dict[str, Any] = {"streams": streams}
    for what, *flag in (("traced", "--traced"), ("rss",)):
        held = {name: _child("idle", name, str(streams), *flag)["bytes"] for name in (BARE, *IDLE)}
        found[what] = {name: (held[name] - held[BARE]) / streams for name in IDLE}
        found[f"{what}_bare"] = held[BARE] / streams
    return found


def import_ms(count: int) -> float:
    """Of `import streamtrace` in a new interpreter, files cached: the median."""
    code = (
        "import time; began = time.perf_counter(); import streamtrace;"
        "print(time.perf_counter() - began)"
    )
    command = [sys.executable, "-c", code]
    took_s = [float(subprocess.check_output(command, cwd=ROOT)) for _ in range(count + 1)]
    return statistics.median(took_s[1:]) * 1e3


class Waiting:
    """An app that sends its chunks but the last, and that when it is told to go on."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.go_on = asyncio.Event()
        self.waiting = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send(HEAD)
        for chunk in self.chunks:
            await send(body(chunk))
        self.waiting += 1
        await self.go_on.wait()
        await send(LAST)


async def grow(streams: int, receivers: Receivers) -> dict[str, Any]:
    """The samples of `growth`."""
    app = Waiting(openai(TOKENS))
    app.go_on.set()
    observed = traced(app, SETUPS["all sinks"], receivers)
    found: dict[str, Any] = {"streams": [], "rss_bytes": []}
    tenth = streams // 10
    for served in range(AT_ONCE, streams + 1, AT_ONCE):
        await asyncio.gather(*(observed(scope(), receive, take) for _ in range(AT_ONCE)))
        if served % 1000 == 0 or served % tenth == 0:
            await settled(observed)
        if served % tenth == 0:
            gc.collect()
            found["streams"].append(served)
            found["rss_bytes"].append(rss_bytes())
    return found


async def hold(name: str, streams: int, receivers: Receivers, *, is_traced: bool) -> dict[str, Any]:
    """What so many streams hold while they wait."""
    app = Waiting(openai(1)[:1])
    observed: App = app if name == BARE else traced(app, SETUPS[name], receivers)
    for wanted in (10, streams):  # the first few import what the sinks need
        app.go_on.clear()
        app.waiting = 0
        gc.collect()
        if is_traced:
            tracemalloc.start()
        before = _held_bytes()
        tasks = [asyncio.create_task(observed(scope(), receive, take)) for _ in range(wanted)]
        await _all_wait(app, observed, wanted)
        gc.collect()
        held = _held_bytes() - before
        tracemalloc.stop()
        app.go_on.set()
        await asyncio.gather(*tasks)
        del tasks
        await settled(observed)
    return {"bytes": held}


async def _all_wait(app: Waiting, observed: App, streams: int) -> None:
    """Until all are open, and what they sent was decoded."""

    def is_open() -> bool:
        return app.waiting == streams and (
            not isinstance(observed, StreamTraceMiddleware)
            or all(one.body_bytes for one in observed.active())
        )

    while not is_open():  # noqa: ASYNC110  nobody tells when a stream is decoded so far
        await asyncio.sleep(0.05)


def rss_bytes() -> int:
    """Of this process, now. Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def table(result: dict[str, Any]) -> str:
    """All of it, and the verdicts."""
    grown, held = result["growth"], result["idle"]
    slope = grown["bytes_per_stream"]
    if grown["streams"][-1] < JUDGED_STREAMS:
        flat = "too few streams to judge"
    else:
        flat = "flat" if slope <= MAX_BYTES_PER_STREAM else "NOT FLAT"
    most = max(held["traced"].values())
    within = f"{'within' if most <= TARGET_IDLE_BYTES else 'OVER'} the target of"
    return "\n\n".join(
        [
            report.table(
                ["streams served, all sinks", *(f"{one:,}" for one in grown["streams"])],
                [["RSS, MB", *(f"{one / 1e6:.1f}" for one in grown["rss_bytes"])]],
            ),
            f"{slope:.1f} bytes per stream: {flat}.",
            report.table(
                ["bytes per idle stream, over bare", "as Python counts", "RSS"],
                [
                    ["bare, absolute", f"{held['traced_bare']:.0f}", f"{held['rss_bare']:.0f}"],
                    *(
                        [name, f"{held['traced'][name]:.0f}", f"{held['rss'][name]:.0f}"]
                        for name in IDLE
                    ),
                ],
            ),
            f"Of {held['streams']:,} open streams: {within} {TARGET_IDLE_BYTES} bytes.",
            f"`import streamtrace` takes {result['import_ms']:.0f} ms.",
        ]
    )


def _held_bytes() -> int:
    return tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else rss_bytes()


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=ROOT))
    return found


def _main(what: str, *arguments: str) -> None:
    with Receivers() as receivers:
        if what == "growth":
            found = asyncio.run(grow(int(arguments[0]), receivers))
        else:
            name, streams, *flags = arguments
            held = hold(name, int(streams), receivers, is_traced="--traced" in flags)
            found = asyncio.run(held)
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
