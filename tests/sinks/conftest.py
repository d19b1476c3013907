"""Fixtures for the tests of sinks: nothing of this machine's settings, and a real OTLP receiver.

What arrives at a receiver must not depend on the way that it took: every test that has one runs
twice, once with the straight way closed, unless it says which `way` it is for.
"""

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    told = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "receiver" in metafunc.fixturenames and "way" not in told:
        metafunc.parametrize("way", ["straight", "sdk"], indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    way: str = getattr(request, "param", "straight")
    if way == "sdk":
        for module in ("otel_straight", "langfuse.pipe"):
            monkeypatch.setattr(f"streamtrace.sinks.{module}.straight", lambda *_: None)
    return way
