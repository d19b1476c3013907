"""Clients that leave, on each server, at each moment, under each policy: nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import SERVERS, Connection, Server, get, serving, wait_for

HERE = Path(__file__).parent

# What the agent does, and how much of the body its client reads before it leaves.
MOMENTS = {
    "before the first event": ("before=1&then=idle", 1),
    "in mid stream": ("tokens=1000000000&slowly=1&then=end", 2000),
    "idle in mid stream": ("tokens=3&then=idle", 200),
}
POLICIES = {"cancel": "disconnected", "ttl": "expired"}
IDLE = "tokens=3&then=idle"

PAUSE_S = 1.0
"""Between two questions to a server whose connections are counted: it lets go of them later."""


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    with serving(request.param, "life_app:app", HERE, directory / "server.log") as running:
        yield running
        assert "Traceback" not in running.log_text()


def state(server: Server) -> Any:
    return json.loads(get(server.port, "/state").body)


def ask_and_leave(server: Server, path: str, after_bytes: int, reset: bool) -> None:
    with Connection(server.port, path) as client:
        client.read_head()
        client.read_bytes(after_bytes)
        client.hang_up(reset)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_agent_ends_as_declared(server: Server, policy: str, moment: str, reset: bool) -> None:
    asked, after_bytes = MOMENTS[moment]
    run_id = f"{policy}-{moment}-{reset}".replace(" ", "-")
    ask_and_leave(server, f"/{policy}?run_id={run_id}&{asked}", after_bytes, reset)
    wait_for(lambda: run_id in state(server)["ended"])
    assert state(server)["ended"][run_id] == POLICIES[policy]
    wait_for(lambda: run_id not in state(server)["active"])


def test_leaving_at_the_end_is_no_matter(server: Server) -> None:
    for policy in (*POLICIES, "continue"):
        with Connection(server.port, f"/{policy}?run_id=end-{policy}&then=end") as client:
            assert client.read().complete
            client.hang_up(reset=True)
        assert state(server)["ended"][f"end-{policy}"] is None


def test_nothing_is_left_of_many_that_left(server: Server) -> None:
    def leave(number: int) -> None:
        asked, after_bytes = list(MOMENTS.values())[number % 3]
        ask_and_leave(server, f"/cancel?run_id=many-{number}&{asked}", after_bytes, number % 2 == 0)

    def at_rest() -> Any:
        now = state(server)
        return now if not now["active"] else None

    for number in range(6):  # what a server makes at its first requests, it keeps
        leave(number)
    before = wait_for(at_rest, every_s=PAUSE_S)
    for number in range(6, 66):
        leave(number)

    def as_before() -> bool:
        now = at_rest()
        return bool(now) and all(now[name] <= before[name] + 1 for name in ("tasks", "fds"))

    wait_for(as_before, every_s=PAUSE_S)


def test_continue_goes_on_to_its_end(server: Server) -> None:
    """The last test of a server: it lets all idle agents go."""
    path = f"/continue?run_id=goes-on&{IDLE}"
    ask_and_leave(server, path, 200, reset=True)
    ask_and_leave(server, f"/cancel?run_id=after&{IDLE}", 200, reset=True)
    wait_for(lambda: "after" in state(server)["ended"])  # who left later is gone
    now = state(server)
    assert "goes-on" in now["active"]
    assert "goes-on" not in now["ended"]
    get(server.port, "/go")
    wait_for(lambda: "goes-on" in state(server)["ended"])
    assert state(server)["ended"]["goes-on"] is None
    wait_for(lambda: not state(server)["active"])
