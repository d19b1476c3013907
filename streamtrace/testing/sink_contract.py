"""What every sink must keep, as tests: subclass, say how yours is made, and let pytest collect it.

    class TestMySink(SinkContract):
        def make(self) -> Sink:
            return MySink(url="http://127.0.0.1:9")

The sink is closed after each test. Nothing here needs its target to be there: a sink whose target
is away must keep all of it as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from streamtrace.core.content import ContentPolicy
from streamtrace.core.events import Event, TextDelta, ToolCallReady, ToolCallResult, Usage
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.sink import Sink, StreamInfo
from streamtrace.core.summary import RunSummary, Status, TraceIds

CLOSE_S = 10.0
"""The most that closing a sink may take here."""

_THREADS = 4
_RUNS_PER_THREAD = 25


class Unheard(Event, frozen=True, kw_only=True):
    """An event of a later version."""


class SinkContract:
    """The tests. `make` gives a new sink each time."""

    def make(self) -> Sink:
        """A sink to be tested."""
        raise NotImplementedError(f"{type(self).__name__} must define make()")

    def test_it_has_a_name_that_can_be_a_label(self) -> None:
        """Metrics and warnings carry it."""
        sink = self.make()
        assert sink.name
        assert sink.name.isascii()
        assert len(sink.name) <= 40
        sink.close(CLOSE_S)

    def test_making_it_starts_nothing(self) -> None:
        """A process may fork after its app was made."""
        before = threading.active_count()
        sink = self.make()
        assert threading.active_count() == before
        sink.close(CLOSE_S)

    def test_each_run_is_exported_dropped_or_queued(self) -> None:
        """At all times, with any outcome, from several threads."""
        sink = self.make()

        def tell() -> None:
            for number in range(_RUNS_PER_THREAD):
                self._tell(sink, run(tuple(Status)[number % len(Status)]))
                self._balanced(sink)

        _in_threads(tell)
        assert sink.stats().accepted == _THREADS * _RUNS_PER_THREAD
        sink.flush(CLOSE_S)
        self._balanced(sink)
        sink.close(CLOSE_S)
        self._balanced(sink)
        assert sink.stats().queued == 0

    def test_a_run_after_the_end_is_dropped_and_counted(self) -> None:
        """And closing twice is no error."""
        sink = self.make()
        sink.close(CLOSE_S)
        self._tell(sink, run())
        sink.close(CLOSE_S)
        stats = sink.stats()
        assert (stats.accepted, stats.exported, stats.queued) == (1, 0, 0)
        assert sum(stats.dropped.values()) == 1

    def test_it_leaves_the_record_as_it_was(self) -> None:
        """Other sinks are given the same object."""
        sink = self.make()
        summary = run()
        before = msgspec.json.encode(summary)
        self._tell(sink, summary)
        sink.flush(CLOSE_S)
        sink.close(CLOSE_S)
        assert msgspec.json.encode(summary) == before

    def test_it_takes_runs_that_say_little_and_events_it_does_not_know(self) -> None:
        """The vocabulary grows, and most fields can be absent."""
        sink = self.make()
        info = info_of(run())
        sink.start(info)
        sink.event(info, Unheard(), 1)
        sink.end(info, RunSummary(status=Status.TRUNCATED, started_at_ns=0, duration_ns=0))
        sink.flush(CLOSE_S)
        self._balanced(sink)
        sink.close(CLOSE_S)

    def _tell(self, sink: Sink, summary: RunSummary) -> None:
        info = info_of(summary)
        sink.start(info)
        sink.end(info, summary)

    def _balanced(self, sink: Sink) -> None:
        stats = sink.stats()
        assert stats.accepted == stats.exported + sum(stats.dropped.values()) + stats.queued


def run(status: Status = Status.COMPLETED) -> RunSummary:
    """A run with a generation, a tool call and usage, that ended in this way."""
    machine = RunMachine(policy=ContentPolicy(keep=True))
    for at_ns, event in enumerate(
        (
            TextDelta(text="Let me look."),
            ToolCallReady(tool_call_id="call-1", arguments="{}"),
            ToolCallResult(tool_call_id="call-1", result="4"),
            TextDelta(text="It is 4."),
            Usage(input_tokens=7, output_tokens=5, model="some-model"),
        )
    ):
        machine.feed(event, at_ns * 1_000_000)
    summary = machine.summary(
        StreamEnd(at_ns=9_000_000, final=True),
        started_at_ns=1_800_000_000_000_000_000,
        route="/chat",
        method="POST",
        dialect="generic",
        trace=TraceIds(trace_id="0" * 31 + "1", span_id="0" * 15 + "1"),
    )
    summary.status = status
    return summary


def info_of(summary: RunSummary) -> StreamInfo:
    """What a sink was told when this run began."""
    return StreamInfo(
        started_at_ns=summary.started_at_ns,
        route=summary.route,
        method=summary.method,
        transport=summary.transport,
        http_status=summary.http_status,
        trace=summary.trace,
    )


def _in_threads(work: Callable[[], None]) -> None:
    """Run the work side by side; what one raises is raised here."""
    raised: list[BaseException] = []

    def contained() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=contained) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
