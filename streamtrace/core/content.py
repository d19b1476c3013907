"""Text that passed through a stream: counted always, hashed or kept only where someone asked.

Rules: what is kept of one stream stays within one budget of bytes, shared by all its texts, first
come first served; a cut falls between code points and is marked; the true length is always known.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from streamtrace.core.jsonio import clean_text
from streamtrace.core.summary import Content

MAX_CONTENT_BYTES = 64 * 1024
_JOIN_AT = 256
_FIRST_SURROGATE, _LAST_HIGH_SURROGATE = "\ud800", "\udbff"


class ContentPolicy(msgspec.Struct, gc=False):
    """What to do with the texts of one stream. `room_bytes` is what may still be kept."""

    keep: bool = False
    hash: bool = False
    room_bytes: int = MAX_CONTENT_BYTES


class Capture(msgspec.Struct, eq=False, gc=False):
    """One text under way."""

    _policy: ContentPolicy
    chars: int = 0
    _half: str = ""
    _kept: list[str] | None = None
    _digest: Any = None
    _truncated: bool = False

    def __post_init__(self) -> None:
        """The digest, where one is wanted."""
        if self._policy.hash:
            self._digest = hashlib.sha256()

    def add(self, text: str) -> None:
        """The next piece. The first half of a surrogate pair waits for the second."""
        if self._half or (text and text[-1] >= _FIRST_SURROGATE):
            text = self._whole(text)
        self.chars += len(text)
        policy = self._policy
        if not (policy.keep or policy.hash):
            return
        encoded = text.encode("utf-8", "surrogatepass")
        if self._digest is not None:
            self._digest.update(encoded)
        if not policy.keep or self._truncated:
            return
        if len(encoded) > policy.room_bytes:
            text = encoded[: policy.room_bytes].decode("utf-8", "ignore")
            policy.room_bytes = 0
            self._truncated = True
        else:
            policy.room_bytes -= len(encoded)
        if not text:
            return
        if self._kept is None:
            self._kept = []
        self._kept.append(text)
        if len(self._kept) > _JOIN_AT:  # many tiny strings weigh more than their text
            self._kept = ["".join(self._kept)]

    def _whole(self, text: str) -> str:
        text, self._half = self._half + text, ""
        if text and _FIRST_SURROGATE <= text[-1] <= _LAST_HIGH_SURROGATE:
            text, self._half = text[:-1], text[-1]
        return clean_text(text)

    def content(self) -> Content:
        """What is known of the text now."""
        kept = self._kept or ()
        return Content(
            chars=self.chars,
            text=clean_text("".join(kept)) if self._policy.keep and self.chars else None,
            sha256=self._digest.hexdigest() if self._digest is not None and self.chars else None,
            truncated=self._truncated,
        )


def join(contents: list[Content]) -> Content:
    """Several messages as one content: texts with a blank line between, lengths added up."""
    if len(contents) == 1:
        return contents[0]
    texts = [content.text for content in contents if content.text is not None]
    hashes = [content.sha256 for content in contents if content.sha256]
    return Content(
        chars=sum(content.chars for content in contents),
        text="\n\n".join(filter(None, texts)) if texts else None,
        sha256=hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None,
        truncated=any(content.truncated for content in contents),
    )
