"""A client that does not read holds up the app within kilobytes, and then gets all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import environment, started
from support.pages import python_blocks
from support.servers import TAKE_SOCKETS, Connection, get, serving, wait_for

from streamtrace.serve.sockets import tune_listener

HERE = Path(__file__).parent
FRAMES, SIZE = 10_000, 227
MAX_BYTES = 400_000
"""A tenth of what the kernel takes by itself."""


def sent(port: int, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(port, f"/sent/{run_id}").body)
    return found


def held_up_and_then_whole(port: int) -> None:
    with Connection(port, f"/flood/slow/{FRAMES}/{SIZE}/0") as client:
        head = client.read_head()
        assert head.status == 200
        waited = wait_for(lambda: sent(port, "slow")["waited_at"])
        assert 0 < waited < MAX_BYTES
        answer = client.read_body(head)
        assert answer.complete
        assert answer.body.count(b"TEXT_MESSAGE_CONTENT") == FRAMES
    assert sent(port, "slow")["done"]


@pytest.mark.parametrize("name", [*TAKE_SOCKETS, "gunicorn-patient"])
def test_send_waits_for_a_client_that_does_not_read(name: str, tmp_path: Path) -> None:
    env = {"STREAMTRACE_TEST_RECORDS": str(tmp_path / "records")}
    with serving(
        name, "flood_app:app", HERE, tmp_path / "log", env, listening=tune_listener
    ) as server:
        held_up_and_then_whole(server.port)


def test_gunicorns_hook_is_called_for_what_it_listens_on(tmp_path: Path) -> None:
    """As the page tells it."""
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(python_blocks("docs/backpressure.md")["gunicorn"])
    env = {
        "STREAMTRACE_TEST_RECORDS": str(tmp_path / "records"),
        "GUNICORN_CMD_ARGS": f"--config={config}",
    }
    with serving("gunicorn-patient", "flood_app:app", HERE, tmp_path / "log", env) as server:
        held_up_and_then_whole(server.port)


def test_streamtrace_run_listens_like_this(tmp_path: Path) -> None:
    env = environment(STREAMTRACE_TEST_RECORDS=str(tmp_path / "records"))
    arguments = ("run", "flood_app:app", "--port", "0")
    with started(*arguments, cwd=HERE, log=tmp_path / "log", env=env) as command:
        held_up_and_then_whole(int(command.url().rpartition(":")[2]))
