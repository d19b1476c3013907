"""The laws over real sockets, on each server people run: untouched bytes, one true outcome each."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.servers import (
    SERVERS,
    Connection,
    Response,
    Server,
    get,
    get_and_hang_up,
    serving,
    wait_for,
)

HERE = Path(__file__).parent
RECORDINGS = {path.stem: path.read_bytes() for path in HERE.parent.glob("recordings/*.sse")}


@dataclass
class Observed:
    server: Server
    records_file: Path

    def get(self, path: str) -> Response:
        return get(self.server.port, path)

    def records(self) -> list[dict[str, Any]]:
        """The whole lines written so far."""
        if not self.records_file.exists():
            return []
        *lines, _unfinished = self.records_file.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines]

    def record(self, run_id: str) -> dict[str, Any]:
        """The record of one run, as soon as it is written."""
        return wait_for(
            lambda: next((one for one in self.records() if one["run_id"] == run_id), None)
        )


@contextlib.contextmanager
def observing(name: str, app: str, directory: Path) -> Iterator[Observed]:
    records_file = directory / "records.jsonl"
    env = {"STREAMTRACE_TEST_RECORDS": str(records_file)}
    with serving(name, f"apps:{app}", HERE, directory / "server.log", env) as server:
        yield Observed(server, records_file)


@pytest.fixture(scope="module", params=SERVERS)
def observed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    with observing(request.param, "mounted", tmp_path_factory.mktemp("server")) as running:
        yield running


def lasting_headers(response: Response) -> list[tuple[str, str]]:
    return [header for header in response.headers if header[0] != "date"]


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_the_client_gets_the_same_head_chunks_and_bytes_as_without_the_observer(
    observed: Observed, name: str
) -> None:
    bare = observed.get(f"/bare/recording/{name}")
    seen = observed.get(f"/observed/recording/{name}")
    assert seen.complete
    assert seen.body == RECORDINGS[name]
    assert seen.chunks == bare.chunks
    assert lasting_headers(seen) == lasting_headers(bare)
    assert seen.status == bare.status


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("state", ["busy", "idle"])
def test_a_client_that_hangs_up_is_disconnected(
    observed: Observed, state: str, reset: bool
) -> None:
    run_id = f"cut-{state}-{reset}"
    path = f"/observed/endless/{run_id}?{state}"
    assert len(get_and_hang_up(observed.server.port, path, 200, reset)) == 200
    record = observed.record(run_id)
    assert record["status"] == "disconnected"
    assert record["http_status"] == 200
    assert record["error"] is None


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
def test_a_client_that_leaves_after_the_end_leaves_a_completed_run(
    observed: Observed, reset: bool
) -> None:
    run_id = f"late-{reset}"
    with Connection(observed.server.port, f"/observed/tokens/{run_id}/20") as connection:
        response = connection.read()
        connection.hang_up(reset)
    record = observed.record(run_id)
    assert record["status"] == "completed"
    assert record["terminal_seen"]
    assert record["bytes"] == len(response.body)
    assert record["frames"] == response.body.count(b"\n\n")


def test_an_agent_that_raises_leaves_an_error_although_the_status_is_200(
    observed: Observed,
) -> None:
    bare = observed.get("/bare/tokens/raise/3?raise")
    seen = observed.get("/observed/tokens/raise/3?raise")
    assert seen.chunks == bare.chunks
    assert seen.complete == bare.complete
    record = observed.record("raise")
    assert record["status"] == "error"
    assert record["http_status"] == 200
    assert record["error"]["type"] == "RuntimeError"
    assert record["error"]["message"] is None  # content


def test_a_stream_without_its_last_event_is_truncated(observed: Observed) -> None:
    observed.get("/observed/tokens/stopped/3?stop")
    assert observed.record("stopped")["status"] == "truncated"


@pytest.mark.parametrize("name", SERVERS)
def test_sigterm_right_after_the_last_byte_loses_no_record(name: str, tmp_path: Path) -> None:
    ids = [f"run-{number}" for number in range(100)]
    with observing(name, "whole", tmp_path) as observed:
        with contextlib.ExitStack() as stack:
            port = observed.server.port
            clients = [
                stack.enter_context(Connection(port, f"/tokens/{run_id}/5")) for run_id in ids
            ]
            assert all(client.read().complete for client in clients)
        observed.server.terminate()
    records = observed.records()
    assert Counter(one["run_id"] for one in records) == Counter(ids)
    assert {one["status"] for one in records} == {"completed"}


@pytest.mark.parametrize("name", SERVERS)
def test_each_stream_leaves_one_record_however_it_ends(name: str, tmp_path: Path) -> None:
    expected = {}
    with observing(name, "whole", tmp_path) as observed:
        port = observed.server.port
        for number in range(10):
            get(port, f"/tokens/ends-{number}/3")
            get(port, f"/tokens/raises-{number}/3?raise")
            get_and_hang_up(port, f"/endless/leaves-{number}", 100, reset=number % 2 == 0)
            expected |= {
                f"ends-{number}": "completed",
                f"raises-{number}": "error",
                f"leaves-{number}": "disconnected",
            }
        wait_for(lambda: len(observed.records()) >= len(expected))
        observed.server.terminate()
    records = observed.records()
    assert {one["run_id"]: one["status"] for one in records} == expected
    assert len(records) == len(expected)


# What becomes of streams that are open when the server's grace is over. granian is not here, and
# hypercorn only below Python 3.12: they wait until the last client has left, the app bare or not.
STATUS_AT_SHUTDOWN = {"uvicorn-h11-asyncio": "drained", "uvicorn-httptools-uvloop": "drained"}
if sys.version_info < (3, 12):
    STATUS_AT_SHUTDOWN["hypercorn"] = "cancelled"  # it cancels the app before lifespan shutdown


@pytest.mark.parametrize(("name", "status"), STATUS_AT_SHUTDOWN.items())
def test_streams_open_at_the_end_of_the_grace_leave_one_record_each(
    name: str, status: str, tmp_path: Path
) -> None:
    ids = [f"open-{number}" for number in range(5)]
    with observing(name, "whole", tmp_path) as observed, contextlib.ExitStack() as stack:
        for run_id in ids:
            path = f"/endless/{run_id}"
            client = stack.enter_context(Connection(observed.server.port, path))
            client.read_head()
            client.read_bytes(200)
        observed.server.terminate()
    assert {one["run_id"]: one["status"] for one in observed.records()} == dict.fromkeys(
        ids, status
    )
    assert len(observed.records()) == len(ids)
