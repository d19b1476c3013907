"""LangChain: the events of `astream_events`, and the chunks of `stream` and `astream`.

Rules that hold here (langchain-core 1.7):

* Chains repeat the whole state at their start and end. Nothing in it is told, so it is not written.
* Events may be filtered (`include_types` and the like), so the end of the root may be missing. A
  stream that stops is over: what goes wrong is raised.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.adapters.base import Reader, adapter, frame_of
from streamtrace.core import events as ev
from streamtrace.dialects.langchain_events import LangChainEvents
from streamtrace.dialects.langserve import LangServe

_REPEATING = ("on_chain_", "on_prompt_", "on_parser_")


class _EventsReader(Reader):
    def read(self, item: Any) -> Iterable[ev.Event]:
        if item["event"].startswith(_REPEATING):
            item = {**item, "data": _question_in(item["data"])}
        return super().read(item)


def _question_in(data: Any) -> Any:
    """What a graph asks, of the data of a chain."""
    chunk = data.get("chunk")
    asks = isinstance(chunk, dict) and "__interrupt__" in chunk
    return {"chunk": {"__interrupt__": chunk["__interrupt__"]}} if asks else {}


class _ChunkReader(Reader):
    def read(self, item: Any) -> Iterable[ev.Event]:
        return self.decoder.decode(frame_of(item, "data"))


@adapter
def langchain_events() -> Reader:
    """Events of `runnable.astream_events(..., version="v2")`, of any runnable or graph."""
    return _EventsReader(LangChainEvents().decoder())


@adapter
def langchain_chunk_events() -> Reader:
    """Events of `runnable.stream(...)` and `runnable.astream(...)`, of a model or a chain.

    A graph's `stream` is another thing: see `langgraph_events`.
    """
    return _ChunkReader(LangServe().decoder())
