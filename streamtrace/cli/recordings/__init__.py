"""Recorded streams that the demo can replay: a fixed table, read once.

A name from a request is looked up in `RECORDINGS` and never becomes a path.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

_FOLDER = Path(__file__).parent
_MESSAGE = re.compile(rb".+?(?:\r?\n\r?\n|\Z)", re.DOTALL)


class _Meta(msgspec.Struct):
    title: str
    dialect: str
    source: dict[str, str]


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded response body."""

    name: str
    title: str
    dialect: str
    source: str
    licence: str
    body: bytes

    def described(self) -> dict[str, str | int]:
        """What the page shows of it."""
        return {
            "name": self.name,
            "title": self.title,
            "dialect": self.dialect,
            "source": self.source,
            "licence": self.licence,
            "bytes": len(self.body),
        }


def messages(body: bytes) -> list[bytes]:
    """The body cut behind each blank line; joined, it is the body again."""
    return _MESSAGE.findall(body)


def _read(path: Path) -> Recording:
    meta = msgspec.json.decode(path.read_bytes(), type=_Meta)
    name = path.name.removesuffix(".meta.json")
    return Recording(
        name=name,
        title=meta.title,
        dialect=meta.dialect,
        source=meta.source["repo"],
        licence=meta.source["licence"],
        body=path.with_name(f"{name}.sse").read_bytes(),
    )


RECORDINGS = {one.name: one for one in map(_read, sorted(_FOLDER.glob("*.meta.json")))}
