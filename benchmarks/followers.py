"""Does a follower that stalls make the others late?

A run of frames of about a kilobyte, at the pace of a model, is followed over sockets: by 99, and by
the same and one more that reads nothing. Each frame says when it was told, so that a client knows
how late it is; that includes what the client takes to read it. The listening socket is bounded
(`tune_listener`), so that a client that does not read holds up its connection soon. The two take
turns.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
import uvloop

from benchmarks import children, report
from benchmarks.children import LOAD_CORE, SERVER_CORE, Child, pinned
from benchmarks.rounds import quartiles, ratio, turns
from streamtrace.core import events as ev
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.serve.sockets import tune_listener

FOLLOWERS = 99
PER_S = 50
CHARS = 1_000
VARIANTS = ("99", "99 and one stalled")
FULL = {"rounds": 7, "frames": 300}
SHORT = {"rounds": 1, "frames": 20}
BEGINS_AFTER_S = 0.5


def run(short: bool) -> dict[str, Any]:
    """Lateness in ms by variant, and the ratio of the two, round by round."""
    size = SHORT if short else FULL
    samples: dict[str, dict[str, list[float]]] = {
        quantile: {name: [] for name in VARIANTS} for quantile in ("p50", "p99")
    }
    with Child("benchmarks.followers", core=SERVER_CORE) as server, pinned(LOAD_CORE):
        for number, name in turns(VARIANTS, size["rounds"]):
            late_ms = asyncio.run(_round(server.hello["port"], size["frames"], name != VARIANTS[0]))
            if number:
                samples["p50"][name].append(statistics.median(late_ms))
                samples["p99"][name].append(statistics.quantiles(late_ms, n=100)[98])
    return {
        "followers": FOLLOWERS,
        "per_s": PER_S,
        "frames": size["frames"],
        "late_ms": {
            quantile: {name: quartiles(values) for name, values in one.items()}
            for quantile, one in samples.items()
        },
        "ratio": {
            quantile: ratio(one, VARIANTS[1], VARIANTS[0]) for quantile, one in samples.items()
        },
    }


def tables(result: dict[str, Any]) -> str:
    """As Markdown."""
    late = result["late_ms"]
    rows: list[list[object]] = [
        [name, *(report.spread(late[quantile][name]) for quantile in ("p50", "p99"))]
        for name in VARIANTS
    ]
    rows.append(["ratio", *(report.spread(result["ratio"][one]) for one in ("p50", "p99"))])
    return report.table(["followers", "late, p50, ms", "late, p99, ms"], rows)


async def _round(port: int, frames: int, stalls: bool) -> list[float]:
    """The lateness of each frame at each follower that reads."""
    starting, run_id = await _start(port, frames)
    path = f"/chat/runs/{run_id}/events"
    stalled = await _stalled(port, path) if stalls else None
    late_ms: list[float] = []
    followers = [_follow(port, path, late_ms) for _ in range(FOLLOWERS)]
    await asyncio.gather(*followers)
    await starting
    if stalled is not None:
        stalled.close()
    assert len(late_ms) == FOLLOWERS * frames, "a follower has not got everything"
    return late_ms


async def _start(port: int, frames: int) -> tuple[asyncio.Task[None], str]:
    """A client that begins the run, and reads it; and the run's id."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"frames": frames}).encode()
    writer.write(
        b"POST /chat/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()

    async def rest() -> None:
        while await reader.readline() != b"0\r\n":
            pass
        writer.close()

    return asyncio.create_task(rest()), head.split("x-run-id: ")[1].split("\r\n")[0]


async def _follow(port: int, path: str, late_ms: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024 * 1024)
    writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    await reader.readuntil(b"\r\n\r\n")
    while (line := await reader.readline()) != b"0\r\n":
        if line.startswith(b'data: {"type":"token"'):
            told_ns = int(json.loads(line[6:])["content"].partition(" ")[0])
            late_ms.append((time.monotonic_ns() - told_ns) / 1e6)
    writer.close()


async def _stalled(port: int, path: str) -> socket.socket:
    """A client that asks, and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
    return client


# --- the server --------------------------------------------------------------------------------


async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
    """Tells the time, at the pace of a model."""
    await asyncio.sleep(BEGINS_AFTER_S)  # until all have come
    began = time.monotonic()
    for number in range(run.input["frames"]):
        await asyncio.sleep(max(0.0, began + number / PER_S - time.monotonic()))
        text = f"{time.monotonic_ns()} {'x' * CHARS}"
        yield ev.TextDelta(text=text, message_id="m")


async def main() -> None:
    """Serve until the parent is gone."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    tune_listener(listener)
    app = AgentRouter().resumable("/chat", agent, "generic").app()
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_level="error"))
    children.answer({}, {"port": listener.getsockname()[1]})
    await server.serve([listener])


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
