"""Every metric that leaves the process: one table, from which docs/metrics.md is made.

Rules that hold here:

* Names follow Prometheus: base units in the name, counters end in `_total`.
* Each time is defined by its two ends, and says when it is not recorded. Absent is not zero.
* Labels are bounded, all of them. No id, and nothing of what was asked or answered, is a label.
* Dashboards and alerts read these names, so they change only on purpose.

`pytest tests/core/test_metrics.py --update-golden` writes the reference again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from streamtrace.core.names import EXPORT_BUCKETS_S, GAP_BUCKETS_S

MAX_ROUTES = 256
MAX_STREAM_KINDS = 512
MAX_LABEL_VALUES = 100
MAX_LABEL_CHARS = 80
OTHER = "other"
UNKNOWN = "unknown"

STALLED_NS = 1_000_000_000
MAX_TOKENS = 1_000_000_000


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. `clock` names what its time starts with and what it stops with.

    `field` is the field of `RunSummary` that it is recorded from, where it is one field; times are
    ns there and seconds here. `served` is the field of `core.served.Served` that it is. `exemplar`:
    its samples link to their traces.
    """

    name: str
    unit: str = "seconds"
    labels: tuple[str, ...]
    help: str
    clock: tuple[str, str] | None = None
    absent: str = ""
    buckets: tuple[float, ...] = ()
    field: str | None = None
    served: str | None = None
    exemplar: bool = False
    counted: bool = False
    """Filled from counts in these very buckets, which therefore cannot be changed."""

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """What Prometheus calls its type."""
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"


LABELS = {
    "route": f"The route's template, as the app wrote it; `unmatched` where the app has none. The"
    f" first {MAX_ROUTES}, then `{OTHER}`.",
    "dialect": f"The wire vocabulary that the stream spoke; `unknown` where none was recognised. At"
    f" most {MAX_STREAM_KINDS} pairs of route and dialect, then both are `{OTHER}`.",
    "status": "How the run ended, one of the eight outcomes; for tool calls one of `started` (no"
    " arguments yet), `ready` (no result in the stream), `completed`, `error`.",
    "model": f"The model that answered. `{UNKNOWN}` where the stream did not name it. The first"
    f" {MAX_LABEL_VALUES} (`max_label_values`), then `{OTHER}`.",
    "tool": "The tool's name, bounded like `model`.",
    "type": "`input` (with the cached ones), `cached_input`, `cache_write`, `output` (with the"
    " reasoning ones), `reasoning`.",
    "kind": "What the observer had to repair or leave out, bounded like `model`.",
    "result": "`ok` or `error`; an export that lost a part of its batch to an error is one.",
    "sink": "The sink's name, bounded like `model`.",
    "reason": "Why records were dropped: `queue_full`, `export_error`, `shutdown` and others,"
    " bounded like `model`.",
    "version": "The installed version of streamtrace.",
}
"""What each label says, and its bound."""

_STREAM = ("route", "dialect")
_FIRST_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0,
    60.0, 120.0,
)  # fmt: skip
_PER_TOKEN_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.0,
)  # fmt: skip
_SILENCE_BUCKETS_S = (
    0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_STALL_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_LONG_BUCKETS_S = (
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0,
    1800.0, 3600.0,
)  # fmt: skip

# --- streams -------------------------------------------------------------------------------------
STREAMS_STARTED = Metric(
    name="streamtrace_streams_started_total",
    unit="streams",
    labels=("route",),
    help="Responses that turned out to be streams.",
)
STREAMS_ACTIVE = Metric(
    name="streamtrace_streams_active",
    unit="streams",
    labels=("route",),
    help="Streams that have begun and not ended. Under several processes: the sum of the live.",
)
STREAMS = Metric(
    name="streamtrace_streams_total",
    unit="streams",
    labels=(*_STREAM, "status"),
    help="Streams that ended, by how they ended. All outcomes are there, at 0, from the first"
    " stream of a route and dialect on.",
)
STREAMS_STALLED = Metric(
    name="streamtrace_streams_stalled_total",
    unit="streams",
    labels=_STREAM,
    help="Streams in which a single `send` waited for the client for 1 s or longer.",
)

# --- times ---------------------------------------------------------------------------------------
TIME_TO_FIRST_BYTE = Metric(
    name="streamtrace_time_to_first_byte_seconds",
    labels=_STREAM,
    help="How long the client waited for the first bytes of the answer.",
    clock=("the request", "the first bytes of the body that the app sends"),
    absent="the stream ended without a byte",
    buckets=_FIRST_BUCKETS_S,
    field="time_to_first_byte_ns",
)
TIME_TO_FIRST_EVENT = Metric(
    name="streamtrace_time_to_first_event_seconds",
    labels=_STREAM,
    help="How long until the first event of the dialect, of whatever kind but a heartbeat.",
    clock=("the request", "the bytes that complete the event"),
    absent="no event was decoded",
    buckets=_FIRST_BUCKETS_S,
    field="time_to_first_event_ns",
)
TIME_TO_FIRST_TOKEN = Metric(
    name="streamtrace_time_to_first_token_seconds",
    labels=_STREAM,
    help="How long until the model said something: text, reasoning or tool arguments.",
    clock=("the request", "the first such unit that is not empty"),
    absent="nothing was generated; pings, roles and metadata do not count",
    buckets=_FIRST_BUCKETS_S,
    field="time_to_first_token_ns",
    exemplar=True,
)
TIME_TO_FIRST_VISIBLE_TOKEN = Metric(
    name="streamtrace_time_to_first_visible_token_seconds",
    labels=_STREAM,
    help="How long until there was something to read for a user.",
    clock=("the request", "the first text that is not empty"),
    absent="the answer held no text; reasoning and tool arguments do not count",
    buckets=_FIRST_BUCKETS_S,
    field="time_to_first_visible_token_ns",
)
TIME_PER_OUTPUT_TOKEN = Metric(
    name="streamtrace_time_per_output_token_seconds",
    labels=_STREAM,
    help="The mean time between two output tokens of a stream: (last - first token) / (output"
    " tokens - 1).",
    clock=("the first token", "the last token"),
    absent="the stream did not tell its output tokens, or there were fewer than two",
    buckets=_PER_TOKEN_BUCKETS_S,
    field="time_per_output_token_ns",
)
EVENT_GAP = Metric(
    name="streamtrace_event_gap_seconds",
    labels=_STREAM,
    help="The time between two events that carry output. Many per stream.",
    clock=("an event with output", "the next one"),
    absent="fewer than two such events; events of one ASGI message count as one",
    buckets=GAP_BUCKETS_S,
    exemplar=True,  # of the longest
    counted=True,
)
LONGEST_GAP = Metric(
    name="streamtrace_longest_gap_seconds",
    labels=_STREAM,
    help="The longest silence of a stream. One per stream.",
    clock=("an event with output", "the next one"),
    absent="fewer than two such events",
    buckets=_SILENCE_BUCKETS_S,
    field="longest_gap_ns",
    exemplar=True,
)
STREAM_DURATION = Metric(
    name="streamtrace_stream_duration_seconds",
    labels=(*_STREAM, "status"),
    help="How long streams took, by how they ended.",
    clock=("the request", "the final body message, or the moment the stream broke"),
    absent="never",
    buckets=_LONG_BUCKETS_S,
    exemplar=True,
)
SEND_STALL = Metric(
    name="streamtrace_send_stall_seconds",
    labels=_STREAM,
    help="How long a stream waited for its client altogether: the time inside `await send`, where"
    " that took 0.1 ms or longer. A late sign, for the kernel takes megabytes first.",
    clock=("each call of `send`", "its return"),
    absent="never",
    buckets=_STALL_BUCKETS_S,
    field="send_stall_ns",
)
LONGEST_SEND_STALL = Metric(
    name="streamtrace_longest_send_stall_seconds",
    labels=_STREAM,
    help="The longest single wait for the client. One per stream.",
    clock=("a call of `send`", "its return"),
    absent="never",
    buckets=_STALL_BUCKETS_S,
    field="longest_send_stall_ns",
)
CLIENT_LAG = Metric(
    name="streamtrace_client_lag_seconds",
    labels=_STREAM,
    help="How long a stream waited in the kernel altogether for a client that took no more, or did"
    " not keep up. A proxy in between is that client.",
    clock=("data that cannot be sent", "the client takes it"),
    absent="the kernel cannot be asked (no Linux, Unix sockets, addresses rewritten by proxy"
    " headers), or the stream was over within 1 s and its connection has waited, then or before",
    buckets=_STALL_BUCKETS_S,
    field="client_lag_ns",
)

# --- sizes ---------------------------------------------------------------------------------------
EVENTS = Metric(
    name="streamtrace_events_total",
    unit="events",
    labels=_STREAM,
    help="Events decoded.",
    field="events",
)
FRAMES = Metric(
    name="streamtrace_frames_total",
    unit="frames",
    labels=_STREAM,
    help="Frames seen on the wire, comments included.",
    field="frames",
)
BYTES = Metric(
    name="streamtrace_bytes_total",
    unit="bytes",
    labels=_STREAM,
    help="Bytes of stream bodies sent by the app.",
    field="body_bytes",
)
LOST_CHUNKS = Metric(
    name="streamtrace_lost_chunks_total",
    unit="chunks",
    labels=_STREAM,
    help="Chunks that the client got and the observer did not keep, because its buffer was full.",
    field="lost_chunks",
)
LOST_BYTES = Metric(
    name="streamtrace_lost_bytes_total",
    unit="bytes",
    labels=_STREAM,
    help="The bytes of those chunks.",
    field="lost_bytes",
)
EVENTS_DROPPED = Metric(
    name="streamtrace_events_dropped_total",
    unit="events",
    labels=_STREAM,
    help="Deltas of text and reasoning that `streamtrace.serve` kept from clients that were too"
    " slow for them, under the policy `drop`.",
    absent="nobody counted: the stream was not served by `streamtrace.serve`",
    field="dropped_events",
)
EVENTS_JOINED = Metric(
    name="streamtrace_events_joined_total",
    unit="events",
    labels=_STREAM,
    help="Deltas that `streamtrace.serve` sent as a part of another one, under the policy"
    " `coalesce`: their text is complete.",
    absent="nobody counted: the stream was not served by `streamtrace.serve`",
    field="joined_events",
)
ISSUES = Metric(
    name="streamtrace_issues_total",
    unit="issues",
    labels=("dialect", "kind"),
    help="What was wrong or odd in streams, and repaired or left out while observing.",
)

DECODE_SECONDS = Metric(
    name="streamtrace_decode_seconds_total",
    labels=_STREAM,
    help="Time that the event loop spent on understanding streams, in slices off the clients' path:"
    " frames, events and the record of the run, exports left aside.",
    field="decode_ns",
)

# --- tools, tokens, cost -------------------------------------------------------------------------
TOOL_CALLS = Metric(
    name="streamtrace_tool_calls_total",
    unit="calls",
    labels=("tool", "status"),
    help="Tool calls seen in streams. `started` and `ready` are unfinished: no result came through"
    " the stream. In dialects that never carry results all calls stay `ready`.",
)
TOOL_DURATION = Metric(
    name="streamtrace_tool_duration_seconds",
    labels=("tool",),
    help="How long tools took.",
    clock=("the end of the call's arguments", "its result"),
    absent="the result did not pass through the stream",
    buckets=_LONG_BUCKETS_S,
)
TOKENS = Metric(
    name="streamtrace_tokens_total",
    unit="tokens",
    labels=("model", "type"),
    help="Tokens, as the streams told them. `cached_input` and `cache_write` are parts of `input`,"
    " `reasoning` of `output`: do not add them up.",
    absent="the stream did not tell them (many do not when they are cut), or told more than"
    f" {MAX_TOKENS:_} at once",
)
COST = Metric(
    name="streamtrace_cost_usd_total",
    unit="US dollars",
    labels=("model",),
    help="The list price of those tokens.",
    absent="model, provider, tokens or price are not known",
)

# --- runs that outlive their connection ----------------------------------------------------------
RESUMES = Metric(
    name="streamtrace_run_resumes_total",
    unit="connections",
    labels=(),
    help="Connections that went on behind a cursor, where `streamtrace.serve` resumes runs.",
    served="resumes",
)
REPLAYED_EVENTS = Metric(
    name="streamtrace_run_replayed_events_total",
    unit="events",
    labels=(),
    help="Events that a connection was told again or late: they were there when it came.",
    served="replayed_events",
)
GAPS = Metric(
    name="streamtrace_run_gaps_total",
    unit="gaps",
    labels=(),
    help="Times that a connection was told that events are missing: evicted, or never logged.",
    served="gaps",
)
GAP_EVENTS = Metric(
    name="streamtrace_run_gap_events_total",
    unit="events",
    labels=(),
    help="The events that were missing in them.",
    served="gap_events",
)
ORPHANED_RUNS = Metric(
    name="streamtrace_run_orphans_total",
    unit="runs",
    labels=(),
    help="Runs whose process had died when they were followed here. Each counts once per process"
    " that found it so; one that nobody follows is not found.",
    served="orphaned_runs",
)
LOGGED_EVENTS = Metric(
    name="streamtrace_run_logged_events_total",
    unit="events",
    labels=(),
    help="Events of the runs of this process that their log has taken.",
    served="logged_events",
)
UNLOGGED_EVENTS = Metric(
    name="streamtrace_run_unlogged_events_total",
    unit="events",
    labels=(),
    help="Events that were told here while the log could not be reached, or after it had given the"
    " run up: nobody can resume them elsewhere.",
    served="unlogged_events",
)
FOLLOWERS = Metric(
    name="streamtrace_run_followers",
    unit="connections",
    labels=(),
    help="Connections that are being told a logged run now, those that began it among them.",
    served="followers",
)
LOG_BYTES = Metric(
    name="streamtrace_run_log_bytes",
    unit="bytes",
    labels=(),
    help="What logs keep of the runs that go on in this process. What they keep of runs that are"
    " over, they know themselves.",
    served="log_bytes",
)

# --- ourselves -----------------------------------------------------------------------------------
SINK_ACCEPTED = Metric(
    name="streamtrace_sink_accepted_total",
    unit="runs",
    labels=("sink",),
    help="Runs handed to a sink: accepted = exported + dropped + queued.",
)
SINK_EXPORTED = Metric(
    name="streamtrace_sink_exported_total",
    unit="runs",
    labels=("sink",),
    help="Runs that reached the back end.",
)
SINK_DROPPED = Metric(
    name="streamtrace_sink_dropped_total",
    unit="runs",
    labels=("sink", "reason"),
    help="Runs that will not reach the back end, by reason.",
)
SINK_QUEUED = Metric(
    name="streamtrace_sink_queued",
    unit="runs",
    labels=("sink",),
    help="Runs that wait for export.",
)
SINK_CAPACITY = Metric(
    name="streamtrace_sink_queue_capacity",
    unit="runs",
    labels=("sink",),
    help="Runs that the queue of a sink can hold. Sinks without a queue have none.",
)
SINK_EXPORTS = Metric(
    name="streamtrace_sink_exports_total",
    unit="exports",
    labels=("sink", "result"),
    help="Batches that a sink sent to its back end, by how that went.",
)
SINK_EXPORT_DURATION = Metric(
    name="streamtrace_sink_export_seconds",
    labels=("sink",),
    help="How long a sink takes to export one batch.",
    clock=("the begin of the export", "its end, good or bad"),
    absent="the sink has no queue, and so no exports",
    buckets=EXPORT_BUCKETS_S,
    counted=True,
)
SINK_LAST_SUCCESS = Metric(
    name="streamtrace_sink_last_success_timestamp_seconds",
    labels=("sink",),
    help="When the last good export of a sink ended, as Unix time. Under several processes: the"
    " latest.",
    absent="no export has gone well yet",
)
BUILD_INFO = Metric(
    name="streamtrace_build_info",
    unit="",
    labels=("version",),
    help="Always 1; the label tells the version.",
)

GROUPS: dict[str, tuple[Metric, ...]] = {
    "Streams": (STREAMS_STARTED, STREAMS_ACTIVE, STREAMS, STREAMS_STALLED),
    "Times": (
        TIME_TO_FIRST_BYTE,
        TIME_TO_FIRST_EVENT,
        TIME_TO_FIRST_TOKEN,
        TIME_TO_FIRST_VISIBLE_TOKEN,
        TIME_PER_OUTPUT_TOKEN,
        EVENT_GAP,
        LONGEST_GAP,
        STREAM_DURATION,
        SEND_STALL,
        LONGEST_SEND_STALL,
        CLIENT_LAG,
    ),
    "Sizes": (
        EVENTS,
        FRAMES,
        BYTES,
        LOST_CHUNKS,
        LOST_BYTES,
        EVENTS_DROPPED,
        EVENTS_JOINED,
        ISSUES,
        DECODE_SECONDS,
    ),
    "Tools, tokens and cost": (TOOL_CALLS, TOOL_DURATION, TOKENS, COST),
    "Runs that outlive their connection": (
        RESUMES,
        REPLAYED_EVENTS,
        GAPS,
        GAP_EVENTS,
        ORPHANED_RUNS,
        LOGGED_EVENTS,
        UNLOGGED_EVENTS,
        FOLLOWERS,
        LOG_BYTES,
    ),
    "The observer itself": (
        SINK_ACCEPTED,
        SINK_EXPORTED,
        SINK_DROPPED,
        SINK_QUEUED,
        SINK_CAPACITY,
        SINK_EXPORTS,
        SINK_EXPORT_DURATION,
        SINK_LAST_SUCCESS,
        BUILD_INFO,
    ),
}
METRICS: tuple[Metric, ...] = tuple(metric for group in GROUPS.values() for metric in group)


def reference() -> str:
    """The reference page, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield (
        "All metrics that `PrometheusSink` keeps. They are recorded when a stream ends, except"
        " `streamtrace_streams_started_total` and `streamtrace_streams_active`. Only streams count,"
        " never other responses. This page is made from `streamtrace/core/metrics.py`."
    )
    yield ""
    yield (
        "Of a [run that outlives its connection](resume.md) the stream that began it counts, and"
        " what the run did when its client had left counts with it: `streamtrace_streams_total`,"
        " durations, events, tools, tokens and cost are those of the run, once. Connections that"
        " resume or follow it are counted under `streamtrace_run_*` only."
    )
    yield ""
    yield (
        "Under several processes (`PROMETHEUS_MULTIPROC_DIR`) there is one set of metrics:"
        " `registry=` is ignored, since the client library keeps one directory for all registries."
    )
    for title, metrics in GROUPS.items():
        yield from ("", f"## {title}")
        for metric in metrics:
            yield from _entry(metric)
    yield from ("", "## Labels", "", "| label | what it says |", "|---|---|")
    for label, meaning in LABELS.items():
        yield f"| `{label}` | {meaning} |"
    yield ""
    yield (
        f"Values longer than {MAX_LABEL_CHARS} characters are cut, and characters that cannot be"
        " printed become `_`."
    )


def _entry(metric: Metric) -> Iterator[str]:
    facts = [metric.kind, metric.unit, ", ".join(f"`{label}`" for label in metric.labels)]
    yield from ("", f"### `{metric.name}`", "", " · ".join(fact for fact in facts if fact), "")
    yield metric.help
    details = []
    if metric.clock is not None:
        details.append(f"- Clock: from {metric.clock[0]} to {metric.clock[1]}.")
    if metric.absent:
        details.append(f"- Not recorded: {metric.absent}.")
    if metric.buckets:
        details.append(f"- Buckets: {', '.join(f'{edge:g}' for edge in metric.buckets)}.")
    if metric.exemplar:
        details.append("- Exemplars: `trace_id`, in the OpenMetrics format and one process.")
    if details:
        yield from ("", *details)
