"""`/metrics` as an ASGI app: rendered in a thread, so that no stream waits for a scrape."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamtrace.logs import WARNINGS
from streamtrace.sinks.prometheus.client import client, is_multiprocess

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PATHS = ("", "/", "/metrics", "/metrics/")
_LIVE_GAUGES = re.compile(r"gauge_live[a-z]*_(\d{1,9})\.db")
_TEXT = "text/plain; charset=utf-8"


def metrics_app(registry: CollectorRegistry | None = None) -> MetricsApp:
    """An ASGI app that shows the metrics of a registry, of all processes where there are several.

    Mount it at any path, or serve it as an app of its own. It speaks the text format, and
    OpenMetrics (which has the exemplars) to those who accept it.

    Under several processes `registry` is not asked: the client library keeps the values of all
    registries in the files of one directory, and all of them are shown.
    """
    return MetricsApp(registry)


def mark_process_dead(pid: int) -> None:
    """Forget the gauges of a worker process that is gone; its counters stay.

    A worker that serves the metrics sees by itself which others are gone; say it where a process
    serves them that keeps none itself.

    For gunicorn: `def child_exit(server, worker): mark_process_dead(worker.pid)`.
    """
    if is_multiprocess():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            client(".multiprocess").mark_process_dead(pid)


class MetricsApp:
    """See `metrics_app`. An object, not a function: routers know it for an ASGI app by that."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = client().REGISTRY if registry is None else registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or one lifespan."""
        if scope["type"] == "http":
            status, headers, body = await self._answer(scope)
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            raw.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": status, "headers": raw})
            body = b"" if scope["method"] == "HEAD" else body
            await send({"type": "http.response.body", "body": body, "more_body": False})
        elif scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope) -> tuple[int, dict[str, str], bytes]:
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root)
        if path not in _PATHS and scope.get("endpoint") is not self:  # no router sent it here
            return 404, {"content-type": _TEXT}, b"not found\n"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, {"content-type": _TEXT, "allow": "GET, HEAD"}, b"method not allowed\n"
        accept = b",".join(value for name, value in scope["headers"] if name.lower() == b"accept")
        try:
            content_type, body = await asyncio.to_thread(self._render, accept.decode("latin-1"))
        except Exception as error:  # a collector of somebody else, or a directory that is gone
            WARNINGS.warn("prometheus.render", f"metrics: rendering raised {type(error).__name__}")
            return 500, {"content-type": _TEXT}, b"the metrics could not be rendered\n"
        return 200, {"content-type": content_type}, body

    def _render(self, accept: str) -> tuple[str, bytes]:
        registry = self._registry
        if is_multiprocess():
            _forget_the_dead()
            registry = client().CollectorRegistry()
            client(".multiprocess").MultiProcessCollector(registry)
        choose = client(".exposition").choose_encoder
        try:
            encode, content_type = choose(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose("")
        return content_type, encode(registry)


def _forget_the_dead() -> None:
    """A worker that was killed says nothing, and nobody may have told of it.

    Only where this process has gauges itself: else the names may be no process ids, or those of
    another container.
    """
    files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).iterdir()
    pids = {int(found[1]) for file in files if (found := _LIVE_GAUGES.fullmatch(file.name))}
    if os.name == "posix" and os.getpid() in pids:
        for pid in pids:
            if not _is_alive(pid):
                mark_process_dead(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
