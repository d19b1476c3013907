"""As fast as it goes, over real sockets: what each variant leaves of the bare app's throughput.

uvicorn (httptools, uvloop, no access log) serves one variant per process, on a core of its own; the
clients and the receivers of exports have another. The agent yields 1,000 frames of text without a
pause, which is the hardest case: no work of the observer hides in a wait.

Two numbers per sample, both with all that was put off: the clock is stopped when the last byte is
read, and the CPU time that the server takes from there until everything is exported is added to it.
Its last requests are not full, as those of a server that goes on would be: so it is not too short.

    throughput   events per second, over that of bare in the same round
    CPU          µs of the server's CPU time per event, minus that of bare in the same round

Each round has servers of its own: how the memory of a process happens to lie makes up to 3 % for
all of its life, and to ask the same processes again would only say the same again.

`load` is the share of its core that the load process needed, at most: it does not limit. A single
client asks for its next stream once it has looked and found the end of the last. So there the
server waits now and then, and does in the meantime what was put off.
"""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks import children, fleet, load, report, rounds, streams
from benchmarks.variants import OURS, PEERS, base_of

VARIANTS = ("bare", "pass-through", *OURS, "bare FastAPI", *PEERS)
SHORT_VARIANTS = ("bare", "pass-through", "all sinks")
KINDS = tuple((stream, clients) for stream in streams.STREAMS for clients in (16, 1))
SHORT_KINDS = tuple((stream, 16) for stream in streams.STREAMS)
MAX_OVER_US = 1.0
MIN_RATIOS = {"all sinks": 0.90, "all sinks, content full": 0.85}


def sample(
    server: fleet.Server,
    stream: str,
    clients: int,
    seconds: float,
    *,
    flush: bool = True,
    besides: int = 0,
) -> dict[str, float]:
    """One variant under load: events per second, µs of CPU per event, and how busy the load was.

    Without `flush` exports are not waited for, as where there is nobody to take them; `besides`
    requests are under way all the time.
    """
    server.ask("collect")
    before = server.ask("usage")
    seen = load.saturate(server.port, stream, clients, seconds)
    at_last_byte = server.ask("usage")
    server.ask("rest", flush=flush, besides=besides)
    after = server.ask("usage")
    events = seen.streams * len(streams.STREAMS[stream]())
    put_off_s = (after["cpu_ns"] - at_last_byte["cpu_ns"]) / 1e9
    return {
        "events_per_s": events / (seen.seconds + put_off_s),
        "cpu_us": (after["cpu_ns"] - before["cpu_ns"]) / events / 1e3,
        "load_busy": seen.busy,
    }


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    if short:
        return measure(SHORT_VARIANTS, SHORT_KINDS, count=2, seconds=0.2)
    return measure(VARIANTS, KINDS, count=5, seconds=0.6)


def measure(
    variants: Sequence[str], kinds: Sequence[tuple[str, int]], count: int, seconds: float
) -> dict[str, Any]:
    """`count` rounds of each kind: a stream by name, and a number of clients."""
    taken: dict[tuple[str, int], dict[str, rounds.Samples]] = {
        kind: defaultdict(lambda: defaultdict(list)) for kind in kinds
    }
    for number, turns in itertools.groupby(rounds.turns(variants, count), operator.itemgetter(0)):
        if not number:  # each round has servers of its own, which are warmed up below
            continue
        in_turn = [variant for _, variant in turns]
        with fleet.serving(variants) as servers:
            for kind, samples in taken.items():
                for variant in in_turn:
                    sample(servers[variant], *kind, seconds)
                for variant in in_turn:
                    for name, value in sample(servers[variant], *kind, seconds).items():
                        samples[name][variant].append(value)
            for variant, server in servers.items():
                check(variant, server.ask("usage")["counts"])
    return {
        "rounds": count,
        "pinned": children.PINNED,
        "kinds": [
            {
                "stream": stream,
                "clients": clients,
                "variants": {variant: compare(samples, variant) for variant in variants},
            }
            for (stream, clients), samples in taken.items()
        ],
    }


def check(variant: str, counts: dict[str, Any]) -> None:
    """Raises LoadFailed where what was measured did not do all of its work."""
    lost = counts.get("metrics", {})
    dropped = {name: one["dropped"] for name, one in counts.get("sinks", {}).items()}
    if any(lost.values()) or any(dropped.values()):
        raise load.LoadFailed(f"{variant} lost {lost}, and dropped {dropped}")
    if not counts.get("spans", 1):
        raise load.LoadFailed(f"{variant} exported nothing")


def compare(samples: dict[str, rounds.Samples], variant: str) -> dict[str, Any]:
    """A variant by itself, and against what it is compared with."""
    base = base_of(variant)
    return {
        "events_per_s": rounds.quartiles(samples["events_per_s"][variant]),
        "cpu_us": rounds.quartiles(samples["cpu_us"][variant]),
        "load_busy": max(samples["load_busy"][variant]),
        "throughput_ratio": rounds.ratio(samples["events_per_s"], variant, base),
        "cpu_over_us": rounds.over(samples["cpu_us"], variant, base),
    }


def tables(result: dict[str, Any]) -> str:
    """A table per kind of stream and number of clients, and the targets."""
    parts = [
        f"{result['rounds']} rounds, medians [quartiles];"
        + (" server and load on a core each" if result["pinned"] else " **not pinned to cores**")
    ]
    for kind in result["kinds"]:
        clients = kind["clients"]
        title = f"### {kind['stream']}, {clients} client{'s' if clients > 1 else ''}"
        parts += [title, _table(kind["variants"]), "\n".join(_verdicts(kind["variants"]))]
    return "\n\n".join(parts)


def _table(variants: dict[str, Any]) -> str:
    rows = [
        (
            variant,
            f"{one['events_per_s']['median'] / 1e3:.0f}k",
            report.spread(one["throughput_ratio"]),
            f"{one['cpu_us']['median']:.2f}",
            report.spread(one["cpu_over_us"]),
            f"{one['load_busy']:.0%}",
        )
        for variant, one in variants.items()
    ]
    columns = ("", "events/s", "throughput / bare", "µs CPU/event", "µs over bare", "load")
    return report.table(columns, rows)


def _verdicts(variants: dict[str, Any]) -> list[str]:
    lines = []
    if "all sinks" in variants:
        over_us = variants["all sinks"]["cpu_over_us"]["median"]
        lines.append(report.verdict("all sinks, CPU over bare", over_us, MAX_OVER_US, " µs"))
    for variant, least in MIN_RATIOS.items():
        if variant in variants:
            ratio = variants[variant]["throughput_ratio"]["median"]
            lines.append(
                report.verdict(f"{variant}, throughput over bare", ratio, least, "", at_least=True)
            )
    return lines
