"""What users give LangGraph as `http.app`: the server puts its middleware around all its routes."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware

from streamtrace import StreamTraceMiddleware
from streamtrace.sinks.jsonl import JsonLinesSink

sink = JsonLinesSink(os.environ["STREAMTRACE_TEST_RECORDS"], interval_s=0.05)
app = Starlette(middleware=[Middleware(StreamTraceMiddleware, sinks=[sink], content="full")])
