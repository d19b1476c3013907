"""The streams of OpenAI's SDK: chat completions and Responses, of its clients and of its helpers.

Rules that hold here (`openai` 3.51):

* The SDK reads `[DONE]` and does not pass it on, and some servers give no finish reason. So a chat
  that just stops has finished: a connection that breaks is an exception. Responses tell their end.
* The helper (`client.chat.completions.stream`) tells the chunk, and then what it is made of: only
  the chunk counts. That of Responses adds what was said so far to the same events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.adapters.base import Reader, adapter
from streamtrace.adapters.sdk import SdkReader
from streamtrace.core import events as ev
from streamtrace.dialects.openai_chat import OpenAIChat
from streamtrace.dialects.openai_responses import OpenAIResponses


class _ChatReader(SdkReader):
    needs_terminal = False

    def read(self, item: Any) -> Iterable[ev.Event]:
        chunk = item if hasattr(item, "choices") else getattr(item, "chunk", None)
        return () if chunk is None else super().read(chunk)


@adapter
def openai_chat_events() -> Reader:
    """Events of `client.chat.completions.create(..., stream=True)`, or of its `stream(...)`."""
    return _ChatReader(OpenAIChat().decoder())


@adapter
def openai_responses_events() -> Reader:
    """Events of `client.responses.create(..., stream=True)`, or of its `stream(...)`."""
    return SdkReader(OpenAIResponses().decoder())
