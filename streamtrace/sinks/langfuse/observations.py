"""What a run is in Langfuse: an agent observation with its generations and tools below it.

Rules that hold here:

* A value that is no string, boolean or list of strings goes as JSON text: Langfuse reads no other.
* What is not known is not sent, and nothing is sent from which Langfuse would guess it.
* User, session, name, tags, environment and release stand on every span: Langfuse spreads nothing.
* What Langfuse has no field for is metadata under its OpenTelemetry name, so it can be filtered by.

Sources: langfuse 5.0.4 (`langfuse.LangfuseOtelSpanAttributes`), and Langfuse 4.16 and 3 as measured
over OTLP. docs/langfuse.md says it for users.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from streamtrace.core import names
from streamtrace.core.jsonio import clean_text, dump_each, dump_json
from streamtrace.core.spans import MAX_METADATA, SpanRecord, project
from streamtrace.core.summary import (
    Content,
    Generation,
    RunSummary,
    Status,
    TokenCounts,
    ToolCall,
    content_text,
    iso_utc,
)

MAX_LABEL_CHARS = 200
"""Langfuse takes no longer user, session, name, release, tag, or value of trace metadata."""
ENVIRONMENT = re.compile("(?!langfuse)[a-z0-9_-]{1,40}")
"""What an environment may be called."""

TYPE = "langfuse.observation.type"
INPUT = "langfuse.observation.input"
OUTPUT = "langfuse.observation.output"
LEVEL = "langfuse.observation.level"
STATUS_MESSAGE = "langfuse.observation.status_message"
MODEL = "langfuse.observation.model.name"
MODEL_PARAMETERS = "langfuse.observation.model.parameters"
USAGE_DETAILS = "langfuse.observation.usage_details"
COST_DETAILS = "langfuse.observation.cost_details"
COMPLETION_START_TIME = "langfuse.observation.completion_start_time"
METADATA = "langfuse.observation.metadata."
USER_ID = "user.id"
SESSION_ID = "session.id"
TRACE_NAME = "langfuse.trace.name"
TRACE_TAGS = "langfuse.trace.tags"
TRACE_METADATA = "langfuse.trace.metadata."
TRACE_ENVIRONMENT = "langfuse.environment"
RELEASE = "langfuse.release"
AS_ROOT = "langfuse.internal.as_root"

LEFT_OUT = METADATA + "streamtrace.left_out"
USAGE_SCOPE = METADATA + "streamtrace.usage_scope"
UNCOUNTED_OUTPUT = METADATA + "streamtrace.output"

_TYPES = {"run": "agent", "generation": "generation", "tool_call": "tool"}
_LEVELS = {Status.ERROR: "ERROR", Status.TRUNCATED: "WARNING", Status.TIMEOUT: "WARNING"}
_HAVE_FIELDS = {
    names.OPERATION_NAME, names.AGENT_NAME, names.USER_ID, names.SESSION_ID, names.TAGS,
    names.RELEASE, names.ENVIRONMENT, names.INPUT_MESSAGES, names.OUTPUT_MESSAGES,
    names.RESPONSE_MODEL, names.REQUEST_STREAM, names.TOOL_NAME, names.TOOL_CALL_ARGUMENTS,
    names.TOOL_CALL_RESULT, *names.REQUEST_PARAMETERS.values(),
}  # fmt: skip
_HAVE_FIELDS_IN_GENERATIONS = _HAVE_FIELDS | {
    names.COST_USD, names.USAGE_INPUT_TOKENS, names.USAGE_OUTPUT_TOKENS,
    names.USAGE_CACHE_READ_INPUT_TOKENS, names.USAGE_CACHE_WRITE_INPUT_TOKENS,
}  # fmt: skip


class _MetadataNames(dict[str, str | None]):
    """What an attribute is called as metadata, by its name in `core.names`; `None` for the fields
    of Langfuse, and for metadata of the user, which is a label."""

    def __init__(self, fields: set[str]) -> None:
        super().__init__(dict.fromkeys(fields))

    def __missing__(self, name: str) -> str | None:
        if name.startswith(names.METADATA):
            return None  # of any name, so not remembered
        self[name] = METADATA + name
        return self[name]


_METADATA = _MetadataNames(_HAVE_FIELDS)
_METADATA_OF_GENERATIONS = _MetadataNames(_HAVE_FIELDS_IN_GENERATIONS)


class Observation(msgspec.Struct, kw_only=True, gc=False):
    """One span, as Langfuse reads it."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | bool | list[str]]


def observations(
    summary: RunSummary, environment: str | None = None, release: str | None = None
) -> list[Observation]:
    """The run's observations, the root first. Its labels win over `environment` and `release`."""
    records = project(summary)
    shared, only_root = _labels(summary, records[0].name, environment, release)
    last = max((i for i, one in enumerate(records) if one.kind == "generation"), default=None)
    found = []
    for i, record in enumerate(records):
        source, name = record.source, record.name
        own: dict[str, Any]
        if isinstance(source, Generation):
            own = _generation(summary, record, source, is_last=i == last)
        elif isinstance(source, ToolCall):
            name = source.name or name
            own = _tool_call(record, source)
        else:
            name = summary.agent or name
            own = {**only_root, **_run(summary, record)}
        attributes = {**shared, TYPE: _TYPES[record.kind], **_metadata(record)}
        for key, value in own.items():
            if value is None:
                attributes.pop(key, None)
            else:
                attributes[key] = clean_text(value) if isinstance(value, str) else value
        found.append(
            Observation(
                name=clean_text(name),
                start_ns=record.start_ns,
                end_ns=record.end_ns,
                attributes=attributes,
            )
        )
    return found


def usage_details(usage: TokenCounts | None, *, split_reasoning: bool) -> dict[str, int] | None:
    """Token counts in buckets of which none holds another: Langfuse sums them up as they are."""
    if usage is None:
        return None
    parts = {
        "input_cached_tokens": usage.cached_input_tokens,
        "input_cache_creation": usage.cache_write_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens if split_reasoning else None,
    }
    details = {name: count for name, count in parts.items() if count is not None}
    for name, total in (("input", usage.input_tokens), ("output", usage.output_tokens)):
        if total is not None:
            inside = sum(count or 0 for part, count in parts.items() if part.startswith(name))
            details[name] = max(0, total - inside)
    return details or None


def _labels(
    summary: RunSummary, name: str, environment: str | None, release: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands on every span, and what on the root only: what was too long for a label.

    A cut id would be another's, so a long one is left out and named; long metadata moves.
    """
    labels = summary.labels
    said = {
        USER_ID: labels.user,
        SESSION_ID: labels.session or summary.thread_id,
        TRACE_NAME: summary.agent or name,
        RELEASE: labels.release or release,
    }
    left_out = [key for key, text in said.items() if text and len(text) > MAX_LABEL_CHARS]
    shared: dict[str, Any] = {
        key: clean_text(text) for key, text in said.items() if text and key not in left_out
    }
    only_root: dict[str, Any] = {}
    for key, value in list(labels.metadata.items())[:MAX_METADATA]:
        text = dump_json(value)
        if value is None:
            left_out.append(TRACE_METADATA + key)
        elif len(text) > MAX_LABEL_CHARS:
            only_root[clean_text(METADATA + key)] = text
        else:
            shared[clean_text(TRACE_METADATA + key)] = text
    if len(labels.metadata) > MAX_METADATA:
        left_out.append(TRACE_METADATA)
    if tags := [clean_text(tag) for tag in labels.tags if len(tag) <= MAX_LABEL_CHARS]:
        shared[TRACE_TAGS] = tags
    if len(tags) < len(labels.tags):
        left_out.append(TRACE_TAGS)
    if labels.environment and ENVIRONMENT.fullmatch(labels.environment):
        environment = labels.environment
    elif labels.environment:
        left_out.append(TRACE_ENVIRONMENT)
    if environment is not None:
        shared[TRACE_ENVIRONMENT] = environment
    if left_out:
        only_root[LEFT_OUT] = dump_json(left_out)
    return shared, only_root


def _metadata(record: SpanRecord) -> dict[str, Any]:
    named = _METADATA_OF_GENERATIONS if record.kind == "generation" else _METADATA
    told = {
        called: value
        for name, value in record.attributes.items()
        if (called := named[name]) is not None
    }
    return dict(zip(told, dump_each(list(told.values())), strict=True))


def _run(summary: RunSummary, record: SpanRecord) -> dict[str, Any]:
    has_parent = summary.trace is not None and summary.trace.parent_span_id is not None
    return {
        INPUT: content_text(summary.request.input),
        OUTPUT: _as_text(_output(summary.output, None, record.tool_calls)),
        # By this Langfuse 3 knows a root below a foreign span. Langfuse 4 reads is_app_root, which
        # the SDK's processor sets.
        AS_ROOT: True if has_parent else None,
        **_level(summary, record),
    }


def _generation(
    summary: RunSummary, record: SpanRecord, one: Generation, *, is_last: bool
) -> dict[str, Any]:
    model = one.model or summary.request.model
    usage, cost_usd, scope = one.usage, one.cost_usd, None
    if is_last and (of_run := _usage_of_run(summary)) is not None:
        # It cannot stand on the root: Langfuse discards the usage of agents.
        usage, scope = of_run, dump_json("run")
        if all(other.cost_usd is None for other in summary.generations):
            cost_usd = summary.cost_usd
        if model is None and len(summary.usage_by_model) == 1:
            model = summary.usage_by_model[0].model
    # Langfuse stores a negative cost, and then fails to show it.
    has_cost = cost_usd is not None and 0 <= cost_usd < float("inf")
    # Many models have no price for reasoning: Langfuse would bill what is split off at zero. So it
    # stays in the output, unless the cost is ours.
    details = usage_details(usage, split_reasoning=has_cost)
    output = _output(one.text, one.reasoning, record.tool_calls)
    # Without usage, Langfuse would count the tokens of the output by itself, and bill them.
    is_counted = details is None and model is not None and output is not None
    parameters = {
        name: value
        for name, value in summary.request.parameters.items()
        if name in names.REQUEST_PARAMETERS
    }
    return {
        MODEL: model,
        MODEL_PARAMETERS: dump_json(parameters) if parameters else None,
        USAGE_DETAILS: None if details is None else dump_json(details),
        COST_DETAILS: dump_json({"total": cost_usd}) if has_cost else None,
        COMPLETION_START_TIME: _first_token_at(summary, record, one),
        OUTPUT: None if is_counted else _as_text(output),
        UNCOUNTED_OUTPUT: dump_json(output) if is_counted else None,
        **({METADATA + names.USAGE_REASONING_OUTPUT_TOKENS: None} if has_cost else {}),
        USAGE_SCOPE: scope,
        **_level(summary, record),
    }


def _output(
    text: Content, reasoning: Content | None, calls: list[ToolCall]
) -> str | dict[str, Any] | None:
    """A text as it is; beside reasoning or tool calls, in a message as Langfuse draws them."""
    answer = content_text(text)
    thought = None if reasoning is None else content_text(reasoning)
    arguments = [content_text(call.arguments) for call in calls]
    if thought is None and all(one is None for one in (answer, *arguments)):
        return None  # content is off
    if thought is None and not calls:
        return answer
    message: dict[str, Any] = {"role": "assistant", "content": answer}
    if thought is not None:
        message["thinking"] = [{"type": "thinking", "content": thought}]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name or ""}
                | ({} if told is None else {"arguments": told}),
            }
            for call, told in zip(calls, arguments, strict=True)
        ]
    return message


def _as_text(value: str | dict[str, Any] | None) -> str | None:
    return dump_json(value) if isinstance(value, dict) else value


def _usage_of_run(summary: RunSummary) -> TokenCounts | None:
    """Usage that was told of the run only, if one model's prices, or our cost, can be right."""
    if any(usage_details(one.usage, split_reasoning=True) for one in summary.generations):
        return None
    if len(summary.usage_by_model) > 1 and summary.cost_usd is None:
        return None
    return summary.usage


def _first_token_at(summary: RunSummary, record: SpanRecord, one: Generation) -> str | None:
    """As text: a number there makes Langfuse 3 drop the observation."""
    if one.first_token_ns is None:
        return None
    at_ns = summary.started_at_ns + one.first_token_ns
    return iso_utc(min(max(at_ns, record.start_ns), record.end_ns))


def _tool_call(record: SpanRecord, one: ToolCall) -> dict[str, Any]:
    return {
        INPUT: content_text(one.arguments),
        OUTPUT: content_text(one.result),
        LEVEL: None if record.error is None else "ERROR",
        STATUS_MESSAGE: record.error,
    }


def _level(summary: RunSummary, record: SpanRecord) -> dict[str, Any]:
    level = _LEVELS.get(summary.status)
    if level is None or record.error is None:
        return {}
    told = None if summary.error is None else content_text(summary.error.message)
    return {
        LEVEL: level,
        STATUS_MESSAGE: record.error if told is None else f"{record.error}: {told}",
    }
