"""Leakage control: the answer arrives whole, and what came before it does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.laws import held_bytes
from support.runs import agent_runs

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.core.run import RunMachine
from streamtrace.serve.filters import kind_of
from streamtrace.serve.final_answer import FinalAnswer
from streamtrace.serve.guard_react import ReActGuard
from streamtrace.serve.guard_tags import TagGuard

slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def text(value: str, message_id: str | None = None) -> ev.TextDelta:
    return ev.TextDelta(text=value, message_id=message_id)


def call(call_id: str = "c") -> ev.ToolCallStarted:
    return ev.ToolCallStarted(tool_call_id=call_id, name="search")


def result(call_id: str = "c") -> ev.ToolCallResult:
    return ev.ToolCallResult(tool_call_id=call_id, result="raw")


def finished(*reasons: str) -> ev.GenerationFinished:
    return ev.GenerationFinished(finish_reasons=reasons)


def through(stage: FinalAnswer, events: Iterable[ev.Event]) -> list[ev.Event]:
    told = [one for event in events for one in stage.feed(event)]
    return [*told, *stage.flush()]


def shown(events: Iterable[ev.Event], **options) -> str:
    return text_of(through(FinalAnswer(**options), events))


def text_of(events: Iterable[ev.Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ev.TextDelta))


def joined(events: Iterable[ev.Event]) -> list[ev.Event]:
    """Text that stands together, as one."""
    told: list[ev.Event] = []
    for event in events:
        last = told[-1] if told else None
        if not isinstance(event, ev.TextDelta):
            told.append(event)
        elif isinstance(last, ev.TextDelta) and last.message_id == event.message_id:
            told[-1] = text(last.text + event.text, event.message_id)
        elif event.text:
            told.append(event)
    return told


# --- turns, by example -----------------------------------------------------------------------

END = ev.RunFinished()


@pytest.mark.parametrize(
    ("events", "answer"),
    [
        ([text("Hello"), END], "Hello"),
        ([text("Let me look."), call(), result(), text("It is 42."), END], "It is 42."),
        ([text("a"), call(), result(), text("b"), call("d"), result("d"), text("c"), END], "c"),
        ([text("a"), call(), text("b"), result(), text("c"), END], "c"),
        ([text("a"), call(), call("d"), result(), result("d"), text("c"), END], "c"),
        ([text("a"), finished("stop"), text("b"), call(), result(), text("c"), END], "ac"),
        ([text("a"), finished("tool_calls"), text("b"), END], "b"),
        ([text("a"), finished(), call(), result(), END], ""),
        ([text("a"), finished("end_turn"), ev.RunFailed()], "a"),
        ([text("Let me"), ev.RunFailed()], ""),
        ([text("Let me"), ev.RunCancelled()], ""),
        ([text("Which city?"), ev.RunInterrupted()], "Which city?"),
        ([text("Let me"), call(), ev.RunInterrupted(tool_call_id="c")], ""),
        ([text("a"), call(), ev.GenerationStarted(key="2"), text("b"), END], "b"),
        ([text("cut off")], "cut off"),
        ([call(), text("<tool_call>x</tool_call>b"), END], ""),
        (
            [call(), ev.ToolCallReady(tool_call_id="c", requested=True), text("Hello"), END],
            "Hello",
        ),
    ],
)
def test_what_the_user_sees(events, answer):
    assert shown(events) == answer


def test_tools_and_reasoning_are_not_told():
    run = [
        ev.RunStarted(run_id="r"),
        ev.ReasoningStarted(),
        ev.ReasoningDelta(text="hm"),
        ev.ReasoningFinished(),
        call(),
        ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{}"),
        ev.ToolCallReady(tool_call_id="c"),
        ev.Usage(output_tokens=3),
        result(),
        END,
    ]
    assert through(FinalAnswer(), run) == [run[0], ev.Usage(output_tokens=3), END]
    assert through(FinalAnswer(hide=[]), run) == run


def test_beyond_the_bound_text_is_told_as_it_comes_or_not_at_all():
    run = [text("12345"), text("6"), text("7"), call(), result(), text("8"), END]
    stage = FinalAnswer(hold_chars=5)
    assert [stage.feed(event) for event in run[:3]] == [[], [text("123456")], [text("7")]]
    assert shown(run, hold_chars=5) == "12345678"
    assert shown(run, hold_chars=5, beyond="hide") == "8"
    assert shown(run, hold_chars=7) == "8"
    assert FinalAnswer(hold_chars=0).feed(text("1")) == [text("1")]


def test_the_answer_streams_once_its_marker_was_seen():
    stage = FinalAnswer(guards=[ReActGuard], hold_chars=10_000)
    run = [text("Well.\nThought: hm\nAction: x\nObservation: y\nFinal Ans"), text("wer:\n4")]
    assert [stage.feed(event) for event in run] == [[], [text("4")]]
    assert stage.feed(text("2")) == [text("2")]
    assert stage.hidden_chars == len(
        "Well.\nThought: hm\nAction: x\nObservation: y\nFinal Answer:\n"
    )


def test_a_call_in_the_text_makes_what_is_before_it_intermediate():
    said = 'Let me.<tool_call>{"name": "f"}</tool_call>It is {"name": "g", "arguments": {}} 42.'
    assert shown([text(said), END]) == " 42."
    assert shown([text("Let me. <think>hm</think>So: 42"), END]) == "Let me. So: 42"


# --- messages --------------------------------------------------------------------------------


def message(message_id: str | None, *said: str) -> list[ev.Event]:
    deltas = [text(one, message_id) for one in said]
    start = ev.MessageStarted(message_id=message_id, role="assistant")
    return [start, *deltas, ev.MessageFinished(message_id=message_id)]


def test_hidden_messages_are_not_even_started():
    run = [*message("a", "Let me"), call(), result(), *message("b", "It is"), END]
    assert through(FinalAnswer(), run) == [*message("b", "It is"), END]
    assert through(FinalAnswer(), [*message("a"), END]) == [END]


def test_messages_without_ids_keep_their_starts_and_ends():
    run = [*message(None, "a"), *message(None, "b"), END]
    assert through(FinalAnswer(), run) == run
    start, delta, end = message("m", "a")
    run = [start, text(delta.text), end, END]
    assert through(FinalAnswer(), run) == run


def test_a_message_that_goes_on_behind_a_call_is_started_there():
    start, *_, end = message("a")
    run = [start, text("Let me", "a"), call(), result(), text("It is", "a"), end, END]
    assert through(FinalAnswer(), run) == [start, text("It is", "a"), end, END]


def test_what_a_guard_held_is_told_before_the_end_of_its_message():
    run = [*message("a", "2 <thi"), END]
    assert through(FinalAnswer(), run) == run
    start, _, end = message("a", "")
    assert through(FinalAnswer(), [start, text("2 <thi"), end, END])[1:] == [
        text("2 <thi"),
        end,
        END,
    ]


def test_messages_side_by_side_have_guards_of_their_own():
    run = [text("<thi", "a"), text("<think>x", "b"), text("ng>", "a"), text("</think>y", "b"), END]
    told = through(FinalAnswer(), run)
    assert (
        joined(told)[:-1] == [text("<thing>", "a"), text("y", "b")] or text_of(told) == "<thing>y"
    )
    assert {event.message_id for event in told if isinstance(event, ev.TextDelta)} == {"a", "b"}


# --- laws ------------------------------------------------------------------------------------

SAID = st.sampled_from(
    ["a", "Hello ", "<think>", "</think>", "<tool_call>", "</tool_call>", "\n", "Action:", "Final ",
     "Answer: ", '{"name": "f", "args": 1}', '{"a"', "}", "Thought: ", "x" * 9, "<", "é"]
)  # fmt: skip


@st.composite
def runs(draw: st.DrawFn) -> list[ev.Event]:
    """What an agent may say that writes its calls into the text, tells them, or both."""
    ids = st.sampled_from([None, "m", "n"])
    event = st.one_of(
        *[st.builds(text, st.lists(SAID, min_size=1, max_size=4).map("".join), ids)] * 4,
        st.builds(ev.MessageStarted, message_id=ids),
        st.builds(ev.MessageFinished, message_id=ids),
        st.just(call()),
        st.just(result()),
        st.builds(finished, st.sampled_from(["stop", "tool_use"])),
        st.just(ev.Custom(name="aside")),
        st.just(ev.ReasoningDelta(text="hm")),
    )
    end = draw(st.sampled_from([[END], [ev.RunFailed()], []]))
    return [*draw(st.lists(event, max_size=14)), *end]


def recut(events: Iterable[ev.Event], sizes: Sequence[int]) -> list[ev.Event]:
    """The same run with its text in pieces of these sizes, one after the other."""
    told: list[ev.Event] = []
    turn = 0
    for event in events:
        if not isinstance(event, ev.TextDelta):
            told.append(event)
            continue
        rest = event.text
        while rest:
            size = sizes[turn % len(sizes)]
            turn += 1
            told.append(text(rest[:size], event.message_id))
            rest = rest[size:]
    return told


GUARDS = ((), (TagGuard,), FinalAnswer.__init__.__kwdefaults__["guards"], (TagGuard, ReActGuard))
options = st.fixed_dictionaries(
    {
        "guards": st.sampled_from(GUARDS),
        "hold_chars": st.sampled_from([0, 1, 5, 20, 400]),
        "beyond": st.sampled_from(["show", "hide"]),
    }
)


@settings(slow, max_examples=150)
@given(run=runs(), options=options, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_cuts_change_nothing(run, options, sizes):
    whole, cut = FinalAnswer(**options), FinalAnswer(**options)
    assert joined(through(cut, recut(run, sizes))) == joined(through(whole, run))
    assert cut.hidden_chars == whole.hidden_chars


@settings(slow)
@given(run=runs(), options=options)
def test_what_is_hidden_is_counted_and_the_rest_keeps_its_order(run, options):
    stage = FinalAnswer(**options)
    told = through(stage, run)
    assert stage.hidden_chars == len(text_of(run)) - len(text_of(told))
    asides = (ev.Custom, ev.GenerationFinished, *ev.TERMINAL)
    assert [event for event in told if isinstance(event, asides)] == [
        event for event in run if isinstance(event, asides)
    ]
    assert not any(kind_of(event) in ("tools", "reasoning") for event in told)


@settings(slow)
@given(run=runs())
def test_text_before_a_call_is_never_told(run):
    """Where it fits into the bound; and all text of a turn that does not call is."""
    expected, turn, calls = "", "", False
    for event in run:
        match event:
            case ev.TextDelta():
                turn += event.text
            case ev.ToolCallStarted():
                calls = True
            case ev.ToolCallResult():
                turn, calls = "", False
            case ev.RunFailed() | ev.GenerationFinished(finish_reasons=("tool_use",)):
                turn, calls = "", False
            case ev.GenerationFinished() | ev.RunFinished():
                expected, turn, calls = expected + ("" if calls else turn), "", False
    expected += "" if calls else turn
    assert sorted(shown(run, guards=(), hold_chars=10_000)) == sorted(expected)


@settings(slow)
@given(run=agent_runs(), options=options)
def test_a_strict_machine_takes_what_is_told(run, options):
    machine = RunMachine(strict=True)
    for at, event in enumerate(through(FinalAnswer(hide=[], **options), run)):
        machine.feed(event, at)


@settings(slow)
@given(run=runs(), options=options)
def test_a_message_starts_with_its_first_text(run, options):
    told = through(FinalAnswer(**options), run)
    for event, following in pairwise([*told, END]):
        if isinstance(event, ev.MessageStarted):
            assert isinstance(following, ev.TextDelta)


def test_what_is_held_is_bounded():
    """Whatever stands behind held text, and however many messages there are."""
    stage = FinalAnswer(hold_chars=10_000)
    fixed = held_bytes(stage)
    for at in range(3000):
        stage.feed(text("<", str(at)))
        stage.feed(ev.MessageStarted(message_id=str(at)))
        stage.feed(ev.State(value=["x" * 10_000]))
        if at % 100 == 0:
            assert held_bytes(stage) - fixed < 3 * 1024 * 1024


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"hold_chars": -1}, "hold_chars is from 0 to 10000, got -1"),
        ({"beyond": "wait"}, "beyond is 'show' or 'hide', not 'wait'"),
        ({"hide": ["tool"]}, "not tool"),
        ({"guards": [lambda: TagGuard(opened="x")]}, "opened is one of"),
    ],
)
def test_what_it_cannot_be_made_with(arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        FinalAnswer(**arguments)
