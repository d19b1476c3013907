"""What full tracing costs per event, in one process: decoding, spans, metrics and exports included.

A round serves some streams side by side, and is over when the last record has left the process:
deferred work counts. The receivers run in a process of their own, and do not. Two times are taken,
both of CPU: of all threads, and of the one that the event loop runs on.

The apps send as fast as they can, so the pump finds many chunks of a stream at once. At the pace of
a model it finds one or two; what that costs more is measured by `growth` and `paced`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import MutableMapping
from typing import Any

from benchmarks import report, rounds
from benchmarks.inprocess import (
    HEAD,
    LAST,
    SETUPS,
    App,
    Receive,
    Send,
    Setup,
    Witness,
    body,
    close,
    receive,
    scope,
    settled,
    take,
    traced,
)
from benchmarks.receivers import Receivers
from benchmarks.streams import STREAMS

STREAMS_AT_ONCE = 20
CHUNKS_PER_TURN = 50


class Streaming:
    """An app that asks for the question, and lets others run between its chunks now and then."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send(HEAD)
        for number, chunk in enumerate(self.chunks):
            if number % CHUNKS_PER_TURN == 0:
                await asyncio.sleep(0)
            await send(body(chunk))
        await send(LAST)


def measure(kind: str, count: int, receivers: Receivers) -> dict[str, Any]:
    """`count` rounds of one kind of stream."""
    return asyncio.run(_measure(STREAMS[kind](), count, receivers))


async def _measure(chunks: list[bytes], count: int, receivers: Receivers) -> dict[str, Any]:
    app = Streaming(chunks)
    await _verify(app, receivers)
    apps: dict[str, App] = {"bare": app}
    apps |= {name: traced(app, setup, receivers) for name, setup in SETUPS.items()}
    all_us: rounds.Samples = {name: [] for name in apps}
    loop_us: rounds.Samples = {name: [] for name in apps}
    for number, name in rounds.turns(tuple(apps), count):
        gc.collect()
        all_ns, loop_ns = time.process_time_ns(), time.thread_time_ns()
        await _serve(apps[name])
        all_ns, loop_ns = time.process_time_ns() - all_ns, time.thread_time_ns() - loop_ns
        if number:
            events = STREAMS_AT_ONCE * len(chunks)
            all_us[name].append(all_ns / events / 1e3)
            loop_us[name].append(loop_ns / events / 1e3)
    for one in apps.values():
        close(one)
    return {
        "bare_us": rounds.quartiles(all_us["bare"]),
        "over_bare_us": {name: rounds.over(all_us, name, "bare") for name in SETUPS},
        "of_which_loop_us": {name: rounds.over(loop_us, name, "bare") for name in SETUPS},
    }


async def _serve(app: App) -> None:
    requests = (app(scope(), receive, take) for _ in range(STREAMS_AT_ONCE))
    await asyncio.gather(*requests)
    await settled(app)


async def _verify(app: Streaming, receivers: Receivers) -> None:
    """What is going to be measured does all of its work."""
    witness = Witness()
    await _serve(traced(app, Setup(lambda _: []), receivers, witness))
    sent = STREAMS_AT_ONCE * len(app.chunks)
    if (witness.runs, witness.frames, witness.lost_chunks) != (STREAMS_AT_ONCE, sent, 0):
        raise RuntimeError(f"{sent} frames were sent, and recorded were {vars(witness)}")


def table(result: dict[str, dict[str, Any]]) -> str:
    """Of each kind of stream."""
    rows = []
    for name in SETUPS:
        row = [name]
        for one in result.values():
            row += [
                report.spread(one["over_bare_us"][name]),
                f"{one['of_which_loop_us'][name]['median']:.2f}",
            ]
        rows.append(row)
    bare = ["bare, absolute"]
    for one in result.values():
        bare += [report.spread(one["bare_us"]), ""]
    columns = ["µs of CPU per event over bare"]
    for kind in result:
        columns += [kind, "on the loop"]
    return report.table(columns, [bare, *rows])
