"""What the kernel tells of connections, over real ones on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamtrace.observe import tcp_diag
from streamtrace.observe.tcp_diag import Connection, TcpDiag, connection_between

HOSTS = ["127.0.0.1", "::1"]


@contextmanager
def connected(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end, and the client's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        server, _ = listener.accept()
        with server:
            server.setblocking(False)
            yield server, client


def ends(server: socket.socket) -> Connection:
    """As uvicorn tells them."""
    return between(server.getpeername()[:2], server.getsockname()[:2])


def between(client: object, server: object) -> Connection:
    found = connection_between(client, server)
    assert found is not None
    return found


def fill(server: socket.socket) -> int:
    total = 0
    while True:
        try:
            total += server.send(b"x" * 10_000)
        except BlockingIOError:
            return total


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_client_did_not_take_is_told(host: str) -> None:
    diag = TcpDiag()
    with connected(host) as (server, client):
        asked = ends(server)
        before = diag.ask(asked)
        assert before is not None
        assert before.unacknowledged_bytes == before.unsent_bytes == 0
        sent = fill(server)
        full = diag.ask(asked)
        assert full is not None
        assert 1_000_000 < full.unsent_bytes <= full.unacknowledged_bytes < sent
        while (full := diag.ask(asked)) is not None and not full.window_limited_us:
            pass  # the kernel's clock has steps of milliseconds
        assert full is not None
        assert full.busy_us >= full.window_limited_us
        left = sent
        while left:
            left -= len(client.recv(1_000_000))
        after = diag.ask(asked)
        assert after is not None
        assert after.unacknowledged_bytes == after.unsent_bytes == 0


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::", "localhost"])
def test_a_server_that_does_not_know_its_own_address_is_found_all_the_same(wildcard: str) -> None:
    """granian tells the address that it was bound to, and ports as text."""
    with connected() as (server, _):
        client, port = server.getpeername(), server.getsockname()[1]
        told = between((client[0], str(client[1])), (wildcard, str(port)))
        assert TcpDiag().ask(told) is not None


def test_an_address_of_version_4_inside_one_of_6_is_found() -> None:
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])),
    ):
        server, _ = listener.accept()
        with server:
            assert server.getpeername()[0] == "::ffff:127.0.0.1"
            assert TcpDiag().ask(ends(server)) is not None
            told = between(server.getpeername()[:2], ("::", server.getsockname()[1]))
            assert TcpDiag().ask(told) is not None


def test_a_connection_that_is_gone_is_not_known_though_its_port_still_listens() -> None:
    diag = TcpDiag()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        asked, fresh = ends(server), ends(server)
        assert diag.ask(asked) is not None
        client.close()
        server.close()
        assert diag.ask(asked) is None
        assert diag.ask(fresh) is None


def test_a_later_connection_between_the_same_ends_is_another() -> None:
    diag = TcpDiag()
    nobody_elses = "127.66.0.1"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), source_address=(nobody_elses, 0))
        server, _ = listener.accept()
        own = client.getsockname()
        asked = ends(server)
        assert diag.ask(asked) is not None
        on_with_no_time = b"\1\0\0\0\0\0\0\0"  # a reset: the ends are free at once
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on_with_no_time)
        client.close()
        server.close()
        with socket.create_connection(listener.getsockname(), source_address=own):
            again, _ = listener.accept()
            with again:
                assert again.getpeername() == own
                assert diag.ask(ends(again)) is not None
                assert diag.ask(asked) is None


def test_each_of_many_connections_is_told_as_it_is() -> None:
    """Between the same two hosts, at once, asked in turns."""
    diag = TcpDiag()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(40)]
        servers = [listener.accept()[0] for _ in clients]
        try:
            sizes = {}
            for number, server in enumerate(servers):
                server.setblocking(False)
                if number % 2:
                    fill(server)
                sizes[number] = ends(server)
            for _ in range(3):
                for number, asked in sizes.items():
                    told = diag.ask(asked)
                    assert told is not None
                    assert (told.unsent_bytes > 0) == (number % 2 == 1)
        finally:
            for one in (*clients, *servers):
                one.close()


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (None, ("127.0.0.1", 80)),
        (("127.0.0.1", 5), None),
        (("testclient", 50000), ("testserver", 80)),
        (("203.0.113.9", 70000), ("127.0.0.1", 80)),
        (("127.0.0.1", "x"), ("127.0.0.1", 80)),
        (("127.0.0.1", 5), ("/run/app.sock", None)),
        (("fe80::1%eth0", 5), ("fe80::2%eth0", 80)),
        (("", 5), ("127.0.0.1", 80)),
        ((5, 5), ("127.0.0.1", 80)),
    ],
)
def test_what_is_no_connection_is_none(client: object, server: object) -> None:
    assert connection_between(client, server) is None


def test_ends_without_a_connection_are_not_known() -> None:
    """Of a client whose address a proxy's header gave, for instance."""
    assert TcpDiag().ask(between(("203.0.113.9", 0), ("127.0.0.1", 80))) is None


@pytest.mark.parametrize("family", [None, 0x7FFF])
def test_where_the_kernel_cannot_be_asked_nothing_is_known(
    family: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without netlink in Python, or in the kernel."""
    monkeypatch.setattr(tcp_diag, "_AF_NETLINK", family)
    with connected() as (server, _):
        diag = TcpDiag()
        assert diag.ask(ends(server)) is None
        assert diag.ask(ends(server)) is None


def test_an_answer_that_nobody_took_is_not_mistaken_for_the_next() -> None:
    diag = TcpDiag()
    with connected() as (server, _), connected() as (other, _):
        fill(server)
        full, idle = ends(server), ends(other)
        assert diag.ask(idle) is not None
        kernel = diag._kernel()
        assert kernel is not None
        kernel.send(full)  # as if its asker had been interrupted here
        told = diag.ask(idle)
        assert told is not None
        assert told.unsent_bytes == 0


def test_a_forked_child_asks_on_a_socket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    diag = TcpDiag()
    with connected() as (server, _):
        asked = ends(server)
        assert diag.ask(asked) is not None
        parents = diag._kernel()
        assert parents is not None
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert diag.ask(asked) is not None
        assert diag._kernel() is not parents
        assert parents.fileno() == -1


def test_its_socket_is_closed_with_it() -> None:
    diag = TcpDiag()
    kernel = diag._kernel()
    assert kernel is not None
    del diag
    assert kernel.fileno() == -1
