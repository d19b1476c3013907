"""What ends a command with a message and exit code 2."""

from __future__ import annotations

from streamtrace.core.errors import StreamTraceError


class UsageError(StreamTraceError):
    """The command cannot do what it was asked; the message says why."""
