"""What the middleware costs per chunk on the path, in one process and without a server.

Three apps answer with the same chunks: bare, behind a wrapper that only passes `send` on, and
behind StreamTraceMiddleware. The time is CPU, from the first chunk to the last inside the app. It
never yields, so nothing but the path runs meanwhile; this is what a client could feel. What comes
later is measured by `tracing`.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import MutableMapping
from typing import Any

from benchmarks import report, rounds
from benchmarks.inprocess import (
    HEAD,
    LAST,
    App,
    Receive,
    Send,
    Witness,
    body,
    passing_through,
    receive,
    scope,
    settled,
    take,
)
from benchmarks.streams import STREAMS
from streamtrace import StreamTraceMiddleware

VARIANTS = ("bare", "pass-through", "streamtrace")
TARGET_NS = 250
TEXT_BYTES = (5, 500, 5000)


class Streaming:
    """An app that sends its chunks as fast as it can, and takes the time around that."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.path_ns = 0
        self.held_bytes = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await send(HEAD)
        chunks = self.chunks
        began_ns = time.thread_time_ns()
        for chunk in chunks:
            await send(body(chunk))
        self.path_ns = time.thread_time_ns() - began_ns
        if tracemalloc.is_tracing():
            self.held_bytes = tracemalloc.get_traced_memory()[0]
        await send(LAST)


class Path:
    """The three apps over one list of chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.streaming = Streaming(chunks)
        self.witness = Witness()
        self.apps: dict[str, App] = {
            "bare": self.streaming,
            "pass-through": passing_through(self.streaming),
            "streamtrace": StreamTraceMiddleware(self.streaming, sinks=[self.witness]),
        }

    async def once(self, variant: str) -> float:
        """One response: ns of CPU per chunk on the path."""
        await self.apps[variant](scope(), receive, take)
        path_ns = self.streaming.path_ns
        await settled(self.apps[variant])
        if self.witness.lost_chunks:
            raise RuntimeError(f"the tap was full: {self.witness.lost_chunks} chunks were lost")
        return path_ns / len(self.streaming.chunks)

    async def rounds(self, count: int) -> rounds.Samples:
        """`count` rounds: ns per chunk, by variant."""
        samples: rounds.Samples = {variant: [] for variant in VARIANTS}
        for number, variant in rounds.turns(VARIANTS, count):
            gc.collect()
            path_ns = await self.once(variant)
            if number:
                samples[variant].append(path_ns)
        return samples


def measure(kind: str, count: int) -> dict[str, Any]:
    """Of one kind of stream: time per chunk, and memory until it is decoded."""
    samples = asyncio.run(Path(STREAMS[kind]()).rounds(count))
    return {
        "ns": {variant: rounds.quartiles(samples[variant]) for variant in VARIANTS},
        "over_bare_ns": {variant: rounds.over(samples, variant, "bare") for variant in VARIANTS},
        "over_pass_through_ns": rounds.over(samples, "streamtrace", "pass-through"),
        "held_bytes_per_chunk": {
            str(size): asyncio.run(held_bytes_per_chunk(kind, size)) for size in TEXT_BYTES
        },
    }


async def held_bytes_per_chunk(kind: str, text_bytes: int, tokens: int = 100) -> float:
    """Memory that the path adds for each chunk that it lets through: the chunk is not copied."""
    path = Path(STREAMS[kind](tokens, text_bytes))
    await path.once("streamtrace")
    held = {}
    for variant in VARIANTS:
        gc.collect()
        tracemalloc.start()
        await path.once(variant)
        tracemalloc.stop()
        held[variant] = path.streaming.held_bytes
    return (held["streamtrace"] - held["pass-through"]) / len(path.streaming.chunks)


def table(result: dict[str, dict[str, Any]]) -> str:
    """Of each kind of stream, and the verdict."""
    rows = []
    for kind, one in result.items():
        for variant in VARIANTS:
            over = "" if variant == "bare" else report.spread(one["over_bare_ns"][variant], 0)
            rows.append([f"{kind}, {variant}", report.spread(one["ns"][variant], 0), over])
    held = [
        [kind, *(f"{one['held_bytes_per_chunk'][str(size)]:.0f}" for size in TEXT_BYTES)]
        for kind, one in result.items()
    ]
    cost_ns = max(one["over_pass_through_ns"]["median"] for one in result.values())
    verdict = f"{'within' if cost_ns <= TARGET_NS else 'OVER'} the target of {TARGET_NS} ns"
    return "\n\n".join(
        [
            report.table(["ns of CPU per chunk on the path", "absolute", "over bare"], rows),
            f"Over the pass-through: at most {cost_ns:.0f} ns, {verdict}.",
            report.table(
                ["bytes held per chunk, by its text", *(f"{size} B" for size in TEXT_BYTES)], held
            ),
        ]
    )
