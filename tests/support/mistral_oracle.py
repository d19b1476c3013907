"""What Mistral's own client makes of a response body: the oracle for our decoder.

The client runs as it is shipped; only the network under it is replaced by the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mistralai.client import Mistral
from mistralai.extra.run.result import reconstitue_entries


@dataclass
class Facts:
    """What one stream said."""

    conversation_id: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    reasoning: str = ""
    cited: list[str | None] = field(default_factory=list)
    functions: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    executions: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    usage: tuple[int, int] | None = None
    error: tuple[str, str] | None = None
    has_ended: bool = False


def read(body: bytes) -> Facts:
    """The events as the client types them, and the entries that it puts together from them."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    facts = Facts()
    entries: dict[int, list[Any]] = {}
    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        client = Mistral(api_key="none", server_url="http://127.0.0.1", client=http)
        with client.beta.conversations.start_stream(agent_id="any", inputs="hi") as stream:
            for event in stream:
                _add(facts, event.data)
                if event.data.type in ("message.output.delta", "function.call.delta"):
                    entries.setdefault(event.data.output_index, []).append(event.data)
    for entry in reconstitue_entries(entries):
        if entry.type == "message.output":
            _add_message(facts, entry)
        else:
            facts.functions[entry.tool_call_id] = (entry.name, entry.arguments)
    return facts


def _add(facts: Facts, data: Any) -> None:
    match data.type:
        case "conversation.response.started":
            facts.conversation_id = data.conversation_id
        case "tool.execution.started" | "tool.execution.delta":
            _, known = facts.executions.get(data.id, (None, ""))
            facts.executions[data.id] = (data.name, known + data.arguments)
        case "tool.execution.done":
            facts.results[data.id] = data.info
        case "conversation.response.error":
            facts.error = (str(data.code), data.message)
        case "conversation.response.done":
            usage = data.usage
            facts.usage = (usage.total_tokens - usage.completion_tokens, usage.completion_tokens)
            facts.has_ended = True


def _add_message(facts: Facts, entry: Any) -> None:
    content = entry.model_dump(mode="json")["content"]
    text = ""
    for chunk in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        match chunk:
            case {"type": "text", "text": said}:
                text += said
            case {"type": "thinking", "thinking": parts}:
                facts.reasoning += "".join(part["text"] for part in parts)
            case {"type": "tool_reference"}:
                facts.cited.append(chunk["url"])
    facts.texts[entry.id] = text


def result_of(info: Any) -> str | None:
    """The result of a connector as text."""
    return json.dumps(info, separators=(",", ":")) if info else None
