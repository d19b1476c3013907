"""Fixtures for the tests of sinks: nothing of this machine's settings, and a real OTLP receiver."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.otlp import OtlpReceiver

from streamtrace.sinks.langfuse.sink import RELEASES


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.startswith(("LANGFUSE_", "OTEL_")) or variable in RELEASES:
            monkeypatch.delenv(variable)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running
