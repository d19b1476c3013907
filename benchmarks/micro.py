"""Each part by itself, in one process: the path, decoding, full tracing, records, memory."""

from __future__ import annotations

from typing import Any

from benchmarks import path, tracing
from benchmarks.receivers import Receivers
from benchmarks.streams import STREAMS


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    with Receivers() as receivers:
        return {
            "path": {kind: path.measure(kind, 5 if short else 41) for kind in STREAMS},
            "tracing": {
                kind: tracing.measure(kind, 2 if short else 21, receivers) for kind in STREAMS
            },
        }


def tables(result: dict[str, Any]) -> str:
    """The result as people read it."""
    return "\n\n".join([path.table(result["path"]), tracing.table(result["tracing"])])
