"""A client that does not read: how much may an app send before `await send` waits?

Each server runs with its own listening socket, and with one that `tune_listener` has bounded, as
docs/backpressure.md tells its users to start it. A client asks, reads the head, and then nothing;
the app sends frames of 227 bytes, each after a turn of the loop, and counts what `send` took. The
client's receive buffer, which is filled as well, is the system's or 4 KiB, as a small device has.

granian takes no listening socket. Its bounded row is there where the system's own setting is the
bound, which holds for a whole network namespace:

    unshare --net sh -c 'ip link set lo up; sysctl -qw net.ipv4.tcp_notsent_lowat=16384;
        python -m benchmarks kernel_buffers'
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.children import ROOT
from benchmarks.flood import MAX_BYTES
from streamtrace.serve.sockets import MAX_UNSENT_BYTES, tune_listener

BUFFERS = {"default": None, "4 KiB": 4096}
STARTS_WITHIN_S = 20.0
SETTLED_S, SHORT_SETTLED_S = 1.0, 0.3
"""`send` waits for good when nothing more was taken for so long."""
_SYSTEM = Path("/proc/sys/net/ipv4/tcp_notsent_lowat")
_UNBOUNDED = 2**32 - 1

_GUNICORN = """
from streamtrace.serve.sockets import tune_listener

def when_ready(server):
    if {bounded}:
        for listener in server.LISTENERS:
            tune_listener(listener.sock)
"""
_APP = "benchmarks.flood:app"


class Kind(NamedTuple):
    """How a server is started: of the fd of a listening socket, its port, a file of settings."""

    module: str
    command: Callable[[int, int, Path], list[str]]
    takes_fd: bool = True


SERVERS = {
    "uvicorn (h11, asyncio)": Kind(
        "uvicorn", lambda fd, _, __: [_APP, f"--fd={fd}", "--http=h11", "--loop=asyncio"]
    ),
    "uvicorn (httptools, uvloop)": Kind(
        "uvicorn", lambda fd, _, __: [_APP, f"--fd={fd}", "--http=httptools", "--loop=uvloop"]
    ),
    "gunicorn (uvicorn worker)": Kind(
        "gunicorn",
        lambda _, port, settings: [
            *(_APP, f"--config={settings}", f"--bind=127.0.0.1:{port}"),
            "--worker-class=uvicorn_worker.UvicornWorker",
        ],
        takes_fd=False,
    ),
    "hypercorn": Kind("hypercorn", lambda fd, _, __: [_APP, f"--bind=fd://{fd}"]),
    "granian": Kind(
        "granian",
        lambda _, port, __: [_APP, "--interface=asgi", "--http=1", f"--port={port}"],
        takes_fd=False,
    ),
}


def run(short: bool) -> dict[str, Any]:
    """Bytes by server, socket and receive buffer; `None` where it was not measured."""
    settled_s = SHORT_SETTLED_S if short else SETTLED_S
    names = list(SERVERS)[:1] if short else list(SERVERS)
    return {
        "max_unsent_bytes": MAX_UNSENT_BYTES,
        "system": _read("tcp_wmem", "tcp_rmem", "tcp_notsent_lowat"),
        "accepted_bytes": {
            name: {
                kind: measure(name, bounded=bounded, settled_s=settled_s)
                for kind, bounded in (("as it is", False), ("bounded", True))
            }
            for name in names
        },
    }


def measure(name: str, *, bounded: bool, settled_s: float) -> dict[str, int] | None:
    """What the app could send to a client with each receive buffer."""
    if importlib.util.find_spec(SERVERS[name].module) is None:
        return None
    if name == "granian" and bounded != (int(_SYSTEM.read_text()) < _UNBOUNDED):
        return None
    with serving(name, bounded) as port:
        return {
            label: _accepted(port, str(number), receive_bytes, settled_s)
            for number, (label, receive_bytes) in enumerate(BUFFERS.items())
        }


@contextlib.contextmanager
def serving(name: str, bounded: bool) -> Iterator[int]:
    """The server, on a port of loopback, for the time of the block."""
    kind = SERVERS[name]
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if not kind.takes_fd:
        listener.close()
    else:
        listener.listen()
        if bounded:
            tune_listener(listener)
    with tempfile.TemporaryDirectory() as folder, listener:
        settings = Path(folder) / "gunicorn.conf.py"
        settings.write_text(_GUNICORN.format(bounded=bounded))
        command = kind.command(listener.fileno(), port, settings)
        process = subprocess.Popen(
            [sys.executable, "-m", kind.module, *command],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()] if kind.takes_fd else [],
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + STARTS_WITHIN_S
            while True:
                try:
                    _ask(port, "ready")
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _accepted(port: int, name: str, receive_bytes: int | None, settled_s: float) -> int:
    """Ask, read the head, and wait until the app sends no more."""
    with socket.socket() as client:
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(STARTS_WITHIN_S)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET /flood/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.recv(64)
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < settled_s or seen <= 0:
            now = _ask(port, name)
            if now != seen:
                seen, since = now, time.monotonic()
            time.sleep(settled_s / 10)
    return seen


def _ask(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/accepted/{name}", timeout=10) as answer:
        taken: int = json.loads(answer.read())
    return taken


def _read(*names: str) -> dict[str, str]:
    return {name: (_SYSTEM.parent / name).read_text().strip() for name in names}


def tables(result: dict[str, Any]) -> str:
    """A row per server."""
    rows = [
        [name, *(_shown(one[kind], label) for kind in ("as it is", "bounded") for label in BUFFERS)]
        for name, one in result["accepted_bytes"].items()
    ]
    columns = [
        "kB that the app may send before `send` waits",
        *(f"{kind}, {label}" for kind in ("as it is", "bounded") for label in BUFFERS),
    ]
    system = ", ".join(f"{name} {' '.join(one.split())}" for name, one in result["system"].items())
    return "\n\n".join(
        [
            report.table(columns, rows),
            f"Bounded at {result['max_unsent_bytes']:,} bytes unsent. The system: {system}.",
        ]
    )


def _shown(measured: dict[str, int] | None, label: str) -> str:
    if measured is None:
        return "–"
    return "all" if measured[label] >= MAX_BYTES else f"{measured[label] / 1e3:,.0f}"
