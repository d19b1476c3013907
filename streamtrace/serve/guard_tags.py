"""Hides what stands in tags: `<think>…</think>`, `<tool_call>…</tool_call>`.

Rules that hold here:

* A tag is `<think>` or `<think hard>`; `<thinker>` and `<think/>` are none. Capitals do not matter.
* Hidden is everything up to the first end tag of that name, and the rest of the text without one.
* An end tag that nothing opened is hidden too. Prompts that end with `<think>` leave such: what
  stands before it was a thought.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from streamtrace.core.errors import ConfigError
from streamtrace.serve.guards import Mark, Piece

_NAME = re.compile(r"[A-Za-z][\w:.|-]{0,63}", re.ASCII)
_MAX_SPACES = 8
_FLAGS = re.IGNORECASE | re.ASCII


class TagGuard:
    """Hides the content of tags, and the tags. `calls` are those that hold a call of a tool.

    `opened` is the tag in which the text begins, where the prompt ends with it. Raises ConfigError
    for names that cannot be such.
    """

    def __init__(
        self,
        hidden: Iterable[str] = ("think", "thinking", "reasoning", "scratchpad"),
        calls: Iterable[str] = ("tool_call", "tool_calls", "tool_response", "function_call"),
        *,
        opened: str | None = None,
    ) -> None:
        self._calls = frozenset(name.lower() for name in calls)
        self._names = self._calls | {name.lower() for name in hidden}
        wrong = [name for name in self._names if not _NAME.fullmatch(name)]
        if wrong or not self._names:
            raise ConfigError(f"tags have names such as think or tool_call, not {sorted(wrong)}")
        if opened is not None and opened.lower() not in self._names:
            raise ConfigError(f"opened is one of {sorted(self._names)}, not {opened!r}")
        any_name = "|".join(map(re.escape, sorted(self._names)))
        self._marker = re.compile(
            rf"<({any_name})(?=[\s>])|</(?:{any_name})\s{{0,{_MAX_SPACES}}}>", _FLAGS
        )
        self._end_tags = {
            name: re.compile(rf"</{re.escape(name)}\s{{0,{_MAX_SPACES}}}>", _FLAGS)
            for name in self._names
        }
        self._inside = opened and opened.lower()
        self._held = ""

    def feed(self, text: str) -> Iterator[Piece]:
        """The text that is in no tag, and a mark for each call."""
        text, at = self._held + text, 0
        while True:
            marker = self._end_tags[self._inside] if self._inside else self._marker
            found = marker.search(text, at)
            if found is None:
                break
            if self._inside:
                self._inside = None
            else:
                yield text[at : found.start()]
                self._inside = found[1] and found[1].lower()
                if self._inside is None or self._inside in self._calls:
                    yield Mark.INTERMEDIATE
            at = found.end()
        held_from = self._could_begin(text, at)
        self._held = text[held_from:]
        if not self._inside:
            yield text[at:held_from]

    def end(self) -> Iterator[Piece]:
        """The beginning of a tag that never came."""
        held, inside = self._held, self._inside
        self._held, self._inside = "", None
        if not inside:
            yield held

    def _could_begin(self, text: str, at: int) -> int:
        """From where on the text could be the beginning of a marker."""
        start = text.rfind("<", at)
        if start < 0:
            return len(text)
        so_far = text[start:].lower()
        bare = so_far.rstrip()
        names = (self._inside,) if self._inside else self._names
        for name in names:
            if f"</{name}".startswith(so_far) or (
                bare == f"</{name}" and len(so_far) - len(bare) <= _MAX_SPACES
            ):
                return start
            if not self._inside and f"<{name}".startswith(so_far):
                return start
        return len(text)
