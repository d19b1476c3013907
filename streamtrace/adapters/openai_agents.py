"""The OpenAI Agents SDK: the run that `Runner.run_streamed` returns.

Rules that hold here (`openai-agents` 0.24):

* The run is given, and not its events: only it can be stopped, and knows what waits for approval.
* Each call of a model tells a response in the events of the Responses API, with its own beginning
  and end. Of these the run's are left out. What tools return, and handoffs, stand between.
* Models of chat completions have no ids; the SDK gives the same to all. They get one per response.
* A call that was approved begins the next run with its result: there it is told as well.
* The agent that works is a step, until another one takes over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from streamtrace.adapters.base import Reader, adapter, frame_of
from streamtrace.adapters.sdk import wire_of
from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.jsonio import as_id, as_object
from streamtrace.dialects.openai_responses import OpenAIResponses

MAX_CALLS = 1024
"""Calls of a run that are kept in mind."""

_NO_ID = "__fake_id__"
_OF_THE_RESPONSE: tuple[type[ev.Event], ...] = (ev.RunStarted, *ev.TERMINAL)
_OUTPUTS_FROM = 1 << 20
"""Where results stand among the items of a response, behind all that the model made."""


class _RunReader(Reader):
    def __init__(self) -> None:
        super().__init__(OpenAIResponses().decoder())
        self._run: Any = None
        self._agent: str | None = None
        self._responses = 0
        self._outputs = 0
        self._calls: dict[str, None] = {}

    def items(self, opened: Any) -> AsyncIterator[Any]:
        self._run = opened
        return _events_of(opened)

    def read(self, item: Any) -> Iterable[ev.Event]:
        handler = _HANDLERS.get(item.type)
        return (ev.Custom(name=item.type),) if handler is None else handler(self, item)

    def close(self) -> Iterator[ev.Event]:
        yield from self._leave()
        for waiting in getattr(self._run, "interruptions", ()):
            raw = as_object(wire_of(waiting.raw_item))
            call_id = as_id(raw.get("call_id")) or as_id(raw.get("id"))
            yield ev.RunInterrupted(reason="approval", tool_call_id=call_id)
            return
        if getattr(self._run, "_cancel_mode", "none") != "none":
            yield ev.RunCancelled()

    def _agent_updated(self, item: Any) -> Iterator[ev.Event]:
        name = as_id(item.new_agent.name) or "agent"
        if self._agent is None:
            yield ev.RunStarted(agent=name)
        yield from self._leave()
        self._agent = name
        yield ev.StepStarted(name=name)

    def _leave(self) -> Iterator[ev.Event]:
        if self._agent is not None:
            yield ev.StepFinished(name=self._agent)

    def _model_said(self, item: Any) -> Iterator[ev.Event]:
        wire = wire_of(item.data)
        if as_object(wire).get("type") == "response.created":
            self.decoder = OpenAIResponses().decoder()
            self._responses += 1
        return self._decode(_with_ids(wire, self._responses))

    def _item_made(self, item: Any) -> Iterator[ev.Event]:
        raw = as_object(wire_of(item.item.raw_item))
        if str(raw.get("type")).endswith("_output"):
            self._outputs += 1
            place = _OUTPUTS_FROM + self._outputs
            done = {"type": "response.output_item.done", "output_index": place, "item": raw}
            yield from self._decode(done)

    def _decode(self, wire: Any) -> Iterator[ev.Event]:
        for event in self.decoder.decode(frame_of(wire)):
            if isinstance(event, ev.ToolCallStarted):
                remember(self._calls, event.tool_call_id, None, MAX_CALLS)
            elif isinstance(event, ev.ToolCallResult) and event.tool_call_id not in self._calls:
                yield ev.ToolCallStarted(tool_call_id=event.tool_call_id)
            if not isinstance(event, _OF_THE_RESPONSE):
                yield event


_HANDLERS: dict[str, Callable[[_RunReader, Any], Iterable[ev.Event]]] = {
    "agent_updated_stream_event": _RunReader._agent_updated,
    "raw_response_event": _RunReader._model_said,
    "run_item_stream_event": _RunReader._item_made,
}


async def _events_of(run: Any) -> AsyncIterator[Any]:
    """The events. If nobody reads to their end, the run is stopped: it would go on otherwise."""
    events = run.stream_events()
    try:
        async for event in events:
            yield event
    finally:
        if not run.is_complete:
            run.cancel()
        await events.aclose()


def _with_ids(wire: Any, number: int) -> Any:
    """The event with ids of our own in place of those that tell nothing apart."""
    if not isinstance(wire, dict):
        return wire
    response, item = as_object(wire.get("response")), as_object(wire.get("item"))
    changed: dict[str, Any] = {}
    if response.get("id") == _NO_ID:
        changed["response"] = {**response, "id": f"response-{number}"}
    if item.get("id") == _NO_ID:
        changed["item"] = {**item, "id": None}  # the decoder makes one
    if wire.get("item_id") == _NO_ID:
        changed["item_id"] = None
    return {**wire, **changed} if changed else wire


@adapter
def openai_agents_events() -> Reader:
    """Events of the run that `Runner.run_streamed(...)` returns: give it whole."""
    return _RunReader()
