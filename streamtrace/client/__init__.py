"""A client of the runs that streamtrace serves: start, follow, resume and stop them.

async with RunClient("http://127.0.0.1:8000/agents") as client:
    async with client.start({"messages": [{"role": "user", "content": "Hi"}]}) as run:
        async for event in run:
            print(event.id, event.data)

Needs the extra `client`. `streamtrace.js` is the same for browsers and Node.js.
"""

from streamtrace.client.client import RunClient
from streamtrace.client.cursor import GapEvent, RunEvent
from streamtrace.client.stream import RunStream, Waiting
from streamtrace.core.errors import ClientError, ConnectionLost, RunRefused

__all__ = [
    "ClientError",
    "ConnectionLost",
    "GapEvent",
    "RunClient",
    "RunEvent",
    "RunRefused",
    "RunStream",
    "Waiting",
]
