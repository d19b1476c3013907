"""Every attribute and metric name that leaves the process, in one place.

Dashboards and queries read these names, so they change only on purpose: a test compares the OTel
ones with the installed semantic-conventions package, and another the metric names with docs and
dashboards. Source: OpenTelemetry GenAI semantic conventions (open-telemetry/
semantic-conventions-genai), status Development.
"""

from __future__ import annotations

# --- span attributes: OpenTelemetry GenAI ----------------------------------------------------
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
AGENT_NAME = "gen_ai.agent.name"
CONVERSATION_ID = "gen_ai.conversation.id"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_INPUT_TOKENS = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT = "gen_ai.tool.call.result"
ERROR_TYPE = "error.type"
ERROR_MESSAGE = "error.message"
USER_ID = "user.id"
SESSION_ID = "session.id"
HTTP_ROUTE = "http.route"
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"

REQUEST_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "n": "gen_ai.request.choice.count",
}
"""Sampling parameters that are read from a request body, by their name in `RequestFacts`."""

# --- span attributes: ours (times in seconds) --------------------------------------------------
STATUS = "streamtrace.status"
DIALECT = "streamtrace.dialect"
TERMINAL_SEEN = "streamtrace.terminal_seen"
RUN_ID = "streamtrace.run_id"
TRANSPORT = "streamtrace.transport"
TIME_TO_FIRST_BYTE = "streamtrace.time_to_first_byte"
TIME_TO_FIRST_EVENT = "streamtrace.time_to_first_event"
TIME_TO_FIRST_TOKEN = "streamtrace.time_to_first_token"
TIME_TO_FIRST_VISIBLE_TOKEN = "streamtrace.time_to_first_visible_token"
TIME_PER_OUTPUT_TOKEN = "streamtrace.time_per_output_token"
LONGEST_GAP = "streamtrace.longest_gap"
SEND_STALL = "streamtrace.send_stall"
LONGEST_SEND_STALL = "streamtrace.longest_send_stall"
CLIENT_LAG = "streamtrace.client_lag"
CLIENT_LAG_BYTES = "streamtrace.client_lag_bytes"
FRAMES = "streamtrace.frames"
EVENTS = "streamtrace.events"
BYTES = "streamtrace.bytes"
LOST_CHUNKS = "streamtrace.lost.chunks"
LOST_BYTES = "streamtrace.lost.bytes"
DELIVERY_POLICY = "streamtrace.delivery.policy"
DROPPED_EVENTS = "streamtrace.delivery.dropped_events"
DROPPED_CHARS = "streamtrace.delivery.dropped_chars"
JOINED_EVENTS = "streamtrace.delivery.joined_events"
CONNECTION = "streamtrace.connection"
REPLAYED_EVENTS = "streamtrace.connection.replayed_events"
GAP_EVENTS = "streamtrace.connection.gap_events"
FIRST_TRACE_ID = "streamtrace.connection.first_trace_id"
DETACHED = "streamtrace.connection.detached"
ISSUES = "streamtrace.issues"
COST_USD = "streamtrace.cost_usd"
TAGS = "streamtrace.tags"
METADATA = "streamtrace.metadata."
RELEASE = "streamtrace.release"
ENVIRONMENT = "streamtrace.environment"
STEPS = "streamtrace.steps"
SPANS_LEFT_OUT = "streamtrace.spans_left_out"
TOOL_CALL_NAMES = "streamtrace.tool_calls.names"
TOOL_CALL_IDS = "streamtrace.tool_calls.ids"
TOOL_CALL_ARGUMENTS_CHARS = "streamtrace.tool_calls.arguments_chars"
CONTENT_TRUNCATED = "streamtrace.content.truncated"

CONTENT_CHARS = {
    "input": "streamtrace.content.input.chars",
    "text": "streamtrace.content.text.chars",
    "reasoning": "streamtrace.content.reasoning.chars",
    "arguments": "streamtrace.content.arguments.chars",
    "result": "streamtrace.content.result.chars",
    "error": "streamtrace.content.error.chars",
}
"""The true length of a text that was cut, by what the redactor calls the text."""

# --- span events -------------------------------------------------------------------------------
EVENT_FIRST_TOKEN = "streamtrace.first_token"
EVENT_FIRST_VISIBLE_TOKEN = "streamtrace.first_visible_token"
EVENT_LONGEST_GAP = "streamtrace.longest_gap"
EVENT_LOST = "streamtrace.lost"
EVENT_INPUT_REQUIRED = "streamtrace.input_required"
EVENT_ERROR = "streamtrace.error"

# --- buckets (seconds) -------------------------------------------------------------------------
GAP_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Bucket edges of the gap between events that carry output. `RunSummary.gap_counts` has one count
per edge (gaps up to it and over the one before), and a last one for longer gaps."""

EXPORT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bucket edges of how long a sink's export of a batch takes. `ExportStats.duration_counts` has one
count per edge, and a last one for longer exports."""
