"""AgentFlow, now 10xGraph: the chunks that the `stream` and `astream` of a graph give.

Rules that hold here (10xgraph 0.10):

* A model's answer comes as deltas, and then once more whole, under another id: the whole is text
  only where no delta was.
* Calls of tools stand in the messages of the model; their results are messages of their own, and
  failures are errors of the stream. A call that a resumed run goes on with is told again first.
* A run that waits shows it in `updates`, which only the granularity FULL has.
* The node that speaks is a step, until another one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from streamtrace.adapters.base import Reader, adapter, to_json
from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, dump_json, load_json

MAX_CALLS = 1024
"""Calls of a run that are kept in mind."""

_Json = dict[str, Any]

_COUNTS = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "cached_input_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}


class _ChunkReader(Reader):
    def __init__(self) -> None:
        self._begun = False
        self._node: str | None = None
        self._streaming: str | None = None
        self._has_text = False
        self._waits = False
        self._calls: dict[str, None] = {}

    def read(self, item: Any) -> Iterator[ev.Event]:
        data = _plain(getattr(item, "data", None))
        message = _plain(getattr(item, "message", None))
        if not self._begun:
            self._begun = True
            ids = {name: as_id(getattr(item, name, None)) for name in ("run_id", "thread_id")}
            yield ev.RunStarted(**ids)
        place = {**_plain(getattr(item, "metadata", None)), **data}
        if message.get("role") in _ROLES or data.get("tool_call_id"):
            yield from self._enter(as_id(place.get("node")))
        handler = _HANDLERS.get(getattr(item, "event", ""), _ChunkReader._other)
        yield from handler(self, item, data, message)

    def close(self) -> Iterator[ev.Event]:
        if self._node is not None:
            yield ev.StepFinished(name=self._node)

    def _enter(self, node: str | None) -> Iterator[ev.Event]:
        if node is not None and node != self._node:
            yield from self.close()
            self._node = node
            yield ev.StepStarted(name=node)

    # --- messages --------------------------------------------------------------------------

    def _message(self, item: Any, data: _Json, message: _Json) -> Iterable[ev.Event]:
        role = message.get("role")
        if role == "assistant":
            return self._said(message)
        if role == "tool":
            return self._answered(message, data)
        return () if message else self._other(item, data, message)  # what was asked is known

    def _said(self, message: _Json) -> Iterator[ev.Event]:
        message_id = as_id(message.get("message_id")) or "message"
        is_delta = bool(message.get("delta"))
        if self._streaming is None:
            told = as_object(message.get("metadata"))
            yield ev.GenerationStarted(
                key=message_id, model=as_id(told.get("model")), provider=as_id(told.get("provider"))
            )
            self._streaming, self._has_text = message_id, False
        texts = is_delta or not self._has_text
        arguments = {
            one.get("id"): as_object(one.get("function")).get("arguments")
            for one in _objects(message.get("tools_calls"))
        }
        for block in _objects(message.get("content")):
            kind = as_string(block.get("type")) or ""
            text = block.get("text") or block.get("summary")
            if kind in _CALLS:
                call_id = as_id(block.get("id"))
                yield from self._call(call_id, block, arguments.get(call_id))
            elif texts and isinstance(text, str) and text and kind in _TEXTS:
                self._has_text = True
                yield _TEXTS[kind](text=text, message_id=self._streaming)
        if not is_delta:
            self._streaming = None
            yield from _used(as_object(message.get("usages")))

    def _call(self, call_id: str | None, call: _Json, arguments: Any) -> Iterator[ev.Event]:
        if call_id is None or call_id in self._calls:
            return
        remember(self._calls, call_id, None, MAX_CALLS)
        text = arguments if isinstance(arguments, str) else dump_json(call.get("args") or {})
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(call.get("name")))
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=text)

    def _answered(self, message: _Json, data: _Json) -> Iterator[ev.Event]:
        for block in _objects(message.get("content")):
            call_id = as_id(block.get("call_id"))
            if block.get("type") == "tool_result" and call_id is not None:
                yield from self._resumed(data)
                is_error = bool(block.get("is_error"))
                yield _result(call_id, block.get("output"), is_error=is_error)

    # --- the rest --------------------------------------------------------------------------

    def _update(self, item: Any, data: _Json, message: _Json) -> Iterator[ev.Event]:
        if data.get("status") == "interrupted":
            self._waits = True
            asked = as_object(data.get("interrupt"))
            call_id = as_id(asked.get("tool_call_id"))
            yield ev.RunInterrupted(reason=as_id(asked.get("reason")), tool_call_id=call_id)
        elif data.get("is_interrupted") and not self._waits:
            yield ev.RunInterrupted(reason="interrupted")
        elif data.get("status") == "invoking_tool":
            yield from self._resumed(data)
        elif "status" not in data:  # what a tool tells
            yield from self._other(item, data, message)

    def _error(self, item: Any, data: _Json, message: _Json) -> Iterator[ev.Event]:
        call_id = as_id(data.get("tool_call_id"))
        if call_id is None:
            yield ev.RunFailed(message=as_string(data.get("reason")))
        elif "error" in data:
            yield from self._resumed(data)
            yield _result(call_id, data["error"], is_error=True)
        else:
            yield from self._other(item, data, message)

    def _resumed(self, data: _Json) -> Iterator[ev.Event]:
        call = {"name": data.get("tool_name"), "args": data.get("args")}
        return self._call(as_id(data.get("tool_call_id")), call, None)

    def _state(self, item: Any, data: _Json, message: _Json) -> Iterator[ev.Event]:
        yield ev.State(value=load_json(to_json(item.state)))

    def _other(self, item: Any, data: _Json, message: _Json) -> Iterator[ev.Event]:
        name = as_id(data.get("status")) or as_id(getattr(item, "event", None)) or "message"
        yield ev.Custom(name=name, value=data)


_Handler = Callable[[_ChunkReader, Any, _Json, _Json], Iterable[ev.Event]]

_HANDLERS: Mapping[str, _Handler] = {
    "message": _ChunkReader._message,
    "updates": _ChunkReader._update,
    "error": _ChunkReader._error,
    "state": _ChunkReader._state,
}
_ROLES = ("assistant", "tool")
_CALLS = ("tool_call", "remote_tool_call")
_TEXTS: Mapping[str, Callable[..., ev.Event]] = {
    "text": ev.TextDelta,
    "reasoning": ev.ReasoningDelta,
}


def _plain(value: Any) -> _Json:
    return {} if value is None else as_object(load_json(to_json(value)))


def _objects(value: Any) -> Iterator[_Json]:
    return map(as_object, value if isinstance(value, list) else ())


def _result(call_id: str, output: Any, *, is_error: bool) -> ev.Event:
    text = output if isinstance(output, str) else dump_json(output)
    return ev.ToolCallResult(tool_call_id=call_id, result=text, is_error=is_error)


def _used(told: _Json) -> Iterator[ev.Event]:
    counts = {ours: as_count(told.get(theirs)) for ours, theirs in _COUNTS.items()}
    if counts["input_tokens"] or counts["output_tokens"]:
        yield ev.Usage(**counts)  # type: ignore[arg-type]


@adapter
def agentflow_events() -> Reader:
    """Events of `graph.stream(...)` and `graph.astream(...)`, in any granularity."""
    return _ChunkReader()
