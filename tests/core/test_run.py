"""The run machine: what events add up to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrace.core import events as ev
from streamtrace.core.content import ContentPolicy
from streamtrace.core.errors import EventOrderError
from streamtrace.core.names import GAP_BUCKETS_S
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import MAX_PARTS, RunMachine
from streamtrace.core.summary import RunSummary

MS = 1_000_000


def fold(*timed: tuple[int, ev.Event], end_ms: int = 10_000, **options: Any) -> RunSummary:
    """The summary of events given with their times in ms."""
    machine = RunMachine(policy=ContentPolicy(keep=True), **options)
    for at_ms, event in timed:
        machine.feed(event, at_ms * MS)
    return machine.summary(StreamEnd(at_ns=end_ms * MS, final=True), started_at_ns=0)


def text(value: str, message_id: str | None = None) -> ev.TextDelta:
    return ev.TextDelta(text=value, message_id=message_id)


def test_token_times_ignore_pings_roles_metadata_and_empty_deltas() -> None:
    run = fold(
        (1, ev.Heartbeat()),
        (2, ev.RunStarted(run_id="r")),
        (3, ev.MessageStarted(message_id="m", role="assistant")),
        (4, text("")),
        (5, ev.ReasoningDelta(text="")),
        (6, ev.Custom(name="x")),
        (50, ev.ReasoningDelta(text="hm")),
        (80, text("a")),
    )
    assert run.time_to_first_event_ns == 2 * MS
    assert run.time_to_first_token_ns == 50 * MS
    assert run.time_to_first_visible_token_ns == 80 * MS


def test_a_turn_that_only_calls_a_tool_has_a_first_token_and_no_visible_one() -> None:
    run = fold(
        (5, ev.ToolCallStarted(tool_call_id="c", name="search")),
        (9, ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{}")),
        (10, ev.ToolCallReady(tool_call_id="c")),
    )
    assert run.time_to_first_token_ns == 9 * MS
    assert run.time_to_first_visible_token_ns is None
    assert (run.tool_calls[0].status, run.tool_calls[0].ready_ns) == ("ready", 10 * MS)


def test_arguments_that_are_told_late_do_not_move_the_time_the_tool_was_ready() -> None:
    run = fold(
        (5, ev.ToolCallStarted(tool_call_id="c", name="web_search")),
        (6, ev.ToolCallReady(tool_call_id="c")),
        (9, ev.ToolCallReady(tool_call_id="c", arguments='{"query":"x"}')),
        (9, ev.ToolCallResult(tool_call_id="c", result="[]")),
    )
    [call] = run.tool_calls
    assert (call.ready_ns, call.finished_ns, call.arguments.text) == (
        6 * MS,
        9 * MS,
        '{"query":"x"}',
    )


def test_a_call_that_the_request_asked_for_began_with_it_and_is_no_models() -> None:
    run = fold(
        (30, ev.ToolCallStarted(tool_call_id="c", name="search")),
        (30, ev.ToolCallReady(tool_call_id="c", arguments='{"q":1}', requested=True)),
        (90, ev.ToolCallResult(tool_call_id="c", result="found")),
    )
    (call,) = run.tool_calls
    assert (call.started_ns, call.ready_ns, call.finished_ns) == (0, 0, 90 * MS)
    assert call.arguments.text == '{"q":1}'
    assert (run.generations, run.time_to_first_token_ns) == ([], None)


def test_no_token_means_no_token_times_rather_than_the_end() -> None:
    run = fold((1, ev.RunStarted()), (2, ev.RunFinished()))
    assert run.time_to_first_token_ns is None
    assert run.time_per_output_token_ns is None
    assert run.longest_gap_ns is None
    assert run.usage is None
    assert run.cost_usd is None


def test_events_that_came_in_one_message_make_one_gap() -> None:
    run = fold(
        (0, text("a")), (100, text("b")), (100, text("c")), (100, text("d")), (130, text("e"))
    )
    assert sum(run.gap_counts) == 2
    assert (run.longest_gap_ns, run.longest_gap_at_ns) == (100 * MS, 100 * MS)
    assert run.gap_sum_ns == 130 * MS


@given(st.lists(st.integers(1, 40_000), max_size=30))
def test_gap_counts_fall_into_the_bucket_whose_edge_they_do_not_exceed(gaps_ms: list[int]) -> None:
    at_ms, timed = 0, [(0, text("a"))]
    for gap_ms in gaps_ms:
        at_ms += gap_ms
        timed.append((at_ms, text("a")))
    run = fold(*timed, end_ms=at_ms + 1)
    expected = [0] * (len(GAP_BUCKETS_S) + 1)
    for gap_ms in gaps_ms:
        index = next((i for i, edge in enumerate(GAP_BUCKETS_S) if gap_ms / 1000 <= edge), -1)
        expected[index] += 1
    assert run.gap_counts == expected


def test_time_per_output_token_is_the_same_however_tokens_are_framed() -> None:
    usage = ev.Usage(output_tokens=5)
    one_by_one = fold(*((100 * n, text("t")) for n in range(5)), (400, usage))
    in_two = fold((0, text("ttt")), (400, text("tt")), (400, usage))
    assert one_by_one.time_per_output_token_ns == in_two.time_per_output_token_ns == 100 * MS


def test_a_key_tells_generations_apart_where_the_wire_has_no_ids() -> None:
    run = fold(
        (1, ev.GenerationStarted(key="1", model="a")),
        (2, text("x")),
        (3, ev.GenerationStarted(key="1", provider="p")),
        (4, ev.GenerationStarted(key="2", model="b")),
        (5, text("y")),
    )
    assert [(one.model, one.provider) for one in run.generations] == [("a", "p"), ("b", None)]
    assert [one.response_id for one in run.generations] == [None, None]


def test_usage_of_generations_adds_up_and_absent_stays_absent() -> None:
    run = fold(
        (1, ev.GenerationStarted(response_id="1", model="a")),
        (2, ev.Usage(input_tokens=10, output_tokens=0)),
        (3, ev.Usage(output_tokens=7)),
        (4, ev.GenerationStarted(response_id="2", model="b")),
        (5, ev.Usage(input_tokens=5, output_tokens=1, reasoning_tokens=1)),
    )
    assert run.usage is not None
    assert (run.usage.input_tokens, run.usage.output_tokens) == (15, 8)
    assert run.usage.reasoning_tokens == 1
    assert run.usage.cached_input_tokens is None
    assert [entry.model for entry in run.usage_by_model] == ["a", "b"]


def test_models_that_speak_at_the_same_time_keep_their_text_and_usage_apart() -> None:
    def turn(response_id: str) -> ev.GenerationStarted:
        return ev.GenerationStarted(response_id=response_id)

    run = fold(
        (1, turn("a")),
        (2, text("A", "a")),
        (3, turn("b")),
        (4, text("B", "b")),
        (5, turn("a")),
        (6, text("a", "a")),
        (7, ev.Usage(input_tokens=1, output_tokens=2)),
        (7, ev.GenerationFinished(finish_reasons=("stop",))),
        (8, turn("b")),
        (9, text("b", "b")),
        (10, ev.Usage(input_tokens=3, output_tokens=4)),
    )
    first, second = run.generations
    assert (first.text.text, first.usage.output_tokens, first.finish_reasons) == ("Aa", 2, ["stop"])
    assert (second.text.text, second.usage.output_tokens, second.finish_reasons) == ("Bb", 4, [])
    assert (first.first_token_ns, first.last_token_ns) == (2 * MS, 6 * MS)
    assert run.usage is not None
    assert (run.usage.input_tokens, run.usage.output_tokens) == (4, 6)


def test_usage_of_the_run_is_the_total_and_belongs_to_no_generation() -> None:
    run = fold(
        (1, text("a")),
        (2, ev.Usage(scope="run", provider="p", model="m", input_tokens=3)),
        (3, ev.Usage(scope="run", provider="p", model="n", input_tokens=4)),
        (4, ev.Usage(scope="run", provider="p", model="m", input_tokens=5)),
    )
    assert run.usage is not None
    assert run.usage.input_tokens == 9
    assert run.generations[0].usage is None


def test_a_run_whose_usage_is_one_models_was_made_by_that_model() -> None:
    one = ev.Usage(scope="run", provider="p", model="m", input_tokens=3)
    other = ev.Usage(scope="run", provider="p", model="n", input_tokens=3)
    named = fold((1, text("a")), (2, one)).generations[0]
    assert (named.model, named.provider) == ("m", "p")
    assert fold((1, text("a")), (2, one), (3, other)).generations[0].model is None
    said = ev.GenerationStarted(model="x")
    assert fold((1, said), (2, one)).generations[0].model == "x"


def test_usage_of_several_runs_on_one_stream_adds_up() -> None:
    usage = ev.Usage(scope="run", provider="p", model="m", input_tokens=3)
    one_run = [ev.RunStarted(), usage, ev.RunFinished()]
    run = fold(*((n, event) for n, event in enumerate(one_run * 3)))
    assert run.usage is not None
    assert run.usage.input_tokens == 9


def test_usage_before_the_end_of_a_cut_stream_is_marked_partial() -> None:
    run = fold((1, ev.GenerationStarted(model="m")), (2, ev.Usage(input_tokens=10)))
    assert run.status == "truncated"
    assert run.issues == {"usage_partial": 1}


def test_usage_of_a_wire_without_an_end_is_partial_only_where_the_stream_was_cut() -> None:
    machine = RunMachine()
    machine.feed(ev.Usage(input_tokens=10), 1)
    whole = machine.summary(StreamEnd(at_ns=2, final=True), needs_terminal=False, started_at_ns=0)
    assert (whole.status, whole.issues) == ("completed", {})
    cut = machine.summary(StreamEnd(at_ns=2), needs_terminal=False, started_at_ns=0)
    assert (cut.status, cut.issues) == ("truncated", {"usage_partial": 1})


def test_a_tools_result_begins_the_next_generation_where_the_wire_shows_none() -> None:
    run = fold(
        (10, text("let me look")),
        (20, ev.ToolCallStarted(tool_call_id="c", name="t")),
        (21, ev.ToolCallReady(tool_call_id="c", arguments="{}")),
        (50, ev.ToolCallResult(tool_call_id="c", result="4")),
        (70, text("it is 4")),
        (80, ev.RunFinished()),
    )
    assert [g.text.text for g in run.generations] == ["let me look", "it is 4"]
    assert [g.started_ns for g in run.generations] == [0, 50 * MS]
    assert run.generations[1].first_token_ns == 70 * MS
    call = run.tool_calls[0]
    assert (call.status, call.ready_ns, call.finished_ns) == ("completed", 21 * MS, 50 * MS)
    assert call.result.text == "4"


def test_a_tool_of_the_server_does_not_end_a_generation_that_the_wire_shows() -> None:
    run = fold(
        (1, ev.GenerationStarted(response_id="r", model="m")),
        (2, text("a", "m1")),
        (3, ev.ToolCallStarted(tool_call_id="s", name="web_search")),
        (4, ev.ToolCallResult(tool_call_id="s", result="[]")),
        (5, text("b", "m1")),
        (6, ev.GenerationFinished(finish_reasons=("stop",))),
    )
    [generation] = run.generations
    assert (generation.text.text, generation.finish_reasons) == ("ab", ["stop"])


def test_messages_of_one_generation_are_kept_apart() -> None:
    run = fold((1, text("a", "0")), (2, text("x", "1")), (3, text("b", "0")), (4, text("y", "1")))
    assert run.generations[0].text.text == "ab\n\nxy"
    assert run.generations[0].text.chars == 4


def test_half_an_emoji_in_each_delta_makes_a_whole_one() -> None:
    run = fold((1, text("\ud83d")), (2, text("\ude00")))
    assert run.generations[0].text.text == "😀"


def test_a_second_run_on_the_same_stream_decides_how_it_ended() -> None:
    run = fold(
        (1, ev.RunStarted(run_id="1")),
        (2, ev.RunFinished()),
        (3, ev.RunStarted(run_id="2")),
        (4, ev.RunFailed(type="boom")),
    )
    assert (run.status, run.run_id) == ("error", "1")
    assert run.issues == {}


def test_on_a_connection_of_turns_output_after_the_end_begins_the_next() -> None:
    one_turn = [(1, text("a")), (2, ev.RunFinished())]
    cut = fold(*one_turn, (3, text("b")), turns=True)
    assert (cut.status, cut.issues) == ("truncated", {})
    whole = fold(*one_turn, (3, text("b")), (4, ev.RunFinished()), turns=True)
    assert (whole.status, whole.issues) == ("completed", {})
    assert fold(*one_turn, (3, text("b"))).issues == {"event_after_end": 1}


def test_a_terminal_event_that_nobody_was_there_to_see_does_not_count() -> None:
    def ended(gone_ms: int, *timed: tuple[int, ev.Event]) -> RunSummary:
        machine = RunMachine()
        for at_ms, event in timed:
            machine.feed(event, at_ms * MS)
        end = StreamEnd(at_ns=9 * MS, disconnected_ns=gone_ms * MS)
        return machine.summary(end, started_at_ns=0)

    assert ended(5, (1, text("a")), (6, ev.RunFinished())).status == "disconnected"
    assert ended(5, (1, text("a")), (6, ev.RunFailed(type="x"))).status == "disconnected"
    assert ended(5, (1, text("a")), (4, ev.RunFinished())).status == "completed"
    assert ended(5, (1, text("a")), (6, ev.RunFinished())).terminal_seen is False


def test_finish_reasons_are_words() -> None:
    run = fold((1, text("a")), (2, ev.GenerationFinished(finish_reasons=("stop", "I am so sorry"))))
    assert run.generations[0].finish_reasons == ["stop", "other"]


def test_messages_of_a_run_are_bounded_over_all_its_generations() -> None:
    machine = RunMachine()
    for n in range(3 * MAX_PARTS):
        if n % 10 == 0:
            machine.feed(ev.ToolCallResult(tool_call_id="c"), n)
        machine.feed(text("a", str(n)), n)
    assert sum(len(one.texts) for one in machine._generations) <= 2 * MAX_PARTS
    run = machine.summary(StreamEnd(at_ns=1, final=True), started_at_ns=0)
    assert sum(one.text.chars for one in run.generations) == 3 * MAX_PARTS


def test_parts_and_names_are_bounded() -> None:
    machine = RunMachine()
    for n in range(MAX_PARTS + 10):
        machine.feed(ev.ToolCallStarted(tool_call_id=str(n), name="x" * 10_000), n)
        machine.feed(ev.StepStarted(name=str(n)), n)
        machine.feed(ev.GenerationStarted(response_id=str(n)), n)
    run = machine.summary(StreamEnd(at_ns=1, final=True), started_at_ns=0)
    assert len(run.tool_calls) == len(run.steps) == len(run.generations) == MAX_PARTS
    assert len(run.tool_calls[0].name or "") == 256
    assert run.issues["parts_left_out"] >= 30


ORDER: list[tuple[list[ev.Event], str]] = [
    ([ev.RunFinished(), text("late")], "event_after_end"),
    ([ev.MessageFinished(message_id="m"), text("late", "m")], "text_after_finish"),
    ([ev.ToolCallArgumentsDelta(tool_call_id="c", delta="{")], "tool_call_unknown"),
    ([ev.ToolCallResult(tool_call_id="c")], "tool_call_unknown"),
    (
        [
            ev.ToolCallStarted(tool_call_id="c"),
            ev.ToolCallReady(tool_call_id="c"),
            ev.ToolCallArgumentsDelta(tool_call_id="c", delta="x"),
        ],
        "arguments_after_ready",
    ),
    (
        [ev.ToolCallStarted(tool_call_id="c"), ev.ToolCallStarted(tool_call_id="c")],
        "tool_call_repeated",
    ),
    ([ev.StepFinished(name="s")], "step_not_open"),
    ([ev.StepStarted(name="s"), ev.StepStarted(name="s")], "step_repeated"),
]


@pytest.mark.parametrize(("events", "issue"), ORDER, ids=[issue for _, issue in ORDER])
def test_out_of_order_is_an_issue_when_observing_and_an_error_when_serving(
    events: list[ev.Event], issue: str
) -> None:
    assert fold(*((n, event) for n, event in enumerate(events))).issues == {issue: 1}
    machine = RunMachine(strict=True)
    for event in events[:-1]:
        machine.feed(event, 0)
    with pytest.raises(EventOrderError, match=issue.replace("_", " ")):
        machine.feed(events[-1], 1)


def test_a_strict_run_may_not_end_inside_a_step() -> None:
    machine = RunMachine(strict=True)
    machine.feed(ev.StepStarted(name="s"), 0)
    with pytest.raises(EventOrderError, match="run ended in step"):
        machine.feed(ev.RunFinished(), 1)


IDS = st.sampled_from(["a", "b", None])
EVENTS = st.one_of(
    st.builds(ev.TextDelta, text=st.text(max_size=5), message_id=IDS),
    st.builds(ev.ReasoningDelta, text=st.text(max_size=5)),
    st.builds(ev.ToolCallStarted, tool_call_id=st.sampled_from("xyz"), name=IDS),
    st.builds(
        ev.ToolCallArgumentsDelta, tool_call_id=st.sampled_from("xyz"), delta=st.text(max_size=3)
    ),
    st.builds(ev.ToolCallReady, tool_call_id=st.sampled_from("xyz")),
    st.builds(ev.ToolCallResult, tool_call_id=st.sampled_from("xyz"), is_error=st.booleans()),
    st.builds(ev.StepStarted, name=st.sampled_from("st")),
    st.builds(ev.StepFinished, name=st.sampled_from("st")),
    st.builds(ev.GenerationStarted, response_id=IDS, model=IDS),
    st.builds(ev.GenerationFinished, finish_reasons=st.just(("stop",))),
    st.builds(
        ev.Usage,
        input_tokens=st.none() | st.integers(0, 9),
        scope=st.sampled_from(["run", "generation"]),
    ),
    st.builds(ev.RunStarted, run_id=IDS),
    st.just(ev.RunFinished()),
    st.just(ev.RunFailed(type="x")),
    st.just(ev.RunInterrupted()),
    st.just(ev.Heartbeat()),
    st.just(ev.Custom(name="c")),
)


@given(st.lists(st.tuples(st.integers(0, 50), EVENTS), max_size=40))
def test_any_order_of_events_folds_to_a_consistent_run(steps: list[tuple[int, ev.Event]]) -> None:
    at_ms, timed = 0, []
    for gap_ms, event in steps:
        at_ms += gap_ms
        timed.append((at_ms, event))
    run = fold(*timed, end_ms=at_ms)
    texts = [event.text for _, event in timed if isinstance(event, ev.TextDelta)]
    assert sum(g.text.chars for g in run.generations) == sum(map(len, texts))
    for part in (*run.generations, *run.tool_calls, *run.steps):
        finished_ns = part.finished_ns
        assert 0 <= part.started_ns <= run.duration_ns
        assert finished_ns is None or part.started_ns <= finished_ns <= run.duration_ns
    first, visible = run.time_to_first_token_ns, run.time_to_first_visible_token_ns
    assert visible is None or (first is not None and first <= visible)
    assert run.terminal_seen is (run.status != "truncated")
