"""OpenAI chat completions, written.

What a client of this wire sees of an agent's run is one answer of one model. Rules that hold here,
beside those of the folder:

* One stream is one completion: one id (the run's, else that of its first generation), one finish
  reason, and the token counts of all generations in one chunk behind it, or before an error.
* A client runs every tool call that it is shown. So it is shown those that are left to it: at the
  end of the run, whole, and one after the other. A call that was answered in the stream, or behind
  which the model went on in a new generation, was the agent's own; nor has its result a word here.
* The finish reason is that of the last generation, in a word of OpenAI's. It is `tool_calls` only
  where calls are shown. A run that waits for its user or was cancelled ends with `stop`: the wire
  has no words for these.
* Text whose message is `id:k`, with the id of the generation, is choice k, as the decoder reads it.
  All other text is choice 0.
* After `[DONE]`, or an error, nothing is written: clients stop reading there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.errors import EncodeError
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode.base import MAX_HELD_CHARS, TableEncoder, json_frame
from streamtrace.dialects.encode.tally import Tally

MAX_CHOICES = 128
"""OpenAI's own limit; text of further choices is not written."""
MAX_CALLS = 128
"""Tool calls that OpenAI's clients take in one answer; further ones are left out."""

_Fields: TypeAlias = dict[str, Any]


class _Call(msgspec.Struct):
    name: str
    arguments: list[str] = []
    ready: bool = False


class OpenAIChatEncoder(TableEncoder):
    """Writes one completion."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._id: str | None = None
        self._generation_id: str | None = None
        self._facts: _Fields = {"model": envelope.model}
        self._choices = 0  # that were begun
        self._calls: dict[str, _Call] = {}
        self._held_chars = 0
        self._finish_reasons: tuple[str, ...] = ()
        self._tally = Tally()
        self._ended = False

    def encode(self, event: ev.Event) -> Iterable[Frame]:
        """The frames that say it; none for what this wire cannot say, or not now."""
        write = self.table.get(type(event))
        return [] if write is None or self._ended else list(write(self, event))

    # --- the run ---------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> Iterable[Frame]:
        self._id = self._id or event.run_id
        return ()

    def _run_ended(self, event: ev.RunFinished | ev.RunInterrupted) -> Iterator[Frame]:
        yield from self._begin()
        shown = [(call_id, call) for call_id, call in self._calls.items() if call.name]
        for index, (call_id, call) in enumerate(shown):
            function = {"name": call.name, "arguments": "".join(call.arguments) or "{}"}
            body = {"index": index, "id": call_id, "type": "function", "function": function}
            yield self._delta(0, {"tool_calls": [body]})
        for choice in range(self._choices):
            reason = self._finish_reason(choice, calls=bool(shown) and choice == 0)
            yield self._chunk([{"index": choice, "delta": {}, "finish_reason": reason}])
        yield from self._usage_chunk()
        self._ended = True
        yield Frame(data=b"[DONE]")

    def _run_cancelled(self, event: ev.RunCancelled) -> Iterator[Frame]:
        self._forget_calls()
        yield from self._run_ended(ev.RunFinished())

    def _run_failed(self, event: ev.RunFailed) -> Iterator[Frame]:
        yield from self._usage_chunk()
        self._ended = True
        error = {"message": event.message or "", "type": event.type, "param": None}
        yield json_frame({"error": {**error, "code": event.type}})

    def _finish_reason(self, choice: int, *, calls: bool) -> str:
        given = self._finish_reasons[choice : choice + 1] or ("stop",)
        reason = _FINISH_REASONS.get(given[0].lower(), "stop")
        if reason in ("stop", "tool_calls"):
            return "tool_calls" if calls else "stop"
        return reason

    # --- generations -----------------------------------------------------------------------

    def _generation_started(self, event: ev.GenerationStarted) -> Iterator[Frame]:
        if self._tally.generation(event) or self._finish_reasons:
            self._forget_calls()
            self._finish_reasons = ()
            self._generation_id = None
        self._generation_id = self._generation_id or event.response_id
        self._id = self._id or event.response_id
        facts = {"model": event.model, "provider": event.provider}
        self._facts |= {key: value for key, value in facts.items() if value}
        yield from self._begin()

    def _generation_finished(self, event: ev.GenerationFinished) -> Iterable[Frame]:
        self._finish_reasons = event.finish_reasons
        return ()

    def _used(self, event: ev.Usage) -> Iterable[Frame]:
        self._tally.usage(event)
        return ()

    # --- output ----------------------------------------------------------------------------

    def _text(self, event: ev.TextDelta) -> Iterator[Frame]:
        yield from self._say("content", event)

    def _reasoning(self, event: ev.ReasoningDelta) -> Iterator[Frame]:
        yield from self._say("reasoning_content", event)

    def _say(self, field: str, event: ev.TextDelta | ev.ReasoningDelta) -> Iterator[Frame]:
        choice = self._choice(event.message_id)
        if event.text and choice < MAX_CHOICES:
            self._tally.output()
            yield from self._begin(choice)
            yield self._delta(choice, {field: event.text})

    def _choice(self, message_id: str | None) -> int:
        head, _, number = (message_id or "").rpartition(":")
        is_choice = head and head == self._generation_id and number.isdecimal()
        return int(number[:9]) if is_choice else 0

    # --- tool calls, held until it is known whose they are ---------------------------------

    def _call_started(self, event: ev.ToolCallStarted) -> Iterable[Frame]:
        if event.tool_call_id not in self._calls and len(self._calls) < MAX_CALLS:
            self._calls[event.tool_call_id] = _Call(event.name or "")
        return ()

    def _arguments(self, event: ev.ToolCallArgumentsDelta) -> Iterable[Frame]:
        call = self._calls.get(event.tool_call_id)
        if call is not None and not call.ready:
            self._hold(call, event.delta)
        return ()

    def _ready(self, event: ev.ToolCallReady) -> Iterable[Frame]:
        call = self._calls.get(event.tool_call_id)
        if call is not None:
            call.ready = True
            if event.arguments and not call.arguments:
                self._hold(call, event.arguments)
        return ()

    def _hold(self, call: _Call, arguments: str) -> None:
        if not arguments:
            return
        if self._held_chars + len(arguments) > MAX_HELD_CHARS:
            raise EncodeError(f"arguments of over {MAX_HELD_CHARS} characters wait to be written")
        self._tally.output()
        self._held_chars += len(arguments)
        call.arguments.append(arguments)

    def _result(self, event: ev.ToolCallResult) -> Iterable[Frame]:
        self._tally.result()
        call = self._calls.pop(event.tool_call_id, None)
        if call is not None:
            self._held_chars -= sum(map(len, call.arguments))
        return ()

    def _forget_calls(self) -> None:
        self._calls.clear()
        self._held_chars = 0

    # --- chunks ----------------------------------------------------------------------------

    def _usage_chunk(self) -> Iterator[Frame]:
        usage = _usage(self._tally.total())
        if usage:
            yield self._chunk([], usage=usage)

    def _begin(self, choice: int = 0) -> Iterator[Frame]:
        """Clients count on choices that begin in their order, each with its role."""
        while self._choices <= choice:
            yield self._delta(self._choices, {"role": "assistant", "content": ""})
            self._choices += 1

    def _delta(self, choice: int, delta: _Fields) -> Frame:
        return self._chunk([{"index": choice, "delta": delta, "finish_reason": None}])

    def _chunk(self, choices: list[_Fields], **more: Any) -> Frame:
        return json_frame(
            {
                "id": self._id or self._envelope.run_id,
                "object": "chat.completion.chunk",
                "created": self._envelope.created_s,
                **self._facts,
                "choices": choices,
                **more,
            }
        )

    table: ClassVar = {
        ev.RunStarted: _run_started,
        ev.RunFinished: _run_ended,
        ev.RunInterrupted: _run_ended,
        ev.RunCancelled: _run_cancelled,
        ev.RunFailed: _run_failed,
        ev.GenerationStarted: _generation_started,
        ev.GenerationFinished: _generation_finished,
        ev.Usage: _used,
        ev.TextDelta: _text,
        ev.ReasoningDelta: _reasoning,
        ev.ToolCallStarted: _call_started,
        ev.ToolCallArgumentsDelta: _arguments,
        ev.ToolCallReady: _ready,
        ev.ToolCallResult: _result,
    }


ENCODES = frozenset(OpenAIChatEncoder.table) - {
    ev.RunInterrupted,
    ev.RunCancelled,
    ev.ToolCallResult,
}

_FINISH_REASONS = {
    word: reason
    for reason, words in {
        "length": "length max_tokens max_output_tokens model_context_window_exceeded",
        "tool_calls": "tool_calls tool-calls tool_use function_call",
        "content_filter": "content_filter content-filter refusal safety recitation blocklist "
        "prohibited_content spii",
    }.items()
    for word in words.split()
}
"""Words of other vocabularies in OpenAI's; all others mean `stop`."""


def _usage(total: dict[str, int]) -> _Fields:
    given, made = total.get("input_tokens"), total.get("output_tokens")
    usage: _Fields = {"prompt_tokens": given, "completion_tokens": made}
    if given is not None and made is not None:
        usage["total_tokens"] = given + made
    usage["prompt_tokens_details"] = _known(
        cached_tokens=total.get("cached_input_tokens"),
        cache_write_tokens=total.get("cache_write_tokens"),
    )
    usage["completion_tokens_details"] = _known(reasoning_tokens=total.get("reasoning_tokens"))
    return _known(**usage)


def _known(**fields: Any) -> _Fields:
    return {key: value for key, value in fields.items() if value not in (None, {})}
