"""`python -m benchmarks.gate`: fails where something got slower by more than a fifth.

What is judged is a ratio: of the CPU time of a piece of our work to that of an app behind a
middleware that only passes `send` on, so that the speed of the machine cancels. It is a reference
for what is not the path as well: builds of one Python version run plain loops, parsers and walks
through objects at speeds that differ by a fifth, compared with how they run calls and coroutines,
which is what our work is made of.

Rules that keep it from failing by chance:

* Work and reference take turns, and each counts with its lower quartile: others add to the times,
  and clocks of CPU time now and then tell too little. A piece takes some milliseconds: in less than
  one, half of the time goes into caches that others have emptied meanwhile.
* An interpreter is faster or slower than another for all of its life, by how its memory happens to
  lie. So several are started, and again the lower quartile counts.
* The garbage collector has nothing to do with what was there before.
* What is over its limit is measured again; only what is over it every time fails.

The ratios differ between Python versions, and are kept in gate.json by minor version. `--update`
writes that of the Python it runs with: do that on purpose, with the reason in the commit.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import decode, report
from benchmarks.flows import Frames
from benchmarks.inprocess import App, passing_through, receive, scope, take
from benchmarks.path import Streaming
from benchmarks.streams import STREAMS
from streamtrace import StreamTraceMiddleware
from streamtrace.core.spans import project
from streamtrace.observe.offline import summarize

ROOT = Path(__file__).parent.parent
COMMITTED = Path(__file__).with_name("gate.json")
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
TOLERANCE = 1.2
ROUNDS = 21
INTERPRETERS = 5
ATTEMPTS = 3
CHUNKS = 1500
PIECE_STREAMS, REFERENCE_STREAMS = 4, 16

Ratios = dict[str, float]
Timed = Callable[[], int]
"""Does a piece of work; returns ns of CPU."""


class Case(NamedTuple):
    """What is judged, by what."""

    work: Timed
    reference: Timed


# --- what is judged -------------------------------------------------------------------------------


def cases(loop: asyncio.AbstractEventLoop) -> dict[str, Case]:
    """By name, as in gate.json; all on this loop."""
    streams = {kind: long(Frames(make(22))) for kind, make in STREAMS.items()}
    recordings = [body for bodies in decode.recordings().values() for body in bodies[:2]]
    run = summarize(streams["openai"])
    found = {}
    for kind, chunks in streams.items():
        passed = Served(loop, chunks, passing_through)
        reference = timed(passed, REFERENCE_STREAMS)
        found[f"path, {kind}"] = Case(path(Served(loop, chunks)), path(passed))
        found[f"all, {kind}"] = Case(timed(Served(loop, chunks), PIECE_STREAMS), reference)
    others: dict[str, Timed] = {
        "opening and ending": timed(Served(loop, streams["openai"][:4]), 30),
        "recordings": timed(lambda: [decode.fold(one) for one in recordings]),
        "spans of a run": timed(lambda: project(run), 300),
    }
    return found | {name: Case(work, reference) for name, work in others.items()}


def long(frames: Frames) -> list[bytes]:
    """A stream of few objects: how much of a cache is left to us depends on what else runs."""
    return [*frames.first, *frames.said(CHUNKS), *frames.last]


def path(served: Served) -> Timed:
    """From the first chunk to the last inside the app."""

    def do() -> int:
        path_ns = 0
        for _ in range(PIECE_STREAMS):
            served()
            path_ns += served.streaming.path_ns
        return path_ns

    return do


class Served:
    """A stream through the middleware without sinks, and all that it left behind worked off.

    At once, not in slices of the loop's time: how many those are depends on what else runs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chunks: list[bytes],
        around: Callable[[App], App] | None = None,
    ) -> None:
        self.streaming = Streaming(chunks)
        self._observed = StreamTraceMiddleware(self.streaming)
        self._app = self._observed if around is None else around(self.streaming)
        self._loop = loop

    def __call__(self) -> None:
        self._loop.run_until_complete(self._app(scope(), receive, take))
        self._observed.finish()


def timed(work: Callable[[], object], times: int = 1) -> Timed:
    def do() -> int:
        began_ns = time.thread_time_ns()
        for _ in range(times):
            work()
        return time.thread_time_ns() - began_ns

    return do


# --- how it is measured ---------------------------------------------------------------------------


def measure_here(judged: Mapping[str, Case], rounds: int = ROUNDS) -> Ratios:
    """The ratios, as this interpreter has them."""
    gc.collect()
    gc.freeze()
    try:
        return {name: _ratio(case, rounds) for name, case in judged.items()}
    finally:
        gc.unfreeze()


def _ratio(case: Case, rounds: int) -> float:
    taken: tuple[list[int], list[int]] = ([], [])
    for _ in range(rounds + 1):
        for times, do in zip(taken, case, strict=True):
            gc.collect()
            times.append(do())
    work_ns, reference_ns = (lower_quartile(times[1:]) for times in taken)
    return work_ns / reference_ns


def lower_quartile(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=4, method="inclusive")[0]


def measure(interpreters: int = INTERPRETERS) -> Ratios:
    """The lower quartile of some interpreters, one after the other."""
    command = [sys.executable, "-m", "benchmarks.gate", "--here"]
    found: list[Ratios] = []
    for seed in range(interpreters):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        found.append(json.loads(subprocess.check_output(command, cwd=ROOT, env=environment)))
    return {name: lower_quartile([one[name] for one in found]) for name in found[0]}


# --- how it is judged -----------------------------------------------------------------------------


def judge(measured: Callable[[], Ratios], committed: Ratios) -> tuple[Ratios, list[str]]:
    """The least ratios of the attempts, and what is wrong with them: nothing, at best."""
    found: Ratios = {}
    wrong: list[str] = []
    for _ in range(ATTEMPTS):
        if wrong:
            print("measured again, since it may be chance:", *wrong, sep="\n", file=sys.stderr)
        now = measured()
        found = {name: min(ratio, found.get(name, ratio)) for name, ratio in now.items()}
        wrong = faults(found, committed)
        if not wrong or found.keys() != committed.keys():
            break
    return found, wrong


def faults(found: Ratios, committed: Ratios) -> list[str]:
    """One sentence each."""
    changed = found.keys() ^ committed.keys()
    wrong = [
        f"{name} is either not in gate.json, or no longer measured" for name in sorted(changed)
    ]
    for name in found.keys() & committed.keys():
        ratio = found[name]
        if ratio > committed[name] * TOLERANCE:
            percent = (ratio / committed[name] - 1) * 100
            wrong.append(
                f"{name}: {ratio:.3f} times its reference, {committed[name]:.3f} is committed:"
                f" {percent:.0f} % slower, allowed are {(TOLERANCE - 1) * 100:.0f} %"
            )
    return wrong


def nearest(known: Mapping[str, Ratios], minor: str) -> str:
    """The Python version to compare with."""
    if not known:
        raise SystemExit("gate.json holds nothing yet: python -m benchmarks.gate --update")
    wanted = _number(minor)
    return min(known, key=lambda one: (abs(_number(one) - wanted), _number(one)))


def _number(minor: str) -> int:
    return int(minor.partition(".")[2])


def table(found: Ratios, committed: Ratios) -> str:
    rows = [
        [name, f"{ratio:.3f}", f"{committed[name]:.3f}", f"{ratio / committed[name]:.2f}"]
        for name, ratio in found.items()
        if name in committed
    ]
    return report.table(
        ["CPU time, times that of the reference", "now", "committed", "ratio"], rows
    )


def main() -> None:
    """Measure and judge, or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the ratios of this Python")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        with asyncio.Runner() as runner:
            print(json.dumps(measure_here(cases(runner.get_loop()))))
        return
    known: dict[str, Ratios] = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    if arguments.update:
        known[MINOR] = {name: round(ratio, 3) for name, ratio in measure().items()}
        ordered = {minor: known[minor] for minor in sorted(known, key=_number)}
        COMMITTED.write_text(json.dumps(ordered, indent=2) + "\n")
        return
    minor = nearest(known, MINOR)
    if minor != MINOR:
        print(f"gate.json has no ratios of Python {MINOR}; those of {minor} are used")
    limits = known[minor]
    found, wrong = judge(measure, limits)
    print(table(found, limits))
    better = [name for name, ratio in found.items() if ratio * TOLERANCE < limits.get(name, 0.0)]
    if better:
        print(f"\nFaster by more than that: {', '.join(better)}. Commit it with --update.")
    if wrong:
        print("\n" + "\n".join(wrong), file=sys.stderr)
        print(
            "If that is meant: python -m benchmarks.gate --update, and the reason in the commit.",
            file=sys.stderr,
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
