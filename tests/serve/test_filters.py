"""Filters: what a client asked not to be told, and text in other pieces."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.laws import held_bytes
from support.runs import agent_runs

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.core.run import RunMachine
from streamtrace.serve.filters import (
    AGENTFLOW_GRANULARITY,
    KINDS,
    Batches,
    KindFilter,
    WholeMessages,
    kind_of,
    stages_for,
)
from streamtrace.serve.stages import Stage

DELTAS = (ev.TextDelta, ev.ReasoningDelta)
ALL_EVENTS = [kind for kind in ev.Event.__subclasses__() if kind.__module__ == ev.__name__]


def through(stage: Stage, events: Iterable[ev.Event]) -> list[ev.Event]:
    told = [one for event in events for one in stage.feed(event)]
    return [*told, *stage.flush()]


def text(value: str, message_id: str | None = "m") -> ev.TextDelta:
    return ev.TextDelta(text=value, message_id=message_id)


def texts(events: Iterable[ev.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, DELTAS)]


def said(events: Iterable[ev.Event]) -> dict[tuple[type, str | None], str]:
    """The text of each message, whatever its pieces."""
    whole: dict[tuple[type, str | None], str] = {}
    for event in events:
        if isinstance(event, DELTAS) and event.text:
            key = (type(event), event.message_id)
            whole[key] = whole.get(key, "") + event.text
    return whole


def others(events: Iterable[ev.Event]) -> list[ev.Event]:
    return [event for event in events if not isinstance(event, DELTAS)]


def check_order(events: Iterable[ev.Event]) -> None:
    machine = RunMachine(strict=True)
    for at, event in enumerate(events):
        machine.feed(event, at)


# --- kinds -----------------------------------------------------------------------------------


some_kinds = st.sets(st.sampled_from(KINDS))


@given(run=agent_runs(), include=some_kinds, exclude=some_kinds)
def test_what_is_asked_for_passes_in_order_and_the_end_always(run, include, exclude):
    told = through(KindFilter(include=include, exclude=exclude), run)
    assert told == [
        event for event in run if kind_of(event) is None or kind_of(event) in include - exclude
    ]
    assert [event for event in told if isinstance(event, (ev.RunStarted, *ev.TERMINAL))] == [
        event for event in run if isinstance(event, (ev.RunStarted, *ev.TERMINAL))
    ]
    check_order(told)


@pytest.mark.parametrize("kind", ALL_EVENTS)
def test_every_event_has_a_kind_or_always_passes(kind):
    """An event that is added to the vocabulary must be given one."""
    always = {ev.RunStarted, *ev.TERMINAL, ev.Heartbeat}
    fields = {"name", "text", "tool_call_id", "delta"} & set(kind.__struct_fields__)
    name = kind_of(kind(**dict.fromkeys(fields, "x")))
    assert (name is None) == (kind in always)
    assert name != "custom" or kind is ev.Custom


def test_an_event_of_your_own_is_custom():
    class Mood(ev.Event, frozen=True):
        pass

    assert through(KindFilter(exclude=["custom"]), [Mood(), ev.RunFinished()]) == [ev.RunFinished()]


def test_a_kind_that_is_none():
    with pytest.raises(ConfigError, match="not tokens, tool"):
        KindFilter(include=["text", "tool"], exclude=["tokens"])


# --- granularity -----------------------------------------------------------------------------


@settings(deadline=None)
@given(run=agent_runs(), max_chars=st.integers(1, 12))
def test_batches_change_nothing_but_the_pieces(run, max_chars):
    """Also the order: between two other events stands the same text."""
    told = through(Batches(max_chars), run)
    assert said(told) == said(run)
    assert others(told) == others(run)
    without_pings = [event for event in run if not isinstance(event, ev.Heartbeat)]
    assert stretches(told) == stretches(without_pings)
    check_order(told)


def stretches(events: Iterable[ev.Event]) -> list[object]:
    """The events, with the text between others as one."""
    told: list[object] = []
    for event in events:
        if isinstance(event, ev.Heartbeat):
            continue
        if isinstance(event, DELTAS):
            key = (type(event), event.message_id)
            if told and isinstance(told[-1], list) and told[-1][0] == key:
                told[-1][1] += event.text
            elif event.text:
                told.append([key, event.text])
        else:
            told.append(event)
    return told


@given(pieces=st.lists(st.text("ab .!?\n", max_size=5), max_size=40), max_chars=st.integers(1, 30))
def test_a_batch_is_a_sentence_or_long_enough_or_the_last(pieces, max_chars):
    batches = texts(through(Batches(max_chars), map(text, pieces)))
    assert "".join(batches) == "".join(pieces)
    for batch in batches[:-1]:
        assert len(batch) >= max_chars or batch[-1] in " \n"
        assert len(batch) < max_chars + 5


@pytest.mark.parametrize(
    ("pieces", "batches"),
    [
        (["It is 3", ".", "14", ". ", "So", " there."], ["It is 3.14. ", "So there."]),
        (['He said "no."', " Then", " left."], ['He said "no." ', "Then left."]),
        (["一。二", "三。"], ["一。", "二三。"]),
        (["- one", "\n- ", "two\n"], ["- one\n", "- two\n"]),
        (["A b", "c? ", "d! ", "e"], ["A bc? ", "d! ", "e"]),
    ],
)
def test_sentences(pieces, batches):
    told = texts(through(Batches(), map(text, pieces)))
    assert "".join(told) == "".join(pieces)
    assert [one for one in told if one] == batches


@settings(deadline=None)
@given(run=agent_runs())
def test_whole_messages_lose_no_text_and_keep_the_order_of_the_rest(run):
    told = through(WholeMessages(), run)
    assert said(told) == said(run)
    assert others(told) == others(run)
    check_order(told)


def test_a_message_is_told_as_one_delta_where_it_ends():
    run = [
        ev.MessageStarted(message_id="a"),
        text("x", "a"),
        ev.MessageStarted(message_id="b"),
        text("1", "b"),
        text("y", "a"),
        ev.Usage(output_tokens=1),
        text("2", "b"),
        ev.MessageFinished(message_id="b"),
        ev.MessageFinished(message_id="a"),
        ev.RunFinished(),
    ]
    assert through(WholeMessages(), run) == [
        ev.MessageStarted(message_id="a"),
        ev.MessageStarted(message_id="b"),
        ev.Usage(output_tokens=1),
        text("12", "b"),
        ev.MessageFinished(message_id="b"),
        text("xy", "a"),
        ev.MessageFinished(message_id="a"),
        ev.RunFinished(),
    ]


@pytest.mark.parametrize(
    "event",
    [
        ev.ToolCallStarted(tool_call_id="c"),
        ev.ToolCallResult(tool_call_id="c"),
        ev.StepStarted(name="s"),
        ev.StepFinished(name="s"),
        ev.RunFailed(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_text_is_told_before_the_turn_goes_on(event):
    told = through(WholeMessages(), [text("a", None), text("b", None), event, text("c", None)])
    assert told == [text("ab", None), event, text("c", None)]


def test_what_waits_to_be_whole_is_bounded():
    """And however small the pieces are, and whatever they are told by."""
    stage = WholeMessages(max_held_bytes=20_000)
    for messages in (5, 10_000):
        for at in range(20_000):
            list(stage.feed(text("é" if at % 7 else "a", str(at % messages))))
            if at % 97 == 0:
                assert held_bytes(stage._held) < 60_000


def test_what_was_told_makes_room():
    stage = WholeMessages(max_held_bytes=2000)
    for at in range(100):
        run = [text("x" * 500, str(at)), text("é" * 50, str(at))]
        assert [one for event in run for one in stage.feed(event)] == []
        finished = ev.MessageFinished(message_id=str(at))
        assert list(stage.feed(finished)) == [text("x" * 500 + "é" * 50, str(at)), finished]


def test_text_without_an_id_is_told_before_the_end_of_the_message_that_it_may_be_of():
    start, end = ev.MessageStarted(message_id="m"), ev.MessageFinished(message_id="m")
    told = through(
        WholeMessages(), [start, text("a", None), text("b", None), end, ev.RunFinished()]
    )
    assert told == [start, text("ab", None), end, ev.RunFinished()]


@pytest.mark.parametrize(
    ("granularity", "pieces"), [("tokens", 4), ("batches", 2), ("messages", 1)]
)
@pytest.mark.parametrize("state", [True, False])
def test_the_granularity_of_a_request(granularity, pieces, state):
    run = [text("One"), text(". "), text("Two"), text("."), ev.State(value=1), ev.RunFinished()]
    for stage in stages_for(granularity, state=state):
        run = through(stage, run)
    assert "".join(texts(run)) == "One. Two."
    assert len(texts(run)) == pieces
    assert (ev.State(value=1) in run) is state


def test_the_words_of_agentflow_are_ours():
    for granularity, state in AGENTFLOW_GRANULARITY.values():
        stages_for(granularity, state=state)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: stages_for("words"), "one of tokens, batches, messages, not 'words'"),
        (lambda: Batches(0), "max_chars is from 1 to 4096, got 0"),
        (lambda: WholeMessages(0), "max_held_bytes must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked_for(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()
