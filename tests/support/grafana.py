"""The rules of Grafana's dashboard-linter that apply to Prometheus, re-checked on our JSON.

Source: https://github.com/grafana/dashboard-linter/tree/main/docs; the names are those of its
rules. What PromQL says is read by `promql-parser`, not by patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql

Json = dict[str, Any]

NEEDS_UNIT = ("stat", "timeseries", "heatmap", "statetimeline")
_VARIABLES = {"$__rate_interval": "4m", "$__range": "61m", "$__interval": "1m"}
RATE_INTERVAL_S, RANGE_S = 240, 3660


def panels(page: Json) -> list[Json]:
    """All panels that show something."""
    return [one for one in page["panels"] if one["type"] != "row"]


def expressions(page: Json) -> Iterator[tuple[str, str]]:
    """Where each query stands, and the query."""
    for panel in panels(page):
        for target in panel["targets"]:
            yield f"{panel['title']}: {target['refId']}", target["expr"]
    for annotation in page["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"]


def parsed(expression: str) -> Any:
    """The syntax tree; Grafana's own variables stand for times of a known length."""
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return promql.parse(expression)


def nodes(expression: Any) -> Iterator[Any]:
    """All nodes of a tree, parents first."""
    yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(expression, name, None)
        if inner is not None and not isinstance(inner, str | int | float):
            yield from nodes(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from nodes(inner)


def selectors(expression: str) -> Iterator[Any]:
    """The vector selectors of a query."""
    for node in nodes(parsed(expression)):
        if isinstance(node, promql.VectorSelector):
            yield node


def labels_of(selector: Any) -> dict[str, str]:
    """The matchers of a selector, as text: `{"job": '=~"$job"'}`."""
    return {
        one.name: f'{_OPERATORS[str(one.op)]}"{one.value}"' for one in selector.matchers.matchers
    }


_OPERATORS = {
    "MatchOp.Equal": "=",
    "MatchOp.NotEqual": "!=",
    "MatchOp.Re": "=~",
    "MatchOp.NotRe": "!~",
}


def findings(page: Json) -> Iterator[str]:
    """What the linter would complain of."""
    variables = {one["name"]: one for one in page["templating"]["list"]}
    source = variables.get("datasource", {})
    if source.get("type") != "datasource" or not source.get("label"):
        yield "template-datasource-rule"
    for name in ("job", "instance"):
        one = variables.get(name, {})
        if not (
            one.get("type") == "query"
            and one.get("multi")
            and one.get("allValue") == ".+"
            and one.get("label")
            and one["datasource"]["uid"] == "${datasource}"
        ):
            yield f"template-{name}-rule"
    for name, one in variables.items():
        if one["type"] == "query":
            if one.get("refresh") != 2:
                yield f"template-on-time-change-reload-rule: {name}"
            if not re.fullmatch(r"label_values\(.+, \w+\)", one["query"]["query"]):
                yield f"template-label-promql-rule: {name}"
    if page.get("editable") is not False:
        yield "uneditable-dashboard"
    for panel in panels(page):
        yield from _panel(panel)
    for where, expression in expressions(page):
        if not where.startswith("annotation"):
            yield from _target(where, expression)


def _panel(panel: Json) -> Iterator[str]:
    title = panel.get("title")
    if not title or not panel.get("description"):
        yield f"panel-title-description-rule: {title}"
    if panel["datasource"]["uid"] != "${datasource}":
        yield f"panel-datasource-rule: {title}"
    if panel["type"] in NEEDS_UNIT and not panel["fieldConfig"]["defaults"].get("unit"):
        yield f"panel-units-rule: {title}"
    if not panel.get("targets"):
        yield f"panel-no-targets-rule: {title}"


def _target(where: str, expression: str) -> Iterator[str]:
    try:
        tree = parsed(expression)
    except ValueError as error:
        yield f"target-promql-rule: {where}: {error}"
        return
    for selector in selectors(expression):
        labels = labels_of(selector)
        for name in ("job", "instance"):
            if labels.get(name) != f'=~"${name}"':
                yield f"target-{name}-rule: {where}: {selector.name}"
    counted = set()
    for node in nodes(tree):
        if isinstance(node, promql.Call) and node.func.name in ("rate", "irate", "increase"):
            (inner,) = node.args
            counted.add(inner.vector_selector.name)
            length_s = inner.range.total_seconds()
            if node.func.name != "increase" and length_s != RATE_INTERVAL_S:
                yield f"target-rate-interval-rule: {where}"
    for selector in selectors(expression):
        if selector.name.endswith("_total") and selector.name not in counted:
            yield f"target-counter-agg-rule: {where}: {selector.name}"
