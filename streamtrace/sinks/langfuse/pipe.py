"""The way to Langfuse: the SDK's span processor on a tracer provider of our own, and HTTP.

Rules that hold here:

* The app's Langfuse client, its tracer provider, its context, and what its OTEL_* variables say to
  its collector are neither used nor changed.
* Whether a request arrived is known when `send` returns; no queue and no thread stand between.
* What the SDK's processor adds to spans is what Langfuse gets. It is learned when the pipe is made,
  from a few runs that go through the SDK: the same attributes for every root, or every child, with
  or without a span above the run. Then runs go straight to bytes, with these attributes. If it
  does anything else, every run goes through the SDK.

The SDK's client is not used. It is one per public key and process: where the app has one, we would
be handed that, with its provider, URL and masking; where it makes one later, it would be handed
ours; and beside a client with another key `get_client()` answers with a disabled one. The processor
is the part of the SDK that stands alone. Its batching base is replaced: that evicts the oldest span
when full, at a size that OTEL_BSP_* variables of the app set, and hides whether a batch arrived.

This module imports the SDK, which takes a while: the sink imports it on its worker.
"""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from langfuse import __version__ as sdk_version
from langfuse._client.span_processor import LangfuseSpanProcessor
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    Context,
    attach,
    detach,
    set_value,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    set_span_in_context,
)
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies

from streamtrace.core.summary import TraceIds
from streamtrace.sinks.langfuse.observations import Observation, observations
from streamtrace.sinks.otel_ids import (
    PromisedIds,
    child_ids,
    parent_context,
    promised,
    root_ids,
)
from streamtrace.sinks.otlp import (
    INTERNAL,
    MAX_BYTES_PER_REQUEST,
    MAX_SDK_SPANS_PER_REQUEST,
    MAX_SPANS_PER_REQUEST,
    SpanIds,
    about_bytes,
    encode_span,
)
from streamtrace.sinks.otlp_http import PROBES, ids_of, straight

TRACES_PATH = "/api/public/otel/v1/traces"
SCOPE = "langfuse-sdk"
"""Langfuse takes a scope of this name for its SDK's, and copies no attributes into metadata."""


_GZIP_LEVEL = 1

_Shape = tuple[bool, bool]
"""Of a span: whether it is a root, and whether the span above it is remote."""


class Pipe:
    """Makes spans as the SDK does, and sends them. For one thread, but for `close`."""

    def __init__(self, public_key: str, secret_key: str, base_url: str, timeout_s: float) -> None:
        login = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
        headers = {
            "authorization": f"Basic {login}",
            "content-encoding": "gzip",
            "content-type": "application/x-protobuf",
            "user-agent": f"streamtrace langfuse-python/{sdk_version}",
            "x-langfuse-sdk-name": "python",
            "x-langfuse-sdk-version": sdk_version,
            "x-langfuse-public-key": public_key,
            "x-langfuse-ingestion-version": "4",
        }
        self.status: int | None = None
        self._session = requests.Session()
        self._session.auth = _Ours(headers)
        self._session.hooks["response"].append(self._answered)
        self._exporter = OTLPSpanExporter(
            endpoint=base_url + TRACES_PATH,
            headers=headers,
            timeout=timeout_s,
            compression=Compression.NoCompression,  # `_Ours` does it
            session=self._session,
        )
        # The exporter set these from OTEL_EXPORTER_OTLP_CERTIFICATE and _CLIENT_CERTIFICATE.
        self._session.verify, self._session.cert = _ca_bundle() or True, None
        # Else all of the environment is looked through for proxies, twice for each request.
        self._session.proxies.update(get_environ_proxies(base_url + TRACES_PATH))
        self._session.trust_env = False
        self._processor = _Processor(
            public_key=public_key,
            secret_key=secret_key,
            base_url=base_url,
            span_exporter=self._exporter,
            should_export_span=lambda span: True,
            flush_at=1,  # of the queue that is not there; not given, variables are read for them
            flush_interval=1,
        )
        self._made_ids = RandomIdGenerator()
        provider = TracerProvider(
            resource=Resource.create(),
            sampler=ALWAYS_ON,  # also below a caller that did not sample
            id_generator=PromisedIds(self._made_ids),
            span_limits=SpanLimits(*[SpanLimits.UNSET] * 8),  # half a JSON text is none
            shutdown_on_exit=False,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer(
            SCOPE, sdk_version, attributes={"public_key": public_key}
        )
        self._added: dict[_Shape, dict[str, Any]] = {}
        self._http = straight(self._exporter, self._tracer, self._probed())
        self.max_spans, self.max_bytes = MAX_SDK_SPANS_PER_REQUEST, MAX_BYTES_PER_REQUEST
        if self._http is not None:
            self.max_spans, self.max_bytes = MAX_SPANS_PER_REQUEST, self._http.max_bytes

    def made(self, ids: TraceIds | None, run: list[Observation]) -> tuple[list[Any], int]:
        """The spans of a run as `send` takes them, and about how many bytes they are."""
        if self._http is None:
            return self.spans(ids, run), sum(about_bytes(one.attributes) for one in run)
        first, *children = run
        root = root_ids(ids, self._made_ids)
        spans = [self._encode(child_ids(root, self._made_ids), one) for one in children]
        spans.append(self._encode(root, first, is_root=True))
        return spans, sum(map(len, spans))

    def spans(self, ids: TraceIds | None, run: list[Observation]) -> list[ReadableSpan]:
        """The ended spans of a run. The root starts first and ends last, by which the SDK knows it.

        A later SDK might filter, or batch in another place: that must not go unnoticed.
        """
        first, *children = run
        ended: list[ReadableSpan] = []
        self._processor.ended = ended
        with promised(ids):
            root = self._tracer.start_span(
                first.name,
                parent_context(ids),
                attributes=first.attributes,
                start_time=first.start_ns,
            )
        below = set_span_in_context(root, Context())
        for one in children:
            span = self._tracer.start_span(
                one.name, below, attributes=one.attributes, start_time=one.start_ns
            )
            span.end(one.end_ns)
        root.end(first.end_ns)
        if len(ended) != len(run):
            raise RuntimeError("the Langfuse SDK did not hand over every span")
        return ended

    def send(self, spans: Sequence[Any]) -> bool:
        """Whether Langfuse took the spans; `status` is what it answered last, if it answered."""
        self.status = None
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # no spans of the app
        try:
            if self._http is None:
                taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
            else:
                taken = self._http.send(spans)
        finally:
            detach(token)
        # The exporter follows no redirect, and takes one for a success.
        return taken and self.status is not None and 200 <= self.status < 300

    def close(self) -> None:
        """End retries, and give back the connection. From any thread."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _encode(self, ids: SpanIds, one: Observation, *, is_root: bool = False) -> bytes:
        added = self._added[is_root, ids.is_remote]
        attributes = {**one.attributes, **added} if added else one.attributes
        return encode_span(
            ids,
            one.name,
            kind=INTERNAL,
            start_ns=one.start_ns,
            end_ns=one.end_ns,
            attributes=attributes,
        )

    def _probed(self) -> Iterator[tuple[ReadableSpan, bytes]]:
        """Spans by the SDK, and what we make of the same; on the way `_added` is filled."""
        for probe in PROBES:
            root, *children = run = observations(probe)
            for span, one in zip(self.spans(probe.trace, run), [*children, root], strict=True):
                ids, is_root, found = ids_of(span), one is root, span.attributes or {}
                added = {key: found[key] for key in found if key not in one.attributes}
                self._added.setdefault((is_root, ids.is_remote), added)
                yield span, self._encode(ids, one, is_root=is_root)

    def _answered(self, response: requests.Response, **_: Any) -> None:
        self.status = response.status_code


def _ca_bundle() -> str | None:
    """Where `requests` takes it from, if it is to trust the environment."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")


class _WithoutQueue(BatchSpanProcessor):
    """Stands in for the batching base of the SDK's processor: keeps ended spans, and no more."""

    def __init__(self, **_: Any) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class _Processor(LangfuseSpanProcessor, _WithoutQueue):
    """The SDK's processor, whose `super()` finds the class above before its own base."""


class _Ours(requests.auth.AuthBase):
    """Has the last word on a request: these headers, and a body that is compressed.

    Without it OTEL_EXPORTER_OTLP_HEADERS would go to Langfuse too, and a password from .netrc would
    replace ours. The exporter compresses as hard as it can: four times as long for a tenth less.
    """

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers = CaseInsensitiveDict(self._headers)
        assert isinstance(request.body, bytes)
        request.body = gzip.compress(request.body, _GZIP_LEVEL)
        return request
