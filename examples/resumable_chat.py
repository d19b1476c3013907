"""A chat whose answers outlive their connection: a page, a second tab, and a client in Python.

    python examples/resumable_chat.py [PORT]

Open http://127.0.0.1:8000, ask, switch the network off and on again (in the developer tools), open
a second tab, stop in either. Needs uvicorn and streamtrace[serve].
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from streamtrace import Event, MessageFinished, MessageStarted, TextDelta
from streamtrace.serve import AgentRouter, RunContext

PAGE = Path(__file__).with_suffix(".html")
STORY = """A parrot sat on the mast of a ship and told the crew what it had seen. When the fog
came, nobody could hear it any more, and it went on all the same. Later the fog lifted, and the crew
asked what they had missed. The parrot began at the very word where they had lost it, and left
nothing out, and said nothing twice."""


async def agent(run: RunContext) -> AsyncIterator[Event]:
    yield MessageStarted(message_id=run.message_id)
    for word in STORY.split():
        yield TextDelta(text=f"{word} ", message_id=run.message_id)
        await asyncio.sleep(0.15)
    yield MessageFinished(message_id=run.message_id)


async def page(request: Request) -> FileResponse:
    return FileResponse(PAGE)


router = AgentRouter().resumable("/agents", agent).client_js()
router.routes.append(Route("/", page))
app = router.app()


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
