"""The dashboard Pipeline: is the tracing itself sound, and what does it cost."""

from __future__ import annotations

from typing import Any

from dashboards.source.parts import GREEN, ORANGE, RED, lines, number, page, rows
from dashboards.source.queries import now, or_zero, quantile, rate, ratio, select, total
from streamtrace.core import metrics as m

_SINCE = f"max by (sink) (time() - {select(m.SINK_LAST_SUCCESS)})"
_USE = f"max by (sink) ({select(m.SINK_QUEUED)} / {select(m.SINK_CAPACITY)})"
_FULLEST = f"max(max_over_time({select(m.SINK_QUEUED)}[$__range]) / {select(m.SINK_CAPACITY)})"

FIGURES = [
    number(
        "Runs dropped",
        "short",
        "Runs that no back end will see, of all sinks, in the time that is shown. Not zero: see"
        " 'Drops, by reason'. Clients are never affected.",
        or_zero(total(m.SINK_DROPPED)),
        {None: GREEN, 1: RED},
        decimals=0,
    ),
    number(
        "Bytes not observed",
        "decbytes",
        "Bytes that clients got and the observer could not keep, since its buffer was full. Not"
        " zero: see 'Bytes that were not observed'.",
        or_zero(total(m.LOST_BYTES)),
        {None: GREEN, 1: ORANGE},
    ),
    number(
        "Exports that failed",
        "percentunit",
        "Share of batches that a back end did not take. See 'Failed exports' for the sink; its"
        " warnings in the log name the error.",
        ratio(or_zero(total(m.SINK_EXPORTS, result="error")), total(m.SINK_EXPORTS)),
        {None: GREEN, 0.01: ORANGE, 0.1: RED},
        decimals=1,
    ),
    number(
        "Fullest queue",
        "percentunit",
        "How full the fullest queue of a sink was, in the time that is shown. At 100 % runs were"
        " dropped: the back end is slower than the load. 'Use of queues' shows which, and when.",
        _FULLEST,
        {None: GREEN, 0.5: ORANGE, 0.8: RED},
        decimals=0,
    ),
    number(
        "Decoding",
        "percentunit",
        "Time that event loops spend on understanding streams, as a share of one core, in slices"
        " of at most half a millisecond between other work. When it is much, see 'Time for"
        " decoding, by dialect' for whose frames are large, or run more processes.",
        rate(m.DECODE_SECONDS),
        {None: GREEN, 0.2: ORANGE, 0.5: RED},
        decimals=1,
    ),
    number(
        "Decoding, per event",
        "s",
        "The mean over all streams. A stream costs some 0.2 ms by itself, so short ones make it"
        " dearer. Tens of microseconds where streams are long are large frames: repeated states,"
        " pictures in base64. Keep those out of the stream.",
        ratio(total(m.DECODE_SECONDS), total(m.EVENTS)),
    ),
]

TAP = [
    lines(
        "Bytes that were not observed",
        "Bps",
        "The buffer between a stream and the decoder was full. Raise `max_tap_bytes` or"
        " `max_total_bytes`, or find what blocks the event loop.",
        {"{{route}}": rate(m.LOST_BYTES, "route")},
        stacked=True,
    ),
    lines(
        "Share of bytes that was not observed",
        "percentunit",
        "Of all bytes that a route sent. A route that stands out sends faster than it can be"
        " decoded, or without ever yielding to the event loop: bound its chunks, or let it await.",
        {"{{route}}": ratio(rate(m.LOST_BYTES, "route"), rate(m.BYTES, "route"))},
        most=1,
    ),
    lines(
        "Time for decoding, by dialect",
        "percentunit",
        "Share of one core. A dialect that stands out with few streams has large frames: keep"
        " repeated states and pictures out of them.",
        {"{{dialect}}": rate(m.DECODE_SECONDS, "dialect")},
        stacked=True,
    ),
    lines(
        "Time for decoding an event, by dialect",
        "s",
        "The cost of an event, without exports, and with a share of what each stream costs by"
        " itself: short streams make it dearer. A jump after a deployment is a changed vocabulary,"
        " or larger states.",
        {"{{dialect}}": ratio(rate(m.DECODE_SECONDS, "dialect"), rate(m.EVENTS, "dialect"))},
    ),
]

SINKS = [
    lines(
        "Runs, by what became of them",
        "cps",
        "Accepted runs are exported, dropped or still queued. Accepted far above exported for"
        " minutes is a back end that cannot keep up: see 'Drops, by reason' and 'Duration of"
        " exports'.",
        {
            "accepted {{sink}}": rate(m.SINK_ACCEPTED, "sink"),
            "exported {{sink}}": rate(m.SINK_EXPORTED, "sink"),
        },
    ),
    lines(
        "Drops, by reason",
        "cps",
        "`queue_full`: the back end is too slow. `export_error`: it refuses, or cannot be reached."
        " `shutdown`: the process ended first. `sink_error`: a fault in the sink. The runbook of"
        " StreamtraceDropping says what to do about each.",
        {"{{sink}} {{reason}}": rate(m.SINK_DROPPED, "sink", "reason")},
        stacked=True,
    ),
    lines(
        "Use of queues",
        "percentunit",
        "Of the process whose queue is fullest. Above 80 % for minutes the next peak drops runs."
        " Raise `max_queued_runs`, or the back end's capacity.",
        {"{{sink}}": _USE},
        limits={0.8: RED},
        most=1,
    ),
    lines(
        "Duration of exports",
        "s",
        "How long a batch takes. When it nears the exporter's time limit, exports start to fail:"
        " look at the back end, or send it smaller batches (`batch_runs`).",
        {
            "p50 {{sink}}": quantile(0.5, m.SINK_EXPORT_DURATION, "sink"),
            "p95 {{sink}}": quantile(0.95, m.SINK_EXPORT_DURATION, "sink"),
        },
    ),
    lines(
        "Failed exports",
        "percentunit",
        "Share of batches that failed. The sink's warnings in the log name the error; wrong keys"
        " and addresses show as 100 % from the start.",
        {
            "{{sink}}": ratio(
                rate(m.SINK_EXPORTS, "sink", result="error"), rate(m.SINK_EXPORTS, "sink")
            )
        },
        limits={0.1: RED},
        most=1,
    ),
    lines(
        "Time since the last good export",
        "s",
        "Of the process that has waited longest. Grows by itself where there is no traffic. With"
        " runs in the queue it means that the back end takes none: the runbook of"
        " StreamtraceSinkStale says what to do. A sink that never succeeded has no line: see"
        " 'Failed exports'.",
        {"{{sink}}": _SINCE},
    ),
]

RESUMED = [
    lines(
        "Connections to logged runs",
        "short",
        "Connections that are open now, and those that came back behind a cursor. Many resumes with"
        " few followers are clients that lose the connection again and again: look at proxies and"
        " their timeouts.",
        {"open": now(m.FOLLOWERS), "resumes per second": rate(m.RESUMES)},
    ),
    lines(
        "Events told late, and missing",
        "short",
        "Per second. Missing ones were evicted, or never logged: raise the bounds of the log if"
        " clients come back later than it reaches.",
        {
            "replayed": rate(m.REPLAYED_EVENTS),
            "missing": rate(m.GAP_EVENTS),
            "gaps": rate(m.GAPS),
        },
    ),
    lines(
        "Events into the log",
        "short",
        "Per second. What is not logged was told to those who were connected here, and nobody can"
        " resume it elsewhere: the log cannot be reached, or is too slow.",
        {"logged": rate(m.LOGGED_EVENTS), "not logged": rate(m.UNLOGGED_EVENTS)},
    ),
    lines(
        "Orphaned runs, and what logs hold",
        "short",
        "Runs that were found without their process, in the time that is shown: a crash, a kill by"
        " the memory limit, or a loop that was blocked for longer than the lease. And bytes of the"
        " runs that go on.",
        {"orphaned": total(m.ORPHANED_RUNS), "bytes": now(m.LOG_BYTES)},
        right={"bytes": "bytes"},
    ),
]

PROCESS = [
    lines(
        "Memory of the processes",
        "bytes",
        "Resident memory. Open streams cost some KiB each; a line that only grows is worth a heap"
        " profile. Shown for single processes: the client library has none for several.",
        {"{{instance}}": 'process_resident_memory_bytes{job=~"$job", instance=~"$instance"}'},
    ),
    lines(
        "CPU of the processes",
        "percentunit",
        "Cores in use. Near 1 per process an event loop is full, and all streams of it are late:"
        " run more processes, and move what computes off the loop.",
        {
            "{{instance}}": "rate(process_cpu_seconds_total"
            '{job=~"$job", instance=~"$instance"}[$__rate_interval])'
        },
    ),
    rows(
        "Versions",
        "What runs where. Two versions for long is a deployment that stopped half way: finish it,"
        " or go back.",
        {"processes": f"count by (version, instance) ({select(m.BUILD_INFO)})"},
        {"processes": "short"},
    ),
]


def build() -> dict[str, Any]:
    """The dashboard."""
    return page(
        "streamtrace-pipeline",
        "streamtrace / Pipeline",
        "Whether the tracing itself can be trusted, and what it costs.",
        {
            "At a glance": FIGURES,
            "From the stream to events": TAP,
            "From runs to back ends": SINKS,
            "Runs that outlive their connection": RESUMED,
            "The processes": PROCESS,
        },
        ("route", "dialect"),
    )
