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
    "a thread, before": ("thread=1&before=1&then=idle", 1),
    "a thread, in mid stream": ("thread=1&tokens=1000000000&then=end", 2000),
}
POLICIES = {"cancel": "disconnected", "ttl": "expired"}
FEW = 2_000
"""Tokens that are soon said, if the agent goes on."""

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


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_or_goes_on_to_its_end(server: Server, moment: str, reset: bool) -> None:
    asked, after_bytes = MOMENTS[moment]
    asked = asked.replace("1000000000", str(FEW))
    run_id = f"continue-{moment}-{reset}".replace(" ", "-")
    ask_and_leave(server, f"/continue?run_id={run_id}&{asked}", after_bytes, reset)
    if asked.endswith("idle"):
        wait_for(lambda: run_id in state(server)["left"])  # it is known
        now = state(server)
        assert run_id in now["active"]
        assert run_id not in now["ended"]
        get(server.port, f"/go?run_id={run_id}")
    wait_for(lambda: run_id in state(server)["ended"])
    wait_for(lambda: run_id not in state(server)["active"])
    now = state(server)
    assert now["ended"][run_id] is None
    assert now["made"][run_id] == (3 if "idle" in asked else FEW)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("policy", [*POLICIES, "continue"])
def test_leaving_at_the_end_is_no_matter(server: Server, policy: str, reset: bool) -> None:
    """Whether all was read, or the end only lies there to be read."""
    ids = [f"{policy}-{reset}-{what}" for what in ("read", "unread")]
    for run_id, is_read in zip(ids, (True, False), strict=True):
        with Connection(server.port, f"/{policy}?run_id={run_id}&then=end") as client:
            head = client.read_head()
            if is_read:
                assert client.read_body(head).complete
            wait_for(lambda: run_id in state(server)["ended"])  # noqa: B023
            client.hang_up(reset)
    now = state(server)
    assert {run_id: now["ended"][run_id] for run_id in ids} == dict.fromkeys(ids)
    wait_for(lambda: not set(ids) & set(state(server)["active"]))


def test_nothing_is_left_of_many_that_left(server: Server) -> None:
    """Nor a thread: there are few, and at the end one is free to work."""

    def leave(number: int) -> None:
        asked, after_bytes = list(MOMENTS.values())[number % 5]
        policy = ("cancel", "ttl", "continue")[number % 3]
        run_id = f"many-{number}"
        asked = asked.replace("1000000000", str(FEW))
        if policy == "continue":
            get(server.port, f"/go?run_id={run_id}")
        path = f"/{policy}?run_id={run_id}&{asked}"
        ask_and_leave(server, path, after_bytes, number % 2 == 0)

    def at_rest() -> Any:
        now = state(server)
        return now if not now["active"] else None

    for number in range(15):  # what a server makes at its first requests, it keeps
        leave(number)
    before = wait_for(at_rest, every_s=PAUSE_S)
    for number in range(15, 75):
        leave(number)

    def as_before() -> bool:
        now = at_rest()
        return bool(now) and all(now[name] <= before[name] + 1 for name in ("tasks", "fds"))

    wait_for(as_before, every_s=PAUSE_S)
    assert get(server.port, "/cancel?thread=1&then=end").complete
