"""Captured text: counted always, kept within a budget, cut between code points."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from streamtrace.core.content import Capture, ContentPolicy, join

TEXTS = st.lists(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20), max_size=10
)


@given(TEXTS)
def test_without_a_mode_only_the_length_is_known(pieces: list[str]) -> None:
    capture = Capture(ContentPolicy())
    for piece in pieces:
        capture.add(piece)
    content = capture.content()
    assert content.chars == len("".join(pieces))
    assert content.text is None
    assert content.sha256 is None


@given(TEXTS, st.integers(0, 60))
def test_what_is_kept_is_a_prefix_within_the_budget(pieces: list[str], room_bytes: int) -> None:
    whole = "".join(pieces)
    capture = Capture(ContentPolicy(keep=True, room_bytes=room_bytes))
    for piece in pieces:
        capture.add(piece)
    content = capture.content()
    kept = content.text or ""
    assert whole.startswith(kept)
    assert len(kept.encode()) <= room_bytes
    assert content.truncated is (kept != whole)
    assert content.chars == len(whole)


@given(TEXTS)
def test_the_hash_is_that_of_the_whole_text_even_beyond_the_budget(pieces: list[str]) -> None:
    capture = Capture(ContentPolicy(keep=True, hash=True, room_bytes=3))
    for piece in pieces:
        capture.add(piece)
    whole = "".join(pieces)
    expected = hashlib.sha256(whole.encode()).hexdigest() if whole else None
    assert capture.content().sha256 == expected


def test_texts_of_one_stream_share_the_budget() -> None:
    policy = ContentPolicy(keep=True, room_bytes=5)
    first, second = Capture(policy), Capture(policy)
    first.add("abcd")
    second.add("efgh")
    assert (first.content().text, second.content().text) == ("abcd", "e")
    assert join([first.content(), second.content()]).text == "abcd\n\ne"
    assert join([first.content(), second.content()]).truncated
    third, fourth = Capture(policy), Capture(policy)
    third.add("ijkl")
    fourth.add("mnop")
    cut = join([third.content(), fourth.content()])
    assert (cut.text, cut.chars, cut.truncated) == ("", 8, True)


def test_an_emoji_in_two_halves_is_one_character_and_hashed_as_one() -> None:
    halves = "\ud83d", "\ude00"
    capture = Capture(ContentPolicy(keep=True, hash=True))
    for piece in ("a", *halves, "b"):
        capture.add(piece)
    content = capture.content()
    assert (content.chars, content.text) == (3, "a😀b")
    assert content.sha256 == hashlib.sha256("a😀b".encode()).hexdigest()


def test_many_tiny_pieces_do_not_pile_up() -> None:
    capture = Capture(ContentPolicy(keep=True))
    for _ in range(10_000):
        capture.add("x")
    assert len(capture._kept) < 1000
    assert capture.content().text == "x" * 10_000
