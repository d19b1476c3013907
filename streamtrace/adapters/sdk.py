"""What the SDKs of model providers share: objects that hold what the server sent, and no more.

Rules that hold here:

* An object is written as it came: without the fields that the server left out, nor what a helper
  adds of what was said so far.
* An error in the stream is an exception, whose `body` is what the server sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.adapters.base import Reader, frame_of
from streamtrace.core import events as ev

_SO_FAR = {"snapshot", "parsed"}


class SdkReader(Reader):
    """Reads objects of an SDK."""

    needs_terminal = True

    def read(self, item: Any) -> Iterable[ev.Event]:
        """What the object says."""
        return self.decoder.decode(frame_of(wire_of(item)))

    def fail(self, error: Exception) -> Iterable[ev.Event]:
        """What the server sent, if that is what failed."""
        body = getattr(error, "body", None)
        return () if body is None else self.decoder.decode(frame_of(self.error_of(body), "error"))

    def error_of(self, body: Any) -> Any:
        """The event that told the error. By default the SDK keeps what stands in its `error`."""
        return {"error": body}


def wire_of(item: Any) -> Any:
    """The object as the server sent it. Warnings would be of what the SDK does not know yet."""
    if not hasattr(item, "model_dump"):
        return item
    return item.model_dump(exclude_unset=True, by_alias=True, warnings=False, exclude=_SO_FAR)
