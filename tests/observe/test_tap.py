"""The tap: bounded, counted, and nothing lost silently."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamtrace.observe.notes import MIN_STALL_NS
from streamtrace.observe.tap import Budget, Gap, Tap


def make(max_bytes: int, total_bytes: int = 1 << 30) -> tuple[Tap, Budget, list[bool]]:
    calls: list[bool] = []
    budget = Budget(total_bytes)
    return Tap(budget, max_bytes, calls.append), budget, calls


@given(
    st.lists(st.one_of(st.binary(max_size=3000), st.just(None)), max_size=60),
    st.integers(0, 20_000),
    st.integers(0, 20_000),
)
def test_every_byte_is_kept_or_counted_and_the_budget_comes_back(
    steps: list[bytes | None], max_bytes: int, total_bytes: int
) -> None:
    tap, budget, _ = make(max_bytes, total_bytes)
    kept, lost_bytes, lost_chunks, order = [], 0, 0, []

    def take() -> None:
        nonlocal lost_bytes, lost_chunks
        entries = tap.take()
        for at_ns, item in zip(entries[::2], entries[1::2], strict=True):
            order.append(at_ns)
            if isinstance(item, Gap):
                lost_bytes += item.lost_bytes
                lost_chunks += item.lost_chunks
            else:
                kept.append(item)
        tap.rest()
        assert budget.free_bytes == total_bytes

    pushed = [step for step in steps if step is not None]
    for number, step in enumerate(steps):
        if step is None:
            take()
        else:
            tap.push(number, step)
            assert budget.free_bytes >= 0
            assert total_bytes - budget.free_bytes <= max_bytes
    take()
    assert len(kept) + lost_chunks == len(pushed)
    assert sum(map(len, kept)) + lost_bytes == sum(map(len, pushed))
    assert order == sorted(order)


def test_five_thousand_small_taps_fit_into_the_budget() -> None:
    budget = Budget(64 * 1024 * 1024)
    taps = [Tap(budget, 2 * 1024 * 1024, lambda soon: None) for _ in range(5000)]
    for tap in taps:
        tap.push(0, b"x" * 200)
    assert not [tap for tap in taps if any(isinstance(item, Gap) for item in tap.take())]


def test_subclasses_of_bytes_and_str_are_kept() -> None:
    class Piece(bytes):
        """As a template engine makes them."""

    class Markup(str):
        """The same, of text."""

    tap, _, _ = make(1000)
    tap.push(0, Piece(b"a"))
    tap.push(0, Markup("b"))
    assert tap.take()[1::2] == [b"a", "b"]


def test_what_is_lost_in_a_row_is_one_gap_where_it_was() -> None:
    tap, _, _ = make(400)
    for piece in (b"a" * 10, b"b" * 500, b"c" * 500, b"d" * 10):
        tap.push(0, piece)
    kinds = [item if isinstance(item, bytes) else "gap" for item in tap.take()[1::2]]
    assert kinds == [b"a" * 10, "gap", b"d" * 10]


def test_empty_bodies_fill_the_tap_too() -> None:
    tap, _, _ = make(64 * 1000)
    for _ in range(5000):
        tap.push(0, b"")
    assert len(tap.take()) <= 2 * 1001


def test_the_pump_is_told_once_until_it_came() -> None:
    tap, _, calls = make(1000)
    tap.push(0, b"a")
    tap.push(1, b"b")
    assert calls == [False]
    tap.take()
    tap.rest()
    tap.push(2, b"c")
    assert calls == [False, False]


def test_the_pump_is_told_to_hurry_when_there_is_much() -> None:
    tap, _, calls = make(1 << 20)
    for _ in range(4):
        tap.push(0, b"x" * 65_536)
    assert calls == [False]
    for _ in range(4):
        tap.push(0, b"x" * 65_536)
    assert set(calls[1:]) == {True}


def test_no_room_is_left_to_the_path_after_a_rest() -> None:
    tap, _, _ = make(1000)
    tap.push(0, b"a")
    assert tap.room_bytes > 0
    tap.take()
    tap.rest()
    assert tap.room_bytes == 0


STALLS_NS = st.integers(0, 3 * MIN_STALL_NS) | st.just(MIN_STALL_NS)


@given(st.lists(st.tuples(st.integers(0, 900), STALLS_NS, st.booleans()), max_size=30))
def test_the_time_in_send_is_that_of_every_chunk(chunks: list[tuple[int, int, bool]]) -> None:
    """Also of those that were taken before they were sent, and of those that were lost; but not of
    those that took too little to have waited."""
    tap, _, _ = make(1500)
    now_ns = 0
    for size, stall_ns, take_while_sending in chunks:
        began_ns = now_ns
        is_noted = tap.push(began_ns, b"x" * size)
        if take_while_sending:
            tap.take()
            tap.rest()
        now_ns += stall_ns
        tap.sent(began_ns, now_ns, is_noted)
    tap.take()
    stalls = [stall_ns for _, stall_ns, _ in chunks if stall_ns >= MIN_STALL_NS]
    assert (tap.stall_ns, tap.longest_stall_ns) == (sum(stalls), max(stalls, default=0))


def test_bytes_that_can_change_are_copied_and_garbage_is_nothing() -> None:
    tap, _, _ = make(1000)
    changing = bytearray(b"abc")
    tap.push(0, changing)
    tap.push(0, memoryview(changing)[1:])
    changing[:] = b"xxx"
    garbage: list[Any] = [[b"x"], None, 5]
    for one in garbage:
        tap.push(0, one)
    assert tap.take()[1::2] == [b"abc", b"bc", b"", b"", b""]


def test_a_tap_that_is_empty_holds_nothing_of_the_budget() -> None:
    taps = [make(1 << 20)[0] for _ in range(3)]
    tap, budget, _ = make(1 << 20, 100_000)
    assert taps
    tap.push(0, b"x")
    assert budget.free_bytes < 100_000
    tap.take()
    tap.rest()
    assert budget.free_bytes == 100_000
