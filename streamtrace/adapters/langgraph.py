"""LangGraph: what the `stream` and `astream` of a graph give, in all modes.

Rules that hold here (langgraph 1.2):

* An item is the payload of the mode. In front of it stand the mode, if a list of modes was asked
  for, and the way to the subgraph, with `subgraphs=True`. Those of `version="v2"` are objects that
  name all of it. One mode alone is named by nothing, so it is an option here.
* As on the wire of its server, a run that asks shows it in `updates` and `values` only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.adapters.base import Reader, adapter, frame_of, to_json
from streamtrace.core import events as ev
from streamtrace.core.jsonio import as_object, load_json
from streamtrace.dialects.langgraph import LangGraph

_MODES = frozenset(
    ("values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "tools")
)


class _GraphReader(Reader):
    def __init__(self, mode: str) -> None:
        super().__init__(LangGraph().decoder())
        self._mode = mode

    def read(self, item: Any) -> Iterable[ev.Event]:
        place, mode, payload = _parts_of(item, self._mode)
        return self.decoder.decode(frame_of(payload, "|".join((mode, *place))))


def _parts_of(item: Any, mode: str) -> tuple[tuple[str, ...], str, Any]:
    """The way to the subgraph, the mode, and what it tells."""
    match item:
        case {"type": str(mode), "ns": tuple(place), "data": payload, **more}:
            return place, mode, _asking(payload, more.get("interrupts"))
        case tuple((tuple(place), str(mode), payload)):
            return place, mode, payload
        case tuple((tuple(place), payload)):
            return place, mode, payload
        case tuple((str(mode), payload)) if mode in _MODES:
            return (), mode, payload
    return (), mode, item


def _asking(state: Any, interrupts: Any) -> Any:
    """The state with what it asks, as in all but the newest objects."""
    if not interrupts:
        return state
    return {**as_object(load_json(to_json(state))), "__interrupt__": interrupts}


@adapter
def langgraph_events(*, stream_mode: str = "updates") -> Reader:
    """Events of `graph.stream(...)` and `graph.astream(...)`.

    `stream_mode`: the mode that was asked for, if it was one alone, and not in a list.
    """
    return _GraphReader(stream_mode)
