"""What only `streamtrace.js` has: signals, and the states that a page shows."""

from __future__ import annotations

import json
from typing import Any

from support.clients import run_client
from support.script import Script, empty, event, sse


async def seen_by(script: Script, **asked: Any) -> Any:
    return await run_client(
        "streamtrace.mjs", script.url, json.dumps({"start": {"message": "Hi"}, **asked})
    )


async def test_a_signal_leaves_with_its_reason():
    async with Script(sse(event(1, "a"), end="hang")) as script:
        seen = await seen_by(script, abortAt=1)
        await script.left.wait()
    assert seen["error"] == ["Error", "the page was left"]
    assert seen["states"] == ["connecting", "open", "done"]


async def test_the_states_of_a_connection_that_was_cut():
    answers = [sse(event(1, "a"), end="cut"), sse(event(2, "b")), empty()]
    async with Script(*answers) as script:
        seen = await seen_by(script)
    once = ["connecting", "open"]
    assert seen["states"] == [*once, "waiting", *once, "connecting", "done"]


async def test_who_leaves_while_waiting_does_not_wait():
    """The event that was asked for does not come, and then there are none."""
    async with Script(sse(end="hang")) as script:
        seen = await seen_by(script, leaveWaiting=True)
        await script.left.wait()
    assert (seen["told"], seen["error"]) == ([{"done": True}], None)


async def test_a_silent_connection_is_cut_for_its_silence():
    async with Script(sse(event(1, "a"), end="hang"), empty()) as script:
        seen = await seen_by(script, idleTimeoutMs=300)
    assert seen["causes"] == ["nothing came for 300 ms"]
