"""Both clients of runs behind one function: what each makes of a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2
import pytest
from support.clients import run_client

from streamtrace.client import (
    ClientError,
    ConnectionLost,
    GapEvent,
    RunClient,
    RunEvent,
    RunRefused,
    Waiting,
)

CLIENTS = ("python", "javascript")


class Seen(NamedTuple):
    """What a client told.

    told      `[id, event, data]`, and `["gap", after, missed, id]`
    pauses    the seconds between two connections
    error     its name, and what it holds
    stopped   what `stop` returned
    """

    told: list[list[Any]]
    pauses: list[float]
    error: list[Any] | None
    stopped: bool | None
    run_id: str | None
    thread_id: str | None
    last_id: int | None


async def read(client: str, url: str, **asked: Any) -> Seen:
    """`asked` is as `tests/clients/streamtrace.mjs` has it."""
    if client == "python":
        return await _read(url, asked)
    seen = await run_client("streamtrace.mjs", url, json.dumps(asked))
    return Seen(**{name: seen[name] for name in Seen._fields})


async def _read(url: str, asked: Mapping[str, Any]) -> Seen:
    told: list[list[Any]] = []
    pauses: list[float] = []
    error: list[Any] | None = None
    stopped: bool | None = None

    async def asked_headers(refused: bool) -> Mapping[str, str]:
        return {"authorization": asked["refused"] if refused else "Bearer old"}

    def on_waiting(waiting: Waiting) -> None:
        pauses.append(waiting.delay_s)

    http = httpx2.AsyncClient(timeout=None)  # no limit but that of `RunClient`
    async with (
        http,
        RunClient(
            f"{url}/agents/",
            http=http,
            headers=asked_headers if "refused" in asked else {"authorization": "Bearer fixed"},
            idle_timeout_s=asked.get("idleTimeoutMs", 20_000) / 1000,
            max_attempts=asked.get("maxAttempts", 10),
        ) as client,
    ):
        if "start" in asked:
            stream = client.start(asked["start"], query=asked.get("query"), on_waiting=on_waiting)
        else:
            stream = client.follow(
                asked.get("run"),
                thread_id=asked.get("thread"),
                after=asked.get("after", 0),
                on_waiting=on_waiting,
            )
        run_id = thread_id = last_id = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streamtrace.client.stream.sleep", _short_sleep)
            try:
                async with stream as run:
                    async for event in run:
                        told.append(_told(event))
                        if event.id == asked.get("stopAt", -1):
                            stopped = await run.stop()
                        if event.id == asked.get("leaveAt", -1):
                            break
                run_id, thread_id, last_id = run.run_id, run.thread_id, run.last_id
            except RunRefused as refusal:
                error = ["RunRefused", refusal.status, refusal.code, refusal.retry_after_s]
            except ConnectionLost as lost:
                error = ["ConnectionLost", lost.run_id, lost.last_id]
            except ClientError as other:
                error = ["ClientError", str(other)]
    return Seen(told, pauses, error, stopped, run_id, thread_id, last_id)


def _told(event: RunEvent | GapEvent) -> list[Any]:
    if isinstance(event, GapEvent):
        return ["gap", event.after, event.missed, event.id]
    return [event.id, event.event, event.data]


_sleep = asyncio.sleep


async def _short_sleep(delay_s: float) -> None:
    await _sleep(min(delay_s, 0.005))
