"""What Anthropic's own client makes of a response body: the oracle for our decoder.

The client runs as it is shipped; only the network under it is replaced by the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2


@dataclass
class Message:
    """The facts of one response, in our accounting of tokens."""

    response_id: str | None = None
    model: str | None = None
    text: str = ""
    reasoning: str = ""
    reasoning_blocks: int = 0
    calls: dict[str, tuple[str | None, Any]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    cited: list[str | None] = field(default_factory=list)
    usage: dict[str, int | None] = field(default_factory=dict)
    stop_reason: str | None = None
    error: str | None = None


def read(body: bytes) -> Message:
    """The accumulated message, and the error that the client raised, if it did."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        anthropic.Anthropic(
            api_key="none", base_url="http://127.0.0.1", http_client=http, max_retries=0
        ) as client,
        client.beta.messages.stream(
            model="any", max_tokens=1, messages=[{"role": "user", "content": "hi"}]
        ) as stream,
    ):
        error = None
        try:
            stream.until_done()
        except anthropic.APIStatusError as raised:
            error = raised.body["error"]["type"]
        snapshot = stream.current_message_snapshot
    return _facts(json.loads(snapshot.to_json()), error)


def _facts(message: dict[str, Any], error: str | None) -> Message:
    facts = Message(
        response_id=message["id"],
        model=message["model"],
        usage=_usage(message["usage"]),
        stop_reason=message["stop_reason"],
        error=error,
    )
    for block in message["content"]:
        kind = block["type"]
        if kind == "text":
            facts.text += block["text"]
            facts.cited += [one.get("url") for one in block.get("citations") or ()]
        elif kind in ("thinking", "redacted_thinking"):
            facts.reasoning += block.get("thinking", "")
            facts.reasoning_blocks += 1
        elif kind.endswith("_tool_result"):
            facts.results[block["tool_use_id"]] = block["content"]
        elif kind.endswith("tool_use"):
            facts.calls[block["id"]] = (block["name"], block["input"])
    return facts


def _usage(usage: dict[str, Any]) -> dict[str, int | None]:
    cached = usage.get("cache_read_input_tokens")
    written = usage.get("cache_creation_input_tokens")
    return {
        "input_tokens": usage["input_tokens"] + (cached or 0) + (written or 0),
        "output_tokens": usage["output_tokens"],
        "cached_input_tokens": cached,
        "cache_write_tokens": written,
        "reasoning_tokens": (usage.get("output_tokens_details") or {}).get("thinking_tokens"),
    }
