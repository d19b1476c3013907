"""Streams of any length, size and number, driven through an app in this process, for `growth`.

Rules that hold here:

* A stream is sent in bursts, and after about PAUSE_BYTES the pump may catch up: no tap gets full.
  `check` holds what a witness saw against what was sent.
* Where many streams are open, one event is sent to each in turn, and the pump does not look in
  before it may: so the events per stream between two looks are the same for any number of streams.
* Bare apps are driven the same way.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import MutableMapping, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

from benchmarks.inprocess import (
    HEAD,
    LAST,
    App,
    Receive,
    Send,
    Witness,
    body,
    caught_up,
    receive,
    scope,
    settled,
    take,
)

BURST = 500
PAUSE_BYTES = 1024 * 1024
ENTRY_BYTES = 64


class Frames:
    """What is said at the beginning, between, and at the end, of a list of at least five frames."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.first, self.words, self.last = frames[:2], frames[2:-2], frames[-2:]
        self.ends = len(self.first) + len(self.last)

    def said(self, events: int) -> islice[bytes]:
        """So many events, the words again and again."""
        return islice(cycle(self.words), events)


class Flow:
    """An app that sends `events` between the ends of its stream, and takes the time of the path.

    `fresh`: each chunk is an object of its own, as in any app, so that memory can be measured.
    """

    def __init__(self, frames: Frames, *, fresh: bool = False) -> None:
        self.frames = frames
        self.events = 1
        self.path_ns = 0
        self.is_bare = False
        self._fresh = fresh

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send(HEAD)
        for chunk in self.frames.first:
            await send(body(chunk))
        said = self.frames.said(self.events)
        most = max(1, min(BURST, PAUSE_BYTES // 2 // len(self.frames.words[0])))
        held_bytes = 0
        while burst := list(islice(said, most)):
            if self._fresh:
                burst = [bytes(bytearray(chunk)) for chunk in burst]
            began_ns = time.thread_time_ns()
            for chunk in burst:
                await send(body(chunk))
            self.path_ns += time.thread_time_ns() - began_ns
            held_bytes += sum(map(len, burst)) + ENTRY_BYTES * len(burst)
            if held_bytes > PAUSE_BYTES and not self.is_bare:
                held_bytes = 0
                await caught_up()
            else:
                await asyncio.sleep(0)
        for chunk in self.frames.last:
            await send(body(chunk))
        await send(LAST)


class Took(NamedTuple):
    """CPU of one piece of work: of the path, and of all threads, its exports included."""

    path_us: float
    all_us: float


async def flow_through(app: App, flow: Flow, streams: int) -> Took:
    """So many streams, one after the other."""
    gc.collect()
    flow.path_ns, flow.is_bare = 0, app is flow
    began_ns = time.process_time_ns()
    for _ in range(streams):
        await app(scope(), receive, take)
    await settled(app)
    return Took(flow.path_ns / 1e3, (time.process_time_ns() - began_ns) / 1e3)


class Held:
    """An app whose streams stay open, to be fed from outside, until they are told to end."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.sends: list[Send] = []
        self.end = asyncio.Event()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send(HEAD)
        for chunk in self.frames.first:
            await send(body(chunk))
        self.sends.append(send)
        await self.end.wait()
        for chunk in self.frames.last:
            await send(body(chunk))
        await send(LAST)


class HeldTook(NamedTuple):
    """CPU per stream of opening and ending, and per event while all were open."""

    stream_us: float
    path_us: list[float]
    event_us: list[float]


async def hold_open(
    app: App, held: Held, streams: int, looks: int, per_look: Sequence[int]
) -> HeldTook:
    """All open, then for each of `per_look` so many looks with so many events per stream."""
    gc.collect()
    held.sends, held.end = [], asyncio.Event()
    began_ns = time.process_time_ns()
    tasks = [asyncio.create_task(app(scope(), receive, take)) for _ in range(streams)]
    while len(held.sends) < streams:  # noqa: ASYNC110  at the next turn they are
        await asyncio.sleep(0)
    await caught_up()
    stream_ns = time.process_time_ns() - began_ns
    path_us, event_us = [], []
    for events in per_look:
        path_ns = 0
        began_ns = time.process_time_ns()
        for _ in range(looks):
            path_ns -= time.thread_time_ns()
            for chunk in held.frames.said(events):
                for send in held.sends:
                    await send(body(chunk))
            path_ns += time.thread_time_ns()
            await caught_up()
        all_ns = time.process_time_ns() - began_ns
        path_us.append(path_ns / (streams * events * looks) / 1e3)
        event_us.append(all_ns / (streams * events * looks) / 1e3)
    began_ns = time.process_time_ns()
    held.end.set()
    await asyncio.gather(*tasks)
    await settled(app)
    stream_ns += time.process_time_ns() - began_ns
    return HeldTook(stream_ns / streams / 1e3, path_us, event_us)


def check(witness: Witness, streams: int, frames: int) -> None:
    """Since the last check the witness saw exactly these. Raises RuntimeError."""
    seen = (witness.runs, witness.frames, witness.lost_chunks)
    if seen != (streams, frames, 0):
        raise RuntimeError(f"{streams} streams of {frames} frames were sent; seen: {vars(witness)}")
    witness.runs = witness.frames = witness.events = 0


class Peak:
    """The most memory that Python held in the `with` block, beyond what it held before."""

    def __enter__(self) -> Peak:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
