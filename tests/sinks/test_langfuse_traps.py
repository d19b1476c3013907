"""One test per trap on the way to Langfuse: the SDK, OpenTelemetry's settings, and the server."""

from __future__ import annotations

import atexit
import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import langfuse
import pytest
import requests
from langfuse import LangfuseOtelSpanAttributes as Sdk
from langfuse._client.constants import LANGFUSE_TRACER_NAME
from langfuse._client.resource_manager import LangfuseResourceManager
from langfuse._client.span_processor import LangfuseSpanProcessor
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.otlp import OtlpReceiver
from support.summaries import (
    completed_run,
    disconnected_run,
    generation,
    minimal_run,
    stream_info,
    tool_call,
    trace_ids,
)

from streamtrace.core import names
from streamtrace.core.spans import MAX_CHILD_SPANS, MAX_METADATA
from streamtrace.core.summary import Content, Labels, ModelUsage, RunSummary, TokenCounts
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.langfuse import observations as fields
from streamtrace.sinks.langfuse.observations import observations
from streamtrace.sinks.langfuse.pipe import Pipe

PUBLIC_KEY = "pk-lf-shared"
SECRET_KEY = "sk-lf-ours"
FLUSH_S = 30.0
IS_APP_ROOT = "langfuse.internal.is_app_root"


class App:
    """An app's own Langfuse client, under the key that the sink uses too."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.client = langfuse.Langfuse(
            public_key=PUBLIC_KEY,
            secret_key="sk-of-the-app",
            base_url="http://of-the-app.invalid",
            tracer_provider=self.provider,
            span_exporter=self.exporter,
            mask=lambda *, data, **_: "masked by the app",
        )

    def observe(self) -> list[Any]:
        with langfuse.get_client().start_as_current_observation(name="of the app", input="secret"):
            pass
        self.provider.force_flush()
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def make_app() -> Iterator[Any]:
    apps: list[App] = []

    def make_one() -> App:
        apps.append(App())
        return apps[-1]

    yield make_one
    LangfuseResourceManager.reset()
    for app in apps:
        app.provider.shutdown()


def make(receiver: OtlpReceiver, **options: Any) -> LangfuseSink:
    given = {"public_key": PUBLIC_KEY, "secret_key": SECRET_KEY, "base_url": receiver.url}
    return LangfuseSink(**{**given, "interval_s": 0, **options})


def send(receiver: OtlpReceiver, *runs: RunSummary, **options: Any) -> list[dict[str, Any]]:
    sink = make(receiver, **options)
    for run in runs:
        sink.end(stream_info(run), run)
    assert sink.flush(FLUSH_S)
    assert sink.stats().exported == len(runs)
    sink.close(FLUSH_S)
    return receiver.spans


def root_of(spans: list[dict[str, Any]]) -> dict[str, Any]:
    (root,) = [one["attributes"] for one in spans if one["attributes"][fields.TYPE] == "agent"]
    return root


def generations_of(summary: RunSummary) -> list[dict[str, Any]]:
    found = [one.attributes for one in observations(summary)]
    return [one for one in found if one[fields.TYPE] == "generation"]


def one_generation(**changes: Any) -> dict[str, Any]:
    run = completed_run(generations=[generation(**changes)], tool_calls=[], usage=None)
    (said,) = generations_of(run)
    return said


# --- the SDK's client is one per key and process -------------------------------------------------


def test_a_client_of_the_app_with_the_same_key_is_neither_used_nor_changed(
    receiver: OtlpReceiver, make_app: Any
) -> None:
    app = make_app()
    send(receiver, completed_run())
    resources = langfuse.get_client()._resources
    assert resources is app.client._resources
    assert (resources.base_url, resources.secret_key) == (
        "http://of-the-app.invalid",
        "sk-of-the-app",
    )
    (span,) = app.observe()
    assert span.name == "of the app"
    assert span.attributes[Sdk.OBSERVATION_INPUT] == "masked by the app"
    assert len(receiver.spans) == 4
    assert len(app.provider._active_span_processor._span_processors) == 1


def test_a_client_that_the_app_makes_later_is_its_own(
    receiver: OtlpReceiver, make_app: Any
) -> None:
    sink = make(receiver)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    assert LangfuseResourceManager._instances == {}
    app = make_app()
    (span,) = app.observe()
    assert span.attributes[Sdk.OBSERVATION_INPUT] == "masked by the app"
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert app.observe()[-1].name == "of the app"
    assert len(app.exporter.get_finished_spans()) == 2
    assert len(receiver.spans) == 8


def test_a_sink_with_another_key_does_not_switch_get_client_off(
    receiver: OtlpReceiver, make_app: Any
) -> None:
    app = make_app()
    send(receiver, completed_run(), public_key="pk-lf-other")
    assert len(app.observe()) == 1


def test_the_global_tracer_provider_stays_what_it_was(receiver: OtlpReceiver) -> None:
    before = trace.get_tracer_provider()
    send(receiver, completed_run())
    assert trace.get_tracer_provider() is before


def test_the_sdk_processor_stands_alone_without_queue_or_thread(receiver: OtlpReceiver) -> None:
    """The part of the SDK that is private, and that a new version may move."""
    before = threading.enumerate()
    pipe = Pipe(PUBLIC_KEY, SECRET_KEY, receiver.url, 5.0)
    assert issubclass(type(pipe._processor), LangfuseSpanProcessor)
    run = completed_run()
    assert len(pipe.spans(run.trace, observations(run))) == 4
    assert threading.enumerate() == before
    pipe.close()


def test_spans_come_in_the_scope_of_the_sdk(receiver: OtlpReceiver) -> None:
    """Of any other scope the server copies all attributes into the metadata once more."""
    spans = send(receiver, completed_run())
    assert {(one["scope"], one["scope_version"]) for one in spans} == {
        (LANGFUSE_TRACER_NAME, langfuse.__version__)
    }
    assert LANGFUSE_TRACER_NAME == "langfuse-sdk"


def test_nothing_is_left_to_do_at_the_exit_of_the_process(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline closes sinks, within its time; a provider would flush again, without one."""
    left: list[Any] = []
    monkeypatch.setattr(atexit, "register", left.append)
    pipe = Pipe(PUBLIC_KEY, SECRET_KEY, receiver.url, 5.0)
    pipe.spans(trace_ids(), observations(completed_run()))
    pipe.close()
    assert left == []


def test_the_span_above_a_run_is_not_one_of_ours(receiver: OtlpReceiver) -> None:
    """It belongs to the caller, or to another provider of the process."""
    pipe = Pipe(PUBLIC_KEY, SECRET_KEY, receiver.url, 5.0)
    *children, root = pipe.spans(ids := trace_ids(), observations(completed_run()))
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == ids.parent_span_id
    assert root.parent.is_remote
    assert not any(one.parent is None or one.parent.is_remote for one in children)
    pipe.close()


def test_a_processor_that_keeps_spans_back_does_not_go_unnoticed(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LangfuseSpanProcessor, "on_end", lambda self, span: None)
    sink = make(receiver)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    assert sink.stats().dropped == {"export_error": 1}
    assert receiver.requests == []


def test_attribute_names_are_those_of_the_sdk() -> None:
    sdk = {value for name, value in vars(Sdk).items() if name.isupper()}
    constants = [value for name, value in vars(fields).items() if name.isupper()]
    ours = {name for name in constants if isinstance(name, str) and "streamtrace" not in name}
    assert len(ours) > 15
    assert {name.rstrip(".") for name in ours} | {IS_APP_ROOT} <= sdk


def test_url_and_headers_are_those_of_the_sdk(receiver: OtlpReceiver) -> None:
    sdk = LangfuseSpanProcessor(public_key=PUBLIC_KEY, secret_key=SECRET_KEY, base_url=receiver.url)
    client = sdk.span_exporter._client
    sdk.shutdown()
    send(receiver, completed_run())
    (request,) = receiver.requests
    assert client._endpoint == receiver.url + request.path
    expected = {name.lower(): value for name, value in client._headers.items()}
    del expected["user-agent"]
    assert expected.items() <= request.headers.items()
    assert request.headers["x-langfuse-ingestion-version"] == "4"
    assert request.raw != request.body  # compressed


# --- what the app told OpenTelemetry is not for Langfuse -----------------------------------------


@pytest.mark.parametrize("variable", ["HEADERS", "TRACES_HEADERS"])
def test_headers_for_the_collector_do_not_reach_langfuse(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(
        f"OTEL_EXPORTER_OTLP_{variable}",
        "x-collector-token=LEAK,authorization=Bearer LEAK,content-encoding=LEAK,host=LEAK",
    )
    send(receiver, completed_run())
    assert b"LEAK" not in receiver.raw_bytes
    assert not any("collector" in name for name in receiver.requests[0].headers)


def test_certificates_for_the_collector_are_not_shown_to_langfuse(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{kind}", "collector.pem")
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_TRACES_{kind}", "collector.pem")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    pipe = Pipe(PUBLIC_KEY, SECRET_KEY, receiver.url, 5.0)
    assert pipe._session is pipe._exporter._client._transport._session
    assert (pipe._session.verify, pipe._session.cert) == (True, None)
    pipe.close()


@pytest.mark.parametrize("certificates", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("bypassed", [False, True])
def test_proxy_and_certificates_are_those_that_requests_would_take(
    monkeypatch: pytest.MonkeyPatch, certificates: str, bypassed: bool
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(certificates, "/etc/ours.pem")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "langfuse.example" if bypassed else "other.example")
    url = "https://langfuse.example"
    pipe = Pipe(PUBLIC_KEY, SECRET_KEY, url, 5.0)
    theirs = requests.Session().merge_environment_settings(url, {}, None, None, None)
    ours = pipe._session.merge_environment_settings(url, {}, None, None, None)
    pipe.close()
    assert ours == theirs
    assert ours["verify"] == "/etc/ours.pem"
    assert ("https" in ours["proxies"]) is not bypassed


def test_a_password_from_netrc_does_not_replace_the_key(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password LEAK\n")
    monkeypatch.setenv("NETRC", str(netrc))
    send(receiver, completed_run())
    login = base64.b64encode(f"{PUBLIC_KEY}:{SECRET_KEY}".encode()).decode()
    assert receiver.requests[0].headers["authorization"] == f"Basic {login}"


def test_endpoint_timeout_and_compression_of_the_collector_do_not_count(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.invalid")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector.invalid/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.000001")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")  # Langfuse reads gzip only
    send(receiver, completed_run())
    assert receiver.requests[0].headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("queue_size", ["1", "0", "nonsense"])
def test_no_queue_setting_evicts_a_span_of_the_largest_run(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, queue_size: str
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", queue_size)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    monkeypatch.setenv("LANGFUSE_FLUSH_AT", queue_size)
    monkeypatch.setenv("LANGFUSE_FLUSH_INTERVAL", "nonsense")
    calls = [tool_call(id=f"call-{i}") for i in range(MAX_CHILD_SPANS + 10)]
    spans = send(receiver, *[completed_run(tool_calls=calls) for _ in range(3)])
    assert len(spans) == 3 * (MAX_CHILD_SPANS + 1)
    assert len({one["span_id"] for one in spans}) == len(spans)
    assert all(  # a run is never split between two requests
        len(one.spans) % (MAX_CHILD_SPANS + 1) == 0 for one in receiver.requests
    )


def test_no_limit_setting_cuts_attributes(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3")
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "3")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "nonsense")
    run = completed_run()
    arrived = {one["span_id"]: one["attributes"] for one in send(receiver, run)}
    assert run.trace is not None
    root = arrived[run.trace.span_id]
    del root[IS_APP_ROOT]
    assert root == observations(run)[0].attributes


@pytest.mark.parametrize("sampled", [False, None])
def test_a_run_is_sent_though_the_caller_did_not_sample(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, sampled: bool | None
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert len(send(receiver, completed_run(trace=trace_ids(sampled=sampled)))) == 4


def test_its_requests_make_no_spans_in_the_app(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    seen: list[bool] = []
    original = requests.Session.send

    def watching(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(is_instrumentation_enabled())
        return original(self, *args, **options)

    monkeypatch.setattr(requests.Session, "send", watching)
    send(receiver, completed_run())
    assert seen == [False]


# --- whose user is it ----------------------------------------------------------------------------


def test_neither_baggage_nor_propagated_attributes_reach_a_run(receiver: OtlpReceiver) -> None:
    """Even if the worker were to run in the context of a request, as Python may let threads do."""
    sink = make(receiver)
    attack = baggage.set_baggage("langfuse_user_id", "attacker")
    attack = baggage.set_baggage("langfuse_environment", "attacked", attack)
    runs = [completed_run(labels=Labels()), completed_run(labels=Labels(), trace=None)]
    for run in runs:
        if run.trace is not None:
            claim = baggage.set_baggage("langfuse_trace_id", run.trace.trace_id, attack)
    token = context.attach(claim)
    try:
        with langfuse.propagate_attributes(
            user_id="of the app", session_id="of the app", metadata={"k": "of the app"}
        ):
            sink.open()
            assert sink.export(runs) == {}
            sink.release()
    finally:
        context.detach(token)
    assert len(receiver.spans) == 8
    assert b"attack" not in receiver.raw_bytes
    assert b"of the app" not in receiver.raw_bytes
    roots = [one for one in receiver.spans if one["attributes"].get(IS_APP_ROOT)]
    assert len(roots) == 2


def test_user_session_name_tags_and_environment_stand_on_every_span(
    receiver: OtlpReceiver,
) -> None:
    shared = {
        fields.USER_ID: "user-9",
        fields.SESSION_ID: "session-4",
        fields.TRACE_NAME: "weather-agent",
        fields.TRACE_TAGS: ["beta", "weather"],
        fields.TRACE_ENVIRONMENT: "staging",
        fields.RELEASE: "2026.11.1",
        fields.TRACE_METADATA + "tenant": '"acme"',
        fields.TRACE_METADATA + "attempt": "2",
        fields.TRACE_METADATA + "flags": '{"dry_run":false}',
    }
    spans = send(receiver, completed_run())
    assert len(spans) == 4
    for one in spans:
        assert (
            shared.items()
            <= {key: value for key, value in one["attributes"].items() if key in shared}.items()
        )


def test_a_label_that_is_too_long_is_left_out_and_named_and_never_cut() -> None:
    long = "x" * 201
    labels = Labels(
        user=long,
        session="ok",
        agent=long,
        tags=["fine", long],
        environment="Not Good",
        metadata={"short": "y" * 198, "long": long, "none": None},
    )
    root, *children = [one.attributes for one in observations(completed_run(labels=labels), "prod")]
    for said in (root, *children):
        assert fields.USER_ID not in said
        assert fields.TRACE_NAME not in said
        assert said[fields.SESSION_ID] == "ok"
        assert said[fields.TRACE_TAGS] == ["fine"]
        assert said[fields.TRACE_ENVIRONMENT] == "prod"
        assert fields.TRACE_METADATA + "short" in said
        assert fields.TRACE_METADATA + "long" not in said
    assert json.loads(root[fields.METADATA + "long"]) == long
    assert json.loads(root[fields.LEFT_OUT]) == [
        fields.USER_ID,
        fields.TRACE_NAME,
        fields.TRACE_METADATA + "none",
        fields.TRACE_TAGS,
        fields.TRACE_ENVIRONMENT,
    ]
    assert not any(fields.METADATA + "long" in said for said in children)


def test_more_metadata_than_a_span_can_hold_is_named() -> None:
    labels = Labels(metadata={f"k{i}": i for i in range(MAX_METADATA + 1)})
    root = observations(completed_run(labels=labels))[0].attributes
    kept = [key for key in root if key.startswith(fields.TRACE_METADATA)]
    assert len(kept) == MAX_METADATA
    assert json.loads(root[fields.LEFT_OUT]) == [fields.TRACE_METADATA]


# --- which span is the root ----------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["00f067aa0ba902b7", None])
def test_only_the_run_is_a_root_also_below_a_server_span(
    receiver: OtlpReceiver, parent: str | None
) -> None:
    ids = trace_ids(parent_span_id=parent)
    spans = send(receiver, completed_run(trace=ids))
    assert {one["trace_id"] for one in spans} == {ids.trace_id}
    marked = [one["attributes"][fields.TYPE] for one in spans if IS_APP_ROOT in one["attributes"]]
    assert marked == ["agent"]
    assert root_of(spans).get(fields.AS_ROOT) is (True if parent else None)


def test_a_span_id_is_never_sent_twice(receiver: OtlpReceiver) -> None:
    receiver.answer(500)
    sink = make(receiver)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    receiver.answer(200)
    sink.end(stream_info(run := completed_run()), run)
    assert sink.flush(FLUSH_S)
    sink.close(FLUSH_S)
    ids = [one["span_id"] for request in receiver.requests for one in request.spans]
    assert len(ids) == len(set(ids)) == 8


# --- what the server makes of attributes ---------------------------------------------------------


def test_every_attribute_is_a_string_a_boolean_or_a_list_of_strings(
    receiver: OtlpReceiver,
) -> None:
    """A number for the first token makes an observation vanish, a dict cannot be read."""
    for one in send(receiver, completed_run(), disconnected_run(), minimal_run()):
        for value in one["attributes"].values():
            assert isinstance(value, str | bool) or all(isinstance(item, str) for item in value)
        assert one["events"] == []  # one with an unlucky name would overwrite the output


def test_usage_buckets_do_not_hold_one_another() -> None:
    usage = TokenCounts(
        input_tokens=100,
        output_tokens=50,
        cached_input_tokens=40,
        cache_write_tokens=10,
        reasoning_tokens=20,
    )
    said = one_generation(usage=usage, cost_usd=0.5)
    assert json.loads(said[fields.USAGE_DETAILS]) == {
        "input": 50,
        "input_cached_tokens": 40,
        "input_cache_creation": 10,
        "output": 30,
        "output_reasoning_tokens": 20,
    }
    again = [key for key in said if key.startswith(fields.METADATA) and "usage" in key]
    assert [*again, *(key for key in said if key.endswith(names.COST_USD))] == []


def test_reasoning_stays_in_the_output_where_the_server_would_bill_it_at_zero() -> None:
    usage = TokenCounts(output_tokens=50, reasoning_tokens=20)
    said = one_generation(usage=usage, cost_usd=None)
    assert json.loads(said[fields.USAGE_DETAILS]) == {"output": 50}
    assert said[fields.METADATA + names.USAGE_REASONING_OUTPUT_TOKENS] == "20"


def test_counts_that_contradict_each_other_do_not_become_negative() -> None:
    said = one_generation(usage=TokenCounts(input_tokens=5, cached_input_tokens=9))
    assert json.loads(said[fields.USAGE_DETAILS]) == {"input": 0, "input_cached_tokens": 9}


@pytest.mark.parametrize("cost_usd", [-0.01, float("nan"), float("inf"), None])
def test_a_cost_that_cannot_be_is_not_sent(cost_usd: float | None) -> None:
    assert fields.COST_DETAILS not in one_generation(cost_usd=cost_usd)


def test_a_cost_of_zero_is_sent() -> None:
    assert json.loads(one_generation(cost_usd=0.0)[fields.COST_DETAILS]) == {"total": 0.0}


@pytest.mark.parametrize("usage", [None, TokenCounts()])
def test_unknown_usage_is_neither_zero_nor_left_to_the_server_to_invent(
    usage: TokenCounts | None,
) -> None:
    """The server counts tokens of a generation with model and output, and bills them."""
    said = one_generation(usage=usage, cost_usd=None, reasoning=Content())
    assert fields.USAGE_DETAILS not in said
    assert fields.OUTPUT not in said
    assert fields.INPUT not in said
    assert said[fields.MODEL] == "gpt-5-mini-2025-08-07"
    assert json.loads(said[fields.UNCOUNTED_OUTPUT]) == generation().text.text
    thinking = one_generation(usage=usage, cost_usd=None, text=Content())
    assert json.loads(thinking[fields.UNCOUNTED_OUTPUT])["role"] == "assistant"


def test_without_a_model_the_server_counts_nothing_so_the_output_stays() -> None:
    run = completed_run(generations=[generation(model=None, usage=None)], tool_calls=[])
    run.request.model, run.usage, run.usage_by_model = None, None, []
    (said,) = generations_of(run)
    assert fields.OUTPUT in said
    assert fields.UNCOUNTED_OUTPUT not in said


def without_usage(usage: TokenCounts | None = None, **changes: Any) -> RunSummary:
    """Usage told of the run only, as AG-UI does."""
    run = completed_run(**changes)
    for one in run.generations:
        one.usage, one.cost_usd = usage, None
    return run


@pytest.mark.parametrize("nothing", [None, TokenCounts()])
def test_usage_of_the_run_stands_on_its_last_generation_since_agents_lose_it(
    nothing: TokenCounts | None,
) -> None:
    first, last = generations_of(without_usage(nothing))
    assert fields.USAGE_DETAILS not in first
    assert json.loads(last[fields.USAGE_DETAILS]) == {
        "input": 112,
        "input_cached_tokens": 128,
        "output": 64,
        "output_reasoning_tokens": 32,
    }
    assert json.loads(last[fields.COST_DETAILS]) == {"total": 0.000226}
    assert json.loads(last[fields.USAGE_SCOPE]) == "run"
    assert not any(fields.USAGE_SCOPE in one for one in generations_of(completed_run()))


def test_usage_of_the_run_names_the_model_where_nobody_else_does() -> None:
    run = without_usage()
    run.request.model = run.generations[-1].model = None
    assert generations_of(run)[-1][fields.MODEL] == "gpt-5-mini-2025-08-07"


def test_usage_of_several_models_is_not_billed_at_the_price_of_one() -> None:
    mixed = [
        ModelUsage(model=model, provider=None, usage=TokenCounts(input_tokens=120))
        for model in ("large", "small")
    ]
    run = without_usage(usage_by_model=mixed, cost_usd=None)
    assert not any(fields.USAGE_DETAILS in one for one in generations_of(run))
    root = observations(run)[0].attributes
    assert root[fields.METADATA + names.USAGE_INPUT_TOKENS] == "240"
    priced = without_usage(usage_by_model=mixed, cost_usd=0.1)
    assert json.loads(generations_of(priced)[-1][fields.COST_DETAILS]) == {"total": 0.1}


def test_usage_without_a_generation_is_metadata_of_the_run() -> None:
    (root,) = observations(completed_run(generations=[], tool_calls=[]))
    assert root.attributes[fields.METADATA + names.USAGE_OUTPUT_TOKENS] == "96"
    assert fields.USAGE_DETAILS not in root.attributes


def test_the_run_itself_has_no_model_usage_or_cost_field_to_be_counted_twice() -> None:
    root = observations(completed_run())[0].attributes
    assert not {fields.MODEL, fields.USAGE_DETAILS, fields.COST_DETAILS} & root.keys()
    assert not any(key.startswith("gen_ai.") for key in root)


@pytest.mark.parametrize(("first_token_ns", "at"), [(-5, "00.223456"), (10**12, "01.023456")])
def test_the_first_token_lies_within_the_generation(first_token_ns: int, at: str) -> None:
    said = one_generation(first_token_ns=first_token_ns)
    assert said[fields.COMPLETION_START_TIME] == f"2026-11-20T09:20:{at}Z"


def test_no_first_token_is_not_guessed() -> None:
    assert fields.COMPLETION_START_TIME not in one_generation(first_token_ns=None)


def test_half_an_emoji_does_not_cost_the_whole_request(receiver: OtlpReceiver) -> None:
    half = "\ud83d"
    broken = completed_run(
        labels=Labels(user=half, agent=half, tags=[half], metadata={half: half}),
        generations=[generation(text=Content(chars=1, text=half))],
    )
    assert len(send(receiver, broken, completed_run(), interval_s=1)) == 3 + 4
    root, whole = observations(broken)[0].attributes, "\ufffd"
    assert (root[fields.USER_ID], root[fields.TRACE_TAGS]) == (whole, [whole])
    assert fields.TRACE_METADATA + whole in root
