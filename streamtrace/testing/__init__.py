"""Floor 3: what users need to test their own endpoints and sinks."""

from __future__ import annotations

from streamtrace.testing.recording import RecordingSink

__all__ = ["RecordingSink"]
