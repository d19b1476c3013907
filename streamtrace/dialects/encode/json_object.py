"""How far text that comes in pieces is a JSON object.

Clients that parse arguments while they grow raise where they stop being JSON, and models and their
servers do write such: a second object behind the first, or a line end inside a string.
"""

from __future__ import annotations

import re

MAX_DEPTH = 100
"""Deeper than that is taken for no JSON; parsers have limits of their own, some at 200."""

_SPACE = " \t\r\n"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_PAIR = r"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rf'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{{4}}|{_PAIR})')
_ESCAPE_SO_FAR = re.compile(
    r"\\u(?!(?:[dD][c-fC-F]))(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}"
    r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)"
)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_SO_FAR = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.|(?:\.[0-9]+)?(?:[eE][+-]?[0-9]*)?)?)?")
_WORDS = ("true", "false", "null")
_CLOSERS = {"{": "}", "[": "]"}
_NAME = ("name", "name or end")
_VALUE = ("value", "value or end")


class JsonObject:
    """Follows one object. Where it stops being one, nothing more is taken."""

    def __init__(self) -> None:
        self._closers = ""  # of what is open, the innermost last
        self._expects = "object"
        self._then = ""  # expected after the string that is open
        self._token = ""  # the number, word or escape that is open

    def take(self, text: str) -> str:
        """As much of `text` as continues the object."""
        at = 0
        while at < len(text):
            if self._expects == "string" and (plain := _PLAIN.match(text, at)):
                at = plain.end()
            if at < len(text) and not self._step(text[at]):
                self._expects = "nothing"
                return text[:at]
            at += 1
        return text

    def _step(self, char: str) -> bool:
        match self._expects:
            case "string":
                return self._in_string(char)
            case "escape":
                return self._in_escape(char)
            case "word":
                return self._in_word(char)
            case "number":
                if _NUMBER_SO_FAR.fullmatch(self._token + char):
                    self._token += char
                    return True
                if not _NUMBER.fullmatch(self._token):
                    return False
                self._expects = "more"
        return self._expects != "nothing" and (char in _SPACE or self._between(char))

    def _in_string(self, char: str) -> bool:
        if char == "\\":
            self._expects, self._token = "escape", char
        else:
            self._expects = self._then
        return char in '"\\'

    def _in_escape(self, char: str) -> bool:
        self._token += char
        if _ESCAPE.fullmatch(self._token):
            self._expects = "string"
            return True
        return _ESCAPE_SO_FAR.fullmatch(self._token) is not None

    def _in_word(self, char: str) -> bool:
        self._token += char
        if self._token in _WORDS:
            self._expects = "more"
        return any(word.startswith(self._token) for word in _WORDS)

    def _between(self, char: str) -> bool:
        expects = self._expects
        if char == self._closers[-1:] and expects in ("more", "name or end", "value or end"):
            self._closers = self._closers[:-1]
            self._expects = "more" if self._closers else "end"
        elif char == '"' and expects in (*_NAME, *_VALUE):
            self._expects, self._then = "string", "colon" if expects in _NAME else "more"
        elif char == ":" and expects == "colon":
            self._expects = "value"
        elif char == "," and expects == "more":
            self._expects = "name" if self._closers.endswith("}") else "value"
        elif char in _CLOSERS and (expects in _VALUE or (expects, char) == ("object", "{")):
            self._closers += _CLOSERS[char]
            self._expects = "name or end" if char == "{" else "value or end"
            return len(self._closers) <= MAX_DEPTH
        elif expects in _VALUE and char in "-0123456789":
            self._expects, self._token = "number", char
        elif expects in _VALUE and char in "tfn":
            self._expects, self._token = "word", char
        else:
            return False
        return True
