"""A server that answers by a script, to the byte: what cuts, refuses, repeats or hangs, and when.

    async with Script(sse("id: 1\\ndata: a\\n\\n", end="cut"), empty()) as script: ...script.url

Each request is given the next answer; `script.asked` is what came. A request behind the last answer
is a failure, which the end of the block raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

End = Literal["whole", "cut", "hang", "flood"]
MAX_FLOOD_BYTES = 64 * 1024 * 1024
STUCK_AFTER_S = 0.3


@dataclass(frozen=True)
class Answer:
    """What is sent, and how it ends: as it should, cut, not at all until the client leaves, or with
    comments without end, until the client takes no more.

    `status` 0: the connection is cut before there is an answer. `is_late`: it comes when a flood is
    stuck.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    end: End = "whole"
    is_late: bool = False


@dataclass(frozen=True)
class Asked:
    """A request as it came; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def cursor(self) -> str | None:
        return self.headers.get("last-event-id")


def sse(*pieces: str | bytes, end: End = "whole", **headers: str) -> Answer:
    """A stream. Its reader is told to come back within a millisecond."""
    named = {"content-type": "text/event-stream", "x-run-id": "r-1", "x-thread-id": "t-1"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = [
        piece.encode() if isinstance(piece, str) else piece for piece in ("retry: 1\n\n", *pieces)
    ]
    return Answer(200, named, tuple(body), end)


def event(number: int, data: str) -> str:
    return f"id: {number}\ndata: {data}\n\n"


def gap(after: int, missed: int) -> str:
    value = {"type": "CUSTOM", "name": "gap", "value": {"after": after, "missed": missed}}
    return f"event: gap\nid: {after + missed}\ndata: {json.dumps(value)}\n\n"


def empty() -> Answer:
    """204: there is nothing left."""
    return Answer(204)


def cut() -> Answer:
    """No answer at all."""
    return Answer(0)


def refusal(status: int, code: str, **headers: str) -> Answer:
    body = json.dumps({"error": {"type": code, "message": f"It is {code}."}}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": "application/json", **named}, (body,))


def said(value: Any, *, is_late: bool = False) -> Answer:
    """An answer in JSON."""
    body = json.dumps(value).encode()
    return Answer(200, {"content-type": "application/json"}, (body,), is_late=is_late)


class Script:
    """The server, for the time of the block."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[Asked] = []
        self.left = asyncio.Event()  # a client has left an answer that hung
        self.stuck = asyncio.Event()  # a flood is taken by nobody
        self._answers = list(answers)
        self._unexpected: list[str] = []
        self._serving: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        assert self._unexpected == []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            asked = await _read(reader)
            self.asked.append(asked)
            if not self._answers:
                self._unexpected.append(f"{asked.method} {asked.path}")
                return
            await self._answer(self._answers.pop(0), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not answer.status:
            return
        if answer.is_late:
            await self.stuck.wait()
        headers = {**answer.headers, "connection": "close"}
        if answer.status != 204:
            headers["transfer-encoding"] = "chunked"
        lines = [f"HTTP/1.1 {answer.status} So", *(f"{name}: {headers[name]}" for name in headers)]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        for piece in answer.pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if answer.end == "flood":
            await self._flood(writer)
        elif answer.end == "hang":
            await reader.read()
            self.left.set()
        elif answer.end == "whole" and answer.status != 204:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        line = b": %b\n" % (b"-" * 65_533)
        for _ in range(MAX_FLOOD_BYTES // len(line)):
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            try:
                await asyncio.wait_for(writer.drain(), STUCK_AFTER_S)
            except TimeoutError:
                self.stuck.set()
                await writer.drain()
        self._unexpected.append(f"{MAX_FLOOD_BYTES} bytes that nobody had asked for were taken")
        self.stuck.set()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(body) if body else None)
