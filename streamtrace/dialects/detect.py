"""Which dialect a response speaks, found from its head and first frames.

Rules that hold here:

* The first candidate that is sure of a frame decides, for good.
* While all are in doubt, up to `MAX_FRAMES` frames are asked about. Then the first candidate wins
  that took every one of them for perhaps its own. If there is none, the stream is `unknown`:
  counted and timed without a guess.
* Comments and pings say nothing of the dialect and are not asked about. They are bounded too.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamtrace.core.errors import ConfigError
from streamtrace.core.frames import Frame
from streamtrace.dialects.ag_ui import AgUi
from streamtrace.dialects.anthropic import Anthropic
from streamtrace.dialects.base import Dialect, Fit, Head
from streamtrace.dialects.house import HEARTBEATS
from streamtrace.dialects.named import AgentFlow, Cognis
from streamtrace.dialects.openai_chat import OpenAIChat
from streamtrace.dialects.openai_responses import OpenAIResponses
from streamtrace.dialects.typed_json import TypedJson
from streamtrace.dialects.unknown import Unknown

BUILT_IN: tuple[Dialect, ...] = (
    OpenAIResponses(),
    Anthropic(),
    AgUi(),
    AgentFlow(),
    Cognis(),
    OpenAIChat(),
    TypedJson(),
)
"""In order of preference, which only matters to doubt: named events before those without."""

UNKNOWN: Dialect = Unknown()

MAX_FRAMES = 5
MAX_HELD_FRAMES = 256
MAX_HELD_BYTES = 1024 * 1024
"""The caller keeps the undecided frames: of each stream at most these."""


def by_name(name: str) -> Dialect:
    """The built-in dialect of that name. Raises ConfigError, with the names there are."""
    known = {dialect.name: dialect for dialect in (*BUILT_IN, UNKNOWN)}
    if name not in known:
        raise ConfigError(f"no dialect is called {name!r}; there are {', '.join(known)}")
    return known[name]


class Detector:
    """Chooses the dialect of one stream.

    Offer it the frames in their order until it answers. The caller keeps those it has offered and
    gives them to the decoder of the dialect found.
    """

    def __init__(
        self, head: Head, candidates: Sequence[Dialect] = BUILT_IN, hint: Dialect | None = None
    ) -> None:
        self._head = head
        self._candidates = candidates
        self._found = hint
        self._possible = list(candidates)
        self._asked = 0
        self._held_frames = 0
        self._held_bytes = 0

    def offer(self, frame: Frame) -> Dialect | None:
        """The dialect, or `None` while that is open."""
        if self._found is not None:
            return self._found
        self._held_frames += 1
        self._held_bytes += len(frame.data or b"") + len(frame.comment or b"")
        if (frame.data or frame.event) and frame.event not in HEARTBEATS:
            self._asked += 1
            self._ask(frame)
        if (
            self._asked >= MAX_FRAMES
            or self._held_frames >= MAX_HELD_FRAMES
            or self._held_bytes >= MAX_HELD_BYTES
        ):
            return self.settle()
        return self._found

    def settle(self) -> Dialect:
        """The best answer there is, now that no more frames come."""
        if self._found is None:
            self._found = self._possible[0] if self._asked and self._possible else UNKNOWN
        return self._found

    def _ask(self, frame: Frame) -> None:
        for candidate in self._candidates:
            try:
                fit = candidate.recognise(self._head, frame)
            except Exception:  # a dialect from outside must not break the stream's record
                fit = Fit.NO
            if fit == Fit.YES:
                self._found = candidate
                return
            if fit == Fit.NO and candidate in self._possible:
                self._possible.remove(candidate)
