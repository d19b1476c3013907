"""Words for a terminal: lengths of time, sizes, and text from outside made safe to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from rich.cells import cell_len, chop_cells


def duration(ns: int) -> str:
    """A length of time for people: 0.4 ms, 640 ms, 4.83 s, 2m05s."""
    if ns < 1_000_000:
        return f"{ns / 1e6:.1f} ms"
    if ns < 999_500_000:
        return f"{ns / 1e6:.0f} ms"
    if ns < 59_995_000_000:
        return f"{ns / 1e9:.2f} s"
    minutes, left = divmod(round(ns / 1e9), 60)
    return f"{minutes}m{left:02}s"


def size(count: int) -> str:
    """A number of bytes for people: 812 B, 27.8 kB, 1.2 MB."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def clean(text: str) -> str:
    """Text from outside, made safe for a terminal and put on one line."""
    return " ".join("".join(_safe(text)).split())


def _safe(text: str) -> Iterable[str]:
    for char in text:
        if char.isspace():
            yield " "
        elif unicodedata.category(char) in ("Cc", "Cs") or char in _BIDI:
            yield "\N{REPLACEMENT CHARACTER}"
        else:
            yield char


_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def filled(text: str, width: int) -> list[str]:
    """The words in rows of `width` cells; a longer word goes over several."""
    rows = [""]
    for word in text.split():
        for piece in chop_cells(word, width):
            if rows[-1] and cell_len(rows[-1]) + 1 + cell_len(piece) <= width:
                rows[-1] += f" {piece}"
            elif rows[-1]:
                rows.append(piece)
            else:
                rows[-1] = piece
    return rows
