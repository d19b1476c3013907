"""When to try again, and whether.

Rules that hold here:

* A start is tried again where its run cannot have been refused for good; a resume also where the
  server is too busy, for the run is there already.
* Delays double, with jitter, so that clients that were cut together do not come back together.
* What the server asks for (`retry:`, `Retry-After`) is kept, up to a bound.
"""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

from streamtrace.core.errors import RunRefused

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0
MAX_RETRY_AFTER_S = 3600.0

_STARTED_AGAIN = frozenset({502, 503, 504})
_RESUMED_LATER = frozenset({408, 425, 429, 500}) | _STARTED_AGAIN


def is_worth_another(refusal: RunRefused, *, is_start: bool) -> bool:
    """Whether the same request may be served later."""
    return refusal.status in (_STARTED_AGAIN if is_start else _RESUMED_LATER)


class Backoff:
    """The delays of one stream. `retry_s` is the first, as the server last asked for it."""

    def __init__(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.retry_s = FIRST_DELAY_S
        self.failures = 0

    def next_delay_s(self, cause: Exception | None) -> float | None:
        """How long to wait now; `None` when it was enough."""
        self.failures += 1
        if self.failures > self.max_attempts:
            return None
        usual_s = min(MAX_DELAY_S, self.retry_s * 2.0 ** min(self.failures - 1, 30))
        asked_s = cause.retry_after_s if isinstance(cause, RunRefused) else 0.0
        jitter = random.uniform(0.5, 1.0)  # noqa: S311  no secret
        return max(asked_s, usual_s * jitter)


def retry_after_s(value: str | None) -> float:
    """What a `Retry-After` asks for: seconds, or a date. 0 where it is absent or neither."""
    if value is None:
        return 0.0
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        at_s = parsedate_to_datetime(value).timestamp()
    except ValueError:
        return 0.0
    return min(max(at_s - time.time(), 0.0), MAX_RETRY_AFTER_S)
