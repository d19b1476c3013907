"""What encoders tell of tokens is what the run machine adds up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import facts, usages

from streamtrace.core import events as ev
from streamtrace.dialects.encode import tally
from streamtrace.dialects.encode.tally import Tally

ids = st.sampled_from([None, "a", "b"])
events = st.lists(
    st.builds(ev.GenerationStarted, response_id=ids, model=ids, provider=ids)
    | st.just(ev.GenerationFinished(finish_reasons=("stop",)))
    | st.builds(ev.TextDelta, text=st.just("a"))
    | st.builds(ev.ToolCallResult, tool_call_id=st.just("c"))
    | st.tuples(usages, ids, ids, st.sampled_from(["generation"] * 4 + ["run"])).map(
        lambda drawn: ev.Usage(
            **{name: getattr(drawn[0], name) for name in tally.COUNTS},
            model=drawn[1],
            provider=drawn[2],
            scope=drawn[3],
        )
    ),
    max_size=12,
)


@settings(max_examples=500, deadline=None)
@given(run=events)
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
            name: count for name in tally.COUNTS if (count := getattr(one, name)) is not None
        }
        for one in spent.by_model()
    }
    expected = facts([ev.ToolCallStarted(tool_call_id="c"), *run])
    assert told == expected["usage"]
    assert spent.total() == expected["tokens"]


def test_models_beyond_the_bound_are_left_out(monkeypatch):
    monkeypatch.setattr(tally, "MAX_MODELS", 2)
    spent = Tally()
    for model in "abca":
        spent.generation(ev.GenerationStarted(response_id=model))
        spent.usage(ev.Usage(input_tokens=1, model=model))
    assert [(one.model, one.input_tokens) for one in spent.by_model()] == [("a", 2), ("b", 1)]
