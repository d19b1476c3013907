"""What it costs to understand a stream, per dialect, over the recordings of tests/recordings.

Three stages, each timed alone: bytes to frames, frames to events, and the whole way from bytes to
the summary of the run. Then what most streams are made of: one frame with a piece of text, bytes to
event, of each dialect there is. All of it happens off the client's path. CPU time; medians of
rounds, and of the single frame the best, since what disturbs a loop so short only adds to it.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from streamtrace.core.events import TextDelta, Usage
from streamtrace.core.frames import Frame, FrameParser, LineParser
from streamtrace.core.jsonio import clean_text
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects.base import Decoder, Dialect, Head
from streamtrace.dialects.detect import BUILT_IN, UNKNOWN
from streamtrace.observe.pipeline import Pipeline

TESTS = Path(__file__).parent.parent / "tests"
RECORDINGS = TESTS / "recordings"
SAMPLES = TESTS / "dialects" / "samples"
PIECE_BYTES = 4096
REPEATS = 1000
"""How often a single frame is read in a round."""


class Body(NamedTuple):
    """A recording, in pieces as a socket would bring them."""

    head: Head
    pieces: list[bytes]


def recordings() -> dict[str, list[Body]]:
    """Per dialect, its recordings. Those that are no `.sse` file are lines."""
    found: dict[str, list[Body]] = defaultdict(list)
    for meta in sorted(RECORDINGS.glob("*.meta.json")):
        name = meta.name.removesuffix(".meta.json")
        endings = (".sse", ".ndjson", ".txt")
        path = next(path for one in endings if (path := meta.with_name(name + one)).exists())
        found[json.loads(meta.read_text())["dialect"]].append(body_of(path))
    return found


def samples(dialect: str) -> list[Body]:
    """The streams of a dialect that were written by hand."""
    return [body_of(path) for path in sorted((SAMPLES / dialect).glob("*"))]


def body_of(path: Path) -> Body:
    """The body in a file."""
    media_type = "text/event-stream" if path.suffix == ".sse" else "application/x-ndjson"
    return Body(Head(media_type=media_type), in_pieces(path.read_bytes()))


def in_pieces(data: bytes) -> list[bytes]:
    """As a socket would bring it."""
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


def parser_of(head: Head) -> FrameParser | LineParser:
    """What cuts such a body into frames."""
    return FrameParser() if head.media_type == "text/event-stream" else LineParser()


def parse(body: Body) -> list[Frame]:
    """Bytes to frames."""
    parser = parser_of(body.head)
    frames = [frame for piece in body.pieces for frame in parser.feed(piece)]
    return frames + parser.close()


def decode(dialect: Dialect, frames: list[Frame]) -> int:
    """Frames to events; returns how many."""
    decoder = dialect.decoder()
    events = sum(1 for frame in frames for _ in decoder.decode(frame))
    return events + sum(1 for _ in decoder.close())


def fold(body: Body) -> None:
    """Bytes to the summary of the run, the dialect being found on the way."""
    pipeline = Pipeline(body.head)
    for at_ns, piece in enumerate(body.pieces):
        pipeline.feed(piece, at_ns)
    pipeline.close(StreamEnd(at_ns=len(body.pieces)), started_at_ns=0)


def median_ns(work: Callable[[], object], rounds: int) -> float:
    """CPU time of `work`, the median of `rounds` after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        gc.collect()
        began_ns = time.process_time_ns()
        work()
        times.append(time.process_time_ns() - began_ns)
    return statistics.median(times[1:])


class Delta(NamedTuple):
    """A frame that tells a piece of text and no more, and where it stood."""

    body: Body
    before: list[Frame]
    frame: Frame

    def size(self) -> int:
        return len(self.frame.data or b"")

    def wire(self) -> bytes:
        """Its bytes, with the line ends and spaces of its stream."""
        if isinstance(parser_of(self.body.head), LineParser):
            return (self.frame.data or b"") + b"\n"
        body = b"".join(self.body.pieces)
        end = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
        blocks = [block + end for block in body.split(end)]
        return next(block for block in blocks if FrameParser().feed(block) == [self.frame])


def deltas(dialect: Dialect, body: Body) -> list[Delta]:
    """Those of a stream that go on with a text: the frame before told a piece of it as well."""
    frames, decoder = parse(body), dialect.open(body.head)
    found: list[Delta] = []
    before: list[Any] = []
    for at, frame in enumerate(frames):
        events = list(decoder.decode(frame))
        if is_delta(events) and is_delta(before) and events[0].message_id == before[0].message_id:
            found.append(Delta(body, frames[:at], frame))
        before = events
    return found


def is_delta(events: list[Any]) -> bool:
    if [type(event) for event in events] != [TextDelta]:
        return False
    text: str = events[0].text
    return clean_text(text) == text


def decoder_for(dialect: Dialect, delta: Delta) -> Decoder:
    """One that has come as far as the frame."""
    decoder = dialect.open(delta.body.head)
    for frame in delta.before:
        list(decoder.decode(frame))
    return decoder


def tells_text_only(dialect: Dialect, delta: Delta) -> bool:
    """Whether the frame can come again, and leaves the end as it was but for running totals."""
    decoder = decoder_for(dialect, delta)
    again = all(is_delta(list(decoder.decode(delta.frame))) for _ in range(3))
    ends = ([*one.close()] for one in (decoder, decoder_for(dialect, delta)))
    after, without = ([one for one in end if not isinstance(one, Usage)] for end in ends)
    return again and after == without


def shape(value: Any) -> Any:
    """The fields and types of a JSON value, whatever it says."""
    if isinstance(value, dict):
        return frozenset((key, shape(inner)) for key, inner in value.items())
    return tuple(map(shape, value)) if isinstance(value, list) else type(value)


def typical(found: list[Delta]) -> Delta | None:
    """Of the shape that is most frequent, the frame of median size; of equals, the largest."""
    shapes: dict[Any, list[Delta]] = defaultdict(list)
    for one in found:
        frame = one.frame
        shapes[frame.event is None, frame.id is None, shape(frame.json())].append(one)
    medians = [
        (len(alike), median.size(), median)
        for alike in shapes.values()
        for median in [sorted(alike, key=Delta.size)[len(alike) // 2]]
    ]
    return max(medians, key=lambda one: one[:2])[2] if medians else None


def delta_cost(dialect: Dialect, delta: Delta, rounds: int) -> dict[str, Any]:
    """Of one frame, framing alone and all: the best of the rounds."""
    data = delta.wire()
    pieces = [data] * REPEATS  # most apps send each frame by itself
    frame_ns, all_ns = [], []
    for _ in range(rounds + 1):
        decoder = decoder_for(dialect, delta)
        gc.collect()
        began_ns = time.process_time_ns()
        parser = parser_of(delta.body.head)
        for piece in pieces:
            for _frame in parser.feed(piece):
                pass
        framed_ns = time.process_time_ns()
        parser = parser_of(delta.body.head)
        for piece in pieces:
            for frame in parser.feed(piece):
                for _event in decoder.decode(frame):
                    pass
        frame_ns.append(framed_ns - began_ns)
        all_ns.append(time.process_time_ns() - framed_ns)
    return {
        "dialect": dialect.name,
        "bytes": len(data),
        "framing_us": min(frame_ns) / REPEATS / 1e3,
        "us": min(all_ns) / REPEATS / 1e3,
    }


def measure(count: int) -> dict[str, Any]:
    """`count` rounds of the recordings, and of the text frames."""
    return {
        "recordings": {
            name: stages(name, streams, count) for name, streams in recordings().items()
        },
        "text_frames": text_frames(count),
    }


def stages(name: str, streams: list[Body], count: int) -> dict[str, float]:
    """The three stages, over all of one dialect's recordings."""
    known = {dialect.name: dialect for dialect in BUILT_IN}
    dialect = known.get(name, UNKNOWN)
    framed = [parse(body) for body in streams]
    frames = sum(map(len, framed))
    events = sum(decode(dialect, one) for one in framed)
    parse_ns = median_ns(lambda: [parse(one) for one in streams], count)
    decode_ns = median_ns(lambda: [decode(dialect, one) for one in framed], count)
    all_ns = median_ns(lambda: [fold(one) for one in streams], count)
    return {
        "streams": len(streams),
        "frames": frames,
        "events": events,
        "bytes": sum(len(piece) for body in streams for piece in body.pieces),
        "frames_per_s": frames / parse_ns * 1e9,
        "events_per_s": events / decode_ns * 1e9,
        "all_us_per_frame": all_ns / frames / 1e3,
    }


def text_frames(count: int) -> list[dict[str, Any]]:
    """Of each dialect the typical frame with text, out of recordings, else of samples."""
    costs = []
    recorded = recordings()
    for dialect in BUILT_IN:
        found: list[Delta] = []
        for bodies in (recorded[dialect.name], samples(dialect.name)):
            found = found or [one for body in bodies for one in deltas(dialect, body)]
        while (delta := typical(found)) and not tells_text_only(dialect, delta):
            found.remove(delta)
        if delta is not None:
            costs.append(delta_cost(dialect, delta, count))
    return costs


def table(result: dict[str, Any]) -> str:
    """The result as people read it."""
    return "\n\n".join(
        [
            report.table(
                [
                    "recordings of",
                    "streams",
                    "frames",
                    "kB",
                    "frames/s",
                    "events/s",
                    "all, µs/frame",
                ],
                [
                    [
                        name,
                        one["streams"],
                        one["frames"],
                        one["bytes"] // 1000,
                        f"{one['frames_per_s']:,.0f}",
                        f"{one['events_per_s']:,.0f}",
                        f"{one['all_us_per_frame']:.2f}",
                    ]
                    for name, one in result["recordings"].items()
                ],
            ),
            report.table(
                ["a frame of text of", "bytes", "framing, µs", "framing and decoding, µs"],
                [
                    [one["dialect"], one["bytes"], f"{one['framing_us']:.2f}", f"{one['us']:.2f}"]
                    for one in result["text_frames"]
                ],
            ),
        ]
    )
