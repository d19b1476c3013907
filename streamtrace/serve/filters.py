"""What a client is told: kinds of events, and how finely text is cut.

Rules that hold here:

* The life of the run (started, ended in any way) and heartbeats always pass: a client that filters
  still learns how it ended.
* No text is lost or changed, whatever the granularity; it is only told in other pieces.
* Events keep their order, with one exception: whole messages are told where they end, or where a
  tool call, a step or the end of the run comes, and what else came meanwhile is told before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from typing import Literal, get_args

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError
from streamtrace.serve.stages import Stage
from streamtrace.serve.weight import EVENT_BYTES, text_bytes

Granularity = Literal["tokens", "batches", "messages"]

_KINDS: dict[str, tuple[type[ev.Event], ...]] = {
    "text": (ev.MessageStarted, ev.TextDelta, ev.MessageFinished),
    "reasoning": (ev.ReasoningStarted, ev.ReasoningDelta, ev.ReasoningFinished),
    "tools": (
        ev.ToolCallStarted,
        ev.ToolCallArgumentsDelta,
        ev.ToolCallReady,
        ev.ToolCallResult,
    ),
    "steps": (ev.StepStarted, ev.StepFinished),
    "generations": (ev.GenerationStarted, ev.GenerationFinished),
    "usage": (ev.Usage,),
    "sources": (ev.Source,),
    "state": (ev.State,),
    "custom": (ev.Custom,),
}
KINDS = tuple(_KINDS)
"""The names that filters know."""

_KIND_OF = {kind: name for name, kinds in _KINDS.items() for kind in kinds}
_ALWAYS: tuple[type[ev.Event], ...] = (ev.RunStarted, *ev.TERMINAL, ev.Heartbeat)


def kind_of(event: ev.Event) -> str | None:
    """The name of its kind; `None` if it always passes. Types of your own are "custom"."""
    if isinstance(event, _ALWAYS):
        return None
    return _KIND_OF.get(type(event), "custom")


class KindFilter:
    """Passes the kinds that are included, but for those that are excluded.

    Raises ConfigError for a name that is not in `KINDS`.
    """

    def __init__(
        self, *, include: Iterable[str] | None = None, exclude: Iterable[str] = ()
    ) -> None:
        included = set(KINDS if include is None else include)
        excluded = set(exclude)
        unknown = sorted((included | excluded) - set(KINDS))
        if unknown:
            raise ConfigError(f"kinds are {', '.join(KINDS)}; not {', '.join(unknown)}")
        self._passing = included - excluded | {None}

    def feed(self, event: ev.Event) -> Iterable[ev.Event]:
        """The event, or nothing."""
        return (event,) if kind_of(event) in self._passing else ()

    def flush(self) -> Iterable[ev.Event]:
        """Nothing was held."""
        return ()


_sentence_end = re.compile(r".*(?:[.!?…][\"'”’)\]*_]*\s|[。！？]|\n)", re.DOTALL).match
"""Up to the last place where a sentence ends for sure: behind "3." more digits may follow."""
_MAX_BATCH_CHARS = 4096


class Batches:
    """Joins text and reasoning up to the end of a sentence, or to `max_chars`, whichever is first.

    Pieces that are larger already pass as they are. Any other event ends the batch. Raises
    ConfigError for a `max_chars` out of range.
    """

    def __init__(self, max_chars: int = 120) -> None:
        if not 1 <= max_chars <= _MAX_BATCH_CHARS:
            raise ConfigError(f"max_chars is from 1 to {_MAX_BATCH_CHARS}, got {max_chars}")
        self._max_chars = max_chars
        self._pending: ev.TextDelta | ev.ReasoningDelta | None = None
        self._text = ""

    def feed(self, event: ev.Event) -> Iterator[ev.Event]:
        """What is complete now."""
        if isinstance(event, ev.Heartbeat):
            yield event
            return
        if not isinstance(event, ev.TextDelta | ev.ReasoningDelta):
            yield from self.flush()
            yield event
            return
        like = self._pending
        if like is not None and (
            type(like) is not type(event) or like.message_id != event.message_id
        ):
            yield from self.flush()
        self._pending = event
        self._text += event.text
        if len(self._text) >= self._max_chars:
            yield from self.flush()
        elif found := _sentence_end(self._text):
            yield _with_text(event, found[0])
            self._text = self._text[found.end() :]

    def flush(self) -> Iterator[ev.Event]:
        """The batch so far."""
        pending, text = self._pending, self._text
        self._pending, self._text = None, ""
        if pending is not None and text:
            yield _with_text(pending, text)


_RELEASES_ALL: tuple[type[ev.Event], ...] = (
    ev.ToolCallStarted,
    ev.ToolCallResult,
    ev.StepStarted,
    ev.StepFinished,
    *ev.TERMINAL,
)
_Key = tuple[type[ev.Event], str | None]


class _Held(msgspec.Struct):
    like: ev.Event
    text: StringIO = msgspec.field(default_factory=StringIO)
    bytes: int = EVENT_BYTES


class WholeMessages:
    """Tells the text (and the reasoning) of a message as one delta, where it ends.

    Text of several messages side by side is held at once, up to `max_held_bytes`: beyond that, all
    that is held is told early. A tool call in the middle of a message parts it. Raises ConfigError
    for a bound below 1.
    """

    def __init__(self, max_held_bytes: int = 1024 * 1024) -> None:
        if max_held_bytes < 1:
            raise ConfigError(f"max_held_bytes must be at least 1, got {max_held_bytes}")
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._held: dict[_Key, _Held] = {}

    def feed(self, event: ev.Event) -> Iterator[ev.Event]:
        """What is complete now."""
        if isinstance(event, ev.TextDelta | ev.ReasoningDelta):
            self._hold(event)
            if self._held_bytes > self._max_held_bytes:
                yield from self.flush()
            return
        if isinstance(event, ev.MessageFinished | ev.MessageStarted):
            yield from self._release(ev.TextDelta, event.message_id)
        elif isinstance(event, ev.ReasoningFinished | ev.ReasoningStarted):
            yield from self._release(ev.ReasoningDelta, event.message_id)
        elif isinstance(event, _RELEASES_ALL):
            yield from self.flush()
        yield event

    def flush(self) -> Iterator[ev.Event]:
        """All that is held, in the order in which the messages began."""
        while self._held:
            yield self._take(next(iter(self._held)))

    def _hold(self, delta: ev.TextDelta | ev.ReasoningDelta) -> None:
        if not delta.text:
            return
        key = (type(delta), delta.message_id)
        if key not in self._held:
            self._held[key] = _Held(delta)
            self._held_bytes += EVENT_BYTES
        size = text_bytes(delta.text)
        self._held[key].text.write(delta.text)
        self._held[key].bytes += size
        self._held_bytes += size

    def _release(self, kind: type[ev.Event], message_id: str | None) -> Iterator[ev.Event]:
        """The text of the message, and text without an id, which may be of it.

        An event without an id may be about any message.
        """
        for key in list(self._held):
            if key[0] is kind and (message_id is None or key[1] in (None, message_id)):
                yield self._take(key)

    def _take(self, key: _Key) -> ev.Event:
        held = self._held.pop(key)
        self._held_bytes -= held.bytes
        return _with_text(held.like, held.text.getvalue())


def _with_text(like: ev.Event, text: str) -> ev.Event:
    if isinstance(like, ev.TextDelta):
        return ev.TextDelta(text=text, message_id=like.message_id)
    assert isinstance(like, ev.ReasoningDelta)
    return ev.ReasoningDelta(text=text, message_id=like.message_id)


def stages_for(granularity: Granularity = "tokens", *, state: bool = True) -> list[Stage]:
    """The stages that a request asks for. Raises ConfigError for a word that is none."""
    if granularity not in get_args(Granularity):
        words = ", ".join(get_args(Granularity))
        raise ConfigError(f"granularity is one of {words}, not {granularity!r}")
    stages: list[Stage] = [] if state else [KindFilter(exclude=["state"])]
    if granularity == "batches":
        stages.append(Batches())
    elif granularity == "messages":
        stages.append(WholeMessages())
    return stages


def filters_for(
    granularity: Granularity = "tokens", *, state: bool = True
) -> tuple[Callable[[object], Stage], ...]:
    """`stages_for`, made anew for each run. Raises ConfigError."""
    count = len(stages_for(granularity, state=state))
    return tuple(lambda _, at=at: stages_for(granularity, state=state)[at] for at in range(count))


AGENTFLOW_GRANULARITY: dict[str, tuple[Granularity, bool]] = {
    "low": ("tokens", False),
    "partial": ("batches", False),
    "full": ("batches", True),
}
"""AgentFlow's `response_granularity` as granularity and state: low is single tokens and messages
only, more of it comes in batches, and only full has the state."""
