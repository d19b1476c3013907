"""nginx in front of a server, with Debian's settings; its port, files and user are the test's."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.otlp import free_port
from support.servers import STOPS_WITHIN_S, wait_for

_SERVICES = Path(__file__).parents[2] / ".services" / "usr" / "sbin"
_PLACES = os.pathsep.join([os.environ["PATH"], "/usr/sbin", str(_SERVICES)])
NGINX = shutil.which("nginx", path=_PLACES)

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_CONFIG = """\
daemon off;
{user}
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
events {{}}
http {{
  access_log off;
  {temporary}
  sendfile on;
  tcp_nopush on;
  gzip on;
  {http}
  server {{
    listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, locations: str, http: str = "") -> Iterator[str]:
    """Run it with these `location` blocks (and directives of `http`) until the block ends; yields
    its URL. One worker: what it was told first, it does first."""
    assert NGINX is not None, "nginx is not here: .ci/services"
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "nginx.log"
    config = _CONFIG.format(
        user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        temporary=" ".join(f"{name}_temp_path {name};" for name in _TEMPORARY),
        http=http,
        port=port,
        locations=locations,
    )
    (folder / "nginx.conf").write_text(config)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: _listens(port, process, log))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(STOPS_WITHIN_S)


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
