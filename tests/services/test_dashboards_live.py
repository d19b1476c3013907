"""Every query of every panel, variable, rule and alert, asked of a real Prometheus that scrapes the
demo app under a load in which streams end in every way."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.grafana import expressions
from support.otlp import OtlpReceiver
from support.prometheus_server import PROMETHEUS, PROMTOOL, Prometheus, prometheus
from support.servers import serving

from dashboards.demo.load import run as run_load
from dashboards.source.__main__ import files
from streamtrace.core.metrics import METRICS

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus: .ci/services")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dashboards"
FILES = dict(files())
PAGES = {name: json.loads(text) for name, text in FILES.items() if name.endswith(".json")}
RULES = {name: yaml.safe_load(text) for name, text in FILES.items() if name.endswith(".yml")}
JOB = "demo"
ROUNDS = 3
TIMES = {"$__rate_interval": "30s", "$__range": "1m", "$__interval": "5s"}

EMPTY = {
    "annotation Alerts": "no alert has fired: each must hold for minutes first",
    "StreamtraceMetricsAbsent: 0": "the target is there",
    "StreamtraceDisconnectSpike: 1": "compares with a day ago, and there was none",
}
"""Queries without a value under this load, with the reason."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen three rounds of the load, and scraped after each."""
    scratch = tmp_path_factory.mktemp("prometheus")
    rules = []
    for name, body in RULES.items():
        for group in body["groups"]:
            group["interval"] = "1s"
        path = scratch / Path(name).name
        path.write_text(yaml.safe_dump(body))
        rules.append(path)
    with OtlpReceiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        uvicorn = "uvicorn-httptools-uvloop"
        log = scratch / "app.log"
        with serving(uvicorn, "dashboards.demo.app:app", ROOT, log, env, ready="/") as app:
            target = f"127.0.0.1:{app.port}"
            with prometheus(scratch / "server", {JOB: target}, rules) as running:
                for _ in range(ROUNDS):
                    asyncio.run(run_load(f"http://{target}", 1))
                    running.wait_for_scrapes(JOB, 2)
                yield running


def filled_in(expression: str) -> str:
    """A query as Grafana sends it, with every variable on "All"."""
    for name, value in TIMES.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$(job|instance|route|dialect|model)\b", ".+", expression)


def wrong(samples: list[dict[str, Any]]) -> str | None:
    """What is wrong with an answer."""
    if not samples:
        return "empty"
    values = [float(one["value"][1]) for one in samples]
    return "only NaN" if all(map(math.isnan, values)) else None


def queries() -> Iterator[tuple[str, str]]:
    for page in PAGES.values():
        yield from expressions(page)


def operands() -> Iterator[tuple[str, str]]:
    """The parts of the alerts' conditions that have a value whether or not they are met."""
    for body in RULES.values():
        for group in body["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    yield rule["record"], rule["expr"]
                    continue
                for number, part in enumerate(
                    re.split(r"\n(?:and|unless)\n|> 3 \*\n", rule["expr"])
                ):
                    value = re.sub(r"\s*> [0-9.]+( \* [0-9.]+)?\s*$", "", part)
                    window = rule["labels"].get("long_window", "")
                    yield f"{rule['alert']}{window}: {number}", value


@pytest.mark.timeout(180)
def test_every_query_has_a_value(server: Prometheus):
    found = {
        f"{where}": problem
        for where, expression in (*queries(), *operands())
        if (problem := wrong(server.query(filled_in(expression))))
    }
    assert found == dict.fromkeys(EMPTY, "empty")


def test_every_alert_is_a_valid_expression_and_every_rule_is_healthy(server: Prometheus):
    groups = server.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == sum(len(g["rules"]) for body in RULES.values() for g in body["groups"])
    assert {rule["health"] for rule in rules} == {"ok"}, [r.get("lastError") for r in rules]


def test_every_variable_has_values(server: Prometheus):
    for page in PAGES.values():
        for variable in page["templating"]["list"]:
            if variable["type"] != "query":
                continue
            series, label = re.fullmatch(
                r"label_values\((.+), (\w+)\)", variable["query"]["query"]
            ).groups()
            values = server.get(f"label/{label}/values", **{"match[]": filled_in(series)})
            assert values, variable["name"]


def test_the_load_moves_every_metric(server: Prometheus):
    """A panel whose series stay at zero has shown nothing."""
    still = []
    for metric in METRICS:
        series = f"{metric.name}_sum" if metric.kind == "histogram" else metric.name
        if not server.query(f"max_over_time({series}[10m]) > 0"):
            still.append(metric.name)
    assert still == []


def test_the_load_ends_streams_in_every_way(server: Prometheus):
    ended = {
        one["metric"]["status"]
        for one in server.query("sum by (status) (streamtrace_streams_total) > 0")
    }
    assert ended == {
        "completed", "error", "disconnected", "truncated", "timeout", "input_required", "drained"
    }  # fmt: skip
    dropped = server.query("sum by (sink, reason) (streamtrace_sink_dropped_total) > 0")
    told = {(one["metric"]["sink"], one["metric"]["reason"]) for one in dropped}
    assert {("refusing", "export_error"), ("overloaded", "queue_full")} <= told


@pytest.mark.parametrize("name", [one.name for one in METRICS if one.exemplar])
def test_exemplars_open_the_trace_of_their_stream(server: Prometheus, name: str):
    found = server.get("query_exemplars", query=f"{name}_bucket", start="0", end="9999999999")
    ids = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
    assert ids
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)


def test_promtool_has_no_complaint():
    assert PROMTOOL is not None
    rules = sorted(map(str, (FOLDER / "prometheus" / "rules").glob("*.yml")))
    tests = sorted(map(str, (FOLDER / "prometheus" / "tests").glob("*.yml")))
    for arguments in (
        ["check", "rules", "--lint=all", "--lint-fatal", *rules],
        ["test", "rules", *tests],
    ):
        ran = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
