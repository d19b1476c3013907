"""Listening sockets whose connections hold little that the client has not asked for.

Before `await send` waits for a client that does not read, the kernel takes megabytes: minutes of
tokens. A bound set on the listening socket is inherited by each connection that it accepts, so it
works under any server that takes a socket; see docs/backpressure.md for how each is told, and for
what was measured.

Rules that hold here:

* `TCP_NOTSENT_LOWAT` bounds what waits unsent. It leaves alone what is on its way, so a fast client
  far away is not slowed down. It counts whole segments: up to 64 KiB may wait where it says 16.
* `SO_SNDBUF` bounds all that the kernel holds, and with it the throughput: only set on request.
* `TCP_NODELAY` lets each frame leave at once. Servers set it on sockets that they made themselves;
  of those that they are given, asyncio's loop forgets it, and uvloop's where it is told by number.
* A system that has no such option leaves the socket as it is; the answer says so.
"""

from __future__ import annotations

import errno
import socket

from streamtrace.core.errors import ConfigError

MAX_UNSENT_BYTES = 16 * 1024
BACKLOG = 2048
"""As uvicorn's own default: connections that wait to be accepted."""

_IP = (socket.AF_INET, socket.AF_INET6)
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)


def listening_socket(
    host: str,
    port: int,
    *,
    max_unsent_bytes: int = MAX_UNSENT_BYTES,
    send_buffer_bytes: int | None = None,
    backlog: int = BACKLOG,
) -> socket.socket:
    """A TCP socket that listens at `host` and `port` (0: any that is free), bounded as told.

    Hand it to the server: `uvicorn.Server(config).run(sockets=[it])`, or its `fileno()`. Other
    programs that are to be started with it inherit it after `it.set_inheritable(True)`.

    Raises ConfigError for a bound that is none, OSError where nobody can listen there.
    """
    _check(max_unsent_bytes, send_buffer_bytes)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=backlog)
    tune_listener(listener, max_unsent_bytes, send_buffer_bytes=send_buffer_bytes)
    return listener


def tune_listener(
    listener: socket.socket,
    max_unsent_bytes: int = MAX_UNSENT_BYTES,
    *,
    send_buffer_bytes: int | None = None,
) -> bool:
    """Bound what the kernel takes for each connection that this socket accepts from now on, and let
    small frames leave at once.

    max_unsent_bytes    what may wait unsent before the socket takes no more
    send_buffer_bytes   all that the kernel may hold, unacknowledged bytes too; Linux doubles it for
                        its own bookkeeping. It caps each connection at this much per round trip

    True where the unsent bytes are bounded now: not on Unix sockets, nor where the system cannot.
    Raises ConfigError for a bound that is none.
    """
    _check(max_unsent_bytes, send_buffer_bytes)
    if send_buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    if listener.family not in _IP:
        return False
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _NOTSENT_LOWAT is None:
        return False
    try:
        listener.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, max_unsent_bytes)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # as sandboxes answer that have no such option
            raise
        return False
    return True


def _check(max_unsent_bytes: int, send_buffer_bytes: int | None) -> None:
    bounds = {"max_unsent_bytes": max_unsent_bytes, "send_buffer_bytes": send_buffer_bytes}
    for name, value in bounds.items():
        if value is not None and not 0 < value < 2**31:
            raise ConfigError(f"{name} must be a number of bytes from 1 to 2**31 - 1, got {value}")
