"""Processes of a run: started, asked in lines of JSON, and gone when the run is.

Rules that hold here:

* A child lives as long as its standard input is open. However the parent ends, killed or not, the
  pipe is closed with it, and the child leaves at once.
* Questions go over that pipe, not through what is measured; between two of them its reader thread
  is blocked and costs nothing.
* No answer is waited for without a bound. A child that fails is shown with what it wrote.
* The server has one core, and all else the other, so that what is measured is the server. On a
  machine with a single core, or without affinity, nothing is pinned and `PINNED` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
ANSWERS_WITHIN_S = 60.0
ENDS_WITHIN_S = 10.0
_SETTINGS = ("OTEL_", "LANGFUSE_", "STREAMTRACE_", "PROMETHEUS_")
"""Variables that would change what is measured begin so; no child sees them but as `settings`."""

_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
PINNED = len(_CORES) > 1
SERVER_CORE, LOAD_CORE = _CORES[:2] if PINNED else (None, None)


class ChildFailed(RuntimeError):
    """A child ended, or answered with an error, or not in time."""


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run the block on one core; afterwards on those of before."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """`python -m MODULE ARGUMENTS` on a core, for the time of a `with` block.

    `hello` is its first line.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        core: int | None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
        }
        self.name = " ".join((module, *arguments))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**environ, **(settings or {}), "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # an interrupt is for the parent, whose end is theirs
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        self.pid = self._process.pid
        self.hello: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self.hello = self._answer(ANSWERS_WITHIN_S)
        except ChildFailed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def ask(self, do: str, within_s: float = ANSWERS_WITHIN_S, **what: Any) -> Any:
        """Have the child do something; returns what it answers. Raises ChildFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(f"{self.name} has ended:\n{self._written()}") from None
        return self._answer(within_s)

    def _answer(self, within_s: float) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            why = "ended" if ready else f"did not answer within {within_s} s"
            raise ChildFailed(f"{self.name} {why}:\n{self._written()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildFailed(f"{self.name}: {answer['error']}\n{self._written()}")
        return answer["answer"]

    def _written(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")[-4000:]


# --- the child's side --------------------------------------------------------------------------

Command = Callable[..., Awaitable[Any]]


def answer(commands: Mapping[str, Command], hello: dict[str, Any]) -> None:
    """Say hello, then answer the parent from the running loop, until the parent is gone."""
    loop = asyncio.get_running_loop()
    # The pipe is ours alone: what anything prints goes with the errors.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: Any, key: str = "answer") -> None:
        channel.write(json.dumps({key: value}) + "\n")
        channel.flush()

    def read() -> None:
        say(hello)
        for line in sys.stdin:
            asked = json.loads(line)
            done = asyncio.run_coroutine_threadsafe(commands[asked.pop("do")](**asked), loop)
            try:
                say(done.result())
            except Exception as error:
                say(repr(error), "error")
        os._exit(0)  # at once, whatever is still under way

    threading.Thread(target=read, name="parent", daemon=True).start()
