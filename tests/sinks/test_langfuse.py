"""The Langfuse sink over real HTTP: what arrives, with which settings, and what is counted."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from langfuse._client import environment_variables
from langfuse._utils.environment import common_release_envs
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from support.otlp import OtlpReceiver, free_port
from support.summaries import (
    CANARY,
    EXAMPLES,
    MS,
    STARTED_AT_NS,
    completed_run,
    content,
    disconnected_run,
    failed_run,
    generation,
    minimal_run,
    run_with_status,
    stream_info,
    summaries,
    tool_call,
    trace_ids,
    without_content,
)

from streamtrace.core import names
from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.core.spans import project
from streamtrace.core.summary import (
    Content,
    ErrorInfo,
    Labels,
    RequestFacts,
    RunSummary,
    Status,
    TraceIds,
)
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.langfuse import observations as fields
from streamtrace.sinks.langfuse.observations import observations, usage_details
from streamtrace.sinks.langfuse.sink import RELEASES

KEYS = {"public_key": "pk-lf-test", "secret_key": "sk-lf-test"}
FLUSH_S = 30.0


def make(receiver: OtlpReceiver, **options: Any) -> LangfuseSink:
    return LangfuseSink(**{**KEYS, "base_url": receiver.url, "interval_s": 0, **options})


def send(receiver: OtlpReceiver, *runs: RunSummary, **options: Any) -> list[dict[str, Any]]:
    """The spans that arrive of these runs, by start, the root first."""
    sink = make(receiver, **options)
    for run in runs:
        sink.end(stream_info(run), run)
    assert sink.flush(FLUSH_S)
    assert sink.stats().exported == len(runs)
    sink.close(FLUSH_S)
    is_root = {run.trace.span_id for run in runs if run.trace is not None}
    return sorted(receiver.spans, key=lambda one: (one["span_id"] not in is_root, one["start_ns"]))


def metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        key.removeprefix(fields.METADATA): json.loads(value)
        for key, value in attributes.items()
        if key.startswith(fields.METADATA)
    }


def of(summary: RunSummary, kind: str, **settings: str) -> list[dict[str, Any]]:
    found = [one.attributes for one in observations(summary, **settings)]
    return [one for one in found if one[fields.TYPE] == kind]


# --- what arrives --------------------------------------------------------------------------------


def test_a_run_is_one_trace_of_an_agent_with_its_generations_and_tools(
    receiver: OtlpReceiver,
) -> None:
    run = completed_run()
    root, first, tool, second = send(receiver, run)
    assert run.trace is not None
    assert [one["attributes"][fields.TYPE] for one in (root, first, tool, second)] == [
        "agent",
        "generation",
        "tool",
        "generation",
    ]
    assert {one["trace_id"] for one in (root, first, tool, second)} == {run.trace.trace_id}
    assert (root["span_id"], root["parent_span_id"]) == (
        run.trace.span_id,
        run.trace.parent_span_id,
    )
    assert {one["parent_span_id"] for one in (first, tool, second)} == {root["span_id"]}
    assert [one["name"] for one in (root, first, tool)] == [
        "weather-agent",
        "chat gpt-5-mini",
        "get_weather",
    ]
    assert (root["start_ns"], root["end_ns"]) == (STARTED_AT_NS, STARTED_AT_NS + 2500 * MS)
    assert tool["start_ns"] == STARTED_AT_NS + 500 * MS


def test_a_generation_says_model_parameters_usage_cost_and_first_token(
    receiver: OtlpReceiver,
) -> None:
    _, first, _, second = send(receiver, completed_run())
    said = second["attributes"]
    assert said[fields.MODEL] == "gpt-5-mini-2025-08-07"
    assert json.loads(said[fields.MODEL_PARAMETERS]) == {"temperature": 0.2, "max_tokens": 512}
    assert json.loads(said[fields.COST_DETAILS]) == {"total": 0.000113}
    assert said[fields.COMPLETION_START_TIME] == "2026-11-20T09:20:01.723456Z"
    assert said[fields.OUTPUT] == f"It is sunny in Paris. {CANARY}-text"
    assert metadata(said)[names.RESPONSE_FINISH_REASONS] == ["stop"]
    assert metadata(said)[names.RESPONSE_ID] == "resp_3d4e5f"
    assert json.loads(first["attributes"][fields.OUTPUT]) == {
        "role": "assistant",
        "content": None,
        "thinking": [
            {"type": "thinking", "content": f"The user asks for the weather. {CANARY}-reasoning"}
        ],
        "tool_calls": [GET_WEATHER],
    }


GET_WEATHER = {
    "id": "call_weather_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": f'{{"city":"{CANARY}-arguments"}}'},
}
"""A tool call as Langfuse draws it in a chat message."""


def unanswered_run() -> RunSummary:
    """The normal end of a chat completion: the client has to run the tool."""
    asked = tool_call(status="ready", finished_ns=None, result=Content())
    answer = generation(reasoning=Content(), text=content("Let me look."))
    return completed_run(generations=[answer], tool_calls=[asked])


@pytest.mark.parametrize("kind", ["generation", "agent"])
def test_a_tool_call_that_the_stream_leaves_unanswered_is_output(kind: str) -> None:
    (said,) = of(unanswered_run(), kind)
    assert json.loads(said[fields.OUTPUT]) == {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [GET_WEATHER],
    }
    assert metadata(said)[names.TOOL_CALL_NAMES] == ["get_weather"]
    assert of(unanswered_run(), "tool") == []


@pytest.mark.parametrize("kind", ["generation", "agent"])
def test_without_content_the_names_of_tools_are_metadata(kind: str) -> None:
    (said,) = of(without_content(unanswered_run()), kind)
    assert fields.OUTPUT not in said
    assert metadata(said)[names.TOOL_CALL_NAMES] == ["get_weather"]
    assert metadata(said)[names.TOOL_CALL_IDS] == ["call_weather_1"]


def test_a_run_leaves_nothing_behind() -> None:
    """Of what is written with a library that keeps count of its objects by hand."""
    run = completed_run()
    blocks = []
    for _ in range(2):  # the first thousand fill what is kept to be used again
        for _ in range(1000):
            observations(run)
        blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 500


def test_a_tool_call_without_name_and_arguments_is_drawn_too() -> None:
    """Langfuse takes a missing `arguments` for an empty object, and needs a name."""
    asked = tool_call(name=None, finished_ns=None, arguments=Content(), result=Content())
    (said,) = of(completed_run(generations=[generation()], tool_calls=[asked]), "generation")
    (call,) = json.loads(said[fields.OUTPUT])["tool_calls"]
    assert call == {"id": "call_weather_1", "type": "function", "function": {"name": ""}}


def test_the_messages_of_a_chat_go_as_the_list_that_they_are() -> None:
    """Langfuse draws a list of messages as a chat; half of one is a text."""
    chat = '[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]'
    for text in (chat, chat[:-5]):
        (said,) = of(completed_run(request=RequestFacts(input=content(text))), "agent")
        assert said[fields.INPUT] == text


def test_the_lengths_of_cut_texts_are_metadata() -> None:
    error = ErrorInfo(type="boom", message=content("b", chars=7, truncated=True))
    answer = generation(text=content("a", chars=9, truncated=True))
    run = failed_run(generations=[answer], error=error)
    for kind, chars in (("agent", {"text": 9, "error": 7}), ("generation", {"text": 9})):
        (said,) = of(run, kind)
        told = {names.CONTENT_CHARS[what]: length for what, length in chars.items()}
        assert {**told, names.CONTENT_TRUNCATED: True}.items() <= metadata(said).items()


def test_the_root_says_input_output_outcome_and_times(receiver: OtlpReceiver) -> None:
    said = send(receiver, completed_run())[0]["attributes"]
    assert said[fields.INPUT] == f"What is the weather in Paris? {CANARY}-input"
    assert said[fields.OUTPUT] == f"It is sunny in Paris. {CANARY}-text"
    expected = {
        names.STATUS: "completed",
        names.DIALECT: "ag-ui",
        names.HTTP_ROUTE: "/agents/{name}/runs",
        names.HTTP_RESPONSE_STATUS_CODE: 200,
        names.TIME_TO_FIRST_TOKEN: 0.35,
        names.TIME_TO_FIRST_VISIBLE_TOKEN: 1.6,
        names.RUN_ID: "run-7",
        names.CONVERSATION_ID: "thread-3",
    }
    assert expected.items() <= metadata(said).items()


def test_a_tool_says_its_arguments_and_its_result() -> None:
    (said,) = of(completed_run(), "tool")
    assert said[fields.INPUT] == f'{{"city":"{CANARY}-arguments"}}'
    assert said[fields.OUTPUT] == f'{{"sky":"{CANARY}-result"}}'
    assert fields.LEVEL not in said
    (failed,) = of(completed_run(tool_calls=[tool_call(status="error")]), "tool")
    assert (failed[fields.LEVEL], failed[fields.STATUS_MESSAGE]) == ("ERROR", "tool_error")


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_arrives_whole(receiver: OtlpReceiver, example: str) -> None:
    run = EXAMPLES[example]()
    assert len(send(receiver, run)) == len(project(run))


@pytest.mark.parametrize(
    ("status", "level", "message"),
    [
        (Status.COMPLETED, None, None),
        (Status.ERROR, "ERROR", f"rate_limit_exceeded: too many tokens {CANARY}-error"),
        (Status.TRUNCATED, "WARNING", "truncated"),
        (Status.TIMEOUT, "WARNING", "timeout"),
        (Status.DISCONNECTED, None, None),
        (Status.CANCELLED, None, None),
        (Status.INPUT_REQUIRED, None, None),
        (Status.DRAINED, None, None),
    ],
)
def test_the_outcome_is_level_and_metadata(
    status: Status, level: str | None, message: str | None
) -> None:
    run = run_with_status(status)
    (root,) = of(run, "agent")
    assert (root.get(fields.LEVEL), root.get(fields.STATUS_MESSAGE)) == (level, message)
    assert metadata(root)[names.STATUS] == status
    assert of(run, "generation")[-1].get(fields.LEVEL) == level


def test_without_content_no_text_leaves_the_process(receiver: OtlpReceiver) -> None:
    for make_run in EXAMPLES.values():
        send(receiver, without_content(make_run()))
    assert receiver.spans
    assert CANARY.encode() not in receiver.raw_bytes


def test_with_hashes_the_hash_stands_for_the_text() -> None:
    hashed = Content(chars=3, sha256="ab" * 32)
    run = completed_run(generations=[generation(text=hashed, reasoning=Content())], tool_calls=[])
    assert of(run, "generation")[0][fields.OUTPUT] == f"sha256:{hashed.sha256}"


def test_labels_win_over_settings_and_the_session_falls_back_to_the_thread() -> None:
    (said,) = of(completed_run(), "agent", environment="prod", release="r0")
    assert said[fields.TRACE_ENVIRONMENT] == "staging"
    assert said[fields.RELEASE] == "2026.11.1"
    assert said[fields.SESSION_ID] == "session-4"
    (said,) = of(completed_run(labels=Labels()), "agent", environment="prod", release="r0")
    assert said[fields.TRACE_ENVIRONMENT] == "prod"
    assert said[fields.RELEASE] == "r0"
    assert said[fields.SESSION_ID] == "thread-3"
    assert said[fields.TRACE_NAME] == "invoke_agent"
    assert fields.USER_ID not in said


def test_a_run_of_which_nothing_is_known_still_arrives(receiver: OtlpReceiver) -> None:
    (root,) = send(receiver, minimal_run())
    assert int(root["trace_id"], 16) > 0
    assert root["parent_span_id"] is None
    assert fields.AS_ROOT not in root["attributes"]


@given(run=summaries(hostile=True))
@settings(deadline=None, max_examples=60)
def test_whatever_a_stranger_sends_makes_attributes_that_can_be_encoded(run: RunSummary) -> None:
    for one in observations(run):
        assert one.start_ns <= one.end_ns
        one.name.encode()
        for key, value in one.attributes.items():
            key.encode()
            assert isinstance(value, str | bool | list)
            for text in value if isinstance(value, list) else [str(value)]:
                text.encode()
            if key.startswith((fields.METADATA, fields.TRACE_METADATA)):
                json.loads(str(value))


@given(run=summaries())
@settings(deadline=None, max_examples=60)
def test_usage_buckets_add_up_to_what_was_told(run: RunSummary) -> None:
    for one in run.generations:
        if one.usage is None:
            continue
        details = usage_details(one.usage, split_reasoning=True) or {}
        cached = (one.usage.cached_input_tokens or 0) + (one.usage.cache_write_tokens or 0)
        if one.usage.input_tokens is not None and cached <= one.usage.input_tokens:
            told = sum(count for name, count in details.items() if name.startswith("input"))
            assert told == one.usage.input_tokens
        reasoning = one.usage.reasoning_tokens or 0
        if one.usage.output_tokens is not None and reasoning <= one.usage.output_tokens:
            told = sum(count for name, count in details.items() if name.startswith("output"))
            assert told == one.usage.output_tokens
        assert all(count >= 0 for count in details.values())


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["PUBLIC_KEY", "SECRET_KEY"])
def test_a_missing_key_is_named_at_construction(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in {"PUBLIC_KEY", "SECRET_KEY"} - {missing}:
        monkeypatch.setenv(f"LANGFUSE_{name}", "given")
    monkeypatch.setenv(f"LANGFUSE_{missing}", " ")
    with pytest.raises(ConfigError, match=f"LANGFUSE_{missing}"):
        LangfuseSink()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamtrace.sinks.langfuse.sink.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"streamtrace\[langfuse\]"):
        LangfuseSink(**KEYS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"environment": "Prod"},
        {"environment": "langfuse-prod"},
        {"environment": "x" * 41},
        {"base_url": "cloud.langfuse.com"},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"sample_rate": -0.1},
        {"sample_rate": 1.1},
        {"sample_rate": float("nan")},
    ],
)
def test_a_wrong_setting_is_refused_at_construction(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LangfuseSink(**{**KEYS, **wrong})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LANGFUSE_TRACING_ENVIRONMENT", "Not Good"),
        ("LANGFUSE_SAMPLE_RATE", "half"),
        ("LANGFUSE_SAMPLE_RATE", "50"),
        ("LANGFUSE_TIMEOUT", "soon"),
        ("LANGFUSE_TIMEOUT", "0"),
    ],
)
def test_a_wrong_environment_variable_is_refused_at_construction(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        LangfuseSink(**KEYS)


@pytest.mark.parametrize("variable", ["LANGFUSE_SAMPLE_RATE", "LANGFUSE_TIMEOUT"])
def test_an_empty_number_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, " ")
    LangfuseSink(**KEYS)


def test_the_share_of_traces_is_decided_as_opentelemetry_decides_it(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    """Per trace id, so alike for all of a trace, also where others decide with the same rate."""
    monkeypatch.setenv("LANGFUSE_SAMPLE_RATE", "0.3")
    sampler = TraceIdRatioBased(0.3)

    def is_wanted(ids: TraceIds) -> bool:
        return sampler.should_sample(None, int(ids.trace_id, 16), "").decision.is_sampled()

    # Others at the end: the last of a batch must not keep back those before it.
    traces = sorted((trace_ids(seed) for seed in range(40)), key=is_wanted, reverse=True)
    wanted = {ids.trace_id for ids in traces if is_wanted(ids)}
    runs = [minimal_run(trace=ids) for ids in traces]
    sink = make(receiver)
    for run in runs:
        sink.end(stream_info(run), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert 0 < len(wanted) < len(runs)
    assert {one["trace_id"] for one in receiver.spans} == wanted
    assert sink.stats().exported == len(wanted)
    assert sink.stats().dropped == {"unsampled": len(runs) - len(wanted)}
    assert_balanced(sink)


@pytest.mark.parametrize(("rate", "sent"), [(0, 0), (1, 20)])
def test_all_or_nothing_is_a_share_too(receiver: OtlpReceiver, rate: float, sent: int) -> None:
    """An argument comes before the variable, also if it is zero."""
    edges = [trace_ids(trace_id=high * 16 + low * 16) for high in "1f" for low in "012345678f"]
    sink = make(receiver, sample_rate=rate)
    for ids in edges:
        sink.end(stream_info(run := minimal_run(trace=ids)), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert (len(receiver.spans), sink.stats().exported) == (sent, sent)


@pytest.mark.parametrize(("given", "timeout_s"), [({}, 0.25), ({"timeout_s": 2.0}, 2.0)])
def test_the_timeout_of_the_variable_is_that_of_requests(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], timeout_s: float
) -> None:
    monkeypatch.setenv("LANGFUSE_TIMEOUT", "0.25")
    assert LangfuseSink(**KEYS, **given)._timeout_s == timeout_s


def test_the_release_is_found_where_the_sdk_finds_it(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    assert [*RELEASES] == ["LANGFUSE_RELEASE", *common_release_envs]
    monkeypatch.setenv("LANGFUSE_RELEASE", "")
    monkeypatch.setenv("GITHUB_SHA", "5eed")
    monkeypatch.setenv("DRONE_COMMIT_SHA", "later in the list")
    (root,) = send(receiver, minimal_run())
    assert root["attributes"][fields.RELEASE] == "5eed"


def test_the_page_names_every_variable_of_the_sdk() -> None:
    """What it does here, or why it does nothing."""
    page = (Path(__file__).parents[2] / "docs" / "langfuse.md").read_text()
    known = [name for name in vars(environment_variables) if name.startswith("LANGFUSE_")]
    assert [name for name in [*known, *RELEASES] if f"`{name}`" not in page] == []


@pytest.mark.parametrize("right", ["argument", "LANGFUSE_BASE_URL", "LANGFUSE_HOST"])
def test_the_url_is_found_in_the_order_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver, right: str
) -> None:
    order = ["argument", "LANGFUSE_BASE_URL", "LANGFUSE_HOST"]
    wrong = f"http://127.0.0.1:{free_port()}"
    for variable in order[1:]:
        if order.index(variable) >= order.index(right):
            monkeypatch.setenv(variable, receiver.url if variable == right else wrong)
    send(receiver, minimal_run(), base_url=receiver.url if right == "argument" else None)
    assert receiver.requests[0].path == "/api/public/otel/v1/traces"


def test_langfuse_may_live_below_a_path(receiver: OtlpReceiver) -> None:
    send(receiver, minimal_run(), base_url=f"{receiver.url}/tools/langfuse/")
    assert receiver.requests[0].path == "/tools/langfuse/api/public/otel/v1/traces"


def test_keys_environment_and_release_come_from_the_variables_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-env")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-env\n")  # as mounted secrets often end
    monkeypatch.setenv("LANGFUSE_TRACING_ENVIRONMENT", "qa")
    monkeypatch.setenv("LANGFUSE_RELEASE", "r7")
    (root,) = send(receiver, minimal_run(), public_key=None, secret_key=None)
    login = base64.b64encode(b"pk-env:sk-env").decode()
    assert receiver.requests[0].headers["authorization"] == f"Basic {login}"
    assert root["attributes"][fields.TRACE_ENVIRONMENT] == "qa"
    assert root["attributes"][fields.RELEASE] == "r7"


@pytest.mark.parametrize(
    ("variable", "value"), [("LANGFUSE_TRACING_ENABLED", "False"), ("OTEL_SDK_DISABLED", "true")]
)
def test_switched_off_it_needs_no_key_sends_nothing_and_counts(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    sink = LangfuseSink(base_url=receiver.url, interval_s=0)
    sink.end(stream_info(run := minimal_run()), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert (sink.stats().accepted, sink.stats().dropped) == (1, {"disabled": 1})
    assert receiver.requests == []


def test_construction_imports_no_sdk_and_starts_no_thread() -> None:
    code = """
import sys, threading
from streamtrace.sinks.langfuse import LangfuseSink
before = set(sys.modules)
sink = LangfuseSink(public_key="p", secret_key="s")
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not roots & {"langfuse", "opentelemetry", "requests", "httpx"}, roots
assert "langfuse" not in sys.modules
assert threading.active_count() == 1
sink.close(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


# --- what is counted ------------------------------------------------------------------------------


def assert_balanced(sink: LangfuseSink) -> None:
    stats = sink.stats()
    assert stats.accepted == stats.exported + sum(stats.dropped.values()) + stats.queued


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 500])
def test_what_is_refused_is_dropped_and_counted(receiver: OtlpReceiver, status: int) -> None:
    receiver.answer(status, {"location": "/elsewhere"} if status == 301 else None)
    sink = make(receiver)
    for run in (completed_run(), failed_run()):
        sink.end(stream_info(run), run)
    assert sink.flush(FLUSH_S)
    assert sink.stats().dropped == {"export_error": 2}
    assert_balanced(sink)
    receiver.answer(200)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    assert sink.stats().exported == 1
    assert_balanced(sink)
    sink.close(FLUSH_S)


def test_the_answer_is_in_the_log_and_the_keys_are_not(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamtrace.logs import RateLimitedWarnings

    monkeypatch.setattr("streamtrace.sinks.langfuse.sink.WARNINGS", RateLimitedWarnings())
    receiver.answer(401)
    sink = make(receiver)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert "Langfuse answered 401" in caplog.text
    assert KEYS["secret_key"] not in caplog.text
    assert receiver.requests[0].headers["authorization"].split()[1] not in caplog.text
    assert CANARY not in caplog.text


def test_where_nobody_listens_runs_are_dropped_and_counted() -> None:
    sink = LangfuseSink(
        **KEYS, base_url=f"http://127.0.0.1:{free_port()}", interval_s=0, timeout_s=0.2
    )
    for _ in range(3):
        sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    assert sink.stats().dropped == {"export_error": 3}
    sink.close(FLUSH_S)


def test_a_busy_langfuse_is_asked_again_and_gets_every_span_once(receiver: OtlpReceiver) -> None:
    receiver.answer(503, {"retry-after": "0.01"})
    sink = make(receiver)
    sink.end(stream_info(run := completed_run()), run)
    receiver.wait_for_requests(1)
    receiver.answer(200)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert sink.stats().exported == 1
    ids = [one["span_id"] for one in receiver.spans]
    assert len(ids) == len(set(ids)) == 4


def test_close_does_not_wait_for_a_langfuse_that_hangs(receiver: OtlpReceiver) -> None:
    receiver.hang()
    sink = make(receiver, timeout_s=FLUSH_S, batch_runs=1)
    for _ in range(5):
        sink.end(stream_info(run := completed_run()), run)
    receiver.wait_for_requests(1)
    worker = sink._worker
    assert worker is not None
    sink.close(0.1)
    assert sink.stats().dropped == {"shutdown": 5}
    assert_balanced(sink)
    receiver.release()
    worker.join(FLUSH_S)
    assert not worker.is_alive()


def test_close_ends_the_wait_for_another_try(receiver: OtlpReceiver) -> None:
    receiver.answer(503, {"retry-after": "1000"})
    sink = make(receiver, timeout_s=2000)
    sink.end(stream_info(run := completed_run()), run)
    receiver.wait_for_requests(1)
    worker = sink._worker
    assert worker is not None
    sink.close(0.1)
    worker.join(FLUSH_S)
    assert not worker.is_alive()
    assert sink.stats().dropped == {"shutdown": 1}


def test_a_hanging_langfuse_is_given_up_after_the_timeout(receiver: OtlpReceiver) -> None:
    receiver.hang()
    sink = make(receiver, timeout_s=0.2)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    assert sink.stats().dropped == {"export_error": 1}
    receiver.release()
    sink.close(FLUSH_S)


def test_a_run_that_cannot_be_sent_costs_no_other(receiver: OtlpReceiver) -> None:
    broken = completed_run()
    assert broken.trace is not None
    broken.trace = type(broken.trace)(trace_id="no hex", span_id="neither")
    sink = make(receiver)
    for run in (completed_run(), broken, completed_run(), broken):
        sink.end(stream_info(run), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert (sink.stats().exported, sink.stats().dropped) == (2, {"export_error": 2})
    assert len(receiver.spans) == 8


def test_ten_thousand_runs_all_arrive_through_one_thread(receiver: OtlpReceiver) -> None:
    runs = 10_000
    sink = make(receiver, max_queued_runs=runs, max_queued_bytes=2**30, interval_s=1)
    before = threading.active_count()
    run = minimal_run()
    seen = set()
    for _ in range(runs):
        sink.end(stream_info(run), run)
        seen.add(sum(one.name == "streamtrace-langfuse" for one in threading.enumerate()))
    assert sink.flush(55)
    assert seen == {1}
    assert threading.active_count() <= before + 2  # the worker, and the receiver's for its request
    assert sink.stats().exported == runs
    sink.close(FLUSH_S)
    assert not any(one.name == "streamtrace-langfuse" for one in threading.enumerate())
    assert len({one["span_id"] for one in receiver.spans}) == runs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_its_own_runs_over_its_own_connection(receiver: OtlpReceiver) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from support.summaries import minimal_run, stream_info
from streamtrace.sinks.langfuse import LangfuseSink
sink = LangfuseSink(public_key="p", secret_key="s", base_url={receiver.url!r}, interval_s=0)
def send(runs):
    for _ in range(runs):
        run = minimal_run()
        sink.end(stream_info(run), run)
    assert sink.flush(20)
    assert sink.stats().exported == sink.stats().accepted
send(1)
pid = os.fork()
if pid == 0:
    send(2)
    assert sink.stats().accepted == 2
    sink.close(20)
    os._exit(0)
send(3)
assert os.waitpid(pid, 0)[1] == 0
sink.close(20)
"""
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=50
    )
    assert len({one["span_id"] for one in receiver.spans}) == 6


def test_a_disconnected_run_keeps_its_answer_on_the_root() -> None:
    (root,) = of(disconnected_run(), "agent")
    output = json.loads(root[fields.OUTPUT])
    assert output["content"] == f"It is sunny in Paris. {CANARY}-text"
    assert output["tool_calls"] == [GET_WEATHER]


def test_close_gives_the_connection_back(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[requests.Session] = []
    original = requests.Session.close

    def watching(self: requests.Session) -> None:
        closed.append(self)
        original(self)

    monkeypatch.setattr(requests.Session, "close", watching)
    send(receiver, minimal_run())
    assert len(closed) == 1


def test_requests_stay_small_and_hold_whole_runs(receiver: OtlpReceiver, way: str) -> None:
    send(receiver, *[completed_run() for _ in range(160)], interval_s=5, batch_runs=160)
    sizes = [len(one.spans) for one in receiver.requests]
    assert sizes == ([512, 128] if way == "straight" else [128] * 5)


def test_long_contents_go_in_several_requests(receiver: OtlpReceiver) -> None:
    """Each of these runs is of about 800,000 bytes: its text stands on two spans."""
    text = content("x" * 400_000)
    runs = [completed_run(generations=[generation(text=text)], tool_calls=[]) for _ in range(3)]
    send(receiver, *runs, max_queued_bytes=2**30, interval_s=1, batch_runs=3, timeout_s=FLUSH_S)
    assert [len(one.spans) for one in receiver.requests] == [2, 2, 2]
