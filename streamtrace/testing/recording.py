"""A sink that keeps what it is told, and lets a test wait for it."""

from __future__ import annotations

import threading

from streamtrace.core.events import Event
from streamtrace.core.sink import ContentMode, Sink, SinkStats, StreamInfo
from streamtrace.core.summary import RunSummary


class RecordingSink(Sink):
    """Keeps everything; for tests.

        sink = RecordingSink()
        app = StreamTraceMiddleware(app, sinks=[sink])
        ...                                   # talk to the app
        [run] = sink.wait(1)
        assert run.status == "completed"

    Records are made off the client's path, shortly after a response ends: so wait for them.
    """

    name = "recording"

    def __init__(self, content: ContentMode | None = "full") -> None:
        self.content = content
        self.started: list[StreamInfo] = []
        self.events: list[tuple[int, Event]] = []
        self.runs: list[RunSummary] = []
        self._changed = threading.Condition()

    def start(self, info: StreamInfo) -> None:
        """Keep the info."""
        with self._changed:
            self.started.append(info)
            self._changed.notify_all()

    def event(self, info: StreamInfo, event: Event, at_ns: int) -> None:
        """Keep the event and its time."""
        self.events.append((at_ns, event))

    def end(self, info: StreamInfo, summary: RunSummary) -> None:
        """Keep the run."""
        with self._changed:
            self.runs.append(summary)
            self._changed.notify_all()

    def wait(self, runs: int, timeout_s: float = 10.0) -> list[RunSummary]:
        """The runs, once there are that many. Raises TimeoutError after `timeout_s`.

        Not to be called on the thread of the loop that serves the app.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.runs) >= runs, timeout_s):
                raise TimeoutError(f"{len(self.runs)} of {runs} runs after {timeout_s} s")
            return list(self.runs)

    def stats(self) -> SinkStats:
        """All that came was kept."""
        return SinkStats(accepted=len(self.runs), exported=len(self.runs))
