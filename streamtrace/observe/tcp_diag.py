"""What the kernel knows of a TCP connection: what the client has not taken, and for how long.

A server keeps its connections to itself, so the kernel is asked as `ss` does it: `sock_diag`.

Rules that hold here:

* A connection is named by its two ends, as the ASGI scope tells them, and the answer must bear the
  same. Once found, it is known by the kernel's cookie: a later connection between the same ends is
  another. So no answer is about a wrong connection; there is none, rather.
* No file descriptor of the server is touched: nothing can be closed, or held open.
* Asking never waits and needs no privilege. Where it is not possible (no Linux, Unix sockets,
  sandboxes without netlink, client addresses that a proxy's headers gave), the answer is `None`.

Source of numbers and layouts: Linux, include/uapi/linux/{netlink,sock_diag,inet_diag,tcp}.h.
"""

from __future__ import annotations

import os
import socket
import struct
import weakref
from collections.abc import Callable
from typing import Any, NewType

import msgspec

_AF_NETLINK: int | None = getattr(socket, "AF_NETLINK", None)
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_INET_DIAG_INFO = 2
_ALL_STATES = 0xFFFFFFFF
_COOKIE_BYTES = 8
_ANY_INTERFACE = bytes(4)
_NO_COOKIE = b"\xff" * _COOKIE_BYTES

_NUMBER = struct.Struct("=I")
_NUMBER_AT = 8
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, number, port
_WHAT = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, attributes, padding, states
_ENDS = struct.Struct("!HH16s16s")  # inet_diag_sockid: ports, addresses; then interface, cookie
_ENDS_AT = _HEADER.size + _WHAT.size
_COOKIE_AT = _ENDS_AT + _ENDS.size + len(_ANY_INTERFACE)
_REQUEST_BYTES = _COOKIE_AT + _COOKIE_BYTES

_ANSWERED_ENDS_AT = _HEADER.size + 4  # inet_diag_msg: family, state, timer, retransmits, then ends
_ANSWERED_COOKIE_AT = _ANSWERED_ENDS_AT + _ENDS.size + len(_ANY_INTERFACE)
_UNACKNOWLEDGED_AT = _ANSWERED_COOKIE_AT + _COOKIE_BYTES + 8  # idiag_wqueue
_ATTRIBUTES_AT = _UNACKNOWLEDGED_AT + 12
_ATTRIBUTE = struct.Struct("=HH")  # length, type
# tcp_info: snd_mss, notsent_bytes, busy_time, rwnd_limited
_INFO = struct.Struct("=16xI124xI20xQQ")
_ANSWER_BYTES = 4096


def _asking(family: int) -> bytes:
    """What comes before the ends."""
    wanted = 1 << (_INET_DIAG_INFO - 1)
    return _HEADER.pack(_REQUEST_BYTES, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + _WHAT.pack(
        family, socket.IPPROTO_TCP, wanted, 0, _ALL_STATES
    )


_ASKING = {family: _asking(family) for family in (socket.AF_INET, socket.AF_INET6)}


class TcpInfo(msgspec.Struct, frozen=True, gc=False):
    """One connection, now. The times add up from its start; both count only while data waits."""

    unacknowledged_bytes: int
    """What the app sent, less what the client's system has confirmed."""
    segment_bytes: int
    """The most that is sent at once; less than that may wait for more to come (Nagle)."""
    unsent_bytes: int
    """The part of it that could not even be sent yet."""
    busy_us: int
    """How long anything at all was unacknowledged."""
    window_limited_us: int
    """How long the client's system took no more, since its app did not read."""


Connection = NewType("Connection", bytearray)
"""The question about a connection, as the kernel is asked; once answered, with its cookie."""


def connection_between(client: Any, server: Any) -> Connection | None:
    """The connection of these ends, as the ASGI scope tells them; `None` where they are none."""
    try:
        host, port = client
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        remote = socket.inet_pton(family, host)
        local = _local_address(family, server[0], host)
        ends = _ENDS.pack(int(server[1]), int(port), local, remote)
    except (OSError, TypeError, LookupError, ValueError, struct.error):
        return None
    asking = _ASKING[family] + ends + _ANY_INTERFACE + _NO_COOKIE
    return Connection(bytearray(asking))


def _local_address(family: int, told: Any, client: str) -> bytes:
    """The server's end. Where it listens on all addresses (granian tells no more), the one from
    which packets go to the client: nothing is sent to find out."""
    try:
        address = socket.inet_pton(family, told)
    except OSError:
        address = b""
    if any(address):
        return address
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((client, 9))
        return socket.inet_pton(family, probe.getsockname()[0])


class TcpDiag:
    """Asks the kernel. To be used on one thread; a forked child asks on a socket of its own."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._close: Callable[[], object] | None = None
        self._opened_by = 0
        self._number = 0
        self._answer = bytearray(_ANSWER_BYTES)

    def ask(self, connection: Connection) -> TcpInfo | None:
        """What is known now; `None` where there is no such connection (any more), or no answer."""
        kernel = self._kernel()
        if kernel is None:
            return None
        answer = self._answer
        number = self._number = (self._number + 1) & 0xFFFFFFFF
        _NUMBER.pack_into(connection, _NUMBER_AT, number)
        try:
            kernel.send(connection)
            size = kernel.recv_into(answer)
            while _NUMBER.unpack_from(answer, _NUMBER_AT)[0] != number:  # another was given up
                size = kernel.recv_into(answer)
        except OSError:
            return None
        ends = slice(_ANSWERED_ENDS_AT, _ANSWERED_ENDS_AT + _ENDS.size)
        if size < _ATTRIBUTES_AT or answer[ends] != connection[_ENDS_AT : _ENDS_AT + _ENDS.size]:
            return None  # an error; or, where the connection is gone, the socket that listens
        connection[_COOKIE_AT:] = answer[_ANSWERED_COOKIE_AT : _ANSWERED_COOKIE_AT + _COOKIE_BYTES]
        at = _ATTRIBUTES_AT
        while at + _ATTRIBUTE.size <= size:
            length, kind = _ATTRIBUTE.unpack_from(answer, at)
            if kind == _INET_DIAG_INFO and length >= _ATTRIBUTE.size + _INFO.size:
                (unacknowledged,) = _NUMBER.unpack_from(answer, _UNACKNOWLEDGED_AT)
                return TcpInfo(unacknowledged, *_INFO.unpack_from(answer, at + _ATTRIBUTE.size))
            at += max(_ATTRIBUTE.size, (length + 3) & ~3)
        return None

    def _kernel(self) -> socket.socket | None:
        pid = os.getpid()
        if self._opened_by != pid:
            self._opened_by = pid
            if self._close is not None:
                self._close()
            self._socket = self._close = None
            if _AF_NETLINK is None:
                return None
            try:
                opened = socket.socket(_AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG)
            except OSError:
                return None
            opened.setblocking(False)
            self._socket = opened
            self._close = weakref.finalize(self, opened.close)
        return self._socket
