"""Runs the coroutines of a module in the environment of their framework, and prints what they gave.

A scenario gives events, or any JSON. Events are written as pairs of their type and fields.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
from support.pages import execute, python_blocks

from streamtrace.core.events import Event, TextDelta

Scenario = Callable[[], Awaitable[Any]]


async def told(stream: Any) -> list[Event]:
    """The events of an adapter."""
    if hasattr(stream, "__aiter__"):
        return [event async for event in stream]
    return await asyncio.to_thread(list, stream)


async def tasks_left(events: Any) -> int:
    """How many tasks go on when the events are closed in the middle of a text."""
    before = asyncio.all_tasks()
    async for event in events:
        if isinstance(event, TextDelta):
            break
    await events.aclose()
    return len(asyncio.all_tasks() - before)


async def documented(block: str, **names: Any) -> list[Event]:
    """What the agent of a block of docs/adapters.md says."""
    page = "docs/adapters.md"
    agent = execute(page, python_blocks(page)[block], names)["agent"]
    run = SimpleNamespace(
        thread_id="s", messages=[{"role": "user", "content": "How is it?"}], resume=None
    )
    return await told(agent(run))


def run_all(scenarios: dict[str, Scenario]) -> None:
    """Each on a loop of its own."""
    done = {name: _written(asyncio.run(scenario())) for name, scenario in scenarios.items()}
    json.dump(done, sys.stdout)


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(inner) for key, inner in value.items()}
    if isinstance(value, list) and all(isinstance(one, Event) for one in value):
        return [[type(one).__name__, msgspec.to_builtins(one)] for one in value]
    return value
