"""A client that talks to an ASGI app in this process, reads its stream as it comes, and can leave.

Test clients that buffer a whole response tell nothing of a client that hangs up. This one behaves
like a connection under uvicorn: after the client left, `receive` says `http.disconnect`, and `send`
still returns.
"""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Mapping
from typing import Any

import msgspec

from streamtrace.observe.asgi_types import ASGIApp, Message


class Answer(msgspec.Struct, kw_only=True):
    """What the client got: one chunk per body message that was not empty.

    `complete`: the app sent its final body. `error`: what the app raised, if it did.
    """

    status: int | None = None
    headers: dict[str, str] = {}
    chunks: list[bytes] = []
    complete: bool = False
    error: Exception | None = None

    @property
    def body(self) -> bytes:
        """All chunks."""
        return b"".join(self.chunks)


async def ask(
    app: ASGIApp,
    path: str,
    *,
    method: str = "POST",
    json: Any = None,
    headers: Mapping[str, str] | None = None,
    leave_after_chunks: int | None = None,
    timeout_s: float = 30.0,
) -> Answer:
    """Send a request, and read the answer to its end, or leave after so many chunks.

    Returns when the app has returned: a client that leaves waits to see what the app makes of it.
    Raises TimeoutError if the app is not done by `timeout_s`; it is cancelled then.
    """
    request = b"" if json is None else json_module.dumps(json).encode()
    given = {"content-type": "application/json", **(headers or {})}
    answer = Answer()
    asked = False
    left = asyncio.Event()

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": request, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message.get("headers", ())
            }
        elif message["type"] == "http.response.body" and not left.is_set():
            if message.get("body"):
                answer.chunks.append(bytes(message["body"]))
            answer.complete = not message.get("more_body", False)
            enough = leave_after_chunks is not None and len(answer.chunks) >= leave_after_chunks
            if enough:
                left.set()
        await asyncio.sleep(0)
        if answer.complete:
            left.set()  # not before: frameworks cancel what still sends when a client has left

    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    async with asyncio.timeout(timeout_s):
        try:
            await app(scope, receive, send)
        except Exception as error:  # a server logs it; a test may want to see it
            answer.error = error
    return answer
