"""The frame parser: what it reads, that cuts change nothing, and that it is bounded and linear."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.strategies import cuts, single_bytes, streams

from streamtrace.core.errors import EncodeError
from streamtrace.core.frames import (
    Frame,
    FrameParser,
    LineParser,
    _read_block,
    encode_frame,
    event_source_view,
)

RECORDINGS = Path(__file__).parents[1] / "recordings"
CASES: list[dict[str, Any]] = json.loads((RECORDINGS / "sse_conformance.json").read_bytes())
LINE_CASES: list[dict[str, Any]] = json.loads((RECORDINGS / "sse_extra.json").read_bytes())[
    "line_cases"
]


def parse(chunks: list[bytes], parser: FrameParser | LineParser | None = None) -> list[Frame]:
    parser = parser or FrameParser()
    frames = [frame for chunk in chunks for frame in parser.feed(chunk)]
    return frames + parser.close()


def given_chunks(case: dict[str, Any]) -> list[bytes]:
    if "chunks_b64" in case:
        return [base64.b64decode(chunk) for chunk in case["chunks_b64"]]
    return [chunk.encode() for chunk in case.get("chunks", [case["input"]])]


def whole(case: dict[str, Any]) -> bytes:
    return b"".join(given_chunks(case))


def without_retry(messages: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The cases tell `retry` with the message that said it, the view tells the one in force."""
    return [(message["event"], message["data"], message["id"]) for message in messages]


# --- what it reads -------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [given_chunks, lambda case: [whole(case)],
                                 lambda case: single_bytes(whole(case))],
                         ids=["as-given", "whole", "single-bytes"])  # fmt: skip
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_browser_would_see_the_same(case, cut):
    view = event_source_view(parse(cut(case)))
    assert without_retry(view.messages) == without_retry(case["expected"])
    assert (view.last_event_id, view.retry) == (case["last_event_id"], case["retry"])


@given(st.data())
def test_a_browser_would_see_the_same_however_it_is_cut(data):
    case = data.draw(st.sampled_from(CASES))
    view = event_source_view(parse(data.draw(cuts(whole(case)))))
    assert without_retry(view.messages) == without_retry(case["expected"])
    assert (view.last_event_id, view.retry) == (case["last_event_id"], case["retry"])


def as_data_lines(case: dict[str, Any]) -> bytes:
    """Each line of the case as a data line, with the line ends it had."""
    text, at = "".join(case["chunks"]), 0
    parts: list[str] = []
    for line in case["lines"]:
        assert text.startswith(line, at)
        end = next(e for e in ("\r\n", "\r", "\n", "") if text.startswith(e, at + len(line)))
        parts += ["data:", line, end]
        at += len(line) + len(end)
    assert at == len(text)
    return "".join(parts).encode()


@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "single-bytes"])
@pytest.mark.parametrize("case", LINE_CASES, ids=[c["source"].split(": ")[-1] for c in LINE_CASES])
def test_lines_end_where_the_standard_says(case, cut):
    (frame,) = parse(cut(as_data_lines(case) + b"\n\n"))
    assert frame.text.split("\n") == case["lines"]


def test_what_a_browser_drops_is_reported():
    frames = parse([b": hi\n\nevent: end\n\nid: 4\n\nretry: 9\n\nerror: {}\n\nid:\ndata:\n\n"])
    assert frames == [
        Frame(comment=b"hi"),
        Frame(event="end"),
        Frame(id="4"),
        Frame(retry=9),
        Frame(stray=b"error: {}"),
        Frame(id="", data=b""),
    ]


def test_lines_that_are_no_field_are_kept_together():
    (frame,) = parse([b'data: a\n{\n  "error": {\ndata: b\n}\n\n'])
    assert frame == Frame(data=b"a\nb", stray=b'{\n  "error": {\n}')


def test_blocks_that_say_nothing_are_no_frames():
    assert parse([b"\n\n\r\r\n\n\nid: a\0b\n\nretry: soon\n\n\n"]) == []


def test_what_is_not_utf8_is_replaced_and_not_lost():
    (frame,) = parse([b"data: a\xffb\n\n"])
    assert (frame.data, frame.text) == (b"a\xffb", "a\ufffdb")


def test_frames_have_the_time_of_the_chunk_that_ended_them():
    parser = FrameParser()
    assert parser.feed(b"data: a\n\ndata: b", 1) == [Frame(data=b"a", at_ns=1)]
    assert parser.feed(b"\n", 2) == []
    assert parser.feed(b"\ndata: c", 3) == [Frame(data=b"b", at_ns=3)]
    assert parser.close(4) == [Frame(data=b"c", at_ns=4, complete=False)]


def test_a_frame_ends_with_its_cr_and_does_not_wait_for_an_lf():
    parser = FrameParser()
    assert parser.feed(b"data: a\r\n\r") == [Frame(data=b"a")]
    assert parser.feed(b"\ndata: b\r\r") == [Frame(data=b"b")]


def test_a_stream_that_ends_inside_a_byte_order_mark_is_told():
    assert parse([b"\xef", b"\xbb"]) == [Frame(stray=b"\xef\xbb", complete=False)]
    assert parse([b"\xef\xbb\xbf"]) == []


# --- cuts change nothing -------------------------------------------------------------------


@given(st.data(), streams(), st.integers(1, 40))
def test_cuts_change_nothing_not_even_what_is_too_long(data, stream, limit):
    expected = parse([stream], FrameParser(limit))
    assert parse(data.draw(cuts(stream)), FrameParser(limit)) == expected
    assert parse(single_bytes(stream), FrameParser(limit)) == expected


# Blocks as most servers write them, which are read in one go, and blocks that are almost so.
_values = st.sampled_from(
    (b"", b"x", b"x\r", b"\r", b"\0", b"\xff", b" ", b"event: ", b"data: ", b"id: ")
)
_ends = st.sampled_from((b"\n", b"\r\n", b"\r"))


@st.composite
def _plain_blocks(draw: st.DrawFn) -> bytes:
    names = [name for name in (b"event: ", b"data: ", b"id: ") if draw(st.booleans())]
    lines = [*(name + draw(_values) for name in names), b""]
    end = draw(st.none() | _ends)
    return b"".join(line + (end or draw(_ends)) for line in lines)


@given(st.lists(_plain_blocks(), max_size=6).map(b"".join), st.integers(1, 40))
@example(b"event: e\ndata: x\r\n\n", 40)
@example(b"event: e\r\ndata: x\n\n\r\n", 40)
@example(b"event: e\rf\ndata: x\n\n", 40)
@example(b"data: x\nid: a\rb\n\n", 40)
@example(b"data: x\nid: a\0b\n\n", 40)
@example(b"data: a\n\ndata: b\n\n\n\ndata: c\n", 40)
def test_blocks_that_are_read_in_one_go_read_as_they_do_byte_by_byte(stream, limit):
    expected = parse(single_bytes(stream), FrameParser(limit))
    assert parse([stream], FrameParser(limit)) == expected


@given(st.data(), streams(), st.integers(1, 40))
def test_cuts_change_nothing_in_json_lines(data, stream, limit):
    expected = parse([stream], LineParser(limit))
    assert parse(data.draw(cuts(stream)), LineParser(limit)) == expected
    assert parse(single_bytes(stream), LineParser(limit)) == expected


# --- bounds --------------------------------------------------------------------------------

LIMIT = 64


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "single-bytes"])
def test_the_limit_is_exact_and_ends_with_the_frame(cut, end):
    fits, too_long = b"data: " + b"x" * (LIMIT - 6), b"data: " + b"x" * (LIMIT - 5)
    frames = parse(cut(fits + end + too_long + end + b"data: after" + end), FrameParser(LIMIT))
    assert frames == [Frame(data=b"x" * (LIMIT - 6)), Frame(oversized=True), Frame(data=b"after")]


def test_the_limit_counts_all_lines_of_a_frame():
    (frame,) = parse([b"data: x\n" * 9 + b"\n"], FrameParser(LIMIT))
    assert frame == Frame(oversized=True)


def test_a_frame_too_long_that_never_ends_is_told_at_the_end():
    assert parse([b"x" * LIMIT, b"y"], FrameParser(LIMIT)) == [
        Frame(oversized=True, complete=False)
    ]


@pytest.mark.parametrize("parser_type", [FrameParser, LineParser])
def test_memory_stays_within_the_limit_whatever_comes(parser_type):
    limit, piece = 512 * 1024, b"data: " + b"x" * 65530
    parser = parser_type(limit)
    tracemalloc.start()
    try:
        for _ in range(800):  # 50 MB without a line end
            assert parser.feed(piece) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * limit
    assert parser.close() == [Frame(oversized=True, complete=False)]


DRIP, DRIPS = b"x" * 16, 25_000


@pytest.mark.parametrize("parser_type", [FrameParser, LineParser])
def test_drips_are_not_copied_again_and_again(parser_type):
    parser, handed_out = parser_type(), 0
    tracemalloc.start()
    try:
        for _ in range(DRIPS):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            parser.feed(DRIP)
            handed_out += max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    # Copying what is held for each drip would hand out 5 GB; the lists of no frames take 2 MB.
    assert handed_out < 24_000_000


@pytest.mark.parametrize("parser_type", [FrameParser, LineParser])
def test_drips_are_not_searched_again_and_again(parser_type, monkeypatch):
    searched = 0

    class Watched(bytearray):
        """Counts the bytes that its searching methods look at."""

    def watch(name: str) -> None:
        def method(self: Watched, *args: Any) -> Any:
            nonlocal searched
            searched += len(self)
            return getattr(bytearray, name)(self, *args)

        setattr(Watched, name, method)

    for name in (
        "find",
        "index",
        "split",
        "partition",
        "replace",
        "count",
        "__contains__",
        "strip",
    ):
        watch(name)
    monkeypatch.setattr("streamtrace.core.frames.bytearray", Watched, raising=False)
    parser = parser_type()
    for _ in range(DRIPS):
        parser.feed(DRIP)
    (frame,) = parser.feed(b"\n\n")
    assert len(frame.stray or frame.data) == len(DRIP) * DRIPS
    assert searched <= 2 * len(DRIP) * DRIPS


# --- gaps ----------------------------------------------------------------------------------


def test_after_a_gap_the_frame_under_way_is_forgotten_and_the_next_is_read():
    parser = FrameParser()
    assert parser.feed(b"data: a\n\ndata: half") == [Frame(data=b"a")]
    parser.resync()
    assert parser.feed(b"the rest\n\ndata: b\n\n") == [Frame(data=b"b")]
    assert parser.close() == []


def test_a_gap_between_frames_costs_no_frame():
    parser = FrameParser()
    parser.feed(b"data: a\n\n")
    parser.resync()
    assert parser.feed(b"data: b\n\n") == [Frame(data=b"b")]


def test_a_gap_joins_no_text_across_it():
    parser = FrameParser()
    parser.feed(b"data: sec")
    parser.resync()
    assert parser.feed(b"ond half") == []
    assert parser.close() == []


def test_after_a_gap_the_line_under_way_is_forgotten_and_the_next_is_read():
    parser = LineParser()
    assert parser.feed(b'{"a":1}\n{"b"') == [Frame(data=b'{"a":1}')]
    parser.resync()
    assert parser.feed(b':2}\n{"c":3}\n') == [Frame(data=b'{"c":3}')]


# --- JSON lines ----------------------------------------------------------------------------


def test_lines_of_json_are_frames_without_names():
    assert parse([b'{"a":1}\r\n\n  \n[2]\n'], LineParser()) == [
        Frame(data=b'{"a":1}'),
        Frame(data=b"[2]"),
    ]


@pytest.mark.parametrize(("tail", "complete"), [
    (b'{"a":1}', True), (b"[1]", True), (b'{"a":', False), (b"12", False), (b"null", False),
])  # fmt: skip
def test_a_last_line_counts_only_if_nothing_can_be_missing(tail, complete):
    assert parse([b"[0]\n", tail], LineParser()) == [
        Frame(data=b"[0]"),
        Frame(data=tail, complete=complete),
    ]


# --- writing -------------------------------------------------------------------------------

line = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=9)
block = st.binary(max_size=20).map(lambda raw: raw.replace(b"\r", b""))
frames_to_write = st.builds(
    Frame,
    data=st.none() | block,
    event=st.none() | line,
    id=st.none() | line,
    retry=st.none() | st.integers(0, 10**15 - 1),
    comment=st.none() | block,
).filter(lambda frame: frame != Frame())


@given(st.lists(frames_to_write, max_size=5), st.data())
def test_what_is_written_reads_back(frames, data):
    stream = b"".join(map(encode_frame, frames))
    assert parse(data.draw(cuts(stream))) == frames


@pytest.mark.parametrize("frame", [
    Frame(),
    Frame(id="a\nb"), Frame(id="a\rb"), Frame(id="a\0"),
    Frame(event="a\nb"), Frame(event="a\rb"), Frame(event="a\0"), Frame(event="\ud800"),
    Frame(data=b"a\rb"), Frame(comment=b"a\rb"),
    Frame(data=b"x", retry=-1), Frame(data=b"x", retry=10**15),
], ids=repr)  # fmt: skip
def test_what_would_not_read_back_is_refused(frame):
    with pytest.raises(EncodeError):
        encode_frame(frame)


def test_lines_may_begin_with_a_byte_order_mark_however_it_is_cut():
    whole = b'\xef\xbb\xbf{"a":1}\n{"a":2}\n'
    for pieces in ([whole], [bytes([byte]) for byte in whole]):
        parser = LineParser()
        frames = [frame for piece in pieces for frame in parser.feed(piece)]
        assert [frame.data for frame in frames] == [b'{"a":1}', b'{"a":2}']


_FIELDS = st.sampled_from((
    b"id: 7", b"id:", b"id", b"id: a\0", b"id: \xff", b"event: token", b"event:", b"event",
    b"event: \xff", b": note", b":", b"data: x", b"data:{}", b"data", b"data: \xff", b"data:  y",
    b"retry: 5", b"stray",
))  # fmt: skip


_lines = st.lists(_FIELDS, min_size=1, max_size=5)


@settings(max_examples=1000, deadline=None)
@given(blocks=st.lists(_lines, min_size=1, max_size=6), end=st.sampled_from([b"\n", b"\r\n"]))
@example(blocks=[[b"id: 7", b"data:{}"], [b"id: 7", b"data: x"]], end=b"\n")
def test_blocks_of_a_usual_shape_read_as_any_other_block(blocks, end):
    """The shortcuts for common blocks, one by one or many at once, against reading each line."""
    expected = [_read_block(b"\n".join(lines), 0, complete=True) for lines in blocks]
    expected = [frame for frame in expected if frame is not None]
    pieces = [end.join(lines) + end * 2 for lines in blocks]
    assert parse(pieces) == parse([b"".join(pieces)]) == expected
