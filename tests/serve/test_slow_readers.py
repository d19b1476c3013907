"""A slow reader of a fast agent over a real socket: bounded memory, and each policy as declared.

The kernel takes some megabytes before a server has to wait; so the agent says much more than that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import Server, get, serving, wait_for

from streamtrace.serve.run import Settings
from streamtrace.testing import SocketClient

HERE = Path(__file__).parent
TOKENS, CHARS = 60_000, 500
SAID_BYTES = TOKENS * CHARS
# The channel, what the server and one message hold, and the noise of an allocator.
MEMORY_BYTES = Settings().max_bytes + 12 * 1024 * 1024
SLOW = {"bytes_per_s": 1000, "for_s": 1.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with serving("uvicorn-h11-asyncio", "life_app:app", HERE, log) as running:
        yield running


def state(server: Server) -> Any:
    return json.loads(get(server.port, "/state").body)


def asking(server: Server, policy: str, tokens: int = TOKENS) -> SocketClient:
    query = f"run_id={policy}-{tokens}&tokens={tokens}&chars={CHARS}&then=end"
    return SocketClient(
        f"http://127.0.0.1:{server.port}/{policy}?{query}",
        method="GET",
        receive_buffer_bytes=4096,
    )


def text_of(body: bytes) -> str:
    """The text of a whole stream, whatever its first frame lacks."""
    frames = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    return "".join(one["content"] for one in frames if one.get("type") == "token")


def numbers(text: str) -> list[int]:
    return [int(line.partition(" ")[0]) for line in text.splitlines()]


@pytest.mark.parametrize("policy", ["block", "coalesce", "drop", "disconnect"])
def test_a_slow_reader(server: Server, policy: str) -> None:
    with asking(server, policy, 1000) as client:  # what the first stream takes, is taken
        client.read_rest()
    before = state(server)["rss_bytes"]
    run_id = f"{policy}-{TOKENS}"
    with asking(server, policy) as client:
        wait_for(lambda: run_id in state(server)["counts"] or run_id in state(server)["ended"])
        body = client.read_slowly(**SLOW)
        assert len(body) <= 2 * SLOW["bytes_per_s"] * SLOW["for_s"]

        if policy in ("drop", "disconnect"):  # the agent does not wait for its client
            wait_for(lambda: run_id in state(server)["ended"])
        else:
            full = Settings().max_bytes * 0.9
            wait_for(
                lambda: (
                    state(server)["counts"][run_id]["most_events"] == Settings().max_events
                    or state(server)["counts"][run_id]["most_bytes"] > full
                )
            )
        now = state(server)
        assert now["rss_bytes"] - before < MEMORY_BYTES < SAID_BYTES
        if policy in ("block", "coalesce"):
            assert now["made"][run_id] < TOKENS
        body += client.read_rest()

    counts = state(server)["counts"][run_id]
    told = numbers(text_of(body))
    if policy == "disconnect":
        assert state(server)["ended"][run_id] == "slow_client"
        assert not client.complete
    else:
        assert client.complete
        assert state(server)["ended"][run_id] is None
        assert told == sorted(set(told))
        assert len(told) + counts["dropped_events"] == TOKENS
    if policy == "drop":
        assert counts["dropped_events"] > 0
        said = sum(len(f"{number} {'x' * CHARS}\n") for number in range(TOKENS))
        assert len(text_of(body)) + counts["dropped_chars"] == said
    elif policy != "disconnect":
        assert counts["dropped_events"] == 0
        assert (counts["joined_events"] > 0) == (policy == "coalesce")
        assert policy != "block" or counts["waited_ns"] > 0
