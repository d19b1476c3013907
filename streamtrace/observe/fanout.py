"""To the sinks: each isolated from the others, and shown only the content it may see.

What a sink raises is counted as a run it dropped (`sink_error`) and never goes further, be it a
`CancelledError`; only what ends the process (KeyboardInterrupt, SystemExit) does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from streamtrace.core.content import ContentPolicy
from streamtrace.core.errors import ConfigError
from streamtrace.core.events import Event
from streamtrace.core.redact import Redactor, redact, without_content
from streamtrace.core.sink import CONTENT_MODES, ContentMode, Sink, SinkStats, StreamInfo
from streamtrace.core.summary import RunSummary
from streamtrace.environment import content_from_env
from streamtrace.logs import WARNINGS

ContentRule = ContentMode | Mapping[str, ContentMode]

_MAX_EVENT_ERRORS = 3


class Fanout:
    """All sinks of one middleware."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        content: ContentRule | None,
        redactor: Redactor | None,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if isinstance(sinks, Sink):
            raise ConfigError(f"sinks must be a list of sinks, got one {type(sinks).__name__}")
        self.sinks = tuple(sinks)
        self._redactor = redactor
        rules = {"*": content} if isinstance(content, str) else dict(content or {})
        for route, mode in rules.items():
            _check_mode(mode, f"content[{route!r}]")
        default = rules.pop("*", None)
        self._routes = rules
        for sink in self.sinks:
            if not isinstance(sink, Sink):
                raise ConfigError(
                    f"sinks must be objects of subclasses of streamtrace.Sink, got {sink!r}"
                )
            if sink.content is not None:
                _check_mode(sink.content, f"content of sink {sink.name}")
            sink.track(self.sinks)
        defaults = [default or content_from_env(environ, sink.name) or "off" for sink in self.sinks]
        self._modes = {rule: self._under(rule, defaults) for rule in (None, *CONTENT_MODES)}
        self._listeners = [
            index for index, sink in enumerate(self.sinks) if type(sink).event is not Sink.event
        ]

    @property
    def listens(self) -> bool:
        """Whether any sink wants every event."""
        return bool(self._listeners)

    def modes(self, route: str) -> tuple[ContentMode, ...]:
        """What each sink may see of a stream on this route.

        Its own setting, else the rule for the route, else the rule for all, else the environment.
        A rule for the route is also the most that any sink may see there.
        """
        return self._modes[self._routes.get(route)]

    def _under(
        self, rule: ContentMode | None, defaults: Sequence[ContentMode]
    ) -> tuple[ContentMode, ...]:
        modes = []
        for sink, default in zip(self.sinks, defaults, strict=True):
            told = [mode for mode in (sink.content, rule) if mode is not None]
            modes.append(min(told, key=CONTENT_MODES.index) if told else default)
        return tuple(modes)

    def policy(self, modes: Sequence[ContentMode], max_content_bytes: int) -> ContentPolicy:
        """What must be kept so that every sink gets what it may see."""
        return ContentPolicy(
            keep="full" in modes, hash="hash" in modes, room_bytes=max_content_bytes
        )

    def start(self, info: StreamInfo) -> None:
        """Tell all sinks that a stream began."""
        for index, sink in enumerate(self.sinks):
            try:
                sink.start(info)
            except BaseException as error:
                self._failed(index, "start", error)

    def listener(self, info: StreamInfo, modes: Sequence[ContentMode]) -> Listener:
        """Who is told of each event of one stream."""
        return Listener(self, info, [(index, modes[index]) for index in self._listeners])

    def end(self, info: StreamInfo, summary: RunSummary, modes: Sequence[ContentMode]) -> None:
        """Tell all sinks, each in its own view; a view is made once per mode."""
        views: dict[ContentMode, RunSummary] = {}
        for index, sink in enumerate(self.sinks):
            mode = modes[index]
            try:
                if mode not in views:
                    views[mode] = redact(summary, mode, self._redactor)
                sink.end(info, views[mode])
            except BaseException as error:
                sink.failures += 1
                self._failed(index, "end", error)
            else:
                sink.runs_told += 1

    def stats(self) -> dict[str, SinkStats]:
        """Where the records of each sink are, by its name; same names are numbered.

        A sink that raises when it is asked has empty stats.
        """
        result: dict[str, SinkStats] = {}
        for index, sink in enumerate(self.sinks):
            name, number = sink.name, 2
            while name in result:
                name, number = f"{sink.name}_{number}", number + 1
            try:
                result[name] = sink.totals()
            except BaseException as error:
                self._failed(index, "stats", error)
                result[name] = SinkStats()
        return result

    def show(self, event: Event, mode: ContentMode) -> Event:
        """The event as a sink of this mode may see it."""
        whole = mode == "full" and self._redactor is None
        return event if whole else without_content(event)

    def _failed(self, index: int, what: str, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        name = self.sinks[index].name
        WARNINGS.warn(
            f"{name}.{what}",
            f"sink {name}: {what} raised {type(error).__name__}; the stream goes on",
        )


class Listener:
    """Hands the events of one stream to the sinks that want them."""

    def __init__(
        self, fanout: Fanout, info: StreamInfo, targets: list[tuple[int, ContentMode]]
    ) -> None:
        self._fanout = fanout
        self._info = info
        self._targets = targets
        self._failures: dict[int, int] = {}

    def __call__(self, event: Event, at_ns: int) -> None:
        """One event. A sink that fails three times in a stream hears no more of it."""
        for target in tuple(self._targets):
            index, mode = target
            try:
                self._fanout.sinks[index].event(self._info, self._fanout.show(event, mode), at_ns)
            except BaseException as error:
                self._failures[index] = self._failures.get(index, 0) + 1
                self._fanout._failed(index, "event", error)
                if self._failures[index] >= _MAX_EVENT_ERRORS:
                    self._targets.remove(target)


def _check_mode(mode: str, where: str) -> None:
    if mode not in CONTENT_MODES:
        raise ConfigError(f"{where} must be one of {', '.join(CONTENT_MODES)}, got {mode!r}")
