"""What ASGI messages, and the exceptions of an app, say of a stream."""

from __future__ import annotations

import time

from streamtrace.core.outcome import StreamEnd
from streamtrace.dialects.base import LINE_HEADERS, Head
from streamtrace.observe.asgi_types import Message
from streamtrace.observe.exchange import Exchange

_LINE_HEADERS = frozenset(name.encode() for name in LINE_HEADERS)


def http_opening(start: Message, media_types: tuple[str, ...]) -> tuple[Head, bool] | None:
    """What a response start tells, if it starts a stream, and whether the body can be read."""
    media_type = encoding = ""
    is_stream = False
    pairs = start.get("headers", ())
    if iter(pairs) is pairs:  # can be read once, and that is the server's
        return None
    for name, value in pairs:
        lower = name.lower()
        if lower == b"content-type":
            media_type = value.partition(b";")[0].strip().lower().decode("latin-1")
            is_stream = is_stream or media_type in media_types
        elif lower == b"content-encoding":
            encoding = value.strip().lower().decode("latin-1")
        elif lower in _LINE_HEADERS:
            is_stream = True
    if not is_stream:
        return None
    headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    head = Head(status=start["status"], media_type=media_type, headers=headers)
    return head, encoding in ("", "identity")


def websocket_opening(accept: Message, media_types: tuple[str, ...]) -> tuple[Head, bool] | None:
    """A WebSocket that was accepted; its messages are read as frames."""
    return Head(status=101, media_type="", transport="websocket"), True


def ended_by(error: BaseException, exchange: Exchange) -> StreamEnd:
    """What an exception that left the app says of the stream. Groups of one count as the one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        text = str(error)
    except Exception:  # somebody's __str__; the class name still tells
        text = ""
    at_ns = time.perf_counter_ns()
    gone_ns = exchange.gone_ns(at_ns)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return StreamEnd(at_ns=at_ns, disconnected_ns=gone_ns, drained=True)
    if not isinstance(error, Exception):  # cancelled, by whatever name the loop has for it
        return StreamEnd(at_ns=at_ns, disconnected_ns=gone_ns, cancelled=True)
    return StreamEnd(
        at_ns=at_ns,
        disconnected_ns=gone_ns,
        timed_out=isinstance(error, TimeoutError),
        exception=type(error).__name__,
        exception_text=text,
    )
