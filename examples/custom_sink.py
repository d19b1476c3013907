"""A sink of your own: runs that did not end well are posted to a webhook.

    export WEBHOOK_URL=https://...
    python examples/custom_sink.py [PORT]
    curl -N http://127.0.0.1:8000/chat

`QueuedSink` brings the bounded queue, the worker thread and the counts of what was dropped; the
webhook may be slow or away. Needs uvicorn and starlette.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.sinks.queued import QueuedSink


class Webhook(QueuedSink):
    name = "webhook"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def export(self, batch: Sequence[RunSummary]) -> dict[str, int]:
        """On the worker thread: may block, and may raise, which counts as `export_error`."""
        bad = [run.to_dict() for run in batch if run.status not in ("completed", "input_required")]
        if bad:
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(self._url, msgspec.json.encode(bad), headers)
            urllib.request.urlopen(request, timeout=5).close()
        return {"ended_well": len(batch) - len(bad)} if len(bad) < len(batch) else {}


async def answer() -> AsyncIterator[str]:
    yield 'data: {"type": "token", "content": "Let me"}\n\n'
    yield 'data: {"type": "error", "code": "overloaded", "message": "try again later"}\n\n'


async def chat(request: Request) -> StreamingResponse:
    return StreamingResponse(answer(), media_type="text/event-stream")


app = StreamTraceMiddleware(
    Starlette(routes=[Route("/chat", chat)]),
    sinks=[Webhook(os.environ["WEBHOOK_URL"])],  # this line
)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
