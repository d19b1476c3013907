"""Requests written byte by byte, for those that no proper client would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

ANSWERS_WITHIN_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST"
) -> bytes:
    """A request of HTTP/1.1 with its length, where the headers say nothing of it."""
    named = {"Host": "test", "Content-Length": str(len(body)), **(headers or {})}
    if "Transfer-Encoding" in named:
        del named["Content-Length"]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def ask(url: str, sent: bytes) -> Answer:
    """Send these bytes, and read one answer; the connection stays open until it is there."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").rstrip().split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    finally:
        writer.close()
    return Answer(int(first.split(" ")[1]), headers, body)
