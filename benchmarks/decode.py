"""What it costs to understand a stream, per dialect, over the recordings of tests/recordings.

Three stages, each timed alone: bytes to frames, frames to events, and the whole way from bytes to
the summary of the run. All of it happens off the client's path. CPU time; medians of rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from streamtrace.core.frames import Frame, FrameParser, LineParser
from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects.base import Dialect, Head
from streamtrace.dialects.detect import by_name
from streamtrace.observe.pipeline import Pipeline

RECORDINGS = Path(__file__).parent.parent / "tests" / "recordings"
PIECE_BYTES = 4096


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
        media_type = "text/event-stream" if path.suffix == ".sse" else "application/x-ndjson"
        data = path.read_bytes()
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        found[json.loads(meta.read_text())["dialect"]].append(
            Body(Head(media_type=media_type), pieces)
        )
    return found


def parse(body: Body) -> list[Frame]:
    """Bytes to frames."""
    parser = FrameParser() if body.head.media_type == "text/event-stream" else LineParser()
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


def measure(rounds: int) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    result: dict[str, Any] = {"python": platform.python_version(), "rounds": rounds}
    for name, streams in recordings().items():
        dialect = by_name(name)
        framed = [parse(body) for body in streams]
        frames = sum(map(len, framed))
        events = sum(decode(dialect, one) for one in framed)
        parse_ns = median_ns(lambda: [parse(one) for one in streams], rounds)  # noqa: B023
        decode_ns = median_ns(lambda: [decode(dialect, one) for one in framed], rounds)  # noqa: B023
        all_ns = median_ns(lambda: [fold(one) for one in streams], rounds)  # noqa: B023
        result[name] = {
            "streams": len(streams),
            "frames": frames,
            "events": events,
            "bytes": sum(len(piece) for body in streams for piece in body.pieces),
            "frames_per_s": frames / parse_ns * 1e9,
            "events_per_s": events / decode_ns * 1e9,
            "all_us_per_frame": all_ns / frames / 1e3,
        }
    return result


def table(result: dict[str, Any]) -> str:
    """The result as people read it."""
    head = f"{'dialect':18}{'streams':>8}{'frames':>8}{'kB':>8}"
    head += f"{'frames/s':>12}{'events/s':>12}{'all, µs/frame':>15}"
    lines = [f"Python {result['python']}, {result['rounds']} rounds, CPU time", "", head]
    for name, one in result.items():
        if isinstance(one, dict):
            lines.append(
                f"{name:18}{one['streams']:8}{one['frames']:8}{one['bytes'] // 1000:8}"
                f"{one['frames_per_s']:12,.0f}{one['events_per_s']:12,.0f}"
                f"{one['all_us_per_frame']:15.2f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
