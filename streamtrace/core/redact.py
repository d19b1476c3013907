"""The one gate that content must pass before any sink sees it.

Rules: with `off` no content passes, with `hash` its SHA-256 and length, with `full` its text, after
the user's redactor. A redactor that raises or returns no text costs the content, never the record.
A hash proves that two texts are equal; it does not hide a text that can be guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.outcome import word
from streamtrace.core.sink import ContentMode
from streamtrace.core.summary import Content, RunSummary

Redactor = Callable[[str, str], str | None]
"""`redactor(text, where) -> text`, where `None` drops the text. `where` is one of input, text,
reasoning, arguments, result, error."""


def redact(summary: RunSummary, mode: ContentMode, redactor: Redactor | None) -> RunSummary:
    """The summary as a sink of this mode may see it. The given one is not changed."""
    failures = 0

    def gate(content: Content, where: str) -> Content:
        nonlocal failures
        if content.text is None and content.sha256 is None:
            return content
        if mode != "full":
            sha256 = content.sha256 if mode == "hash" else None
            return Content(chars=content.chars, sha256=sha256)
        text = content.text
        if redactor is not None and text is not None:
            try:
                text = redactor(text, where)
                if not isinstance(text, str | None):
                    raise TypeError(f"the redactor returned {type(text).__name__}, not str or None")
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # the user's own code; its failure must cost the content only
                failures += 1
                text = None
        return Content(chars=content.chars, text=text, truncated=content.truncated)

    replace = msgspec.structs.replace
    seen = replace(
        summary,
        request=replace(summary.request, input=gate(summary.request.input, "input")),
        generations=[
            replace(one, text=gate(one.text, "text"), reasoning=gate(one.reasoning, "reasoning"))
            for one in summary.generations
        ],
        tool_calls=[
            replace(
                one, arguments=gate(one.arguments, "arguments"), result=gate(one.result, "result")
            )
            for one in summary.tool_calls
        ],
        error=None
        if summary.error is None
        else replace(summary.error, message=gate(summary.error.message, "error")),
    )
    if failures:
        seen.issues = {**summary.issues, "redactor_failed": failures}
    return seen


CONTENT_FIELDS: dict[type[ev.Event], dict[str, Any]] = {
    ev.TextDelta: {"text": ""},
    ev.ReasoningDelta: {"text": ""},
    ev.ToolCallArgumentsDelta: {"delta": ""},
    ev.ToolCallReady: {"arguments": None},
    ev.ToolCallResult: {"result": None},
    ev.RunFailed: {"message": None},
    ev.RunInterrupted: {"reason": None},
    ev.RunCancelled: {"reason": None},
    ev.Source: {"url": None, "title": None},
    ev.State: {"value": None},
    ev.Custom: {"value": None},
}
"""The fields of each event that hold content, and what stands there when it is taken out."""

_VOCABULARY = frozenset(value for value in vars(ev).values() if isinstance(value, type))


def without_content(event: ev.Event) -> ev.Event:
    """The event as sinks see it that may not see content, or when a redactor is set: a redactor
    works on whole texts, and a secret can be cut in two by a delta."""
    kind = type(event)
    if kind not in _VOCABULARY:  # a user's own; nobody knows what its fields hold
        return ev.Custom(name=word(kind.__name__))
    blank = CONTENT_FIELDS.get(kind)
    if blank is not None:
        event = msgspec.structs.replace(event, **blank)
    if isinstance(event, ev.Custom):
        event = msgspec.structs.replace(event, name=word(event.name))
    elif isinstance(event, ev.RunFailed) and event.type is not None:
        event = msgspec.structs.replace(event, type=word(event.type))
    elif isinstance(event, ev.GenerationFinished):
        event = msgspec.structs.replace(
            event, finish_reasons=tuple(map(word, event.finish_reasons))
        )
    return event
