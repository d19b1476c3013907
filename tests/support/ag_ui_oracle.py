"""What the official AG-UI models read in a stream: the oracle for our decoder.

Frames are cut and folded here by the plainest means, apart from ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ag_ui.core import Event, EventType
from pydantic import TypeAdapter

adapter: TypeAdapter[Any] = TypeAdapter(Event)

_RENAMED = {
    "THINKING_START": "REASONING_START",
    "THINKING_TEXT_MESSAGE_START": "REASONING_MESSAGE_START",
    "THINKING_TEXT_MESSAGE_CONTENT": "REASONING_MESSAGE_CONTENT",
    "THINKING_TEXT_MESSAGE_END": "REASONING_MESSAGE_END",
    "THINKING_END": "REASONING_END",
}


@dataclass
class Run:
    """The facts of one run."""

    run_id: str | None = None
    thread_id: str | None = None
    texts: dict[str, str] = field(default_factory=dict)
    reasoning: str = ""
    reasoning_spans: int = 0
    names: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    usage: list[tuple[Any, ...]] = field(default_factory=list)
    outcome: str | None = None
    error: tuple[str | None, str | None] | None = None


def events(body: bytes) -> list[Any]:
    """Each frame as an official model; 0.x reasoning under its name of today."""
    models = []
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        if block:
            fields = json.loads(block.removeprefix(b"data: "))
            if fields["type"] in _RENAMED:
                fields |= {"type": _RENAMED[fields["type"]], "messageId": "made up"}
                fields |= {"role": "reasoning"}
            models.append(adapter.validate_python(fields))
    return models


def read(body: bytes) -> Run:
    """The facts of the stream's run."""
    run = Run()
    for event in events(body):
        match event.type:
            case EventType.RUN_STARTED:
                run.run_id, run.thread_id = event.run_id, event.thread_id
            case EventType.TEXT_MESSAGE_START:
                run.texts[event.message_id] = ""
            case EventType.TEXT_MESSAGE_CONTENT:
                run.texts[event.message_id] += event.delta
            case EventType.REASONING_START:
                run.reasoning_spans += 1
            case EventType.REASONING_MESSAGE_CONTENT:
                run.reasoning += event.delta
            case EventType.TOOL_CALL_START:
                run.names[event.tool_call_id] = event.tool_call_name
                run.arguments[event.tool_call_id] = ""
            case EventType.TOOL_CALL_ARGS:
                run.arguments[event.tool_call_id] += event.delta
            case EventType.TOOL_CALL_RESULT:
                run.results[event.tool_call_id] = event.content
            case EventType.STEP_STARTED:
                run.steps.append(event.step_name)
            case EventType.RUN_FINISHED:
                run.outcome = "success" if event.outcome is None else event.outcome.type
            case EventType.RUN_ERROR:
                run.outcome, run.error = "error", (event.code, event.message)
        for entry in getattr(event, "usage", None) or ():
            run.usage.append(
                (
                    entry.provider,
                    entry.model,
                    entry.input_tokens,
                    entry.output_tokens,
                    entry.cached_input_tokens,
                    entry.cache_write_input_tokens,
                    entry.reasoning_tokens,
                )
            )
    return run
