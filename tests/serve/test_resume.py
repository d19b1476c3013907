"""The contract of docs/resume.md, in this process: what was said before the cut and after is the
whole, whoever reads, and whenever they come."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.asgi import until
from support.followed import Reader, Told, cut_at_random, frames_of, numbered, talk

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError, EncodeError, LogUnavailable
from streamtrace.core.frames import Frame
from streamtrace.core.served import SERVED
from streamtrace.dialects.detect import by_name
from streamtrace.serve import AgentRouter, ApiKeyAuth, User
from streamtrace.serve.concurrency import Concurrency
from streamtrace.serve.log.base import LogBounds, LogEntry, Page, RunKey
from streamtrace.serve.log.follow import Follower
from streamtrace.serve.log.memory import MemoryLog
from streamtrace.serve.log.sqlite import SqliteLog
from streamtrace.serve.log.tail import Tail
from streamtrace.serve.response import Delivery
from streamtrace.serve.run import Settings
from streamtrace.testing import Answer, ask

ALICE, BOB, CAROL = "alices-key-0123456789", "bobs-key-0123456789", "carols-key-0123456789"
AUTH = ApiKeyAuth({ALICE: User("alice", "a"), BOB: User("alice", "b"), CAROL: User("carol", "a")})
GENERIC = by_name("generic")
START = {"run_id": "r", "thread_id": "t"}


async def begun(app: Any, **more: Any) -> Reader:
    """The client that begins the run."""
    reader = Reader(json.dumps({**START, **more}).encode()).start(app, "/chat/runs", "POST")
    await until(lambda: bool(reader.numbers))
    return reader


async def get(app: Any, path: str, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(app, path, method="GET", headers=given)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def gaps_in(body: bytes) -> list[dict[str, int]]:
    return [json.loads(one.data or b"")["value"] for one in frames_of(body) if one.event == "gap"]


async def passed(seconds: float) -> None:
    """Let so much time pass, and the loop run."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await until(lambda: loop.time() >= end)


# --- cut and resume ----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["ag-ui", "openai-chat", "vercel-ui", "cognis"])
async def test_before_the_cut_and_behind_it_is_the_whole_for_every_cut(dialect: str) -> None:
    app = AgentRouter().resumable("/chat", talk, dialect).app()
    whole = numbered((await ask(app, "/chat/runs", json={**START, "words": 9})).body)
    assert [number for number, _ in whole] == [str(at + 1) for at in range(len(whole))]
    for at in range(len(whole)):
        resumed = await get(app, f"/chat/runs/r/events?after={at}")
        assert numbered(resumed.body) == whole[at:]
        assert resumed.headers["content-type"] == "text/event-stream"
    assert (await get(app, f"/chat/runs/r/events?after={len(whole)}")).status == 204


async def test_what_stands_before_the_first_event_and_in_the_head() -> None:
    app = AgentRouter().resumable("/chat", talk).app()
    answer = await ask(app, "/chat/runs", json=START)
    resumed = await get(app, "/chat/runs/r/events?after=2")
    for one in (answer, resumed):
        assert one.headers["x-run-id"] == "r"
        assert one.headers["x-thread-id"] == "t"
        assert one.headers["content-location"] == "/chat/runs/r"
        assert frames_of(one.body)[0].retry == 1000
        assert [frame.retry for frame in frames_of(one.body)[1:]] == [None] * (
            len(frames_of(one.body)) - 1
        )
    assert b'"runId":"r"' in (frames_of(answer.body)[1].data or b"")


@pytest.mark.parametrize("make", [MemoryLog, SqliteLog])
async def test_a_cut_in_mid_run_and_at_random_places_under_concurrency(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrace.serve.log.recorder.PATIENCE_S", 30)
    if make is SqliteLog:
        logs = [SqliteLog(tmp_path / "runs.db") for _ in range(2)]
        await cut_at_random(logs[0], logs[1])
        for log in logs:
            await log.aclose()
    else:
        log = MemoryLog()
        await cut_at_random(log, log)


@pytest.mark.parametrize("joined", ["start", "middle", "last event", "end"])
async def test_who_comes_late_gets_all_and_the_end(joined: str) -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent).app()
    first = await begun(app)
    late: list[Reader] = []

    def join() -> None:
        late.append(Reader().start(app, "/chat/runs/r/events"))

    if joined == "start":
        join()
    agent.tell(3)
    await until(lambda: agent.said == 3)
    if joined == "middle":
        join()
    agent.tell(3)
    agent.end()
    if joined == "last event":
        await until(lambda: agent.ended == [None])
        join()
    whole = numbered(await first.whole())
    if joined == "end":
        join()
    assert numbered(await late[0].whole()) == whole
    assert b"RUN_FINISHED" in whole[-1][1]


async def test_joins_at_every_turn_of_the_loop_around_the_end() -> None:
    for spins in range(40):
        agent = Told()
        app = AgentRouter().resumable("/chat", agent).app()
        first = await begun(app)
        agent.tell(2)
        agent.end()
        for _ in range(spins):
            await asyncio.sleep(0)
        late = Reader().start(app, "/chat/runs/r/events?after=1")
        whole = numbered(await first.whole())
        assert numbered(await late.whole()) == whole[1:], spins


async def test_of_a_hundred_followers_one_that_is_stalled_holds_up_nobody() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent).app()
    first = await begun(app)
    followers = [Reader().start(app, "/chat/runs/r/events") for _ in range(99)]
    await until(lambda: all(one.numbers for one in followers))
    stalled = followers.pop()
    stalled.reads.clear()
    for words in range(30, 3_000, 900):
        agent.tell(words - agent.said)
        await until(lambda: all(f"w{agent.said} ".encode() in one.got for one in followers))
        assert len(stalled.numbers) == 1
    agent.end()
    whole = numbered(await first.whole())
    for one in followers:
        assert numbered(await one.whole()) == whole
    stalled.reads.set()  # it had fallen out of the tail, and has it all from the log
    assert numbered(await stalled.whole()) == whole


# --- cursors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["-1", "x", "1.5", "99", "other:3", "r:", "1 2", "9" * 16, "é", "0x1", "r:99", ":1"]
)
async def test_what_is_no_cursor_is_refused(bad: str) -> None:
    app = AgentRouter().resumable("/chat", talk).app()
    await ask(app, "/chat/runs", json=START)
    answer = await get(app, "/chat/runs/r/events", last_event_id=bad.encode().decode("latin-1"))
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert b"bad_cursor" in answer.body


async def test_the_header_wins_over_the_query_and_may_name_the_run() -> None:
    app = AgentRouter().resumable("/chat", talk).app()
    whole = numbered((await ask(app, "/chat/runs", json=START)).body)
    for cursor in ("4", "r:4"):
        answer = await get(app, "/chat/runs/r/events?after=2", last_event_id=cursor)
        assert numbered(answer.body) == whole[4:]
    answer = await get(app, "/chat/runs/r/events?after=r:2")
    assert numbered(answer.body) == whole[2:]


async def test_a_cursor_ahead_of_a_live_run_here_is_refused() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent).app()
    first = await begun(app)
    assert (await get(app, "/chat/runs/r/events?after=2")).status == 400
    await first.leave()
    assert (await ask(app, "/chat/runs/r/stop")).status == 200


# --- threads -----------------------------------------------------------------------------------


async def test_a_thread_is_followed_live_and_resumed_by_the_run_that_its_ids_name() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent).app()
    assert (await get(app, "/chat/threads/t/events")).status == 204
    first = await begun(app)
    second = Reader().start(app, "/chat/threads/t/events")
    agent.tell(3)
    await until(lambda: second.numbers == [1, 2, 3, 4, 5])
    await second.leave()
    assert second.sent[0]["status"] == 200
    last = numbered(second.got)[-1][0]
    assert last == "r:5"
    third = Reader().start(app, "/chat/threads/t/events", last_event_id=last)
    agent.end()
    whole = numbered(await first.whole())
    got = numbered(await third.whole())
    assert [data for _, data in got] == [data for _, data in whole[5:]]
    end = await get(app, "/chat/threads/t/events", last_event_id=got[-1][0])
    assert end.status == 204  # so that EventSource stops
    assert (await get(app, "/chat/threads/t/events")).status == 204  # it is not live any more


async def test_a_cursor_of_the_run_before_tells_the_current_one_from_its_beginning() -> None:
    app = AgentRouter().resumable("/chat", talk).app()
    await ask(app, "/chat/runs", json=START)
    other = await ask(app, "/chat/runs", json={**START, "run_id": "r2"})
    answer = await get(app, "/chat/threads/t/events?after=r:3")
    assert answer.headers["x-run-id"] == "r2"
    assert [data for _, data in numbered(answer.body)] == [data for _, data in numbered(other.body)]
    assert (await get(app, "/chat/threads/t/events?after=3")).status == 400  # of which run?


# --- gaps --------------------------------------------------------------------------------------


async def test_an_evicted_cursor_is_told_what_is_missing() -> None:
    app = AgentRouter().resumable("/chat", talk, log=MemoryLog(LogBounds(max_events=4))).app()
    whole = numbered((await ask(app, "/chat/runs", json={**START, "words": 20})).body)
    before = SERVED.gap_events
    for after in range(len(whole) + 1):
        answer = await get(app, f"/chat/runs/r/events?after={after}")
        missed = max(0, len(whole) - 4 - after)
        assert gaps_in(answer.body) == ([{"after": after, "missed": missed}] if missed else [])
        told = numbered(answer.body)
        assert told[bool(missed) :] == whole[max(after, len(whole) - 4) :]
        if missed:
            assert told[0][0] == str(after + missed)  # nobody asks for them again
    assert SERVED.gap_events > before


async def test_a_gap_can_be_a_410() -> None:
    app = AgentRouter().resumable("/chat", talk, log=MemoryLog(LogBounds(max_events=4))).app()
    whole = numbered((await ask(app, "/chat/runs", json={**START, "words": 20})).body)
    answer = await get(app, "/chat/runs/r/events?after=2&gap=410")
    assert (answer.status, b'"gap"' in answer.body) == (410, True)
    answer = await get(app, f"/chat/runs/r/events?after={len(whole) - 2}&gap=410")
    assert numbered(answer.body) == whole[-2:]
    assert (await get(app, "/chat/runs/r/events?gap=never")).status == 400


async def test_all_that_was_evicted_at_the_end_is_a_gap_too() -> None:
    log = MemoryLog(LogBounds(max_bytes=1))
    app = AgentRouter().resumable("/chat", talk, log=log).app()
    whole = numbered((await ask(app, "/chat/runs", json=START)).body)
    answer = await get(app, "/chat/runs/r/events?after=3")
    assert gaps_in(answer.body) == [{"after": 3, "missed": len(whole) - 3}]
    assert (await get(app, f"/chat/runs/r/events?after={len(whole)}")).status == 204


@pytest.mark.parametrize("cut", [False, True])
async def test_a_follower_too_slow_for_tail_and_log_is_told_of_the_gap(
    monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    monkeypatch.setattr("streamtrace.serve.log.recorder.Tail", lambda: Tail(max_events=8))
    agent = Told()
    log = MemoryLog(LogBounds(max_events=16))
    app = AgentRouter().resumable("/chat", agent, log=log).app()
    first = await begun(app)
    slow = Reader().start(app, "/chat/runs/r/events?gap=" + ("410" if cut else "event"))
    await until(lambda: slow.numbers == [1])
    slow.reads.clear()
    for _ in range(100):
        agent.tell(1)
        said = agent.said
        await until(lambda before=said: agent.said > before)  # type: ignore[misc]
    agent.end()
    whole = numbered(await first.whole())
    assert len(whole) == 104
    slow.reads.set()
    body = await slow.whole()
    if cut:
        assert not gaps_in(body)
        assert b"RUN_FINISHED" not in body  # an end without the end: it asks again, and is told
        again = await get(app, f"/chat/runs/r/events?gap=410&after={slow.numbers[-1]}")
        assert again.status == 410
        return
    [gap] = gaps_in(body)
    told = dict(numbered(body))
    missing = {str(gap["after"] + at + 1) for at in range(gap["missed"])}
    assert {number for number, _ in whole} - told.keys() == missing - {
        str(gap["after"] + gap["missed"])
    }
    assert [one for one in numbered(body) if b'"gap"' not in one[1]] == [
        one for one in whole if one[0] not in missing
    ]


async def said_by(follower: Follower) -> list[int | str]:
    """The numbers of its entries, and its gaps as "+n"."""
    said: list[int | str] = []
    while (part := await follower.next(0)) is not None:
        said += [f"+{part.missed}"] if part.missed else []
        said += [entry.id for entry in part.entries]
    return said


@pytest.mark.parametrize(
    ("logged", "after", "said"),
    [
        ([], 0, ["+5", 6, 7, 8]),
        ([], 5, [6, 7, 8]),
        ([1, 2, 3, 4, 5, 6, 7, 8], 0, [1, 2, 3, 4, 5, 6, 7, 8]),
        ([3, 4], 0, ["+2", 3, 4, "+1", 6, 7, 8]),
        ([1, 4, 7, 8], 0, [1, "+2", 4, "+1", 6, 7, 8]),
        ([7, 8], 3, ["+2", 6, 7, 8]),
        ([1, 2, 8], 8, []),
    ],
)
async def test_what_the_tail_has_no_more_comes_from_the_log_and_only_what_neither_has_is_a_gap(
    logged: list[int], after: int, said: list[int | str]
) -> None:
    log, tail, key = MemoryLog(), Tail(max_events=3), RunKey("r")
    await log.create(key, "o", b"")
    for number in logged:
        await log.append(key, "o", [b"x"], after=number - 1)
    for number in range(1, 9):
        tail.publish([LogEntry(number, b"x")])
    tail.close()
    assert await said_by(Follower(log, key, after, tail)) == said
    await log.finish(key, "o", b"{}", last_id=8)
    elsewhere = await said_by(Follower(log, key, after))
    assert [one for one in elsewhere if isinstance(one, int)] == [
        number for number in logged if number > after
    ]
    told = [1 if isinstance(one, int) else int(one) for one in elsewhere]
    assert sum(told) == 8 - after


# --- whose run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("key", [BOB, CAROL])
async def test_not_yours_is_not_found(key: str, is_live: bool) -> None:
    agent = Told()
    app = AgentRouter(auth=AUTH).resumable("/chat", agent).app()
    first = Reader(json.dumps(START).encode()).start(
        app, "/chat/runs", "POST", authorization=f"Bearer {ALICE}"
    )
    await until(lambda: bool(first.numbers))
    if not is_live:
        agent.end()
        await first.whole()
    for path, method in [
        ("/chat/runs/{}/events", "GET"),
        ("/chat/runs/{}/events?after=1", "GET"),
        ("/chat/runs/{}", "GET"),
        ("/chat/runs/{}/stop", "POST"),
    ]:
        others = await ask(app, path.format("r"), method=method, headers=bearer(key))
        nobodys = await ask(app, path.format("none"), method=method, headers=bearer(key))
        assert others.status == 404
        assert (others.body, others.headers) == (nobodys.body, nobodys.headers)
    mine = await get(app, "/chat/runs/r", **bearer(ALICE))
    assert json.loads(mine.body)["state"] == ("live" if is_live else "finished")
    thread = await ask(app, "/chat/threads/t/events", method="GET", headers=bearer(key))
    assert (thread.status, thread.body) == (204, b"")
    assert (await get(app, "/chat/runs/r/events")).status == 401
    assert agent.ended == ([] if is_live else [None])  # nor was it stopped
    agent.end()
    await first.whole()


async def test_a_thread_is_that_of_its_user() -> None:
    app = AgentRouter(auth=AUTH).resumable("/chat", talk).app()
    await ask(app, "/chat/runs", json=START, headers=bearer(ALICE))
    other = {**START, "run_id": "carols"}
    assert (await ask(app, "/chat/runs", json=other, headers=bearer(CAROL))).status == 200
    for key, run_id in ((ALICE, "r"), (CAROL, "carols")):
        mine = await get(app, f"/chat/threads/t/events?after={run_id}:0", **bearer(key))
        assert mine.headers["x-run-id"] == run_id
    assert (await get(app, "/chat/threads/t/events", **bearer(BOB))).status == 204


async def test_what_stands_in_a_path_cannot_end_a_header() -> None:
    app = AgentRouter().resumable("/{team}/chat", talk).app()
    answer = await ask(app, "/a\r\nset-cookie: b\u00fc/chat/runs", json=START)
    assert answer.headers["content-location"] == "/a%0D%0Aset-cookie%3A%20b%C3%BC/chat/runs/r"


async def test_two_tenants_may_have_runs_of_one_id() -> None:
    app = AgentRouter(auth=AUTH).resumable("/chat", talk).app()
    bodies = {}
    for key, words in ((ALICE, 3), (BOB, 7)):
        answer = await ask(app, "/chat/runs", json={**START, "words": words}, headers=bearer(key))
        bodies[key] = numbered(answer.body)
    for key, whole in bodies.items():
        answer = await get(app, "/chat/runs/r/events", **bearer(key))
        assert numbered(answer.body) == whole
    again = await ask(app, "/chat/runs", json=START, headers=bearer(ALICE))
    assert (again.status, b"run_exists" in again.body) == (409, True)


# --- state, stop, bounds -----------------------------------------------------------------------


async def test_the_state_of_a_run() -> None:
    agent = Told()
    router = AgentRouter().resumable("/chat", agent)
    app = router.app()
    first = await begun(app)
    live = json.loads((await get(app, "/chat/runs/r")).body)
    assert live["state"] == "live"
    assert live["summary"] is None
    assert live["last_event_id"] == "1"
    agent.tell(2)
    agent.end()
    whole = numbered(await first.whole())
    over = json.loads((await get(app, "/chat/runs/r")).body)
    assert over["state"] == "finished"
    assert over["last_event_id"] == whole[-1][0]
    assert over["summary"]["status"] == "completed"
    assert over["summary"]["run_id"] == over["run_id"] == "r"
    assert over["started_at"].endswith("Z")
    assert over["summary"]["dialect"] == over["dialect"] == "ag-ui"
    assert "w1" not in json.dumps(over)


async def test_stop_is_idempotent_and_reaches_runs_that_were_resumed() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent).app()
    first = await begun(app)
    await first.leave()
    agent.tell(2)
    second = Reader().start(app, "/chat/runs/r/events?after=1")
    await until(lambda: len(second.numbers) == 3)
    stops = [await ask(app, "/chat/runs/r/stop") for _ in range(3)]
    assert [json.loads(one.body) for one in stops] == [
        {"run_id": "r", "stopped": True},
        {"run_id": "r", "stopped": False},
        {"run_id": "r", "stopped": False},
    ]
    body = await second.whole()
    assert agent.ended == ["stopped"]
    assert b"RUN_FINISHED" in body or b"RUN_ERROR" in body
    assert json.loads((await get(app, "/chat/runs/r")).body)["summary"]["status"] == "cancelled"


async def test_a_run_that_was_not_begun_after_all_is_nobodys_to_wait_for() -> None:
    class Slow(MemoryLog):
        async def create(self, *args: Any, **more: Any) -> None:
            await super().create(*args, **more)
            await router.drain(0)

    log = Slow()
    router = AgentRouter().resumable("/chat", talk, log=log)
    answer = await ask(router.app(), "/chat/runs", json=START)
    assert (answer.status, b"draining" in answer.body) == (503, True)
    assert (await log.state(RunKey("r"))).phase == "finished"


async def test_methods() -> None:
    app = AgentRouter().resumable("/chat", talk).app()
    for path, allowed in [
        ("/chat/runs", "POST"),
        ("/chat/runs/r", "GET"),
        ("/chat/runs/r/events", "GET"),
        ("/chat/runs/r/stop", "POST"),
        ("/chat/threads/t/events", "GET"),
    ]:
        answer = await ask(app, path, method="PUT", json={})
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


async def test_followers_are_bounded_and_counted_out() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent, max_followers=2).app()
    before = SERVED.followers
    first = await begun(app)
    second = Reader().start(app, "/chat/runs/r/events")
    await until(lambda: bool(second.numbers))
    assert SERVED.followers == before + 2
    third = await get(app, "/chat/runs/r/events")
    assert (third.status, third.headers["retry-after"]) == (429, "1")
    await second.leave()
    again = Reader().start(app, "/chat/runs/r/events")
    await until(lambda: bool(again.numbers))
    agent.end()
    await again.whole()
    await first.whole()
    assert SERVED.followers == before
    with pytest.raises(ConfigError, match="max_followers"):
        AgentRouter().resumable("/chat", agent, max_followers=0)


async def test_a_slot_is_given_back_when_the_run_is_over_not_when_its_client_leaves() -> None:
    agent = Told()
    slots = Concurrency(max_streams=1)
    app = AgentRouter(concurrency=slots).resumable("/chat", agent).app()
    first = await begun(app)
    await first.leave()
    other = json.dumps({"run_id": "other"}).encode()
    refused = Reader(other).start(app, "/chat/runs", "POST")
    await refused.whole()
    assert refused.status == 429
    follower = Reader().start(app, "/chat/runs/r/events")  # to follow is not to start
    agent.end()
    await follower.whole()
    assert follower.status == 200
    again = Reader(other).start(app, "/chat/runs", "POST")
    agent.end()
    await again.whole()
    assert again.status == 200


async def test_what_cannot_be_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="'drop'"):
        AgentRouter().resumable("/chat", talk, settings=Settings(policy="drop"))
    answer = await ask(
        AgentRouter().resumable("/chat", talk).app(), "/chat/runs", json={"run_id": "a/b"}
    )
    assert (answer.status, b"invalid_id" in answer.body) == (400, True)


# --- policies ----------------------------------------------------------------------------------


def settings(on_disconnect: Any) -> Settings:
    return Settings(on_disconnect=on_disconnect)


async def test_by_default_a_run_goes_on_at_full_speed_when_its_client_has_left() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent).app()
    first = await begun(app)
    await first.leave()
    agent.tell(5_000)  # more than any channel or tail holds
    agent.end()
    await until(lambda: agent.ended == [None])
    answer = await get(app, "/chat/runs/r/events")
    assert len(numbered(answer.body)) == 5_004


async def test_cancel_ends_the_run_with_the_client_that_began_it_whoever_follows() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent, settings=settings("cancel")).app()
    first = await begun(app)
    other = Reader().start(app, "/chat/runs/r/events")
    await until(lambda: bool(other.numbers))
    await other.leave()
    assert agent.ended == []
    other = Reader().start(app, "/chat/runs/r/events")
    await until(lambda: bool(other.numbers))
    await first.leave()
    assert agent.ended == ["disconnected"]
    assert b"RUN_ERROR" in await other.whole() or b"RUN_FINISHED" in other.got
    state = json.loads((await get(app, "/chat/runs/r")).body)
    assert state["summary"]["status"] == "disconnected"


async def test_the_time_to_go_on_without_a_client_is_stopped_by_one_who_comes() -> None:
    agent = Told()
    app = AgentRouter().resumable("/chat", agent, settings=settings(0.05)).app()
    first = await begun(app)
    await first.leave()
    second = Reader().start(app, "/chat/runs/r/events?after=1")
    await until(lambda: bool(second.sent))
    await passed(0.1)
    assert agent.ended == []
    await second.leave()
    await until(lambda: bool(agent.ended))
    assert agent.ended == ["expired"]
    assert (await get(app, "/chat/runs/r/events?after=1")).status == 200


async def test_a_drain_ends_runs_tells_followers_and_writes_the_end() -> None:
    agent = Told()
    log = MemoryLog()
    router = AgentRouter().resumable("/chat", agent, log=log)
    app = router.app()
    first = await begun(app)
    await first.leave()
    follower = Reader().start(app, "/chat/runs/r/events")
    await until(lambda: bool(follower.numbers))
    await router.drain(0)
    assert agent.ended == ["drained"]
    assert b"drained" in await follower.whole()
    state = await log.state(RunKey("r"))
    assert state.phase == "finished"
    assert b'"status":"error"' in (state.outcome or b"")
    refused = await get(app, "/chat/runs/r/events?after=1")
    assert (refused.status, b"draining" in refused.body) == (503, True)


async def test_who_follows_a_run_of_another_replica_is_sent_on_by_a_drain() -> None:
    log, agent = MemoryLog(), Told()
    there = AgentRouter().resumable("/chat", agent, log=log)
    here = AgentRouter().resumable("/chat", agent, log=log)
    first = await begun(there.app())
    app = here.app()
    follower = Reader().start(app, "/chat/runs/r/events")
    await until(lambda: bool(follower.numbers))
    await here.drain(0)
    body = await follower.whole()
    assert follower.sent[-1]["more_body"] is False
    assert b"drained" not in body
    assert agent.ended == []
    agent.end()
    await first.whole()


# --- another replica ---------------------------------------------------------------------------


async def test_any_replica_serves_and_stops_any_run() -> None:
    agent = Told()
    log = MemoryLog(LogBounds(lease_s=0.2))
    there, here = (AgentRouter().resumable("/chat", agent, log=log).app() for _ in range(2))
    first = await begun(there)
    agent.tell(3)
    follower = Reader().start(here, "/chat/runs/r/events?after=1")
    await until(lambda: len(follower.numbers) == 4)
    assert json.loads((await get(here, "/chat/runs/r")).body)["state"] == "live"
    assert json.loads((await ask(here, "/chat/runs/r/stop")).body)["stopped"] is True
    assert json.loads((await ask(here, "/chat/runs/r/stop")).body)["stopped"] is False
    whole = numbered(await first.whole())
    assert agent.ended == ["stopped"]
    assert numbered(await follower.whole()) == whole[1:]


async def test_a_run_whose_producer_is_gone_is_told_orphaned_again_and_again() -> None:
    log = MemoryLog(LogBounds(lease_s=0.05))
    app = AgentRouter(delivery=Delivery(heartbeat_s=0.01)).resumable("/chat", talk, log=log).app()
    whole = numbered((await ask(app, "/chat/runs", json=START)).body)
    state = await log.state(RunKey("r"))
    meta = state.meta.replace(b'"run_id":"r"', b'"run_id":"dead"')
    await log.create(RunKey("dead"), "its owner", meta, thread_id="t")
    data = [b"data: %b\n\n" % data for _, data in whole[:3]]
    await log.append(RunKey("dead"), "its owner", data, after=0)
    before = SERVED.orphaned_runs
    bodies = [(await get(app, "/chat/runs/dead/events")).body for _ in range(2)]
    for body in bodies:
        *told, last = numbered(body)
        assert told == whole[:3]
        assert last[0] == ""
        assert json.loads(last[1])["type"] == "RUN_ERROR"
        assert json.loads(last[1])["code"] == "orphaned"
    assert SERVED.orphaned_runs == before + 1
    assert b"orphaned" in (await get(app, "/chat/runs/dead/events?after=3")).body
    assert json.loads((await get(app, "/chat/runs/dead")).body)["state"] == "orphaned"
    assert json.loads((await ask(app, "/chat/runs/dead/stop")).body)["stopped"] is False


# --- without the log ---------------------------------------------------------------------------


class Frail(MemoryLog):
    """A log that can be away, and that can lose all it has."""

    def __init__(self, bounds: LogBounds | None = None) -> None:
        super().__init__(bounds)
        self.is_away = False

    def _now(self) -> float:
        if self.is_away:
            raise LogUnavailable("it is away")
        return super()._now()

    def lose_all(self) -> None:
        for key in list(self._runs):
            self._forget(key)

    @property
    def last_id(self) -> int:
        run = self._runs.get(RunKey("r"))
        return 0 if run is None else run.last_id

    @property
    def knows_the_end(self) -> bool:
        run = self._runs.get(RunKey("r"))
        return run is not None and run.outcome is not None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamtrace.serve.log.recorder.RETRY_S", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("loses", [False, True])
async def test_a_run_goes_on_without_its_log_and_readers_are_told_what_it_lacks(
    loses: bool,
) -> None:
    log, agent = Frail(), Told()
    there, here = (AgentRouter().resumable("/chat", agent, log=log).app() for _ in range(2))
    before = SERVED.unlogged_events
    first = await begun(there)
    agent.tell(3)
    await until(lambda: len(first.numbers) == 5)
    log.is_away = True
    agent.tell(3)
    await until(lambda: len(first.numbers) == 8)
    refused = await get(here, "/chat/runs/r/events?after=2")
    assert (refused.status, b"log_unavailable" in refused.body) == (503, True)
    local = Reader().start(there, "/chat/runs/r/events?after=2")  # it goes on there
    await until(lambda: local.numbers == [3, 4, 5, 6, 7, 8])
    if loses:
        log.lose_all()
    log.is_away = False
    while log.last_id <= 8:  # until the run has found it again
        said = agent.said
        agent.tell(1)
        await until(lambda before=said: agent.said > before)  # type: ignore[misc]
        await passed(0.002)
    agent.end()
    whole = numbered(await first.whole())
    assert [number for number, _ in whole] == [str(at + 1) for at in range(len(whole))]
    assert numbered(await local.whole()) == whole[2:]
    unlogged = SERVED.unlogged_events - before
    assert unlogged >= 3
    body = (await get(here, "/chat/runs/r/events")).body
    lost = unlogged + (5 if loses else 0)
    assert gaps_in(body) == [{"after": 0 if loses else 5, "missed": lost}]
    assert [one for one in numbered(body) if b'"gap"' not in one[1]] == (
        whole[:0] if loses else whole[:5]
    ) + whole[(0 if loses else 5) + lost :]


@pytest.mark.usefixtures("quick")
async def test_a_run_begins_and_ends_without_its_log_which_hears_of_it_later() -> None:
    log = Frail()
    app = AgentRouter().resumable("/chat", talk, log=log).app()
    log.is_away = True
    whole = numbered((await ask(app, "/chat/runs", json=START)).body)
    assert b"RUN_FINISHED" in whole[-1][1]
    here = await get(app, "/chat/runs/r/events?after=2")
    assert numbered(here.body) == whole[2:]  # as long as it is tried to tell the log
    log.is_away = False
    await until(lambda: log.knows_the_end)
    body = (await get(app, "/chat/runs/r/events?after=2")).body
    assert gaps_in(body) in ([], [{"after": 2, "missed": len(whole) - 2}])
    state = await log.state(RunKey("r"))
    assert (state.phase, state.last_id) == ("finished", len(whole))


@pytest.mark.usefixtures("quick")
async def test_who_lost_the_lease_writes_no_more_and_goes_on_for_those_who_are_here() -> None:
    log, agent = Frail(LogBounds(lease_s=0.3)), Told()
    there, here = (AgentRouter().resumable("/chat", agent, log=log).app() for _ in range(2))
    first = await begun(there)
    log.is_away = True
    agent.tell(1)
    await until(lambda: len(first.numbers) == 3)
    await passed(0.4)
    log.is_away = False
    assert b"orphaned" in (await get(here, "/chat/runs/r/events")).body
    agent.tell(3)
    agent.end()
    whole = numbered(await first.whole())
    assert len(whole) == 8
    assert (await log.state(RunKey("r"))).last_id == 1
    assert b"orphaned" in (await get(here, "/chat/runs/r/events?after=1")).body


async def test_a_log_that_hangs_holds_a_run_up_once_and_for_no_longer_than_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamtrace.serve.log.recorder.PATIENCE_S", 0.05)

    class Hanging(MemoryLog):
        asked = 0

        async def append(self, *args: Any, **more: Any) -> Any:
            self.asked += 1
            await asyncio.Event().wait()

        async def finish(self, *args: Any, **more: Any) -> None:
            self.asked += 1
            await asyncio.Event().wait()

    log = Hanging()
    app = AgentRouter().resumable("/chat", talk, log=log).app()
    whole = numbered((await ask(app, "/chat/runs", json={**START, "words": 2_000})).body)
    assert len(whole) == 2_004
    assert log.asked == 1


async def test_a_follower_of_another_replica_ends_between_frames_when_the_log_goes() -> None:
    log, agent = Frail(), Told()
    there, here = (AgentRouter().resumable("/chat", agent, log=log).app() for _ in range(2))
    first = await begun(there)
    follower = Reader().start(here, "/chat/runs/r/events")
    await until(lambda: follower.numbers == [1])

    async def read(*args: Any, **more: Any) -> Page:
        raise LogUnavailable("it is away")

    log.read = read  # type: ignore[method-assign]
    agent.tell(1)
    body = await follower.whole()
    assert [number for number, _ in numbered(body)] == ["1", "2", "3"]
    agent.tell(1)
    agent.end()
    await first.whole()


# --- what a dialect cannot write ---------------------------------------------------------------


async def test_a_run_that_cannot_be_told_ends_with_an_error_and_is_over() -> None:
    class Choosy(type(GENERIC)):  # type: ignore[misc]
        def encoder(self, envelope: Any = None) -> Any:
            return self

        def encode(self, event: ev.Event) -> list[Frame]:
            if isinstance(event, ev.TextDelta) and event.text == "w1 ":
                raise EncodeError("not that")
            return list(GENERIC.encoder().encode(event))

        def close(self) -> list[Frame]:
            return []

    agent = Told()
    agent.tell(3)
    app = AgentRouter().resumable("/chat", agent, Choosy()).app()
    answer = await ask(app, "/chat/runs", json=START)
    assert answer.complete
    *_, last = numbered(answer.body)
    assert json.loads(last[1])["code"] == "internal_error"
    assert agent.ended == ["cancelled"]
    assert (await get(app, f"/chat/runs/r/events?after={last[0]}")).status == 204
