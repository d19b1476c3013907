"""Writes Vercel's UI message stream, with the parts that `ai` 6 and `ai` 7 both accept.

Rules that hold here:

* A generation is a step. Its model and its usage travel in `messageMetadata`: `model`, `provider`,
  `usage` (of the step) and `totalUsage` (of the run), in the SDK's own names. A model named once
  holds until another is named.
* A client shows parts in the order in which they began. So text begins with its first delta, and
  text that other output has interrupted goes on as a new part.
* A call of which no event told is announced first: the client rejects a result without its call.
* Arguments and results that are JSON objects or arrays are sent as such, all else as text; no
  arguments are `{}`, as in the SDK.
* A call whose arguments no event completed is complete if the run ends well. If it fails or is
  stopped, they are invalid, with the error `CUT_SHORT`: a client runs what looks complete.
* A question is a tool that waits, for its approval or for its result. One without a tool, for which
  the protocol has no word, becomes a part `data-interrupt` with its reason.
* `start` is the first part or none: behind others a client would begin another message.
* Of an error only the text is sent: clients of `ai` 5 reject what they do not know beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, clean_text, load_json
from streamtrace.dialects.encode.base import Held, TableEncoder, json_frame

DONE = b"[DONE]"
APPROVAL, TOOL_CALL = "tool_approval", "tool_call"
"""What a run can wait for."""
INTERRUPT = "data-interrupt"
CUT_SHORT = "The run ended before the arguments were complete."
"""What a client is told of such a call."""

MAX_CALLS = 1024
"""Tool calls that one stream keeps in mind; of more, the oldest is forgotten."""

_PENDING, _OPEN, _INTERRUPTED = range(3)

_FINISH_REASONS = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "STOP"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "MAX_TOKENS"), "length"),
    **dict.fromkeys(("content-filter", "content_filter", "refusal", "SAFETY"), "content-filter"),
    **dict.fromkeys(("tool-calls", "tool_calls", "tool_use", "function_call"), "tool-calls"),
    "error": "error",
}
"""What models say, in the words of the protocol; all else is `other`."""


class _Call(msgspec.Struct):
    name: str | None = None
    arguments: Held = msgspec.field(default_factory=Held)
    ready: bool = False
    answered: bool = False


class VercelUIEncoder(TableEncoder):
    """A writer of one stream."""

    def __init__(self) -> None:
        self._begun = False
        self._ended = False
        self._in_step = False
        self._key: str | None = None
        self._model: tuple[str | None, str | None] = (None, None)
        self._finish_reason: str | None = None
        self._texts: dict[str, int] = {}
        self._reasoning: dict[str, bool] = {}  # whether an event has opened it, and will close it
        self._calls: dict[str, _Call] = {}
        self._numbers = 0  # of the ids that no event gave

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say, or behind the end."""
        if self._ended:
            return ()
        frames = tuple(super().encode(event))
        self._begun = self._begun or any(frame.data is not None for frame in frames)
        return frames

    def close(self) -> Iterable[Frame]:
        """The sentinel, if the run has ended: a cut stream must not look whole."""
        return (Frame(data=DONE),) if self._ended else ()

    # --- the run -----------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> Iterator[Frame]:
        if not self._begun:
            yield _part("start", messageId=event.run_id)

    def _run_finished(self, event: ev.RunFinished) -> Iterator[Frame]:
        yield from self._complete_calls()
        yield from self._end("finish", finishReason=self._finish_reason)

    def _run_failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        yield from self._give_up_calls()
        yield from self._end("error", errorText=event.message or event.type or "")

    def _run_cancelled(self, event: ev.RunCancelled) -> Iterator[Frame]:
        yield from self._give_up_calls()
        yield from self._end("abort", reason=event.reason)

    def _run_interrupted(self, event: ev.RunInterrupted) -> Iterator[Frame]:
        yield from self._complete_calls()
        call_id = event.tool_call_id
        call = self._calls.get(call_id or "")
        if call is None or call.answered:
            yield json_frame(
                {"type": INTERRUPT, "data": _given(reason=event.reason, toolCallId=call_id)}
            )
        elif event.reason != TOOL_CALL:
            yield _part("tool-approval-request", approvalId=call_id, toolCallId=call_id)
        yield from self._end("finish", finishReason=self._finish_reason)

    def _end(self, kind: str, **fields: Any) -> Iterator[Frame]:
        yield from self._close_step()
        self._ended = True
        yield _part(kind, **fields)

    # --- steps, model and usage --------------------------------------------------------------

    def _generation_started(self, event: ev.GenerationStarted) -> Iterator[Frame]:
        model = (event.model, event.provider)
        key = event.response_id or event.key
        goes_on = self._in_step and (key is None or self._key in (None, key))
        if goes_on:
            self._key = self._key or key
        else:
            yield from self._close_step()
        if event.model and not (goes_on and model == self._model):
            self._model = model
            yield _metadata(model=event.model, provider=event.provider)
        if not goes_on:
            self._in_step, self._key = True, key
            yield _part("start-step")

    def _generation_finished(self, event: ev.GenerationFinished) -> Iterable[Frame]:
        for reason in event.finish_reasons[:1]:
            self._finish_reason = _FINISH_REASONS.get(reason, "other")
        return ()

    def _close_step(self) -> Iterator[Frame]:
        for text_id in [one for one, state in self._texts.items() if state != _PENDING]:
            yield _part("text-end", id=text_id)
        for reasoning_id in self._reasoning:
            yield _part("reasoning-end", id=reasoning_id)
        self._texts.clear()
        self._reasoning.clear()
        if self._in_step:
            self._in_step = False
            yield _part("finish-step")

    def _usage(self, event: ev.Usage) -> Iterator[Frame]:
        given, made = as_count(event.input_tokens), as_count(event.output_tokens)
        counts = _given(
            inputTokens=given,
            outputTokens=made,
            totalTokens=None if given is None or made is None else given + made,
            inputTokenDetails=_given(
                cacheReadTokens=as_count(event.cached_input_tokens),
                cacheWriteTokens=as_count(event.cache_write_tokens),
            )
            or None,
            outputTokenDetails=_given(reasoningTokens=as_count(event.reasoning_tokens)) or None,
        )
        if not counts:
            return
        of_run = event.scope == "run"
        if event.model and not (of_run and self._model == (event.model, event.provider)):
            counts |= _given(model=event.model, provider=event.provider)
        yield _metadata(**{"totalUsage" if of_run else "usage": counts})

    # --- text and reasoning ------------------------------------------------------------------

    def _message_started(self, event: ev.MessageStarted) -> Iterable[Frame]:
        if event.role in (None, "assistant") and event.message_id:
            self._texts.setdefault(event.message_id, _PENDING)
        return ()

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        yield from self._close_unannounced_reasoning()
        text_id = event.message_id or self._anonymous("text", self._texts)
        state = self._texts.get(text_id)
        if state == _INTERRUPTED:
            yield _part("text-end", id=text_id)
        if state != _OPEN:
            self._texts[text_id] = _OPEN
            yield _part("text-start", id=text_id)
        yield _part("text-delta", id=text_id, delta=event.text)

    def _message_finished(self, event: ev.MessageFinished) -> Iterator[Frame]:
        text_id = event.message_id or next((one for one in self._texts if _is_ours(one)), "")
        state = self._texts.pop(text_id, None)
        if state == _PENDING:
            yield _part("text-start", id=text_id)
        if state is not None:
            yield _part("text-end", id=text_id)

    def _reasoning_started(self, event: ev.ReasoningStarted) -> Iterator[Frame]:
        reasoning_id = event.message_id or self._anonymous("reasoning", self._reasoning)
        if reasoning_id not in self._reasoning:
            self._interrupt_text()
            self._reasoning[reasoning_id] = True
            yield _part("reasoning-start", id=reasoning_id)

    def _reasoning_delta(self, event: ev.ReasoningDelta) -> Iterator[Frame]:
        reasoning_id = event.message_id or self._anonymous("reasoning", self._reasoning)
        if reasoning_id not in self._reasoning:
            self._interrupt_text()
            self._reasoning[reasoning_id] = False
            yield _part("reasoning-start", id=reasoning_id)
        yield _part("reasoning-delta", id=reasoning_id, delta=event.text)

    def _reasoning_finished(self, event: ev.ReasoningFinished) -> Iterator[Frame]:
        reasoning_id = event.message_id or self._anonymous("reasoning", self._reasoning)
        if self._reasoning.pop(reasoning_id, None) is not None:
            yield _part("reasoning-end", id=reasoning_id)

    def _interrupt_text(self) -> None:
        self._texts = {one: _INTERRUPTED for one, state in self._texts.items() if state}

    def _close_unannounced_reasoning(self) -> Iterator[Frame]:
        for reasoning_id in [one for one, announced in self._reasoning.items() if not announced]:
            del self._reasoning[reasoning_id]
            yield _part("reasoning-end", id=reasoning_id)

    def _anonymous(self, kind: str, open_ids: dict[str, Any]) -> str:
        """The id of what came without one: the open part of that kind, or a new one."""
        for one in open_ids:
            if _is_ours(one):
                return one
        self._numbers += 1
        return f"{_OURS}{kind}-{self._numbers}"

    # --- tools -------------------------------------------------------------------------------

    def _tool_started(self, event: ev.ToolCallStarted) -> Iterator[Frame]:
        if event.tool_call_id in self._calls:
            return
        self._interrupt_text()
        yield from self._close_unannounced_reasoning()
        remember(self._calls, event.tool_call_id, _Call(event.name), MAX_CALLS)
        yield _part("tool-input-start", toolCallId=event.tool_call_id, toolName=event.name or "")

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterator[Frame]:
        call_id = event.tool_call_id
        yield from self._tool_started(ev.ToolCallStarted(tool_call_id=call_id))
        call = self._calls[call_id]
        if not call.ready and not call.answered:
            call.arguments.add(event.delta)
            yield _part("tool-input-delta", toolCallId=call_id, inputTextDelta=event.delta)

    def _ready(self, event: ev.ToolCallReady) -> Iterator[Frame]:
        call_id = event.tool_call_id
        yield from self._tool_started(ev.ToolCallStarted(tool_call_id=call_id))
        call = self._calls[call_id]
        if call.ready or call.answered:
            return
        streamed = call.arguments.take()
        arguments = event.arguments or streamed or "{}"
        call.ready = True
        yield _part(
            "tool-input-available",
            toolCallId=call_id,
            toolName=call.name or "",
            input=_json_value(arguments),
        )

    def _complete_calls(self) -> Iterator[Frame]:
        for call_id in self._calls:
            yield from self._ready(ev.ToolCallReady(tool_call_id=call_id))

    def _give_up_calls(self) -> Iterator[Frame]:
        for call_id, call in self._calls.items():
            if not call.ready and not call.answered:
                yield _part(
                    "tool-input-error",
                    toolCallId=call_id,
                    toolName=call.name or "",
                    input=_json_value(call.arguments.take() or "{}"),
                    errorText=CUT_SHORT,
                )

    def _result(self, event: ev.ToolCallResult) -> Iterator[Frame]:
        call_id = event.tool_call_id
        yield from self._tool_started(ev.ToolCallStarted(tool_call_id=call_id))
        self._calls[call_id].answered = True
        if event.is_error:
            yield _part("tool-output-error", toolCallId=call_id, errorText=event.result or "")
        else:
            output = None if event.result is None else _json_value(event.result)
            yield json_frame(
                {"type": "tool-output-available", "toolCallId": call_id, "output": output}
            )

    # --- the rest ----------------------------------------------------------------------------

    def _source(self, event: ev.Source) -> Iterator[Frame]:
        self._numbers += 1
        source_id = f"source-{self._numbers}"
        if event.url is not None:
            yield _part("source-url", sourceId=source_id, url=event.url, title=event.title)
        else:
            yield _part(
                "source-document",
                sourceId=source_id,
                mediaType="application/octet-stream",
                title=event.title or "",
            )

    def _custom(self, event: ev.Custom) -> Iterator[Frame]:
        """What an app adds to the answer: data parts, files and metadata."""
        value = event.value
        if event.name.startswith("data-"):
            yield json_frame({"type": event.name, "data": value})
        elif event.name == "message-metadata" and isinstance(value, dict):
            yield json_frame({"type": event.name, "messageMetadata": value})
        elif event.name == "file" and isinstance(value, dict):
            url, media_type = value.get("url"), value.get("mediaType")
            if isinstance(url, str) and isinstance(media_type, str):
                yield json_frame({"type": "file", "url": url, "mediaType": media_type})

    def _heartbeat(self, event: ev.Heartbeat) -> Iterator[Frame]:
        yield Frame(comment=b"keep-alive")

    table: ClassVar[Mapping[type[ev.Event], Callable[[Any, Any], Iterable[Frame]]]] = {
        ev.RunStarted: _run_started,
        ev.RunFinished: _run_finished,
        ev.RunFailed: _run_failed,
        ev.RunCancelled: _run_cancelled,
        ev.RunInterrupted: _run_interrupted,
        ev.GenerationStarted: _generation_started,
        ev.GenerationFinished: _generation_finished,
        ev.Usage: _usage,
        ev.MessageStarted: _message_started,
        ev.TextDelta: _text,
        ev.MessageFinished: _message_finished,
        ev.ReasoningStarted: _reasoning_started,
        ev.ReasoningDelta: _reasoning_delta,
        ev.ReasoningFinished: _reasoning_finished,
        ev.ToolCallStarted: _tool_started,
        ev.ToolCallArgumentsDelta: _arguments,
        ev.ToolCallReady: _ready,
        ev.ToolCallResult: _result,
        ev.Source: _source,
        ev.Custom: _custom,
        ev.Heartbeat: _heartbeat,
    }


_OURS = "st-"
"""Begins the ids that no event gave."""


def _is_ours(part_id: str) -> bool:
    return part_id.startswith(_OURS)


def _part(kind: str, **fields: Any) -> Frame:
    return json_frame({"type": kind, **_given(**fields)})


def _metadata(**metadata: Any) -> Frame:
    return _part("message-metadata", messageMetadata=_given(**metadata))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _json_value(text: str) -> Any:
    """The object or array that the text stands for, or the text."""
    value = load_json(clean_text(text).encode())
    return value if isinstance(value, dict | list) else text
