"""Logged runs under test: an agent that says what the test lets it, and readers of its frames."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

from support.asgi import Server, http_scope

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, FrameParser
from streamtrace.serve import AgentRouter
from streamtrace.serve.context import RunContext
from streamtrace.serve.log.base import EventLog

JSON = [(b"content-type", b"application/json")]


class Told:
    """An agent whose every word the test says: `tell` some, and at last `end`."""

    def __init__(self) -> None:
        self.said = 0
        self._told = 0
        self.ended: list[str | None] = []
        """Why, of each run that its agent saw the end of: `None` where nobody asked for it."""
        self._asked: asyncio.Queue[ev.Event | None] = asyncio.Queue()

    async def __call__(self, run: RunContext) -> AsyncIterator[ev.Event]:
        try:
            while (event := await self._asked.get()) is not None:
                self.said += 1
                yield event
        finally:
            self.ended.append(run.cancel.reason)

    def tell(self, words: int) -> None:
        """So many more words may be said."""
        for _ in range(words):
            self._told += 1
            self.say(ev.TextDelta(text=f"w{self._told} ", message_id="m"))

    def say(self, *events: ev.Event) -> None:
        """These events."""
        for event in events:
            self._asked.put_nowait(event)

    def end(self) -> None:
        """And no more, by one run."""
        self._asked.put_nowait(None)


async def talk(run: RunContext) -> AsyncIterator[ev.Event]:
    """Says `words` words, as many as the request wants, as fast as it can."""
    for number in range(int(run.input.get("words", 5))):
        yield ev.TextDelta(text=f"w{number} ", message_id="m")


def frames_of(body: bytes) -> list[Frame]:
    """Its whole frames. Raises AssertionError for a stream that ends within one."""
    parser = FrameParser()
    frames = parser.feed(body)
    assert not parser.close(), "the stream ends within a frame"
    return frames


def numbered(body: bytes) -> list[tuple[str, bytes]]:
    """Id and data of all frames that have data."""
    return [(frame.id or "", frame.data) for frame in frames_of(body) if frame.data is not None]


class Reader(Server):
    """A client that follows: `got` is what it has. While `reads` is not set it takes nothing."""

    def __init__(self, request: bytes = b"") -> None:
        super().__init__(request)
        self.reads = asyncio.Event()
        self.reads.set()
        self._serving: asyncio.Task[None] | None = None

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        await super().send(message)

    @property
    def got(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete."""
        return bool(self.sent) and not self.sent[-1].get("more_body", "status" in self.sent[-1])

    @property
    def numbers(self) -> list[int]:
        """Those of what it has so far."""
        parser = FrameParser()
        ids = [frame.id for frame in parser.feed(self.got) if frame.id]
        return [int(one.rpartition(":")[2]) for one in ids]

    def start(self, app: Any, path: str, method: str = "GET", **headers: str) -> Reader:
        path, _, query = path.partition("?")
        given = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        scope = http_scope(
            path, method=method, query_string=query.encode(), headers=[*JSON, *given]
        )
        self._serving = asyncio.create_task(self.run(app, scope))
        return self

    async def leave(self) -> None:
        """Hang up, and see what the app makes of it."""
        self.gone.set()
        self.reads.set()
        await self.whole()

    async def whole(self) -> bytes:
        """All, once the app has returned."""
        assert self._serving is not None
        await self._serving
        return self.got


async def cut_at_random(here: EventLog, there: EventLog) -> None:
    """Twelve clients follow a run on two replicas, lose the connection again and again, and read
    slowly now and then. Raises AssertionError for one that has not got the whole in the end."""
    chance = random.Random(7)
    agent = Told()
    apps = [AgentRouter().resumable("/chat", agent, log=log).app() for log in (here, there)]
    first = Reader(b'{"run_id":"r"}').start(apps[0], "/chat/runs", "POST")
    await soon(lambda: bool(first.numbers))

    async def one(after: int, is_slow: bool) -> Reader:
        """A connection that is lost somewhere, or at the end."""
        app = chance.choice(apps)
        reader = Reader().start(app, "/chat/runs/r/events", last_event_id=str(after))
        wanted = after + chance.randint(1, 40)
        if is_slow:
            reader.reads.clear()
        for _ in range(chance.randint(1, 200)):
            await asyncio.sleep(0)
        reader.reads.set()
        await soon(lambda: reader.is_over or (reader.numbers or [0])[-1] >= wanted)
        await reader.leave()
        return reader

    async def follow(number: int) -> list[tuple[str, bytes]]:
        """One who comes back until there is no more."""
        got: list[tuple[str, bytes]] = []
        while True:
            reader = await one(len(got), number % 3 == 1)
            if reader.status == 204:
                return got
            assert reader.status == 200
            got += numbered(reader.got)

    followers = [asyncio.create_task(follow(number)) for number in range(12)]
    for _ in range(30):
        agent.tell(chance.randint(1, 20))
        for _ in range(chance.randint(1, 30)):
            await asyncio.sleep(0)
    agent.end()
    whole = numbered(await first.whole())
    assert [number for number, _ in whole] == [str(at + 1) for at in range(len(whole))]
    for got in await asyncio.gather(*followers):
        assert got == whole


async def soon(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds. Raises TimeoutError after 30 s."""
    async with asyncio.timeout(30):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0)
