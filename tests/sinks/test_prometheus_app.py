"""`/metrics`: in the right format, at any path, and never in the way of the event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from support.prometheus import parse, record
from support.summaries import completed_run

from streamtrace.sinks.prometheus import PrometheusSink, metrics_app

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    record(PrometheusSink(registry=registry), completed_run())
    return registry


async def ask(
    app: Any, path: str = "/metrics", method: str = "GET", accept: str | bytes | None = None
) -> httpx2.Response:
    headers = {} if accept is None else {"accept": accept}
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.request(method, path, headers=headers)


async def test_a_scrape_gets_the_text_format(registry: CollectorRegistry) -> None:
    answer = await ask(metrics_app(registry))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["content-length"] == str(len(answer.content))
    ended = parse(answer.text)["streamtrace_streams_total"]
    assert sum(one.value for one in ended) == 1
    assert "trace_id" not in answer.text


async def test_who_accepts_openmetrics_gets_it_with_exemplars(registry: CollectorRegistry) -> None:
    answer = await ask(metrics_app(registry), accept=f"{OPENMETRICS};q=0.8,text/plain;q=0.5")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    samples = [one for family in parse_openmetrics(answer.text) for one in family.samples]
    assert any(one.exemplar for one in samples)


@pytest.mark.parametrize(
    "accept",
    [
        b"",
        b"*/*",
        b"text/plain;version=x;",
        b"application/openmetrics-text;version=x",
        b"application/openmetrics-text;version=99.1;escaping=nonesuch",
        b"\xff;;=,",
    ],
)
async def test_any_accept_header_is_answered(registry: CollectorRegistry, accept: bytes) -> None:
    answer = await ask(metrics_app(registry), accept=accept)
    assert answer.status_code == 200
    assert "streamtrace_streams" in answer.text


async def test_head_tells_the_length_and_sends_nothing(registry: CollectorRegistry) -> None:
    answer = await ask(metrics_app(registry), method="HEAD")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 1000
    assert answer.content == b""


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(registry: CollectorRegistry, method: str) -> None:
    answer = await ask(metrics_app(registry), method=method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/metrics", 200), ("/metrics/", 200), ("/favicon.ico", 404)]
)
async def test_as_an_app_of_its_own_it_knows_its_paths(
    registry: CollectorRegistry, path: str, status: int
) -> None:
    assert (await ask(metrics_app(registry), path)).status_code == status


@pytest.mark.parametrize("path", ["/metrics", "/internal/prom"])
async def test_a_router_may_put_it_at_any_path(registry: CollectorRegistry, path: str) -> None:
    routed = Starlette(routes=[Route(path, metrics_app(registry))])
    assert (await ask(routed, path)).status_code == 200
    assert (await ask(routed, "/elsewhere")).status_code == 404


async def test_it_can_be_mounted(registry: CollectorRegistry) -> None:
    inner = Starlette(routes=[Mount("/metrics", metrics_app(registry))])
    outer = Starlette(routes=[Mount("/api", inner)])
    assert (await ask(inner, "/metrics/")).status_code == 200
    assert (await ask(outer, "/api/metrics/")).status_code == 200


async def test_it_takes_part_in_the_lifespan(registry: CollectorRegistry) -> None:
    received = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(received)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await metrics_app(registry)({"type": "lifespan"}, receive, send)
    assert [one["type"] for one in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_a_websocket_is_turned_away(registry: CollectorRegistry) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await metrics_app(registry)({"type": "websocket", "path": "/"}, receive, send)
    assert [one["type"] for one in sent] == ["websocket.close"]


class Elsewhere:
    """A collector that notes on which thread it is asked, and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.threads: set[int] = set()
        self._error = error

    def describe(self) -> Iterable[Any]:
        return []

    def collect(self) -> Iterable[Any]:
        self.threads.add(threading.get_ident())
        if self._error is not None:
            raise self._error
        return []


async def test_the_page_is_made_off_the_event_loop(registry: CollectorRegistry) -> None:
    elsewhere = Elsewhere()
    registry.register(elsewhere)
    await ask(metrics_app(registry))
    assert len(elsewhere.threads) == 1
    assert threading.get_ident() not in elsewhere.threads


async def test_a_collector_that_fails_is_a_500_that_tells_nothing(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(Elsewhere(RuntimeError("secret")))
    answer = await ask(metrics_app(registry))
    assert answer.status_code == 500
    assert "secret" not in answer.text + caplog.text


async def test_the_default_registry_is_that_of_the_client_library() -> None:
    counter = Counter("streamtrace_test_of_the_default_registry", "Only here.")
    counter.inc(3)
    answer = await ask(metrics_app())
    (sample,) = parse(answer.text)["streamtrace_test_of_the_default_registry_total"]
    assert sample.value == 3
