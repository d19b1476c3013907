"""What the official A2A client reads in a stream: the oracle for our decoders.

The client's transports run as they are shipped; only the network under them is replaced by the
bytes. The objects they yield are folded here as the protocol says: an artifact is replaced, or
appended to, and a message is what it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
from a2a.client.transports.jsonrpc import JsonRpcTransport
from a2a.client.transports.rest import RestTransport
from a2a.compat.v0_3.jsonrpc_transport import CompatJsonRpcTransport
from a2a.compat.v0_3.rest_transport import CompatRestTransport
from a2a.types.a2a_pb2 import AgentCard, Message, Part, Role, SendMessageRequest, TaskState
from a2a.utils.errors import A2AError

TRANSPORTS: dict[str, Any] = {
    "a2a10_jsonrpc": JsonRpcTransport,
    "a2a10_adk": JsonRpcTransport,
    "a2a10_rest": RestTransport,
    "a2a03_jsonrpc": CompatJsonRpcTransport,
    "a2a03_adk": CompatJsonRpcTransport,
    "a2a03_rest": CompatRestTransport,
}
"""By the beginning of a recording's name."""


@dataclass
class Facts:
    """What one stream said. Texts are by the id of their artifact or message."""

    task_id: str = ""
    context_id: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    end: str | None = None
    error: str | None = None


def read(transport: Any, body: bytes) -> Facts:
    """The facts that this transport reads in a response body."""
    return asyncio.run(_read(transport, body))


async def _read(transport: Any, body: bytes) -> Facts:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    asked = Message(message_id="m", role=Role.ROLE_USER, parts=[Part(text="hi")])
    facts = Facts()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = transport(http, AgentCard(), "http://127.0.0.1")
        stream = client.send_message_streaming(SendMessageRequest(message=asked))
        try:
            async for response in stream:
                fold(facts, response)
        except A2AError as error:
            facts.end, facts.error = "error", error.message
    return facts


def fold(facts: Facts, response: Any) -> None:
    """One object of the stream."""
    kind = response.WhichOneof("payload")
    body = getattr(response, kind)
    facts.context_id = body.context_id
    if kind == "message":
        facts.task_id = body.task_id
        facts.texts[body.message_id] = text_of(body.parts)
        facts.end = "TASK_STATE_COMPLETED"
        return
    facts.task_id = body.id if kind == "task" else body.task_id
    if kind == "artifact_update":
        artifact = body.artifact
        before = facts.texts.get(artifact.artifact_id, "") if body.append else ""
        if text := before + text_of(artifact.parts):
            facts.texts[artifact.artifact_id] = text
        return
    facts.end = TaskState.Name(body.status.state)
    text = text_of(body.status.message.parts)
    if facts.end in ("TASK_STATE_FAILED", "TASK_STATE_REJECTED"):
        facts.error = text
    elif text and kind == "status_update":
        facts.texts[body.status.message.message_id] = text


def text_of(parts: Any) -> str:
    """What the parts say, thoughts excluded."""
    return "".join(part.text for part in parts if not dict(part.metadata).get("adk_thought", False))
