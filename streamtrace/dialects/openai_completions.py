"""OpenAI Completions, the older API that continues a prompt, and the servers that still speak it.

Rules that hold here:

* A chunk is one of chat in all but its choices, which hold `text` in place of a `delta`: it is read
  by the decoder of chat, with its rules on ids, finish reasons, usage, errors and the end.
* A choice is one continuation of one prompt. With several prompts their indices count on.

Source: `openai` 3.51 (`types.Completion`), and servers such as vLLM, of which some stream usage in
every chunk, and some name no object.
"""

from __future__ import annotations

from typing import Any

from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_object
from streamtrace.dialects.base import Dialect, Fit, Head, marks, says
from streamtrace.dialects.openai_chat import OpenAIChat


class OpenAICompletions(OpenAIChat):
    """`data:` frames with `text_completion` objects, ended by `[DONE]`."""

    name = "openai-completions"
    marks = marks("object choices error")
    says = says("run text model usage finish error terminal")
    objects = ("text_completion", "text_completion.chunk")
    encodes = frozenset()
    encoder = Dialect.encoder  # chat can be written, these cannot

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a completion, and of a choice with text where no object is named."""
        fit = super().recognise(head, frame)
        return Fit.YES if fit is Fit.MAYBE and _has_text(frame.json()) else fit


def _has_text(chunk: Any) -> bool:
    choices = as_object(chunk).get("choices")
    first = as_object(choices[0]) if isinstance(choices, list) and choices else {}
    return isinstance(first.get("text"), str) and "delta" not in first
