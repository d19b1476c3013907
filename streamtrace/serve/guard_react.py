"""Hides what agents of the ReAct kind write for themselves, and shows their answer.

Rules that hold here:

* A marker stands at the start of a line, and ends with a colon: `Thought:`, `Action Input:`. It
  may be numbered or decorated: `Action 2:`, `**Final Answer:**`. Capitals do not matter.
* What follows a hidden marker is hidden up to the next marker of the other kind.
* Text before the first marker is shown: most answers have none.

Source: the output format of ReAct prompts, as agents in LangChain parse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamtrace.core.errors import ConfigError
from streamtrace.serve.guards import Mark, Piece

_MAX_MARKER_CHARS = 64
_DECORATION = "*_#"
_SPACES = " \t\r"


class ReActGuard:
    """Hides the text behind `hidden` markers, and shows that behind `shown` ones, without them.

    `opened`: the text begins behind a hidden marker, where the prompt ends with `Thought:`. Raises
    ConfigError for markers that are not words.
    """

    def __init__(
        self,
        hidden: Iterable[str] = ("Thought", "Action", "Action Input", "Observation"),
        shown: Iterable[str] = ("Final Answer",),
        *,
        opened: bool = False,
    ) -> None:
        self._is_hidden = {_key(word): True for word in hidden}
        self._is_hidden |= {_key(word): False for word in shown}
        self._hiding = opened
        self._held = ""
        self._at_line_start = True
        self._trims = ""  # what is left out behind a marker: its decoration, then spaces

    def feed(self, text: str) -> Iterator[Piece]:
        """The text that is shown, and a mark for each marker."""
        text, at = self._held + text, 0
        self._held = ""
        while at < len(text):
            if self._trims:
                at = self._trim(text, at)
            elif self._at_line_start:
                start = at
                while at < len(text) and text[at] in _SPACES:
                    at += 1
                if not self._hiding:
                    yield text[start:at]
                marker, end = self._read(text, at)
                if end is None:
                    self._held = text[at:]
                    return
                self._at_line_start = False
                if marker is not None:
                    self._hiding = self._is_hidden[marker]
                    self._trims = _DECORATION if text[at] in _DECORATION else _SPACES + "\n"
                    yield Mark.INTERMEDIATE if self._hiding else Mark.FINAL
                    at = end
            else:
                line_end = text.find("\n", at)
                self._at_line_start = line_end >= 0
                end = line_end + 1 if self._at_line_start else len(text)
                if not self._hiding:
                    yield text[at:end]
                at = end

    def end(self) -> Iterator[Piece]:
        """The beginning of a marker that never came."""
        if not self._hiding:
            yield self._held
        self._held, self._trims = "", ""
        self._hiding, self._at_line_start = False, True

    def _trim(self, text: str, at: int) -> int:
        while at < len(text) and text[at] in self._trims:
            self._at_line_start = self._at_line_start or text[at] == "\n"
            at += 1
        if at < len(text):
            self._trims = _SPACES + "\n" if self._trims == _DECORATION else ""
        return at

    def _read(self, text: str, start: int) -> tuple[str | None, int | None]:
        """The marker that the line begins with, and where it ends; no end while it may be one."""
        key = ""
        for at in range(start, min(len(text), start + _MAX_MARKER_CHARS)):
            char = text[at]
            if char in _DECORATION or (key and char.isdecimal()):
                continue
            if char in _SPACES:
                if text[start:at] in ("*", "_"):  # a bullet
                    return None, start
                continue
            key += char.lower()
            if key in self._is_hidden:
                return key, at + 1
            if not any(marker.startswith(key) for marker in self._is_hidden):
                return None, start
        return None, None if len(text) < start + _MAX_MARKER_CHARS else start


def _key(word: str) -> str:
    """A marker as it is looked for: without spaces, and with its colon."""
    key = "".join(word.lower().split())
    if not key.isalpha() or len(key) > _MAX_MARKER_CHARS // 2:
        raise ConfigError(f"markers are a few words of letters, such as Action Input, not {word!r}")
    return f"{key}:"
