"""A2A, written: the stream of one task.

Rules that hold here (protocol 1.0, as the clients of a2a-sdk and @a2a-js/sdk read it):

* The task comes first, then the state WORKING; if no event begins the run, the first that says
  something does, with the ids of the envelope.
* Text is an artifact, one per message: the first piece begins it, the others are appended. When the
  message is finished, an empty last chunk says so; text that comes later is another artifact.
* A failure is the state FAILED, with the error's text as the agent's message, and its type under
  `adk_error_code`, where Google's ADK puts it and looks for it. REJECTED is the type `rejected`.
* A question is the state INPUT_REQUIRED, or AUTH_REQUIRED for the reason `auth_required`. Other
  reasons are not kept, nor is the tool call in question.
* Reasoning, tools, steps, models and usage have no word in A2A, and are not written: an agent says
  what it found, and not how. `A2AToolsEncoder` is for those who want to see the tools; it writes
  them as ADK does, whole, once their arguments are complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import load_json
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode.base import Held, TableEncoder, json_frame

NAMELESS = "text"
"""The artifact of text whose message has no id, where the envelope has none either."""
MAX_ARTIFACTS = 1024
"""Artifacts that are remembered; of more, the oldest is forgotten."""
MAX_CALLS = 1024
"""Calls whose arguments are not complete; of more, the oldest is forgotten."""


class A2AEncoder(TableEncoder):
    """Writes one task: over JSON-RPC if the envelope has a request id, else as REST does."""

    def __init__(self, envelope: Envelope) -> None:
        self._request_id = envelope.request_id
        self._ids = {"taskId": envelope.run_id, "contextId": envelope.thread_id}
        self._begun = self._ended = False
        self._artifacts: dict[str, None] = {}
        self._open: dict[str, str] = {}  # the artifact of each message that is not finished
        self._made_ids = 0
        self._nameless = envelope.message_id or NAMELESS

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none after the end of the task."""
        return () if self._ended else list(super().encode(event))

    def _frame(self, kind: str, fields: dict[str, Any]) -> Frame:
        value: dict[str, Any] = {kind: fields}
        if self._request_id is not None:
            value = {"jsonrpc": "2.0", "id": self._request_id, "result": value}
        return json_frame(value)

    def _status(self, state: str, **message: Any) -> Frame:
        status = {"state": f"TASK_STATE_{state}", **message}
        return self._frame("statusUpdate", {**self._ids, "status": status})

    def _artifact(self, artifact_id: str, text: str, **flags: bool) -> Frame:
        artifact = {"artifactId": artifact_id, "parts": [{"text": text}]}
        return self._frame("artifactUpdate", {**self._ids, "artifact": artifact, **flags})

    def _begin(self) -> Iterator[Frame]:
        if not self._begun:
            self._begun = True
            task = {"id": self._ids["taskId"], "contextId": self._ids["contextId"]}
            yield self._frame("task", {**task, "status": {"state": "TASK_STATE_SUBMITTED"}})
            yield self._status("WORKING")

    def _end(self, state: str, **message: Any) -> Iterator[Frame]:
        yield from self._begin()
        self._ended = True
        yield self._status(state, **message)

    def _run_started(self, event: ev.RunStarted) -> Iterator[Frame]:
        if not self._begun:
            told = {"taskId": event.run_id, "contextId": event.thread_id}
            self._ids.update({name: value for name, value in told.items() if value})
        yield from self._begin()

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        if not event.text:
            return
        yield from self._begin()
        message_id = event.message_id or self._nameless
        artifact_id = self._open.get(message_id)
        if artifact_id is None:
            yield self._artifact(self._new_artifact(message_id), event.text)
        else:
            yield self._artifact(artifact_id, event.text, append=True)

    def _new_artifact(self, message_id: str) -> str:
        artifact_id = message_id
        while artifact_id in self._artifacts:
            self._made_ids += 1
            artifact_id = f"{message_id}-{self._made_ids}"
        remember(self._artifacts, artifact_id, None, MAX_ARTIFACTS)
        remember(self._open, message_id, artifact_id, MAX_ARTIFACTS)
        return artifact_id

    def _message_finished(self, event: ev.MessageFinished) -> Iterator[Frame]:
        artifact_id = self._open.pop(event.message_id or self._nameless, None)
        if artifact_id is not None:
            yield self._artifact(artifact_id, "", append=True, lastChunk=True)

    def _run_finished(self, event: ev.RunFinished) -> Iterator[Frame]:
        yield from self._end("COMPLETED")

    def _run_cancelled(self, event: ev.RunCancelled) -> Iterator[Frame]:
        yield from self._end("CANCELED")

    def _run_interrupted(self, event: ev.RunInterrupted) -> Iterator[Frame]:
        auth = event.reason == "auth_required"
        yield from self._end("AUTH_REQUIRED" if auth else "INPUT_REQUIRED")

    def _run_failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        state = "REJECTED" if event.type == "rejected" else "FAILED"
        code = None if event.type in (None, "failed", "rejected") else event.type
        if code is None and not event.message:
            yield from self._end(state)
            return
        message: dict[str, Any] = {
            **self._ids,
            "messageId": f"{self._ids['taskId']}:error",
            "role": "ROLE_AGENT",
            "parts": [{"text": event.message}] if event.message else [],
        }
        if code is not None:
            message["metadata"] = {"adk_error_code": code}
        yield from self._end(state, message=message)

    table: ClassVar = {
        ev.RunStarted: _run_started,
        ev.TextDelta: _text,
        ev.MessageFinished: _message_finished,
        ev.RunFinished: _run_finished,
        ev.RunCancelled: _run_cancelled,
        ev.RunInterrupted: _run_interrupted,
        ev.RunFailed: _run_failed,
    }


class A2AToolsEncoder(A2AEncoder):
    """Writes tool calls and their results as well, in the form of Google's ADK."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(envelope)
        self._calls: dict[str, tuple[str | None, Held]] = {}

    def _call_started(self, event: ev.ToolCallStarted) -> Iterable[Frame]:
        remember(self._calls, event.tool_call_id, (event.name, Held()), MAX_CALLS)
        return ()

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterable[Frame]:
        if event.tool_call_id in self._calls:
            self._calls[event.tool_call_id][1].add(event.delta)
        return ()

    def _call_ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        call_id = event.tool_call_id
        name, held = self._calls.pop(call_id, (None, None))
        if held is not None:
            arguments = _object(held.take() or event.arguments, "arguments")
            yield from self._part("call", {"id": call_id, "name": name, "args": arguments})

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        response = _object(event.result, "error" if event.is_error else "result")
        yield from self._part("response", {"id": event.tool_call_id, "response": response})

    def _part(self, kind: str, data: dict[str, Any]) -> Iterator[Frame]:
        yield from self._begin()
        message = {
            **self._ids,
            "messageId": f"{self._ids['taskId']}:{kind}:{data['id']}",
            "role": "ROLE_AGENT",
            "parts": [{"data": data, "metadata": {"adk_type": f"function_{kind}"}}],
        }
        yield self._status("WORKING", message=message)

    table: ClassVar = {
        **A2AEncoder.table,
        ev.ToolCallStarted: _call_started,
        ev.ToolCallArgumentsDelta: _arguments,
        ev.ToolCallReady: _call_ready,
        ev.ToolCallResult: _result,
    }


def _object(text: str | None, key: str) -> dict[str, Any]:
    """JSON text as the object that ADK has in its place."""
    value = load_json(text.encode("utf-8", "replace")) if text else {}
    return value if isinstance(value, dict) else {key: text}
