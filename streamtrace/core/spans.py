"""RunSummary to span records: the one place that knows how a run looks as a trace.

    invoke_agent {agent}          the run
      chat {model}                one per generation
      execute_tool {tool}         one per tool call, only where its result passed through the stream

Rules: the number of spans and span events does not grow with the number of tokens; a child never
begins before or ends after its parent; the records name no vendor, each sink has its own table of
attributes beyond the semantic conventions used here. What the stream did not say has no attribute.
Every record can be encoded, whatever strangers put into the stream: text is valid Unicode, words
are short, and a number that needs more than 64 bits is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import msgspec

from streamtrace.core import names
from streamtrace.core.jsonio import clean_text, dump_json
from streamtrace.core.messages import input_messages, output_messages
from streamtrace.core.summary import (
    Content,
    Generation,
    RunConnection,
    RunSummary,
    Status,
    TokenCounts,
    ToolCall,
    content_text,
    seconds,
)

AttributeValue = str | bool | int | float | list[str] | list[int]

MAX_CHILD_SPANS = 128
"""Children of one run. More are left out; the run's `streamtrace.spans_left_out` counts them."""

MAX_WORD_CHARS = 1024
"""Names and ids longer than this are cut. Captured content has its own cap, set before."""

MAX_METADATA = 32
"""Entries of `Labels.metadata` that become attributes: SDKs evict the oldest of 128 attributes."""

MAX_ATTRIBUTES = 128
"""No record has more, nor more events; SDKs keep as many."""

_CONTENT = frozenset(
    {
        names.INPUT_MESSAGES,
        names.OUTPUT_MESSAGES,
        names.TOOL_CALL_ARGUMENTS,
        names.TOOL_CALL_RESULT,
        names.ERROR_MESSAGE,
    }
)
_FAILED = frozenset({Status.ERROR, Status.TRUNCATED, Status.TIMEOUT})
_INT64_END = 2**63


class SpanEvent(msgspec.Struct, kw_only=True, gc=False):
    """A moment inside a span; `at_ns` is Unix time."""

    name: str
    at_ns: int
    attributes: dict[str, AttributeValue] = {}


class SpanLink(msgspec.Struct, frozen=True, gc=False):
    """Another span that this one has to do with (W3C Trace Context ids as lower-case hex)."""

    trace_id: str
    span_id: str


class SpanRecord(msgspec.Struct, kw_only=True, gc=False):
    """One span, ready to be written. Times are Unix time in ns.

    `source` is what the span stands for, so that a sink can add its own attributes. `tool_calls`
    are part of its output: what a generation asked for, and of a run what was left unanswered, the
    first MAX_CHILD_SPANS of them.
    `error` is the type of a failed span's error (never content), `None` for all others.
    """

    kind: Literal["run", "generation", "tool_call"]
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, AttributeValue]
    events: list[SpanEvent] = []
    links: list[SpanLink] = []
    error: str | None = None
    source: RunSummary | Generation | ToolCall
    tool_calls: list[ToolCall] = []


def project(summary: RunSummary) -> list[SpanRecord]:
    """The spans of a run: the root first, then its children in order of their start."""
    connection = summary.connection
    if connection is not None and not connection.tells_run:
        return [_run(summary)]  # what the run called is below the connection that began it
    children: list[SpanRecord] = [
        _generation(summary, one, calls[:MAX_CHILD_SPANS])
        for one, calls in zip(summary.generations, _asked_for(summary), strict=True)
    ]
    children += [
        _tool_call(summary, one) for one in summary.tool_calls if one.finished_ns is not None
    ]
    children.sort(key=lambda record: record.start_ns)
    left_out = len(children) - MAX_CHILD_SPANS
    root = _run(summary)
    if left_out > 0:
        root.attributes[names.SPANS_LEFT_OUT] = left_out
    return [root, *children[:MAX_CHILD_SPANS]]


def _asked_for(summary: RunSummary) -> list[list[ToolCall]]:
    """The tool calls of each generation: it is the last that had begun when the call did.

    One stamp may hold a call, its result, and the next generation, which then did not ask for it.
    """
    asked: list[list[ToolCall]] = [[] for _ in summary.generations]
    starts = [one.started_ns for one in summary.generations]
    for call in summary.tool_calls:
        at_ns = call.started_ns
        if call.finished_ns is not None:
            at_ns = min(at_ns, call.finished_ns - 1)
        if begun := bisect_right(starts, at_ns):
            asked[begun - 1].append(call)
    return asked


def _run(summary: RunSummary) -> SpanRecord:
    start_ns = summary.started_at_ns
    end_ns = start_ns + summary.duration_ns
    labels, request, output = summary.labels, summary.request, summary.output
    unanswered = [call for call in summary.tool_calls if call.finished_ns is None][:MAX_CHILD_SPANS]
    message = None if summary.error is None else summary.error.message
    error = _run_error(summary)
    attributes = _present(
        {
            names.OPERATION_NAME: "invoke_agent",
            names.AGENT_NAME: labels.agent,
            names.CONVERSATION_ID: summary.thread_id,
            names.USER_ID: labels.user,
            names.SESSION_ID: labels.session,
            names.HTTP_ROUTE: summary.route,
            names.HTTP_REQUEST_METHOD: summary.method,
            names.HTTP_RESPONSE_STATUS_CODE: summary.http_status,
            names.STATUS: str(summary.status),
            names.DIALECT: summary.dialect,
            names.TERMINAL_SEEN: summary.terminal_seen,
            names.RUN_ID: summary.run_id,
            names.TRANSPORT: summary.transport,
            names.TIME_TO_FIRST_BYTE: seconds(summary.time_to_first_byte_ns),
            names.TIME_TO_FIRST_EVENT: seconds(summary.time_to_first_event_ns),
            names.TIME_TO_FIRST_TOKEN: seconds(summary.time_to_first_token_ns),
            names.TIME_TO_FIRST_VISIBLE_TOKEN: seconds(summary.time_to_first_visible_token_ns),
            names.TIME_PER_OUTPUT_TOKEN: seconds(summary.time_per_output_token_ns),
            names.LONGEST_GAP: seconds(summary.longest_gap_ns),
            names.SEND_STALL: seconds(summary.send_stall_ns),
            names.LONGEST_SEND_STALL: seconds(summary.longest_send_stall_ns),
            names.CLIENT_LAG: seconds(summary.client_lag_ns),
            names.CLIENT_LAG_BYTES: summary.client_lag_bytes,
            names.FRAMES: summary.frames,
            names.EVENTS: summary.events,
            names.BYTES: summary.body_bytes,
            names.LOST_CHUNKS: summary.lost_chunks or None,
            names.LOST_BYTES: summary.lost_bytes or None,
            names.DELIVERY_POLICY: summary.delivery_policy,
            names.DROPPED_EVENTS: summary.dropped_events,
            names.DROPPED_CHARS: summary.dropped_chars,
            names.JOINED_EVENTS: summary.joined_events,
            **_connection(summary.connection),
            names.COST_USD: summary.cost_usd,
            names.RELEASE: labels.release,
            names.ENVIRONMENT: labels.environment,
            names.TAGS: labels.tags or None,
            names.STEPS: [step.name for step in summary.steps[:MAX_CHILD_SPANS]] or None,
            names.ISSUES: [f"{kind}:{n}" for kind, n in sorted(summary.issues.items())] or None,
            names.INPUT_MESSAGES: input_messages(request.input),
            names.OUTPUT_MESSAGES: output_messages(output, calls=unanswered),
            names.ERROR_TYPE: error,
            **_usage(summary.usage),
            **_tools(summary.tool_calls),
            **_cut(("input", request.input), ("text", output), ("error", message)),
        }
    )
    for key, value in islice(labels.metadata.items(), MAX_METADATA):
        is_plain = value is None or isinstance(value, str | bool | int | float)
        for told in _present({key: value if is_plain else dump_json(value)}).values():
            attributes[_word(names.METADATA + key)] = told
    return SpanRecord(
        kind="run",
        name=_name("invoke_agent", labels.agent),
        start_ns=start_ns,
        end_ns=end_ns,
        attributes=attributes,
        events=_moments(summary),
        links=_links(summary),
        error=error,
        source=summary,
        tool_calls=unanswered,
    )


def _connection(one: RunConnection | None) -> dict[str, Any]:
    if one is None:
        return {}
    return {
        names.CONNECTION: one.kind,
        names.REPLAYED_EVENTS: one.replayed_events,
        names.GAP_EVENTS: one.gap_events,
        names.FIRST_TRACE_ID: one.traceparent and one.traceparent.split("-")[1],
        names.DETACHED: one.is_detached or None,
    }


def _links(summary: RunSummary) -> list[SpanLink]:
    """Of a run with several connections: to the one that began it, which is no other's parent."""
    connection = summary.connection
    if connection is None or connection.traceparent is None or connection.kind == "start":
        return []
    _, trace_id, span_id, _ = connection.traceparent.split("-", 3)
    return [SpanLink(trace_id, span_id)]


def _generation(summary: RunSummary, one: Generation, calls: list[ToolCall]) -> SpanRecord:
    request_model = summary.request.model or one.model
    first_token_ns = one.first_token_ns
    unfinished = one is summary.generations[-1] and not one.finish_reasons
    error = _run_error(summary) if unfinished else None
    start_ns, end_ns = _within(summary, one.started_ns, one.finished_ns)
    attributes = _present(
        {
            names.OPERATION_NAME: "chat",
            names.PROVIDER_NAME: one.provider,
            names.REQUEST_MODEL: request_model,
            names.REQUEST_STREAM: True,
            names.RESPONSE_MODEL: one.model,
            names.RESPONSE_ID: one.response_id,
            names.RESPONSE_FINISH_REASONS: one.finish_reasons or None,
            names.RESPONSE_TIME_TO_FIRST_CHUNK: None
            if first_token_ns is None
            else seconds(max(0, first_token_ns - one.started_ns)),
            names.COST_USD: one.cost_usd,
            names.OUTPUT_MESSAGES: output_messages(one.text, one.reasoning, calls),
            names.ERROR_TYPE: error,
            **_tools(calls),
            **_cut(("text", one.text), ("reasoning", one.reasoning)),
            **_usage(one.usage),
            **{
                names.REQUEST_PARAMETERS[name]: value
                for name, value in summary.request.parameters.items()
                if name in names.REQUEST_PARAMETERS
            },
        }
    )
    return SpanRecord(
        kind="generation",
        name=_name("chat", request_model),
        start_ns=start_ns,
        end_ns=end_ns,
        attributes=attributes,
        error=error,
        source=one,
        tool_calls=calls,
    )


def _tool_call(summary: RunSummary, one: ToolCall) -> SpanRecord:
    ready_ns = one.started_ns if one.ready_ns is None else one.ready_ns
    start_ns, end_ns = _within(summary, ready_ns, one.finished_ns)
    error = "tool_error" if one.status == "error" else None
    return SpanRecord(
        kind="tool_call",
        name=_name("execute_tool", one.name),
        start_ns=start_ns,
        end_ns=end_ns,
        attributes=_present(
            {
                names.OPERATION_NAME: "execute_tool",
                names.TOOL_NAME: one.name,
                names.TOOL_CALL_ID: one.id,
                names.TOOL_CALL_ARGUMENTS: content_text(one.arguments),
                names.TOOL_CALL_RESULT: content_text(one.result),
                names.ERROR_TYPE: error,
                **_cut(("arguments", one.arguments), ("result", one.result)),
            }
        ),
        error=error,
        source=one,
    )


def _moments(summary: RunSummary) -> list[SpanEvent]:
    end_ns, error = summary.duration_ns, summary.error
    moments: list[tuple[str, int | None, Mapping[str, Any]]] = [
        (names.EVENT_FIRST_TOKEN, summary.time_to_first_token_ns, {}),
        (names.EVENT_FIRST_VISIBLE_TOKEN, summary.time_to_first_visible_token_ns, {}),
        (
            names.EVENT_LONGEST_GAP,
            summary.longest_gap_at_ns,
            {names.LONGEST_GAP: seconds(summary.longest_gap_ns)},
        ),
    ]
    if summary.lost_chunks:
        lost = {names.LOST_CHUNKS: summary.lost_chunks, names.LOST_BYTES: summary.lost_bytes}
        moments.append((names.EVENT_LOST, end_ns, lost))
    if summary.status is Status.INPUT_REQUIRED:
        moments.append((names.EVENT_INPUT_REQUIRED, end_ns, {}))
    if error is not None:
        told = {names.ERROR_TYPE: error.type, names.ERROR_MESSAGE: content_text(error.message)}
        moments.append((names.EVENT_ERROR, end_ns, told))
    return [
        SpanEvent(
            name=name,
            at_ns=summary.started_at_ns + _inside(summary, at_ns),
            attributes=_present(attributes),
        )
        for name, at_ns, attributes in moments
        if at_ns is not None
    ]


def _run_error(summary: RunSummary) -> str | None:
    """A client that left, a stop and a question are no errors of the service."""
    if summary.status not in _FAILED:
        return None
    return _word(str(summary.status) if summary.error is None else summary.error.type)


def _usage(usage: TokenCounts | None) -> dict[str, int | None]:
    if usage is None:
        return {}
    return {
        names.USAGE_INPUT_TOKENS: usage.input_tokens,
        names.USAGE_OUTPUT_TOKENS: usage.output_tokens,
        names.USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_input_tokens,
        names.USAGE_CACHE_WRITE_INPUT_TOKENS: usage.cache_write_tokens,
        names.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
    }


def _tools(calls: Sequence[ToolCall]) -> dict[str, Any]:
    """Lists in the same order. Most calls are answered by the client, and have no span."""
    if not calls:
        return {}
    told: dict[str, Any] = {
        names.TOOL_CALL_NAMES: [call.name or "" for call in calls],
        names.TOOL_CALL_IDS: [call.id for call in calls],
    }
    if any(call.arguments.truncated for call in calls):
        told[names.CONTENT_TRUNCATED] = True
        told[names.TOOL_CALL_ARGUMENTS_CHARS] = [call.arguments.chars for call in calls]
    return told


def _cut(*texts: tuple[str, Content | None]) -> dict[str, Any]:
    """How long each text was that was cut."""
    chars = {
        names.CONTENT_CHARS[what]: text.chars
        for what, text in texts
        if text is not None and text.truncated
    }
    return {names.CONTENT_TRUNCATED: True, **chars} if chars else {}


def _within(summary: RunSummary, start_ns: int, end_ns: int | None) -> tuple[int, int]:
    start_ns = _inside(summary, start_ns)
    end_ns = start_ns if end_ns is None else max(start_ns, _inside(summary, end_ns))
    return summary.started_at_ns + start_ns, summary.started_at_ns + end_ns


def _inside(summary: RunSummary, offset_ns: int) -> int:
    return min(max(0, offset_ns), summary.duration_ns)


def _name(operation: str, what: str | None) -> str:
    return f"{operation} {_word(what)}" if what else operation


def _word(text: str) -> str:
    return clean_text(text[:MAX_WORD_CHARS])


def _present(attributes: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """What is known, made fit to be encoded: see the rules above."""
    present: dict[str, AttributeValue] = {}
    for name, value in attributes.items():
        if value is None:
            continue
        if isinstance(value, str):
            if len(value) <= MAX_WORD_CHARS and value.isascii():
                present[name] = value
            else:
                present[name] = clean_text(value) if name in _CONTENT else _word(value)
        elif isinstance(value, list):
            first = value[:MAX_CHILD_SPANS]
            present[name] = [_word(one) if isinstance(one, str) else one for one in first]
        elif isinstance(value, float) or -_INT64_END <= value < _INT64_END:
            present[name] = value
    return present
