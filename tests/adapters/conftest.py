"""A server that replays recorded streams, for the real clients of SDKs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from support.recordings import RECORDED

BODIES = {stream.name: stream.body for stream in RECORDED}
PIECE_BYTES = 1000


class _Replays(BaseHTTPRequestHandler):
    """`POST /NAME/...` is answered with that recording, `/cut:NAME/...` with its first half."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        cut, _, name = unquote(self.path.split("/")[1]).rpartition(":")
        body = BODIES.get(name, b"")
        if cut:
            body = body[: body.index(b"\n\n", len(body) // 2) + 2]
        self.send_response(200 if body else 404)
        body = body or b'{"error": {"message": "no such recording"}}'
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # some clients leave
            for start in range(0, len(body), PIECE_BYTES):
                self.wfile.write(body[start : start + PIECE_BYTES])

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="session")
def replay() -> Iterator[str]:
    """The URL of the server; below it, the names of recordings."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Replays)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
