"""What encoders tell of tokens is what the run machine adds up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import TOKENS, facts

from streamtrace.core import events as ev
from streamtrace.dialects.encode import tally
from streamtrace.dialects.encode.tally import Tally

ids = st.sampled_from([None, "a", "b"])
counts = st.none() | st.integers(0, 9)
runs = st.lists(
    st.builds(ev.GenerationStarted, response_id=ids, key=ids, model=ids, provider=ids)
    | st.just(ev.TextDelta(text="a"))
    | st.just(ev.ToolCallResult(tool_call_id="c"))
    | st.builds(
        ev.Usage,
        **dict.fromkeys(TOKENS, counts),
        model=ids,
        provider=ids,
        scope=st.sampled_from(["generation"] * 4 + ["run"]),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(run=runs)
def test_it_adds_up_as_the_run_machine_does(run):
    spent = Tally()
    for event in run:
        match event:
            case ev.GenerationStarted():
                spent.generation(event)
            case ev.TextDelta():
                spent.output()
            case ev.ToolCallResult():
                spent.result()
            case ev.Usage():
                spent.usage(event)
    told = {
        (one.provider, one.model): {
            name: count for name in TOKENS if (count := getattr(one, name)) is not None
        }
        for one in spent.by_model()
    }
    expected = facts([ev.ToolCallStarted(tool_call_id="c"), *run])
    assert told == expected["usage"]
    assert spent.total() == expected["tokens"] | expected["token_parts"]


def test_generations_beyond_the_bound_count_to_the_last(monkeypatch):
    monkeypatch.setattr(tally, "MAX_GENERATIONS", 2)
    spent = Tally()
    for model in "abc":
        spent.generation(ev.GenerationStarted(response_id=model, model=model))
        spent.usage(ev.Usage(input_tokens=1))
    assert [(one.model, one.input_tokens) for one in spent.by_model()] == [("a", 1), ("c", 1)]


def test_models_of_a_run_beyond_the_bound_are_left_out(monkeypatch):
    monkeypatch.setattr(tally, "MAX_MODELS", 2)
    spent = Tally()
    for model in "abca":
        spent.usage(ev.Usage(input_tokens=2, model=model, scope="run"))
    assert [(one.model, one.input_tokens) for one in spent.by_model()] == [("a", 2), ("b", 2)]
