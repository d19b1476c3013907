"""Floor 3: what users need to test their own endpoints and sinks."""

from __future__ import annotations

from streamtrace.testing.client import Answer, ask
from streamtrace.testing.log_contract import EventLogContract
from streamtrace.testing.recording import RecordingSink
from streamtrace.testing.sink_contract import SinkContract
from streamtrace.testing.sockets import SocketClient

__all__ = ["Answer", "EventLogContract", "RecordingSink", "SinkContract", "SocketClient", "ask"]
