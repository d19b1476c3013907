"""`python -m benchmarks`: everything, as tables; `python -m benchmarks micro growth`: some of it.

`--json FILE` writes the numbers too, `--short` takes few rounds of what is quick, and
`--show FILE` prints the tables of an earlier run.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks import report

SUITES = ("micro", "growth", "saturation", "paced", "faults", "kernel_buffers")
"""Modules here, each with `run(short) -> result` and `tables(result) -> str`."""


def main() -> None:
    """Run the suites that were asked for, in order."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--short", action="store_true", help="few rounds: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print what was written there")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if arguments.show:
        print(tables(json.loads(arguments.show.read_text())))
        return
    result: dict[str, Any] = {"machine": report.machine(), "suites": {}}
    for name in arguments.suites or SUITES:
        suite = importlib.import_module(f"benchmarks.{name}")
        found = result["suites"][name] = suite.run(arguments.short)
        print(f"\n## {name}\n\n{suite.tables(found)}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def tables(result: dict[str, Any]) -> str:
    """All tables of a run."""
    return "\n\n".join(
        f"## {name}\n\n{importlib.import_module(f'benchmarks.{name}').tables(found)}"
        for name, found in result["suites"].items()
    )


if __name__ == "__main__":
    main()
