"""A real Prometheus on a free loopback port, with exemplar storage, for one test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from support.otlp import free_port
from support.servers import wait_for

_PLACES = os.pathsep.join(
    [os.environ["PATH"], str(Path(__file__).parents[2] / ".services" / "usr" / "bin")]
)
PROMETHEUS = shutil.which("prometheus", path=_PLACES)
PROMTOOL = shutil.which("promtool", path=_PLACES)
SCRAPE_S = 1
STARTS_WITHIN_S = 30


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its HTTP API. Raises AssertionError with its error."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query, now."""
        found = self.get("query", query=expression)
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        samples: list[dict[str, Any]] = found["result"]
        return samples

    def wait_for_scrapes(self, job: str, count: int) -> None:
        """Until the target was scraped that many times more."""
        series = f'scrape_samples_scraped{{job="{job}"}}'
        began_s = time.time()

        def scraped() -> bool | None:
            lately = self.query(f"count_over_time({series}[{int(time.time() - began_s) + 1}s])")
            return (bool(lately) and float(lately[0]["value"][1]) > count) or None

        wait_for(scraped, within_s=count * SCRAPE_S + 20)


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: dict[str, str], rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """Serve until the block ends; `targets` are job -> host:port."""
    assert PROMETHEUS is not None, "prometheus is not installed: apt-get install prometheus"
    config = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]}
            for job, target in targets.items()
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: _is_ready(server, process, folder / "log"), within_s=STARTS_WITHIN_S)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _is_ready(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> bool | None:
    assert process.poll() is None, log.read_text()
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready"):
            return True
    except OSError:
        return None
