"""OpenAI completions, decoded, against what OpenAI's own client yields from the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import openai_oracle
from support.openai_frames import USAGE
from support.openai_oracle import Facts
from support.recordings import STREAMS
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.openai_completions import OpenAICompletions

OURS = {one.name: one for one in STREAMS if one.dialect == "openai-completions"}


def told(*chunks: Any) -> list[ev.Event]:
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks)
    return events_of(OpenAICompletions(), frames_of(body.encode()))


def fold(events: list[ev.Event]) -> Facts:
    facts = Facts()
    for event in events:
        match event:
            case ev.GenerationStarted():
                facts.response_id, facts.model = event.response_id, event.model
            case ev.TextDelta():
                _, _, index = (event.message_id or "").partition(":")
                known = facts.texts.get(int(index or 0), "")
                facts.texts[int(index or 0)] = known + event.text
            case ev.Usage():
                facts.usage = {name: getattr(event, name) for name in USAGE}
            case ev.GenerationFinished():
                facts.finish_reasons += event.finish_reasons
            case ev.RunFailed():
                facts.error = (event.type, event.message or "")
    return facts


@pytest.mark.parametrize("name", OURS)
def test_says_what_the_official_client_yields(name):
    ours = fold(events_of(OpenAICompletions(), OURS[name].frames()))
    theirs = openai_oracle.read_completions(OURS[name].body)
    theirs.error = theirs.error and (str(theirs.error[0]), theirs.error[1])
    assert ours == theirs


def test_a_delta_is_never_doubled_by_a_text_beside_it():
    both = {"index": 0, "text": "Hi", "delta": {"content": "Hi"}}
    events = told({"id": "c", "object": "text_completion", "choices": [both]})
    assert [event.text for event in events if isinstance(event, ev.TextDelta)] == ["Hi"]


@pytest.mark.parametrize("text", [7, None, ["x"], {"x": 1}, ""])
def test_a_text_that_is_none_tells_nothing(text):
    chunk = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": text}]}
    assert not [event for event in told(chunk) if isinstance(event, ev.TextDelta)]


@pytest.mark.parametrize(
    ("data", "fit"),
    [
        ('{"object":"text_completion","choices":[]}', Fit.YES),
        ('{"object":"text_completion.chunk","choices":[]}', Fit.YES),
        ('{"choices":[{"text":"Hi","index":0}]}', Fit.YES),
        ('{"choices":[{"text":"Hi","delta":{}}]}', Fit.MAYBE),
        ('{"choices":[{"index":0}]}', Fit.MAYBE),
        ('{"choices":[],"error":{"message":"m"}}', Fit.MAYBE),
        ("[DONE]", Fit.MAYBE),
        ('{"object":"chat.completion.chunk","choices":[{"text":"Hi"}]}', Fit.NO),
        ('{"type":"token","text":"Hi"}', Fit.NO),
        ("[1]", Fit.NO),
    ],
)
def test_recognises_its_own_chunks_only(data, fit):
    assert OpenAICompletions().recognise(Head(), Frame(data=data.encode())) is fit
