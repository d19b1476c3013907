"""The text of a JSON object that a wire tells as edits of its leaves, each at a JSONPath.

Rules that hold here:

* The pieces, one behind the other, are the text of the object; each edit gives its piece at once.
* A string may come in pieces, as edits of the same path; any other path ends it.
* Edits come in the order of the text. Of one that would change what is written already nothing is
  written. Elements of an array that were skipped are null, as clients fill them.
* Kept are the open path and hashes of the keys beside it, of each up to a limit.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from streamtrace.core.jsonio import dump_json, load_json

MAX_PATH_CHARS = 1024
MAX_DEPTH = 64
MAX_SKIPPED = 64
"""Elements of an array that an edit may skip."""
MAX_KEYS = 256
"""Keys of one object that are known not to come again."""

Leaf: TypeAlias = str | int | float | bool | None
_Path: TypeAlias = tuple[str | int, ...]

_SEGMENT = re.compile(
    r"""\.(?P<name>[^.\[\]]+) | \[\s*(?P<index>\d{1,9})\s*\]
    | \[(?P<quote>['"])(?P<quoted>(?:[^\\]|\\.)*?)(?P=quote)\]""",
    re.VERBOSE | re.DOTALL,
)
_SINGLE_QUOTED = re.compile(r"""\\'|(?<!\\)((?:\\\\)*)\"""")


class JsonEdits:
    """One object, as it grows."""

    def __init__(self) -> None:
        self._path: _Path = ()  # of the last leaf
        self._keys: list[set[int]] = [set()]  # of the containers around it, from the outermost
        self._in_string = False

    def edit(self, path: str, value: Leaf, *, more: bool = False) -> str | None:
        """The text that the edit adds; `None` if there is no place for it."""
        keys = parse_path(path)
        if keys is None or not isinstance(keys[0], str):
            return None
        if keys == self._path:
            return self._grow(value, more)
        text = self._move_to(keys)
        if text is None:
            return None
        self._in_string = more and isinstance(value, str)
        leaf = dump_json(value)
        return text + (leaf[:-1] if self._in_string else leaf)

    def close(self) -> str:
        """The text that completes the object; empty if none was begun."""
        text = self._end_string() + "".join(_END[type(key)] for key in reversed(self._path))
        self._path, self._keys = (), [set()]
        return text

    def _grow(self, value: Leaf, more: bool) -> str | None:
        if not isinstance(value, str) or (value and not self._in_string):
            return None
        text = dump_json(value)[1:-1]
        return text if more else text + self._end_string()

    def _end_string(self) -> str:
        text = '"' if self._in_string else ""
        self._in_string = False
        return text

    def _move_to(self, keys: _Path) -> str | None:
        """The text from behind the last leaf up to the new one."""
        old = self._path
        depth = 0
        while depth < min(len(old), len(keys)) and old[depth] == keys[depth]:
            depth += 1
        if depth in (len(old), len(keys)) and old:
            return None  # a leaf and a container at the same place
        key = keys[depth]
        if old and (type(key) is not type(old[depth]) or hash(key) in self._keys[depth]):
            return None
        skipped = [_skipped(one) for one in keys[depth:]]
        if old and isinstance(key, int):
            skipped[0] = key - int(old[depth]) - 1
        if not all(0 <= count <= MAX_SKIPPED for count in skipped):
            return None
        text = self._end_string() + "".join(_END[type(one)] for one in reversed(old[depth + 1 :]))
        text += "," if old else ""
        del self._keys[depth + 1 :]
        for level, (one, nulls) in enumerate(zip(keys[depth:], skipped, strict=True), depth):
            if level > depth or not old:
                text += _BEGIN[type(one)]
            text += "null," * nulls + (dump_json(one) + ":" if isinstance(one, str) else "")
            if level == len(self._keys):
                self._keys.append(set())
            if isinstance(one, str) and len(self._keys[level]) < MAX_KEYS:
                self._keys[level].add(hash(one))
        self._path = keys
        return text


def parse_path(path: str) -> _Path | None:
    """The keys and indexes of a JSONPath to one place; `None` if it is none, or is too long."""
    if not path.startswith("$") or len(path) > MAX_PATH_CHARS:
        return None
    keys: list[str | int] = []
    end = 1
    while end < len(path):
        segment = _SEGMENT.match(path, end)
        key = None if segment is None else _key(segment)
        if segment is None or key is None or len(keys) == MAX_DEPTH:
            return None
        keys.append(key)
        end = segment.end()
    return tuple(keys) or None


def _key(segment: re.Match[str]) -> str | int | None:
    if (index := segment["index"]) is not None:
        return int(index)
    if (name := segment["name"]) is not None:
        return name
    quoted = segment["quoted"]
    if segment["quote"] == "'":
        quoted = _SINGLE_QUOTED.sub(lambda one: "'" if one[0] == "\\'" else one[1] + r"\"", quoted)
    text = load_json(f'"{quoted}"'.encode("utf-8", "surrogatepass"))
    return text if isinstance(text, str) else None


def _skipped(key: str | int) -> int:
    return key if isinstance(key, int) else 0


_BEGIN: dict[type, str] = {str: "{", int: "["}
_END: dict[type, str] = {str: "}", int: "]"}
