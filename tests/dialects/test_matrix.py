"""What each dialect can say: declared in its class, shown by its streams, told in the docs."""

from __future__ import annotations

import pytest
from support.recordings import STREAMS
from support.wire import events_of

from streamtrace.core import events as ev
from streamtrace.dialects.base import SAYS, Dialect
from streamtrace.dialects.detect import BUILT_IN

DOCS = "docs/dialects.md"
BEGIN = "<!-- matrix: made from the code; pytest --update-golden -->\n"
END = "<!-- end of matrix -->"

WITNESSES = {
    "text": (ev.TextDelta,),
    "reasoning": (ev.ReasoningDelta,),
    "tool_start": (ev.ToolCallStarted,),
    "arguments": (ev.ToolCallArgumentsDelta,),
    "result": (ev.ToolCallResult,),
    "step": (ev.StepStarted,),
    "usage": (ev.Usage,),
    "finish": (ev.GenerationFinished,),
    "input_required": (ev.RunInterrupted,),
    "error": (ev.RunFailed,),
    "terminal": (ev.RunFinished, ev.RunCancelled),
}


def said(event: ev.Event) -> set[str]:
    """The words of SAYS that this event proves."""
    words = {word for word, kinds in WITNESSES.items() if isinstance(event, kinds)}
    if getattr(event, "run_id", None):
        words.add("run")
    if getattr(event, "thread_id", None):
        words.add("thread")
    if getattr(event, "model", None):
        words.add("model")
    if isinstance(event, ev.ToolCallReady) and event.arguments:
        words.add("arguments")
    return words


def shown(dialect: Dialect) -> set[str]:
    """What the streams of a dialect prove that it can say."""
    words: set[str] = set()
    for stream in STREAMS:
        if stream.dialect == dialect.name:
            for event in events_of(dialect, stream.frames(), stream.head):
                words |= said(event)
    return words


@pytest.mark.parametrize("dialect", BUILT_IN, ids=lambda one: one.name)
def test_a_dialect_says_what_it_declares_and_no_more(dialect):
    assert shown(dialect) == dialect.says


@pytest.mark.parametrize("dialect", BUILT_IN, ids=lambda one: one.name)
def test_a_dialect_whose_end_is_never_told_needs_none(dialect):
    assert dialect.needs_terminal == ("terminal" in dialect.says)


def matrix() -> str:
    """The table of the docs."""
    columns = [*(word.replace("_", " ") for word in SAYS), "encode"]
    lines = [f"| dialect | {' | '.join(columns)} |", f"|---|{':-:|' * len(columns)}"]
    for dialect in BUILT_IN:
        cells = [word in dialect.says for word in SAYS] + [bool(dialect.encodes)]
        lines.append(f"| `{dialect.name}` | {' | '.join('✓' if yes else '' for yes in cells)} |")
    return "\n".join(lines) + "\n"


def test_the_matrix_in_the_docs_is_that_of_the_code(golden, request):
    held = (request.config.rootpath / DOCS).read_text()
    before, rest = held.split(BEGIN)
    after = rest.split(END)[1]
    golden(DOCS, f"{before}{BEGIN}{matrix()}{END}{after}")
