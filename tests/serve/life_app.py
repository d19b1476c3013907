"""What real servers serve in these tests: an agent that does what its request says.

    GET /{cancel,continue,ttl,block,drop,coalesce,disconnect}?run_id=r&tokens=3&then=idle

`tokens` are told first; `then` is "end", "idle" (silent until `/go`, and then the end) or "drain"
(until it sees that the server drains). With `before`, it is silent before its first token. `/state`
says what is left of all that in this process.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from streamtrace.core import events as ev
from streamtrace.serve.context import RunContext
from streamtrace.serve.drain import draining
from streamtrace.serve.response import Delivery
from streamtrace.serve.router import AgentRouter
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Runs

TTL_S = 0.3
DRAIN_S = 1.0

going = asyncio.Event()
ended: dict[str, str | None] = {}
made: dict[str, int] = {}
counts: dict[str, Any] = {}


async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
    asked = run.input
    text = "x" * int(asked.get("chars", 5))
    try:
        if "before" in asked:
            await going.wait()
        for number in range(int(asked.get("tokens", 3))):
            made[run.run_id] = number + 1
            yield ev.TextDelta(text=f"{number} {text}\n", message_id="m")
            if "slowly" in asked:
                await asyncio.sleep(0)
        if asked["then"] == "idle":
            await going.wait()
        elif asked["then"] == "drain":
            await run.draining.wait()
            yield ev.TextDelta(text="drains", message_id="m")
    finally:
        ended[run.run_id] = run.cancel.reason


runs = Runs(drain_timeout_s=DRAIN_S)
router = AgentRouter(runs=runs, delivery=Delivery(send_timeout_s=5))
for name, settings in {
    "cancel": Settings(),
    "continue": Settings(on_disconnect="continue"),
    "ttl": Settings(on_disconnect=TTL_S),
    **{policy: Settings(policy=policy) for policy in ("block", "drop", "coalesce", "disconnect")},
}.items():
    router.stream(f"/{name}", agent, "generic", settings=settings, allow_get=True)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ready(_: Request) -> JSONResponse:
    return JSONResponse("ready")


async def state(_: Request) -> JSONResponse:
    for run in runs.active:
        counts[run.run_id] = run.channel.counts
    gc.collect()
    return JSONResponse(
        {
            "ended": ended,
            "made": made,
            "active": [run.run_id for run in runs.active],
            "tasks": len(asyncio.all_tasks()),
            "fds": open_files(),
            "rss_bytes": resident_bytes(),
            "counts": {
                name: {field: getattr(one, field) for field in one.__struct_fields__}
                for name, one in counts.items()
            },
        }
    )


async def go(_: Request) -> JSONResponse:
    going.set()
    return JSONResponse("gone")


app = Starlette(
    routes=[*router.routes, Route("/ready", ready), Route("/state", state), Route("/go", go)],
    lifespan=lambda _: draining(runs),
)
