"""Where the records of all sinks are, as a scrape shows it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support import summaries
from support.prometheus import record, scrape, sink_counts, value

from streamtrace.core.sink import Sink, SinkStats
from streamtrace.core.summary import RunSummary
from streamtrace.sinks.prometheus import PrometheusSink
from streamtrace.sinks.queued import QueuedSink

STREAM = {"route": "/agents/{name}/runs", "dialect": "ag-ui"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def sink(registry: CollectorRegistry) -> PrometheusSink:
    return PrometheusSink(registry=registry)


class Elsewhere(QueuedSink):
    """A sink whose export waits until the test says so."""

    def __init__(self, name: str = "elsewhere", **options: Any) -> None:
        super().__init__(interval_s=0, **options)
        self.name = name
        self.dropping = 0

    def export(self, batch: list[RunSummary]) -> dict[str, int]:
        return {"export_error": self.dropping} if self.dropping else {}


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    other = Elsewhere()
    yield other
    other.close(5)


def test_a_scrape_knows_where_the_records_of_all_sinks_are(
    sink: PrometheusSink, registry: CollectorRegistry, elsewhere: Elsewhere
) -> None:
    sink.track([elsewhere, sink])
    run = summaries.completed_run()
    info = summaries.stream_info(run)
    for number in range(1, 6):
        record(sink, run)
        elsewhere.end(info, run)
        counts = sink_counts(registry, "elsewhere")
        assert counts["accepted"] == number
        assert counts["accepted"] == counts["exported"] + counts["dropped"] + counts["queued"]
    assert elsewhere.flush(5)
    assert sink_counts(registry, "elsewhere") == {
        "accepted": 5, "exported": 5, "dropped": 0, "queued": 0
    }  # fmt: skip
    assert sink_counts(registry, "prometheus")["exported"] == 5


def test_drops_are_counted_by_reason_and_the_expected_ones_are_there_at_zero(
    sink: PrometheusSink, registry: CollectorRegistry, elsewhere: Elsewhere
) -> None:
    sink.track([elsewhere])
    dropped = {
        one.labels["reason"]: one.value
        for one in scrape(registry)["streamtrace_sink_dropped_total"]
    }
    assert dropped == {"queue_full": 0, "export_error": 0, "shutdown": 0}
    elsewhere.dropping = 1
    run = summaries.completed_run()
    elsewhere.end(summaries.stream_info(run), run)
    assert elsewhere.flush(5)
    dropped = {
        one.labels["reason"]: one.value
        for one in scrape(registry)["streamtrace_sink_dropped_total"]
    }
    assert dropped == {"queue_full": 0, "export_error": 1, "shutdown": 0}


def test_sinks_of_one_name_add_up_and_one_with_two_trackers_counts_once(
    registry: CollectorRegistry, elsewhere: Elsewhere
) -> None:
    twin = Elsewhere()
    first, second = PrometheusSink(registry=registry), PrometheusSink(registry=registry)
    first.track([elsewhere, twin])
    second.track([elsewhere])
    run = summaries.completed_run()
    for other in (elsewhere, twin):
        other.end(summaries.stream_info(run), run)
        assert other.flush(5)
    record(first, run)
    record(second, run)
    assert sink_counts(registry, "elsewhere")["exported"] == 2
    twin.close(5)


class Told(Sink):
    """A sink that says what the test told it."""

    name = "told"
    now = SinkStats()

    def stats(self) -> SinkStats:
        return self.now


def test_counts_that_begin_again_go_on_rising(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    other = Told()
    sink.track([other])
    for accepted in (3, 5, 2, 4):
        other.now = SinkStats(accepted=accepted, exported=accepted)
        sink.sync()
    assert sink_counts(registry, "told")["accepted"] == 5 + 4


def test_a_sink_that_is_gone_has_nothing_queued(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    other = Told()
    other.now = SinkStats(accepted=3, queued=3)
    sink.track([other])
    assert sink_counts(registry, "told")["queued"] == 3
    del other
    gc.collect()
    assert sink_counts(registry, "told") == {
        "accepted": 3, "exported": 0, "dropped": 0, "queued": 0
    }  # fmt: skip


def test_a_sink_that_cannot_tell_its_counts_hurts_nobody(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    class Broken(Sink):
        name = "broken"

        def stats(self) -> SinkStats:
            raise RuntimeError("no")

    broken, told = Broken(), Told()
    told.now = SinkStats(accepted=1, exported=1)
    sink.track([broken, told])
    record(sink, summaries.completed_run())
    assert sink_counts(registry, "told")["exported"] == 1
    assert sink.stats().exported == 1


def test_a_scrape_tells_how_exports_go(
    sink: PrometheusSink, registry: CollectorRegistry, elsewhere: Elsewhere
) -> None:
    sink.track([elsewhere, sink])
    run = summaries.completed_run()
    told = {"sink": "elsewhere"}
    assert value(registry, "streamtrace_sink_queue_capacity", **told) == 2048
    for failing in (0, 0, 1):
        elsewhere.dropping = failing
        elsewhere.end(summaries.stream_info(run), run)
        assert elsewhere.flush(10)
    assert value(registry, "streamtrace_sink_exports_total", **told, result="ok") == 2
    assert value(registry, "streamtrace_sink_exports_total", **told, result="error") == 1
    assert value(registry, "streamtrace_sink_export_seconds_count", **told) == 3
    assert 0 < value(registry, "streamtrace_sink_export_seconds_sum", **told) < 10
    last = value(registry, "streamtrace_sink_last_success_timestamp_seconds", **told)
    assert abs(time.time() - last) < 60


def test_a_sink_without_a_queue_has_no_exports(
    sink: PrometheusSink, registry: CollectorRegistry
) -> None:
    sink.track([sink])
    record(sink, summaries.completed_run())
    samples = scrape(registry)
    assert not [name for name in samples if "export_seconds" in name or "capacity" in name]
