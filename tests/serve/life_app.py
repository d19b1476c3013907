"""What real servers serve in these tests: an agent that does what its request says.

    GET /{cancel,continue,ttl,block,drop,whole,coalesce,disconnect}?run_id=r&tokens=3&then=idle

`tokens` are told first; `then` is "end", "idle" (silent until `/go?run_id=r`, and then the end) or
"drain" (until it sees that the server drains). With `before`, it is silent before its first token,
and with `thread` it is a plain generator. `/state` says what is left of all that in this process,
and `/drain` begins to drain it. `observed` is the same, with its metrics at `/metrics`; in
`plain` nothing is ours.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from streamtrace import StreamTraceMiddleware
from streamtrace.core import events as ev
from streamtrace.serve.channel import ChannelCounts
from streamtrace.serve.context import RunContext
from streamtrace.serve.drain import draining
from streamtrace.serve.response import Delivery
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Runs
from streamtrace.sinks.prometheus import PrometheusSink, metrics_app

TTL_S = 0.1
DRAIN_S = 0.5

going: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
ended: dict[str, str | None] = {}
made: dict[str, int] = {}
counts: dict[str, ChannelCounts] = {}
posted: list[str] = []
"""The queries of POSTs that reached the app, whether or not their bodies are there."""


def token(run: RunContext, number: int) -> ev.Event:
    made[run.run_id] = number + 1
    return ev.TextDelta(text=f"{number} {'x' * int(run.input.get('chars', 5))}\n", message_id="m")


def agent(run: RunContext) -> AsyncIterator[ev.Event] | Iterator[ev.Event]:
    served = runs.get(run.run_id)
    assert served is not None
    counts[run.run_id] = served.channel.counts
    return in_thread(run) if "thread" in run.input else on_loop(run)


async def on_loop(run: RunContext) -> AsyncIterator[ev.Event]:
    asked = run.input
    try:
        if "before" in asked:
            await going[run.run_id].wait()
        for number in range(int(asked.get("tokens", 3))):
            yield token(run, number)
            if "slowly" in asked:
                await asyncio.sleep(0)
        if asked["then"] == "idle":
            await going[run.run_id].wait()
        elif asked["then"] == "drain":
            await run.draining.wait()
            yield ev.TextDelta(text="drains", message_id="m")
    finally:
        ended[run.run_id] = run.cancel.reason


def in_thread(run: RunContext) -> Iterator[ev.Event]:
    def idle() -> None:
        while not (run.cancel.is_set or going[run.run_id].is_set()):
            time.sleep(0.01)

    try:
        if "before" in run.input:
            idle()
        for number in range(int(run.input.get("tokens", 3))):
            yield token(run, number)
        if run.input["then"] == "idle":
            idle()
    finally:
        ended[run.run_id] = run.cancel.reason


runs = Runs(drain_timeout_s=DRAIN_S)
router = AgentRouter(runs=runs, delivery=Delivery(send_timeout_s=5))
SETTINGS = {
    "cancel": Settings(),
    "continue": Settings(on_disconnect="continue"),
    "ttl": Settings(on_disconnect=TTL_S),
    "block": Settings(policy="block"),
    "drop": Settings(policy="drop"),
    "whole": Settings(policy="drop", whole_messages=True),
    "coalesce": Settings(policy="coalesce"),
    "disconnect": Settings(policy="disconnect"),
}
for name, settings in SETTINGS.items():
    router.stream(f"/{name}", agent, "generic", settings=settings, allow_get=True)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ready(_: Request) -> JSONResponse:
    return JSONResponse("ready")


async def state(_: Request) -> JSONResponse:
    gc.collect()
    return JSONResponse(
        {
            "ended": ended,
            "made": made,
            "active": [run.run_id for run in runs.active],
            "left": [run.run_id for run in runs.active if run.disconnected_ns is not None],
            "posted": posted,
            "tasks": len(asyncio.all_tasks()),
            "fds": open_files(),
            "rss_bytes": resident_bytes(),
            "counts": {
                name: {field: getattr(one, field) for field in one.__struct_fields__}
                for name, one in counts.items()
            },
        }
    )


async def go(request: Request) -> JSONResponse:
    going[request.query_params["run_id"]].set()
    return JSONResponse("gone")


async def drain(_: Request) -> JSONResponse:
    return JSONResponse("drains", background=BackgroundTask(router.drain))


routed = Starlette(
    routes=[
        *router.routes,
        Route("/ready", ready),
        Route("/state", state),
        Route("/go", go),
        Route("/drain", drain),
        Mount("/metrics", metrics_app()),
    ],
    lifespan=lambda _: draining(runs),
)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope.get("method") == "POST":
        posted.append(scope["query_string"].decode())
    await routed(scope, receive, send)


plain = Starlette(routes=[Route("/ready", ready)])
observed = StreamTraceMiddleware(routed, sinks=[PrometheusSink()])
