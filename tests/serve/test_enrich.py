"""Enrichers: what they may answer, and sources that are told where they are cited."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError, EventOrderError
from streamtrace.core.run import RunMachine
from streamtrace.serve.enrich import MAX_KEY_CHARS, CitationEnricher, Enrich, as_stage
from streamtrace.serve.stages import Pipeline

DELTA = ev.TextDelta(text="a", message_id="m")
NOTE = ev.Custom(name="note")


def text(value: str, message_id: str | None = "m") -> ev.TextDelta:
    return ev.TextDelta(text=value, message_id=message_id)


# --- functions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, [DELTA]),
        ((), []),
        (NOTE, [NOTE]),
        ([DELTA, NOTE], [DELTA, NOTE]),
    ],
)
async def test_what_an_enricher_may_answer(answer, told):
    async def later(event):
        return answer

    for enricher in (lambda event: answer, later):
        assert await Pipeline([Enrich(enricher)]).feed(DELTA) == told


async def test_a_generator_answers_with_what_it_yields():
    def enricher(event):
        yield event
        if isinstance(event, ev.TextDelta):
            yield ev.Custom(name="length", value=len(event.text))

    pipeline = Pipeline([Enrich(enricher)])
    assert await pipeline.feed(DELTA) == [DELTA, ev.Custom(name="length", value=1)]
    assert await pipeline.feed(NOTE) == [NOTE]
    assert await pipeline.flush() == []


@pytest.mark.parametrize("answer", ["text", [DELTA, {}], ev.TextDelta])
async def test_anything_else_is_named(answer):
    def shout(event):
        return answer

    with pytest.raises(TypeError):
        await Pipeline([Enrich(shout)]).feed(DELTA)


async def test_the_enricher_is_named():
    def shout(event):
        return "loud"

    with pytest.raises(TypeError, match=r"enricher .*shout answered with str, not an Event"):
        await Pipeline([Enrich(shout)]).feed(DELTA)


async def test_what_an_enricher_raises_is_not_swallowed():
    async def broken(event):
        raise LookupError("no such document")

    with pytest.raises(LookupError):
        await Pipeline([Enrich(broken)]).feed(DELTA)


async def test_an_enricher_that_breaks_the_order_is_found_out():
    """By the machine that stands behind it, as if the agent had said it."""

    def late(event):
        return [event, text("P.S.")] if isinstance(event, ev.MessageFinished) else None

    pipeline, machine = Pipeline([Enrich(late)]), RunMachine(strict=True)
    for event in await pipeline.feed(DELTA):
        machine.feed(event, 0)
    finished, postscript = await pipeline.feed(ev.MessageFinished(message_id="m"))
    machine.feed(finished, 0)
    with pytest.raises(EventOrderError, match="text after finish"):
        machine.feed(postscript, 0)


def test_a_stage_is_taken_as_it_is():
    stage = CitationEnricher([])
    assert as_stage(stage) is stage
    assert list(as_stage(lambda event: None).feed(DELTA)) == [DELTA]
    with pytest.raises(ConfigError, match="function of an event, got 'x'"):
        as_stage("x")


# --- citations -------------------------------------------------------------------------------

SOURCES = {
    key: ev.Source(url=f"https://example.org/{number}", title=key)
    for number, key in enumerate(["1", "2", "doc:id", "a b"])
}


def cited(events: Iterable[ev.Event], sources=SOURCES) -> list[ev.Event]:
    enricher = CitationEnricher(sources)
    return [one for event in events for one in enricher.feed(event)]


def test_a_source_is_told_behind_the_delta_that_completes_its_marker():
    run = [text("See ["), text("do"), text("c:id"), text("] and [1]"), ev.RunFinished()]
    assert cited(run) == [*run[:4], SOURCES["doc:id"], SOURCES["1"], run[4]]


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ("[1][2]", ["1", "2"]),
        ("[1, 2; doc:id]", ["1", "2", "doc:id"]),
        ("[2] again [2] and [1]", ["2", "1"]),
        ("[3] [ ] [] [x] a[0] 1 2", []),
        ("[[1]]", ["1"]),
        ("[a b]", ["a b"]),
        ("[1\n]", []),
        ("[see 1]", []),
        ("[" + "1" * MAX_KEY_CHARS + "] [1]", ["1"]),
    ],
)
def test_what_cites(said, keys):
    told = [event for event in cited([text(said)]) if isinstance(event, ev.Source)]
    assert told == [SOURCES[key] for key in keys]
    assert [event for event in cited(map(text, said)) if isinstance(event, ev.Source)] == told


def test_sources_may_have_numbers_only():
    first, second = ev.Source(title="a"), ev.Source(title="b")
    assert cited([text("[2]")], [first, second]) == [text("[2]"), second]


def test_a_marker_stands_in_one_message():
    run = [text("[", "a"), text("1]", "b"), text("2", "a"), text("]", "a")]
    assert cited(run) == [*run, SOURCES["2"]]
    finished = ev.MessageFinished(message_id="a")
    assert cited([text("[", "a"), finished, text("1]", "a")])[-1] == text("1]", "a")


PIECES = st.sampled_from(["[", "]", "1", "2", "doc:", "id", " ", ",", "\n", "x", "[1]", "9" * 150])


@given(
    pieces=st.lists(PIECES, max_size=30),
    places=st.lists(st.integers(0, 400), max_size=8),
)
def test_cuts_change_nothing(pieces, places):
    """Each source once, in the order of the text, which stays as it is."""
    said = "".join(pieces)
    edges = [0, *sorted(place % (len(said) + 1) for place in places), len(said)]
    run = [text(said[start:end]) for start, end in pairwise(edges)]
    whole, told = cited([text(said)]), cited(run)
    assert [event for event in told if isinstance(event, ev.TextDelta)] == run
    sources = [event for event in told if isinstance(event, ev.Source)]
    assert sources == [event for event in whole if isinstance(event, ev.Source)]
    assert len(sources) == len(set(map(id, sources)))


@pytest.mark.parametrize("key", ["", " 1", "a]", "[", "1,2", "a;b", "a\nb", "x" * 201])
def test_keys_that_no_marker_can_name(key):
    with pytest.raises(ConfigError, match="cannot be a key"):
        CitationEnricher({key: ev.Source()})


def test_what_is_remembered_is_bounded():
    enricher = CitationEnricher(SOURCES)
    for at in range(1000):
        list(enricher.feed(text("[" + "x" * 100, str(at))))
        list(enricher.feed(text("y" * 500, str(at // 2))))
    assert sum(map(len, enricher._begun.values())) < 100_000
