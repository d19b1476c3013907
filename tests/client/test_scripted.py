"""Both clients of runs, against answers that cut, refuse, repeat and hang by a script."""

from __future__ import annotations

from typing import Any

import pytest
from support.run_clients import CLIENTS, Seen, read
from support.script import Script, cut, empty, event, gap, refusal, said, sse

pytestmark = pytest.mark.parametrize("client", CLIENTS)

EVENTS = "/agents/runs/r-1/events"
ABC = [[1, "message", "a"], [2, "message", "b"], [3, "message", "c"]]


def a_b_c(first: int = 1) -> list[str]:
    return [event(number, "abc"[number - 1]) for number in range(first, 4)]


async def run_of(client: str, script: Script, **asked: Any) -> Seen:
    return await read(client, script.url, **({"start": {"message": "Hi"}} | asked))


async def follow(client: str, script: Script, **asked: Any) -> Seen:
    return await read(client, script.url, **({"run": "r-1"} | asked))


# --- the way to the end ------------------------------------------------------------------------


async def test_a_run_from_its_start_to_its_end(client: str):
    """The end of the answer is not the end of the run: that is asked for, at once."""
    async with Script(sse(*a_b_c()), empty()) as script:
        seen = await run_of(client, script)
    assert (seen.told, seen.error, seen.pauses) == (ABC, None, [])
    assert (seen.run_id, seen.thread_id, seen.last_id) == ("r-1", "t-1", 3)
    start, end = script.asked
    assert (start.method, start.path, start.cursor) == ("POST", "/agents/runs", None)
    assert start.headers["content-type"] == "application/json"
    assert start.headers["authorization"] == end.headers["authorization"] == "Bearer fixed"
    assert start.body["message"] == "Hi"
    assert len(start.body["run_id"]) == 32
    assert (end.method, end.path, end.cursor) == ("GET", EVENTS, "3")


async def test_a_start_may_ask_for_a_dialect(client: str):
    """A resume does not: the run has it already."""
    async with Script(sse(*a_b_c()), empty()) as script:
        await run_of(client, script, query={"dialect": "openai-chat", "granularity": "a b"})
    paths = [one.path for one in script.asked]
    assert paths == ["/agents/runs?dialect=openai-chat&granularity=a+b", EVENTS]


async def test_every_cut_is_resumed_where_it_was(client: str):
    """Also inside a frame, a line and a character, and behind the last event."""
    whole = "id: 1\r\ndata: ä\r\n\r\nid: 2\r\ndata: b\r\n\r\n".encode()
    ends = [whole.index(b"\nid: 2"), len(whole) - 1]  # a CR ends a line, whatever comes
    for place in range(0, len(whole) + 1, 1 if client == "python" else 7):
        came = sum(place >= end for end in ends)
        rest = sse(*(event(number, "äb"[number - 1]) for number in range(came + 1, 3)))
        async with Script(sse(whole[:place], end="cut"), rest, empty()) as script:
            seen = await run_of(client, script)
        assert seen.told == [[1, "message", "ä"], [2, "message", "b"]], place
        assert script.asked[1].cursor == (str(came) if came else None), place


async def test_what_was_told_is_not_told_again(client: str):
    """A server that begins too early, and one that repeats itself."""
    async with Script(sse(*a_b_c()[:2], end="cut"), sse(*a_b_c(), *a_b_c()), empty()) as script:
        seen = await run_of(client, script)
    assert seen.told == ABC


async def test_an_answer_that_ends_early_is_resumed(client: str):
    """A proxy that ends long answers as if they were whole; and where nothing comes, later."""
    answers = [sse(event(1, "a")), sse(), sse(*a_b_c(2)), empty()]
    async with Script(*answers) as script:
        seen = await run_of(client, script)
    assert seen.told == ABC
    assert [one.cursor for one in script.asked] == [None, "1", "1", "3"]
    assert len(seen.pauses) == 1


async def test_a_word_about_the_run_is_the_last(client: str):
    """An orphaned run: its error has no number, and the end behind it is the end."""
    orphaned = 'data: {"type":"RUN_ERROR"}\n\n'
    for end in ("whole", "cut"):
        async with Script(sse(event(1, "a"), orphaned, end=end)) as script:
            seen = await run_of(client, script)
        assert seen.told == [[1, "message", "a"], [None, "message", '{"type":"RUN_ERROR"}']]
        assert (seen.error, seen.last_id) == (None, 1)


async def test_to_follow_begins_behind_the_cursor(client: str):
    async with Script(sse(*a_b_c(3)), empty()) as script:
        seen = await follow(client, script, after=2)
    assert seen.told == ABC[2:]
    assert [one.cursor for one in script.asked] == ["2", "3"]


async def test_a_run_that_was_read_already_is_empty(client: str):
    async with Script(empty()) as script:
        seen = await follow(client, script, after=3)
    assert (seen.told, seen.error, seen.run_id) == ([], None, "r-1")


async def test_a_thread_leads_to_its_run_which_is_then_followed(client: str):
    """By the id of the run: the thread may have another by the time of the reconnect."""
    thread = sse("id: r-1:1\ndata: a\n\n", "id: r-1:2\ndata: b\n\n", end="cut")
    async with Script(thread, sse(*a_b_c(3)), empty()) as script:
        seen = await read(client, script.url, thread="t/1")
    assert (seen.told, seen.run_id) == (ABC, "r-1")
    assert [one.path for one in script.asked] == ["/agents/threads/t%2F1/events", EVENTS, EVENTS]


async def test_a_thread_without_a_run_is_empty(client: str):
    async with Script(empty()) as script:
        seen = await read(client, script.url, thread="t-1")
    assert (seen.told, seen.error, seen.run_id) == ([], None, None)


# --- what is missing ---------------------------------------------------------------------------


async def test_a_gap_is_told_as_one(client: str):
    answers = [sse(event(1, "a"), end="cut"), sse(gap(1, 5), event(7, "g")), empty()]
    async with Script(*answers) as script:
        seen = await run_of(client, script)
    assert seen.told == [[1, "message", "a"], ["gap", 1, 5, 6], [7, "message", "g"]]


async def test_a_gap_that_nobody_told_is_told(client: str):
    async with Script(sse(event(1, "a"), event(4, "d")), empty()) as script:
        seen = await run_of(client, script)
    assert seen.told == [[1, "message", "a"], ["gap", 1, 2, 3], [4, "message", "d"]]


async def test_who_leaves_at_a_gap_has_not_read_what_is_behind_it(client: str):
    async with Script(sse(event(1, "a"), event(4, "d"), end="hang")) as script:
        seen = await run_of(client, script, leaveAt=3)
    assert (seen.told[1:], seen.last_id) == ([["gap", 1, 2, 3]], 3)


async def test_who_was_told_of_a_gap_does_not_ask_for_it_again(client: str):
    async with Script(sse(event(1, "a"), gap(1, 5), end="cut"), empty()) as script:
        seen = await run_of(client, script)
    assert script.asked[1].cursor == "6"
    assert seen.last_id == 6


async def test_an_event_of_the_agent_that_is_called_gap_is_none(client: str):
    """Its number is the next, and it does not say that one is missing."""
    async with Script(sse("event: gap\nid: 1\ndata: {}\n\n"), empty()) as script:
        seen = await run_of(client, script)
    assert seen.told == [[1, "gap", "{}"]]


async def test_numbers_without_data_are_no_gap(client: str):
    """Comments and ids of their own."""
    async with Script(sse("id: 1\n\n", ": ping\n\n", event(2, "b")), empty()) as script:
        seen = await run_of(client, script)
    assert seen.told == [[2, "message", "b"]]


# --- refusals, and servers that come back ------------------------------------------------------


async def test_a_start_whose_answer_was_lost_is_not_begun_twice(client: str):
    """It is sent again under its id; if that is taken, the run is there to be followed."""
    taken = refusal(409, "run_exists")
    async with Script(cut(), taken, sse(*a_b_c(), x_run_id="mine"), empty()) as script:
        seen = await run_of(client, script, start={"runId": "mine"})
    assert (seen.told, len(seen.pauses)) == (ABC, 1)
    first, second, third, _ = script.asked
    assert first.body == second.body == {"runId": "mine"}
    assert (third.method, third.path) == ("GET", "/agents/runs/mine/events")


async def test_an_id_that_was_taken_before_is_refused(client: str):
    async with Script(refusal(409, "run_exists")) as script:
        seen = await run_of(client, script, start={"run_id": "mine"})
    assert seen.error == ["RunRefused", 409, "run_exists", 0]


@pytest.mark.parametrize(
    ("status", "code"), [(400, "bad_id"), (404, "not_found"), (410, "gap"), (429, "rate_limited")]
)
async def test_a_start_that_is_refused_is_not_tried_again(client: str, status: int, code: str):
    async with Script(refusal(status, code, retry_after="7")) as script:
        seen = await run_of(client, script)
    assert seen.error == ["RunRefused", status, code, 7]


async def test_who_asks_too_much_resumes_when_it_may(client: str):
    """As long as the server asks for, and not sooner; without a word, doubling, with jitter."""
    answers = [
        sse(event(1, "a"), end="cut"),
        refusal(429, "too_many_followers", retry_after="40"),
        refusal(503, "draining", retry_after="Fri, 01 Jan 2100 00:00:00 GMT"),
        refusal(500, "broken", retry_after="soon"),
        sse(*a_b_c(2)),
        empty(),
    ]
    async with Script(*answers) as script:
        seen = await run_of(client, script)
    assert seen.told == ABC
    first, asked, bounded, usual = seen.pauses
    assert 0.0005 <= first <= 0.001
    assert (asked, bounded) == (40, 3600)
    assert 0.004 <= usual <= 0.008


async def test_a_run_that_is_gone_is_not_taken_for_one_that_ended(client: str):
    async with Script(sse(event(1, "a"), end="cut"), refusal(404, "not_found")) as script:
        seen = await run_of(client, script)
    assert (seen.told, seen.error) == (ABC[:1], ["RunRefused", 404, "not_found", 0])


async def test_what_is_no_stream_is_refused(client: str):
    """A login page, say."""
    async with Script(said("hello")) as script:
        seen = await run_of(client, script)
    assert seen.error == ["RunRefused", 200, "no_event_stream", 0]


async def test_what_is_no_number_ends_the_stream(client: str):
    async with Script(sse("id: x\ndata: a\n\n")) as script:
        seen = await run_of(client, script)
    assert seen.told == []
    assert seen.error is not None


async def test_attempts_that_bring_nothing_come_to_an_end(client: str):
    """Progress counts from anew, an answer without anything new does not."""
    answers = [sse(event(1, "a"), end="cut"), cut(), sse(event(2, "b"), end="cut"), sse(), cut()]
    async with Script(*answers, refusal(502, "bad_gateway")) as script:
        seen = await run_of(client, script, maxAttempts=3)
    assert seen.told == ABC[:2]
    assert seen.error == ["ConnectionLost", "r-1", 2]
    assert len(seen.pauses) == 5


async def test_headers_are_asked_for_anew_and_once_more_when_refused(client: str):
    answers = [
        refusal(401, "expired"),
        sse(event(1, "a"), end="cut"),
        refusal(401, "expired"),
        sse(*a_b_c(2)),
        empty(),
    ]
    async with Script(*answers) as script:
        seen = await run_of(client, script, refused="Bearer new")
    assert (seen.told, len(seen.pauses)) == (ABC, 1)
    sent = [one.headers["authorization"] for one in script.asked]
    assert sent == ["Bearer old", "Bearer new", "Bearer old", "Bearer new", "Bearer old"]


async def test_who_is_not_let_in_is_told_after_the_second_time(client: str):
    async with Script(refusal(401, "expired"), refusal(401, "expired")) as script:
        seen = await run_of(client, script, refused="Bearer new")
    assert seen.error == ["RunRefused", 401, "expired", 0]
    async with Script(refusal(401, "expired")) as script:
        seen = await run_of(client, script)
    assert seen.error == ["RunRefused", 401, "expired", 0]


# --- silence, leaving and stop -----------------------------------------------------------------


async def test_a_connection_that_says_nothing_is_cut_and_resumed(client: str):
    """Before there is an answer, and in its middle."""
    answers = [sse(event(1, "a"), end="hang"), sse(*a_b_c(2)), empty()]
    async with Script(*answers) as script:
        seen = await run_of(client, script, idleTimeoutMs=300)
        await script.left.wait()
    assert (seen.told, len(seen.pauses)) == (ABC, 1)


async def test_who_leaves_lets_go_of_the_connection(client: str):
    async with Script(sse(*a_b_c(), end="hang")) as script:
        seen = await run_of(client, script, leaveAt=2)
        await script.left.wait()
    assert (seen.told, seen.error) == (ABC[:2], None)


async def test_stop_asks_the_server_and_the_end_still_comes(client: str):
    stopped = said({"run_id": "r-1", "stopped": True})
    async with Script(
        sse(event(1, "a"), end="hang"), stopped, sse(event(2, "b")), empty()
    ) as script:
        seen = await run_of(client, script, stopAt=1, idleTimeoutMs=300)
    assert (seen.told, seen.stopped) == (ABC[:2], True)
    asked = script.asked[1]
    assert (asked.method, asked.path) == ("POST", "/agents/runs/r-1/stop")
    assert asked.headers["authorization"] == "Bearer fixed"


async def test_a_slow_reader_holds_back_the_network_not_its_memory(client: str):
    """While it works on an event nothing is read: a flood is stuck within what kernels hold."""
    stopped = said({"run_id": "r-1", "stopped": True}, is_late=True)
    async with Script(sse(event(1, "a"), end="flood"), stopped) as script:
        seen = await run_of(client, script, stopAt=1, leaveAt=1)
        assert script.stuck.is_set()
    assert (seen.told, seen.stopped) == (ABC[:1], True)


async def test_a_frame_that_is_too_large_ends_the_stream(client: str):
    """It would be too large again."""
    async with Script(sse(event(1, "a"), event(2, "b" * 17 * 1024 * 1024))) as script:
        seen = await run_of(client, script)
    assert seen.told == ABC[:1]
    assert seen.error is not None
    assert seen.error[0] == {"python": "ClientError", "javascript": "RangeError"}[client]
