"""The benchmarks of single parts run, do all of their work, and judge as they say."""

from __future__ import annotations

import asyncio
import gc
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import decode, flows, gate, growth, memory, path, records, tracing
from benchmarks.inprocess import SETUPS, Witness, looking_often, traced
from benchmarks.receivers import Receivers
from benchmarks.streams import STREAMS, ag_ui, openai
from streamtrace import StreamTraceMiddleware
from streamtrace.observe.pipeline import MAX_PIECE_BYTES

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Nothing here is about how long chunks wait."""
    with looking_often():
        yield


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    with Receivers() as receivers:
        yield receivers


@pytest.fixture
def untidy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No collections between the pieces: they take longer than the pieces here."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def numbers(value: Any) -> list[float]:
    """All numbers in a result."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [value]


def rows(table: str, first: str) -> list[str]:
    """The rows of a table that begin so."""
    return [line for line in table.splitlines() if line.startswith(f"| {first}")]


# --- receivers ------------------------------------------------------------------------------------


def test_a_receiver_counts_what_it_was_sent_and_ends_with_us() -> None:
    with Receivers() as one:
        for url in (one.otlp_url, one.langfuse_host + "/api/public/otel/v1/traces"):
            with urllib.request.urlopen(url, data=b"x" * 70_000) as answer:
                assert answer.status == 200
        assert one.counts() == {"requests": 2, "bytes": 140_000}
    assert one._process.returncode == 0


# --- micro ----------------------------------------------------------------------------------------


def test_the_path_keeps_no_more_of_a_chunk_than_differs() -> None:
    result = path.measure("openai", 1)
    assert result["ns"].keys() == {"bare", "pass-through", "streamtrace"}
    held = result["held_bytes_per_chunk"]
    small, *larger = (held[size] for size in sorted(held, key=int))
    assert 0 < small < 250
    assert all(0 < one < 2 * MAX_PIECE_BYTES for one in larger)  # arrays grow by doubling
    assert len(rows(path.table({"openai": result}), "openai")) == 4


@pytest.mark.usefixtures("untidy")
def test_tracing_exports_everything_in_every_setup(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "STREAMS_AT_ONCE", 2)
    before = receivers.counts()["requests"]
    result = {"openai": tracing.measure("openai", 1, receivers)}
    assert result["openai"]["over_bare_us"].keys() == SETUPS.keys()
    table = tracing.table(result)
    assert all(rows(table, f"{name} ") for name in SETUPS)
    # Two rounds, of which one to warm up, with otel and Langfuse in three of the setups each.
    assert receivers.counts()["requests"] - before >= 2 * 2 * 3


def test_what_is_dropped_is_an_error(receivers: Receivers) -> None:
    async def serve() -> None:
        witness = Witness()
        app = traced(tracing.Streaming(openai(1)), SETUPS["no sinks"], receivers, witness)
        witness.end = lambda *_: 1 / 0  # type: ignore[assignment,method-assign,return-value]
        await tracing._serve(app)

    with pytest.raises(RuntimeError, match=r"witness did not export everything.*sink_error"):
        asyncio.run(serve())


@pytest.mark.usefixtures("untidy")
def test_records_are_made_of_every_run_by_every_sink(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BATCH_RUNS", 2)
    result = records.measure(1, receivers)
    assert result["spans"]["chat, 1,000 tokens"] == 2
    assert result["spans"]["agent with tools"] > 4
    assert len(result["us_per_run"]) == 5
    assert all(one.keys() == result["spans"].keys() for one in result["us_per_run"].values())
    assert rows(records.table(result), "langfuse, exported")


@pytest.mark.usefixtures("untidy")
def test_every_dialect_of_the_recordings_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REPEATS", 3)
    result = decode.measure(1)
    metas = (ROOT / "tests" / "recordings").glob("*.meta.json")
    dialects = {json.loads(meta.read_text())["dialect"] for meta in metas}
    assert dialects == result["recordings"].keys()
    assert all(one["events"] > 0 for one in result["recordings"].values())
    costs = {one["dialect"]: one for one in result["text_frames"]}
    assert {"ag-ui", "anthropic", "cognis", "openai-chat", "openai-responses"} <= costs.keys()
    assert all(one["us"] > 0 and one["bytes"] > 5 for one in costs.values())
    assert len(rows(decode.table(result), "openai-chat ")) == 2


def test_memory_is_sampled_at_each_tenth() -> None:
    result = memory.growth(1000)
    assert result["streams"] == list(range(100, 1001, 100))
    assert all(one > 1e6 for one in result["rss_bytes"])


@pytest.mark.parametrize(
    ("streams", "slope", "verdict"),
    [
        (100_000, 2.0, "2.0 bytes per stream: flat."),
        (100_000, 48.0, "48.0 bytes per stream: NOT FLAT."),
        (2_000, 48.0, "48.0 bytes per stream: too few streams to judge."),
    ],
)
def test_memory_that_grows_is_told(streams: int, slope: float, verdict: str) -> None:
    grown = {"streams": [streams], "rss_bytes": [1], "bytes_per_stream": slope}
    idle = dict.fromkeys(memory.IDLE, 8000)
    held = {"streams": 5, "traced": idle, "rss": idle, "traced_bare": 1, "rss_bare": 1}
    table = memory.table({"growth": grown, "idle": held, "import_ms": 1})
    assert verdict in table
    assert "within the target of 8192 bytes" in table


async def test_idle_streams_are_open_when_they_are_weighed(receivers: Receivers) -> None:
    bare, *observed = [
        (await memory.hold(name, 50, receivers, is_traced=True))["bytes"]
        for name in ("bare", "no sinks")
    ]
    assert 0 < bare < observed[0]


# --- growth ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untidy")
def test_growth_measures_each_size_of_each_kind(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MAX_STREAMS", 2)
    monkeypatch.setattr(growth, "SAMPLE_BYTES", 50_000)
    monkeypatch.setattr(growth, "MAX_LOOKS", 2)
    monkeypatch.setattr(growth, "MIN_LOOKS", 1)
    result = {
        "length": asyncio.run(growth.lengths((10, 700), 1, receivers)),
        "open": asyncio.run(growth.open_streams((1, 3), 1, receivers)),
        "frames": asyncio.run(growth.frame_sizes((200, 2_000), 1, receivers)),
        "sinks": asyncio.run(growth.sinks((0, 2), 1, receivers, events=30)),
    }
    assert [list(one) for one in result.values()] == [
        ["10", "700"],
        ["1", "3"],
        ["200", "2000"],
        ["0", "2"],
    ]
    assert all(isinstance(one, int | float) for one in numbers(result))
    assert result["frames"]["2000"]["frame_bytes"] in range(1_990, 2_011)
    tables = growth.tables(json.loads(json.dumps(result)))
    assert tables.count("### ") == 4
    assert rows(tables, "700 ")


@pytest.mark.parametrize(
    ("costs", "word"),
    [
        ([1.0, 1.1, 1.19], "flat"),
        ([1.0, 1.0, 1.3], "GROWS"),
        ([3.0, 1.0, 1.3], "GROWS"),
        ([3.0, 1.0, 0.5], "flat"),
    ],
)
def test_a_cost_that_grows_is_told(costs: list[float], word: str) -> None:
    assert f": {word}," in growth.verdict("it", [{"median": one} for one in costs])


async def test_a_long_stream_loses_no_chunk(receivers: Receivers) -> None:
    events = 12_000
    flow = flows.Flow(flows.Frames(openai()))
    flow.events = events
    witness = Witness()
    await flows.flow_through(traced(flow, SETUPS["no sinks"], receivers, witness), flow, 1)
    flows.check(witness, 1, events + 4)
    assert events * 250 > 2 * 1024 * 1024  # more than a tap holds


async def test_a_lost_chunk_is_an_error() -> None:
    flow = flows.Flow(flows.Frames(ag_ui()))
    flow.events, flow.is_bare = 30_000, True
    witness = Witness()
    app = StreamTraceMiddleware(flow, sinks=[witness], max_tap_bytes=1024)
    await flows.flow_through(app, flow, 1)
    with pytest.raises(RuntimeError, match="lost_chunks"):
        flows.check(witness, 1, 30_004)


# --- the gate -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untidy")
def test_the_gate_measures_what_is_committed() -> None:
    with asyncio.Runner() as runner:
        found = gate.measure_here(gate.cases(runner.get_loop()), rounds=2)
    committed = json.loads(gate.COMMITTED.read_text())
    assert all(ratios.keys() == found.keys() for ratios in committed.values())
    assert all(ratio > 0 for ratio in found.values())
    assert all(one.startswith(("path", "all")) for one in found if one.endswith(tuple(STREAMS)))


def slower(times: float) -> gate.Ratios:
    """As measured of work that takes so many times 100 ns, its reference 50 ns."""
    case = gate.Case(lambda: int(100 * times), lambda: 50)
    return gate.measure_here({"path": case}, rounds=3)


def test_a_slowdown_trips_the_gate() -> None:
    committed = slower(1.0)
    assert committed == {"path": 2.0}
    assert gate.judge(lambda: slower(1.19), committed)[1] == []
    _, wrong = gate.judge(lambda: slower(1.25), committed)
    assert wrong == [
        "path: 2.500 times its reference, 2.000 is committed: 25 % slower, allowed are 20 %"
    ]


def test_a_slow_moment_does_not_trip_the_gate() -> None:
    moments = iter([slower(3.0), slower(1.5), slower(1.1)])
    assert gate.judge(lambda: next(moments), slower(1.0)) == ({"path": 2.2}, [])


def test_what_is_not_committed_trips_the_gate() -> None:
    for measured, committed in (({"new": 1.0}, {}), ({}, {"new": 1.0})):
        _, wrong = gate.judge(lambda one=measured: one, committed)  # type: ignore[misc]
        assert wrong == ["new is either not in gate.json, or no longer measured"]


@pytest.mark.parametrize(
    ("minor", "compared"), [("3.11", "3.11"), ("3.12", "3.11"), ("3.14", "3.13"), ("3.20", "3.13")]
)
def test_an_unknown_python_is_compared_with_the_nearest(minor: str, compared: str) -> None:
    assert gate.nearest({"3.11": {}, "3.13": {}}, minor) == compared


def test_the_command_fails_and_says_how_to_update(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gate, "COMMITTED", tmp_path / "gate.json")
    monkeypatch.setattr(gate, "MINOR", "3.11")
    monkeypatch.setattr("sys.argv", ["gate", "--update"])
    monkeypatch.setattr(gate, "measure", lambda: slower(1.0))
    gate.main()
    assert json.loads((tmp_path / "gate.json").read_text()) == {"3.11": {"path": 2.0}}
    monkeypatch.setattr("sys.argv", ["gate"])
    gate.main()
    monkeypatch.setattr(gate, "measure", lambda: slower(2.0))
    monkeypatch.setattr(gate, "MINOR", "3.12")
    with pytest.raises(SystemExit, match="1"):
        gate.main()
    printed = capsys.readouterr()
    assert "no ratios of Python 3.12; those of 3.11 are used" in printed.out
    assert "path: 4.000 times its reference" in printed.err
    assert "gate --update" in printed.err
