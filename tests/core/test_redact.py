"""One gate before all sinks: what is off does not pass, and a failing redactor passes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from streamtrace.core import events as ev
from streamtrace.core.content import Capture, ContentPolicy
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.redact import CONTENT_FIELDS, redact, without_content
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RequestFacts, RunSummary

SECRET = "the secret"


def secret_run() -> RunSummary:
    """A run that has a secret in every place that can hold content."""
    policy = ContentPolicy(keep=True, hash=True)
    machine = RunMachine(policy=policy)
    for event in (
        ev.TextDelta(text=SECRET),
        ev.ReasoningDelta(text=SECRET),
        ev.ToolCallStarted(tool_call_id="c", name="t"),
        ev.ToolCallReady(tool_call_id="c", arguments=SECRET),
        ev.ToolCallResult(tool_call_id="c", result=SECRET),
        ev.RunFailed(type="boom", message=SECRET),
    ):
        machine.feed(event, 1)
    capture = Capture(policy)
    capture.add(SECRET)
    return machine.summary(
        StreamEnd(at_ns=1, final=True),
        started_at_ns=0,
        request=RequestFacts(input=capture.content()),
    )


def texts(run: RunSummary) -> list[str | None]:
    """All the places that can hold content."""
    assert run.error is not None
    [generation], [call] = run.generations, run.tool_calls
    contents = (
        run.request.input,
        generation.text,
        generation.reasoning,
        call.arguments,
        call.result,
        run.error.message,
    )
    return [content.text for content in contents]


def test_off_lets_no_text_and_no_hash_pass() -> None:
    run = redact(secret_run(), "off", None)
    assert SECRET not in repr(run)
    assert "sha256='" not in repr(run)
    assert run.generations[0].text.chars == len(SECRET)


def test_hash_lets_the_hash_pass_and_no_text() -> None:
    run = redact(secret_run(), "hash", None)
    assert SECRET not in repr(run)
    assert run.tool_calls[0].result.sha256 is not None
    assert str(run.to_dict()["tool_calls"][0]["result"]).startswith("sha256:")


def test_full_lets_all_pass_and_the_given_run_is_never_changed() -> None:
    run = secret_run()
    assert texts(redact(run, "full", None)) == [SECRET] * 6
    redact(run, "off", None)
    assert texts(run) == [SECRET] * 6


def test_the_redactor_sees_every_text_and_says_what_passes() -> None:
    seen: list[str] = []

    def redactor(text: str, where: str) -> str | None:
        seen.append(where)
        return None if where == "result" else text.replace("secret", "***")

    run = redact(secret_run(), "full", redactor)
    assert sorted(seen) == ["arguments", "error", "input", "reasoning", "result", "text"]
    assert texts(run) == ["the ***"] * 4 + [None, "the ***"]


@pytest.mark.parametrize("redactor", [lambda text, where: 1 / 0, lambda text, where: 42])
def test_a_redactor_that_fails_costs_the_content_not_the_record(redactor: Any) -> None:
    run = redact(secret_run(), "full", redactor)
    assert texts(run) == [None] * 6
    assert run.issues["redactor_failed"] == 6
    assert run.error is not None
    assert run.error.type == "boom"


def test_events_without_content_hold_none_in_any_field_that_can() -> None:
    for kind, blank in CONTENT_FIELDS.items():
        required = {"tool_call_id": "c", "name": "n"}
        given = dict.fromkeys(blank, SECRET)
        event = kind(**{k: v for k, v in required.items() if k in kind.__struct_fields__} | given)
        assert SECRET in repr(event)
        assert SECRET not in repr(without_content(event))


def test_events_of_ones_own_pass_by_name_only() -> None:
    class Thought(ev.Event, frozen=True, kw_only=True):
        text: str

    class Louder(ev.TextDelta, frozen=True, kw_only=True):
        also: str

    for event in (Thought(text=SECRET), Louder(text=SECRET, also=SECRET)):
        assert without_content(event) == ev.Custom(name=type(event).__name__)


def test_words_of_the_wire_are_words_or_none() -> None:
    assert without_content(ev.RunFailed(type=SECRET)) == ev.RunFailed(type="other")
    assert without_content(ev.Custom(name=SECRET, value=1)) == ev.Custom(name="other")
    finished = ev.GenerationFinished(finish_reasons=("stop", SECRET))
    assert without_content(finished) == ev.GenerationFinished(finish_reasons=("stop", "other"))
    assert without_content(ev.RunFailed(type="rate_limit")) == ev.RunFailed(type="rate_limit")


@pytest.mark.parametrize("error", [GeneratorExit(), BaseException()])
def test_a_redactor_that_raises_anything_costs_the_content(error: BaseException) -> None:
    def redactor(text: str, where: str) -> str:
        raise error

    assert texts(redact(secret_run(), "full", redactor)) == [None] * 6


def test_every_free_text_field_of_the_vocabulary_is_decided_on() -> None:
    """Edited on purpose: a new field is either content (CONTENT_FIELDS) or listed here."""
    harmless = {
        *("run_id", "thread_id", "agent", "type", "tool_call_id", "name", "step_id", "key"),
        *("response_id", "model", "provider", "finish_reasons", "scope", "message_id", "role"),
        *("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"),
        *("reasoning_tokens", "is_error", "is_delta", "requested"),
    }
    vocabulary = [kind for kind in ev.Event.__subclasses__() if kind.__module__ == ev.__name__]
    assert len(vocabulary) > 20
    for kind in vocabulary:
        undecided = set(kind.__struct_fields__) - harmless - set(CONTENT_FIELDS.get(kind, {}))
        assert undecided == set(), kind
