"""Sinks: isolated from each other, and each shown what it may see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamtrace import ConfigError, Sink, TextDelta
from streamtrace.core.events import Event
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.sink import StreamInfo
from streamtrace.core.summary import RunSummary
from streamtrace.observe.fanout import Fanout
from streamtrace.testing import RecordingSink

INFO = StreamInfo(
    started_at_ns=0, route="/chat", method="POST", transport="http", http_status=200, trace=None
)


class Broken(Sink):
    """Raises at everything."""

    name = "broken"
    heard = 0

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def start(self, info: Any) -> None:
        raise self.error

    def event(self, info: Any, event: Any, at_ns: int) -> None:
        self.heard += 1
        raise self.error

    def end(self, info: Any, summary: Any) -> None:
        raise self.error


def run_of(fanout: Fanout, route: str = "/chat") -> RunSummary:
    modes = fanout.modes(route)
    machine = RunMachine(policy=fanout.policy(modes, 1000))
    listener = fanout.listener(INFO, modes)
    fanout.start(INFO)
    for _ in range(5):
        event = TextDelta(text="secret")
        machine.feed(event, 1)
        listener(event, 1)
    summary = machine.summary(StreamEnd(at_ns=1, final=True), started_at_ns=0)
    fanout.end(INFO, summary, modes)
    return summary


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, GeneratorExit])
def test_a_broken_sink_costs_the_others_nothing_and_is_counted(
    error: type[BaseException],
) -> None:
    broken, good = Broken(error), RecordingSink()
    fanout = Fanout([broken, good], "full", None)
    run_of(fanout)
    assert len(good.runs) == 1
    assert len(good.events) == 5
    assert broken.heard == 3
    stats = fanout.stats()
    assert stats["broken"].dropped == {"sink_error": 1}
    assert stats["broken"].accepted == 1
    assert stats["recording"].exported == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_goes_on_to_end_it(error: type[BaseException]) -> None:
    with pytest.raises(error):
        Fanout([Broken(error)], "full", None).start(INFO)


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
def test_a_sink_that_cannot_tell_its_stats_does_not_hide_those_of_others(
    error: type[BaseException],
) -> None:
    class Silent(Sink):
        name = "silent"

        def stats(self) -> Any:
            raise error

    fanout = Fanout([Silent(), RecordingSink()], "full", None)
    run_of(fanout)
    stats = fanout.stats()
    assert list(stats) == ["silent", "recording"]
    assert stats["recording"].exported == 1


def test_runs_are_counted_for_a_sink_that_only_takes_them() -> None:
    class Prints(Sink):
        name = "prints"
        fails = False

        def end(self, info: Any, summary: Any) -> None:
            if self.fails:
                raise OSError

    sink = Prints()
    fanout = Fanout([sink], "off", None)
    run_of(fanout)
    run_of(fanout)
    sink.fails = True
    run_of(fanout)
    stats = fanout.stats()["prints"]
    assert (stats.accepted, stats.exported, stats.queued) == (3, 2, 0)
    assert stats.dropped == {"sink_error": 1}


class Thought(Event, frozen=True, kw_only=True):
    """An event of somebody's own dialect."""

    words: str


@pytest.mark.parametrize("mode", ["off", "hash"])
def test_events_of_an_unknown_type_do_not_carry_content_past_the_gate(mode: Any) -> None:
    sink = RecordingSink(content=mode)
    fanout = Fanout([sink], None, None)
    fanout.listener(INFO, fanout.modes("/chat"))(Thought(words="the secret"), 1)
    assert "secret" not in repr(sink.events)


def test_each_sink_sees_what_it_may() -> None:
    sinks = [RecordingSink(content=mode) for mode in ("off", "hash", "full")]
    fanout = Fanout(sinks, "off", None)
    run_of(fanout)
    off, hashed, full = (sink.runs[0].generations[0].text for sink in sinks)
    assert (off.text, off.sha256, off.chars) == (None, None, 30)
    assert hashed.text is None
    assert hashed.sha256 is not None
    assert (full.text, full.sha256) == ("secret" * 5, None)
    texts = [[event.text for _, event in sink.events] for sink in sinks]  # type: ignore[attr-defined]
    assert texts == [[""] * 5, [""] * 5, ["secret"] * 5]


def test_with_a_redactor_events_hold_no_content_at_all() -> None:
    sink = RecordingSink(content="full")
    run_of(Fanout([sink], "off", lambda text, where: text.upper()))
    assert sink.runs[0].generations[0].text.text == "SECRET" * 5
    assert {event.text for _, event in sink.events} == {""}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rule", "own", "route", "mode"),
    [
        ("off", None, "/chat", "off"),
        ("full", None, "/chat", "full"),
        ("full", "off", "/chat", "off"),
        ("off", "full", "/chat", "full"),
        ({"*": "full", "/chat": "off"}, None, "/chat", "off"),
        ({"*": "full", "/chat": "off"}, "full", "/chat", "off"),
        ({"*": "full", "/chat": "off"}, None, "/other", "full"),
        ({"/chat": "full"}, None, "/other", "off"),
        ({"/chat": "full"}, None, "/chat", "full"),
        ({"/chat": "full"}, "hash", "/chat", "hash"),
    ],
)
def test_the_mode_of_a_sink_on_a_route(rule: Any, own: Any, route: str, mode: str) -> None:
    assert Fanout([RecordingSink(content=own)], rule, None).modes(route) == (mode,)


def test_a_bad_mode_of_a_sink_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="recording"):
        Fanout([RecordingSink(content="loud")], "off", None)  # type: ignore[arg-type]


def test_sinks_of_one_name_are_told_apart_in_the_stats() -> None:
    assert list(Fanout([RecordingSink(), RecordingSink()], "off", None).stats()) == [
        "recording",
        "recording_2",
    ]
