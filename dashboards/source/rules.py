"""Recording rules and alerts for Prometheus.

Rules that hold here:

* An error ratio is recorded per job once for each window, and alerts read the records: a ratio over
  three days is too dear to compute every minute for each alert.
* A burn-rate alert needs a long and a short window: the long one says that it matters, the short
  one that it still goes on (SRE workbook, chapter 5). It stays silent where too few streams ran for
  a ratio to mean anything.
* Streams whose client left are on neither side of a ratio, so a storm of disconnects burns nothing.
* Every alert names its runbook, which tells a person what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from dashboards.source import slo
from streamtrace.core import metrics as m

RUNBOOKS = "docs/runbooks.md"
"""A path in this repository; put the address in front under which your team reads it."""
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BUDGET_DAYS = 30
FEWEST_STREAMS = 100
"""In an hour: with fewer, one broken stream is already a breach."""

_STAYED = f'status!="{slo.LEFT}"'

# speed, severity, long and short window, how long it must hold
BURNS = (
    ("page fast", "page", "1h", "5m", "2m"),
    ("page slow", "page", "6h", "30m", "15m"),
    ("ticket fast", "ticket", "1d", "2h", "1h"),
    ("ticket slow", "ticket", "3d", "6h", "3h"),
)

SLOS = {
    "availability": ("StreamtraceAvailabilityBurn", slo.AVAILABILITY, "streams break"),
    "first_token": ("StreamtraceFirstTokenBurn", slo.FIRST_TOKEN, "first tokens come late"),
}


def record_name(goal: str, window: str) -> str:
    """The series of an error ratio."""
    return f"job:streamtrace_{goal}:error_ratio_{window}"


def error_ratio(goal: str, window: str) -> str:
    """The share of bad streams of a job, over a window."""
    if goal == "availability":
        bad = f'sum by (job) (rate({m.STREAMS.name}{{status=~"{slo.BAD}"}}[{window}]))'
        return f"{bad}\n/\nsum by (job) (rate({m.STREAMS.name}{{{_STAYED}}}[{window}]))"
    name = m.TIME_TO_FIRST_TOKEN.name
    edge = f'le=~"{slo.FIRST_TOKEN_EDGE}"'
    early = f"sum by (job) (rate({name}_bucket{{{edge}}}[{window}]))"
    return f"1 - (\n  {early}\n  /\n  sum by (job) (rate({name}_count[{window}]))\n)"


def recording() -> str:
    """The file of recording rules."""
    groups = [
        {
            "name": f"streamtrace-{goal.replace('_', '-')}",
            "interval": "1m",
            "rules": [
                {"record": record_name(goal, window), "expr": error_ratio(goal, window)}
                for window in WINDOWS
            ],
        }
        for goal in SLOS
    ]
    return _yaml("Error ratios of each job, which the alerts and nothing else read.", groups)


def alerts() -> str:
    """The file of alerts."""
    groups = [
        {"name": "streamtrace-slo", "rules": list(_burn_alerts())},
        {"name": "streamtrace-users", "rules": list(_alerts(USERS))},
        {"name": "streamtrace-pipeline", "rules": list(_alerts(PIPELINE))},
    ]
    return _yaml("Each alert has a section of its name in docs/runbooks.md.", groups)


def _burn_alerts() -> Iterator[dict[str, Any]]:
    for goal, (name, objective, what) in SLOS.items():
        for speed, severity, long, short, hold in BURNS:
            times = slo.BURN_RATES[speed]
            limit = f"{times:g} * {1 - objective:.4g}"
            few = f"sum by (job) (increase({m.STREAMS.name}[1h])) > {FEWEST_STREAMS}"
            yield {
                "alert": name,
                "expr": f"{record_name(goal, long)} > {limit}\nand\n"
                f"{record_name(goal, short)} > {limit}\nand\n{few}",
                "for": hold,
                "labels": {
                    "severity": severity,
                    "slo": goal,
                    "long_window": long,
                    "short_window": short,
                },
                "annotations": _annotations(
                    name,
                    f"In {{{{ $labels.job }}}} {what} {times:g} times faster than promised",
                    f"{{{{ $value | humanizePercentage }}}} of the streams of the last {long} are"
                    f" bad; {1 - objective:.0%} are allowed over {BUDGET_DAYS} days.",
                ),
            }


class Alert(NamedTuple):
    """One alert that can wait for the next working day."""

    name: str
    expression: str
    hold: str
    summary: str
    description: str


USERS = (
    Alert(
        "StreamtraceStallSpike",
        f"sum by (job) (rate({m.STREAMS_STALLED.name}[15m]))\n/\n"
        f"sum by (job) (rate({m.STREAMS.name}[15m])) > 0.1\nand\n"
        f"sum by (job) (increase({m.STREAMS.name}[15m])) > 20",
        "10m",
        "Clients of {{ $labels.job }} do not keep up",
        "In {{ $value | humanizePercentage }} of the streams one write waited for a second or"
        " longer.",
    ),
    Alert(
        "StreamtraceDisconnectSpike",
        f'sum by (job) (rate({m.STREAMS.name}{{status="{slo.LEFT}"}}[30m]))\n> 3 *\n'
        f'sum by (job) (rate({m.STREAMS.name}{{status="{slo.LEFT}"}}[30m] offset 1d))\nand\n'
        f'sum by (job) (increase({m.STREAMS.name}{{status="{slo.LEFT}"}}[30m])) > 50',
        "15m",
        "Clients of {{ $labels.job }} leave three times as often as a day ago",
        "{{ $value | humanize }} clients leave per second.",
    ),
    Alert(
        "StreamtraceStreamsStuck",
        f"sum by (job) ({m.STREAMS_ACTIVE.name}) > 0\nunless\n"
        f"sum by (job) (increase({m.STREAMS.name}[1h])) > 0\nunless\n"
        f"sum by (job) (increase({m.STREAMS_STARTED.name}[1h])) > 0",
        "15m",
        "Streams of {{ $labels.job }} do not end",
        "{{ $value }} streams are open, and none has begun or ended for an hour.",
    ),
)

PIPELINE = (
    Alert(
        "StreamtraceDropping",
        f"sum by (job, sink, reason) (increase({m.SINK_DROPPED.name}[10m])) > 0",
        "5m",
        "Sink {{ $labels.sink }} of {{ $labels.job }} drops runs",
        "{{ $value | humanize }} runs in 10 minutes, reason {{ $labels.reason }}. Clients are not"
        " affected; these runs are in no back end.",
    ),
    Alert(
        "StreamtraceNotObserving",
        f"sum by (job, route) (increase({m.LOST_BYTES.name}[10m])) > 0",
        "5m",
        "Parts of streams of {{ $labels.job }} are not observed",
        "{{ $value | humanize1024 }}B on {{ $labels.route }} in 10 minutes: the buffer is full.",
    ),
    Alert(
        "StreamtraceQueueNearlyFull",
        f"sum by (job, instance, sink) ({m.SINK_QUEUED.name})\n/\n"
        f"sum by (job, instance, sink) ({m.SINK_CAPACITY.name}) > 0.8",
        "5m",
        "The queue of sink {{ $labels.sink }} of {{ $labels.instance }} is nearly full",
        "{{ $value | humanizePercentage }} full. At 100 % runs are dropped.",
    ),
    Alert(
        "StreamtraceSinkFailing",
        f'sum by (job, sink) (rate({m.SINK_EXPORTS.name}{{result="error"}}[10m]))\n/\n'
        f"sum by (job, sink) (rate({m.SINK_EXPORTS.name}[10m])) > 0.1",
        "10m",
        "Exports of sink {{ $labels.sink }} of {{ $labels.job }} fail",
        "{{ $value | humanizePercentage }} of the batches.",
    ),
    Alert(
        "StreamtraceSinkStale",
        f"time() - max by (job, instance, sink) ({m.SINK_LAST_SUCCESS.name}) > 300\nand\n"
        f"sum by (job, instance, sink) ({m.SINK_QUEUED.name}) > 0",
        "5m",
        "Sink {{ $labels.sink }} of {{ $labels.instance }} exports nothing",
        "Its last good export was {{ $value | humanizeDuration }} ago, and runs wait.",
    ),
    Alert(
        "StreamtraceMetricsAbsent",
        f"absent({m.BUILD_INFO.name})",
        "10m",
        "No streamtrace is scraped",
        "No target has told streamtrace's metrics for 10 minutes.",
    ),
)


def _alerts(table: Iterable[Alert]) -> Iterator[dict[str, Any]]:
    for one in table:
        yield {
            "alert": one.name,
            "expr": one.expression,
            "for": one.hold,
            "labels": {"severity": "ticket"},
            "annotations": _annotations(one.name, one.summary, one.description),
        }


def _annotations(name: str, summary: str, description: str) -> dict[str, str]:
    return {
        "summary": summary,
        "description": description,
        "runbook_url": f"{RUNBOOKS}#{name.lower()}",
    }


class _Dumper(yaml.SafeDumper):
    """Keeps expressions of several lines as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(comment: str, groups: list[dict[str, Any]]) -> str:
    body = yaml.dump(
        {"groups": groups}, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True
    )
    return f"# Made from dashboards/source/rules.py. {comment}\n{body}"
