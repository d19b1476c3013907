"""The run that each recorded stream tells, kept beside it as `NAME.summary.json`.

Each frame is fed with its number as its time in milliseconds, so that times can be compared as
well. `pytest --update-golden` writes the files again; look at what changed.
"""

from __future__ import annotations

import json

import pytest
from support.recordings import RECORDED, RECORDINGS

from streamtrace.core.content import ContentPolicy
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.detect import BUILT_IN
from streamtrace.observe.pipeline import Pipeline

NAMES = {dialect.name for dialect in BUILT_IN}
MS = 1_000_000
MAX_CHARS = 2_000
"""Texts in the golden files are cut to this, since some recordings hold pictures."""


def run_of(stream) -> RunSummary:
    pipeline = Pipeline(stream.head, policy=ContentPolicy(keep=True, room_bytes=2**24))
    at_ns = 0
    for line in stream.body.splitlines(keepends=True):
        pipeline.feed(line, at_ns)
        at_ns += MS * (line in (b"\n", b"\r\n") or stream.lines)
    return pipeline.close(StreamEnd(at_ns=at_ns, final=True), started_at_ns=0)


def cut(value):
    match value:
        case str() if len(value) > MAX_CHARS:
            return f"{value[:MAX_CHARS]}… ({len(value)} characters)"
        case dict():
            return {key: cut(one) for key, one in value.items()}
        case list():
            return [cut(one) for one in value]
    return value


@pytest.mark.parametrize("stream", [one for one in RECORDED if one.dialect in NAMES], ids=str)
def test_a_recording_tells_its_run_as_before(stream, golden):
    summary = run_of(stream)
    assert summary.dialect == stream.dialect
    assert summary.frames == len(stream.frames())
    assert "frame_undecodable" not in summary.issues
    told = json.dumps(cut(summary.to_dict()), indent=1, ensure_ascii=True) + "\n"
    golden(f"tests/recordings/{stream.name}.summary.json", told)


def test_no_golden_run_is_left_of_a_recording_that_is_gone():
    named = {f"{stream.name}.summary.json" for stream in RECORDED}
    assert {path.name for path in RECORDINGS.glob("*.summary.json")} <= named
