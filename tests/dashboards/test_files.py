"""The dashboards and rules as files: made from their source, whole, and about real metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from support.grafana import NEEDS_UNIT, expressions, findings, labels_of, panels, selectors

from dashboards.source.__main__ import files
from streamtrace.core.metrics import METRICS

register_default_plugins()  # or the models keep options and queries as they are, typos and all

ROOT = Path(__file__).parents[2]
FILES = dict(files())
PAGES = {name: json.loads(text) for name, text in FILES.items() if name.endswith(".json")}
RULES = [
    rule
    for name, text in FILES.items()
    if name.endswith(".yml")
    for group in yaml.safe_load(text)["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
BY_NAME = {metric.name: metric for metric in METRICS}
OTHERS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "ALERTS"}
"""Series of others: of prometheus_client's process collector, and of Prometheus itself."""

IN_NO_PANEL = {
    "streamtrace_lost_chunks_total": "chunks have any size; the lost bytes, and their share of"
    " all bytes, are shown instead",
}
"""Metrics that no panel and no rule shows, with the reason."""

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_its_source_makes(name, golden):
    golden(f"dashboards/{name}", FILES[name])


@each_page
def test_grafanas_own_models_know_every_key(page):
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(page)))
    assert lost(page, again) == []


def lost(before: Any, after: Any, at: str = "") -> list[str]:
    """The paths of what is in `before` and not in `after`."""
    match before, after:
        case dict(), dict():
            return [
                path
                for key, value in before.items()
                for path in (
                    lost(value, after[key], f"{at}/{key}") if key in after else [f"{at}/{key}"]
                )
            ]
        case list(), list() if len(before) == len(after):
            pairs = enumerate(zip(before, after, strict=True))
            return [path for n, (one, other) in pairs for path in lost(one, other, f"{at}/{n}")]
    return [] if before == after else [at]


def test_a_planted_typo_would_be_found():
    page = json.loads(json.dumps(next(iter(PAGES.values()))))
    page["refrsh"] = "30s"
    panels(page)[0]["options"]["grphMode"] = "area"
    panels(page)[0]["targets"][0]["legnd"] = "x"
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(page)))
    assert len(lost(page, again)) == 3


@each_page
def test_the_linter_has_no_complaint(page):
    assert list(findings(page)) == []


@each_page
def test_each_panel_says_what_it_is_and_what_to_do(page):
    titles = [panel["title"] for panel in panels(page)]
    assert len(set(titles)) == len(titles)
    for panel in panels(page):
        assert len(panel["description"]) > 40, panel["title"]
        units = [panel["fieldConfig"]["defaults"].get("unit")]
        for override in panel["fieldConfig"]["overrides"]:
            units += [one["value"] for one in override["properties"] if one["id"] == "unit"]
        assert any(units), panel["title"]
        assert panel["type"] in (*NEEDS_UNIT, "state-timeline", "table")


@each_page
def test_a_description_names_panels_runbooks_and_files_that_are_there(page):
    headings = {one["title"] for one in page["panels"]}
    for panel in panels(page):
        text = panel["description"]
        named = set(re.findall(r"(?<= )'([A-Z][^']+)'", text))
        assert named <= headings, panel["title"]
        assert panel["title"] not in named
        runbooks = set(re.findall(r"Streamtrace[A-Z]\w+", text))
        assert runbooks <= {rule["alert"] for rule in ALERTS}, panel["title"]
        for path in re.findall(r"docs/[a-z-]+\.md", text):
            assert (ROOT / path).exists(), path


@each_page
def test_the_pages_are_linked_and_read_by_grafana_from_10_4_on(page):
    assert page["schemaVersion"] == 39
    assert page["links"][0]["tags"] == page["tags"] == ["streamtrace"]
    assert page["links"][0]["includeVars"]
    assert page["links"][0]["keepTime"]
    assert re.fullmatch(r"streamtrace-[a-z-]+", page["uid"])


def named(expression: str) -> list[tuple[str, dict[str, str]]]:
    return [(one.name, labels_of(one)) for one in selectors(expression)]


def base(name: str) -> str:
    return name if name in BY_NAME else re.sub(r"_(bucket|sum|count)$", "", name)


def used() -> list[tuple[str, str, dict[str, str]]]:
    """Where, which series, which matchers: of all queries of panels, variables and rules."""
    found = []
    for page in PAGES.values():
        for where, expression in expressions(page):
            found += [(where, *one) for one in named(expression)]
        for variable in page["templating"]["list"]:
            if variable["type"] == "query":
                inner, label = re.fullmatch(
                    r"label_values\((.+), (\w+)\)", variable["query"]["query"]
                ).groups()
                found += [
                    (variable["name"], name, {**labels, label: ""}) for name, labels in named(inner)
                ]
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for rule in RULES:
        where = rule.get("alert", rule.get("record"))
        found += [(where, *one) for one in named(rule["expr"]) if one[0] not in recorded]
    return found


def test_each_series_in_use_is_a_metric_of_the_table_with_these_labels():
    for where, name, labels in used():
        if name in OTHERS:
            continue
        metric = BY_NAME[base(name)]
        assert (name == metric.name) == (metric.kind != "histogram"), where
        assert set(labels) <= {*metric.labels, "job", "instance", "le"}, where


def test_each_grouping_is_by_labels_that_the_series_have():
    for page in PAGES.values():
        for where, expression in expressions(page):
            allowed = {"job", "instance", "le"}
            for name, _ in named(expression):
                if name not in OTHERS:
                    allowed |= set(BY_NAME[base(name)].labels)
            for labels in re.findall(r"\bby \(([^)]*)\)", expression):
                assert {one.strip() for one in labels.split(",")} <= allowed, where


def test_each_metric_is_in_a_panel_or_a_rule_or_it_is_said_why_not():
    shown = {base(name) for _, name, _ in used()}
    assert set(BY_NAME) - shown == set(IN_NO_PANEL)


def test_each_alert_says_what_happens_and_has_a_runbook():
    text = (ROOT / "docs" / "runbooks.md").read_text()
    sections = {one.lower() for one in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    named = {rule["alert"].lower() for rule in ALERTS}
    assert sections == named
    for rule in ALERTS:
        told = rule["annotations"]
        assert told["runbook_url"].endswith(f"docs/runbooks.md#{rule['alert'].lower()}")
        assert told["summary"]
        assert told["description"]
        assert rule["labels"]["severity"] in ("page", "ticket")


# --- provisioning ------------------------------------------------------------------------------

FOLDER = ROOT / "dashboards"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_compose_mounts_only_what_is_there_and_pins_each_image():
    for name, service in COMPOSE["services"].items():
        assert re.fullmatch(r"[a-z/-]+:v?[0-9][0-9.]*(-slim)?", service["image"]), name
        for mount in service.get("volumes", ()):
            assert (FOLDER / mount.split(":")[0]).exists(), mount


def test_grafana_finds_the_dashboards_and_links_points_to_a_source_that_is_there():
    provisioning = FOLDER / "grafana" / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "streamtrace.yaml").read_text())
    uids = {one["uid"] for one in sources["datasources"]}
    prometheus, tempo = sources["datasources"]
    for link in prometheus["jsonData"]["exemplarTraceIdDestinations"]:
        assert link["name"] == "trace_id"
        assert link["datasourceUid"] in uids
    providers = yaml.safe_load((provisioning / "dashboards" / "streamtrace.yaml").read_text())
    path = providers["providers"][0]["options"]["path"]
    mounts = dict(one.split(":")[:2] for one in COMPOSE["services"]["grafana"]["volumes"])
    assert path in mounts.values()
    for one in (prometheus, tempo):
        host, port = re.fullmatch(r"http://(\w+):(\d+)", one["url"]).groups()
        assert host in COMPOSE["services"]
        assert port in ("9090", "3200")


def test_prometheus_scrapes_the_app_and_reads_the_rules():
    config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert f"--port {port}" in COMPOSE["services"][host]["command"]
    for pattern in config["rule_files"]:
        assert list((FOLDER / "prometheus").glob(pattern))
