"""Langfuse: what a run is there (`observations`), how it gets there (`pipe`), and the sink."""

from streamtrace.sinks.langfuse.sink import LangfuseSink

__all__ = ["LangfuseSink"]
