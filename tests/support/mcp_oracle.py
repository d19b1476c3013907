"""What the official MCP types read in a stream: the oracle for our decoder.

Each message is read as its JSON-RPC envelope, then as the model of its method in its version of the
protocol. Frames are cut here by the plainest means, apart from ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mcp_types as mcp
from mcp_types import methods

ASK = "elicitation/create"


@dataclass
class Facts:
    """What one exchange said."""

    tool: str | None = None
    arguments: dict[str, Any] | None = None
    notices: list[str] = field(default_factory=list)
    text: str | None = None
    is_error: bool = False
    asks: str | None = None
    error: tuple[str, str] | None = None
    server: str | None = None


def read(body: bytes, request: Any, version: str) -> Facts:
    """The facts of a response body, and of the request (`None` if it is not known)."""
    facts = Facts()
    method = "tools/call" if request is None else request["method"]
    if request is not None:
        asked = methods.parse_client_request(method, version, request.get("params"))
        if isinstance(asked, mcp.CallToolRequest):
            facts.tool, facts.arguments = asked.params.name, asked.params.arguments
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data: ") and len(line) > 6:
                _read(facts, mcp.jsonrpc_message_adapter.validate_json(line[6:]), method, version)
    return facts


def _read(facts: Facts, message: Any, method: str, version: str) -> None:
    match message:
        case mcp.JSONRPCNotification():
            methods.parse_server_notification(message.method, version, message.params)
            facts.notices.append(message.method)
        case mcp.JSONRPCRequest():
            methods.parse_server_request(message.method, version, message.params)
            facts.notices.append(message.method)
        case mcp.JSONRPCError():
            facts.error = (str(message.error.code), message.error.message)
        case mcp.JSONRPCResponse():
            result = methods.parse_server_result(method, version, message.result)
            match result:
                case mcp.CallToolResult():
                    facts.is_error = result.is_error
                    facts.text = "\n".join(getattr(part, "text", "…") for part in result.content)
                case mcp.InputRequiredResult(input_requests=dict(asked)):
                    facts.asks = next(iter(asked.values())).method
                case mcp.InitializeResult():
                    facts.server = result.server_info.name
