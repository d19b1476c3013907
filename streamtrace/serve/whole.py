"""Messages of which text was dropped: how much is missing, and the whole text for their end.

Rules that hold here:

* Text without an id belongs to the message that was started last and is open; where there is none,
  to one without an id, which ends with its turn: at a tool's result, or a step.
* What a message lacks is known when its end is *taken* from the queue: text that stood before it
  was delivered or dropped by then. So the end carries its messages, and each says what it lacks.
* The text of all messages that are kept stays within `max_bytes`. One that does not fit cannot be
  told whole, and its text is `None` rather than half of it.
"""

from __future__ import annotations

from io import StringIO

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.serve.weight import text_bytes

MESSAGE_WHOLE = "message_whole"
"""The name of the custom event: its value is message_id, text and dropped_chars."""
MAX_MESSAGES = 1024
"""Open messages of which text is kept, and messages whose missing text is counted by id."""

_ENDS_A_TURN = frozenset({ev.ToolCallResult, ev.StepStarted, ev.StepFinished})


class Message:
    """A message on its way through the queue."""

    __slots__ = ("kept_bytes", "message_id", "missing_chars", "pieces")

    def __init__(self, message_id: str | None, *, keep: bool) -> None:
        self.message_id = message_id
        self.missing_chars = 0
        self.kept_bytes = 0
        self.pieces = StringIO() if keep else None


class Messages:
    """The messages of one run. Texts are kept if `max_bytes` is not 0."""

    def __init__(self, max_bytes: int) -> None:
        self.missing: dict[str | None, int] = {}
        self._max_bytes = max_bytes
        self._kept_bytes = 0
        self._open: dict[str | None, Message] = {}
        self._crowded = False

    def grow(self, delta: ev.TextDelta) -> Message:
        """The message that the text belongs to, and now has."""
        message_id = self._resolve(delta.message_id)
        message = self._open.get(message_id) or self._start(message_id)
        if message.pieces is not None:
            size = text_bytes(delta.text)
            if self._kept_bytes + size > self._max_bytes:
                self.forget(message)
            else:
                message.pieces.write(delta.text)
                message.kept_bytes += size
                self._kept_bytes += size
        return message

    def lose(self, message: Message, chars: int) -> None:
        """Some of its text was dropped."""
        message.missing_chars += chars
        before = self.missing.get(message.message_id, 0)
        remember(self.missing, message.message_id, before + chars, MAX_MESSAGES)

    def ended_by(self, event: ev.Event) -> list[Message]:
        """The messages that end with this event. A message that it starts is open from now on."""
        kind = type(event)
        if isinstance(event, ev.MessageFinished):
            ended = self._open.pop(self._resolve(event.message_id), None)
            return [] if ended is None else [ended]
        if kind in ev.TERMINAL:
            return self.end()
        if isinstance(event, ev.MessageStarted):
            ended = self._open.pop(event.message_id, None)
            self._start(event.message_id)
        elif kind in _ENDS_A_TURN:
            ended = self._open.pop(None, None)
        else:
            ended = None
        return [] if ended is None else [ended]

    def end(self) -> list[Message]:
        """All that are open end now."""
        ended = list(self._open.values())
        self._open.clear()
        return ended

    def whole(self, message: Message) -> ev.Custom | None:
        """Its whole text, if it lacks any; the text is not kept any longer."""
        lacks, message.missing_chars = message.missing_chars, 0
        text = None if message.pieces is None else message.pieces.getvalue()
        self.forget(message)
        if not lacks or not self._max_bytes:
            return None
        value = {"message_id": message.message_id, "text": text, "dropped_chars": lacks}
        return ev.Custom(name=MESSAGE_WHOLE, value=value)

    def forget(self, message: Message) -> None:
        """Keep its text no longer."""
        self._kept_bytes -= message.kept_bytes
        message.kept_bytes, message.pieces = 0, None

    def _start(self, message_id: str | None) -> Message:
        # Once there were too many, one that seems new may be one that was left out.
        self._crowded = self._crowded or len(self._open) >= MAX_MESSAGES
        message = Message(message_id, keep=bool(self._max_bytes) and not self._crowded)
        if len(self._open) < MAX_MESSAGES:
            self._open[message_id] = message
        return message

    def _resolve(self, message_id: str | None) -> str | None:
        return next(reversed(self._open), None) if message_id is None else message_id
