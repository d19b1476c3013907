"""Every exception that streamtrace raises.

    StreamTraceError
    ├── ConfigError(ValueError)     a wrong argument or variable; raised at construction only
    │   └── MissingExtra            an optional package is not installed; names the extra
    ├── EncodeError(ValueError)     a frame or event that cannot be written to the wire
    ├── EventOrderError             an event out of order, in a strict RunMachine only
    ├── ClientGone                  served events have no reader any more; says why
    ├── LogError                    of the log of runs
    │   ├── LogUnavailable          it could not be reached
    │   ├── UnknownRun              it knows no such run, or none any more
    │   ├── RunExists               it knows a run of that id already
    │   └── LeaseLost               the run is over, or somebody else's
    ├── ClientError                 of the client of runs
    │   ├── RunRefused              the server does not serve the request; says why
    │   └── ConnectionLost          the run could not be reached again
    ├── Refusal                     a request that is not served; says what its client is told
    └── Disconnected                the client left before its request was read

Observation raises none of them at run time: what goes wrong inside a stream is recorded as an
`Issue` of its run. All from `ClientGone` on are raised where agents are served, but for those of
`streamtrace.client`.
"""

from __future__ import annotations

from collections.abc import Mapping


class StreamTraceError(Exception):
    """Base of all errors of this package."""


class ConfigError(StreamTraceError, ValueError):
    """A configuration value is wrong. The message names the value and what is accepted."""


class MissingExtra(ConfigError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'streamtrace[{extra}]'"
        )


class EncodeError(StreamTraceError, ValueError):
    """A frame or event cannot be written without changing its meaning."""


class EventOrderError(StreamTraceError):
    """A strict `RunMachine` was fed an event that may not come now."""


class ClientGone(StreamTraceError):
    """Nobody reads what is served here any more. `reason`: "client_gone" or "slow_client"."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the reader takes no more events: {reason}")
        self.reason = reason


class LogError(StreamTraceError):
    """Base of what a log raises."""


class LogUnavailable(LogError):
    """The log of runs could not be reached. Whether something was written is not known."""


class UnknownRun(LogError):
    """The log knows no such run, or none any more."""


class RunExists(LogError):
    """There is, or was, a run of this id: ids are never used again while they are known."""


class LeaseLost(LogError):
    """Somebody else has the run, or it is over: this producer writes no more."""


class ClientError(StreamTraceError):
    """Base of what the client of runs raises."""


class RunRefused(ClientError):
    """The server does not serve this: its HTTP `status`, a short `code`, and its message.

    `retry_after_s` is how long it asks to be left alone; 0 where it does not say.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class ConnectionLost(ClientError):
    """No attempt brought anything new. To `follow` the run behind `last_id` goes on later."""

    def __init__(self, run_id: str | None, last_id: int) -> None:
        super().__init__(f"the run {run_id!r} could not be reached again behind event {last_id}")
        self.run_id = run_id
        self.last_id = last_id


class Refusal(StreamTraceError):
    """A request is not served. All that it holds is for the client's eyes.

    status   of the HTTP answer, 4xx or 5xx
    code     a short word for programs, such as `rate_limited`
    message  a fixed sentence for people: nothing of the server's inside, nothing of the request
    headers  that the answer needs besides, such as `Retry-After`
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


class Disconnected(StreamTraceError):
    """The client left before its request was read: there is nobody to answer."""
