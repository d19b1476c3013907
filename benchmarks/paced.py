"""Many streams at the pace of real agents: what a client feels, and what a stream costs and holds.

Every stream gives 300 tokens, as an answer of a page, with one timer of its own as real agents have
(a call to a model that answers now and then). All run at once on one core of the server; caches are
cold at this pace and an event costs more than in a saturated server, bare or not. As streams begin
and end all the time, the sinks export all the time; what was put off is paid within the sample.

    late         ms from when a token was due until the client had its bytes: p50, p99, p99.9.
                 The timers of uvloop have a resolution of 1 ms, so bare has its part in it
    lag          p99 of how late the server's loop calls back a timer of its own
    CPU          µs of the server's CPU time per token
    came         share of the due tokens that came in time to be counted; less than all says that
                 the server does not keep up, and then lateness says only that it is large
    server, load how busy their cores were; a load beyond a half would measure itself

All threads of a server share its one core, as in a container with one CPU: where a sink's worker
works, the loop waits for the interpreter's lock, and for the core. Pauses of the garbage collector,
which grow with the streams that are open, are in all of these numbers, of bare as well; "collector
tuned" are servers whose threshold for young collections is 50,000 objects.

A stream costs memory when it is open (response begun, nothing said) and while it runs: the growth
of the server's resident memory by stream, from fresh processes.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import uvloop

from benchmarks import children, fleet, pace, report, rounds
from benchmarks.load import request
from benchmarks.variants import base_of

MAX_LATER_MS = 0.5
MAX_IDLE_KIB = 8.0
TARGET_STREAMS = 1000
RATE = 30


class Group(NamedTuple):
    """Variants that are compared with so many streams of `rate` tokens per second."""

    streams: int
    rate: float
    variants: tuple[str, ...]
    rounds: int
    seconds: float


GROUPS = (
    Group(
        TARGET_STREAMS,
        RATE,
        (
            "bare",
            "pass-through",
            "no sinks",
            "all sinks",
            "bare, collector tuned",
            "all sinks, collector tuned",
            "OpenTelemetry ASGI, without send/receive",
        ),
        rounds=5,
        seconds=4,
    ),
    # What the slowest of the peers can keep up with.
    Group(250, RATE, ("bare", "all sinks", "OpenTelemetry ASGI", "naive tee"), rounds=5, seconds=3),
    # At 30 tokens per second this would be more than a core can do for the bare app.
    Group(5000, 2, ("bare", "no sinks", "all sinks"), rounds=3, seconds=4),
)
SHORT_GROUPS = (Group(200, RATE, ("bare", "all sinks"), rounds=1, seconds=0.5),)
MEMORY_VARIANTS = ("bare", "no sinks", "all sinks")
SHORT_MEMORY_VARIANTS = ("bare", "all sinks")
MEMORY_STREAMS = 2000


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    groups, left_out = [], []
    for group in SHORT_GROUPS if short else GROUPS:
        try:
            groups.append(measure(group))
        except TimeoutError:  # more than this machine can do
            left_out.append(f"{group.streams:,} streams of {group.rate} tokens/s")
    return {
        "pinned": children.PINNED,
        "groups": groups,
        "left_out": left_out,
        "memory": measure_memory(SHORT_MEMORY_VARIANTS, 300, 1)
        if short
        else measure_memory(MEMORY_VARIANTS, MEMORY_STREAMS, 2),
    }


def measure(group: Group) -> dict[str, Any]:
    """A group, its variants in turns, each time with a server of its own: how the memory of a
    process happens to lie makes 3 µs per token for all of its life."""
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, variant in rounds.turns(group.variants, group.rounds):
        if number:
            with fleet.serving([variant]) as servers:
                paced = pace.pace(servers[variant], group.streams, group.rate, group.seconds)
                samples[variant].append(uvloop.run(paced))
    return {
        "streams": group.streams,
        "rate": group.rate,
        "rounds": group.rounds,
        "variants": {variant: compare(samples, variant) for variant in group.variants},
    }


def compare(samples: dict[str, list[dict[str, Any]]], variant: str) -> dict[str, Any]:
    """A variant by itself, and against what it is compared with, in the same round."""
    mine, base = samples[variant], base_of(variant)

    def values(name: str, key: str) -> rounds.Samples:
        return {each: [one[name][key] for one in samples[each]] for each in (variant, base)}

    cpu_us = {each: [one["cpu_us"] for one in samples[each]] for each in (variant, base)}
    return {
        "late_ms": {
            key: rounds.quartiles([one["late_ms"][key] for one in mine]) for key in pace.QUANTILES
        },
        "later_ms": {
            key: rounds.over(values("late_ms", key), variant, base) for key in pace.QUANTILES
        },
        "lag_ms": rounds.quartiles([one["lag_ms"]["p99"] for one in mine]),
        "cpu_us": rounds.quartiles(cpu_us[variant]),
        "cpu_over_us": rounds.over(cpu_us, variant, base),
        "came": min(one["came"] for one in mine),
        "server_busy": max(one["server_busy"] for one in mine),
        "load_busy": max(one["load_busy"] for one in mine),
    }


# --- memory ------------------------------------------------------------------------------------


def measure_memory(variants: tuple[str, ...], streams: int, count: int) -> dict[str, Any]:
    """KiB per stream, of fresh servers each round."""
    taken: dict[str, rounds.Samples] = defaultdict(lambda: defaultdict(list))
    for number, variant in rounds.turns(variants, count):
        if number:
            with fleet.serving([variant]) as servers:
                held = uvloop.run(hold(servers[variant], streams))
            for name, held_bytes in held.items():
                taken[name][variant].append(held_bytes / 1024)
    return {
        "streams": streams,
        "rounds": count,
        "variants": {
            variant: {
                name: {
                    "kib": rounds.quartiles(samples[variant]),
                    "over_kib": rounds.over(samples, variant, "bare"),
                }
                for name, samples in taken.items()
            }
            for variant in variants
        },
    }


async def hold(server: fleet.Server, count: int) -> dict[str, float]:
    """Bytes of resident memory per stream: opened, and running."""
    await pace.asked(server, "collect")
    before = (await pace.asked(server, "usage"))["rss_bytes"]
    ask = request("/idle")
    async with pace.clients(server.port, count, lambda _: (ask, ask)):
        await pace.asked(server, "collect")
        idle = (await pace.asked(server, "usage"))["rss_bytes"]
    await pace.asked(server, "rest", flush=False)
    running = await pace.pace(server, count, RATE / 3, 1)
    return {"idle": (idle - before) / count, "running": (running["rss_bytes"] - before) / count}


# --- as people read it -------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> str:
    """A table per group, one of memory, and the targets."""
    parts = [] if result["pinned"] else ["**not pinned to cores**"]
    for group in result["groups"]:
        parts += [
            f"### {group['streams']} streams of {group['rate']:g} tokens/s",
            f"Medians of {group['rounds']} rounds; [quartiles]",
            _table(group["variants"]),
        ]
        if group["streams"] == TARGET_STREAMS:
            parts.append("\n".join(_verdicts(group["variants"])))
    parts += [f"Left out, since not all were answered here: {one}." for one in result["left_out"]]
    memory = result["memory"]
    idle_kib = memory["variants"]["all sinks"]["idle"]["over_kib"]["median"]
    parts += [
        f"### Memory per stream, {memory['streams']} streams",
        report.table(
            ("", "idle, KiB", "over bare", "running, KiB", "over bare"),
            [
                (
                    variant,
                    f"{one['idle']['kib']['median']:.1f}",
                    report.spread(one["idle"]["over_kib"], 1),
                    f"{one['running']['kib']['median']:.1f}",
                    report.spread(one["running"]["over_kib"], 1),
                )
                for variant, one in memory["variants"].items()
            ],
        ),
        report.verdict("all sinks, idle stream over bare", idle_kib, MAX_IDLE_KIB, " KiB"),
    ]
    return "\n\n".join(parts)


def _verdicts(variants: dict[str, Any]) -> list[str]:
    return [
        report.verdict(
            f"{variant}, p99 lateness over {base_of(variant)}",
            one["later_ms"]["p99"]["median"],
            MAX_LATER_MS,
            " ms",
        )
        for variant, one in variants.items()
        if variant.startswith("all sinks")
    ]


def _table(variants: dict[str, Any]) -> str:
    rows = [
        (
            variant,
            " / ".join(f"{one['late_ms'][key]['median']:.1f}" for key in pace.QUANTILES),
            report.spread(one["later_ms"]["p99"], 1),
            f"{one['lag_ms']['median']:.1f}",
            f"{one['cpu_us']['median']:.1f}",
            report.spread(one["cpu_over_us"], 1),
            f"{one['came']:.1%}",
            f"{one['server_busy']:.0%}",
            f"{one['load_busy']:.0%}",
        )
        for variant, one in variants.items()
    ]
    columns = (
        "",
        "late, ms: p50 / p99 / p99.9",
        "p99 over bare, ms",
        "lag p99",
        "µs CPU/token",
        "µs over bare",
        "came",
        "server",
        "load",
    )
    return report.table(columns, rows)
