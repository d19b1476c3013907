"""StreamTraceMiddleware: around each connection, a path that notes what passes (path.py).

Rules that hold here:

* Every message goes on as the same object, in the same order, whatever happens on our side. The app
  gets its own `scope`; `receive` is called only when the app calls it.
* No per-request state on the middleware. No task, queue, header or byte is added.
* What the app raises is raised again, unchanged.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from streamtrace.core.content import MAX_CONTENT_BYTES
from streamtrace.core.delivery import CURRENT_DELIVERY
from streamtrace.core.errors import ConfigError
from streamtrace.core.frames import MAX_FRAME_BYTES
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.redact import Redactor
from streamtrace.core.sink import Sink, SinkStats
from streamtrace.core.summary import Labels
from streamtrace.dialects.base import LINE_MEDIA_TYPES, Dialect, Head
from streamtrace.dialects.detect import BUILT_IN, by_name
from streamtrace.logs import WARNINGS
from streamtrace.observe import trace_context
from streamtrace.observe.asgi_types import ASGIApp, Message, Receive, Scope, Send
from streamtrace.observe.cost import Pricing
from streamtrace.observe.exchange import CURRENT, Exchange
from streamtrace.observe.fanout import ContentRule, Fanout
from streamtrace.observe.lifespan import run_lifespan
from streamtrace.observe.messages import ended_by, http_opening, websocket_opening
from streamtrace.observe.path import HttpPath, timed
from streamtrace.observe.pump import InlinePump, Pumps
from streamtrace.observe.shutdown import close_at_exit, flush_sinks, open_middlewares
from streamtrace.observe.stream import ActiveStream, Opening, Settings, Stream
from streamtrace.observe.tap import MAX_TAP_BYTES, MAX_TOTAL_BYTES

MAX_REQUEST_BYTES = 256 * 1024
FLUSH_TIMEOUT_S = 5.0

_clock = time.perf_counter_ns


class StreamTraceMiddleware:
    """Observe the streamed responses of an ASGI app.

        app = StreamTraceMiddleware(app, sinks=[OTelSink(), PrometheusSink()])
        app.add_middleware(StreamTraceMiddleware, sinks=[...])      # Starlette, FastAPI

    Observed are responses of type text/event-stream (and JSON lines with `json_lines=True`), and
    WebSocket connections (unless `websockets=False`). All else passes by.

    sinks       where runs are told; see streamtrace.sinks
    dialect     the wire vocabulary, by name or as an object, if it is not to be detected
    dialects    dialects of your own, tried before the built-in ones
    content     what sinks may see of prompts, texts, arguments and results: "off", "hash" or
                "full", or a mapping of route templates to these ("*": the rest). A sink's own
                setting comes first, but never shows more than a rule for the route allows.
                Default: as the environment says (docs/configuration.md), else off
    redactor    `redactor(text, where) -> str | None`, before any sink, where content is "full"
    include, exclude   route templates to observe, or not to
    agent, release, environment   labels of all runs; `streamtrace.annotate` says them per stream
    pricing     prices per model; `None` computes no cost
    max_*_bytes bounds: of one stream's tap, of all taps of a loop, of a frame, of the request body
                that is read, of the content kept of one stream
    flush_timeout_s   the most that shutdown waits for all sinks together

    Raises ConfigError for values that are wrong. After construction it raises nothing of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        sinks: Sequence[Sink] = (),
        *,
        dialect: str | Dialect | None = None,
        dialects: Sequence[Dialect] = (),
        content: ContentRule | None = None,
        redactor: Redactor | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        json_lines: bool = False,
        websockets: bool = True,
        agent: str | None = None,
        release: str | None = None,
        environment: str | None = None,
        pricing: Pricing | None = Pricing(),  # noqa: B008  immutable
        max_tap_bytes: int = MAX_TAP_BYTES,
        max_total_bytes: int = MAX_TOTAL_BYTES,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_content_bytes: int = MAX_CONTENT_BYTES,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        bounds: dict[str, Any] = {
            "max_tap_bytes": max_tap_bytes,
            "max_total_bytes": max_total_bytes,
            "max_frame_bytes": max_frame_bytes,
            "max_request_bytes": max_request_bytes,
            "max_content_bytes": max_content_bytes,
            "flush_timeout_s": flush_timeout_s,
        }
        for name, value in bounds.items():
            if not isinstance(value, int | float) or value < 0:
                raise ConfigError(f"{name} must be a number that is not negative, got {value!r}")
        if not callable(app):
            raise ConfigError(f"app must be an ASGI application, got {app!r}")
        if redactor is not None and not callable(redactor):
            raise ConfigError(f"redactor must be callable, got {redactor!r}")
        if pricing is not None and not isinstance(pricing, Pricing):
            raise ConfigError(f"pricing must be a Pricing or None, got {pricing!r}")
        for name, routes in {"include": include, "exclude": exclude}.items():
            if isinstance(routes, str):
                raise ConfigError(f"{name} must be a list of route templates, got {routes!r}")
        own = _by_own_name(dialects)
        self.app = app
        self.flush_timeout_s = flush_timeout_s
        self._fanout = Fanout(sinks, content, redactor, os.environ)
        self._settings = Settings(
            app=app,
            fanout=self._fanout,
            dialects=(*dialects, *BUILT_IN),
            hint=None if dialect is None else _meant(dialect, own),
            named=lambda said: _meant_or_none(said, own),
            labels=Labels(agent=agent, release=release, environment=environment),
            max_tap_bytes=max_tap_bytes,
            max_frame_bytes=max_frame_bytes,
            max_content_bytes=max_content_bytes,
            price=None if pricing is None else pricing.apply,
        )
        self._max_request_bytes = max_request_bytes
        self._media_types = (
            "text/event-stream",
            *(LINE_MEDIA_TYPES if json_lines else ()),
            *(() if self._settings.hint is None else self._settings.hint.media_types),
        )
        self._websockets = websockets
        self._include = None if include is None else frozenset(include)
        self._exclude = frozenset(exclude)
        self._pumps = Pumps(max_total_bytes, listens=self._fanout.listens)
        self._active: dict[int, Stream] = {}
        # One for all requests, since each would be an object per request.
        self._open_http = partial(self._open, opening_of=http_opening)
        self._forgotten = self._forget
        if pricing is not None:
            pricing.load()
        close_at_exit(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. See the module docstring for what is promised."""
        if scope["type"] != "http" or self._is_nested(scope):
            await self._not_http(scope, receive, send)
            return
        # Here, and not in a method: each coroutine more is one more to go through at each chunk.
        exchange = self._exchange(scope)
        path = HttpPath(exchange, self._open_http, receive, send, self._max_request_bytes)
        outer = _enter(exchange)
        try:
            await self.app(scope, path.receive, path.sender())
        except BaseException as error:
            _end(path.stream, exchange, error)
            raise
        else:
            _end(path.stream, exchange)
        finally:
            _leave(exchange, outer)

    # --- what users ask -----------------------------------------------------------------------

    def active(self) -> list[ActiveStream]:
        """The streams in flight, oldest first."""
        now_ns = _clock()
        return [stream.active(now_ns) for stream in tuple(self._active.values())]

    def stats(self) -> dict[str, SinkStats]:
        """Where the records of each sink are."""
        return self._fanout.stats()

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks, as given."""
        return self._fanout.sinks

    async def drain(self) -> None:
        """End what is still open as `drained`, and flush all sinks, within `flush_timeout_s`.

        Called at lifespan shutdown; call it yourself where there is no lifespan.
        """
        pump = self._pumps.current()
        for stream in tuple(self._active.values()):
            if stream.belongs_to(pump):
                stream.end(StreamEnd(at_ns=_clock(), drained=True))
        pump.drain()
        if isinstance(pump, InlinePump):  # no asyncio here: all that is left is to wait
            flush_sinks(self.sinks, self.flush_timeout_s)
        else:
            await asyncio.to_thread(flush_sinks, self.sinks, self.flush_timeout_s)

    def finish(self) -> None:
        """The process ends, and no loop runs any more: make the records of all streams."""
        for stream in tuple(self._active.values()):
            stream.end(StreamEnd(at_ns=_clock(), drained=True))
        self._pumps.sweep(everything=True)

    # --- the path -----------------------------------------------------------------------------

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Or what an outer one of us observes."""
        kind = scope["type"]
        if kind == "lifespan":
            await run_lifespan(self.app, scope, receive, send, self.drain)
        elif kind == "websocket" and self._websockets and not self._is_nested(scope):
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange(scope)
        stream: Stream | None = None
        sent: Stream | None = None

        async def observed_receive() -> Message:
            message = await receive()
            kind = message.get("type")
            if kind == "websocket.disconnect":
                exchange.disconnected_ns = _clock()
            elif kind == "websocket.receive" and not exchange.body_bytes:
                body = message.get("bytes") or message.get("text")
                exchange.note_body(body, self._max_request_bytes)
            return message

        async def observed_send(message: Message) -> None:
            nonlocal stream, sent
            kind = message.get("type")
            if stream is None or kind not in ("websocket.send", "websocket.close"):
                if kind == "websocket.accept":
                    stream = self._open(exchange, message, websocket_opening)
                await send(message)
                return
            at_ns = _clock()
            is_noted = kind == "websocket.send" and stream.tap.push(
                at_ns, message.get("bytes") or message.get("text")
            )
            await timed(send, message, at_ns, exchange, stream.tap, is_noted=is_noted)
            if kind == "websocket.close":
                observed, stream, sent = stream, None, stream
                observed.final(at_ns, exchange.gone_ns(at_ns))

        outer = _enter(exchange)
        try:
            await self.app(scope, observed_receive, observed_send)
        except BaseException as error:
            _end(stream or sent, exchange, error)
            raise
        else:
            _end(stream or sent, exchange)
        finally:
            _leave(exchange, outer)

    def _is_nested(self, scope: Scope) -> bool:
        """Whether one of us already stands outside, around the same request."""
        outer = CURRENT.get()
        return outer is not None and not outer.finished and outer.is_of(scope)

    def _exchange(self, scope: Scope) -> Exchange:
        return Exchange(scope, _clock(), time.time_ns(), trace_context.current_span())

    def _open(
        self,
        exchange: Exchange,
        message: Message,
        opening_of: Callable[[Message, tuple[str, ...]], tuple[Head, bool] | None],
    ) -> Stream | None:
        """The stream to observe, or `None` where the response is none, or is not wanted."""
        try:
            opened = opening_of(message, self._media_types)
            if opened is None:
                return None
            head, parse = opened
            if (self._include is not None or self._exclude) and not self._wanted(
                exchange.route(self.app)
            ):
                return None
            stream = Stream(
                exchange,
                Opening(
                    head=head,
                    method=exchange.scope.get("method"),
                    parse=parse,
                    trace=exchange.delivery.trace_ids(),
                ),
                self._settings,
                self._pumps.current(),
                self._forgotten,
            )
        except Exception as error:  # a fault of ours: the response goes on unobserved
            WARNINGS.warn("open", f"a stream was not observed: {type(error).__name__}")
            return None
        self._active[id(stream)] = stream
        return stream

    def _wanted(self, route: str) -> bool:
        return route not in self._exclude and (self._include is None or route in self._include)

    def _forget(self, stream: Stream) -> None:
        self._active.pop(id(stream), None)


def active_streams() -> list[ActiveStream]:
    """The streams in flight in this process, oldest first: for those who have no hold of their
    middleware, since `add_middleware` makes it."""
    found = [
        stream
        for one in open_middlewares()
        if isinstance(one, StreamTraceMiddleware)
        for stream in one.active()
    ]
    return sorted(found, key=lambda stream: -stream.age_s)


def _end(stream: Stream | None, exchange: Exchange, error: BaseException | None = None) -> None:
    """The app returned, or raised: so ended its stream, if it had one."""
    if stream is None:
        return
    if error is not None:
        stream.end(ended_by(error, exchange))
        return
    at_ns = _clock()
    stream.end(StreamEnd(at_ns=at_ns, disconnected_ns=exchange.gone_ns(at_ns)))


def _enter(exchange: Exchange) -> Exchange | None:
    """From here on, the context is that of this request. Returns whose it was."""
    outer = CURRENT.get()
    CURRENT.set(exchange)
    CURRENT_DELIVERY.set(exchange.delivery)
    return outer


def _leave(exchange: Exchange, outer: Exchange | None) -> None:
    """No tokens are kept to reset the variables by: these would be objects for as long as the
    request. Where it is closed from another context, with its own, nothing is to be done."""
    exchange.finished = True
    if CURRENT.get() is exchange:
        CURRENT.set(outer)
        CURRENT_DELIVERY.set(None if outer is None else outer.delivery)


def _by_own_name(dialects: Sequence[Dialect]) -> dict[str, Dialect]:
    """The user's own dialects. Raises ConfigError for what is none."""
    for one in dialects:
        if not isinstance(one, Dialect):
            raise ConfigError(f"dialects must be objects of subclasses of Dialect, got {one!r}")
    return {one.name: one for one in dialects}


def _meant(dialect: str | Dialect, own: Mapping[str, Dialect]) -> Dialect:
    """The dialect that is meant, one of the user's own first. Raises ConfigError for none."""
    if isinstance(dialect, str):
        return own.get(dialect) or by_name(dialect)
    if not isinstance(dialect, Dialect):
        raise ConfigError(f"dialect must be a name or an object of a Dialect, got {dialect!r}")
    return dialect


def _meant_or_none(said: str | Dialect | None, own: Mapping[str, Dialect]) -> Dialect | None:
    """The dialect that the app named while it ran; an unknown name is no dialect."""
    try:
        return None if said is None else _meant(said, own)
    except ConfigError:
        WARNINGS.warn("dialect", "annotate named a dialect that is not known")
        return None
