"""Runs over two processes and a real Redis: resumed and stopped elsewhere, killed, and cut off from
their log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.followed import cut_at_random, frames_of, numbered
from support.redis_server import REDIS_SERVER, RedisServer, redis_server
from support.servers import Server, get, serving, wait_for

from streamtrace.serve.log.base import RunKey
from streamtrace.serve.log.redis import RedisLog
from streamtrace.testing.sockets import SocketClient

pytestmark = pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server: .ci/services")

HERE = Path(__file__).parents[1] / "serve"
PACE_S = 0.005


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Replicas:
    """Two servers of one app, that share a log."""

    def __init__(self, here: Server, there: Server) -> None:
        self.here, self.there = here, there


@pytest.fixture
def replicas(
    redis: RedisServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Replicas]:
    env = {"LOG": redis.url, **getattr(request, "param", {})}
    with ExitStack() as stack:
        yield Replicas(
            *(
                stack.enter_context(
                    serving("uvicorn-httptools-uvloop", "resume_app:app", HERE, log, env)
                )
                for log in (tmp_path / "a.log", tmp_path / "b.log")
            )
        )


def start(server: Server, **asked: Any) -> SocketClient:
    return SocketClient(f"http://127.0.0.1:{server.port}/chat/runs", json=asked)


def ask(server: Server, path: str, method: str = "GET") -> SocketClient:
    return SocketClient(f"http://127.0.0.1:{server.port}/chat{path}", method=method)


def answer(server: Server, path: str, method: str = "GET") -> Any:
    with ask(server, path, method) as client:
        return json.loads(client.read_rest())


def counts(server: Server) -> dict[str, int]:
    return json.loads(get(server.port, "/counts").body)  # type: ignore[no-any-return]


def ids(told: list[tuple[str, bytes]]) -> list[int]:
    return [int(number) for number, _ in told]


async def test_cuts_at_random_places_under_concurrency(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrace.serve.log.recorder.PATIENCE_S", 30)
    logs = [RedisLog(redis.url) for _ in range(2)]
    await cut_at_random(*logs)
    for log in logs:
        await log.aclose()


def test_start_here_resume_there_and_stop_from_there(replicas: Replicas) -> None:
    with start(replicas.here, pace_s=PACE_S) as first:
        run_id = first.headers["x-run-id"]
        head = first.read_events(20)
        with ask(replicas.there, f"/runs/{run_id}/events?after=7") as second:
            seen = second.read_events(30)
            assert answer(replicas.there, f"/runs/{run_id}")["state"] == "live"
            stop = f"/runs/{run_id}/stop"
            assert answer(replicas.there, stop, "POST") == {"run_id": run_id, "stopped": True}
            assert answer(replicas.there, stop, "POST") == {"run_id": run_id, "stopped": False}
            assert answer(replicas.here, stop, "POST")["run_id"] == run_id  # does no harm
            whole = numbered(b"".join(head) + first.read_rest())
            assert first.complete
            assert numbered(b"".join(seen) + second.read_rest()) == whole[7:]
            assert second.complete
    assert ids(whole) == list(range(1, len(whole) + 1))
    for server in (replicas.here, replicas.there):
        state = answer(server, f"/runs/{run_id}")
        assert (state["state"], state["summary"]["status"]) == ("finished", "cancelled")
        with ask(server, f"/runs/{run_id}/events?after={len(whole)}") as client:
            assert client.status == 204


@pytest.mark.parametrize("replicas", [{"LEASE_S": "1"}], indirect=True)
def test_a_killed_process_orphans_its_run_and_followers_get_all_that_it_wrote(
    replicas: Replicas,
) -> None:
    with start(replicas.here, pace_s=PACE_S) as first:
        run_id = first.headers["x-run-id"]
        with ask(replicas.there, f"/runs/{run_id}/events") as follower:
            head = follower.read_events(20)
            replicas.here.process.kill()
            seen_by_first = numbered(first.read_rest().rpartition(b"\n\n")[0] + b"\n\n")
            told = numbered(b"".join(head) + follower.read_rest())
            assert follower.complete
    *told, last = told
    assert ids(told) == list(range(1, len(told) + 1))
    assert told[: len(seen_by_first)] == seen_by_first  # what a client saw is in the log
    assert last[0] == ""
    assert json.loads(last[1])["code"] == "orphaned"
    with ask(replicas.there, f"/runs/{run_id}/events?after={len(told) - 2}") as again:
        assert numbered(again.read_rest()) == [*told[-2:], last]
    assert answer(replicas.there, f"/runs/{run_id}")["state"] == "orphaned"
    assert counts(replicas.there)["orphaned_runs"] == 1


async def test_a_server_that_is_told_to_stop_sends_followers_on_and_ends_its_own_runs(
    replicas: Replicas, redis: RedisServer
) -> None:
    with start(replicas.here, pace_s=PACE_S) as first:
        run_id = first.headers["x-run-id"]
        with ask(replicas.there, f"/runs/{run_id}/events") as follower:
            head = follower.read_events(10)
            replicas.there.terminate()
            head.append(follower.read_rest())
            assert follower.complete
        seen = numbered(b"".join(head))
        with ask(replicas.here, f"/runs/{run_id}/events?after={seen[-1][0]}") as second:
            second.read_events(10)
        replicas.here.terminate()
        whole = numbered(first.read_rest())
        assert first.complete
    assert whole[: len(seen)] == seen
    assert b"drained" in whole[-1][1]
    log = RedisLog(redis.url)
    state = await log.state(RunKey(run_id))
    await log.aclose()
    assert (state.phase, state.last_id) == ("finished", len(whole))


def gaps_in(body: bytes) -> list[dict[str, int]]:
    return [json.loads(one.data or b"")["value"] for one in frames_of(body) if one.event == "gap"]


@pytest.mark.parametrize("replicas", [{"PATIENCE_S": "1"}], indirect=True)
@pytest.mark.parametrize("outage", ["hangs", "ends and starts empty"])
def test_a_stream_goes_on_without_redis_and_a_resume_is_told_what_is_missing(
    replicas: Replicas, redis: RedisServer, outage: str
) -> None:
    with start(replicas.here, pace_s=PACE_S) as first:
        run_id = first.headers["x-run-id"]
        body = b"".join(first.read_events(20))

        def is_lacking() -> bool:
            return counts(replicas.here)["unlogged_events"] > 20

        def is_back() -> bool:
            state = answer(replicas.there, f"/runs/{run_id}")
            return int(state.get("last_event_id", 0)) > lacking

        if outage == "hangs":
            with redis.stopped():
                wait_for(is_lacking, every_s=0.1)
        else:
            redis.end()
            wait_for(is_lacking, every_s=0.1)
            redis.start()
        lacking = counts(replicas.here)["logged_events"]
        lacking += counts(replicas.here)["unlogged_events"]
        wait_for(is_back, every_s=0.1)
        with ask(replicas.there, f"/runs/{run_id}/events?after=3") as second:
            seen = second.read_events(5)
            answer(replicas.there, f"/runs/{run_id}/stop", "POST")
            whole = numbered(body + first.read_rest())
            told = b"".join(seen) + second.read_rest()
            assert first.complete
            assert second.complete
    assert ids(whole) == list(range(1, len(whole) + 1))
    unlogged = counts(replicas.here)["unlogged_events"]
    [gap] = gaps_in(told)
    logged = [one for one in numbered(told) if b'"gap"' not in one[1]]
    missing = range(gap["after"] + 1, gap["after"] + gap["missed"] + 1)
    assert ids(logged) == [n for n in range(4, len(whole) + 1) if n not in missing]
    assert logged == [one for one in whole[3:] if int(one[0]) not in missing]
    if outage == "hangs":
        # An append whose answer did not come may have been written: then it is no hole.
        assert 20 < gap["missed"] <= unlogged
    else:
        assert gap["after"] == 3
        assert missing[-1] >= unlogged
