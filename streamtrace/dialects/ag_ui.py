"""AG-UI: the events between an agent and its user interface, 1.0 and the older 0.x names.

Rules that hold here (protocol 1.0, as `ag-ui-protocol` 1.0.0 types it and its client reads it):

* The wire is camelCase; snake_case, which Python producers sometimes leave in, is read as well.
* A chunk stands for a start, contents and an end, and is read as these. A lane is one subagent's
  part of the stream (or the agent's own); per lane at most one chunked thing is open, and the row
  of each event in `_ROWS` says in which lanes it ends it.
* Only messages of the assistant are output. What a user, system or developer message says is
  passed on as `Custom`.
* A reasoning span may hold several reasoning messages: the outermost of them opens and closes.
* Model names and token counts come with the terminal event only, one entry per model of the run.
* A known event that lacks what it needs, and an unknown one, become `Custom`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

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
    typed_reader,
)
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.ag_ui import ENCODES, AgUiEncoder

MAX_REMEMBERED = 1024
"""Ids of each kind that a stream's decoder remembers; of more, the oldest is forgotten."""
MAX_STATE_BYTES = 32 * 1024
"""States that are larger are counted and not read: their event has no value."""

_Fields: TypeAlias = dict[str, Any]
_Lane: TypeAlias = str | None


class AgUi(Dialect):
    """The Agent-User Interaction protocol over SSE."""

    name = "ag-ui"
    marks = marks("type")
    plain_deltas = True
    says = says(
        "run thread text reasoning tool_start arguments result step model usage "
        "input_required error terminal"
    )
    encodes = ENCODES

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of the protocol's own event types; other upper-case types may be newer ones."""
        kind = as_object(frame.json()).get("type")
        if not isinstance(kind, str):
            return Fit.NO
        if kind in _TYPES:
            return Fit.YES
        return Fit.MAYBE if re.fullmatch(r"[A-Z][A-Z_]+", kind) else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _AgUiDecoder()

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream."""
        return AgUiEncoder(envelope)


# The hot frames: a piece of text, reasoning or arguments.


class _Hot(msgspec.Struct, tag_field="type", rename="camel", gc=False):
    delta: str


class _Text(_Hot, tag="TEXT_MESSAGE_CONTENT"):
    message_id: str


class _Reasoning(_Hot, tag="REASONING_MESSAGE_CONTENT"):
    message_id: str


class _Arguments(_Hot, tag="TOOL_CALL_ARGS"):
    tool_call_id: str


_Piece: TypeAlias = _Text | _Reasoning | _Arguments
_piece_decoder: msgspec.json.Decoder[_Piece] = msgspec.json.Decoder(_Piece)


class _Shallow(msgspec.Struct, rename="camel"):
    type: Any = None
    subagent_run_id: Any = None


_read_shallow = typed_reader(_Shallow)
_STATES = ("STATE_SNAPSHOT", "STATE_DELTA", "MESSAGES_SNAPSHOT", "ACTIVITY_SNAPSHOT", "RAW")


def _read_large_state(frame: Frame) -> _Fields | None:
    """Of a large state only what it is: no summary holds it, and to read it would take the loop."""
    if frame.data is None or len(frame.data) <= MAX_STATE_BYTES:
        return None
    shallow = _read_shallow(frame.data)
    if not isinstance(shallow, _Shallow) or shallow.type not in _STATES:
        return None
    return {"type": shallow.type, "subagentRunId": shallow.subagent_run_id}


class _Chunk(msgspec.Struct, frozen=True):
    """What a chunk stands for: `{of}_START`, `{of}_{content}` and `{of}_END`."""

    of: str
    content: str
    id_key: str


_CHUNKS = {
    "TEXT_MESSAGE_CHUNK": _Chunk("TEXT_MESSAGE", "CONTENT", "messageId"),
    "REASONING_MESSAGE_CHUNK": _Chunk("REASONING_MESSAGE", "CONTENT", "messageId"),
    "TOOL_CALL_CHUNK": _Chunk("TOOL_CALL", "ARGS", "toolCallId"),
}

_LEGACY = {
    "THINKING_START": "REASONING_START",
    "THINKING_TEXT_MESSAGE_START": "REASONING_MESSAGE_START",
    "THINKING_TEXT_MESSAGE_CONTENT": "REASONING_MESSAGE_CONTENT",
    "THINKING_TEXT_MESSAGE_END": "REASONING_MESSAGE_END",
    "THINKING_END": "REASONING_END",
}
"""0.x reasoning: the same events without ids."""


class _AgUiDecoder:
    def __init__(self) -> None:
        self._chunked: dict[_Lane, tuple[_Chunk, str]] = {}
        self._spans: dict[_Lane, None] = {}  # lanes with an open reasoning span
        self._foreign: dict[str | None, None] = {}  # open messages that are not the assistant's
        self._subagents: dict[str, str] = {}  # names by run id
        self._thoughts = 0  # ids of 0.x reasoning

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None and not self._chunked and not self._foreign:
            piece = _read_piece(frame.data)
            if piece is not None:
                return (_grown(piece),)
        value = _read_large_state(frame) or frame.json()
        if isinstance(value, dict) and isinstance(kind := value.get("type"), str):
            return self._decode(kind, value)
        if frame.data is None or not frame.complete or frame.data == b"[DONE]":
            return ()
        value = frame.text if value is None else value
        return (ev.Custom(name=frame.event or "unknown", value=value),)

    def close(self) -> Iterable[ev.Event]:
        return ()  # that a stream stopped does not complete what its chunks had open

    def _decode(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        fields = _camel_keys(value)
        lane = as_string(fields.get("subagentRunId"))
        if kind in _CHUNKS:
            yield from self._expand(kind, lane, fields)
            return
        if kind in _LEGACY:
            fields["messageId"] = self._thought_id(kind, lane)
        row = _ROWS.get(_LEGACY.get(kind, kind))
        if row is None or not all(isinstance(fields.get(need), str) for need in row.needs):
            yield ev.Custom(name=kind, value=fields)
            return
        for ended in list(self._chunked) if row.ends == "all" else [lane] * (row.ends == "own"):
            yield from self._end_chunked(ended)
        yield from row.read(self, lane, fields)

    def _expand(self, kind: str, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        chunk = _CHUNKS[kind]
        chunk_id = as_id(fields.get(chunk.id_key))
        opened, open_id = self._chunked.get(lane, (None, None))
        if opened is not chunk or chunk_id not in (None, open_id):
            yield from self._end_chunked(lane)
            if chunk_id is None:
                yield ev.Custom(name=kind, value=fields)
                return
            _remember(self._chunked, lane, (chunk, chunk_id))
            yield from _ROWS[f"{chunk.of}_START"].read(self, lane, fields)
        if isinstance(fields.get("delta"), str):
            content = {**fields, chunk.id_key: chunk_id or open_id}
            yield from _ROWS[f"{chunk.of}_{chunk.content}"].read(self, lane, content)

    def _end_chunked(self, lane: _Lane) -> Iterable[ev.Event]:
        if lane not in self._chunked:
            return ()
        chunk, chunk_id = self._chunked.pop(lane)
        return _ROWS[f"{chunk.of}_END"].read(self, lane, {chunk.id_key: chunk_id})

    def _thought_id(self, kind: str, lane: _Lane) -> str:
        if kind.endswith("_START") and lane not in self._spans:
            self._thoughts += 1
        return f"thinking-{self._thoughts}"

    # Readers: one per row of the table below.

    def _run_started(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        for memory in (self._spans, self._foreign, self._subagents):
            memory.clear()
        run_id, thread_id = as_string(fields.get("runId")), as_string(fields.get("threadId"))
        yield ev.RunStarted(run_id=run_id, thread_id=thread_id)

    def _run_finished(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield from _usages(fields)
        yield _outcome(fields)

    def _run_error(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield from _usages(fields)
        yield ev.RunFailed(
            type=as_string(fields.get("code")), message=as_string(fields.get("message")) or None
        )

    def _step_started(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.StepStarted(name=fields["stepName"], step_id=_step_id(lane, fields))

    def _step_finished(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.StepFinished(name=fields["stepName"], step_id=_step_id(lane, fields))

    def _subagent_started(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        run_id = fields["subagentRunId"]
        name = as_string(fields.get("name")) or run_id
        _remember(self._subagents, run_id, name[:MAX_ID_CHARS])
        yield ev.StepStarted(name=name, step_id=run_id)

    def _subagent_finished(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        run_id = fields["subagentRunId"]
        yield ev.StepFinished(name=self._subagents.pop(run_id, run_id), step_id=run_id)

    def _subagent_error(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name="SUBAGENT_ERROR", value=fields)
        yield from self._subagent_finished(lane, fields)

    def _text_start(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        message_id = as_string(fields.get("messageId"))
        role = as_string(fields.get("role")) or "assistant"
        if role != "assistant":
            _remember(self._foreign, message_id, None)
        yield ev.MessageStarted(message_id=message_id, role=role)

    def _text_content(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        message_id = as_string(fields.get("messageId"))
        if message_id in self._foreign:
            yield ev.Custom(name="TEXT_MESSAGE_CONTENT", value=fields)
        else:
            yield ev.TextDelta(text=fields["delta"], message_id=message_id)

    def _text_end(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        message_id = as_string(fields.get("messageId"))
        self._foreign.pop(message_id, None)
        yield ev.MessageFinished(message_id=message_id)

    def _reasoning_start(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield from self._reasoning_message_start(lane, fields)
        _remember(self._spans, lane, None)

    def _reasoning_end(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        self._spans.pop(lane, None)
        yield from self._reasoning_message_end(lane, fields)

    def _reasoning_message_start(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        if lane not in self._spans:
            yield ev.ReasoningStarted(message_id=as_string(fields.get("messageId")))

    def _reasoning_message_end(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        if lane not in self._spans:
            yield ev.ReasoningFinished(message_id=as_string(fields.get("messageId")))

    def _reasoning_content(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.ReasoningDelta(text=fields["delta"], message_id=as_string(fields.get("messageId")))

    def _tool_start(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        name = as_string(fields.get("toolCallName")) or None
        yield ev.ToolCallStarted(tool_call_id=fields["toolCallId"], name=name)

    def _tool_args(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.ToolCallArgumentsDelta(tool_call_id=fields["toolCallId"], delta=fields["delta"])

    def _tool_end(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.ToolCallReady(tool_call_id=fields["toolCallId"])

    def _tool_result(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        result = _content_text(fields.get("content"))
        yield ev.ToolCallResult(tool_call_id=fields["toolCallId"], result=result)

    def _state(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        is_delta = fields["type"] == "STATE_DELTA"
        yield ev.State(value=fields.get("delta" if is_delta else "snapshot"), is_delta=is_delta)

    def _custom(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=fields["name"], value=fields.get("value"))

    def _as_custom(self, lane: _Lane, fields: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=fields["type"], value=fields)


class _Row(msgspec.Struct, frozen=True):
    """How to read a type, the texts it cannot do without, and the lanes whose chunk it ends."""

    read: Callable[[_AgUiDecoder, _Lane, _Fields], Iterable[ev.Event]]
    needs: tuple[str, ...] = ()
    ends: Literal["own", "all", "none"] = "own"


_ROWS: Mapping[str, _Row] = {
    "RUN_STARTED": _Row(_AgUiDecoder._run_started, ends="all"),
    "RUN_FINISHED": _Row(_AgUiDecoder._run_finished, ends="all"),
    "RUN_ERROR": _Row(_AgUiDecoder._run_error, ends="all"),
    "STEP_STARTED": _Row(_AgUiDecoder._step_started, ("stepName",)),
    "STEP_FINISHED": _Row(_AgUiDecoder._step_finished, ("stepName",)),
    "SUBAGENT_STARTED": _Row(_AgUiDecoder._subagent_started, ("subagentRunId",), ends="none"),
    "SUBAGENT_FINISHED": _Row(_AgUiDecoder._subagent_finished, ("subagentRunId",)),
    "SUBAGENT_ERROR": _Row(_AgUiDecoder._subagent_error, ("subagentRunId",)),
    "TEXT_MESSAGE_START": _Row(_AgUiDecoder._text_start),
    "TEXT_MESSAGE_CONTENT": _Row(_AgUiDecoder._text_content, ("delta",)),
    "TEXT_MESSAGE_END": _Row(_AgUiDecoder._text_end),
    "REASONING_START": _Row(_AgUiDecoder._reasoning_start),
    "REASONING_MESSAGE_START": _Row(_AgUiDecoder._reasoning_message_start),
    "REASONING_MESSAGE_CONTENT": _Row(_AgUiDecoder._reasoning_content, ("delta",)),
    "REASONING_MESSAGE_END": _Row(_AgUiDecoder._reasoning_message_end),
    "REASONING_END": _Row(_AgUiDecoder._reasoning_end),
    "REASONING_ENCRYPTED_VALUE": _Row(_AgUiDecoder._as_custom, ends="none"),
    "TOOL_CALL_START": _Row(_AgUiDecoder._tool_start, ("toolCallId",)),
    "TOOL_CALL_ARGS": _Row(_AgUiDecoder._tool_args, ("toolCallId", "delta")),
    "TOOL_CALL_END": _Row(_AgUiDecoder._tool_end, ("toolCallId",)),
    "TOOL_CALL_RESULT": _Row(_AgUiDecoder._tool_result, ("toolCallId",)),
    "STATE_SNAPSHOT": _Row(_AgUiDecoder._state),
    "STATE_DELTA": _Row(_AgUiDecoder._state),
    "MESSAGES_SNAPSHOT": _Row(_AgUiDecoder._as_custom, ends="all"),
    "ACTIVITY_SNAPSHOT": _Row(_AgUiDecoder._as_custom, ends="none"),
    "ACTIVITY_DELTA": _Row(_AgUiDecoder._as_custom, ends="none"),
    "RAW": _Row(_AgUiDecoder._as_custom, ends="none"),
    "CUSTOM": _Row(_AgUiDecoder._custom, ("name",)),
}

_COUNTS = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cached_input_tokens": "cachedInputTokens",
    "cache_write_tokens": "cacheWriteInputTokens",
    "reasoning_tokens": "reasoningTokens",
}

_TYPES = _ROWS.keys() | _CHUNKS.keys() | _LEGACY.keys()


def _read_piece(data: bytes) -> _Piece | None:
    try:
        return _piece_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _grown(piece: _Piece) -> ev.Event:
    if isinstance(piece, _Text):
        return ev.TextDelta(text=piece.delta, message_id=piece.message_id)
    if isinstance(piece, _Arguments):
        return ev.ToolCallArgumentsDelta(tool_call_id=piece.tool_call_id, delta=piece.delta)
    return ev.ReasoningDelta(text=piece.delta, message_id=piece.message_id)


def _usages(fields: _Fields) -> Iterator[ev.Usage]:
    entries = fields.get("usage")
    for entry in entries if isinstance(entries, list) else ():
        labels = _camel_keys(as_object(entry))
        counts = {name: as_count(labels.get(key)) for name, key in _COUNTS.items()}
        if any(count is not None for count in counts.values()):
            model, provider = as_string(labels.get("model")), as_string(labels.get("provider"))
            yield ev.Usage(**counts, model=model, provider=provider, scope="run")


def _outcome(fields: _Fields) -> ev.Event:
    """The terminal event; an outcome that is absent or unknown is success."""
    match _camel_keys(as_object(fields.get("outcome"))):
        case {"type": "interrupt", **rest}:
            interrupts = rest.get("interrupts")
            first = interrupts[0] if isinstance(interrupts, list) and interrupts else None
            interrupt = _camel_keys(as_object(first))
            return ev.RunInterrupted(
                reason=as_string(interrupt.get("reason")),
                tool_call_id=as_string(interrupt.get("toolCallId")),
            )
        case {"type": "cancelled"}:
            return ev.RunCancelled()
        case {"pendingToolCallIds": [first, *_]}:
            return ev.RunInterrupted(reason="tool_call", tool_call_id=as_string(first))
    return ev.RunFinished(
        run_id=as_string(fields.get("runId")), thread_id=as_string(fields.get("threadId"))
    )


def _content_text(content: Any) -> str | None:
    """A tool's result: text as it is, parts of text joined, all else as JSON."""
    if isinstance(content, list) and all(as_object(one).get("type") == "text" for one in content):
        return "".join(as_string(part.get("text")) or "" for part in content)
    return content if content is None or isinstance(content, str) else dump_json(content)


def _step_id(lane: _Lane, fields: _Fields) -> str | None:
    """Names are unique per lane only."""
    return None if lane is None else f"{lane}/{fields['stepName']}"


def _remember(memory: dict[Any, Any], key: str | None, value: Any) -> None:
    """Ids that are too long for one are not kept: what refers to them reads as new."""
    if key is not None and len(key) > MAX_ID_CHARS:
        return
    remember(memory, key, value, MAX_REMEMBERED)


def _camel_keys(fields: _Fields) -> _Fields:
    return {_camel(key) if "_" in key else key: value for key, value in fields.items()}


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)
