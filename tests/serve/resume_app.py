"""What real servers serve in tests of resumable runs: an agent that talks at the pace it is given.

    POST /chat/runs {"words": 20, "pace_s": 0.01}      then the run ends; without words it talks on

The log is that of the variable `LOG` (memory, or Redis at that URL), its lease that of `LEASE_S`; a
run waits `PATIENCE_S` for it. `/counts` says what was counted in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from streamtrace.core import events as ev
from streamtrace.core.served import SERVED
from streamtrace.serve import AgentRouter, RunContext
from streamtrace.serve.log import recorder
from streamtrace.serve.log.base import EventLog, LogBounds
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.response import Delivery
from streamtrace.serve.runs import Runs

recorder.PATIENCE_S = float(os.environ.get("PATIENCE_S", "15"))
BOUNDS = LogBounds(lease_s=float(os.environ.get("LEASE_S", "10")))


async def agent(run: RunContext) -> AsyncIterator[ev.Event]:
    words = run.input.get("words")
    for number in itertools.count() if words is None else range(words):
        yield ev.TextDelta(text=f"w{number} ", message_id="m")
        await asyncio.sleep(run.input.get("pace_s", 0))


def log() -> EventLog:
    place = os.environ.get("LOG", "memory")
    if place == "memory":
        return MemoryLog(BOUNDS)
    from streamtrace.serve.log.redis import RedisLog

    return RedisLog(place, BOUNDS)


async def ready(_: Request) -> JSONResponse:
    return JSONResponse("ready")


async def counts(_: Request) -> JSONResponse:
    return JSONResponse(msgspec.to_builtins(SERVED))


router = AgentRouter(delivery=Delivery(heartbeat_s=0.2), runs=Runs(drain_timeout_s=0.2))
router.resumable("/chat", agent, log=log())
app = Starlette(
    routes=[*router.routes, Route("/ready", ready), Route("/counts", counts)],
    lifespan=router.lifespan,
)
