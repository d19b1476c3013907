"""Law 5: by default, nothing of what users and models say leaves the process by any way out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.otlp import OtlpReceiver

from streamtrace import StreamTraceMiddleware
from streamtrace.core.sink import ContentMode
from streamtrace.sinks.jsonl import JsonLinesSink
from streamtrace.sinks.langfuse import LangfuseSink
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus import PrometheusSink

CANARY = "canary4711"

STREAMS: dict[str, list[str]] = {
    "cognis": [
        "event: token\ndata: {c}\n\n",
        'event: tool_start\ndata: {{"tool":"t","args":{{"q":"{c}"}}}}\n\n',
        'event: tool_end\ndata: {{"tool":"t","result":"{c}"}}\n\n',
        'event: mystery\ndata: {{"x":"{c}"}}\n\n',
        "event: error\ndata: {c}\n\n",
    ],
    "ag-ui": [
        'data: {{"type":"RUN_STARTED","threadId":"t","runId":"r"}}\n\n',
        'data: {{"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"{c}"}}\n\n',
        'data: {{"type":"REASONING_MESSAGE_CONTENT","messageId":"n","delta":"{c}"}}\n\n',
        'data: {{"type":"TOOL_CALL_START","toolCallId":"c","toolCallName":"t"}}\n\n',
        'data: {{"type":"TOOL_CALL_ARGS","toolCallId":"c","delta":"{c}"}}\n\n',
        'data: {{"type":"TOOL_CALL_RESULT","messageId":"q","toolCallId":"c","content":"{c}"}}\n\n',
        'data: {{"type":"STATE_SNAPSHOT","snapshot":{{"x":"{c}"}}}}\n\n',
        'data: {{"type":"CUSTOM","name":"x","value":"{c}"}}\n\n',
        'data: {{"type":"RUN_ERROR","message":"{c}","code":"boom"}}\n\n',
    ],
    "openai-chat": [
        (
            'data: {{"id":"1","object":"chat.completion.chunk","model":"gpt-5","choices":'
            '[{{"index":0,"delta":{{"content":"{c}","reasoning_content":"{c}"}},'
            '"finish_reason":null}}]}}\n\n'
        ),
        'data: {{"error":{{"message":"{c}","type":"server_error"}}}}\n\n',
    ],
    "unknown": ["data: {c}\n\n", ": {c}\n\n", "id: {c}\ndata: {c}\n\n", "{c}: {c}\n\n"],
    "broken JSON": ['data: {{"type":"token","content":"{c}\n\n', 'data: {{"error": "{c}"\n\n'],
}


async def endpoint(request: Request) -> Response:
    await request.body()
    pieces = STREAMS[request.path_params["name"]]

    async def generate() -> Any:
        for piece in pieces:
            yield piece.format(c=CANARY)
        raise RuntimeError(CANARY)

    return StreamingResponse(generate(), media_type="text/event-stream")


def play(tmp_path: Path, content: ContentMode | None) -> dict[str, str]:
    """Everything that left the process, by the way it took."""
    registry = CollectorRegistry()
    log = tmp_path / "runs.jsonl"
    with OtlpReceiver() as otel, OtlpReceiver() as langfuse:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        sinks = [
            OTelSink(exporter=OTLPSpanExporter(endpoint=otel.traces_url)),
            LangfuseSink(public_key="pk", secret_key="sk", base_url=langfuse.url),
            PrometheusSink(registry=registry),
            JsonLinesSink(log),
        ]
        app = Starlette(routes=[Route("/{name}", endpoint, methods=["POST"])])
        middleware = StreamTraceMiddleware(app, sinks=sinks, content=content)
        client = TestClient(middleware, raise_server_exceptions=False)
        for name in STREAMS:
            client.post(
                f"/{name}?token={CANARY}",
                json={"message": CANARY, "messages": [{"role": "user", "content": CANARY}]},
                headers={"authorization": f"Bearer {CANARY}", "cookie": f"a={CANARY}"},
            )
        middleware.finish()
        for sink in sinks:
            assert sink.flush(20)
            assert sink.stats().exported == len(STREAMS), sink.stats()
            sink.close(20)
        return {
            "otel": repr([(r.headers, r.body) for r in otel.requests]),
            "langfuse": repr([(r.headers, r.body) for r in langfuse.requests]),
            "prometheus": generate_latest(registry).decode(),
            "jsonl": log.read_text(),
        }


def test_nothing_leaves_by_default(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for way, what in play(tmp_path, None).items():
        assert CANARY not in what, way
    ours = [record for record in caplog.records if record.name.startswith("streamtrace")]
    assert CANARY not in repr([record.getMessage() for record in ours])


def test_hashed_content_is_no_content(tmp_path: Path) -> None:
    for way, what in play(tmp_path, "hash").items():
        assert CANARY not in what, way
        assert ("sha256" in what) is (way != "prometheus")


def test_it_does_leave_where_it_was_switched_on(tmp_path: Path) -> None:
    """The canary test can fail: with content on, the same way finds it."""
    ways = play(tmp_path, "full")
    assert {way for way, what in ways.items() if CANARY in what} == {"otel", "langfuse", "jsonl"}
    for what in ways.values():
        assert f"token={CANARY}" not in what
        assert f"Bearer {CANARY}" not in what
