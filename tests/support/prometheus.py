"""Reading a registry as a Prometheus server does."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from support.summaries import stream_info

from streamtrace.core.summary import RunSummary
from streamtrace.sinks.prometheus import PrometheusSink

Samples = dict[str, list[Sample]]


def record(sink: PrometheusSink, *runs: RunSummary) -> None:
    """Streams that start and end, one after the other."""
    for run in runs:
        info = stream_info(run)
        sink.start(info)
        sink.end(info, run)


def parse(text: str) -> Samples:
    """All samples of a page in the text format, by name."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def scrape(registry: CollectorRegistry) -> Samples:
    """All samples of a registry, by name."""
    return parse(generate_latest(registry).decode())


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """The one sample with these labels, `None` if there is none."""
    values = [one.value for one in scrape(registry).get(name, []) if one.labels == labels]
    return values[0] if values else None


def by_label(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    """The values of one metric by one of its labels."""
    return {one.labels[label]: one.value for one in scrape(registry).get(name, [])}


def sink_counts(registry: CollectorRegistry, name: str) -> dict[str, float]:
    """Where the records of a sink are, as a scrape shows it."""
    samples = scrape(registry)
    counts = {}
    for what in ("accepted_total", "exported_total", "dropped_total", "queued"):
        found = samples.get(f"streamtrace_sink_{what}", [])
        counts[what.removesuffix("_total")] = sum(
            one.value for one in found if one.labels["sink"] == name
        )
    return counts
