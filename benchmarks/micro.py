"""Each part by itself, without a server: the path, decoding, full tracing, records, memory."""

from __future__ import annotations

from typing import Any

from benchmarks import decode, memory, path, records, tracing
from benchmarks.receivers import Receivers
from benchmarks.streams import STREAMS

LONG = {"path": 41, "tracing": 21, "decode": 7, "records": 15, "import": 9}
SHORT = {"path": 5, "tracing": 2, "decode": 1, "records": 2, "import": 3}
"""Rounds."""
STREAMS_SERVED, SHORT_STREAMS_SERVED = 100_000, 2_000
STREAMS_OPEN, SHORT_STREAMS_OPEN = 5_000, 500


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    count = SHORT if short else LONG
    with Receivers() as receivers:
        result: dict[str, Any] = {
            "path": {kind: path.measure(kind, count["path"]) for kind in STREAMS},
            "tracing": {
                kind: tracing.measure(kind, count["tracing"], receivers) for kind in STREAMS
            },
            "records": records.measure(count["records"], receivers),
        }
    return result | {
        "decode": decode.measure(count["decode"]),
        "memory": {
            "growth": memory.growth(SHORT_STREAMS_SERVED if short else STREAMS_SERVED),
            "idle": memory.idle(SHORT_STREAMS_OPEN if short else STREAMS_OPEN),
            "import_ms": memory.import_ms(count["import"]),
        },
    }


def tables(result: dict[str, Any]) -> str:
    """The result as people read it."""
    parts = {
        "path": ("The path", path.table),
        "tracing": ("Full tracing", tracing.table),
        "records": ("What a run costs at its end", records.table),
        "decode": ("Decoding", decode.table),
        "memory": ("Memory", memory.table),
    }
    return "\n\n".join(
        f"### {title}\n\n{table(result[name])}" for name, (title, table) in parts.items()
    )
