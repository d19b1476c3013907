"""The Langfuse sink: settings, and what is counted.

Rules that hold here:

* A run is sent once and whole, in one request: never evicted, split, or sent again later.
* Settings mean what they mean to the Langfuse SDK, and come from the same variables.
* An empty variable counts as not set.
* Construction imports nothing and starts nothing; the SDK is imported by the worker.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Unpack

from streamtrace.core.errors import ConfigError, MissingExtra
from streamtrace.core.sink import ContentMode
from streamtrace.core.summary import RunSummary, TraceIds
from streamtrace.logs import WARNINGS
from streamtrace.sinks.langfuse.observations import ENVIRONMENT, observations
from streamtrace.sinks.otlp import packed
from streamtrace.sinks.queued import QueuedSink, QueueOptions

if TYPE_CHECKING:
    from streamtrace.sinks.langfuse.pipe import Pipe

CLOUD_URL = "https://cloud.langfuse.com"
TIMEOUT_S = 5.0
RELEASES = (
    "LANGFUSE_RELEASE", "RENDER_GIT_COMMIT", "CI_COMMIT_SHA", "CIRCLE_SHA1", "SOURCE_VERSION",
    "TRAVIS_COMMIT", "GIT_COMMIT", "GITHUB_SHA", "BITBUCKET_COMMIT", "BUILD_SOURCEVERSION",
    "DRONE_COMMIT_SHA",
)  # fmt: skip
"""Who builds or hosts an app says in one of these what it is; the first that is set counts."""


class LangfuseSink(QueuedSink):
    """Send each run to Langfuse: an agent over its generations and tools.

    Where they are not given, keys and URL come from LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and
    LANGFUSE_BASE_URL (or LANGFUSE_HOST), `environment` from LANGFUSE_TRACING_ENVIRONMENT and
    `release` from the first of `RELEASES`; the labels of a run win over the last two.
    `sample_rate`, from LANGFUSE_SAMPLE_RATE, is the share of traces that is sent; the runs of
    others count as dropped with reason `unsampled`. `timeout_s`, from LANGFUSE_TIMEOUT, is for a
    request with all its retries. With LANGFUSE_TRACING_ENABLED=false or OTEL_SDK_DISABLED=true
    nothing is sent and no key is needed: runs count as dropped with reason `disabled`.
    """

    name = "langfuse"

    def __init__(
        self,
        *,
        public_key: str | None = None,
        secret_key: str | None = None,
        base_url: str | None = None,
        environment: str | None = None,
        release: str | None = None,
        content: ContentMode | None = None,
        sample_rate: float | None = None,
        timeout_s: float | None = None,
        **queue: Unpack[QueueOptions],
    ) -> None:
        if find_spec("langfuse") is None:
            raise MissingExtra("langfuse", "langfuse")
        super().__init__(**queue)
        self.content = content
        self._disabled = (
            os.environ.get("LANGFUSE_TRACING_ENABLED", "").lower() == "false"
            or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        )
        self._public_key = self._key("public_key", public_key)
        self._secret_key = self._key("secret_key", secret_key)
        url = base_url or _environ("LANGFUSE_BASE_URL") or _environ("LANGFUSE_HOST") or CLOUD_URL
        if not url.startswith(("https://", "http://")):
            raise ConfigError("base_url (LANGFUSE_BASE_URL) must begin with https:// or http://")
        self._base_url = url.rstrip("/")
        self._environment = environment or _environ("LANGFUSE_TRACING_ENVIRONMENT")
        if self._environment is not None and not ENVIRONMENT.fullmatch(self._environment):
            raise ConfigError(
                f"environment (LANGFUSE_TRACING_ENVIRONMENT) is {self._environment!r}, accepted are"
                " up to 40 of a-z, 0-9, - and _, not beginning with langfuse"
            )
        releases = (_environ(variable) for variable in RELEASES)
        self._release = release or next(filter(None, releases), None)
        rate = _number("LANGFUSE_SAMPLE_RATE", 1.0) if sample_rate is None else sample_rate
        if not 0 <= rate <= 1:
            raise ConfigError(f"sample_rate (LANGFUSE_SAMPLE_RATE) is {rate}, accepted is 0 to 1")
        self._sampled_below = round(rate * 2**64)
        self._timeout_s = _number("LANGFUSE_TIMEOUT", TIMEOUT_S) if timeout_s is None else timeout_s
        if not 0 < self._timeout_s < float("inf"):
            raise ConfigError(
                f"timeout_s (LANGFUSE_TIMEOUT) is {self._timeout_s}, accepted are seconds over 0"
            )
        self._pipe: Pipe | None = None

    def open(self) -> None:
        """Import the SDK, and make what leads to Langfuse."""
        from streamtrace.sinks.langfuse.pipe import Pipe  # noqa: PLC0415

        if not self._disabled:
            self._pipe = Pipe(self._public_key, self._secret_key, self._base_url, self._timeout_s)

    def export(self, batch: Sequence[RunSummary]) -> dict[str, int]:
        """Send the runs, a few to a request."""
        pipe = self._pipe
        if pipe is None:
            return {"disabled": len(batch)}
        dropped: Counter[str] = Counter()
        for spans, runs in packed(self._made(pipe, batch, dropped), pipe.max_spans, pipe.max_bytes):
            if not pipe.send(spans):
                answer = pipe.status or "nothing"
                WARNINGS.warn("langfuse.answer", f"sink langfuse: Langfuse answered {answer}")
                dropped["export_error"] += runs
        return dropped

    def release(self) -> None:
        """Give back the connection."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()

    def close(self, timeout_s: float) -> None:
        """Flush within `timeout_s`; a worker that is still at it then tries nothing again."""
        super().close(timeout_s)
        self.release()

    def _made(
        self, pipe: Pipe, batch: Sequence[RunSummary], dropped: Counter[str]
    ) -> Iterator[tuple[list[Any], int]]:
        """The spans of each run that is to be sent; the others are counted."""
        for summary in self.in_turn(batch):
            try:
                if self._is_sampled(summary.trace):
                    run = observations(summary, self._environment, self._release)
                    made = pipe.made(summary.trace, run)
                else:
                    dropped["unsampled"] += 1
                    continue
            except Exception:  # the other runs are fine
                dropped["export_error"] += 1
                continue
            yield made

    def _is_sampled(self, ids: TraceIds | None) -> bool:
        """Decided as OpenTelemetry's TraceIdRatioBased does, so alike for all of a trace."""
        return ids is None or int(ids.trace_id[-16:], 16) < self._sampled_below

    def _key(self, name: str, given: str | None) -> str:
        variable = f"LANGFUSE_{name.upper()}"
        key = given or _environ(variable)
        if key is None and not self._disabled:
            raise ConfigError(f"{name} is missing: give it, or set {variable}")
        return key or ""


def _environ(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


def _number(variable: str, default: float) -> float:
    text = _environ(variable)
    try:
        return default if text is None else float(text)
    except ValueError:
        raise ConfigError(f"{variable} is {text!r}, accepted is a number") from None
