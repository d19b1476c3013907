"""Pydantic AI: the events of `run_stream_events`, and those of the nodes of `iter`.

Rules that hold here (`pydantic-ai` 2.68):

* Both tell the same events. `iter` gives nodes, of which those that work have a stream of them; its
  result stands in the run when there are no more.
* Of the result's messages only those of this run are written: the history before may be long.
* A run that was cancelled through its token or its handle raises `RunCancelled`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from streamtrace.adapters.base import Reader, adapter, frame_of
from streamtrace.core import events as ev
from streamtrace.dialects.pydantic_ai import PydanticAi

_RESULT = "agent_run_result"


class _AgentReader(Reader):
    needs_terminal = True

    def items(self, opened: Any) -> Any:
        return _events_of(opened) if hasattr(opened, "ctx") else opened

    def read(self, item: Any) -> Iterable[ev.Event]:
        is_result = getattr(item, "event_kind", None) == _RESULT
        return self.decoder.decode(frame_of(_wire_of(item.result) if is_result else item))

    def fail(self, error: Exception) -> Iterable[ev.Event]:
        was_cancelled = type(error).__name__ == "RunCancelled"
        return (ev.RunCancelled(reason=str(error) or None),) if was_cancelled else ()


async def _events_of(run: Any) -> AsyncIterator[Any]:
    """The events of all nodes, and the result."""
    async for node in run:
        if hasattr(node, "stream"):
            async with node.stream(run.ctx) as events:
                async for event in events:
                    yield event
    if run.result is not None:
        yield _wire_of(run.result)


def _wire_of(result: Any) -> dict[str, Any]:
    """The result as `AgentRunResultEvent` writes it, as far as it is told."""
    return {
        "event_kind": _RESULT,
        "result": {
            "output": result.output,
            "messages": result.new_messages(),
            "new_message_index": 0,
            "usage": result.usage,
            "run_id": result.run_id,
            "conversation_id": result.conversation_id,
        },
    }


@adapter
def pydantic_ai_events() -> Reader:
    """Events of `agent.run_stream_events(...)`, or of all that `agent.iter(...)` does."""
    return _AgentReader(PydanticAi().decoder())
