"""Which dialect a response speaks, found from its head and first frames.

Rules that hold here:

* The first candidate that is sure of a frame decides, for good.
* While all are in doubt, up to `MAX_FRAMES` frames are asked about. Then the first candidate wins
  that took every one of them for perhaps its own. If there is none, the stream is `unknown`:
  counted and timed without a guess.
* Who cannot fit a frame, by the `marks` that it shows, is not asked: most would look for them in
  vain, and that took as long as all else that is done with a first frame.
* Comments, pings and empty frames say nothing of the dialect: they are neither asked about nor
  held, however many there are. An event without data is held, but rules no candidate out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from streamtrace.core.errors import ConfigError
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_object
from streamtrace.dialects.a2a import A2A
from streamtrace.dialects.a2a_03 import A2A03
from streamtrace.dialects.ag_ui import AgUi
from streamtrace.dialects.agno import Agno
from streamtrace.dialects.anthropic import Anthropic
from streamtrace.dialects.base import Dialect, Fit, Head
from streamtrace.dialects.chatkit import ChatKit
from streamtrace.dialects.cohere import Cohere
from streamtrace.dialects.dashscope import DashScope
from streamtrace.dialects.dify import Dify
from streamtrace.dialects.gemini import Gemini
from streamtrace.dialects.gemini_interactions import GeminiInteractions
from streamtrace.dialects.google_adk import GoogleAdk
from streamtrace.dialects.house import HEARTBEATS
from streamtrace.dialects.langchain_events import LangChainEvents
from streamtrace.dialects.langgraph import LangGraph
from streamtrace.dialects.langgraph_v2 import LangGraphV2
from streamtrace.dialects.langserve import LangServe
from streamtrace.dialects.mcp import Mcp
from streamtrace.dialects.mistral_conversations import MistralConversations
from streamtrace.dialects.named import AgentFlow, Cognis
from streamtrace.dialects.ollama import Ollama
from streamtrace.dialects.open_webui import OpenWebUI
from streamtrace.dialects.openai_assistants import OpenAIAssistants
from streamtrace.dialects.openai_chat import OpenAIChat
from streamtrace.dialects.openai_completions import OpenAICompletions
from streamtrace.dialects.openai_responses import OpenAIResponses
from streamtrace.dialects.pydantic_ai import PydanticAi
from streamtrace.dialects.typed_json import TypedJson
from streamtrace.dialects.unknown import Unknown
from streamtrace.dialects.vercel_data import VercelData
from streamtrace.dialects.vercel_ui import VercelUI

BUILT_IN: tuple[Dialect, ...] = (
    OpenAIResponses(),
    OpenAIAssistants(),
    Anthropic(),
    AgUi(),
    Cohere(),
    Dify(),
    Agno(),
    PydanticAi(),
    Ollama(),
    A2A(),
    A2A03(),
    Mcp(),
    ChatKit(),
    MistralConversations(),
    DashScope(),
    LangGraphV2(),
    LangChainEvents(),
    LangServe(),
    LangGraph(),
    AgentFlow(),
    Cognis(),
    OpenWebUI(),
    GoogleAdk(),
    GeminiInteractions(),
    Gemini(),
    OpenAIChat(),
    VercelUI(),
    VercelData(),
    OpenAICompletions(),
    TypedJson(),
)
"""In order of preference, which only matters to doubt: named events before those without."""

UNKNOWN: Dialect = Unknown()

MAX_FRAMES = 5
MAX_HELD_FRAMES = 16
MAX_HELD_BYTES = 1024 * 1024
"""With events without data, which could be anybody's."""
_MAX_PING_BYTES = 256


def by_name(name: str) -> Dialect:
    """The built-in dialect of that name. Raises ConfigError, with the names there are."""
    known = {dialect.name: dialect for dialect in (*BUILT_IN, UNKNOWN)}
    if name not in known:
        raise ConfigError(f"no dialect is called {name!r}; there are {', '.join(known)}")
    return known[name]


class _Read(Frame, frozen=True, kw_only=True, gc=False):
    """A frame whose JSON was read once, for all who will ask."""

    value: Any = None

    def json(self) -> Any:
        return self.value


class Detector:
    """Chooses the dialect of one stream.

    Offer it the frames in their order until it answers. `held` are those that say something, for
    the decoder of the dialect that was found.
    """

    __slots__ = (
        "_asked",
        "_candidates",
        "_found",
        "_head",
        "_held_bytes",
        "_possible",
        "held",
    )

    def __init__(
        self, head: Head, candidates: Sequence[Dialect] = BUILT_IN, hint: Dialect | None = None
    ) -> None:
        self.held: list[Frame] = []
        self._head = head
        self._candidates = candidates
        self._found = hint
        self._possible = list(candidates)
        self._asked = 0
        self._held_bytes = 0

    def offer(self, frame: Frame) -> Dialect | None:
        """The dialect, or `None` while that is open."""
        value = None
        if self._found is None:
            value = frame.json()
            if _says_nothing(frame, value):
                return None
        self.held.append(frame)
        if self._found is None:
            self._ask(frame, value)
            self._held_bytes += len(frame.data or b"")
            if (
                self._asked >= MAX_FRAMES
                or len(self.held) >= MAX_HELD_FRAMES
                or self._held_bytes >= MAX_HELD_BYTES
            ):
                return self.settle()
        return self._found

    def settle(self) -> Dialect:
        """The best answer there is, now that no more frames come."""
        if self._found is None:
            self._found = self._possible[0] if self._asked and self._possible else UNKNOWN
        return self._found

    def _ask(self, frame: Frame, value: Any) -> None:
        perhaps = set()
        shown = _shown(self._head, frame, value)
        read = _Read(**msgspec.structs.asdict(frame), value=value)
        for candidate in self._candidates:
            marks = candidate.marks
            if marks is not None and shown is not None and marks.isdisjoint(shown):
                continue
            fit = self._fit(candidate, read)
            if fit == Fit.YES:
                self._found = candidate
                return
            if fit == Fit.MAYBE:
                perhaps.add(candidate)
        if frame.data or perhaps:
            self._asked += 1
            self._possible = [candidate for candidate in self._possible if candidate in perhaps]

    def _fit(self, candidate: Dialect, frame: Frame) -> Fit:
        try:
            return candidate.recognise(self._head, frame)
        except Exception:  # a dialect from outside must not break the stream's record
            return Fit.NO


def _shown(head: Head, frame: Frame, value: Any) -> set[str] | None:
    """What may be a mark, see `Dialect.marks`; `None` for a frame without an object."""
    if not isinstance(value, dict):
        return None
    shown = {*value, *head.headers}
    if frame.event:
        shown.add(_WORDS.split(frame.event, 1)[0])
    return shown


_WORDS = re.compile("[./|]")


def _says_nothing(frame: Frame, value: Any) -> bool:
    """Whether this is a sign of life only, in whatever vocabulary."""
    if frame.event in HEARTBEATS:
        return True
    data = frame.data.strip() if frame.data is not None else b""
    if not data:
        return not frame.event and frame.stray is None
    if len(data) > _MAX_PING_BYTES:
        return False
    if data.decode("utf-8", "replace").lower() in HEARTBEATS:
        return True
    fields = as_object(value)
    kind = fields.get("type", fields.get("event"))
    return isinstance(kind, str) and kind in HEARTBEATS
