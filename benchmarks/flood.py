"""An app that sends to each client as fast as it is let, and tells how much it could send.

GET /flood/NAME       frames of 227 bytes until MAX_BYTES, or until `send` waits for good
GET /accepted/NAME    the bytes that `send` has taken so far, as JSON
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

FRAME = b"data: " + b"x" * 219 + b"\n\n"
MAX_BYTES = 16 * 1024 * 1024

_accepted: Counter[str] = Counter()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    what, name = scope["path"].strip("/").split("/")
    stream = what == "flood"
    kind = b"text/event-stream" if stream else b"application/json"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    await send(start)
    if stream:
        gone = asyncio.create_task(_gone(receive))
        while _accepted[name] < MAX_BYTES and not gone.done():
            await send({"type": "http.response.body", "body": FRAME, "more_body": True})
            _accepted[name] += len(FRAME)
            await asyncio.sleep(0)  # an agent lets the loop run between its tokens
        gone.cancel()
    body = b"" if stream else json.dumps(_accepted[name]).encode()
    await send({"type": "http.response.body", "body": body})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Any, send: Any) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
