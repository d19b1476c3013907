"""Writers of the two OpenAI wires: chat completions and responses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamtrace.cli.demo_wire.base import MODEL, NEEDS_APPROVAL, Writer, json_frame
from streamtrace.core.events import ToolCallResult
from streamtrace.core.frames import Frame


class OpenAIChat(Writer):
    """Chat completion chunks, as servers with built-in tools send them: results stay inside."""

    def _started(self) -> Iterator[Frame]:
        yield self._chunk({"role": "assistant", "content": ""})

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        yield self._chunk({"content" if part == "text" else "reasoning_content": text})

    def _call_started(self, call_id: str, name: str) -> Iterator[Frame]:
        function = {"name": name, "arguments": ""}
        yield self._call(call_id, {"id": call_id, "type": "function", "function": function})

    def _call_arguments(self, call_id: str, delta: str) -> Iterator[Frame]:
        yield self._call(call_id, {"function": {"arguments": delta}})

    def _finished(self) -> Iterator[Frame]:
        yield from self._finish("stop")

    def _interrupted(self, call_id: str) -> Iterator[Frame]:
        yield from self._finish("tool_calls")

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        yield json_frame({"error": {"message": message, "type": "server_error", "code": code}})

    def _finish(self, reason: str) -> Iterator[Frame]:
        yield self._chunk({}, finish_reason=reason)
        yield self._chunk(
            None,
            usage={
                "prompt_tokens": self.usage.input_tokens,
                "completion_tokens": self.usage.output_tokens,
            },
        )
        yield Frame(data=b"[DONE]")

    def _call(self, call_id: str, body: dict[str, Any]) -> Frame:
        return self._chunk({"tool_calls": [{"index": list(self.names).index(call_id), **body}]})

    def _chunk(
        self, delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any
    ) -> Frame:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return json_frame(
            {
                "id": f"chatcmpl-{self.run_id}",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": MODEL,
                "choices": [] if delta is None else [choice],
                **more,
            }
        )


class OpenAIResponses(Writer):
    """Responses events; tools run on the server side (`mcp_call`), so their results are shown."""

    def __init__(self, run_id: str, thread_id: str) -> None:
        super().__init__(run_id, thread_id)
        self._sequence = -1
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] = {}
        self._said = ""

    def _started(self) -> Iterator[Frame]:
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))

    def _part_begins(self, part: str) -> Iterator[Frame]:
        self._said = ""
        if part == "text":
            yield self._add({"type": "message", "role": "assistant", "content": []}, "msg")
            yield self._inside("content_part.added", content_index=0, part=_text(""))
        else:
            yield self._add({"type": "reasoning", "summary": []}, "rs")
            yield self._inside("reasoning_summary_part.added", summary_index=0, part=_summary(""))

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        self._said += text
        if part == "text":
            yield self._inside("output_text.delta", content_index=0, delta=text, logprobs=[])
        else:
            yield self._inside("reasoning_summary_text.delta", summary_index=0, delta=text)

    def _part_ends(self, part: str) -> Iterator[Frame]:
        said = self._said
        if part == "text":
            yield self._inside("output_text.done", content_index=0, text=said, logprobs=[])
            yield self._inside("content_part.done", content_index=0, part=_text(said))
            yield self._done(status="completed", content=[_text(said)])
        else:
            yield self._inside("reasoning_summary_text.done", summary_index=0, text=said)
            yield self._inside("reasoning_summary_part.done", summary_index=0, part=_summary(said))
            yield self._done(summary=[_summary(said)])

    def _call_started(self, call_id: str, name: str) -> Iterator[Frame]:
        if name != NEEDS_APPROVAL:  # an approval request is written whole, once it is known
            item = {"type": "mcp_call", "name": name, "arguments": "", "server_label": "weather"}
            yield self._add(item, "mcp")
            yield self._inside("mcp_call.in_progress")

    def _call_arguments(self, call_id: str, delta: str) -> Iterator[Frame]:
        if self.names[call_id] != NEEDS_APPROVAL:
            yield self._inside("mcp_call_arguments.delta", delta=delta)

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        if self.names[call_id] != NEEDS_APPROVAL:
            self._item["arguments"] = arguments
            yield self._inside("mcp_call_arguments.done", arguments=arguments)
            return
        item = {"type": "mcp_approval_request", "server_label": "trips"}
        yield self._add({**item, "name": self.names[call_id], "arguments": arguments}, "mcpr")
        yield self._done()

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        if result.is_error:
            yield self._inside("mcp_call.failed")
            yield self._done(output=None, error=result.result)
        else:
            yield self._inside("mcp_call.completed")
            yield self._done(output=result.result, error=None)

    def _finished(self) -> Iterator[Frame]:
        usage = {
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
        }
        yield self._event("response.completed", response=self._response("completed", usage=usage))

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        error = {"code": code, "message": message}
        yield self._event("response.failed", response=self._response("failed", error=error))

    def _add(self, item: dict[str, Any], prefix: str) -> Frame:
        number = len(self._output) + 1
        self._item = {"id": f"{prefix}_{self.run_id}_{number}", **item}
        self._output.append(self._item)
        return self._event("response.output_item.added", output_index=number - 1, item=self._item)

    def _inside(self, kind: str, **body: Any) -> Frame:
        place = {"item_id": self._item["id"], "output_index": len(self._output) - 1}
        return self._event(f"response.{kind}", **place, **body)

    def _done(self, **facts: Any) -> Frame:
        self._item.update(facts)
        index = len(self._output) - 1
        return self._event("response.output_item.done", output_index=index, item=self._item)

    def _response(self, status: str, **facts: Any) -> dict[str, Any]:
        return {
            "id": f"resp_{self.run_id}",
            "object": "response",
            "created_at": 0,
            "status": status,
            "model": MODEL,
            "output": self._output,
            "error": None,
            "usage": None,
            **facts,
        }

    def _event(self, kind: str, **body: Any) -> Frame:
        self._sequence += 1
        return json_frame({"type": kind, "sequence_number": self._sequence, **body}, event=kind)


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}
