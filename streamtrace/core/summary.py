"""RunSummary: what is known of one run when its stream has ended.

Inside, every time is in ns: `started_at_ns` is wall time, all others are offsets from it on a
monotonic clock, so no duration can be negative. Outside (`to_dict`, `to_json`) times are seconds;
that JSON is a public contract, described in docs/run-summary.md.

`None` is "not known", never zero. Text is `None` unless content was captured.

None of these can be in a cycle, so the garbage collector is told to leave them alone: many of them
live as long as a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec

from streamtrace.core.jsonio import dump_json


class Status(StrEnum):
    """How a run ended. Exactly one per stream; see docs/outcomes.md for the deciding order."""

    COMPLETED = "completed"
    ERROR = "error"
    INPUT_REQUIRED = "input_required"
    CANCELLED = "cancelled"
    DISCONNECTED = "disconnected"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    DRAINED = "drained"


class TokenCounts(msgspec.Struct, kw_only=True, gc=False):
    """Totals include their parts (cached in input, reasoning in output). Absent is `None`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


def add_up(counts: Iterable[TokenCounts]) -> TokenCounts | None:
    """Sums of what is known; a field that nobody reported stays absent. `None` if all are."""
    sums: dict[str, int] = {}
    for one in counts:
        for name in TokenCounts.__struct_fields__:
            value = getattr(one, name)
            if value is not None:
                sums[name] = sums.get(name, 0) + value
    return TokenCounts(**sums) if sums else None


class ModelUsage(msgspec.Struct, kw_only=True, gc=False):
    """Tokens of one model in this run, and what they cost, where that is known."""

    model: str | None
    provider: str | None
    usage: TokenCounts
    cost_usd: float | None = None


class Content(msgspec.Struct, kw_only=True, gc=False):
    """One captured text. `text` is cut at the stream's content cap; `chars` is the true length."""

    chars: int = 0
    text: str | None = None
    sha256: str | None = None
    truncated: bool = False


class Generation(msgspec.Struct, kw_only=True, gc=False):
    """One call of a language model."""

    started_ns: int
    finished_ns: int
    model: str | None = None
    provider: str | None = None
    response_id: str | None = None
    finish_reasons: list[str] = []
    usage: TokenCounts | None = None
    cost_usd: float | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    text: Content = msgspec.field(default_factory=Content)
    reasoning: Content = msgspec.field(default_factory=Content)


class ToolCall(msgspec.Struct, kw_only=True, gc=False):
    """One tool call. `status`: started (no arguments yet), ready, completed, error."""

    id: str
    name: str | None = None
    status: str = "started"
    started_ns: int
    ready_ns: int | None = None
    finished_ns: int | None = None
    arguments: Content = msgspec.field(default_factory=Content)
    result: Content = msgspec.field(default_factory=Content)


class Step(msgspec.Struct, kw_only=True, gc=False):
    """A named unit of the agent's work."""

    name: str
    started_ns: int
    finished_ns: int | None = None


class ErrorInfo(msgspec.Struct, kw_only=True, gc=False):
    """`type` is a bounded word (an error code, a class name); `message` is content."""

    type: str
    message: Content = msgspec.field(default_factory=Content)


class TraceIds(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The trace this run belongs to (W3C Trace Context ids as lower-case hex).

    `span_id` is the id that the run's root span shall have, `parent_span_id` the server span or
    the remote caller; `sampled` is the caller's decision, `None` where nobody decided.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    sampled: bool | None = None


class RequestFacts(msgspec.Struct, kw_only=True, gc=False):
    """What the request said. `input` is content; `parameters` are sampling numbers only."""

    model: str | None = None
    thread_id: str | None = None
    user: str | None = None
    parameters: dict[str, float | int | str | bool] = {}
    input: Content = msgspec.field(default_factory=Content)


class Labels(msgspec.Struct, kw_only=True, gc=False):
    """What the app said with `streamtrace.annotate`, over the middleware's defaults."""

    user: str | None = None
    session: str | None = None
    agent: str | None = None
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    release: str | None = None
    environment: str | None = None


ConnectionKind = Literal["start", "resume", "follow", "detached"]


class RunConnection(msgspec.Struct, kw_only=True, gc=False):
    """One connection of a run that may have several.

    kind             `start` began it, `resume` went on behind a cursor, `follow` came later and
                     began at its beginning; `detached` is no connection, but what the run said when
                     the client had left that began it
    traceparent      of the connection that began the run (W3C Trace Context), if it was observed
    replayed_events  told again, or late: the log had them when this connection came
    gap_events       of which it was told that they are missing
    is_detached      of a `start`: its client left, and the run went on without
    """

    kind: ConnectionKind
    run_id: str
    thread_id: str
    traceparent: str | None = None
    replayed_events: int = 0
    gap_events: int = 0
    is_detached: bool = False

    @property
    def tells_run(self) -> bool:
        """Whether its record is that of the run: what a run used is told there, and nowhere
        else."""
        return self.kind in ("start", "detached")


class RunSummary(msgspec.Struct, kw_only=True, gc=False):
    """One run, folded. See the module docstring for units and for what `None` means."""

    # where and how it ended
    status: Status
    started_at_ns: int
    duration_ns: int
    http_status: int | None = None
    dialect: str = "unknown"
    terminal_seen: bool = False
    run_id: str | None = None
    thread_id: str | None = None
    route: str = "unmatched"
    method: str | None = None
    transport: str = "http"
    trace: TraceIds | None = None
    connection: RunConnection | None = None
    error: ErrorInfo | None = None

    # times, offsets from the start
    time_to_first_byte_ns: int | None = None
    time_to_first_event_ns: int | None = None
    time_to_first_token_ns: int | None = None
    time_to_first_visible_token_ns: int | None = None
    time_per_output_token_ns: int | None = None
    longest_gap_ns: int | None = None
    longest_gap_at_ns: int | None = None
    send_stall_ns: int = 0
    longest_send_stall_ns: int = 0
    client_lag_ns: int | None = None
    decode_ns: int = 0

    # sizes
    frames: int = 0
    events: int = 0
    body_bytes: int = 0
    client_lag_bytes: int | None = None
    lost_chunks: int = 0
    lost_bytes: int = 0
    delivery_policy: str | None = None
    dropped_events: int | None = None
    dropped_chars: int | None = None
    joined_events: int | None = None
    gap_counts: list[int] = []
    gap_sum_ns: int = 0

    # what happened inside
    generations: list[Generation] = []
    tool_calls: list[ToolCall] = []
    steps: list[Step] = []
    usage: TokenCounts | None = None
    usage_by_model: list[ModelUsage] = []
    cost_usd: float | None = None
    issues: dict[str, int] = {}

    # said by the request and by the app
    request: RequestFacts = msgspec.field(default_factory=RequestFacts)
    labels: Labels = msgspec.field(default_factory=Labels)

    @property
    def agent(self) -> str | None:
        """The agent's name, where somebody said it."""
        return self.labels.agent

    @property
    def output(self) -> Content:
        """The answer: the text of the last generation that has any."""
        for generation in reversed(self.generations):
            if generation.text.chars:
                return generation.text
        return Content()

    def to_dict(self) -> dict[str, Any]:
        """The public contract: JSON-ready, times in seconds, absent as `None`."""
        told = {
            "status": str(self.status),
            "http_status": self.http_status,
            "dialect": self.dialect,
            "terminal_seen": self.terminal_seen,
            "run_id": self.run_id,
            "thread_id": self.thread_id,
            "agent": self.agent,
            "route": self.route,
            "method": self.method,
            "started_at": iso_utc(self.started_at_ns),
            "duration_s": seconds(self.duration_ns),
            "time_to_first_byte_s": seconds(self.time_to_first_byte_ns),
            "time_to_first_event_s": seconds(self.time_to_first_event_ns),
            "time_to_first_token_s": seconds(self.time_to_first_token_ns),
            "time_to_first_visible_token_s": seconds(self.time_to_first_visible_token_ns),
            "time_per_output_token_s": seconds(self.time_per_output_token_ns),
            "longest_gap_s": seconds(self.longest_gap_ns),
            "send_stall_s": seconds(self.send_stall_ns),
            "longest_send_stall_s": seconds(self.longest_send_stall_ns),
            "client_lag_s": seconds(self.client_lag_ns),
            "frames": self.frames,
            "events": self.events,
            "bytes": self.body_bytes,
            "client_lag_bytes": self.client_lag_bytes,
            "lost": {"chunks": self.lost_chunks, "bytes": self.lost_bytes},
            "delivery": None if self.delivery_policy is None else _delivery(self),
            "generations": [_generation(one) for one in self.generations],
            "tool_calls": [_tool_call(one) for one in self.tool_calls],
            "steps": [
                {
                    "name": step.name,
                    "started_s": seconds(step.started_ns),
                    "finished_s": seconds(step.finished_ns),
                }
                for step in self.steps
            ],
            "usage": None if self.usage is None else msgspec.to_builtins(self.usage),
            "cost_usd": self.cost_usd,
            "error": None if self.error is None else _error(self.error),
            "issues": [{"kind": kind, "count": n} for kind, n in sorted(self.issues.items())],
            "trace_id": None if self.trace is None else self.trace.trace_id,
        }
        if self.connection is not None:
            told["connection"] = _connection(self.connection)
        return told

    def to_json(self) -> bytes:
        """`to_dict` as one line of JSON (UTF-8, no line end)."""
        return dump_json(self.to_dict()).encode()


def seconds(ns: int | None) -> float | None:
    """Nanoseconds to seconds; absent stays absent."""
    return None if ns is None else ns / 1e9


def iso_utc(unix_ns: int) -> str:
    """A wall time as RFC 3339 in UTC with microseconds, for example 2026-11-20T09:30:00.000001Z."""
    whole_s, rest_ns = divmod(unix_ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(whole_s, UTC).isoformat()
    return f"{stamp[:19]}.{rest_ns // 1000:06d}Z"


def content_text(content: Content) -> str | None:
    """What may be shown of a content: its text, else its hash, else nothing."""
    if content.text is not None:
        return content.text
    return None if content.sha256 is None else f"sha256:{content.sha256}"


def _delivery(run: RunSummary) -> dict[str, Any]:
    return {
        "policy": run.delivery_policy,
        "dropped_events": run.dropped_events,
        "dropped_chars": run.dropped_chars,
        "joined_events": run.joined_events,
    }


def _connection(one: RunConnection) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "first_trace_id": one.traceparent and one.traceparent.split("-")[1],
        "replayed_events": one.replayed_events,
        "gap_events": one.gap_events,
        "detached": one.is_detached,
    }


def _generation(one: Generation) -> dict[str, Any]:
    return {
        "model": one.model,
        "provider": one.provider,
        "response_id": one.response_id,
        "finish_reasons": one.finish_reasons,
        "usage": None if one.usage is None else msgspec.to_builtins(one.usage),
        "text": content_text(one.text),
        "reasoning": content_text(one.reasoning),
        "text_chars": one.text.chars,
        "reasoning_chars": one.reasoning.chars,
        "truncated": one.text.truncated or one.reasoning.truncated,
    }


def _tool_call(one: ToolCall) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "arguments": content_text(one.arguments),
        "result": content_text(one.result),
        "arguments_chars": one.arguments.chars,
        "result_chars": one.result.chars,
        "status": one.status,
        "ready_s": seconds(one.ready_ns),
        "finished_s": seconds(one.finished_ns),
        "truncated": one.arguments.truncated or one.result.truncated,
    }


def _error(one: ErrorInfo) -> dict[str, Any]:
    return {
        "type": one.type,
        "message": content_text(one.message),
        "chars": one.message.chars,
        "truncated": one.message.truncated,
    }
