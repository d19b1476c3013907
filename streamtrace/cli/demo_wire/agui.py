"""Writer of AG-UI."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from streamtrace.cli.demo_wire.base import MODEL, Writer, json_frame
from streamtrace.core.events import ToolCallResult
from streamtrace.core.frames import Frame


class AgUi(Writer):
    """AG-UI events; what its client would reject is never written (everything opened is closed)."""

    def __init__(self, run_id: str, thread_id: str) -> None:
        super().__init__(run_id, thread_id)
        self._message_id = ""
        self._numbers = itertools.count(1)

    def _started(self) -> Iterator[Frame]:
        yield self._event("RUN_STARTED", **self._ids(), protocolVersion="1.0")

    def _part_begins(self, part: str) -> Iterator[Frame]:
        self._message_id = self._next_id()
        if part == "text":
            yield self._message("TEXT_MESSAGE_START", role="assistant")
        else:
            yield self._message("REASONING_START")
            yield self._message("REASONING_MESSAGE_START", role="reasoning")

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        kind = "TEXT_MESSAGE_CONTENT" if part == "text" else "REASONING_MESSAGE_CONTENT"
        yield self._message(kind, delta=text)

    def _part_ends(self, part: str) -> Iterator[Frame]:
        if part == "text":
            yield self._message("TEXT_MESSAGE_END")
        else:
            yield self._message("REASONING_MESSAGE_END")
            yield self._message("REASONING_END")

    def _call_started(self, call_id: str, name: str) -> Iterator[Frame]:
        yield self._event("TOOL_CALL_START", toolCallId=call_id, toolCallName=name)

    def _call_arguments(self, call_id: str, delta: str) -> Iterator[Frame]:
        yield self._event("TOOL_CALL_ARGS", toolCallId=call_id, delta=delta)

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        yield self._event("TOOL_CALL_END", toolCallId=call_id)

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        yield self._event(
            "TOOL_CALL_RESULT",
            messageId=self._next_id(),
            toolCallId=result.tool_call_id,
            content=result.result,
            role="tool",
        )

    def _finished(self) -> Iterator[Frame]:
        yield self._finish({"type": "success"})

    def _interrupted(self, call_id: str) -> Iterator[Frame]:
        question = {"id": f"ask_{self.run_id}", "reason": "tool_call", "toolCallId": call_id}
        message = {"message": "Shall I book this trip?"}
        yield self._finish({"type": "interrupt", "interrupts": [{**question, **message}]})

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        yield self._event("RUN_ERROR", message=message, code=code)

    def _finish(self, outcome: dict[str, Any]) -> Frame:
        usage = {
            "provider": "openai",
            "model": MODEL,
            "inputTokens": self.usage.input_tokens,
            "outputTokens": self.usage.output_tokens,
        }
        return self._event("RUN_FINISHED", **self._ids(), outcome=outcome, usage=[usage])

    def _ids(self) -> dict[str, str]:
        return {"threadId": self.thread_id, "runId": self.run_id}

    def _next_id(self) -> str:
        return f"msg_{self.run_id}_{next(self._numbers)}"

    def _message(self, kind: str, **body: Any) -> Frame:
        return self._event(kind, messageId=self._message_id, **body)

    def _event(self, kind: str, **body: Any) -> Frame:
        return json_frame({"type": kind, **body})
