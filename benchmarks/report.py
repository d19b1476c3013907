"""Results as people read them: Markdown tables, the same on a terminal and in the docs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "streamtrace",
    "msgspec",
    "uvicorn",
    "httptools",
    "uvloop",
    "starlette",
    "fastapi",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-asgi",
    "langfuse",
    "prometheus-client",
    "prometheus-fastapi-instrumentator",
    "redis",
)


def machine() -> dict[str, object]:
    """Where and with what a run was made."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def described(machine: Mapping[str, Any]) -> str:
    """A machine, as `machine` tells it, in a paragraph."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"Measured {machine['at'][:10]}: {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['system']}, CPython {machine['python']}; {versions}."
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, padded to be read as it is."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = [
        "-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths)
    ]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def spread(one: Mapping[str, float], digits: int = 2) -> str:
    """A median with its quartiles, as in `0.93 [0.91 .. 0.95]`."""
    return f"{one['median']:.{digits}f} [{one['low']:.{digits}f} .. {one['high']:.{digits}f}]"


def verdict(what: str, value: float, limit: float, unit: str, *, at_least: bool = False) -> str:
    """A line that says whether a target is kept."""
    kept = value >= limit if at_least else value <= limit
    bound = "at least" if at_least else "at most"
    return (
        f"* {what}: {value:.2f}{unit}, "
        f"{'within' if kept else '**outside of**'} the target of {bound} {limit:g}{unit}"
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()
    return platform.machine()
