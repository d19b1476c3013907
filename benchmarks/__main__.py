"""`python -m benchmarks`: everything, as tables; `python -m benchmarks micro growth`: some of it.

`--json FILE` writes the numbers too, beside those of suites that are in it already and are not run
now; `--short` takes few rounds of what is quick. `--docs` runs nothing: it puts the tables of
`benchmarks/results.json` into `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks import report

SUITES = ("micro", "growth", "saturation", "paced", "faults", "kernel_buffers", "log", "followers")
"""Modules here, each with `run(short) -> result` and `tables(result) -> str`."""
RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def main() -> None:
    """Run the suites that were asked for, in order."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--short", action="store_true", help="few rounds: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--docs", action="store_true", help="put the committed numbers into docs")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    if arguments.docs:
        PAGE.write_text(with_tables(PAGE.read_text(), json.loads(RESULTS.read_text())))
        return
    result: dict[str, Any] = {"machine": report.machine(), "suites": {}}
    if arguments.json and arguments.json.exists():
        result["suites"] = json.loads(arguments.json.read_text())["suites"]
    for name in arguments.suites or SUITES:
        found = result["suites"][name] = _suite(name).run(arguments.short)
        print(f"\n## {name}\n\n{_suite(name).tables(found)}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def with_tables(page: str, result: dict[str, Any]) -> str:
    """The page, with the tables of a run in the places that are marked for them."""
    filled = {name: _suite(name).tables(found) for name, found in result["suites"].items()}
    filled["machine"] = report.described(result["machine"])
    for name, text in filled.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found, rest = page.partition(begin)
        if found:
            page = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return page


def _suite(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


if __name__ == "__main__":
    main()
