"""PromQL for the panels, written from the table of metrics.

Rules that hold here:

* Every selector carries the variables of the dashboard: job and instance always, route, dialect and
  model where the metric has that label.
* Rates are over `$__rate_interval`, totals over `$__range`.
* A name that is no metric, or a label that a metric has not, fails when the dashboards are made.
"""

from __future__ import annotations

from streamtrace.core.metrics import Metric

_VARIABLES = ("route", "dialect", "model")


def select(metric: Metric, suffix: str = "", **match: str) -> str:
    """The series of a metric that the dashboard's variables leave. `match` gives regexes."""
    wrong = set(match) - {*metric.labels, "le"}
    if wrong:
        raise ValueError(f"{metric.name} has no label {sorted(wrong)}")
    if (metric.kind == "histogram") != bool(suffix):
        raise ValueError(f"{metric.name} is a {metric.kind}; its suffix cannot be {suffix!r}")
    chosen = {"job": "$job", "instance": "$instance"}
    chosen |= {name: f"${name}" for name in _VARIABLES if name in metric.labels}
    chosen |= match
    pairs = ", ".join(f'{name}=~"{value}"' for name, value in chosen.items())
    return f"{metric.name}{suffix}{{{pairs}}}"


def rate(metric: Metric, *by: str, suffix: str = "", **match: str) -> str:
    """Per second, summed by labels."""
    return f"{_sum(by)}(rate({select(metric, suffix, **match)}[$__rate_interval]))"


def total(metric: Metric, *by: str, suffix: str = "", over: str = "$__range", **match: str) -> str:
    """How much it rose in the time that is shown, summed by labels."""
    return f"{_sum(by)}(increase({select(metric, suffix, **match)}[{over}]))"


def now(metric: Metric, *by: str, **match: str) -> str:
    """A gauge, summed by labels."""
    return f"{_sum(by)}({select(metric, **match)})"


def quantile(share: float, metric: Metric, *by: str, **match: str) -> str:
    """A quantile of a histogram, by labels."""
    buckets = rate(metric, "le", *by, suffix="_bucket", **match)
    return f"histogram_quantile({share:g}, {buckets})"


def buckets(metric: Metric) -> str:
    """What a heatmap draws: how many observations fell into each bucket."""
    return total(metric, "le", suffix="_bucket", over="$__rate_interval")


def ratio(part: str, whole: str) -> str:
    """A share; absent, not a division by zero, where the whole is nothing."""
    return f"{part} / ({whole} > 0)"


def or_zero(expression: str) -> str:
    """Zero where no series is there yet."""
    return f"({expression} or vector(0))"


def _sum(by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)}) " if by else "sum"
