"""A2A: the stream of a task between agents, over JSON-RPC and REST.

Rules that hold here (protocol 1.0, as a2a-sdk 1.3.0 types and sends it):

* Both bindings carry the same objects: JSON-RPC as `result`, REST bare. REST of 0.3 is read here as
  well: it has `content` in place of `parts`, and `final`.
* What a user reads are the text parts of artifacts, and of the agent's messages in a status. Text
  of a failed task is its error, and no text.
* Agents say things twice: an artifact whole after its pieces, an answer as message and as artifact,
  the pieces of an answer and then all of it. Only what is new is told: what is behind the text
  known of that id, and nothing of a new message that equals what was said last, in one piece or
  several. An artifact can repeat messages so, but no other artifact.
* A stream that begins with a task under way follows one from before (SubscribeToTask): what that
  task holds was told to whoever asked first.
* A run ends with the state of its task, with a status that is `final` (0.3), with an error, or with
  a message where there is no task. A task that waits for input goes on if more comes.
* A2A has no words for reasoning, tools and usage. Google's ADK has, under keys of metadata that
  begin with `adk_`; no other convention is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Encoder, Envelope, Fit, Head, marks, says
from streamtrace.dialects.encode.a2a import A2AEncoder
from streamtrace.dialects.repeated import Said

MAX_CALLS = 1024
"""Tool calls that a stream's decoder remembers; of more, the oldest is forgotten."""

_METHODS = ("SendStreamingMessage", "SubscribeToTask")
_PATHS = (":stream", ":subscribe")

_Fields: TypeAlias = dict[str, Any]


class A2A(Dialect):
    """Agent2Agent 1.0, both bindings."""

    name = "a2a"
    marks = marks("jsonrpc artifactUpdate statusUpdate task message error")
    says = says(
        "run thread text reasoning tool_start arguments result usage input_required error terminal"
    )
    encodes = frozenset(A2AEncoder.table)

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of an object of the protocol; an error alone may be any other's."""
        value = frame.json()
        if not isinstance(value, dict):
            return Fit.NO
        if value.get("jsonrpc") != "2.0":
            is_rest = head.path.endswith(_PATHS) and frame.event == "error"
            return Fit.YES if is_rest or (len(value) == 1 and _is_stated(value)) else Fit.NO
        if _is_stated(value.get("result")):
            return Fit.YES
        return error_fit(head, frame, _METHODS)

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return A2ADecoder()

    def encoder(self, envelope: Envelope = Envelope()) -> Encoder:  # noqa: B008  immutable
        """A writer of one stream: JSON-RPC if the envelope has a request id, else REST."""
        return A2AEncoder(envelope)


_STATED = {
    "artifactUpdate": ("taskId", "artifact"),
    "statusUpdate": ("taskId", "status"),
    "task": ("id", "status"),
    "message": ("messageId", "role"),
}
"""The objects of a stream, and what each of them cannot be without."""


def _is_stated(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(body := value.get(kind), dict) and all(need in body for need in needs)
        for kind, needs in _STATED.items()
    )


def error_fit(head: Head, frame: Frame, methods: tuple[str, ...]) -> Fit:
    """Whether a JSON-RPC error answers one of these methods."""
    if "error" not in as_object(frame.json()):
        return Fit.NO
    asked = as_object(head.request).get("method")
    if asked is None:
        return Fit.NO if frame.event == "message" else Fit.MAYBE  # that name is written by MCP
    return Fit.YES if asked in methods else Fit.NO


# The hot frames: more text of an artifact.

NOT_HOT = (msgspec.DecodeError, UnicodeError, RecursionError)


class _TextPart(msgspec.Struct, gc=False):
    text: str
    metadata: None = None


class _Silent(msgspec.Struct, gc=False):
    """Metadata that tells nothing."""

    adk_usage_metadata: None = None


class _HotArtifact(msgspec.Struct, rename="camel", gc=False):
    artifact_id: str
    parts: tuple[_TextPart]
    metadata: _Silent | None = None


class HotUpdate(msgspec.Struct, rename="camel", gc=False):
    """An artifact update of one part that is text, and nothing but text."""

    artifact: _HotArtifact
    append: bool = False
    last_chunk: bool = False
    metadata: _Silent | None = None


class _HotResult(msgspec.Struct, rename="camel", gc=False):
    artifact_update: HotUpdate | None = None


class _HotFrame(msgspec.Struct, rename="camel", gc=False):
    result: _HotResult | None = None
    artifact_update: HotUpdate | None = None
    error: Any = None


_hot_decoder = msgspec.json.Decoder(_HotFrame)


class A2ADecoder:
    """Reads the objects of 1.0. What 0.3 does in another way are its two methods `hot`, `body`."""

    def __init__(self) -> None:
        self._said, self._thought = Said(), Said()
        self._run_id: str | None = None
        self._thread_id: str | None = None
        self._begun = self._waits = self._has_task = False
        self._calls: dict[str, bool] = {}  # by id: whether the result has passed
        self._nameless_calls = 0

    def hot(self, data: bytes) -> HotUpdate | None:
        """The artifact update, if the frame is one of text only."""
        try:
            frame = _hot_decoder.decode(data)
        except NOT_HOT:
            return None
        result = frame.artifact_update if frame.result is None else frame.result.artifact_update
        return result if frame.error is None else None

    def body(self, value: _Fields) -> tuple[str, _Fields]:
        """What the frame is about, and its fields."""
        result = value.get("result")
        stated = result if isinstance(result, dict) else value
        for kind in _STATED:
            if isinstance(body := stated.get(kind), dict):
                return kind, body
        return "unknown", value

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        """What the frame says."""
        if self._has_task and not self._waits and frame.data and frame.event != "error":
            update = self.hot(frame.data)
            if update is not None and update.append and not update.last_chunk:
                artifact = update.artifact
                text = artifact.parts[0].text
                known = self._said.texts.get(artifact.artifact_id)
                if known is not None and text:
                    known.add(text)
                    return (ev.TextDelta(text=text, message_id=artifact.artifact_id),)
        value = frame.json()
        if isinstance(value, dict):
            if frame.event == "error" or value.get("error"):
                return self._error(value.get("error") or value)
            kind, body = self.body(value)
            read = _READ.get(kind)
            return (ev.Custom(name=kind, value=value),) if read is None else read(self, body)
        if frame.data is None or not frame.complete:
            return ()
        if frame.event == "error":
            return self._error(frame.text)
        value = frame.text if value is None else value
        return (ev.Custom(name=frame.event or "unknown", value=value),)

    def close(self) -> Iterable[ev.Event]:
        """That a stream stopped says nothing."""
        return ()

    def _task(self, task: _Fields) -> Iterator[ev.Event]:
        follows = not self._begun and _state(task.get("status")) in _UNDER_WAY
        yield from self._begin(task.get("id"), task, has_task=True)
        artifacts = task.get("artifacts")
        events: list[ev.Event] = []
        for artifact in artifacts if isinstance(artifacts, list) else ():
            events += self._artifact(as_object(artifact), {}, append=False)
        events += self._status(task.get("status"), task.get("metadata"))
        if not follows:
            yield from events

    def _artifact_update(self, update: _Fields) -> Iterator[ev.Event]:
        yield from self._begin(update.get("taskId"), update, has_task=True)
        artifact = as_object(update.get("artifact"))
        metadata = as_object(update.get("metadata"))
        yield from self._artifact(artifact, metadata, append=update.get("append") is True)
        artifact_id = as_id(artifact.get("artifactId"))
        known = self._said.texts.get(artifact_id)
        if update.get("lastChunk") is True and known is not None and known.is_news:
            yield ev.MessageFinished(message_id=artifact_id)

    def _status_update(self, update: _Fields) -> Iterator[ev.Event]:
        yield from self._begin(update.get("taskId"), update, has_task=True)
        yield from self._status(update.get("status"), update.get("metadata"))
        if update.get("final") is True and _state(update.get("status")) not in (*_FAILED, *_ENDS):
            yield self._finished()

    def _message(self, message: _Fields) -> Iterator[ev.Event]:
        yield from self._begin(message.get("taskId"), message, has_task=False)
        yield from self._agent_message(message, as_object(message.get("metadata")))
        if not self._has_task:
            yield self._finished()

    def _begin(self, run_id: Any, body: _Fields, *, has_task: bool) -> Iterator[ev.Event]:
        self._has_task = self._has_task or has_task
        if not self._begun:
            self._begun = True
            self._run_id, self._thread_id = as_id(run_id), as_id(body.get("contextId"))
        elif not self._waits:
            return
        self._waits = False
        yield ev.RunStarted(run_id=self._run_id, thread_id=self._thread_id)

    def _status(self, status: Any, metadata: Any) -> Iterator[ev.Event]:
        state = _state(status)
        message = as_object(as_object(status).get("message"))
        hints = {**as_object(metadata), **as_object(message.get("metadata"))}
        code = as_id(hints.get("adk_error_code"))
        if state in _FAILED:
            yield ev.RunFailed(type=code or state, message=_texts(_parts(message))[0] or None)
            return
        if message and code is None:
            yield from self._agent_message(message, hints)
        end = _ENDS.get(state)
        yield ev.Custom(name=state, value=status) if end is None else end(self, state, message)

    def _finished(self, *_: Any) -> ev.Event:
        return ev.RunFinished(run_id=self._run_id, thread_id=self._thread_id)

    def _cancelled(self, *_: Any) -> ev.Event:
        return ev.RunCancelled()

    def _interrupted(self, state: str, message: _Fields) -> ev.Event:
        self._waits = True
        return ev.RunInterrupted(reason=state, tool_call_id=_awaited(message))

    def _agent_message(self, message: _Fields, hints: _Fields) -> Iterator[ev.Event]:
        if message.get("role") in ("ROLE_USER", "user"):
            yield ev.Custom(name="message", value=message)
            return
        key = as_id(message.get("messageId"))
        joint = as_id(hints.get("adk_event_id")) or key  # the pieces of a message are messages
        yield from self._content(key, joint, _parts(message), hints, append=False, is_message=True)

    def _artifact(
        self, artifact: _Fields, metadata: _Fields, *, append: bool
    ) -> Iterator[ev.Event]:
        hints = {**metadata, **as_object(artifact.get("metadata"))}
        key = as_id(artifact.get("artifactId"))
        yield from self._content(key, key, _parts(artifact), hints, append=append, is_message=False)

    def _content(
        self,
        key: str | None,
        told_id: str | None,
        parts: list[_Fields],
        hints: _Fields,
        *,
        append: bool,
        is_message: bool,
    ) -> Iterator[ev.Event]:
        is_new = append or key not in self._said.texts
        text, thought = _texts(parts)
        if thought:
            news = self._thought.news(key, thought, append=append, is_message=is_message)
            if news:
                yield ev.ReasoningDelta(text=news, message_id=told_id)
        news = self._said.news(key, text, append=append, is_message=is_message)
        if news:
            yield ev.TextDelta(text=news, message_id=told_id)
        for part in parts:
            kind = as_object(part.get("metadata")).get("adk_type")
            data = part.get("data")
            if isinstance(data, dict) and kind == "function_call":
                yield from self._call(data)
            elif isinstance(data, dict) and kind == "function_response":
                yield from self._result(data)
            elif is_new and not isinstance(part.get("text"), str):
                yield ev.Custom(name="data" if "data" in part else "part", value=part)
        usage = hints.get(_USAGE)
        if isinstance(usage, dict):
            yield _usage(usage)

    def _call(self, data: _Fields) -> Iterator[ev.Event]:
        call_id = as_id(data.get("id"))
        if call_id is None:
            self._nameless_calls += 1
            call_id = f"tool-{self._nameless_calls}"
        elif call_id in self._calls:
            return
        remember(self._calls, call_id, False, MAX_CALLS)
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(data.get("name")))
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=dump_json(data.get("args") or {}))

    def _result(self, data: _Fields) -> Iterator[ev.Event]:
        call_id = as_id(data.get("id"))
        if call_id is None:
            yield ev.Custom(name="function_response", value=data)
        elif not self._calls.get(call_id):
            remember(self._calls, call_id, True, MAX_CALLS)
            yield ev.ToolCallResult(tool_call_id=call_id, result=dump_json(data.get("response")))

    def _error(self, error: Any) -> Iterator[ev.Event]:
        facts = error if isinstance(error, dict) else {"message": error}
        kinds = (_reason(facts), facts.get("status"), facts.get("code"))
        yield ev.RunFailed(
            type=next(filter(None, map(as_id, kinds)), None), message=as_word(facts.get("message"))
        )


_READ: Mapping[str, Callable[[A2ADecoder, _Fields], Iterable[ev.Event]]] = {
    "artifactUpdate": A2ADecoder._artifact_update,
    "statusUpdate": A2ADecoder._status_update,
    "task": A2ADecoder._task,
    "message": A2ADecoder._message,
}

_USAGE = "adk_usage_metadata"
_UNDER_WAY = ("submitted", "working")
_FAILED = ("failed", "rejected")
_ENDS: Mapping[str, Callable[[A2ADecoder, str, _Fields], ev.Event]] = {
    "completed": A2ADecoder._finished,
    "canceled": A2ADecoder._cancelled,
    "cancelled": A2ADecoder._cancelled,  # as the protobuf of 0.3 spells it
    "input_required": A2ADecoder._interrupted,
    "auth_required": A2ADecoder._interrupted,
}


def _state(status: Any) -> str:
    """The state as one word, whatever the version: TASK_STATE_INPUT_REQUIRED, input-required."""
    state = as_id(as_object(status).get("state")) or "unspecified"
    return state.lower().removeprefix("task_state_").replace("-", "_")


def _parts(holder: _Fields) -> list[_Fields]:
    parts = holder.get("parts") or holder.get("content")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _texts(parts: list[_Fields]) -> tuple[str, str]:
    """What the parts say aloud, and what they think."""
    texts: tuple[list[str], list[str]] = ([], [])
    for part in parts:
        if isinstance(text := part.get("text"), str):
            texts[as_object(part.get("metadata")).get("adk_thought") is True].append(text)
    return "".join(texts[0]), "".join(texts[1])


def _awaited(message: _Fields) -> str | None:
    """The long-running call that a question is about."""
    for part in _parts(message):
        if as_object(part.get("metadata")).get("adk_is_long_running") is True:
            return as_id(as_object(part.get("data")).get("id"))
    return None


def _reason(error: _Fields) -> str | None:
    """The word that A2A has for an error; JSON-RPC keeps it under `data`, REST under `details`."""
    details = error.get("data") or error.get("details")
    for detail in details if isinstance(details, list) else ():
        if reason := as_string(as_object(detail).get("reason")):
            return reason
    return None


def _usage(wire: _Fields) -> ev.Usage:
    """Gemini's counts: thoughts and the prompts of tools stand beside the totals."""
    given, tools, made, thought, cached = (
        _count(wire.get(f"{name}TokenCount"))
        for name in ("prompt", "toolUsePrompt", "candidates", "thoughts", "cachedContent")
    )
    return ev.Usage(
        input_tokens=_sum(given, tools),
        output_tokens=_sum(made, thought),
        cached_input_tokens=cached,
        reasoning_tokens=thought,
    )


def _count(value: Any) -> int | None:
    """Numbers pass through protobuf, which writes 12 as 12.0."""
    return as_count(int(value) if isinstance(value, float) and value.is_integer() else value)


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
