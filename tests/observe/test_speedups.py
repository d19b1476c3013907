"""The compiled half of the path: the same as in Python, whatever is sent and however it ends."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import gc
import itertools
import json
import struct
import sys
import types
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from hypothesis import given
from hypothesis import strategies as st
from support.recordings import STREAMS, blocks

from streamtrace.core.content import ContentPolicy
from streamtrace.core.gaps import count_gaps_in_python
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import _GAP_EDGES_NS
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Head
from streamtrace.observe.notes import MIN_STALL_NS, NotesInPython
from streamtrace.observe.pipeline import MAX_PIECE_BYTES, Pipeline
from streamtrace.observe.tap import ENTRY_BYTES, SHUT, Budget, Tap

speedups = pytest.importorskip("streamtrace.speedups", exc_type=ImportError)

HEAD = Head(headers={"content-type": "text/event-stream"}, media_type="text/event-stream")


def frame(text: str, message_id: str = "m", number: int | None = None) -> bytes:
    """A frame of AG-UI, as many write it; `number` makes each of another shape."""
    event = {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text}
    more = {} if number is None else {"timestamp": number}
    return b"data: %b\n\n" % json.dumps(event | more, ensure_ascii=False).encode()


BODIES = st.lists(
    st.one_of(
        st.builds(frame, st.text(max_size=8)),
        st.builds(frame, st.sampled_from(["a", "b", 'q"', "\\", "ü", "\n", "x" * 300])),
        st.builds(frame, st.sampled_from(["a", "b"]), st.sampled_from(["m", "n"])),
        st.builds(frame, st.just("a"), st.just("m"), st.integers(0, 10)),
        st.binary(max_size=40),
        st.just(b'data: {"type":"TEXT_MESSAGE_START","messageId":"m"}\n\n'),
        st.just(b'data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"\xff"}\n\n'),
    ),
    max_size=60,
)


class Path:
    """Stands for an HttpPath."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.tap: Any = Tap(Budget(), max_bytes, lambda soon: None)
        self.unusual: list[Any] = []

    async def send_unusual(self, message: Any) -> None:
        self.unusual.append(message)


class Exchange:
    disconnected_ns: int | None = None


async def serve(message: Any) -> None:
    """A server that takes every message at once."""


def opened(send: Any = serve, max_bytes: int = 1 << 20) -> tuple[Any, Path, Exchange]:
    """A `send` whose stream is open."""
    path, exchange = Path(max_bytes), Exchange()
    sender = speedups.Sender(send, path, exchange, SHUT)
    step(sender({"type": "http.response.start"}))
    path.unusual.clear()
    return sender, path, exchange


def chunk(body: Any = b"data: a\n\n") -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


def step(sending: Any) -> Any:
    """What it yields, or the StopIteration that ends it."""
    try:
        return sending.send(None)
    except StopIteration as stop:
        return stop


@contextlib.contextmanager
def each_look(ns: int) -> Iterator[None]:
    """The compiled clock goes on by so much at each look at it."""
    ticks = itertools.count(0, ns)
    speedups.set_clock(lambda: next(ticks))
    try:
        yield
    finally:
        speedups.set_clock(None)


@types.coroutine
def suspended(value: Any) -> Iterator[Any]:
    return (yield value)


def expanded(entries: list[Any]) -> list[tuple[int, Any]]:
    """Each chunk by itself."""
    chunks: list[tuple[int, Any]] = []
    for at_ns, body in zip(entries[::2], entries[1::2], strict=True):
        if isinstance(body, speedups.Alike):
            first = len(chunks)
            chunks += [body.read() for _ in range(len(body))]
            assert chunks[first][0] == at_ns
        else:
            chunks.append((at_ns, body))
    return chunks


# --- what is noted --------------------------------------------------------------------------------


@given(BODIES, st.sets(st.integers(0, 60)))
def test_every_chunk_is_noted_as_it_was_and_sent_as_it_is(
    bodies: list[bytes], looks: set[int]
) -> None:
    served: list[Any] = []

    async def send(message: Any) -> None:
        served.append(message)

    sender, path, _ = opened(send)
    served.clear()
    messages, noted = [chunk(body) for body in bodies], []
    for number, message in enumerate(messages):
        assert isinstance(step(sender(message)), StopIteration)
        if number in looks:
            noted += expanded(path.tap.take())
            path.tap.rest()
    noted += expanded(path.tap.take())
    assert [body for _, body in noted] == bodies
    assert [at_ns for at_ns, _ in noted] == sorted(at_ns for at_ns, _ in noted)
    assert all(one is other for one, other in zip(served, messages, strict=True))
    assert not path.unusual


@given(BODIES, st.sets(st.integers(0, 60)))
def test_a_run_is_the_same_as_from_each_chunk_by_itself(
    bodies: list[bytes], looks: set[int]
) -> None:
    assert run_of(bodies, HEAD, looks) == run_of(bodies, HEAD)


@pytest.mark.parametrize("stream", [one for one in STREAMS if not one.lines], ids=str)
def test_a_recording_tells_the_same_run(stream: Any) -> None:
    bodies = blocks(stream.body)
    assert run_of(bodies, stream.head, looks={len(bodies) // 2}) == run_of(bodies, stream.head)


def test_a_frame_over_the_limit_is_none_of_those_alike() -> None:
    bodies = [frame(text) for text in ("one", "two", "three", "x" * 500, "four")]
    run = run_of(bodies, HEAD, looks={4}, max_frame_bytes=300)
    assert run.issues == {"frame_oversized": 1}
    assert run == run_of(bodies, HEAD, max_frame_bytes=300)


def run_of(
    bodies: list[bytes], head: Head, looks: set[int] | None = None, **options: Any
) -> RunSummary:
    """From what the tap made of the chunks, taken behind some of them; or from each by itself."""
    pipeline = Pipeline(head, policy=ContentPolicy(keep=True, room_bytes=1 << 20), **options)
    sender, path, _ = opened(max_bytes=1 << 30)
    with each_look(14_000_000):  # one for each chunk, since no `send` waits
        for number, body in enumerate(bodies):
            if looks is None:
                pipeline.feed(body, number * 14_000_000)
            else:
                step(sender(chunk(body)))
            if looks is not None and (number in looks or number == len(bodies) - 1):
                work_off(pipeline, path.tap.take())
    end = StreamEnd(at_ns=len(bodies) * 14_000_000, final=True)
    return pipeline.close(end, started_at_ns=0)


def work_off(pipeline: Pipeline, entries: list[Any]) -> None:
    for at_ns, body in zip(entries[::2], entries[1::2], strict=True):
        if isinstance(body, speedups.Alike):
            while body:
                pipeline.feed_shaped(body, 0)
        else:
            pipeline.feed(body, at_ns)


def test_of_chunks_alike_only_what_differs_is_kept() -> None:
    sender, path, _ = opened()
    with each_look(10):
        for word in ("one", "two", "three", "four"):
            step(sender(chunk(frame(word))))
    entries = path.tap.take()
    assert entries[1] == frame("one")
    [alike] = entries[3::2]
    assert (alike.before + b"*" + alike.behind, len(alike)) == (frame("*"), 3)
    told = alike.read_texts(2, 1000)
    assert told is not None
    text, times, size = told
    assert (text, list(times), size) == (
        "twothree",
        [10, 20],
        len(frame("two") + frame("three")),
    )
    assert alike.read()[1] == frame("four")
    assert len(alike) == 0
    with pytest.raises(IndexError):
        alike.read()


def test_texts_are_read_in_parts() -> None:
    sender, path, _ = opened()
    for word in ("", "one", "two", "ü", "four", "five"):
        step(sender(chunk(frame(word))))
    alike = path.tap.take()[-1]
    assert [alike.read_texts(*most)[0] for most in ((1, 9), (9, 5), (9, 1), (9, 10))] == [
        "one", "two", "ü", "fourfive"
    ]  # fmt: skip
    for wrong in ((), (1,), (0, 1), (1, 0), ("a", 1)):
        with pytest.raises((ValueError, TypeError)):
            alike.read_texts(*wrong)


def test_what_is_no_text_is_not_read_as_such() -> None:
    sender, path, _ = opened()
    for piece in (b"one", b"two", b"\xff", b"\xc3", b"\xbc", "ü".encode()):
        step(sender(chunk(b'{"a":"' + piece + b'"}')))
    alike = path.tap.take()[-1]
    text, times, size = alike.read_texts(1, 1000)
    assert (text, len(times), size) == ("two", 1, 11)
    assert alike.read_texts(9, 1000) is None
    assert [alike.read()[1][6:-2] for _ in range(3)] == [b"\xff", b"\xc3", b"\xbc"]
    assert alike.read_texts(9, 1000)[0] == "ü"


def test_what_does_not_fit_goes_the_long_way() -> None:
    sender, path, _ = opened(max_bytes=600)
    messages = [chunk(b"x" * 100) for _ in range(4)]
    for message in messages:
        step(sender(message))
    assert path.unusual == messages[2:]
    assert len(expanded(path.tap.take())) == 2


@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.body", "body": b"a"},
        {"type": "http.response.body", "body": b"a", "more_body": False},
        {"type": "http.response.body", "body": bytearray(b"a"), "more_body": True},
        {"type": "http.response.body", "body": "a", "more_body": True},
        {"type": "http.response.trailers"},
        collections.OrderedDict(chunk()),
        {},
    ],
)
def test_what_is_no_plain_chunk_goes_the_long_way(message: Any) -> None:
    sender, path, _ = opened()
    step(sender(message))
    assert path.unusual == [message]
    assert not path.tap.take()


def test_without_a_stream_nothing_is_noted() -> None:
    path = Path()
    path.tap = SHUT
    sender = speedups.Sender(serve, path, Exchange(), SHUT)
    for message in (chunk(), chunk()):
        step(sender(message))
    assert len(path.unusual) == 2
    assert not SHUT.take()


def test_both_count_the_same_room() -> None:
    assert speedups.ENTRY_BYTES == ENTRY_BYTES
    assert speedups.MAX_PIECE_BYTES == MAX_PIECE_BYTES
    assert speedups.MIN_STALL_NS == MIN_STALL_NS
    assert {name for name in dir(NotesInPython) if name[0] != "_"} - {"append", "append_sent"} == {
        name for name in dir(speedups.Notes) if name[0] != "_"
    }


def test_a_fault_of_ours_is_told_and_the_message_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    served, told = [], []

    async def send(message: Any) -> None:
        served.append(message)

    def make_room(size: int) -> bool:
        raise MemoryError

    monkeypatch.setattr(sys, "unraisablehook", lambda fault: told.append(fault.exc_type))
    monkeypatch.setattr(Tap, "make_room", lambda tap, size: make_room(size))
    sender, _, _ = opened(send)
    message = chunk()
    assert isinstance(step(sender(message)), StopIteration)
    assert served == [message]
    assert told == [MemoryError]


# --- `send` is a coroutine in all but name --------------------------------------------------------


def test_the_time_in_send_is_between_what_was_read_outside_and_inside() -> None:
    sender, path, _ = opened(lambda message: suspended("wait"))
    with each_look(MIN_STALL_NS):
        for _ in range(2):
            sending = sender(chunk())
            assert step(sending) == "wait"
            assert isinstance(step(sending), StopIteration)
    assert (path.tap.stall_ns, path.tap.longest_stall_ns) == (2 * MIN_STALL_NS, MIN_STALL_NS)


@pytest.mark.parametrize(("waits", "took_ns"), [(False, 10**9), (True, MIN_STALL_NS - 1)])
def test_a_send_that_gives_way_to_nobody_or_soon_is_over_did_not_wait(
    waits: bool, took_ns: int
) -> None:
    async def send(message: Any) -> None:
        if waits:
            await suspended("wait")

    sender, path, _ = opened(send)
    with each_look(took_ns):
        sending = sender(chunk())
        while not isinstance(step(sending), StopIteration):
            pass
    assert (path.tap.stall_ns, path.tap.longest_stall_ns) == (0, 0)


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_what_the_server_raises_is_raised(error: BaseException) -> None:
    async def send(message: Any) -> None:
        raise error

    sender, _, exchange = opened(send)
    with pytest.raises(type(error)) as caught:
        sender(chunk()).send(None)
    assert caught.value is error
    assert exchange.disconnected_ns is None


def test_an_error_of_the_socket_says_that_the_client_has_left() -> None:
    async def send(message: Any) -> None:
        raise ConnectionResetError

    sender, path, exchange = opened(send)
    with pytest.raises(ConnectionResetError):
        sender(chunk()).send(None)
    [at_ns, _] = path.tap.take()
    assert exchange.disconnected_ns == at_ns


def test_a_server_may_return_any_awaitable() -> None:
    class Awaitable:
        def __await__(self) -> Iterator[Any]:
            yield "one"
            return "two"

    class Bare:
        def __await__(self) -> Iterator[Any]:
            return iter(["one"])

    for awaitable, value in ((Awaitable, "two"), (Bare, None), (lambda: suspended("one"), None)):
        sender, _, _ = opened(lambda message, awaitable=awaitable: awaitable())
        sending = sender(chunk())
        assert step(sending) == "one"
        assert step(sending).value == value
    for wrong in (lambda message: 1, lambda message: None):
        sender, _, _ = opened(wrong)
        with pytest.raises(TypeError, match="await"):
            sender(chunk()).send(None)


def test_what_is_thrown_arrives_inside() -> None:
    seen: list[BaseException] = []

    async def send(message: Any) -> None:
        try:
            await suspended("wait")
        except ValueError as error:
            seen.append(error)
        await suspended("again")

    sender, _, _ = opened(send)
    sending = sender(chunk())
    assert step(sending) == "wait"
    error = ValueError("no")
    assert sending.throw(error) == "again"
    assert seen == [error]
    with pytest.raises(KeyError, match="gone"):
        sending.throw(KeyError, KeyError("gone"), None)
    for again in (lambda: sending.send(None), lambda: sending.throw(error)):
        with pytest.raises(RuntimeError, match="already awaited"):
            again()
    sending.close()
    untouched = sender(chunk())
    with pytest.raises(ValueError, match="no"):
        untouched.throw(error)
    sending = sender(chunk())
    for wrong in ((), (1,), (error, None, None, None)):
        with pytest.raises(TypeError):
            sending.throw(*wrong)
    sending.close()


def test_closing_closes_what_is_inside() -> None:
    closed: list[str] = []

    async def send(message: Any) -> None:
        try:
            await suspended("wait")
        finally:
            closed.append("yes")

    sender, path, _ = opened(send)
    with each_look(MIN_STALL_NS):
        sending = sender(chunk())
        step(sending)
        sending.close()
    assert closed == ["yes"]
    assert path.tap.stall_ns == MIN_STALL_NS
    abandoned = sender(chunk())
    step(abandoned)
    del abandoned
    assert closed == ["yes", "yes"]

    async def stubborn(message: Any) -> None:
        try:
            await suspended("wait")
        except GeneratorExit:
            await suspended("no")

    sending = opened(stubborn)[0](chunk())
    step(sending)
    with pytest.raises(RuntimeError, match="GeneratorExit"):
        sending.close()


def test_who_forgets_to_await_is_told() -> None:
    sender, path, _ = opened()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        sender(chunk())
    assert not path.tap.take()
    for wrong in ((), (chunk(), chunk())):
        with pytest.raises(TypeError):
            sender(*wrong)


async def test_it_works_wherever_a_coroutine_does() -> None:
    sender, path, _ = opened()
    sending = sender(chunk())
    assert isinstance(sending, collections.abc.Coroutine)
    await sending
    await asyncio.create_task(sender(chunk()))
    await asyncio.wait_for(sender(chunk()), 5)
    await asyncio.gather(sender(chunk()), sender(chunk()))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender, chunk())
    assert len(expanded(path.tap.take())) == 6
    assert iscoroutinefunction(sender)
    await asyncio.to_thread(async_to_sync(sender), chunk())  # as Django's channels do


async def test_cancelling_a_task_cancels_what_waits_inside() -> None:
    waits = asyncio.Event()

    async def send(message: Any) -> None:
        waits.set()
        await asyncio.Event().wait()

    sender, path, exchange = opened(send)

    async def app() -> None:
        await sender(chunk())

    task = asyncio.create_task(app())
    with each_look(MIN_STALL_NS):
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert path.tap.stall_ns == MIN_STALL_NS
    assert exchange.disconnected_ns is None


def test_nothing_is_left_behind() -> None:
    """Neither by those that end, nor by those that are abandoned as part of a cycle."""
    message = chunk(frame("a"))

    def once() -> None:
        sender, path, _ = opened(lambda message: suspended("wait"))
        for ending in (step, lambda sending: sending.close(), lambda sending: None):
            sending = sender(message)
            step(sending)
            ending(sending)
        step(sender({"type": "http.response.body"}))
        kept = sender(message)
        step(kept)
        path.unusual.append(kept)  # path -> kept -> sender -> path
        for number in range(50):
            step(sender(chunk(frame(str(number)))))
        path.tap.note(1, path)

    def held() -> tuple[int, int, int]:
        gc.collect()
        return sys.getrefcount(message), sys.getrefcount(SHUT), len(gc.get_objects())

    once()
    before = held()
    for _ in range(200):
        once()
    after = held()
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 100


# --- gaps -----------------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(st.integers(0, 3), st.integers(0, 10**11), st.sampled_from(_GAP_EDGES_NS)),
        min_size=1,
        max_size=50,
    ),
    st.integers(0, 1000),
)
def test_gaps_are_counted_alike(gaps: list[int], before_ns: int) -> None:
    times = list(itertools.accumulate(gaps, initial=before_ns))[1:]
    counts, same = ([7] * (len(_GAP_EDGES_NS) + 1) for _ in range(2))
    told = speedups.count_gaps(times, before_ns, _GAP_EDGES_NS, counts)
    assert told == count_gaps_in_python(times, before_ns, _GAP_EDGES_NS, same)
    assert counts == same
    again = [7] * (len(_GAP_EDGES_NS) + 1)
    packed = memoryview(struct.pack(f"{len(times)}q", *times)).cast("q")
    assert speedups.count_gaps(packed, before_ns, _GAP_EDGES_NS, again) == told
    assert again == same


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ([1], 0, (1,), [0]),
        ([1], 0, [1], [0, 0]),
        (["a"], 0, (1,), [0, 0]),
        ((1,), 0, (1,), [0, 0]),
        (b"12345678", 0, (1,), [0, 0]),
        (memoryview(b"12345678").cast("Q"), 0, (1,), [0, 0]),
        (memoryview(bytes(32)).cast("q")[::2], 0, (1,), [0, 0]),
    ],
)
def test_gaps_of_anything_else_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, BufferError)):
        speedups.count_gaps(*wrong)
