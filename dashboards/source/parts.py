"""The kinds of panels, and what is the same in all of them.

Rules that hold here:

* A panel has a title, a unit, and a description that says what to do when it looks bad.
* Classic dashboard JSON of schema 39, which Grafana 10.4 to 13 read from files.
* Colours mean the same everywhere: green is as it should be, orange is worth a look, red is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SCHEMA_VERSION = 39
TAG = "streamtrace"
SOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
Steps = Mapping[float | None, str]
Queries = Mapping[str, str]
"""Legend -> expression. A legend may name labels: `{{route}}`."""


def number(
    title: str,
    unit: str,
    description: str,
    expression: str,
    steps: Steps | None = None,
    *,
    decimals: int | None = None,
    width: int = 4,
) -> stat.Panel:
    """One figure over the time that is shown, with colours from `steps` (from this value on)."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(width)
        .color_mode(common_model.BigValueColorMode.VALUE)
        .graph_mode(common_model.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(steps or {None: BLUE}))
        .with_target(_target("A", "", expression).instant())
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str,
    unit: str,
    description: str,
    queries: Queries,
    *,
    exemplars: bool = False,
    stacked: bool = False,
    limits: Steps | None = None,
    most: float | None = None,
    right: Mapping[str, str] | None = None,
    colors: Mapping[str, str] | None = None,
    width: int = 12,
) -> timeseries.Panel:
    """Curves over time. `limits` draws lines at values, `right` puts series on an axis of their own
    with the unit that is given, `colors` are those of series that mean something."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(common_model.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_model.LegendDisplayMode.TABLE)
            .placement(common_model.LegendPlacement.BOTTOM)
            .calcs(["mean", "max"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    if limits is not None:
        panel.thresholds(_thresholds({None: "transparent", **limits}))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.LINE)
        )
    for name, other in (right or {}).items():
        panel.override_by_name(
            name,
            [
                model.DynamicConfigValue(id_val="unit", value=other),
                model.DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
            ],
        )
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [model.DynamicConfigValue(id_val="color", value=fixed)])
    for letter, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        panel.with_target(_target(letter, legend, expression, exemplars=exemplars))
    return panel


def heat(title: str, description: str, expression: str, *, width: int = 12) -> heatmap.Panel:
    """A histogram over time, in seconds, with exemplars as points that open their trace."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(8)
        .span(width)
        .calculate(False)
        .unit("s")
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement(common_model.AxisPlacement.LEFT))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(common_model.HeatmapCellLayout.LE))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Turbo")
            .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .exemplars_color("rgba(255,255,255,0.8)")
        .tooltip(
            heatmap.HeatmapTooltip().mode(common_model.TooltipDisplayMode.SINGLE).y_histogram(True)
        )
        .with_target(
            _target("A", "{{le}}", expression, exemplars=True).format(PromQueryFormat.HEATMAP)
        )
    )


def rows(
    title: str,
    description: str,
    queries: Queries,
    units: Mapping[str, str],
    *,
    hidden: Sequence[str] = (),
    width: int = 24,
) -> table.Panel:
    """A table with a line per label value: one column per query, named by its legend."""
    letters = dict(zip("ABCDEFGH", queries, strict=False))
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(8)
        .span(width)
        .filterable(True)
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(("Time", "Value", *hidden), True),
                    "renameByName": {f"Value #{one}": name for one, name in letters.items()},
                },
            )
        )
    )
    for name, unit in units.items():
        settings = [model.DynamicConfigValue(id_val="unit", value=unit)]
        if unit == "short":  # Prometheus extrapolates, so that counts are no whole numbers
            settings.append(model.DynamicConfigValue(id_val="decimals", value=0))
        panel.override_by_name(name, settings)
    for letter, expression in zip(letters, queries.values(), strict=True):
        panel.with_target(_target(letter, "", expression).instant().format(PromQueryFormat.TABLE))
    return panel


def states(
    title: str, description: str, queries: Queries, meanings: Mapping[float, tuple[str, str]]
) -> statetimeline.Panel:
    """What state something was in. `meanings`: from this value on, a word and a colour."""
    edges = [*meanings, float("inf")]
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(7)
        .span(12)
        .unit("percentunit")
        .show_value(common_model.VisibilityMode.NEVER)
        .merge_values(True)
        .mappings(
            [
                model.RangeMap(
                    options=model.DashboardRangeMapOptions(
                        from_val=low,
                        to=None if high == float("inf") else high,
                        result=model.ValueMappingResult(text=word, color=color, index=index),
                    )
                )
                for index, ((low, (word, color)), high) in enumerate(
                    zip(meanings.items(), edges[1:], strict=True)
                )
            ]
        )
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
            .calcs([])
        )
    )
    for letter, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        panel.with_target(_target(letter, legend, expression))
    return panel


def page(
    uid: str,
    title: str,
    description: str,
    groups: Mapping[str, Sequence[Any]],
    extra: Sequence[str],
) -> dict[str, Any]:
    """A whole dashboard: rows of panels by their headings. `extra` names variables beside job and
    instance: label names of metrics."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("streamtrace")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for variable in _variables(extra):
        built.with_variable(variable)
    for annotation in _annotations():
        built.annotation(annotation)
    for heading, panels in groups.items():
        built.with_row(dashboard.Row(heading))
        for panel in panels:
            built.with_panel(panel)
    whole = built.build()
    whole.schema_version = SCHEMA_VERSION
    for number_, panel in enumerate(whole.panels or (), 1):
        panel.id_val = number_
    return _plain(whole)


def _variables(extra: Sequence[str]) -> list[dashboard.QueryVariable]:
    series = {
        "job": "streamtrace_build_info",
        "instance": 'streamtrace_build_info{job=~"$job"}',
        "route": 'streamtrace_streams_started_total{job=~"$job", instance=~"$instance"}',
        "dialect": 'streamtrace_streams_total{job=~"$job", instance=~"$instance"}',
        "model": 'streamtrace_tokens_total{job=~"$job", instance=~"$instance"}',
    }
    return [
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": f"label_values({series[name]}, {name})", "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
        for name in ("job", "instance", *extra)
    ]


def _annotations() -> list[dashboard.AnnotationQuery]:
    version = 'count by (version) (streamtrace_build_info{job=~"$job", instance=~"$instance"})'
    before = (
        'count by (version) (streamtrace_build_info{job=~"$job", instance=~"$instance"} offset 5m)'
    )
    found = {
        "Alerts": ('ALERTS{alertstate="firing", alertname=~"Streamtrace.+"}', RED),
        "New version": (f"{version} unless {before}", BLUE),
    }
    titles = {"Alerts": "{{alertname}}", "New version": "streamtrace {{version}}"}
    return [
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expression)
        .title_format(titles[name])
        .step("60s")
        for name, (expression, color) in found.items()
    ]


def _target(
    letter: str, legend: str, expression: str, *, exemplars: bool = False
) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id(letter).expr(expression).datasource(SOURCE)
    if legend:
        query.legend_format(legend)
    return query.exemplar(True) if exemplars else query


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps.items()])
    )


def _plain(whole: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(whole))
    return plain
