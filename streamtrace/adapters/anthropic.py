"""The streams of Anthropic's SDK: the raw events, and those of its `MessageStream`.

Rules that hold here (`anthropic` 2.10):

* The helper (`client.messages.stream`) tells each raw event, and then what it adds up to, under
  types of its own. Only the raw ones count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.adapters.base import Reader, adapter
from streamtrace.adapters.sdk import SdkReader
from streamtrace.core import events as ev
from streamtrace.dialects.anthropic import Anthropic

_ADDED_UP = ("text", "thinking", "citation", "signature", "input_json", "compaction")


class _MessagesReader(SdkReader):
    def read(self, item: Any) -> Iterable[ev.Event]:
        return () if getattr(item, "type", None) in _ADDED_UP else super().read(item)

    def error_of(self, body: Any) -> Any:
        return body


@adapter
def anthropic_events() -> Reader:
    """Events of `client.messages.create(..., stream=True)`, or of `client.messages.stream(...)`.

    Those of `client.beta.messages` are read as well.
    """
    return _MessagesReader(Anthropic().decoder())
