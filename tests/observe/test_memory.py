"""Memory of one stream does not grow with what flows through it."""

from __future__ import annotations

import tracemalloc

from streamtrace.core.content import ContentPolicy
from streamtrace.core.frames import MAX_FRAME_BYTES
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects.base import Head
from streamtrace.observe.pipeline import Pipeline

MIB = 1024 * 1024


def peak_bytes(pieces: int, piece: bytes, policy: ContentPolicy) -> tuple[int, Pipeline]:
    """The most memory that feeding the piece so many times took, beyond what was there."""
    pipeline = Pipeline(Head(), policy=policy)
    pipeline.feed(piece, 0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(pieces):
        pipeline.feed(piece, number)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before, pipeline


def test_a_frame_of_two_hundred_megabytes_is_not_kept() -> None:
    peak, pipeline = peak_bytes(3200, b"data: " + b"x" * 64 * 1024, ContentPolicy())
    assert peak < 2 * MAX_FRAME_BYTES
    pipeline.feed(b'\n\ndata: {"type":"done"}\n\n', 1)
    run = pipeline.close(StreamEnd(at_ns=2, final=True), started_at_ns=0)
    assert run.issues == {"frame_oversized": 1}
    assert run.body_bytes > 200 * MIB


def test_a_long_stream_costs_what_a_short_one_does_with_content_off() -> None:
    piece = b'data: {"type":"token","content":"some words "}\n\n' * 50
    short, _ = peak_bytes(10, piece, ContentPolicy())
    long, pipeline = peak_bytes(600, piece, ContentPolicy())
    assert pipeline.machine.events == 50 * 601
    assert long < short + 64 * 1024


def test_captured_content_is_bounded_too() -> None:
    piece = b'data: {"type":"token","content":"some words "}\n\n' * 50
    peak, pipeline = peak_bytes(600, piece, ContentPolicy(keep=True, hash=True))
    run = pipeline.close(StreamEnd(at_ns=2, final=True), started_at_ns=0)
    text = run.generations[0].text
    assert (len(text.text or ""), text.truncated, text.chars) == (65_536, True, 601 * 50 * 11)
    assert peak < MIB
