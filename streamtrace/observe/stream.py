"""One observed stream, from its first chunk in the tap to its record in the sinks.

The path fills the `tap` and calls, once, `end`. Everything else here runs off the path, in `work`,
in pieces small enough for the pump's slice. A stream ends exactly once: the first `end` counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from streamtrace.core.content import ContentPolicy
from streamtrace.core.delivery import DeliveryCounts
from streamtrace.core.jsonio import load_json
from streamtrace.core.outcome import StreamEnd, decide
from streamtrace.core.request import read_request
from streamtrace.core.sink import ContentMode, StreamInfo
from streamtrace.core.summary import (
    Labels,
    RequestFacts,
    RunConnection,
    RunSummary,
    TraceIds,
)
from streamtrace.dialects.base import Dialect, Head
from streamtrace.logs import WARNINGS
from streamtrace.observe.client_lag import NOT_ASKED, ClientLag
from streamtrace.observe.delivery import Rest
from streamtrace.observe.exchange import Exchange
from streamtrace.observe.fanout import Fanout
from streamtrace.observe.notes import Alike, Entries, Gap
from streamtrace.observe.pipeline import Pipeline
from streamtrace.observe.pump import InlinePump, Pump
from streamtrace.observe.tap import Tap

PIECE_BYTES = 16 * 1024
"""Most bytes decoded between two looks at the clock; about a fifth of a millisecond."""


class Opening(msgspec.Struct, kw_only=True, gc=False):
    """What the path knew when the response turned out to be a stream."""

    head: Head
    method: str | None
    parse: bool
    trace: TraceIds


class Settings(msgspec.Struct, kw_only=True):
    """What all streams of one middleware share."""

    app: Any
    fanout: Fanout
    dialects: tuple[Dialect, ...]
    hint: Dialect | None
    named: Callable[[str | Dialect | None], Dialect | None]
    labels: Labels
    max_tap_bytes: int
    max_frame_bytes: int
    max_content_bytes: int
    price: Callable[[Any], None] | None


class ActiveStream(msgspec.Struct, kw_only=True, frozen=True):
    """A stream in flight, as `StreamTraceMiddleware.active` shows it."""

    route: str
    method: str | None
    dialect: str | None
    age_s: float
    events: int
    last_event_age_s: float | None
    body_bytes: int
    trace_id: str


class Stream:
    """See the module docstring. `forget` is called when the record is made."""

    __slots__ = (
        "_broken",
        "_decode_ns",
        "_end",
        "_entries",
        "_exchange",
        "_final",
        "_forget",
        "_info",
        "_lag",
        "_modes",
        "_offset",
        "_opening",
        "_pipeline",
        "_policy",
        "_position",
        "_pump",
        "_request",
        "_settings",
        "_timer",
        "tap",
    )

    def __init__(
        self,
        exchange: Exchange,
        opening: Opening,
        settings: Settings,
        pump: Pump | InlinePump,
        forget: Callable[[Stream], None],
    ) -> None:
        self.tap = Tap(pump.budget, settings.max_tap_bytes, self._schedule)
        self._exchange = exchange
        self._opening = opening
        self._settings = settings
        self._pump = pump
        self._forget = forget
        self._end: StreamEnd | None = None
        self._final: StreamEnd | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._entries: Entries = ()
        self._position = 0
        self._offset = 0
        self._broken = False
        self._decode_ns = 0
        self._pipeline: Pipeline | None = None
        self._info: StreamInfo | None = None
        self._modes: tuple[ContentMode, ...] = ()
        self._policy = ContentPolicy()
        self._request = RequestFacts()
        self._lag = NOT_ASKED
        pump.add(self, new=True)

    def belongs_to(self, pump: Pump | InlinePump) -> bool:
        """Whether the stream lives on that pump's loop."""
        return self._pump is pump

    def final(self, at_ns: int, disconnected_ns: int | None) -> None:
        """The final body is with the server. What the app still raises may say why it came."""
        self._final = StreamEnd(
            at_ns=at_ns - self._exchange.started_ns, final=True, disconnected_ns=disconnected_ns
        )
        self._timer = self._pump.later(self._end_as_sent)

    def end(self, end: StreamEnd) -> None:
        """The app is done; `end.at_ns` is on the monotonic clock. Later calls change nothing."""
        if self._end is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        final = self._final
        if final is None:
            end.at_ns -= self._exchange.started_ns
        else:
            end = msgspec.structs.replace(
                final,
                timed_out=end.timed_out,
                exception=end.exception,
                exception_text=end.exception_text,
            )
        self._end = end
        self._exchange.finished = True
        self._pump.add(self, soon=True)

    def _end_as_sent(self) -> None:
        """The app goes on without the client, for instance with a task in the background."""
        self.end(StreamEnd(at_ns=0))

    def active(self, now_ns: int) -> ActiveStream:
        """What is known of the stream while it runs."""
        pipeline = self._pipeline
        age_ns = now_ns - self._exchange.started_ns
        last_ns = None if pipeline is None else pipeline.machine.last_event_ns
        dialect = None if pipeline is None else pipeline.dialect
        return ActiveStream(
            route=self._route(),
            method=self._opening.method,
            dialect=None if dialect is None else dialect.name,
            age_s=age_ns / 1e9,
            events=0 if pipeline is None else pipeline.machine.events,
            last_event_age_s=None if last_ns is None else (age_ns - last_ns) / 1e9,
            body_bytes=0 if pipeline is None else pipeline.body_bytes,
            trace_id=self._opening.trace.trace_id,
        )

    def _route(self) -> str:
        return self._exchange.route(self._settings.app) if self._info is None else self._info.route

    def work(self, deadline_ns: int) -> bool:
        """Decode until the deadline; true if something is left. Never raises."""
        self._decode_ns -= time.perf_counter_ns()
        try:
            return self._work(deadline_ns)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a fault of ours costs the record's detail, nothing else
            WARNINGS.warn("stream", f"a stream's record is incomplete: {type(error).__name__}")
            self._broken = True
            return True
        finally:
            self._decode_ns += time.perf_counter_ns()

    def _schedule(self, soon: bool) -> None:
        self._pump.add(self, soon=soon, new=self._pipeline is None)

    def _work(self, deadline_ns: int) -> bool:
        if self._exchange is _DONE:  # its record is made, and something failed behind that
            return False
        if self._broken:
            return self._work_broken()
        if self._info is None:
            self._start()
        while True:
            if self._position >= len(self._entries):
                self._entries, self._position = self.tap.take(), 0
                if not self._entries:
                    break
            pipeline = self._pipeline or self._begin()
            self._step(pipeline)
            if time.perf_counter_ns() >= deadline_ns:
                return True
        self.tap.rest()
        if self._end is None:
            self._lag.look(time.perf_counter_ns())
        else:
            self._lag.ask(time.perf_counter_ns())
            self._finish(self._pipeline or self._begin(), self._end)
        return False

    def _step(self, pipeline: Pipeline) -> None:
        """Many entries that are alike, or one, or a piece of a large one."""
        position, epoch_ns = self._position, self._exchange.started_ns
        body = self._entries[position + 1]
        if body.__class__ is Alike:
            pipeline.feed_shaped(body, epoch_ns)
            self._position += 0 if body else 2
            return
        if not self._offset:
            self._position = pipeline.feed_alike(self._entries, position, epoch_ns)
            if self._position > position:
                return
        at_ns = self._entries[position] - epoch_ns
        if isinstance(body, Gap):
            pipeline.lose(body.lost_chunks, body.lost_bytes)
        elif self._opening.head.transport == "websocket":
            pipeline.message(
                body if isinstance(body, bytes) else body.encode("utf-8", "replace"), at_ns
            )
        elif len(body) > PIECE_BYTES:
            pipeline.feed(body[self._offset : self._offset + PIECE_BYTES], at_ns)
            self._offset += PIECE_BYTES
            if self._offset < len(body):
                return
            self._offset = 0
        else:
            pipeline.feed(body, at_ns)
        self._position += 2

    def _start(self) -> None:
        """Tell the sinks, before anything is decoded."""
        settings, opening, exchange = self._settings, self._opening, self._exchange
        self._lag = ClientLag.of(
            self._pump.tcp_diag,
            exchange.client,
            exchange.scope.get("server"),
            exchange.started_ns,
        )
        route = self._route()
        self._modes = settings.fanout.modes(route)
        self._policy = settings.fanout.policy(self._modes, settings.max_content_bytes)
        self._info = StreamInfo(
            started_at_ns=exchange.started_at_ns,
            route=route,
            method=opening.method,
            transport=opening.head.transport,
            http_status=opening.head.status,
            trace=opening.trace,
            connection=None
            if exchange.delivery.connection is None
            else exchange.delivery.connection.kind,
        )
        settings.fanout.start(self._info)

    def _begin(self) -> Pipeline:
        """With the first chunk, so that the app had time to name its dialect, or to be asked."""
        settings, exchange, opening = self._settings, self._exchange, self._opening
        assert self._info is not None
        asked = self._read_request()
        fanout = settings.fanout
        self._pipeline = Pipeline(
            msgspec.structs.replace(opening.head, path=exchange.path, request=asked),
            dialects=settings.dialects,
            hint=settings.named(exchange.dialect) or settings.hint,
            policy=self._policy,
            parse=opening.parse,
            max_frame_bytes=settings.max_frame_bytes,
            listener=fanout.listener(self._info, self._modes) if fanout.listens else None,
        )
        return self._pipeline

    def _read_request(self) -> Any:
        """The request's JSON value, if it can be read now, for the first and only time.

        The input may take half of what is kept of a stream: a long history leaves room.
        """
        parts = self._exchange.body_parts
        if not parts:
            return None
        self._exchange.body_parts = None
        asked = load_json(b"".join(parts))
        rest_bytes = self._policy.room_bytes // 2
        self._policy.room_bytes -= rest_bytes
        self._request = read_request(asked, self._policy)
        self._policy.room_bytes += rest_bytes
        return asked

    def _finish(self, pipeline: Pipeline, end: StreamEnd) -> None:
        self._read_request()  # some apps answer before they have read it
        labels = self._labels(pipeline.machine.agent)
        summary = pipeline.close(end, labels=labels, **self._facts())
        summary.thread_id = summary.thread_id or self._request.thread_id
        if summary.connection is not None:
            _belong(summary, summary.connection)
        if self._settings.price is not None:
            try:
                self._settings.price(summary)
            except Exception:  # the prices may be the user's own; the run is worth more
                summary.issues["pricing_failed"] = 1
        self._tell(summary)

    def _work_broken(self) -> bool:
        """Something of ours failed: keep nothing more, and still end what was started, once."""
        self._empty_tap()
        end = self._end
        if end is not None and self._info is None:
            self._done()
        elif end is not None:
            status, _ = decide(
                end, terminal=None, needs_terminal=False, http_status=None, lost=True
            )
            self._tell(
                RunSummary(
                    status=status,
                    duration_ns=end.at_ns,
                    issues={"record_incomplete": 1},
                    **self._facts(),
                )
            )
        return False

    def _empty_tap(self) -> None:
        self._entries = ()
        self.tap.take()
        self.tap.rest()

    def _facts(self) -> dict[str, Any]:
        """The fields of the summary that are not in the bytes."""
        opening = self._opening
        return {
            "started_at_ns": self._exchange.started_at_ns,
            "http_status": opening.head.status,
            "route": self._route(),
            "method": opening.method,
            "transport": opening.head.transport,
            "trace": opening.trace,
            "send_stall_ns": self.tap.stall_ns,
            "longest_send_stall_ns": self.tap.longest_stall_ns,
            "client_lag_ns": self._lag.total_ns,
            "client_lag_bytes": self._lag.max_bytes,
            **_delivered(self._exchange.delivery),
            "request": self._request,
        }

    def _tell(self, summary: RunSummary) -> None:
        assert self._info is not None
        summary.decode_ns = self._decode_ns + time.perf_counter_ns()  # still at work
        settings, info, delivery = self._settings, self._info, self._exchange.delivery
        self._done()
        settings.fanout.end(info, summary, self._modes)
        if summary.connection is not None and summary.connection.is_detached:
            delivery.told(Rest(settings.fanout, info, self._modes, settings.price, summary))

    def _done(self) -> None:
        self._exchange = _DONE
        self.tap.close()
        self._forget(self)

    def _labels(self, agent: str | None) -> Labels:
        """What the app said, over what the run said, over the middleware's defaults."""
        said = self._exchange.labels or Labels()
        default = self._settings.labels
        return msgspec.structs.replace(
            said,
            user=said.user or self._request.user,
            agent=said.agent or agent or default.agent,
            release=said.release or default.release,
            environment=said.environment or default.environment,
        )


def _delivered(counts: DeliveryCounts) -> dict[str, Any]:
    """As fields of the summary, where somebody counted."""
    if counts.policy is None:
        return {}
    return {
        "delivery_policy": counts.policy,
        "dropped_events": counts.dropped_events,
        "dropped_chars": counts.dropped_chars,
        "joined_events": counts.joined_events,
        "connection": counts.connection,
    }


def _belong(summary: RunSummary, connection: RunConnection) -> None:
    """To a run that others tell of as well: a stream that begins in its middle does not say which,
    and what the run used is told by the connection that began it."""
    summary.run_id = summary.run_id or connection.run_id
    summary.thread_id = summary.thread_id or connection.thread_id
    if not connection.tells_run:
        summary.usage, summary.usage_by_model, summary.cost_usd = None, [], None
        for one in summary.generations:
            one.usage = one.cost_usd = None


_DONE: Any = Exchange({"headers": ()}, 0, 0, None)
"""Stands in for the exchange of a stream whose record is made: nothing keeps the real one."""
