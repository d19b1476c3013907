"""The clock that the observer reads on the path, in the hands of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from streamtrace.observe import middleware, path

try:
    from streamtrace.speedups import set_clock
except ImportError:  # the path in Python reads path._clock

    def set_clock(clock: Callable[[], int] | None) -> None:
        """There is nothing else to set."""


@contextlib.contextmanager
def clock(read: Callable[[], int]) -> Iterator[None]:
    """Inside of the block, `read` is asked for the time, in ns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware, "_clock", read)
        patch.setattr(path, "_clock", read)
        set_clock(read)
        try:
            yield
        finally:
            set_clock(None)
