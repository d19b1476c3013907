"""A real OTLP/HTTP trace receiver on a free loopback port, for tests of anything that exports.

It answers POST on any path, keeps what it was sent, and can be told to refuse, to wait or to hang:

    with OtlpReceiver() as receiver:
        exporter = OTLPSpanExporter(endpoint=receiver.traces_url)
        ...
        spans = receiver.wait_for_spans(3)

`spans` holds what was answered with 2xx; `requests` holds everything that arrived.
"""

from __future__ import annotations

import gzip
import socket
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

WAIT_S = 20.0
STATUS_CODES = {0: "UNSET", 1: "OK", 2: "ERROR"}
KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


@dataclass
class OtlpRequest:
    """One POST. `status` is what it was answered, `None` while it is not answered."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: bytes
    spans: list[dict[str, Any]] = field(default_factory=list)
    status: int | None = None


class OtlpReceiver:
    """Start with `with`; see the module docstring."""

    def __init__(self, status: int = 200) -> None:
        self._changed = threading.Condition()
        self._requests: list[OtlpRequest] = []
        self._status = status
        self._headers: dict[str, str] = {}
        self._delay_s = 0.0
        self._released = threading.Event()
        self._released.set()
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._stopping.set()
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        with self._changed:
            connections = list(self._connections)
        for connection in connections:  # ends the threads that wait on a kept-alive connection
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    # --- where it is ---------------------------------------------------------------------------

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """The base URL, as in OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def traces_url(self) -> str:
        """The full URL, as an exporter's `endpoint=` wants it."""
        return f"{self.url}/v1/traces"

    # --- how it behaves from now on ------------------------------------------------------------

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        """Answer at once with this status."""
        with self._changed:
            self._status, self._headers, self._delay_s = status, headers or {}, 0.0
        self._released.set()

    def slow(self, delay_s: float) -> None:
        """Answer each request only after `delay_s`."""
        self._delay_s = delay_s

    def hang(self) -> None:
        """Take requests and do not answer until `release` (or until the receiver stops)."""
        self._released.clear()

    def release(self) -> None:
        """Answer what hangs, and no longer hang."""
        self._released.set()

    # --- what it was sent ----------------------------------------------------------------------

    @property
    def requests(self) -> list[OtlpRequest]:
        with self._changed:
            return list(self._requests)

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All spans that were answered with 2xx, in order of arrival."""
        with self._changed:
            return self._accepted()

    @property
    def raw_bytes(self) -> bytes:
        """Every uncompressed body and header in one, to look for what must not be there."""
        with self._changed:
            heads = [repr((one.path, one.headers)).encode() for one in self._requests]
            return b"\n".join(heads + [one.body for one in self._requests])

    def wait_for_spans(self, n: int, timeout: float = WAIT_S) -> list[dict[str, Any]]:
        """The accepted spans, as soon as there are at least `n`."""
        self._wait(lambda: len(self._accepted()) >= n, timeout, f"{n} spans")
        return self.spans

    def wait_for_requests(self, n: int, timeout: float = WAIT_S) -> list[OtlpRequest]:
        """The requests, answered or not, as soon as there are at least `n`."""
        self._wait(lambda: len(self._requests) >= n, timeout, f"{n} requests")
        return self.requests

    def _accepted(self) -> list[dict[str, Any]]:
        return [
            span
            for one in self._requests
            if one.status is not None and 200 <= one.status < 300
            for span in one.spans
        ]

    def _wait(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(done, timeout):
                seen = [(one.path, one.status, len(one.spans)) for one in self._requests]
                raise AssertionError(f"waited {timeout} s for {what}; arrived: {seen}")

    # --- called by the handler's threads -------------------------------------------------------

    def _arrived(self, request: OtlpRequest) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def _decide(self) -> tuple[int, dict[str, str]]:
        if self._delay_s:
            self._stopping.wait(self._delay_s)
        self._released.wait()
        with self._changed:
            return self._status, self._headers

    def _answered(self, request: OtlpRequest, status: int) -> None:
        with self._changed:
            request.status = status
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close joins them
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about; anything else must be seen."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with receiver._changed:
                receiver._connections.add(self.connection)

        def finish(self) -> None:
            with receiver._changed:
                receiver._connections.discard(self.connection)
            super().finish()

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = decompress(raw, headers.get("content-encoding", "identity"))
            is_traces = headers.get("content-type", "") == "application/x-protobuf"
            request = OtlpRequest(
                self.path, headers, raw, body, decode_spans(body) if is_traces else []
            )
            receiver._arrived(request)
            status, more = receiver._decide()
            answer = ExportTraceServiceResponse().SerializeToString()
            receiver._answered(request, status)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Tests print nothing."""

    return Handler


def decompress(raw: bytes, encoding: str) -> bytes:
    """The body as it was before it was compressed for the way."""
    if encoding == "gzip":
        return gzip.decompress(raw)
    if encoding == "deflate":
        return zlib.decompress(raw)
    return raw


def decode_spans(body: bytes) -> list[dict[str, Any]]:
    """The spans of an ExportTraceServiceRequest as plain dicts; ids as hex, absent parents None."""
    message = ExportTraceServiceRequest.FromString(body)
    return [
        {
            "name": span.name,
            "kind": KINDS.get(span.kind, "UNSPECIFIED"),
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_span_id": span.parent_span_id.hex() or None,
            "flags": span.flags,
            "start_ns": span.start_time_unix_nano,
            "end_ns": span.end_time_unix_nano,
            "attributes": _attributes(span.attributes),
            "events": [
                {
                    "name": event.name,
                    "at_ns": event.time_unix_nano,
                    "attributes": _attributes(event.attributes),
                }
                for event in span.events
            ],
            "links": [
                {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()}
                for link in span.links
            ],
            "status": STATUS_CODES[span.status.code],
            "status_message": span.status.message,
            "resource": _attributes(resource_spans.resource.attributes),
            "scope": scope_spans.scope.name,
            "scope_version": scope_spans.scope.version,
        }
        for resource_spans in message.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]


def free_port() -> int:
    """A loopback port that nothing listens on (at this moment)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    inner = getattr(value, kind)
    if kind == "array_value":
        return [_value(one) for one in inner.values]
    if kind == "kvlist_value":
        pairs: list[KeyValue] = list(inner.values)
        return {pair.key: _value(pair.value) for pair in pairs}
    return inner
