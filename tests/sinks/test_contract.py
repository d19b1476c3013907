"""All sinks of ours keep the contract that is shipped for those of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from prometheus_client import CollectorRegistry
from support.otlp import free_port

from streamtrace import Sink
from streamtrace.sinks.jsonl import JsonLinesSink
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus import PrometheusSink
from streamtrace.testing import SinkContract
from streamtrace.testing.sink_contract import run


class TestOTelSink(SinkContract):
    def make(self) -> Sink:
        endpoint = f"http://127.0.0.1:{free_port()}/v1/traces"
        return OTelSink(exporter=OTLPSpanExporter(endpoint=endpoint, timeout=1))


class TestLangfuseSink(SinkContract):
    def make(self) -> Sink:
        url = f"http://127.0.0.1:{free_port()}"
        return LangfuseSink(public_key="pk", secret_key="sk", base_url=url, timeout_s=1)


class TestPrometheusSink(SinkContract):
    def make(self) -> Sink:
        return PrometheusSink(registry=CollectorRegistry())


class TestJsonLinesSink(SinkContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.jsonl"

    def make(self) -> Sink:
        return JsonLinesSink(self.path)


class TestAJsonLinesSinkWithNowhereToWrite(SinkContract):
    def make(self) -> Sink:
        return JsonLinesSink(Path(os.devnull) / "no" / "file")


class Forgetful(Sink):
    """Takes runs and tells nobody where they went."""

    name = "forgetful"
    taken = 0

    def end(self, info: object, summary: object) -> None:
        self.taken += 1


def test_a_sink_that_does_not_count_fails_the_contract() -> None:
    class Contract(SinkContract):
        def make(self) -> Sink:
            return Forgetful()

    with pytest.raises(AssertionError):
        Contract().test_each_run_is_exported_dropped_or_queued()
    with pytest.raises(AssertionError):
        Contract().test_a_run_after_the_end_is_dropped_and_counted()


def test_the_run_of_the_contract_is_a_real_one() -> None:
    summary = run()
    assert summary.tool_calls[0].status == "completed"
    assert summary.usage is not None
    assert summary.to_json()
