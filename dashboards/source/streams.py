"""The dashboard Streams: is it healthy, how fast do users see tokens, where do streams stall, who
leaves and after how long."""

from __future__ import annotations

from typing import Any

from dashboards.source import slo
from dashboards.source.parts import BLUE, GREEN, ORANGE, RED, heat, lines, number, page, states
from dashboards.source.queries import (
    buckets,
    now,
    or_zero,
    quantile,
    rate,
    ratio,
    select,
    total,
)
from streamtrace.core import metrics as m
from streamtrace.core.summary import Status

_STAYED = {"status": "completed|error|input_required|cancelled|truncated|timeout|drained"}


def bad_share(over: str) -> str:
    """The share of streams that broke, among those whose client stayed."""
    bad = total(m.STREAMS, over=over, status=slo.BAD)
    return ratio(or_zero(bad), total(m.STREAMS, over=over, **_STAYED))


def slow_share(over: str) -> str:
    """The share of streams whose first token came late."""
    count = total(m.TIME_TO_FIRST_TOKEN, suffix="_count", over=over)
    early = total(m.TIME_TO_FIRST_TOKEN, suffix="_bucket", over=over, le=slo.FIRST_TOKEN_EDGE)
    return f"1 - {ratio(early, count)}"


def _burn(share: Any, allowed: float) -> dict[str, str]:
    return {f"over {span}": f"({share(span)}) / {allowed:g}" for span in ("5m", "1h", "6h")}


def _quantiles(metric: m.Metric) -> dict[str, str]:
    return {f"p{share * 100:g}": quantile(share, metric) for share in (0.5, 0.95, 0.99)}


_ENDS_IN = {
    Status.COMPLETED: GREEN,
    Status.INPUT_REQUIRED: "light-green",
    Status.CANCELLED: "light-blue",
    Status.DISCONNECTED: "purple",
    Status.DRAINED: BLUE,
    Status.TRUNCATED: ORANGE,
    Status.TIMEOUT: "dark-orange",
    Status.ERROR: RED,
}
_LIMITS = {slo.BURN_RATES["page slow"]: ORANGE, slo.BURN_RATES["page fast"]: RED}

HEALTH = [
    number(
        "Availability",
        "percentunit",
        "Streams that did not break, among those whose client stayed. Broken: an error in the"
        " stream or of the app, a time limit, an end without the dialect's last event, a shutdown."
        " When it is low, see under 'How do streams end?' which outcome grew, and on which route.",
        f"1 - {bad_share('$__range')}",
        {None: RED, slo.AVAILABILITY: ORANGE, 0.995: GREEN},
        decimals=2,
    ),
    number(
        f"First token within {slo.FIRST_TOKEN_S} s",
        "percentunit",
        "Streams whose first token (text, reasoning or tool arguments) came in time. When it is"
        " low, look at the parts of the first seconds below: a late first byte is the app, its"
        " queue or its prompt; a late token behind an early event is the model.",
        f"1 - ({slow_share('$__range')})",
        {None: RED, slo.FIRST_TOKEN: ORANGE, 0.98: GREEN},
        decimals=2,
    ),
    number(
        "Error budget left",
        "percentunit",
        f"Of the broken streams that {slo.AVAILABILITY:.0%} availability allows in the time that is"
        " shown, the share that is not used up. Below zero the promise is broken: stop risky"
        " changes until it recovers. It stops at -100 %.",
        f"clamp_min(1 - ({bad_share('$__range')}) / {1 - slo.AVAILABILITY:.4g}, -1)",
        {None: RED, 0: ORANGE, 0.5: GREEN},
        decimals=0,
    ),
    number(
        "Open streams",
        "short",
        "Streams that have begun and not ended. A number that only grows means streams that never"
        " end: look for clients that stopped reading, and for agents without a time limit.",
        now(m.STREAMS_ACTIVE),
    ),
    number(
        "Streams begun",
        "reqps",
        "Responses that turned out to be streams, per second. Zero with traffic at the door means"
        " that the middleware does not see it: check that it wraps the app, and the media type.",
        rate(m.STREAMS_STARTED),
        decimals=2,
    ),
    number(
        "Clients that left",
        "percentunit",
        "Streams whose client hung up before the end. Some always do. When it grows with the time"
        " to the first token, users do not wait that long: 'How long those who left had waited'"
        " tells.",
        ratio(or_zero(total(m.STREAMS, status=slo.LEFT)), total(m.STREAMS)),
        {None: GREEN, 0.1: ORANGE, 0.25: RED},
        decimals=1,
    ),
    lines(
        "Burn rate of availability",
        "short",
        "How many times faster than allowed streams break. Above the red line in both the short and"
        " the long window somebody is paged; the runbook of StreamtraceAvailabilityBurn says what"
        " to do.",
        _burn(bad_share, 1 - slo.AVAILABILITY),
        limits=_LIMITS,
    ),
    lines(
        "Burn rate of the first token",
        "short",
        "How many times more often than allowed first tokens come late. The runbook of"
        " StreamtraceFirstTokenBurn says what to do.",
        _burn(slow_share, 1 - slo.FIRST_TOKEN),
        limits=_LIMITS,
    ),
]

LATENCY = [
    heat(
        "Time to first token",
        "Each point is a stream: click it to open its trace. A second band far above the first is a"
        " second kind of request: a cold model, a long prompt, a retry. Compare routes and dialects"
        " with the variables.",
        buckets(m.TIME_TO_FIRST_TOKEN),
    ),
    lines(
        "Time to first token, quantiles",
        "s",
        "When p50 rises, all users wait: model or queue. When only p99 rises, some do: open traces"
        " of slow ones by their exemplars.",
        _quantiles(m.TIME_TO_FIRST_TOKEN),
        exemplars=True,
        limits={slo.FIRST_TOKEN_S: ORANGE},
    ),
    lines(
        "What the first seconds are made of (p50)",
        "s",
        "From the request to each of these. A wide gap between first byte and first token is the"
        " model's; between first token and first visible token it thinks or calls tools where users"
        " see nothing: show them progress.",
        {
            "first byte": quantile(0.5, m.TIME_TO_FIRST_BYTE),
            "first event": quantile(0.5, m.TIME_TO_FIRST_EVENT),
            "first token": quantile(0.5, m.TIME_TO_FIRST_TOKEN),
            "first visible token": quantile(0.5, m.TIME_TO_FIRST_VISIBLE_TOKEN),
        },
    ),
    lines(
        "Time to first token by route (p95)",
        "s",
        "Which route is slow: choose it above, and see what its first seconds are made of. Routes"
        " with few streams jump about: widen the time that is shown.",
        {"{{route}}": f"topk(10, {quantile(0.95, m.TIME_TO_FIRST_TOKEN, 'route')})"},
    ),
    heat(
        "Gaps between events",
        "The time between two events that carry output. Bright at the bottom is a smooth stream. A"
        " band at one value is something periodic: batching, a proxy that flushes, a poll. Each"
        " point is the longest gap of a stream: click it to open its trace.",
        buckets(m.EVENT_GAP),
    ),
    lines(
        "Gaps between events, quantiles",
        "s",
        "p50 is the pace that users read at; p99 is where they notice a stop. A rise of p99 alone"
        " is tools or retries inside streams: open a trace from the top of the heatmap.",
        _quantiles(m.EVENT_GAP),
    ),
    lines(
        "Longest silence of a stream",
        "s",
        "The longest gap of each stream. Above the time limits of proxies on the way (often 30 or"
        " 60 s) streams are cut: send heartbeats, or raise the limits. The points open traces.",
        _quantiles(m.LONGEST_GAP),
        exemplars=True,
        limits={30: ORANGE, 60: RED},
    ),
    lines(
        "Time per output token",
        "s",
        "(last - first token) / (output tokens - 1), where the stream told its usage: the speed of"
        " the model itself. When it rises and the load did not, the provider is slower: try"
        " another region or model.",
        _quantiles(m.TIME_PER_OUTPUT_TOKEN),
    ),
]

THROUGHPUT = [
    lines(
        "Streams ended, by route",
        "reqps",
        "Where the load is. A route that falls to zero alone has lost its caller: ask who calls"
        " it, and look for a deployment in the annotations.",
        {"{{route}}": rate(m.STREAMS, "route")},
        stacked=True,
    ),
    lines(
        "Open streams and the wait for the first token",
        "short",
        "Both rising together is saturation: more streams than the model or the server can serve."
        " Limit concurrency, or add capacity.",
        {
            "open streams": now(m.STREAMS_ACTIVE),
            "first token, p95": quantile(0.95, m.TIME_TO_FIRST_TOKEN),
        },
        right={"first token, p95": "s"},
    ),
    lines(
        "Events, by dialect",
        "cps",
        "Decoded events per second, counted when streams end. 'unknown' is a vocabulary that"
        " streamtrace does not read: name it, or write a dialect for it.",
        {"{{dialect}}": rate(m.EVENTS, "dialect")},
        stacked=True,
    ),
    lines(
        "Bytes sent",
        "Bps",
        "Bodies of streams, counted when they end. Much more than text needs is repeated state or"
        " pictures: check what the agent sends along.",
        {"{{route}}": rate(m.BYTES, "route")},
        stacked=True,
    ),
    lines(
        "Frames per event",
        "short",
        "About 1. Far more is comments and pings: send them less often. Far fewer is events packed"
        " together, which users see arrive in lumps.",
        {"{{dialect}}": ratio(rate(m.FRAMES, "dialect"), rate(m.EVENTS, "dialect"))},
    ),
    lines(
        "Duration by outcome (p95)",
        "s",
        "How long streams take, by how they end. Timeouts at one value are a limit that cuts"
        " answers; completed streams near it will be next.",
        {"{{status}}": quantile(0.95, m.STREAM_DURATION, "status")},
        exemplars=True,
        colors=_ENDS_IN,
    ),
]

BACKPRESSURE = [
    lines(
        "Time spent waiting for clients, per stream",
        "s",
        "All the time inside `send`, per stream. The kernel takes megabytes before `send` waits, so"
        " what shows here is late and real: clients or proxies that do not read.",
        _quantiles(m.SEND_STALL),
    ),
    lines(
        "Longest single wait for a client",
        "s",
        "The longest `send` of each stream. Seconds here are clients that stopped reading: bound"
        " them with a send timeout.",
        _quantiles(m.LONGEST_SEND_STALL),
        limits={1: ORANGE},
    ),
    lines(
        "How long clients are behind, per stream",
        "s",
        "How long data waited in the kernel for a client that took no more, asked of the kernel on"
        " Linux. It shows before `send` waits. Where it grows and the waits above do not, the agent"
        " runs on for nobody: bound what the kernel takes, see docs/backpressure.md. None at all"
        " shows as a part of a millisecond, the first bucket.",
        _quantiles(m.CLIENT_LAG),
        limits={5: ORANGE},
    ),
    lines(
        "Share of streaming time that is waiting for clients",
        "percentunit",
        "Near zero where clients keep up. A rise on all routes is the network or a proxy; on one"
        " route it is that client.",
        {
            "{{route}}": ratio(
                rate(m.SEND_STALL, "route", suffix="_sum"),
                rate(m.STREAM_DURATION, "route", suffix="_sum"),
            )
        },
    ),
    lines(
        "What slow clients were spared",
        "cps",
        "Deltas that `streamtrace.serve` dropped, or joined with another, for clients that could"
        " not take them all. Joined is harmless. Dropped text is missing at the client: where it is"
        " much, choose the policy `coalesce`, or find out why clients are slow. Routes that are"
        " served by something else have no line.",
        {
            "dropped {{route}}": rate(m.EVENTS_DROPPED, "route"),
            "joined {{route}}": rate(m.EVENTS_JOINED, "route"),
        },
    ),
    lines(
        "Streams that stalled",
        "percentunit",
        "Streams in which one `send` waited for 1 s or longer. The runbook of"
        " StreamtraceStallSpike says what to do.",
        {"{{route}}": ratio(rate(m.STREAMS_STALLED, "route"), rate(m.STREAMS, "route"))},
        limits={0.1: RED},
    ),
]

ENDS = [
    lines(
        "Outcomes",
        "reqps",
        "How streams end, per second. Truncated streams ended without the last event of their"
        " dialect: look for crashed workers and proxies that cut. Drained ones met a shutdown: give"
        " the server a longer grace period.",
        {"{{status}}": rate(m.STREAMS, "status")},
        stacked=True,
        colors=_ENDS_IN,
    ),
    lines(
        "Broken streams, by route",
        "percentunit",
        "The share of streams that broke, among those whose client stayed. One route alone is that"
        " route's agent; all at once is a provider or the network.",
        {
            "{{route}}": ratio(
                rate(m.STREAMS, "route", status=slo.BAD), rate(m.STREAMS, "route", **_STAYED)
            )
        },
        limits={1 - slo.AVAILABILITY: ORANGE},
    ),
    lines(
        "How long those who left had waited",
        "s",
        "From the request to the moment the client hung up. Compare it with the time to the first"
        " token: where they cross, users leave before they see anything.",
        {
            "left, p50": quantile(0.5, m.STREAM_DURATION, status=slo.LEFT),
            "left, p90": quantile(0.9, m.STREAM_DURATION, status=slo.LEFT),
            "first token, p95": quantile(0.95, m.TIME_TO_FIRST_TOKEN),
        },
    ),
    lines(
        "Clients that leave, and the wait for the first token",
        "percentunit",
        "When both rise together, users leave because they wait. When only leaving rises, something"
        " in the page or the network closes connections.",
        {
            "clients that left": ratio(rate(m.STREAMS, status=slo.LEFT), rate(m.STREAMS)),
            "first token, p95": quantile(0.95, m.TIME_TO_FIRST_TOKEN),
        },
        right={"first token, p95": "s"},
    ),
    states(
        "State of each route",
        "The share of broken streams over 5 minutes, as a colour. Red stretches at the same time on"
        " many routes have one cause; look for a deployment in the annotations.",
        {
            "{{route}}": ratio(
                f"(sum by (route) (increase({select(m.STREAMS, status=slo.BAD)}[5m])))",
                f"sum by (route) (increase({select(m.STREAMS, **_STAYED)}[5m]))",
            )
        },
        {0: ("healthy", GREEN), 0.01: ("degraded", ORANGE), 0.1: ("broken", RED)},
    ),
    lines(
        "Odd things in streams",
        "cps",
        "What the observer had to repair or leave out, by kind. docs/outcomes.md and the run record"
        " explain the kinds. `frame_undecodable` after a deployment is a changed vocabulary.",
        {"{{dialect}} {{kind}}": rate(m.ISSUES, "dialect", "kind")},
        stacked=True,
    ),
]


def build() -> dict[str, Any]:
    """The dashboard."""
    return page(
        "streamtrace-streams",
        "streamtrace / Streams",
        "Streamed agent answers as their users see them.",
        {
            "Is it healthy?": HEALTH,
            "How fast do users see tokens?": LATENCY,
            "How much goes through?": THROUGHPUT,
            "Where do clients hold streams up?": BACKPRESSURE,
            "How do streams end?": ENDS,
        },
        ("route", "dialect"),
    )
