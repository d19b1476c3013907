"""What the middleware costs per chunk, in one process and without a server.

Three apps answer with the same chunks: bare, behind a wrapper that only passes `send` on, and
behind StreamTraceMiddleware. Two times are taken, both of CPU, so that other work on the machine
counts less:

* path: from the first chunk to the last inside the app. It never yields, so nothing but the path
  runs meanwhile; this is what a client could feel.
* all: from the call of the app until its record is with the sink, decoding included.

Rounds are interleaved and each round is compared with itself; medians of those are printed.
Absolute numbers hold for one machine, the differences within one run are the point.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from streamtrace import StreamTraceMiddleware
from streamtrace.core.sink import Sink, StreamInfo
from streamtrace.core.summary import RunSummary

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

VARIANTS = ("bare", "pass-through", "streamtrace")
TARGET_US = 0.5
HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


class Last(Sink):
    """A sink that keeps the last record and says that it came."""

    name = "last"

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.record: RunSummary | None = None

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        self.record = summary
        self.came.set()


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
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.path_ns = time.thread_time_ns() - began_ns
        if tracemalloc.is_tracing():
            self.held_bytes = tracemalloc.get_traced_memory()[0]
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def passing_through(app: App) -> App:
    """The least that a middleware with a `send` of its own can do."""

    async def middleware(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def forward(message: Message) -> None:
            await send(message)

        await app(scope, receive, forward)

    return middleware


async def take(message: Message) -> None:
    """The server, as far as we time it."""


async def receive() -> Message:
    """A client that sent no body, and stays."""
    return {"type": "http.request", "body": b"", "more_body": False}


def scope() -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/chat",
        "raw_path": b"/chat",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"accept", b"text/event-stream")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def chunks_of(count: int, text_bytes: int = 5) -> list[bytes]:
    """Chat completion chunks as they come from a real endpoint, about 225 bytes each."""
    event = {
        "id": "chatcmpl-BvTOxYdJ9aNvxvFSOCGVa7TVLPTNa",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "choices": [{"index": 0, "delta": {"content": "x" * text_bytes}, "finish_reason": None}],
    }
    return [f"data: {json.dumps(event)}\n\n".encode() for _ in range(count)]


class Bench:
    """The three apps over one list of chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.streaming = Streaming(chunks)
        self.sink = Last()
        self.apps: dict[str, App] = {
            "bare": self.streaming,
            "pass-through": passing_through(self.streaming),
            "streamtrace": StreamTraceMiddleware(self.streaming, sinks=[self.sink]),
        }

    async def once(self, variant: str) -> tuple[float, float]:
        """One response: µs of CPU per chunk, on the path and all in."""
        self.sink.came.clear()
        began_ns = time.process_time_ns()
        await self.apps[variant](scope(), receive, take)
        if variant == "streamtrace":
            await self.sink.came.wait()
        all_ns = time.process_time_ns() - began_ns
        per_chunk = 1000 * len(self.streaming.chunks)
        return self.streaming.path_ns / per_chunk, all_ns / per_chunk

    async def rounds(self, count: int) -> dict[str, dict[str, list[float]]]:
        """`count` interleaved rounds, after one to warm up: time -> variant -> µs per chunk."""
        times: dict[str, dict[str, list[float]]] = {
            kind: {variant: [] for variant in VARIANTS} for kind in ("path", "all")
        }
        for number in range(count + 1):
            for offset in range(len(VARIANTS)):
                variant = VARIANTS[(number + offset) % len(VARIANTS)]
                gc.collect()
                path_us, all_us = await self.once(variant)
                if number:
                    times["path"][variant].append(path_us)
                    times["all"][variant].append(all_us)
        return times


async def held_bytes_per_chunk(text_bytes: int, count: int = 100) -> float:
    """Memory that the path added for each chunk it let through, before anything was decoded."""
    bench = Bench(chunks_of(count, text_bytes))
    await bench.once("streamtrace")
    held = {}
    for variant in VARIANTS:
        gc.collect()
        tracemalloc.start()
        await bench.once(variant)
        tracemalloc.stop()
        held[variant] = bench.streaming.held_bytes
    return (held["streamtrace"] - held["pass-through"]) / count


def compare(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians per variant: µs per chunk, and the difference to bare and to the pass-through."""

    def over(variant: str, base: str) -> float:
        pairs = zip(times[variant], times[base], strict=True)
        return statistics.median(mine - theirs for mine, theirs in pairs)

    return {
        variant: {
            "us": statistics.median(times[variant]),
            "over_bare_us": over(variant, "bare"),
            "over_pass_through_us": over(variant, "pass-through"),
        }
        for variant in VARIANTS
    }


async def measure(rounds: int, chunks: int) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    bench = Bench(chunks_of(chunks))
    times = await bench.rounds(rounds)
    record = bench.sink.record
    assert record is not None
    assert record.lost_chunks == 0, "the tap was full: fewer chunks fit"
    return {
        "python": platform.python_version(),
        "rounds": rounds,
        "chunks": chunks,
        "chunk_bytes": len(bench.streaming.chunks[0]),
        "path": compare(times["path"]),
        "all": compare(times["all"]),
        "held_bytes_per_chunk": {
            str(size): await held_bytes_per_chunk(size) for size in (5, 500, 5000)
        },
        "target_us": TARGET_US,
    }


def table(result: dict[str, Any]) -> str:
    """The result as people read it."""
    title = (
        f"Python {result['python']}, {result['rounds']} rounds of {result['chunks']} chunks"
        f" of {result['chunk_bytes']} bytes; µs of CPU per chunk, medians"
    )
    lines = [
        title,
        "",
        f"{'':14}{'path':>8}{'+bare':>8}{'+pass':>8}   {'all':>8}{'+bare':>8}{'+pass':>8}",
    ]
    for variant in VARIANTS:
        row = f"{variant:14}"
        for kind in ("path", "all"):
            one = result[kind][variant]
            row += "".join(
                f"{one[name]:8.3f}" for name in ("us", "over_bare_us", "over_pass_through_us")
            )
            row += "   "
        lines.append(row.rstrip())
    lines += ["", "bytes held per chunk until it is decoded (text of the chunk -> bytes):"]
    lines += [f"{size:>8} -> {held:.0f}" for size, held in result["held_bytes_per_chunk"].items()]
    cost = result["path"]["streamtrace"]["over_pass_through_us"]
    verdict = "within" if cost <= TARGET_US else "OVER"
    lines += ["", f"path over pass-through: {cost:.3f} µs, {verdict} the target of {TARGET_US} µs"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--chunks", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments.rounds, arguments.chunks))
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
