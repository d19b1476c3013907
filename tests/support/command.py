"""The `streamtrace` command as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.servers import STOPS_WITHIN_S, wait_for

ROOT = Path(__file__).parent.parent.parent
STARTS_WITHIN_S = 30.0

_SETTINGS = ("STREAMTRACE_", "OTEL_", "LANGFUSE_", "PROMETHEUS_", "NO_COLOR", "FORCE_COLOR")


def environment(**more: str) -> dict[str, str]:
    """Ours, without anything that would switch a sink or colours on."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**env, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **more}


@dataclass
class Command:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """What it printed so far, on both streams."""
        return self.log.read_text("utf-8")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of `pattern` in the output; fails with the output if none comes."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output())
            if match is None and self.process.poll() is not None:
                raise AssertionError(f"it ended, without {pattern!r}:\n{self.output()}")
            return match

        try:
            return wait_for(found, STARTS_WITHIN_S)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in:\n{self.output()}") from None

    def url(self) -> str:
        """Where it says that it is served."""
        return self.wait_for(r"http://127\.0\.0\.1:\d+")[0]

    def stop(self, how: int = signal.SIGINT) -> int:
        """As Ctrl+C does; returns the exit code."""
        self.process.send_signal(how)
        return self.process.wait(STOPS_WITHIN_S)


@contextlib.contextmanager
def started(
    *arguments: str, log: Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> Iterator[Command]:
    """`streamtrace ARGUMENTS`, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamtrace.cli", *arguments],
            cwd=cwd,
            env=environment() if env is None else env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Command(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def run(
    *arguments: str, stdin: bytes = b"", cwd: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """`streamtrace ARGUMENTS`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "streamtrace.cli", *arguments],
        cwd=cwd,
        env=environment(),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
