"""A worker process under PROMETHEUS_MULTIPROC_DIR, driven line by line over its standard input.

    run N     N streams, from start to end          start N   N streams that do not end
    export    let the slow sink export              scrape    print the page of `/metrics`
    close     close all sinks                       fork N    a child that runs N, then this goes on

Each command is answered with a line, `scrape` with the page as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Any

from support.summaries import completed_run, stream_info

from streamtrace.core.summary import RunSummary
from streamtrace.sinks.prometheus import PrometheusSink, mark_process_dead, metrics_app
from streamtrace.sinks.queued import QueuedSink


class Slow(QueuedSink):
    """Exports when it is told to."""

    name = "slow"

    def __init__(self) -> None:
        super().__init__(interval_s=0, batch_runs=1)
        self.may_export = threading.Event()

    def export(self, batch: list[RunSummary]) -> dict[str, int]:
        self.may_export.wait()
        return {}


RUN = completed_run()
INFO = stream_info(RUN)
SLOW = Slow()
METRICS = PrometheusSink()
METRICS.track([METRICS, SLOW])


def run(count: int) -> None:
    for _ in range(count):
        METRICS.start(INFO)
        METRICS.end(INFO, RUN)
        SLOW.end(INFO, RUN)


def page() -> str:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": []}
    asyncio.run(metrics_app()(scope, None, send))  # type: ignore[arg-type]
    return str(sent[1]["body"].decode())


def fork(count: int) -> int:
    child = os.fork()
    if child == 0:
        SLOW.may_export = threading.Event()
        SLOW.may_export.set()
        run(count)
        SLOW.close(10)
        METRICS.close(10)
        os._exit(0)
    os.waitpid(child, 0)
    return child


for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    answer: object = "done"
    if command == "run":
        run(int(argument))
    elif command == "start":
        for _ in range(int(argument)):
            METRICS.start(INFO)
    elif command == "export":
        SLOW.may_export.set()
        answer = SLOW.flush(10)
    elif command == "scrape":
        answer = page()
    elif command == "dead":
        mark_process_dead(int(argument))
    elif command == "close":
        SLOW.close(10)
        METRICS.close(10)
    elif command == "fork":
        answer = fork(int(argument))
    print(json.dumps(answer), flush=True)
