"""Short answers in JSON. A refusal has one shape at all doors: `{"error": {"type", "message"}}`.

Rules that hold here:

* The sentences are fixed. What the client sent is not repeated to it, and nothing is said of the
  server's inside.
* A header that could end its line early is an error of ours, and is not sent.
* No answer is kept by a cache.
* A WebSocket is refused before it is accepted: with the same HTTP answer where the server can send
  one, else by a close code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from streamtrace.core.errors import Refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_NAME = re.compile(r"[A-Za-z0-9-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_POLICY_VIOLATION = 1008
_TRY_AGAIN_LATER = 1013


def retry_later(status: int, code: str, message: str, after_s: float) -> Refusal:
    """A refusal that says when to ask again: in whole seconds, rounded up, and at least one."""
    return Refusal(status, code, message, {"Retry-After": str(max(1, -int(-after_s // 1)))})


async def send_refusal(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Answer the request of this scope, HTTP or a WebSocket that was not accepted yet.

    Raises ValueError if a header of the refusal cannot be sent as it is.
    """
    prefix = "http.response"
    if scope["type"] == "websocket":
        prefix = "websocket.http.response"
        if prefix not in scope.get("extensions", {}):
            code = _TRY_AGAIN_LATER if "Retry-After" in refusal.headers else _POLICY_VIOLATION
            await send({"type": "websocket.close", "code": code, "reason": refusal.code})
            return
    value = {"error": {"type": refusal.code, "message": refusal.message}}
    await send_json(value, send, refusal.status, refusal.headers, prefix=prefix)


async def refused(request: Any, refusal: Refusal) -> ASGIApp:
    """Starlette's and FastAPI's handler for refusals that a route of yours raises.

    FastAPI(exception_handlers={Refusal: refused})
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_refusal(refusal, scope, send)

    return answer


async def send_json(
    value: Any,
    send: Send,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    prefix: str = "http.response",
) -> None:
    """Send a whole answer. `prefix` is that of ASGI's message types."""
    body = msgspec.json.encode(value)
    lines = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        **(headers or {}),
    }
    raw = [_line(name, text) for name, text in lines.items()]
    await send({"type": f"{prefix}.start", "status": status, "headers": raw})
    await send({"type": f"{prefix}.body", "body": body})


def _line(name: str, value: str) -> tuple[bytes, bytes]:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(f"the header {name!r} cannot be sent: visible ASCII is needed")
    return name.lower().encode(), value.encode()
