"""Hypothesis strategies: streams as bytes, ways to cut them, and ways to spoil them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

# Pieces that meet at the seams of a parser: line ends, field names, prefixes of both.
_PIECES = (
    b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b":", b": ", b" ", b"data", b"data:", b"data: x",
    b"event: token", b"event", b"id: 7", b"id:\0", b"retry: 10", b"retry: x", b": note", b"\xef",
    b"\xef\xbb\xbf", b"\xf0\x9f", b"\x98\x80", b"\xff", b"\0", b"{", b'"', b"[DONE]", b"stray",
)  # fmt: skip


def streams(max_pieces: int = 40) -> st.SearchStrategy[bytes]:
    """Bytes that are almost Server-Sent Events."""
    piece = st.sampled_from(_PIECES) | st.binary(max_size=8)
    return st.lists(piece, max_size=max_pieces).map(b"".join)


@st.composite
def cuts(draw: st.DrawFn, data: bytes, max_cuts: int = 12) -> list[bytes]:
    """`data` in chunks, some of them empty."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=max_cuts).map(sorted))
    edges = [0, *places, len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def single_bytes(data: bytes) -> list[bytes]:
    """The worst cut of all."""
    return [data[at : at + 1] for at in range(len(data))]


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with up to five pieces removed, repeated, overwritten or put in."""
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 24)))
        middle = draw(
            st.sampled_from((b"", data[start:end] * 2, b"null", b'"', b"{", b"[]", b"-1"))
            | st.binary(max_size=4)
        )
        data = data[:start] + middle + data[end:]
    return data
