"""The vocabulary: what any dialect can say about a run.

Rules that hold here:

* Deltas carry deltas only; text that a dialect repeats is turned into deltas by its decoder.
* `None` means "the stream did not say". A field is never filled with a guess or a zero.
* An event carries no time. Its time is that of the frame that brought it, and travels beside it.
* Ids are those of the wire. Where the wire has none, the field is `None` or a number the decoder
  counts itself; a tool call without an id gets one, since its later events must find it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events. Sinks must ignore the types they do not know: the vocabulary grows."""


# --- the run -------------------------------------------------------------------------------


class RunStarted(Event, frozen=True, kw_only=True):
    """The run said who it is. Not needed: a run starts with its request."""

    run_id: str | None = None
    thread_id: str | None = None
    agent: str | None = None


class RunFinished(Event, frozen=True, kw_only=True):
    """The dialect's terminal event of a run that ended well."""

    run_id: str | None = None
    thread_id: str | None = None


class RunFailed(Event, frozen=True, kw_only=True):
    """An error told inside the stream. `type` is the wire's code, `message` its text (content)."""

    type: str | None = None
    message: str | None = None


class RunInterrupted(Event, frozen=True, kw_only=True):
    """The run ended because it needs an answer (a tool result, an approval) to go on."""

    reason: str | None = None
    tool_call_id: str | None = None


class RunCancelled(Event, frozen=True, kw_only=True):
    """The run said that it was stopped on request."""

    reason: str | None = None


# --- steps and generations -----------------------------------------------------------------


class StepStarted(Event, frozen=True, kw_only=True):
    """A named unit of the agent's work begins. `step_id` defaults to the name."""

    name: str
    step_id: str | None = None


class StepFinished(Event, frozen=True, kw_only=True):
    """The step ends."""

    name: str
    step_id: str | None = None


class GenerationStarted(Event, frozen=True, kw_only=True):
    """One call of a language model begins, where the dialect shows such calls.

    Said again for the open generation (same `response_id`, or both without), it adds facts. Where
    the wire has no such id, `key` tells one generation from the next: a word of the decoder's own,
    which goes no further than the run machine.
    Where a dialect has no such event, the run machine opens a generation at the first output.
    """

    response_id: str | None = None
    key: str | None = None
    model: str | None = None
    provider: str | None = None


class GenerationFinished(Event, frozen=True, kw_only=True):
    """The model gave its finish reason(s): one per choice, in the wire's own words."""

    finish_reasons: tuple[str, ...] = ()


class Usage(Event, frozen=True, kw_only=True):
    """Token counts. Totals include their parts: input holds the cached, output the reasoning.

    `scope` says what was counted: "generation" (the open or last one; the last report wins, since
    providers repeat running totals) or "run" (one entry per provider and model).
    Source of the rule: AG-UI `TokenUsage`; each decoder converts to it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    model: str | None = None
    provider: str | None = None
    scope: str = "generation"


# --- output --------------------------------------------------------------------------------


class MessageStarted(Event, frozen=True, kw_only=True):
    """A message opens. Not output by itself: some agents open empty ones."""

    message_id: str | None = None
    role: str | None = None


class TextDelta(Event, frozen=True, kw_only=True):
    """Text for the user. Empty text is no token."""

    text: str
    message_id: str | None = None


class MessageFinished(Event, frozen=True, kw_only=True):
    """The message is complete."""

    message_id: str | None = None


class ReasoningStarted(Event, frozen=True, kw_only=True):
    """The model begins to think in the open."""

    message_id: str | None = None


class ReasoningDelta(Event, frozen=True, kw_only=True):
    """Text of the model's reasoning, or of its summary."""

    text: str
    message_id: str | None = None


class ReasoningFinished(Event, frozen=True, kw_only=True):
    """The reasoning is complete."""

    message_id: str | None = None


class ToolCallStarted(Event, frozen=True, kw_only=True):
    """The model names a tool. Its arguments follow as deltas, or whole in `ToolCallReady`."""

    tool_call_id: str
    name: str | None = None


class ToolCallArgumentsDelta(Event, frozen=True, kw_only=True):
    """More text of the arguments (JSON, usually cut anywhere)."""

    tool_call_id: str
    delta: str


class ToolCallReady(Event, frozen=True, kw_only=True):
    """The arguments are complete; the tool can run. `arguments`, if given, is the whole text.

    `requested`: the request asked for the call. It began with the run, and no model made it.
    """

    tool_call_id: str
    arguments: str | None = None
    requested: bool = False


class ToolCallResult(Event, frozen=True, kw_only=True):
    """The tool's result passed through the stream. `result` is text, or JSON text."""

    tool_call_id: str
    result: str | None = None
    is_error: bool = False


# --- the rest ------------------------------------------------------------------------------


class Source(Event, frozen=True, kw_only=True):
    """A citation or document the answer rests on."""

    url: str | None = None
    title: str | None = None


class State(Event, frozen=True, kw_only=True):
    """The agent's shared state: a snapshot, or a delta to it (RFC 6902)."""

    value: Any = None
    is_delta: bool = False


class Custom(Event, frozen=True, kw_only=True):
    """Anything the decoder does not know. It counts and times; nothing is lost silently."""

    name: str
    value: Any = None


class Heartbeat(Event, frozen=True, kw_only=True):
    """A ping of the dialect. Counts for no time but that of the last sign of life."""


TERMINAL: tuple[type[Event], ...] = (RunFinished, RunFailed, RunInterrupted, RunCancelled)
