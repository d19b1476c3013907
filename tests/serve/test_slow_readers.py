"""Slow readers of fast agents over real sockets: bounded memory, and each policy as declared.

There are many at once, so that what the bound allows is much more than the noise of an allocator,
and what the agents say is much more than that. The socket takes kilobytes, not megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.prometheus import parse
from support.servers import Server, get, serving, wait_for

from streamtrace.serve.response import MAX_MESSAGE_BYTES
from streamtrace.serve.run import Settings
from streamtrace.serve.sockets import tune_listener
from streamtrace.serve.weight import EVENT_BYTES
from streamtrace.testing import SocketClient

HERE = Path(__file__).parent
READERS = 16
TOKENS, CHARS = 1_500, 2_000
SLOW = {"bytes_per_s": 1000, "for_s": 1.5}

KIB = 1024
MAX_BYTES = Settings().max_bytes


def stream_bytes(policy: str) -> int:
    """What docs/backpressure.md says that an observed stream takes at most."""
    largest_event = MAX_BYTES if policy == "coalesce" else CHARS + EVENT_BYTES
    message = MAX_MESSAGE_BYTES + largest_event
    wholes = MAX_BYTES if policy == "whole" else 0
    return MAX_BYTES * 5 // 4 + wholes + 5 * message + 64 * KIB


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One for each policy: what the streams before took would hide what these take."""
    log = tmp_path / "server.log"
    with serving(
        "uvicorn-h11-asyncio", "life_app:observed", HERE, log, listening=tune_listener
    ) as running:
        yield running


def state(server: Server) -> Any:
    return json.loads(get(server.port, "/state").body)


def metric(server: Server, name: str, policy: str, status: str | None = None) -> float:
    samples = parse(get(server.port, "/metrics/").body.decode()).get(f"streamtrace_{name}", [])
    labels = {"route": f"/{policy}"} | ({} if status is None else {"status": status})
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


def asking(server: Server, policy: str, run_id: str) -> SocketClient:
    query = f"run_id={run_id}&tokens={TOKENS}&chars={CHARS}&then=end"
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


@pytest.mark.parametrize("policy", ["block", "coalesce", "drop", "whole", "disconnect"])
def test_slow_readers(server: Server, policy: str) -> None:
    with asking(server, policy, f"{policy}-warm") as client:  # what the first one takes, is taken
        client.read_rest()
    wait_for(lambda: f"{policy}-warm" in state(server)["ended"])
    before = state(server)["rss_bytes"]
    ids = [f"{policy}-{number}" for number in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool:
        clients = list(pool.map(lambda run_id: asking(server, policy, run_id), ids))
        bodies = list(pool.map(lambda client: client.read_slowly(**SLOW), clients))
        assert max(map(len, bodies)) <= 2 * SLOW["bytes_per_s"] * SLOW["for_s"]

        def is_held_up(now: Any, run_id: str) -> bool:
            if policy in ("drop", "whole", "disconnect"):  # the agent does not wait for its client
                return run_id in now["ended"]
            counts = now["counts"][run_id]
            full = MAX_BYTES - 2 * CHARS
            return counts["most_events"] == Settings().max_events or counts["most_bytes"] > full

        now = wait_for(
            lambda: now if all(is_held_up(now := state(server), one) for one in ids) else None
        )
        grown = now["rss_bytes"] - before
        assert grown < READERS * stream_bytes(policy) < READERS * TOKENS * CHARS
        if policy in ("block", "coalesce"):
            assert all(now["made"][run_id] < TOKENS for run_id in ids)
        rests = pool.map(SocketClient.read_rest, clients)
        bodies = [read + rest for read, rest in zip(bodies, rests, strict=True)]
    for client in clients:
        client.close()

    now = state(server)
    counts = [now["counts"][run_id] for run_id in ids]
    for run_id, client, body, count in zip(ids, clients, bodies, counts, strict=True):
        text = text_of(body)
        told = numbers(text)
        if policy == "disconnect":
            assert (now["ended"][run_id], client.complete) == ("slow_client", False)
        else:
            assert (now["ended"][run_id], client.complete) == (None, True)
            assert told == sorted(set(told))
            assert len(told) + count["dropped_events"] == TOKENS
            said = sum(len(f"{number} {'x' * CHARS}\n") for number in range(TOKENS))
            assert len(text) + count["dropped_chars"] == said
        assert (count["dropped_events"] > 0) == (policy in ("drop", "whole"))
        assert (count["joined_events"] > 0) == (policy == "coalesce")
        assert policy != "block" or count["waited_ns"] > 0
    warm = now["counts"][f"{policy}-warm"]
    for what in ("dropped", "joined"):
        total = sum(count[f"{what}_events"] for count in [*counts, warm])
        wait_for(lambda: metric(server, f"events_{what}_total", policy) == total)  # noqa: B023
    status = "truncated" if policy == "disconnect" else "completed"
    assert metric(server, "streams_total", policy, status) == READERS + 1
    assert metric(server, "streams_stalled_total", policy) > 0
