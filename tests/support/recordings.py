"""All streams that the tests have of every dialect: recorded ones, and samples written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from support.wire import frames_of

from streamtrace.core.frames import Frame, FrameParser, LineParser
from streamtrace.dialects.base import Head

TESTS = Path(__file__).parents[1]
RECORDINGS = TESTS / "recordings"
SAMPLES = TESTS / "dialects" / "samples"
LINES = (".ndjson", ".txt")
"""Endings of files in which each line is a frame."""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One response body, and the dialect it is known to speak."""

    name: str
    dialect: str
    body: bytes
    path: Path

    @property
    def lines(self) -> bool:
        return self.path.suffix in LINES

    @property
    def head(self) -> Head:
        """With the request, where `NAME.request.json` beside the body holds it."""
        asked = self.path.with_suffix(".request.json")
        return Head(
            media_type="application/x-ndjson" if self.lines else "text/event-stream",
            request=json.loads(asked.read_bytes()) if asked.exists() else None,
        )

    def frames(self, *chunks: bytes) -> list[Frame]:
        """The frames of the body, or of the chunks that are given in its place."""
        parser = LineParser() if self.lines else FrameParser()
        return frames_of(*(chunks or (self.body,)), parser=parser)

    def __str__(self) -> str:
        return self.name


def _recorded() -> list[Stream]:
    return [
        Stream(
            name=meta.name.removesuffix(".meta.json"),
            dialect=json.loads(meta.read_bytes())["dialect"],
            body=(path := _body_of(meta)).read_bytes(),
            path=path,
        )
        for meta in sorted(RECORDINGS.glob("*.meta.json"))
    ]


def _body_of(meta: Path) -> Path:
    name = meta.name.removesuffix(".meta.json")
    return next(
        path for ending in (".sse", *LINES) if (path := meta.with_name(f"{name}{ending}")).exists()
    )


def _samples() -> list[Stream]:
    return [
        Stream(
            name=f"sample-{path.parent.name}-{path.stem}",
            dialect=path.parent.name,
            body=path.read_bytes(),
            path=path,
        )
        for path in sorted(SAMPLES.glob("*/*"))
        if path.suffix in (".sse", *LINES)
    ]


RECORDED = _recorded()
STREAMS = [*RECORDED, *_samples()]


def blocks(body: bytes) -> list[bytes]:
    """The body cut behind each blank line, as servers send it."""
    end = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    pieces = body.split(end)
    return [piece + end for piece in pieces[:-1]] + [pieces[-1]] * bool(pieces[-1])
