"""Sinks from the environment: which variables switch on what, and how much content they may see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamtrace import environment
from streamtrace.core.errors import ConfigError
from streamtrace.core.sink import ContentMode
from streamtrace.environment import content_from_env
from streamtrace.observe.fanout import Fanout
from streamtrace.sinks import env
from streamtrace.sinks.env import sinks_from_env
from streamtrace.testing import RecordingSink

OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
LANGFUSE = {
    "LANGFUSE_PUBLIC_KEY": "pk-lf-1",
    "LANGFUSE_SECRET_KEY": "sk-lf-1",
    "LANGFUSE_BASE_URL": "http://127.0.0.1:1",
}
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
ROOT = Path(__file__).parent.parent.parent


def made(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, ContentMode | None]:
    """The sinks of a process with this environment, and what each may see."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "LANGFUSE_", "STREAMTRACE_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sinks = sinks_from_env()
    modes = Fanout(sinks, None, None, os.environ).modes("/any")
    for sink in sinks:
        sink.close(5)
    return {sink.name: mode for sink, mode in zip(sinks, modes, strict=True)}


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, []),
        (OTLP, ["otel"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, ["otel"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, []),
        ({**OTLP, "OTEL_TRACES_EXPORTER": "none"}, []),
        ({**OTLP, "OTEL_TRACES_EXPORTER": " OTLP "}, ["otel"]),
        ({**OTLP, "OTEL_TRACES_EXPORTER": "console"}, []),
        ({**OTLP, "OTEL_TRACES_EXPORTER": "console, otlp"}, ["otel"]),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otel"]),
        ({**OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": " HTTP/Protobuf "}, ["otel"]),
        ({**OTLP, "OTEL_SDK_DISABLED": "TRUE"}, []),
        ({**OTLP, "OTEL_SDK_DISABLED": "false"}, ["otel"]),
        (LANGFUSE, ["langfuse"]),
        ({"LANGFUSE_PUBLIC_KEY": "pk-lf-1"}, []),
        ({"LANGFUSE_SECRET_KEY": "sk-lf-1"}, []),
        ({**LANGFUSE, "LANGFUSE_TRACING_ENABLED": "False"}, []),
        ({**LANGFUSE, "OTEL_SDK_DISABLED": "true"}, []),
        ({"STREAMTRACE_PROMETHEUS": "1"}, ["prometheus"]),
        ({"STREAMTRACE_PROMETHEUS": "Yes"}, ["prometheus"]),
        ({"STREAMTRACE_PROMETHEUS": "0"}, []),
        ({"STREAMTRACE_PROMETHEUS": ""}, []),
        ({"STREAMTRACE_JSONL": "-"}, ["jsonl"]),
        (
            {**OTLP, **LANGFUSE, "STREAMTRACE_PROMETHEUS": "on", "STREAMTRACE_JSONL": "-"},
            ["otel", "langfuse", "jsonl", "prometheus"],
        ),
    ],
)
def test_each_sink_is_switched_on_by_its_own_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], names: list[str]
) -> None:
    assert list(made(monkeypatch, **variables)) == names


def test_json_lines_go_to_the_path_that_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from support.summaries import completed_run, stream_info

    monkeypatch.delenv("STREAMTRACE_CONTENT", raising=False)
    (sink,) = sinks_from_env({"STREAMTRACE_JSONL": str(tmp_path / "runs.jsonl")})
    sink.end(stream_info(completed_run()), completed_run())
    sink.close(5)
    assert (tmp_path / "runs.jsonl").read_text().count("\n") == 1


def test_a_switch_that_is_neither_on_nor_off_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"STREAMTRACE_PROMETHEUS is 'maybe'; accepted are 1, t"):
        sinks_from_env({"STREAMTRACE_PROMETHEUS": "maybe"})


@pytest.mark.parametrize(
    "variables",
    [
        {**OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        {**OTLP, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "carrier-pigeon"},
        {**LANGFUSE, "LANGFUSE_BASE_URL": "cloud.langfuse.com"},
        {**LANGFUSE, "LANGFUSE_TRACING_ENVIRONMENT": "My Production"},
    ],
)
def test_values_of_others_that_are_not_known_leave_out_one_sink_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variables: dict[str, str]
) -> None:
    monkeypatch.setattr(env, "WARNINGS", type(env.WARNINGS)())
    assert list(made(monkeypatch, **variables, STREAMTRACE_JSONL="-")) == ["jsonl"]
    assert list(variables)[-1] in caplog.text
    assert "this sink is left out" in caplog.text
    assert "sk-lf-1" not in caplog.text


WITHOUT_THE_EXTRA = """
import sys
sys.modules[{package!r}] = None
from streamtrace.sinks.env import sinks_from_env
from streamtrace.testing import RecordingSink
assert sinks_from_env() == []
"""


@pytest.mark.parametrize(
    ("variables", "package"), [(OTLP, "opentelemetry"), (LANGFUSE, "langfuse")]
)
def test_a_variable_of_others_without_its_extra_is_only_a_warning(
    variables: dict[str, str], package: str
) -> None:
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA.format(package=package)],
        env={"PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert re.search(r"_\w+ is set, but .* pip install 'streamtrace\[", told.stderr)
    assert "sk-lf-1" not in told.stderr


# --- content -------------------------------------------------------------------------------------

ALL = {**OTLP, **LANGFUSE, "STREAMTRACE_JSONL": "-", "STREAMTRACE_PROMETHEUS": "1"}


@pytest.mark.parametrize(
    ("variables", "otel", "langfuse", "jsonl"),
    [
        ({}, "off", "off", "off"),
        ({"STREAMTRACE_CONTENT": "full"}, "full", "full", "full"),
        ({"STREAMTRACE_CONTENT": "HASH"}, "hash", "hash", "hash"),
        ({"STREAMTRACE_CONTENT": ""}, "off", "off", "off"),
        ({"STREAMTRACE_CONTENT_OTEL": "full"}, "full", "off", "off"),
        ({"STREAMTRACE_CONTENT_LANGFUSE": "hash"}, "off", "hash", "off"),
        ({"STREAMTRACE_CONTENT_JSONL": "full"}, "off", "off", "full"),
        (
            {"STREAMTRACE_CONTENT": "full", "STREAMTRACE_CONTENT_OTEL": "off"},
            "off",
            "full",
            "full",
        ),
        ({CAPTURE: "SPAN_ONLY"}, "full", "full", "off"),
        ({CAPTURE: "span_and_event"}, "full", "full", "off"),
        ({CAPTURE: "EVENT_ONLY"}, "off", "off", "off"),
        ({CAPTURE: "NO_CONTENT", "STREAMTRACE_CONTENT": "full"}, "off", "off", "full"),
        ({CAPTURE: "SPAN_ONLY", "STREAMTRACE_CONTENT": "off"}, "off", "off", "off"),
        ({CAPTURE: "SPAN_ONLY", "STREAMTRACE_CONTENT": "hash"}, "hash", "hash", "hash"),
        ({CAPTURE: "NO_CONTENT", "STREAMTRACE_CONTENT_OTEL": "full"}, "full", "off", "off"),
    ],
)
def test_content_is_off_unless_switched_on_and_the_stricter_setting_holds(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    otel: ContentMode,
    langfuse: ContentMode,
    jsonl: ContentMode,
) -> None:
    seen = made(monkeypatch, **ALL, **variables)
    assert (seen["otel"], seen["langfuse"], seen["jsonl"]) == (otel, langfuse, jsonl)


@pytest.mark.parametrize("value", ["true", "1", "SPANS"])
def test_a_value_that_open_telemetry_does_not_know_means_no_content_and_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    monkeypatch.setattr(environment, "WARNINGS", type(environment.WARNINGS)())
    seen = made(monkeypatch, **OTLP, **{CAPTURE: value})
    assert seen == {"otel": "off"}
    assert f"{CAPTURE} is {value!r}, which means no content; accepted are NO_CONTENT" in caplog.text


@pytest.mark.parametrize("variable", ["STREAMTRACE_CONTENT", "STREAMTRACE_CONTENT_OTEL"])
def test_a_wrong_mode_names_the_variable_the_value_and_what_is_accepted(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is 'yes'; accepted are off, hash, full"):
        content_from_env({variable: "yes"}, "otel")


def test_a_sink_that_no_variable_speaks_of_is_left_open() -> None:
    assert content_from_env({}, "of-somebody") is None
    assert content_from_env({CAPTURE: "SPAN_ONLY"}, "of-somebody") is None
    assert content_from_env({"STREAMTRACE_CONTENT": "hash"}, "of-somebody") == "hash"


@pytest.mark.parametrize("mode", ["full", "off"])
def test_code_comes_before_the_environment(mode: ContentMode) -> None:
    environ = {"STREAMTRACE_CONTENT": "hash"}
    sink = RecordingSink(content=None)
    assert Fanout([sink], mode, None, environ).modes("/any") == (mode,)
    assert Fanout([sink], {"/this": mode}, None, environ).modes("/this") == (mode,)
    assert Fanout([sink], {"/this": mode}, None, environ).modes("/other") == ("hash",)


# --- the page ------------------------------------------------------------------------------------


def test_every_variable_that_is_read_is_on_the_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    pattern = r"\b(?:OTEL|LANGFUSE|STREAMTRACE|PROMETHEUS)_[A-Z_]*[A-Z]\b"
    read: set[str] = set()
    for file in (ROOT / "streamtrace").rglob("*.py"):
        read |= set(re.findall(rf'"({pattern})"', file.read_text()))
    assert read
    assert read - set(re.findall(pattern, page)) == set()
