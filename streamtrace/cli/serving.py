"""uvicorn, started the same way by `demo` and `run`.

The port is taken before anything else happens, so that a busy one is a plain message and the
address that is printed is the true one, with `--port 0` as well. Its connections hold little that
the client has not read, so that an app is held up by a client that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

import uvicorn

from streamtrace.cli.errors import UsageError
from streamtrace.serve.sockets import listening_socket

DRAIN_S = 2
"""How long open streams may go on after the server was told to stop."""


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket, and the URL under which it is reached. Raises UsageError."""
    try:
        taken = listening_socket(host, port)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error}") from error
    name = f"[{host}]" if taken.family == socket.AF_INET6 else host
    return taken, f"http://{name}:{taken.getsockname()[1]}"


def serve(app: object, taken: socket.socket, for_s: float | None = None) -> None:
    """Serve until interrupted, or for `for_s` seconds. The middleware sees to its sinks."""
    server = _server(app)
    timer = None
    if for_s is not None:
        timer = threading.Timer(for_s, setattr, (server, "should_exit", True))
        timer.daemon = True
        timer.start()
    try:
        server.run(sockets=[taken])
    except KeyboardInterrupt:  # uvicorn raises it again, once it has shut down
        return
    finally:
        if timer is not None:
            timer.cancel()


@contextlib.contextmanager
def beside(app: object, taken: socket.socket) -> Iterator[None]:
    """Serve another app on a thread of its own, while the block runs."""
    server = _server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _server(app: object) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Server(config)


def _is_news(record: logging.LogRecord) -> bool:
    """A stream that was cut by the shutdown is told by its run, not as a fault of the server."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    return not record.getMessage().startswith("Cancel ")
