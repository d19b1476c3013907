"""One request and its response, as far as the path has seen it, and what the app says of it.

An Exchange exists for every request, so it is small and does nothing. `annotate` finds it through a
context variable: contexts are copied into the tasks and threads that a request starts, and the
object is shared by them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from streamtrace.core.summary import Labels, TraceIds
from streamtrace.dialects.base import Dialect
from streamtrace.logs import WARNINGS
from streamtrace.observe.delivery import ObservedDelivery
from streamtrace.observe.route import route_template

MAX_LABEL_CHARS = 200
MAX_TAGS = 20
MAX_METADATA = 32

CURRENT: ContextVar[Exchange | None] = ContextVar("streamtrace_exchange", default=None)


class Exchange:
    """What is known of a request before anybody knows whether it is answered by a stream.

    `started_ns` is on the monotonic clock, `started_at_ns` is Unix time, both of the same moment.
    """

    __slots__ = (
        "app",
        "body_bytes",
        "body_parts",
        "client",
        "delivery",
        "dialect",
        "disconnected_ns",
        "finished",
        "headers",
        "labels",
        "path",
        "root_path",
        "scope",
        "started_at_ns",
        "started_ns",
    )

    def __init__(
        self, scope: Any, started_ns: int, started_at_ns: int, trace: TraceIds | None
    ) -> None:
        self.scope = scope
        self.headers = scope.get("headers")
        self.client = scope.get("client")
        self.app = scope.get("app")
        self.path = scope.get("path", "")
        # Where a mount of Starlette leads here, this is the root of the app that we ask for routes.
        self.root_path = scope.get("app_root_path", scope.get("root_path", ""))
        self.started_ns = started_ns
        self.started_at_ns = started_at_ns
        self.body_parts: list[bytes] | None = []  # None once it was read
        self.body_bytes = 0
        self.disconnected_ns: int | None = None
        self.finished = False
        self.labels: Labels | None = None
        self.delivery = ObservedDelivery(headers=self.headers, trace=trace)
        self.dialect: str | Dialect | None = None

    def is_of(self, scope: Any) -> bool:
        """Whether the scope, or a copy that somebody made of it, is that of this request.

        Starlette puts a new list of headers into the scope when somebody looks at them.
        """
        headers = scope.get("headers")
        if scope is self.scope or (headers is not None and headers is self.headers):
            return True
        same_client = self.client is not None and scope.get("client") == self.client
        return same_client and bool(headers) and list(headers) == list(self.headers or ())

    def route(self, outermost: Any) -> str:
        """The template of the route that serves it: in the app that the scope told of, else in the
        outermost one."""
        return route_template(self.scope, self.path, self.root_path, self.app or outermost)

    def gone_ns(self, at_ns: int) -> int | None:
        """When the client had left by then, from the start; `None` if it had not."""
        left_ns = self.disconnected_ns
        return None if left_ns is None or left_ns > at_ns else left_ns - self.started_ns

    def note_body(self, body: Any, max_bytes: int) -> None:
        """Keep a part of the request body, or nothing of it once it is over the limit."""
        if isinstance(body, str):
            body = body.encode("utf-8", "replace")
        if not isinstance(body, bytes) or not body or self.body_parts is None:
            return
        self.body_bytes += len(body)
        if self.body_bytes > max_bytes:
            self.body_parts = []
        else:
            self.body_parts.append(body)


def annotate(
    *,
    user: str | None = None,
    session: str | None = None,
    agent: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    release: str | None = None,
    environment: str | None = None,
    dialect: str | Dialect | None = None,
) -> bool:
    """Say more about the stream that is being answered now, from anywhere inside the app.

    Later calls add to earlier ones. Strings are cut at 200 characters; 20 tags and 32 metadata keys
    are kept. `dialect` is the response's wire vocabulary, by name or as an object, where detection
    would have to guess; it must be said before the first chunk.
    Never raises; returns `False` where no observed request is being answered.
    """
    exchange = CURRENT.get()
    if exchange is None or exchange.finished:
        return False
    labels = exchange.labels
    if labels is None:
        labels = exchange.labels = Labels()
    given = {
        "user": user,
        "session": session,
        "agent": agent,
        "release": release,
        "environment": environment,
    }
    try:
        for name, value in given.items():
            if value is not None:
                setattr(labels, name, str(value)[:MAX_LABEL_CHARS])
        for tag in [tags] if isinstance(tags, str) else tags:
            if len(labels.tags) < MAX_TAGS:
                labels.tags.append(str(tag)[:MAX_LABEL_CHARS])
        for key, value in (metadata or {}).items():
            if len(labels.metadata) < MAX_METADATA:
                labels.metadata[str(key)[:MAX_LABEL_CHARS]] = _plain(value)
    except Exception as error:  # a label is not worth an answer
        WARNINGS.warn("annotate", f"annotate was given a wrong value: {type(error).__name__}")
    if isinstance(dialect, str | Dialect):
        exchange.dialect = dialect
    return True


def _plain(value: Any) -> Any:
    """Metadata as plain data: what is no number, boolean or short text becomes text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:MAX_LABEL_CHARS]
