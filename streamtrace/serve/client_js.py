"""`streamtrace.js`, the browser's client, as a route.

Rules that hold here:

* The file is that of the installed package: client and server are of one version.
* Who has it already is told so by its hash, whichever replica asked before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

FILE = Path(__file__).parent / "static" / "streamtrace.js"


class ClientJs:
    """The ASGI app of one path: GET and HEAD."""

    def __init__(self) -> None:
        self._body = FILE.read_bytes()
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = dict(scope["headers"]).get(b"if-none-match", b"")
        method, body = scope["method"], b""
        headers = [(b"etag", self._etag), (b"cache-control", b"no-cache")]
        if method not in ("GET", "HEAD"):
            status, headers = 405, [(b"allow", b"GET, HEAD"), (b"content-length", b"0")]
        elif self._etag in (tag.strip().removeprefix(b"W/") for tag in asked.split(b",")):
            status = 304
        else:
            status, body = 200, self._body if method == "GET" else b""
            headers += [
                (b"content-type", b"text/javascript; charset=utf-8"),
                (b"content-length", str(len(self._body)).encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
