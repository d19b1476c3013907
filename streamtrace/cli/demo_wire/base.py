"""What all writers share: the parts that open and close, and what was said so far.

Rules that hold here:

* A part (the answer's text, the reasoning) is opened by its first delta and closed before anything
  else begins, so that each dialect gets the brackets it wants.
* A writer that cannot say something leaves it out: Cognis has no word for reasoning, a stream of
  chat completions none for a tool's result.
* A run that is cut or fails leaves its parts open, as real ones do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamtrace.core.events import (
    Event,
    Heartbeat,
    ReasoningDelta,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import dump_json

MODEL = "gpt-5-mini"
MODEL_OF_ANTHROPIC = "claude-sonnet-4-5"
NEEDS_APPROVAL = "book_trip"

_PART_OF: dict[type[Event], str | None] = {
    TextDelta: "text",
    ReasoningDelta: "reasoning",
    ToolCallStarted: None,
    RunFinished: None,
    RunInterrupted: None,
}
"""The part that an event belongs to; those not named here leave the open part as it is."""


class Writer:
    """Base of the writers: keeps what was said, and opens and closes the parts."""

    def __init__(self, run_id: str, thread_id: str) -> None:
        self.run_id = run_id
        self.thread_id = thread_id
        self.text = ""
        self.usage = Usage()
        self.names: dict[str, str] = {}
        self._part: str | None = None

    def write(self, event: Event) -> Iterator[Frame]:
        """The frames that say `event`, maybe none."""
        part = _PART_OF.get(type(event), self._part)
        if part != self._part:
            if self._part is not None:
                yield from self._part_ends(self._part)
            self._part = part
            if part is not None:
                yield from self._part_begins(part)
        match event:
            case RunStarted():
                yield from self._started()
            case TextDelta():
                self.text += event.text
                yield from self._part_delta("text", event.text)
            case ReasoningDelta():
                yield from self._part_delta("reasoning", event.text)
            case ToolCallStarted():
                self.names[event.tool_call_id] = event.name or ""
                yield from self._call_started(event.tool_call_id, event.name or "")
            case ToolCallArgumentsDelta():
                yield from self._call_arguments(event.tool_call_id, event.delta)
            case ToolCallReady():
                yield from self._call_ready(event.tool_call_id, event.arguments or "")
            case ToolCallResult():
                yield from self._call_result(event)
            case Usage():
                self.usage = event
            case Heartbeat():
                yield from self._heartbeat()
            case RunFinished():
                yield from self._finished()
            case RunInterrupted():
                yield from self._interrupted(event.tool_call_id or "")
            case RunFailed():
                yield from self._failed(event.type or "", event.message or "")

    def _started(self) -> Iterator[Frame]:
        """The run begins."""
        yield from ()

    def _part_begins(self, part: str) -> Iterator[Frame]:
        """The first delta of a part is about to come."""
        yield from ()

    def _part_delta(self, part: str, text: str) -> Iterator[Frame]:
        """More of the open part."""
        yield from ()

    def _part_ends(self, part: str) -> Iterator[Frame]:
        """The open part is whole."""
        yield from ()

    def _call_started(self, call_id: str, name: str) -> Iterator[Frame]:
        """The model names a tool."""
        yield from ()

    def _call_arguments(self, call_id: str, delta: str) -> Iterator[Frame]:
        """More of its arguments."""
        yield from ()

    def _call_ready(self, call_id: str, arguments: str) -> Iterator[Frame]:
        """The arguments are whole."""
        yield from ()

    def _call_result(self, result: ToolCallResult) -> Iterator[Frame]:
        """What the tool answered."""
        yield from ()

    def _heartbeat(self) -> Iterator[Frame]:
        """A sign of life: a comment, which every reader skips."""
        yield Frame(comment=b"keep-alive")

    def _finished(self) -> Iterator[Frame]:
        """The run ends well."""
        yield from ()

    def _interrupted(self, call_id: str) -> Iterator[Frame]:
        """The run ends and waits for an answer; where there is no word for it, it just ends."""
        yield from self._finished()

    def _failed(self, code: str, message: str) -> Iterator[Frame]:
        """The run ends with an error."""
        yield from ()


def json_frame(body: dict[str, Any], event: str | None = None) -> Frame:
    """A frame whose data is `body` as JSON."""
    return Frame(event=event, data=dump_json(body).encode())
