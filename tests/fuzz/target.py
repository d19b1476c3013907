"""What the fuzzer does with one input, and the inputs it starts from.

The first byte of an input chooses the dialect, the second how the rest is framed and cut; the
rest is the stream. Looked for: exceptions, text that did not stand on the wire, values that the
vocabulary does not allow, and memory that outgrows the input.
"""

from __future__ import annotations

import re
from pathlib import Path

from support.laws import held_bytes, not_invented, well_formed
from support.recordings import STREAMS
from support.wire import frames_of

from streamtrace.core.frames import FrameParser, LineParser
from streamtrace.dialects.base import Head
from streamtrace.dialects.detect import BUILT_IN, UNKNOWN, Detector

CORPUS = Path(__file__).parent / "corpus"
DIALECTS = (*BUILT_IN, UNKNOWN)
MAX_BYTES = 4096
MAX_HELD_BYTES = 64 * 1024
HELD_PER_BYTE = 64
"""A decoder may keep this much for each byte it was given: objects are larger than their text."""
LINES, CUT = 1, 2


def decode(data: bytes) -> None:
    """One input, as the module's docstring says. Raises what is wrong."""
    if len(data) < 3:
        return
    dialect = DIALECTS[data[0] % len(DIALECTS)]
    parser = LineParser() if data[1] & LINES else FrameParser()
    body = data[2:]
    chunks = [body[at : at + 7] for at in range(0, len(body), 7)] if data[1] & CUT else [body]
    frames = frames_of(*chunks, parser=parser)
    head = Head()
    detector = Detector(head)
    for frame in frames:
        if detector.offer(frame):
            break
    detector.settle()
    decoder = dialect.open(head)
    events = [event for frame in frames for event in decoder.decode(frame)]
    events += decoder.close()
    well_formed(events)
    not_invented(events, frames)
    assert held_bytes(decoder) < MAX_HELD_BYTES + HELD_PER_BYTE * len(body)


def write_seeds(folder: Path) -> None:
    """The begin of each stream, and of each a piece from its middle, for its own dialect."""
    numbers = {dialect.name: number for number, dialect in enumerate(DIALECTS)}
    for stream in STREAMS:
        if stream.dialect not in numbers:
            continue
        head = bytes((numbers[stream.dialect], LINES * stream.lines))
        middle = max(0, len(stream.body) // 2 - MAX_BYTES // 2)
        for start in {0, middle}:
            piece = stream.body[start : start + MAX_BYTES - len(head)]
            (folder / f"{stream.name}-{start}").write_bytes(head + piece)


def write_dictionary(file: Path) -> None:
    """The words of all streams, which a fuzzer would hardly guess."""
    words = {
        word for stream in STREAMS for word in re.findall(rb'"[A-Za-z_.-]{2,40}"', stream.body)
    }
    lines = [f'w{n}="\\"{word[1:-1].decode()}\\""' for n, word in enumerate(sorted(words)[:4000])]
    file.write_text("\n".join(lines) + "\n")
