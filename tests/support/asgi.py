"""A server made of lists: runs an ASGI app by a script and keeps every message it was sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

STREAM_HEADERS = [(b"content-type", b"text/event-stream")]


def http_scope(path: str = "/chat", **more: Any) -> dict[str, Any]:
    """A scope as a server makes it: a headers list of its own for each request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        **more,
    }


def start(status: int = 200, headers: Any = STREAM_HEADERS) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: Any = b"", more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Server:
    """One connection. `send_error_at` makes the n-th send raise, as servers of ASGI 2.4 do."""

    def __init__(
        self,
        request: bytes = b"",
        *,
        send_error_at: int | None = None,
        incoming: Iterable[dict[str, Any]] = (),
    ) -> None:
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self._incoming = [{"type": "http.request", "body": request, "more_body": False}]
        self._incoming = list(incoming) or self._incoming
        self._send_error_at = send_error_at

    async def receive(self) -> Any:
        if self._incoming:
            return self._incoming.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._send_error_at is not None and len(self.sent) >= self._send_error_at:
            raise OSError("the client is gone")
        self.sent.append(message)

    async def run(self, app: Any, scope: dict[str, Any] | None = None) -> None:
        await app(http_scope() if scope is None else scope, self.receive, self.send)


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Let the loop run, and with it the pump, until the condition holds."""
    until_s = time.monotonic() + within_s
    turns = 0
    while not condition():
        if time.monotonic() > until_s:
            raise AssertionError(f"the condition does not hold after {within_s} s")
        turns += 1
        await asyncio.sleep(0 if turns < 100 else 0.001)


async def settle(middleware: Any, streams: int = 0) -> None:
    """Let the loop run until the middleware has no more than `streams` in flight."""
    await until(lambda: len(middleware.active()) <= streams)
