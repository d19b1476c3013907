"""A run that says much, whether or not its client reads, and tells how much of it was taken."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from streamtrace import StreamTraceMiddleware
from streamtrace.sinks.jsonl import JsonLinesSink

WAITS_S = 0.5
"""A `send` that takes so long waits for its client."""


def frame(**event: str) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


class Flood:
    """What was sent of one run."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.waited_at: int | None = None
        """So much had been taken when `send` first waited."""
        self.done = False


floods: dict[str, Flood] = {}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/ready, /flood/{run_id}/{frames}/{bytes of each}/{ms between them}, /sent/{run_id}"""
    if scope["type"] != "http":
        raise RuntimeError("http only")
    what, *rest = scope["path"].strip("/").split("/")
    is_stream = what == "flood"
    kind = b"text/event-stream" if is_stream else b"application/json"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    await send(start)
    body = b""
    if is_stream:
        await flood(send, *rest)
    elif what == "sent":
        body = json.dumps(vars(floods[rest[0]])).encode()
    await send({"type": "http.response.body", "body": body})


async def flood(send: Any, run_id: str, frames: str, size: str, ms: str) -> None:
    run = floods[run_id] = Flood()

    async def say(body: bytes) -> None:
        sending = asyncio.ensure_future(
            send({"type": "http.response.body", "body": body, "more_body": True})
        )
        await asyncio.wait({sending}, timeout=WAITS_S)
        if not sending.done() and run.waited_at is None:
            run.waited_at = run.sent_bytes
        await sending
        run.sent_bytes += len(body)

    await say(frame(type="RUN_STARTED", threadId="t", runId=run_id))
    for _ in range(int(frames)):
        await say(frame(type="TEXT_MESSAGE_CONTENT", messageId="m", delta="x" * int(size)))
        await asyncio.sleep(int(ms) / 1e3)
    await say(frame(type="RUN_FINISHED", threadId="t", runId=run_id))
    run.done = True


observed = StreamTraceMiddleware(app, sinks=[JsonLinesSink(os.environ["STREAMTRACE_TEST_RECORDS"])])
