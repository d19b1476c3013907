"""Writer of Anthropic messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamtrace.cli.demo_wire.base import MODEL_OF_ANTHROPIC, NEEDS_APPROVAL, Writer, json_frame
from streamtrace.core.events import ToolCallResult
from streamtrace.core.frames import Frame


class Anthropic(Writer):
    """Messages with content blocks; tools run on the server side (`mcp_tool_use`)."""

    def __init__(self, run_id: str, thread_id: str) -> None:
        super().__init__(run_id, thread_id)
        self._index = -1

    def _started(self) -> Iterator[Frame]:
        message: dict[str, Any] = {
            "id": f"msg_{self.run_id}",
            "type": "message",
            "role": "assistant",
            "model": MODEL_OF_ANTHROPIC,
            "content": [],
            "stop_reason": None,
        }
        yield self._event("message_start", message=message)

    def _part_begins(self, part: str) -> Iterator[Frame]:
        if part == "text":
            yield self._block({"type": "text", "text": ""})
        else:
            yield self._block({"type": "thinking", "thinking": "", "signature": ""})

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        if part == "text":
            yield self._delta({"type": "text_delta", "text": text})
        else:
            yield self._delta({"type": "thinking_delta", "thinking": text})

    def _part_ends(self, part: str) -> Iterator[Frame]:
        yield self._stop()

    def _call_started(self, call_id: str, name: str) -> Iterator[Frame]:
        kind = "tool_use" if name == NEEDS_APPROVAL else "mcp_tool_use"
        yield self._block({"type": kind, "id": call_id, "name": name, "input": {}})

    def _call_arguments(self, call_id: str, delta: str) -> Iterator[Frame]:
        yield self._delta({"type": "input_json_delta", "partial_json": delta})

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        yield self._stop()

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        yield self._block(
            {
                "type": "mcp_tool_result",
                "tool_use_id": result.tool_call_id,
                "is_error": result.is_error,
                "content": [{"type": "text", "text": result.result}],
            }
        )
        yield self._stop()

    def _heartbeat(self) -> Iterator[Frame]:
        yield self._event("ping")

    def _finished(self) -> Iterator[Frame]:
        yield from self._finish("end_turn")

    def _interrupted(self, call_id: str) -> Iterator[Frame]:
        yield from self._finish("tool_use")

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        yield self._event("error", error={"type": f"{code}_error", "message": message})

    def _finish(self, reason: str) -> Iterator[Frame]:
        counts = {
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
        }
        delta = {"stop_reason": reason, "stop_sequence": None}
        yield self._event("message_delta", delta=delta, usage=counts)
        yield self._event("message_stop")

    def _block(self, block: dict[str, Any]) -> Frame:
        self._index += 1
        return self._event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> Frame:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> Frame:
        return self._event("content_block_stop", index=self._index)

    def _event(self, kind: str, **body: Any) -> Frame:
        return json_frame({"type": kind, **body}, event=kind)
