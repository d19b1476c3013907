"""Vercel AI SDK 4: the data stream, `0:"text"` per line; assistant-ui speaks it to this day.

Rules that hold here (as `processDataStream` of `@ai-sdk/ui-utils` 1.2 reads it, unless said
otherwise):

* A line is a code, a colon and JSON. The code says what the JSON is; other codes are passed on.
* The first step names the message, for good. Each step is a call of the model, with its usage and
  its finish reason at its end. The usage at the end of the message is that of the run.
* The wire never names the model.
* Input is required if a tool has its arguments and no result when the message ends.
* The end is `d` or an error (`3`), which is followed by the ends of its step and message: of these
  only the usage counts. Many hand-made servers leave `d` out: a stream whose last step has ended,
  for another reason than to call tools or to be continued, is whole.

Source: https://v4.ai-sdk.dev/docs/ai-sdk-ui/stream-protocol, `ai` 4.3, and `assistant-stream` 0.3
for what assistant-ui adds (the codes with `aui`, `isFinal`, `isError`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import (
    MAX_ID_CHARS,
    as_count,
    as_id,
    as_object,
    as_string,
    dump_json,
    load_json,
)
from streamtrace.dialects import house
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_REMEMBERED = 1024
"""Open tool calls that one stream keeps in mind; of more, the oldest is forgotten."""

HEADER = "x-vercel-ai-data-stream"
_Fields: TypeAlias = dict[str, Any]


class VercelData(Dialect):
    """The data stream, by its header, or where the app says so."""

    name = "vercel-data"
    marks = marks(HEADER)
    lines = True
    media_types = ("text/plain",)
    says = says(
        "run text reasoning tool_start arguments result usage finish input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure by the header, and by a code with the JSON that belongs to it."""
        if frame.data is None or frame.event not in (None, "", "message"):
            return Fit.NO
        if HEADER in head.headers:
            return Fit.YES
        row = _ROWS.get(frame.data.partition(b":")[0])
        if row is None:
            return Fit.NO
        value = _value(frame.data)
        fits = isinstance(value, row.shape) and (not row.needs or row.needs in as_object(value))
        return Fit.YES if fits else Fit.NO

    def open(self, head: Head) -> Decoder:
        """A decoder. The id of the chat stands in the request of the SDK's own client."""
        request = as_object(head.request)
        chat = as_id(request.get("id")) if isinstance(request.get("messages"), list) else None
        return _VercelDataDecoder(chat)

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return self.open(Head())


_read_string = msgspec.json.Decoder(str).decode


class _Call(msgspec.Struct):
    """A tool call without its result."""

    streamed: bool = False  # its arguments came in deltas
    ready: bool = False


class _VercelDataDecoder:
    def __init__(self, thread_id: str | None) -> None:
        self._thread_id = thread_id
        self._message_id: str | None = None
        self._started = False
        self._ended = False
        self._steps = 0
        self._told_finish = False
        self._at_rest = False  # the last step ended, and nothing was announced to follow it
        self._calls: dict[str, _Call] = {}

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        data = frame.data
        if data is None:
            return ()
        if data.startswith(b'0:"'):
            try:
                text = _read_string(data[2:])
            except (msgspec.DecodeError, UnicodeError):
                return self._decode(frame, data)
            return (ev.TextDelta(text=text, message_id=self._message_id),)
        return self._decode(frame, data)

    def close(self) -> Iterable[ev.Event]:
        return self._end() if self._at_rest and not self._ended else ()

    def _decode(self, frame: Frame, data: bytes) -> Iterable[ev.Event]:
        code = data.partition(b":")[0]
        value = _value(data)
        row = _ROWS.get(code)
        if row is not None and isinstance(value, row.shape):
            return row.read(self, row.name, value)
        if value is not None:
            name = code[:MAX_ID_CHARS].decode("utf-8", "replace")
            return (ev.Custom(name=name, value=value),)
        bare = frame.json()
        if isinstance(bare, dict) and bare.get("error"):
            self._ended = True
            return (house.failed(bare),)
        if not frame.complete:
            return ()
        return (ev.Custom(name="unknown", value=frame.text if bare is None else bare),)

    # --- the run and its steps ----------------------------------------------------------------

    def _start_step(self, name: str, value: _Fields) -> Iterator[ev.Event]:
        if self._ended or not self._started:  # several messages may share a stream
            self._started, self._ended = True, False
            self._message_id = as_id(value.get("messageId"))
            yield ev.RunStarted(run_id=self._message_id, thread_id=self._thread_id)
            yield ev.MessageStarted(message_id=self._message_id, role="assistant")
        self._calls.clear()
        self._steps += 1
        self._told_finish = self._at_rest = False
        yield ev.GenerationStarted(key=str(self._steps))

    def _finish_step(self, name: str, value: _Fields) -> Iterator[ev.Event]:
        yield from _usage(value, "generation")
        yield from self._finish_reason(value)
        goes_on = value.get("finishReason") == "tool-calls" or value.get("isContinued") is True
        self._at_rest = not goes_on

    def _finish_message(self, name: str, value: _Fields) -> Iterator[ev.Event]:
        yield from _usage(value, "run")
        if not self._told_finish:
            yield from self._finish_reason(value)
        if not self._ended:
            yield from self._end(failed=value.get("finishReason") == "error")

    def _end(self, failed: bool = False) -> Iterator[ev.Event]:
        self._ended = True
        if self._message_id is not None:
            yield ev.MessageFinished(message_id=self._message_id)
        waiting = next((call_id for call_id, call in self._calls.items() if call.ready), None)
        if failed:
            yield ev.RunFailed()
        elif waiting is not None:
            yield ev.RunInterrupted(reason="tool_call", tool_call_id=waiting)
        else:
            yield ev.RunFinished(run_id=self._message_id)

    def _finish_reason(self, value: _Fields) -> Iterator[ev.Event]:
        reason = as_string(value.get("finishReason"))
        if reason and not self._ended:
            self._told_finish = True
            yield ev.GenerationFinished(finish_reasons=(reason,))

    def _error(self, name: str, value: str) -> Iterator[ev.Event]:
        self._ended = True
        yield ev.RunFailed(message=value or None)

    # --- output -------------------------------------------------------------------------------

    def _text(self, name: str, value: str) -> Iterator[ev.Event]:
        yield ev.TextDelta(text=value, message_id=self._message_id)

    def _reasoning(self, name: str, value: str) -> Iterator[ev.Event]:
        yield ev.ReasoningDelta(text=value, message_id=self._message_id)

    def _nested(self, name: str, value: _Fields) -> Iterable[ev.Event]:
        """A piece of an inner part, which assistant-ui writes with the id of the outer one."""
        if isinstance(text := value.get("textDelta"), str):
            return self._text(name, text)
        if isinstance(text := value.get("reasoningDelta"), str):
            return self._reasoning(name, text)
        return self._other(name, value)

    def _source(self, name: str, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Source(url=as_string(value.get("url")), title=as_string(value.get("title")))

    def _data_part(self, name: str, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=as_id(value.get("name")) or name, value=value.get("data"))

    def _state(self, name: str, value: list[Any]) -> Iterator[ev.Event]:
        yield ev.State(value=value, is_delta=True)

    def _other(self, name: str, value: Any) -> Iterator[ev.Event]:
        yield ev.Custom(name=name, value=value)

    # --- tools --------------------------------------------------------------------------------

    def _tool(self, name: str, value: _Fields) -> Iterator[ev.Event]:
        """All of a tool's call: `_TOOL_READERS` read a part of it each."""
        call_id = as_id(value.get("toolCallId"))
        if call_id is None:
            yield ev.Custom(name=name, value=value)
        else:
            yield from _TOOL_READERS[name](self, call_id, value)

    def _tool_start(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        remember(self._calls, call_id, _Call(), MAX_REMEMBERED)
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(value.get("toolName")))

    def _tool_delta(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        call = self._calls.get(call_id)
        if delta := as_string(value.get("argsTextDelta")):
            yield ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta)
            if call is not None:
                call.streamed = True
        if value.get("isFinal") is True:
            if call is not None:
                call.ready = True
            yield ev.ToolCallReady(tool_call_id=call_id)

    def _tool_call(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        if call_id not in self._calls:
            yield from self._tool_start(call_id, value)
        call = self._calls[call_id]
        call.ready = True
        arguments = None if call.streamed else _json_text(value.get("args"))
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=arguments)

    def _tool_result(self, call_id: str, value: _Fields) -> Iterator[ev.Event]:
        self._calls.pop(call_id, None)
        yield ev.ToolCallResult(
            tool_call_id=call_id,
            result=_json_text(value.get("result")),
            is_error=value.get("isError") is True,
        )


_decoder = _VercelDataDecoder

_TOOL_READERS: Mapping[str, Callable[[_VercelDataDecoder, str, _Fields], Iterable[ev.Event]]] = {
    "tool_call_streaming_start": _decoder._tool_start,
    "tool_call_delta": _decoder._tool_delta,
    "tool_call": _decoder._tool_call,
    "tool_result": _decoder._tool_result,
}


class _Row(msgspec.Struct, frozen=True):
    """What a code stands for: its name, the shape of its JSON, and a key that this has."""

    name: str
    shape: type
    read: Callable[[_VercelDataDecoder, str, Any], Iterable[ev.Event]]
    needs: str = ""


_ROWS: Mapping[bytes, _Row] = {
    b"0": _Row("text", str, _decoder._text),
    b"2": _Row("data", list, _decoder._other),
    b"3": _Row("error", str, _decoder._error),
    b"8": _Row("message_annotations", list, _decoder._other),
    b"9": _Row("tool_call", dict, _decoder._tool, "toolCallId"),
    b"a": _Row("tool_result", dict, _decoder._tool, "toolCallId"),
    b"b": _Row("tool_call_streaming_start", dict, _decoder._tool, "toolCallId"),
    b"c": _Row("tool_call_delta", dict, _decoder._tool, "toolCallId"),
    b"d": _Row("finish_message", dict, _decoder._finish_message, "finishReason"),
    b"e": _Row("finish_step", dict, _decoder._finish_step, "finishReason"),
    b"f": _Row("start_step", dict, _decoder._start_step, "messageId"),
    b"g": _Row("reasoning", str, _decoder._reasoning),
    b"h": _Row("source", dict, _decoder._source, "sourceType"),
    b"i": _Row("redacted_reasoning", dict, _decoder._other, "data"),
    b"j": _Row("reasoning_signature", dict, _decoder._other, "signature"),
    b"k": _Row("file", dict, _decoder._other, "data"),
    b"aui-state": _Row("aui-state", list, _decoder._state),
    b"aui-text-delta": _Row("aui-text-delta", dict, _decoder._nested, "textDelta"),
    b"aui-reasoning-delta": _Row("aui-reasoning-delta", dict, _decoder._nested, "reasoningDelta"),
    b"aui-data": _Row("aui-data", dict, _decoder._data_part, "name"),
}


def _value(data: bytes) -> Any:
    """The JSON behind the code."""
    return load_json(data.partition(b":")[2])


def _usage(value: _Fields, scope: str) -> Iterator[ev.Usage]:
    usage = as_object(value.get("usage"))  # assistant-ui has the names of `ai` 5
    input_tokens = as_count(usage.get("promptTokens", usage.get("inputTokens")))
    output_tokens = as_count(usage.get("completionTokens", usage.get("outputTokens")))
    if input_tokens is not None or output_tokens is not None:
        yield ev.Usage(input_tokens=input_tokens, output_tokens=output_tokens, scope=scope)


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else dump_json(value)
