"""Where the sinks send to, as cheap as can be, in a process of its own: answers 200 and counts.

    with Receivers(core=1) as receivers:
        OTelSink(exporter=OTLPSpanExporter(endpoint=receivers.otlp_url))
        LangfuseSink(base_url=receivers.langfuse_host, ...)
        ...
        receivers.counts()          # {"requests": 12, "bytes": 34567}

The other process listens on a free loopback port and ends when its standard input does: with the
parent, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from typing import Self

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
_COUNTS_PATH = "/counts"
_LENGTH = b"content-length:"


class Receivers:
    """`core` is the one that the other process may use; `None`: any."""

    def __init__(self, core: int | None = None) -> None:
        self._core = core

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip().decode()
        if not port:
            raise RuntimeError(f"the receiver ended with {self._process.wait()}")
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        self._url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, waits for its end

    @property
    def otlp_url(self) -> str:
        """The endpoint of traces, in full."""
        return f"{self._url}/v1/traces"

    @property
    def langfuse_host(self) -> str:
        return self._url

    def counts(self) -> dict[str, int]:
        """What was answered so far: requests, and bytes of their bodies as they came."""
        with urllib.request.urlopen(self._url + _COUNTS_PATH, timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found


class _Answering(asyncio.Protocol):
    """One connection: reads heads, skips bodies, answers each. Bodies need a content-length."""

    counts: dict[str, int] = {"requests": 0, "bytes": 0}  # noqa: RUF012  of all connections

    def __init__(self) -> None:
        self._head = bytearray()
        self._body_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            if self._body_left:
                skipped = min(self._body_left, len(data))
                data = data[skipped:]
                self._body_left -= skipped
                if not self._body_left:
                    self._answer(_OK)
                continue
            self._head += data
            head, found, rest = bytes(self._head).partition(b"\r\n\r\n")
            if not found:
                return
            self._head.clear()
            data = rest
            self._begin(head)

    def _begin(self, head: bytes) -> None:
        if head.startswith(b"GET " + _COUNTS_PATH.encode()):
            body = json.dumps(self.counts).encode()
            length = b"content-length: %d" % len(body)
            self._answer(_OK.replace(b"content-length: 0", length) + body)
            return
        lines = (line.lower() for line in head.split(b"\r\n"))
        told = next((line for line in lines if line.startswith(_LENGTH)), _LENGTH + b"0")
        self._body_left = int(told.removeprefix(_LENGTH))
        self.counts["requests"] += 1
        self.counts["bytes"] += self._body_left
        if not self._body_left:
            self._answer(_OK)

    def _answer(self, answer: bytes) -> None:
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(answer)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answering, "127.0.0.1", 0)
    parent_is_gone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), parent_is_gone.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await parent_is_gone.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
