"""What the client gets, and what the server holds, when something around the stream goes wrong.

    collector hangs     takes requests and never answers
    collector refuses   nobody listens
    small taps          4 KiB for what the path notes of a stream, where a stream has 220 KB
    slow clients        16 take 1 kB a second of streams of 9 MB, beside those that are measured

Always all sinks, beside bare in the same rounds:

    throughput   16 clients, as fast as it goes, over bare
    late         p99 at 250 streams of 30 tokens/s, over bare
    memory       growth of the server's resident memory by thousands of short streams, which fill
                 the queues, and by as many again: the second is what a bound is for
    dropped      runs, by sink and reason; `counted` says whether for each sink accepted is
                 exported + dropped + queued, and whether the metrics say the same
    lost         chunks that did not fit into the tap, of all
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict
from typing import Any, NamedTuple

import uvloop

from benchmarks import children, fleet, load, pace, report, rounds, saturation

MIB = 1024 * 1024
FAULTS = {
    "bare": ("bare", "answers"),
    "no fault": ("all sinks", "answers"),
    "collector hangs": ("all sinks", "hangs"),
    "collector refuses": ("all sinks", "refuses"),
    "small taps": ("all sinks, small taps", "answers"),
}
SHORT_FAULTS = ("bare", "collector hangs", "small taps")
SLOW = {"bare": ("bare", "answers"), "all sinks": ("all sinks", "answers")}
SLOW_CLIENTS = 16
SLOW_TOKENS = 40_000
SLOW_BYTES_PER_S = 1000
CLIENTS = 16
RATE = 30
FILL_TOKENS = 20
STALLS_WITHIN_S = 20
STALLED = 0.1
"""A server that takes less of its core than this waits for its clients."""


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    streams: int
    paced_rounds: int
    paced_s: float
    fill_s: float


FULL = Size(rounds=7, seconds=0.3, streams=250, paced_rounds=2, paced_s=3, fill_s=3)
SHORT = Size(rounds=2, seconds=0.2, streams=50, paced_rounds=1, paced_s=0.5, fill_s=0.5)


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    size = SHORT if short else FULL
    wanted = {name: FAULTS[name] for name in (SHORT_FAULTS if short else FAULTS)}
    return {
        "pinned": children.PINNED,
        "size": size._asdict(),
        "faults": run_faults(wanted, size),
        "slow": run_slow(size),
    }


def run_faults(wanted: dict[str, tuple[str, str]], size: Size) -> dict[str, Any]:
    """Collectors that fail, and taps that are full."""
    with fleet.serving(wanted) as servers:
        found = measure(servers, size)
        for name, server in servers.items():
            found[name] |= {"grown_mib": fill(server, size.fill_s), **told(server)}
    return found


def run_slow(size: Size) -> dict[str, Any]:
    """Clients that hardly read, beside those that are measured."""
    with fleet.serving(SLOW) as servers, contextlib.ExitStack() as stack:
        before = {name: rss_bytes(server) for name, server in servers.items()}
        for server in servers.values():
            stack.enter_context(
                load.slow_readers(server.port, SLOW_CLIENTS, SLOW_BYTES_PER_S, SLOW_TOKENS)
            )
            wait_until_stalled(server)
        stalled = {name: rss_bytes(server) for name, server in servers.items()}
        found = measure(servers, size, besides=SLOW_CLIENTS)
        for name, server in servers.items():
            held = stalled[name] - before[name], rss_bytes(server) - stalled[name]
            found[name] |= {"grown_mib": [one / MIB for one in held], **told(server)}
    return found


def measure(
    servers: dict[str, fleet.Server], size: Size, besides: int = 0
) -> dict[str, dict[str, Any]]:
    """Throughput and lateness of the servers, in turns; `besides` requests are always under way."""
    events_per_s: rounds.Samples = defaultdict(list)
    late_ms: rounds.Samples = defaultdict(list)
    for number, name in rounds.turns(tuple(servers), size.rounds):
        found = saturation.sample(
            servers[name], "openai", CLIENTS, size.seconds, flush=False, besides=besides
        )
        if number:
            events_per_s[name].append(found["events_per_s"])
    for number, name in rounds.turns(tuple(servers), size.paced_rounds):
        if number:
            paced = pace.pace(servers[name], size.streams, RATE, size.paced_s, besides=besides)
            late_ms[name].append(uvloop.run(paced)["late_ms"]["p99"])
    return {
        name: {
            "throughput_ratio": rounds.ratio(events_per_s, name, "bare"),
            "late_ms": rounds.quartiles(late_ms[name]),
            "later_ms": rounds.over(late_ms, name, "bare"),
        }
        for name in servers
    }


def fill(server: fleet.Server, seconds: float) -> list[float]:
    """MiB that the server grew by many short streams, and by as many again."""
    seen = [rss_bytes(server)]
    for _ in range(2):
        load.saturate(server.port, "openai", CLIENTS, seconds, FILL_TOKENS)
        server.ask("rest", flush=False)
        seen.append(rss_bytes(server))
    return [(after - before) / MIB for before, after in itertools.pairwise(seen)]


def rss_bytes(server: fleet.Server) -> int:
    """Its memory, without garbage."""
    server.ask("collect")
    return int(server.ask("usage")["rss_bytes"])


def wait_until_stalled(server: fleet.Server) -> None:
    """Until the server waits for its clients: all buffers on the way are full."""
    for _ in range(STALLS_WITHIN_S):
        before = server.ask("usage")["cpu_ns"]
        time.sleep(1.0)
        if server.ask("usage")["cpu_ns"] - before < STALLED * 1e9:
            return
    raise load.LoadFailed(f"the slow clients did not stall the server in {STALLS_WITHIN_S} s")


def told(server: fleet.Server) -> dict[str, Any]:
    """What was dropped and lost, and whether all that was accepted is accounted for."""
    counts = server.ask("usage")["counts"]
    sinks = counts.get("sinks", {})
    metrics = counts.get("metrics", {})
    dropped = {
        f"{name} {reason}": runs
        for name, one in sinks.items()
        for reason, runs in one["dropped"].items()
        if runs
    }
    adds_up = all(
        one["accepted"] == one["exported"] + sum(one["dropped"].values()) + one["queued"]
        for one in sinks.values()
    )
    return {
        "accepted": max((one["accepted"] for one in sinks.values()), default=0),
        "dropped": dropped,
        "lost_chunks": metrics.get("streamtrace_lost_chunks", 0),
        "counted": adds_up and metrics.get("streamtrace_sink_dropped", 0) == sum(dropped.values()),
    }


LEFT = ("", "throughput / bare", "late, ms", "over bare, ms")
RIGHT = ("runs", "dropped", "lost chunks", "counted")


def tables(result: dict[str, Any]) -> str:
    """A table of the faults, and one of slow clients."""
    size = result["size"]
    times = f"{size['rounds']} rounds, {size['paced_rounds']} of paced streams"
    parts = [f"{times}; medians [quartiles]; memory in MiB"]
    grown = {
        "faults": ("grown by short streams", "by as many again"),
        "slow": ("grown until they stalled", "while others were served"),
    }
    for part, columns in grown.items():
        rows = [
            (
                name,
                report.spread(one["throughput_ratio"]),
                f"{one['late_ms']['median']:.1f}",
                report.spread(one["later_ms"], 1),
                *(f"{grown:.1f}" for grown in one["grown_mib"]),
                one["accepted"],
                ", ".join(f"{runs} {why}" for why, runs in one["dropped"].items()) or "0",
                f"{one['lost_chunks']:.0f}",
                "yes" if one["counted"] else "**NO**",
            )
            for name, one in result[part].items()
        ]
        parts.append(
            report.table(
                (*LEFT, *columns, *RIGHT),
                rows,
            )
        )
    return "\n\n".join(parts)
