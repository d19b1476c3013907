"""Runs as Prometheus metrics, and an ASGI app that shows them.

The metrics are those of `streamtrace.core.metrics`. All values are counters, gauges and histograms
of the client library, nothing is made up at a scrape, so they are right under several worker
processes (`PROMETHEUS_MULTIPROC_DIR`) too.
"""

from streamtrace.sinks.prometheus.app import mark_process_dead, metrics_app
from streamtrace.sinks.prometheus.sink import PrometheusSink

__all__ = ["PrometheusSink", "mark_process_dead", "metrics_app"]
