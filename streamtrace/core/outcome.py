"""How a stream ended: what was seen, turned into exactly one status.

The deciding order, first match wins:

    an error told in the stream, or an HTTP status of 400 and more       error
    a question told in the stream                                        input_required
    a stop told in the stream                                            cancelled
    the app raised TimeoutError, and the stream had not ended well       timeout
    the app raised something else, and the stream had not ended well     error
    the dialect's terminal event passed: a client that has read the
        last event may leave                                             completed
    the server shut down                                                 drained
    the client left: `send` failed with OSError, or `http.disconnect`
        came before the final body                                       disconnected
    the app was cancelled                                                cancelled
    the final body was sent, and no terminal event is missing            completed
    the final body was sent without it, or none was sent                 truncated

A stream has ended well with its final body behind a terminal event. What is raised before says that
the connection broke. Without a terminal event it counts after the final body as well: some
frameworks send that while they unwind. Terminal events that were sent to a client who had left do
not count: it did not see them. A disconnect after the final body is how every connection ends, and
is not looked at. Where chunks were lost to a full tap, an unseen terminal event proves nothing and
is not called missing.
"""

from __future__ import annotations

import re

import msgspec

from streamtrace.core.events import Event, RunCancelled, RunFailed, RunInterrupted
from streamtrace.core.summary import Status


class StreamEnd(msgspec.Struct, kw_only=True):
    """What the transport saw of the end.

    `final`: the final body (or close) was handed to the server. `disconnected_ns`: when the client
    left, if that was before it. `cancelled`: the app was stopped from outside. `drained`: the
    server shut down around the stream. `exception`: the class name of what the app raised by
    itself; `timed_out`: it was a TimeoutError.
    """

    at_ns: int
    final: bool = False
    disconnected_ns: int | None = None
    cancelled: bool = False
    timed_out: bool = False
    drained: bool = False
    exception: str | None = None
    exception_text: str | None = None


def decide(
    end: StreamEnd,
    *,
    terminal: Event | None,
    needs_terminal: bool,
    http_status: int | None,
    lost: bool,
) -> tuple[Status, str | None]:
    """The status, and the type of the error where there is one."""
    if isinstance(terminal, RunFailed):
        return Status.ERROR, word(terminal.type)
    if http_status is not None and http_status >= 400:
        return Status.ERROR, str(http_status)
    if isinstance(terminal, RunInterrupted):
        return Status.INPUT_REQUIRED, None
    if isinstance(terminal, RunCancelled):
        return Status.CANCELLED, None
    gone = end.disconnected_ns is not None
    ended_well = end.final and terminal is not None
    if end.exception is not None and not ended_well and not gone:
        return Status.TIMEOUT if end.timed_out else Status.ERROR, word(end.exception)
    if terminal is not None:
        return Status.COMPLETED, None
    if end.drained:
        return Status.DRAINED, None
    if gone:
        return Status.DISCONNECTED, None
    if end.cancelled:
        return Status.CANCELLED, None
    if end.final and (lost or not needs_terminal):
        return Status.COMPLETED, None
    return Status.TRUNCATED, None


def word(text: object) -> str:
    """An error type that may be a label: short, without spaces; `other` if it is none."""
    if text is None:
        return "unspecified"
    text = str(text)
    return text if re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", text) else "other"
