"""Listening sockets, and what their connections take for a client that does not read."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.pages import execute, python_blocks

from streamtrace.core.errors import ConfigError
from streamtrace.serve import sockets
from streamtrace.serve.sockets import MAX_UNSENT_BYTES, listening_socket, tune_listener

PAGE = "docs/backpressure.md"


def accepted_bytes(listener: socket.socket) -> int:
    """How much the kernel takes for a client that reads nothing."""
    with socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            total = 0
            while True:
                try:
                    total += connection.send(b"x" * 1000)
                except BlockingIOError:
                    return total


def option(listener: socket.socket, name: str) -> int:
    """As a connection has it that was accepted there."""
    with socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
            return connection.getsockopt(level, getattr(socket, name))


def test_a_connection_takes_kilobytes_not_megabytes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        assert accepted_bytes(plain) > 1_000_000
    with listening_socket("127.0.0.1", 0) as bounded:
        assert accepted_bytes(bounded) < 300_000


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_inherit_what_streams_need(host: str) -> None:
    with listening_socket(host, 0, send_buffer_bytes=50_000) as listener:
        assert option(listener, "TCP_NOTSENT_LOWAT") == MAX_UNSENT_BYTES
        assert option(listener, "TCP_NODELAY") == 1
        assert option(listener, "SO_SNDBUF") == 2 * 50_000


def test_what_is_sent_is_bounded_only_on_request() -> None:
    """The kernel finds a good size by itself, and stops once it is told one."""
    with socket.create_server(("127.0.0.1", 0)) as plain, listening_socket("127.0.0.1", 0) as ours:
        assert option(ours, "SO_SNDBUF") == option(plain, "SO_SNDBUF")


def test_a_socket_of_others_is_tuned_in_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert tune_listener(listener, 5_000)
        assert option(listener, "TCP_NOTSENT_LOWAT") == 5_000
        assert option(listener, "TCP_NODELAY") == 1


def test_a_unix_socket_stays_as_it_is(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert not tune_listener(listener)


def test_a_system_without_the_option_gets_a_socket_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "_NOTSENT_LOWAT", None)
    with listening_socket("127.0.0.1", 0) as listener:
        assert option(listener, "TCP_NODELAY") == 1
        assert not tune_listener(listener)
    monkeypatch.setattr(sockets, "_NOTSENT_LOWAT", 9999)  # as a sandbox that knows no such option
    with listening_socket("127.0.0.1", 0) as listener:
        assert not tune_listener(listener)


@pytest.mark.parametrize("wrong", [0, -1, 2**31])
@pytest.mark.parametrize("name", ["max_unsent_bytes", "send_buffer_bytes"])
def test_a_bound_that_is_none_is_refused_before_anything_listens(name: str, wrong: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .* got {wrong}"):
        listening_socket("no.such.host.invalid", 0, **{name: wrong})


def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    with listening_socket("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        listening_socket("127.0.0.1", listener.getsockname()[1])


# --- the page ----------------------------------------------------------------------------------


class Told(Exception):
    """Raised in place of serving."""


def stopped_at(name: str) -> Callable[..., Any]:
    def stop(*arguments: Any, **options: Any) -> None:
        raise Told(name, arguments, options)

    return stop


@pytest.mark.parametrize("heading", ["uvicorn", "uvicorn 2", "hypercorn"])
def test_a_server_is_handed_a_bounded_socket(heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page tells it, up to where it would serve."""
    import hypercorn.asyncio
    import uvicorn

    made: list[socket.socket] = []

    def listen(host: str, port: int) -> socket.socket:
        made.append(listening_socket("127.0.0.1", 0))
        return made[-1]

    monkeypatch.setattr(sockets, "listening_socket", listen)
    monkeypatch.setattr(uvicorn.Server, "run", stopped_at("sockets"))
    monkeypatch.setattr(uvicorn, "run", stopped_at("fd"))
    monkeypatch.setattr(hypercorn.asyncio, "serve", stopped_at("bind"))
    names: dict[str, Any] = {}
    blocks = python_blocks(PAGE)
    if heading == "uvicorn 2":
        execute(PAGE, blocks["uvicorn"], names)
    execute(PAGE, blocks[heading], names)
    serve = names["serve_with_workers" if heading == "uvicorn 2" else "serve"]
    with pytest.raises(Told) as told:
        serve("my_app:app")
    what, arguments, options = told.value.args
    if what == "bind":
        bind = arguments[1].bind[0]
        assert bind.startswith("fd://")
        made = [socket.socket(fileno=int(bind.removeprefix("fd://")))]
    else:
        assert options == ({"sockets": made} if what == "sockets" else {
            "fd": made[0].fileno(), "workers": 4
        })  # fmt: skip
    with made[0] as listener:
        assert option(listener, "TCP_NOTSENT_LOWAT") == MAX_UNSENT_BYTES


def test_gunicorns_hook_tunes_all_that_it_listens_on() -> None:
    hook = execute(PAGE, python_blocks(PAGE)["gunicorn"], {})["when_ready"]
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        hook(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=one), SimpleNamespace(sock=two)]))
        assert {option(each, "TCP_NOTSENT_LOWAT") for each in (one, two)} == {MAX_UNSENT_BYTES}
