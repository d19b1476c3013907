"""A client over a socket of its own, for what test clients in the process cannot show.

Rules that hold here:

* Nothing is read before it is asked for: who reads no more leaves the rest to the buffers of the
  kernel, and then to the server.
* Whoever waits, waits for `timeout_s` at the most.
"""

from __future__ import annotations

import http.client
import json as json_module
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from streamtrace.core.errors import ConfigError

_MAX_LINE_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024


class SocketClient:
    """One request, and its stream, read as fast as the test says.

        with SocketClient("http://127.0.0.1:8000/chat", json={"message": "hi"}) as client:
            client.read_events(3)
            client.hang_up()

    To read no more is to call nothing. With `receive_buffer_bytes` the kernel holds less for this
    client, so that the server notices sooner. It blocks: in an asyncio test that serves on its own
    loop, use `asyncio.to_thread`. Raises ConfigError for a URL that is not plain HTTP, OSError
    where nobody listens, and TimeoutError when nothing comes for `timeout_s`.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "POST",
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        receive_buffer_bytes: int | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ConfigError(f"url must begin with http://HOST, got {url!r}")
        address = (parts.hostname, parts.port or 80)
        self.complete = False
        """Whether the stream ended as it should; one that was cut did not."""
        family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        try:
            if receive_buffer_bytes is not None:  # before the connection: its window depends on it
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self._socket.settimeout(timeout_s)
            self._socket.connect(target)
            connection = http.client.HTTPConnection(*address)
            connection.sock = self._socket
            body = None if method == "GET" else json_module.dumps(json or {})
            sent = {"Content-Type": "application/json", **(headers or {})}
            path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            connection.request(method, path, body, sent)
            self._response = connection.getresponse()
        except BaseException:
            self._socket.close()
            raise
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}

    def read_events(self, count: int) -> list[bytes]:
        """The next `count` events of the stream, comments within them; fewer if it ends before."""
        events: list[bytes] = []
        event = b""
        while len(events) < count and (line := self._response.readline(_MAX_LINE_BYTES)):
            event += line
            if not line.strip(b"\r\n"):
                events.append(event)
                event = b""
        return events

    def read_slowly(self, bytes_per_s: float, for_s: float) -> bytes:
        """What comes within `for_s`, read at that speed."""
        tick_s = min(0.1, for_s)
        size = max(1, round(bytes_per_s * tick_s))
        read = b""
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s and (piece := self._response.read1(size)):
            read += piece
            time.sleep(len(piece) / bytes_per_s)
        return read

    def read_rest(self) -> bytes:
        """All that is left, at full speed. `complete` says afterwards whether it was all."""
        read = bytearray()
        try:
            while piece := self._response.read1(_READ_BYTES):
                read += piece
            self.complete = self._response.isclosed()
        except (http.client.IncompleteRead, ConnectionError):
            self.complete = False
        return bytes(read)

    def hang_up(self, *, reset: bool = False) -> None:
        """Leave: with a FIN, which the kernel makes a RST where data is unread, or with a RST."""
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._response.close()
        self._socket.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()
