"""Hides calls of tools that a model writes as JSON into its text, bare or in a fence.

Rules that hold here:

* What begins like an object (`{`, a key, a colon), or like a list of such, is held until its end,
  and then told if it is no call. So JSON that is an answer comes late, and whole.
* A call is an object with the keys of one: see `_CALLS`. What is no valid JSON, is cut, or grows
  beyond `max_held_chars`, is judged by the keys that it names.
* Ends are found by counting brackets outside of strings, also where it is no valid JSON: models
  write line ends into strings, and commas behind the last item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from io import StringIO
from typing import Any, ClassVar, TypeAlias

from streamtrace.core.errors import ConfigError
from streamtrace.core.jsonio import load_json
from streamtrace.serve.guards import Mark, Piece

_CALLS: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset({"name"}), frozenset({"arguments", "parameters", "args"})),
    (
        frozenset({"tool", "tool_name", "function", "function_name"}),
        frozenset({"arguments", "parameters", "args", "kwargs", "input", "tool_input", "query"}),
    ),
    (frozenset({"action"}), frozenset({"action_input"})),
)
"""A call has a key of the first set, and one of the second."""
_ALONE = frozenset({"tool_calls", "tool_call", "function_call"})
"""Or one of these."""

_SPACE = r"\s{0,64}"
_FENCE = rf"```[^`\n]{{0,32}}\n{_SPACE}"
_LIST = rf"\[{_SPACE}"
_KEY = r'"(?:[^"\\\n]|\\.){1,64}"' + "|" + r"'(?:[^'\\\n]|\\.){1,64}'"
_KEY_SO_FAR = r'"(?:[^"\\\n]|\\.){0,64}\\?' + "|" + r"'(?:[^'\\\n]|\\.){0,64}\\?"
_opening = re.compile(rf"({_FENCE})?((?:{_LIST})?\{{{_SPACE}(?:{_KEY}){_SPACE}:)")
_opening_so_far = re.compile(
    rf"`{{1,2}}|```[^`\n]{{0,32}}"
    rf"|(?:{_FENCE})?(?:{_LIST})?(?:\{{{_SPACE}(?:{_KEY_SO_FAR}|(?:{_KEY}){_SPACE})?)?"
)
_may_open = re.compile(r"[`{\[]")
_bracket = re.compile(r"""\\.?|["'{}\[\]]""", re.DOTALL)
_fence_end = re.compile(rf"{_SPACE}```")
_fence_end_so_far = re.compile(rf"{_SPACE}`{{0,2}}")
_Reading: TypeAlias = Generator[Piece, None, int]

_named_key = re.compile(r"""["'](\w{1,32})["']\s{0,8}:""")


class JsonCallGuard:
    """Hides JSON that calls a tool. Raises ConfigError for a bound that is too small."""

    def __init__(self, max_held_chars: int = 16 * 1024) -> None:
        if max_held_chars < 1024:
            raise ConfigError(f"max_held_chars must be at least 1024, got {max_held_chars}")
        self._max_held_chars = max_held_chars
        self._reset()

    def _reset(self) -> None:
        self._state = "text"
        self._held = ""  # what may begin an object, or end its fence
        self._object = StringIO()  # with its fence
        self._object_chars = 0
        self._fence_chars = 0
        self._depth = 0
        self._quotes = ""  # those that its strings are in
        self._quote = ""  # that of the string which is open
        self._escaped = False

    def feed(self, text: str) -> Iterator[Piece]:
        """The text without calls, and a mark for each of them."""
        text, at = self._held + text, 0
        self._held = ""
        while at < len(text):
            at = yield from self._readers[self._state](self, text, at)

    def end(self) -> Iterator[Piece]:
        """What began and did not end: harmless text, or a call that was cut."""
        if self._state == "object":
            held = self._object.getvalue()
            yield Mark.INTERMEDIATE if _names_a_call(held) else held
        elif self._state != "hidden":
            yield self._held
        self._reset()

    # Each reads on from `at`, and returns how far it came.

    def _text(self, text: str, at: int) -> _Reading:
        place = at
        while found := _may_open.search(text, place):
            start = found.start()
            if opening := _opening.match(text, start):
                yield text[at:start]
                self._reset()
                self._state = "object"
                self._quotes = next(char for char in opening[2] if char in "\"'")
                self._keep(opening[1] or "")
                self._fence_chars = self._object_chars
                return start + self._fence_chars
            if _opening_so_far.fullmatch(text, start):
                yield text[at:start]
                self._held = text[start:]
                return len(text)
            place = start + 1
        yield text[at:]
        return len(text)

    def _in_object(self, text: str, at: int) -> _Reading:
        stop = min(len(text), at + self._max_held_chars - self._object_chars)
        end = self._end_of_object(text, at, stop)
        self._keep(text[at : end or stop])
        if end is None and self._object_chars < self._max_held_chars:
            return stop
        held = self._object.getvalue()
        if end is None:
            is_call, state = _names_a_call(held), "hidden"
        else:
            is_call, state = _calls_a_tool(held[self._fence_chars :]), self._behind()
        if is_call:
            self._object = StringIO()
            self._state = state
            yield Mark.INTERMEDIATE
        else:
            self._reset()
            yield held
        return end or stop

    def _in_hidden(self, text: str, at: int) -> _Reading:
        end = self._end_of_object(text, at, len(text))
        if end is not None:
            self._state = self._behind()
        yield ""
        return end or len(text)

    def _at_fence(self, text: str, at: int) -> _Reading:
        if found := _fence_end.match(text, at):
            self._state = "text"
            return found.end()
        if _fence_end_so_far.fullmatch(text, at):
            self._held = text[at:]
            return len(text)
        self._state = "text"
        yield ""
        return at

    _readers: ClassVar[dict[str, Callable[[Any, str, int], _Reading]]] = {
        "text": _text,
        "object": _in_object,
        "hidden": _in_hidden,
        "fence": _at_fence,
    }

    def _keep(self, text: str) -> None:
        self._object.write(text)
        self._object_chars += len(text)

    def _behind(self) -> str:
        return "fence" if self._fence_chars else "text"

    def _end_of_object(self, text: str, at: int, stop: int) -> int | None:
        """Behind the bracket that closes the first one, if that comes before `stop`."""
        if self._escaped and at < stop:
            self._escaped = False
            at += 1
        for found in _bracket.finditer(text, at, stop):
            token = found[0]
            if token[0] == "\\":
                self._escaped = len(token) == 1
            elif self._quote:
                if token == self._quote:
                    self._quote = ""
            elif token == self._quotes:
                self._quote = token
            elif token in "{[":
                self._depth += 1
            elif token in "}]":
                self._depth -= 1
                if not self._depth:
                    return found.end()
        return None


def _calls_a_tool(text: str) -> bool:
    value = load_json(text.encode("utf-8", "surrogatepass"))
    if value is None:
        return _names_a_call(text)
    return all(map(_is_call, value if isinstance(value, list) else [value]))


def _is_call(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return (
        _has_keys_of_a_call(value)
        or any(value.get(key) for key in _ALONE)
        or _has_keys_of_a_call(value.get("function"))
    )


def _names_a_call(text: str) -> bool:
    """As far as can be told from the keys in text that is no JSON, or not all of it."""
    keys = dict.fromkeys(_named_key.findall(text), "")
    return _has_keys_of_a_call(keys) or any(key in keys for key in _ALONE)


def _has_keys_of_a_call(value: Any) -> bool:
    return isinstance(value, dict) and any(
        any(isinstance(value.get(name), str) for name in names) and not asked.isdisjoint(value)
        for names, asked in _CALLS
    )
