"""Writers of the house styles: named events (Cognis, AgentFlow) and bare JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamtrace.cli.demo_wire.base import MODEL, Writer, json_frame
from streamtrace.core.events import ToolCallResult, Usage
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import load_json


class Cognis(Writer):
    """Named events: token, tool_start, tool_end, done, error, ping."""

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        if part == "text":
            yield Frame(event="token", data=text.encode())

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        body = {"tool": self.names[call_id], "args": _json(arguments)}
        yield json_frame(body, event="tool_start")

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        body = {"tool": self.names[result.tool_call_id], **_answer(result, "result")}
        yield json_frame(body, event="tool_end")

    def _heartbeat(self) -> Iterator[Frame]:
        yield Frame(event="ping", data=b"")

    def _finished(self) -> Iterator[Frame]:
        body = {"output": self.text, "thread_id": self.thread_id, **_usage(self.usage)}
        yield json_frame(body, event="done")

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        yield Frame(event="error", data=message.encode())


class AgentFlow(Writer):
    """Named events with JSON: message_chunk, tool_start, tool_end, done, error."""

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        if part == "text":
            yield json_frame({"role": "assistant", "content": text}, event="message_chunk")

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        body = {"name": self.names[call_id], "args": _json(arguments)}
        yield json_frame(body, event="tool_start")

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        body = {"name": self.names[result.tool_call_id], **_answer(result, "output")}
        yield json_frame(body, event="tool_end")

    def _finished(self) -> Iterator[Frame]:
        yield json_frame({"thread_id": self.thread_id, **_usage(self.usage)}, event="done")

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        yield json_frame({"message": message, "code": code}, event="error")


class Generic(Writer):
    """Bare JSON objects with a lower-case type: token, status, tool_result, done, error."""

    def _started(self) -> Iterator[Frame]:
        yield json_frame({"type": "status", "content": "Thinking..."})

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        if part == "text":
            yield json_frame({"type": "token", "content": text})

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        yield json_frame({"type": "status", "content": f"Using {self.names[call_id]}..."})

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        body = {"type": "tool_result", "tool": self.names[result.tool_call_id]}
        yield json_frame({**body, **_answer(result, "content")})

    def _finished(self) -> Iterator[Frame]:
        yield json_frame({"type": "done", "thread_id": self.thread_id, **_usage(self.usage)})

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        yield json_frame({"type": "error", "message": message, "code": code})


def _json(text: str) -> Any:
    return load_json(text.encode())


def _usage(usage: Usage) -> dict[str, Any]:
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"model": MODEL, "usage": counts}


def _answer(result: ToolCallResult, key: str) -> dict[str, Any]:
    text = result.result or ""
    if result.is_error:
        return {"error": text}
    value = _json(text)
    return {key: text if value is None else value}
