"""Leakage control: the answer reaches the user, and what an agent says on the way to it does not.

Rules that hold here:

* Text before a tool call of the same turn is intermediate, and hidden. So text is held until its
  turn shows to be the answer: its generation or the run finishes without a call, or a guard finds
  the answer's own marker. Beyond `hold_chars` the declared policy decides.
* A turn ends with the result of a tool, with its generation, or where a guard saw a call in the
  text. A run that fails or is stopped does not make an answer of what is held.
* Guards see each message on its own, and before it is held. The same text in other pieces gives
  the same visible text.
* Other events keep their order, also to the text; heartbeats pass at once. A message is started
  when its first text is told, and not at all if there is none.
* What is held is bounded, and what is hidden is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Literal

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.errors import ConfigError
from streamtrace.serve.filters import KindFilter
from streamtrace.serve.guard_json import JsonCallGuard
from streamtrace.serve.guard_tags import TagGuard
from streamtrace.serve.guards import GuardFactory, Guards, Mark, Piece
from streamtrace.serve.weight import event_bytes

MAX_HOLD_CHARS = 10_000
MAX_HELD_BYTES = 1024 * 1024
"""Of the events that wait behind held text."""
MAX_MESSAGES = 256
"""Messages side by side, each with its guards."""


class _Turn(Enum):
    OPEN = "may be the answer: text is held"
    ANSWER = "is the answer: text passes"
    INTERMEDIATE = "calls a tool: text is hidden"


class FinalAnswer:
    """The stage that tells the answer, and hides the rest.

    `guards` make what reads the text of one message, in order; `ReActGuard` is not among them by
    default, since its markers are words that any answer may use. `hide` are the kinds of events
    that are not told (names as in filters). `beyond` is what becomes of a turn that says more than
    `hold_chars` and did not show yet what it is: "show" tells it from there on as it comes, "hide"
    hides it. With `hold_chars=0` nothing is held. Raises ConfigError for what it cannot be made
    with.
    """

    def __init__(
        self,
        *,
        guards: Sequence[GuardFactory] = (TagGuard, JsonCallGuard),
        hold_chars: int = 400,
        beyond: Literal["show", "hide"] = "show",
        hide: Iterable[str] = ("reasoning", "tools"),
    ) -> None:
        if not 0 <= hold_chars <= MAX_HOLD_CHARS:
            raise ConfigError(f"hold_chars is from 0 to {MAX_HOLD_CHARS}, got {hold_chars}")
        if beyond not in ("show", "hide"):
            raise ConfigError(f"beyond is 'show' or 'hide', not {beyond!r}")
        self._filter = KindFilter(exclude=hide)
        self._factories = tuple(guards)
        self._new_guards()  # so that what is wrong with them is said now
        self._hold_chars, self._beyond = hold_chars, beyond
        self._turn = _Turn.OPEN
        self._guards: dict[str | None, Guards] = {}
        self._open: dict[str | None, ev.MessageStarted | None] = {}  # with its start, until told
        self._held: list[ev.Event] = []
        self._held_chars = 0
        self._held_bytes = 0
        self._said_chars = 0
        self._told_chars = 0
        self._told: list[ev.Event] = []

    @property
    def hidden_chars(self) -> int:
        """Text that was not told; at the end of the run, all of that."""
        return self._said_chars - self._told_chars

    def feed(self, event: ev.Event) -> list[ev.Event]:
        """What may be told now."""
        if isinstance(event, ev.TextDelta):
            self._said_chars += len(event.text)
            guards = self._guards_of(event.message_id)
            self._read(guards.feed(event.text), event.message_id)
        elif isinstance(event, ev.Heartbeat):
            return [event]
        else:
            if isinstance(event, ev.MessageFinished):
                self._end_message(event.message_id)
            else:
                self._turn_to(event)
            self._pass(event)
        told, self._told = self._told, []
        return told

    def flush(self) -> list[ev.Event]:
        """The run ended, and nobody said that it failed: what is held is its answer."""
        self._end_text()
        self._release()
        told, self._told = self._told, []
        return told

    # --- turns -----------------------------------------------------------------------------

    def _turn_to(self, event: ev.Event) -> None:
        """What the event says of the turn under way, and of its text."""
        match event:
            case ev.ToolCallReady(requested=True):
                self._turn = _Turn.OPEN  # no model made that call
            case ev.ToolCallStarted() | ev.ToolCallArgumentsDelta() | ev.ToolCallReady():
                self._end_text()
                self._hide(_Turn.INTERMEDIATE)
            case ev.ToolCallResult():
                self._end_text()
                self._hide(_Turn.OPEN)
            case ev.GenerationStarted() if self._turn is _Turn.INTERMEDIATE:
                self._turn = _Turn.OPEN
            case ev.GenerationFinished(finish_reasons=reasons) if reasons:
                self._end_text()
                if any(map(_is_for_a_tool, reasons)):
                    self._hide(_Turn.OPEN)
                else:
                    self._release()
                    self._turn = _Turn.OPEN
            case ev.RunFailed() | ev.RunCancelled():
                self._end_text()
                self._hide(_Turn.OPEN)
            case ev.RunFinished() | ev.RunInterrupted():
                self._end_text()
                self._release()
                self._turn = _Turn.OPEN

    def _hide(self, turn: _Turn) -> None:
        """What is held was intermediate; the turn is now this."""
        self._let_go([event for event in self._held if not isinstance(event, ev.TextDelta)])
        self._turn = turn

    def _release(self) -> None:
        self._let_go(self._held)

    def _let_go(self, events: list[ev.Event]) -> None:
        self._held, self._held_chars, self._held_bytes = [], 0, 0
        for event in events:
            self._tell(event)

    # --- text ------------------------------------------------------------------------------

    def _read(self, pieces: Iterable[Piece], message_id: str | None) -> None:
        for piece in pieces:
            if piece is Mark.FINAL:
                self._hide(_Turn.ANSWER)
            elif isinstance(piece, Mark):
                is_called = self._turn is _Turn.INTERMEDIATE
                self._hide(_Turn.INTERMEDIATE if is_called else _Turn.OPEN)
            elif self._turn is not _Turn.INTERMEDIATE:
                self._pass(ev.TextDelta(text=piece, message_id=message_id))

    def _pass(self, event: ev.Event) -> None:
        """Tell the event now, or behind the text that is held."""
        if not self._filter.feed(event):
            return
        is_text = isinstance(event, ev.TextDelta)
        if not self._held and not (is_text and self._turn is _Turn.OPEN):
            self._tell(event)
            return
        last = self._held[-1] if self._held else None
        if isinstance(event, ev.TextDelta):
            self._held_chars += len(event.text)
            if isinstance(last, ev.TextDelta) and last.message_id == event.message_id:
                whole = last.text + event.text
                self._held[-1] = ev.TextDelta(text=whole, message_id=event.message_id)
            else:
                self._held.append(event)
        else:
            self._held_bytes += event_bytes(event, MAX_HELD_BYTES)
            self._held.append(event)
        if self._held_chars > self._hold_chars or self._held_bytes > MAX_HELD_BYTES:
            if self._beyond == "show":
                self._release()
                self._turn = _Turn.ANSWER
            else:
                self._hide(_Turn.INTERMEDIATE)

    def _tell(self, event: ev.Event) -> None:
        if isinstance(event, ev.MessageStarted):
            self._open.pop(event.message_id, None)
            remember(self._open, event.message_id, event, MAX_MESSAGES)
            return
        if isinstance(event, ev.TextDelta):
            self._told_chars += len(event.text)
            key = self._message_of(event.message_id)
            untold_start = self._open.get(key)
            if untold_start is not None:
                self._open[key] = None
                self._told.append(untold_start)
        elif isinstance(event, ev.MessageFinished):
            untold_start = self._open.pop(self._message_of(event.message_id), None)
            if untold_start is not None:
                return
        self._told.append(event)

    def _message_of(self, message_id: str | None) -> str | None:
        """Text without an id is of the message that was opened last."""
        return next(reversed(self._open), None) if message_id is None else message_id

    # --- guards ----------------------------------------------------------------------------

    def _guards_of(self, message_id: str | None) -> Guards:
        guards = self._guards.get(message_id)
        if guards is None:
            if len(self._guards) >= MAX_MESSAGES:
                self._end_message(next(iter(self._guards)))
            guards = self._guards[message_id] = self._new_guards()
        return guards

    def _new_guards(self) -> Guards:
        return Guards(factory() for factory in self._factories)

    def _end_message(self, message_id: str | None) -> None:
        """Its text, and text without an id, which may be of it, is over."""
        for key in {message_id: None, None: None}:
            guards = self._guards.pop(key, None)
            if guards is not None:
                self._read(guards.end(), key)

    def _end_text(self) -> None:
        for message_id in list(self._guards):
            self._end_message(message_id)


def _is_for_a_tool(reason: str) -> bool:
    word = reason.lower()
    return "tool" in word or "function" in word
