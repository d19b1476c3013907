"""How costs grow with the length of a stream, the streams that are open, the size of frames and
the number of sinks. They should not: what a run costs is paid once, and each event costs the same.

Rules of the comparison:

* CPU time over that of the bare app which is driven the same way. `all`: of all threads, from the
  first request until the last record has left the process, over all sinks with content off.
* A run of one event is measured as well. What is left of a longer run after subtracting that, by
  its other events, is the marginal cost, and the verdict is about that: at 100 events it would
  otherwise be about opening and exporting.
* With many open streams, events are timed while all are open, and opening and ending apart. The
  pump looks in every 20 ms here, at all that has come by then. In a server it is every second, so
  20 events of each stream are about what a model writes between two looks, and one is what an
  agent says that hardly speaks.
* A verdict compares each cost with the least of the smaller sizes: what gets cheaper is no fault.
* Memory is the most that Python held at a time, with content full; it is measured apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import report, rounds
from benchmarks.flows import (
    Flow,
    Frames,
    Held,
    HeldTook,
    Peak,
    Took,
    check,
    flow_through,
    hold_open,
)
from benchmarks.inprocess import (
    SETUPS,
    App,
    Setup,
    Witness,
    close,
    looking_often,
    otel,
    traced,
)
from benchmarks.receivers import Receivers
from benchmarks.streams import ag_ui, openai
from streamtrace.core.events import Event
from streamtrace.core.sink import Sink, StreamInfo

LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
OPEN = (1, 10, 100, 1_000, 5_000)
PER_LOOK = (1, 20)
FRAME_BYTES = (100, 1_000, 10_000, 100_000)
SINKS = (0, 1, 2, 4, 8)
SHORT = 3
"""How many of the sizes a short run takes."""
ROUNDS = 5

SAMPLE_EVENTS, SAMPLE_BYTES, MAX_STREAMS = 50_000, 5_000_000, 500
"""A sample is of so many streams that they have so many events or bytes, or of so many streams."""
PAIRS = 4
"""In a round, where a sample is of many short streams: what is subtracted there is the most."""
LOOK_EVENTS, MIN_LOOKS, MAX_LOOKS = 20_000, 3, 20
TOLERANCE = 1.2
ALL, FULL = SETUPS["all sinks"], SETUPS["all sinks, content full"]

Result = dict[str, dict[str, Any]]
"""Of each size: what was measured there."""


def run(short: bool) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    take = slice(SHORT if short else None)
    count = 1 if short else ROUNDS
    with Receivers() as receivers, looking_often():
        return {
            "length": asyncio.run(lengths(LENGTHS[take], count, receivers)),
            "open": asyncio.run(open_streams(OPEN[take], count, receivers)),
            "frames": asyncio.run(frame_sizes(FRAME_BYTES[take], count, receivers)),
            "sinks": asyncio.run(sinks(SINKS[take], count, receivers)),
        }


class Observed:
    """An app bare and in each setup, and who sees that nothing is lost."""

    def __init__(self, app: App, setups: dict[str, Setup], receivers: Receivers) -> None:
        self.witness = Witness()
        self.apps: dict[str, App] = {"bare": app}
        for name, setup in setups.items():
            self.apps[name] = traced(app, setup, receivers, self.witness)

    async def take(self, flow: Flow, events: int, streams: int) -> dict[str, Took]:
        """Streams of so many events through each, per stream."""
        flow.events = events
        took = {}
        for name, app in self.apps.items():
            path_us, all_us = await flow_through(app, flow, streams)
            took[name] = Took(path_us / streams, all_us / streams)
            if name != "bare":
                check(self.witness, streams, streams * (events + flow.frames.ends))
        return took

    def close(self) -> None:
        for app in self.apps.values():
            close(app)


async def lengths(sizes: Sequence[int], count: int, receivers: Receivers) -> Result:
    """Streams of so many events, each beside as many streams of one event."""
    flow = Flow(Frames(openai()))
    observed = Observed(flow, {"all": ALL}, receivers)
    found: Result = {
        str(size): {"path_ns": [], "total_us": [], "marginal_us": []} for size in sizes
    }
    for number, name in rounds.turns(tuple(found), count):
        size = int(name) if number else 2
        streams = streams_of(size)
        for _ in range(PAIRS if streams > 1 and count > 1 else 1):
            few = await observed.take(flow, 1, streams)
            many = await observed.take(flow, size, streams)
            path_us = many["all"].path_us - many["bare"].path_us
            fixed_us = few["all"].all_us - few["bare"].all_us
            all_us = many["all"].all_us - many["bare"].all_us
            if number:
                found[name]["path_ns"].append(path_us / size * 1e3)
                found[name]["total_us"].append(all_us / size)
                found[name]["marginal_us"].append((all_us - fixed_us) / (size - 1))
    observed.close()
    peaks = await peak_bytes([(flow.frames, size) for size in sizes], receivers)
    return {
        name: {what: rounds.quartiles(values) for what, values in one.items()}
        | {"peak_bytes": peak}
        for (name, one), peak in zip(found.items(), peaks, strict=True)
    }


def streams_of(events: int) -> int:
    """For a sample."""
    return max(1, min(MAX_STREAMS, SAMPLE_EVENTS // events))


async def peak_bytes(flows: Sequence[tuple[Frames, int]], receivers: Receivers) -> list[int]:
    """The most held while one such stream passes, with content full."""
    flow = Flow(flows[0][0], fresh=True)
    app = traced(flow, FULL, receivers)
    await flow_through(app, flow, 1)
    peaks = []
    for frames, events in flows:
        flow.frames, flow.events = frames, events
        with Peak() as peak:
            await flow_through(app, flow, 1)
        peaks.append(peak.peak_bytes)
    close(app)
    return peaks


async def open_streams(sizes: Sequence[int], count: int, receivers: Receivers) -> Result:
    """So many streams at a time, one event to each in turn."""
    held = Held(Frames(openai()))
    observed = Observed(held, {"all": ALL}, receivers)
    found: Result = {
        str(size): {
            "stream_us": [],
            "path_ns": [[] for _ in PER_LOOK],
            "us": [[] for _ in PER_LOOK],
        }
        for size in sizes
    }
    for number, name in rounds.turns(tuple(found), count):
        size = int(name)
        looks = max(MIN_LOOKS, min(MAX_LOOKS, LOOK_EVENTS // size)) if number else 1
        took = {
            variant: await hold_open(app, held, size, looks, PER_LOOK)
            for variant, app in observed.apps.items()
        }
        events = size * (looks * sum(PER_LOOK) + held.frames.ends)
        check(observed.witness, size, events)
        if number:
            note(found[name], took["all"], took["bare"])
    observed.close()
    return {
        name: {
            "stream_us": rounds.quartiles(one["stream_us"]),
            "path_ns": [rounds.quartiles(values) for values in one["path_ns"]],
            "us": [rounds.quartiles(values) for values in one["us"]],
        }
        for name, one in found.items()
    }


def note(one: dict[str, Any], mine: HeldTook, bare: HeldTook) -> None:
    """A sample, over that of the bare app."""
    one["stream_us"].append(mine.stream_us - bare.stream_us)
    for index in range(len(PER_LOOK)):
        one["path_ns"][index].append((mine.path_us[index] - bare.path_us[index]) * 1e3)
        one["us"][index].append(mine.event_us[index] - bare.event_us[index])


async def frame_sizes(sizes: Sequence[int], count: int, receivers: Receivers) -> Result:
    """Frames of about so many bytes."""
    least_bytes = len(ag_ui(1, 1)[2]) - 1
    frames = {str(size): Frames(ag_ui(22, max(1, size - least_bytes))) for size in sizes}
    flow = Flow(frames[str(sizes[0])])
    observed = Observed(flow, {"off": ALL, "full": FULL}, receivers)
    found: Result = {name: {"path": [], "off": [], "full": []} for name in frames}
    events = {name: max(50, SAMPLE_BYTES // int(name) // 5) for name in frames}
    for number, name in rounds.turns(tuple(found), count):
        flow.frames = frames[name]
        few = await observed.take(flow, 1, 20)
        took = await observed.take(flow, events[name], 5)
        if number:
            path_us = took["off"].path_us - took["bare"].path_us
            found[name]["path"].append(path_us / events[name] * 1e3)
            for content in ("off", "full"):
                many_us = took[content].all_us - took["bare"].all_us
                fixed_us = few[content].all_us - few["bare"].all_us
                found[name][content].append((many_us - fixed_us) / (events[name] - 1))
    observed.close()
    peaks = await peak_bytes([(frames[name], events[name]) for name in frames], receivers)
    return {
        name: {kind: rounds.quartiles(values) for kind, values in one.items()}
        | {"frame_bytes": len(frames[name].words[0]), "peak_bytes": peak}
        for (name, one), peak in zip(found.items(), peaks, strict=True)
    }


class Listening(Sink):
    """A sink that is told of each event: then none can be told in bulk."""

    name = "listening"

    def __init__(self) -> None:
        self.heard = 0

    def event(self, info: StreamInfo, event: Event, at_ns: int) -> None:
        self.heard += 1


KINDS: dict[str, Callable[[Receivers], Sink]] = {"otel": otel, "listening": lambda _: Listening()}


async def sinks(
    sizes: Sequence[int], count: int, receivers: Receivers, events: int = 1000
) -> Result:
    """So many sinks: of OpenTelemetry, each with its exporter, or of those that hear each event."""

    def setup(kind: str, size: int) -> Setup:
        return Setup(lambda receivers: [KINDS[kind](receivers) for _ in range(size)])

    flow = Flow(Frames(openai()))
    setups = {f"{kind} {size}": setup(kind, size) for kind in KINDS for size in sizes}
    observed = Observed(flow, setups, receivers)
    samples: dict[str, list[Took]] = {name: [] for name in observed.apps}
    for number in range(count + 1):
        took = await observed.take(flow, events, 20)
        for name in samples if number else ():
            samples[name].append(took[name])
    observed.close()

    def over(name: str, field: str) -> dict[str, float]:
        pairs = zip(samples[name], samples["bare"], strict=True)
        return rounds.quartiles(
            [(getattr(mine, field) - getattr(bare, field)) / events for mine, bare in pairs]
        )

    return {
        str(size): {
            kind: {field: over(f"{kind} {size}", field) for field in Took._fields} for kind in KINDS
        }
        for size in sizes
    }


def tables(result: dict[str, Any]) -> str:
    """The result as people read it."""
    parts = (
        ("length", "Length of a stream", length_table),
        ("open", "Open streams", open_table),
        ("frames", "Size of frames", frames_table),
        ("sinks", "Number of sinks", sinks_table),
    )
    return "\n\n".join(f"### {title}\n\n{table(result[name])}" for name, title, table in parts)


def length_table(result: Result) -> str:
    rows = [
        [
            f"{int(name):,}",
            report.spread(one["path_ns"], 0),
            report.spread(one["total_us"]),
            report.spread(one["marginal_us"]),
            f"{one['peak_bytes'] / 1e3:,.0f}",
        ]
        for name, one in result.items()
    ]
    columns = ["events", "path, ns", "all, µs per event", "marginal, µs", "peak memory, kB"]
    return "\n\n".join(
        [
            report.table(columns, rows),
            verdict("The path", [one["path_ns"] for one in result.values()]),
            verdict("All, marginal", [one["marginal_us"] for one in result.values()]),
        ]
    )


def open_table(result: Result) -> str:
    columns = ["open streams"]
    for events in PER_LOOK:
        columns += [f"path, ns ({events} per look)", f"all while open, µs ({events})"]
    rows = []
    for name, one in result.items():
        row = [f"{int(name):,}"]
        for path_ns, us in zip(one["path_ns"], one["us"], strict=True):
            row += [report.spread(path_ns, 0), report.spread(us)]
        rows.append([*row, report.spread(one["stream_us"], 0)])
    verdicts = [
        verdict(f"{what}, {events} per look", [one[field][index] for one in result.values()])
        for index, events in enumerate(PER_LOOK)
        for what, field in (("The path", "path_ns"), ("All while open", "us"))
    ]
    verdicts.append(verdict("Opening and ending", [one["stream_us"] for one in result.values()]))
    table = report.table([*columns, "opening and ending, µs per stream"], rows)
    return "\n\n".join([table, *verdicts])


def frames_table(result: Result) -> str:
    rows, per_kb = [], []
    for one in result.values():
        kb = one["frame_bytes"] / 1e3
        row: list[object] = [f"{one['frame_bytes']:,}", report.spread(one["path"], 0)]
        for content in ("off", "full"):
            row += [report.spread(one[content]), f"{one[content]['median'] / kb:.2f}"]
        rows.append([*row, f"{one['peak_bytes'] / 1e3:,.0f}"])
        per_kb.append({"median": one["off"]["median"] / kb})
    columns = [
        "frame, bytes",
        "path, ns",
        "all, marginal µs",
        "per kB",
        "content full, marginal µs",
    ]
    table = report.table([*columns, "per kB", "peak memory, kB"], rows)
    return "\n\n".join([table, verdict("All, per kB", per_kb)])


def sinks_table(result: Result) -> str:
    rows = []
    for name, one in result.items():
        row = [name]
        for kind in KINDS:
            row += [
                f"{one[kind]['path_us']['median'] * 1e3:.0f}",
                report.spread(one[kind]["all_us"]),
            ]
        rows.append(row)
    columns = ["sinks"]
    for kind in KINDS:
        columns += [f"{kind}: path, ns", "all, µs per event"]
    verdicts = [
        verdict(f"The path, {kind}", [one[kind]["path_us"] for one in result.values()])
        for kind in KINDS
    ]
    added = {
        kind: [
            {"median": (one[kind]["all_us"]["median"] - none[kind]["all_us"]["median"]) / int(name)}
            for name, one in result.items()
            if name != "0"
        ]
        for none in (result["0"],)
        for kind in KINDS
    }
    verdicts += [verdict(f"Each sink more, {kind}", values) for kind, values in added.items()]
    return "\n\n".join([report.table(columns, rows), *verdicts])


def verdict(what: str, costs: Sequence[dict[str, float]]) -> str:
    """Whether the costs, by growing size, stay within the tolerance."""
    worst = growth([one["median"] for one in costs])
    word = "flat" if worst <= TOLERANCE else "GROWS"
    return f"{what}: {word}, at most {worst:.2f} times that of any smaller size."


def growth(costs: Sequence[float]) -> float:
    """The largest ratio of a cost to one that stands before it."""
    least = costs[0]
    worst = 0.0
    for cost in costs[1:]:
        worst = max(worst, cost / least)
        least = min(least, cost)
    return worst
