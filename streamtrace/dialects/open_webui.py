"""Open WebUI: chunks of OpenAI chat, with frames of its own before and between them.

Rules that hold here:

* What the decoder of chat knows is chat. What it does not know is looked at here.
* `selected_model_id` names the model that was drawn for the answer; the chunks may name it again.
* `sources` are what was retrieved: a source has a name, and a metadata entry for each document.
* An `event` is meant for the page. Only what it adds to the answer is text of the run: what it
  replaces cannot be taken back.

Source: `open-webui` 0.12.4 (`utils/chat.py`, `utils/middleware.py`, `functions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, as_string, as_word
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.openai_chat import OpenAIChat


class OpenWebUI(Dialect):
    """What Open WebUI's own `/api/chat/completions` streams to its callers."""

    name = "open-webui"
    marks = marks("selected_model_id event sources")
    says = says("run text reasoning tool_start arguments model usage finish error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a frame of its own; sources may be another's, and chunks of chat are."""
        value = as_object(frame.json())
        if value.keys() == {"selected_model_id"}:
            return Fit.YES
        if value.keys() == {"event"} and {"type", "data"} <= as_object(value["event"]).keys():
            return Fit.YES
        if value.keys() != {"sources"} or not isinstance(value["sources"], list):
            return Fit.NO
        first = as_object(next(iter(value["sources"]), None))
        return Fit.YES if {"source", "document", "metadata"} <= first.keys() else Fit.MAYBE

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _OpenWebUIDecoder()


class _OpenWebUIDecoder:
    def __init__(self) -> None:
        self._chat = OpenAIChat().decoder()

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        events = self._chat.decode(frame)
        if [type(event) for event in events] == [ev.Custom]:
            value = as_object(frame.json())
            own = [key for key in _FRAMES if key in value]
            if own:
                return [event for key in own for event in _FRAMES[key](value[key])]
        return events

    def close(self) -> Iterable[ev.Event]:
        return self._chat.close()


def _model(value: Any) -> Iterator[ev.Event]:
    yield ev.GenerationStarted(model=as_id(value))


def _sources(value: Any) -> Iterator[ev.Event]:
    for one in map(as_object, value if isinstance(value, list) else ()):
        about, found = as_object(one.get("source")), one.get("metadata")
        pages = [as_object(page) for page in found] if isinstance(found, list) else []
        yield from dict.fromkeys(_page(about, page) for page in pages or [{}])


def _page(about: dict[str, Any], page: dict[str, Any]) -> ev.Source:
    origin = as_word(page.get("source")) or ""
    url = as_word(page.get("url")) or as_word(about.get("url"))
    if url is None and origin.startswith(("http://", "https://")):
        url = origin
    title = as_word(page.get("name")) or as_word(about.get("name")) or origin or None
    return ev.Source(url=url, title=title)


def _event(value: Any) -> Iterator[ev.Event]:
    event = as_object(value)
    kind, data = as_id(event.get("type")) or "event", event.get("data")
    text = as_string(as_object(data).get("content"))
    if kind in ("source", "citation"):
        yield from _sources([data])
    elif kind in ("message", "chat:message:delta") and text:
        yield ev.TextDelta(text=text)
    else:
        yield ev.Custom(name=kind, value=data)


_FRAMES: Mapping[str, Callable[[Any], Iterable[ev.Event]]] = {
    "selected_model_id": _model,
    "sources": _sources,
    "event": _event,
}
