"""Clients that do not read are behind, those that do are not, and each is told of the right one."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import SERVERS, Connection, Server, get, serving, wait_for

HERE = Path(__file__).parent
MUCH = "400/6000/5"
"""2.4 MB in two seconds or more: less than the kernel takes, more than a client holds unread."""
LITTLE = "400/20/5"
"""Less than a client holds without reading it."""


class Flooding:
    """A server, and what is on record there."""

    def __init__(self, server: Server, records: Path) -> None:
        self.port = server.port
        self._records = records

    def records(self) -> dict[str, dict[str, Any]]:
        if not self._records.exists():
            return {}
        *lines, _unfinished = self._records.read_bytes().split(b"\n")
        return {one["run_id"]: one for one in map(json.loads, lines)}

    def is_sent(self, run_id: str) -> bool:
        return bool(json.loads(get(self.port, f"/sent/{run_id}").body)["done"])


@pytest.fixture(scope="module", params=SERVERS)
def flooding(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flooding]:
    directory = tmp_path_factory.mktemp("server")
    env = {"STREAMTRACE_TEST_RECORDS": str(directory / "records.jsonl")}
    log = directory / "log"
    with serving(request.param, "flood_app:observed", HERE, log, env) as server:
        yield Flooding(server, directory / "records.jsonl")


def test_many_at_once_are_each_told_as_they_are(flooding: Flooding) -> None:
    stalled = [f"stalled-{number}" for number in range(5)]
    reading = [f"reading-{number}" for number in range(15)]
    with contextlib.ExitStack() as stack:
        waiting = {
            run_id: stack.enter_context(Connection(flooding.port, f"/flood/{run_id}/{MUCH}"))
            for run_id in stalled
        }
        read = [
            stack.enter_context(Connection(flooding.port, f"/flood/{run_id}/{LITTLE}"))
            for run_id in reading
        ]
        for client in read:
            assert client.read().complete
        for run_id, client in waiting.items():
            client.read_head()
            wait_for(lambda run_id=run_id: flooding.is_sent(run_id))
        records = wait_for(lambda: found if len(found := flooding.records()) == 20 else None)
        for client in waiting.values():
            client.hang_up(reset=True)
    for run_id in stalled:
        assert records[run_id]["status"] == "completed"
        assert records[run_id]["client_lag_bytes"] > 1_000_000
        assert records[run_id]["client_lag_s"] > 0
    for run_id in reading:
        assert records[run_id]["client_lag_bytes"] < 10_000
        assert records[run_id]["client_lag_s"] == 0


def test_a_second_stream_of_a_connection_starts_anew(flooding: Flooding) -> None:
    """What its first one waited is not counted again."""
    with socket.create_connection(("127.0.0.1", flooding.port), 20) as client:
        for run_id, what in (("first", MUCH), ("second", LITTLE)):
            client.sendall(f"GET /flood/{run_id}/{what} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            wait_for(lambda run_id=run_id: run_id in flooding.records())
            while not client.recv(1_000_000).endswith(b"0\r\n\r\n"):
                pass
    records = flooding.records()
    assert records["first"]["client_lag_s"] > 0
    assert records["second"]["client_lag_s"] == 0
    assert records["second"]["client_lag_bytes"] < 10_000
