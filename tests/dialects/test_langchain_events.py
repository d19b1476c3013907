"""The events of `astream_events`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.dialects.langchain_events import LangChainEvents

RECORDINGS = Path(__file__).parents[1] / "recordings"
EVENTS = LangChainEvents()
ENDS = (ev.RunFinished, ev.RunFailed, ev.RunInterrupted, ev.RunCancelled)


def recorded(name: str) -> list[ev.Event]:
    return events_of(EVENTS, frames_of((RECORDINGS / f"{name}.sse").read_bytes()))


def event(kind: str, run_id: str = "r", *parents: str, **fields: Any) -> str:
    name = fields.pop("name", "f")
    body = {"event": kind, "run_id": run_id, "name": name, "parent_ids": [*parents], **fields}
    return f"data: {json.dumps(body)}\n\n"


def said(*frames: str) -> list[ev.Event]:
    return events_of(EVENTS, frames_of("".join(frames).encode()))


def of(kind: type[ev.Event] | tuple[type[ev.Event], ...], events: list[ev.Event]) -> list[Any]:
    return [one for one in events if isinstance(one, kind)]


ROOT = event("on_chain_start", name="agent", metadata={"thread_id": "t"})
ROOT_ENDS = event("on_chain_end", name="agent")

# --- the tree ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_both_versions_tell_the_same(version):
    events = recorded(f"langchain_events_{version}")
    kinds = (ev.StepStarted, ev.StepFinished, ev.ToolCallStarted, ev.ToolCallResult, ev.Usage)
    assert [getattr(one, "name", type(one).__name__) for one in of(kinds, events)] == [
        "agent", "search", "Usage", "after_agent", "after_agent", "agent", "tools",
        "ToolCallResult", "tools", "agent", "Usage", "after_agent", "after_agent", "agent",
    ]  # fmt: skip
    assert text_of(events) == "It is 21 °C in Oslo."
    assert isinstance(events[-1], ev.RunFinished)


def test_a_graph_that_asks_has_not_finished():
    """The root tells the question, and then it ends as always."""
    asks = {"__interrupt__": [{"value": {"question": "Send it?"}, "id": "i"}]}
    asked = event("on_chain_stream", name="agent", data={"chunk": asks})
    inside = event("on_chain_stream", "c", "r", data={"chunk": asks})
    question = ev.RunInterrupted(reason='{"question":"Send it?"}')
    assert of(ENDS, said(ROOT, asked, ROOT_ENDS)) == [question]
    assert of(ENDS, said(ROOT, inside, ROOT_ENDS)) == [ev.RunFinished(run_id="r")]


def test_the_root_is_the_run():
    child = event("on_chain_start", "c", "r", name="step")
    events = said(ROOT, child, event("on_chain_end", "c", "r", name="step"), ROOT_ENDS)
    assert events == [
        ev.RunStarted(run_id="r", thread_id="t", agent="agent"),
        ev.StepStarted(name="step", step_id="c"),
        ev.StepFinished(name="step", step_id="c"),
        ev.RunFinished(run_id="r"),
    ]


def test_a_child_names_a_root_that_was_not_seen():
    events = said(event("on_chain_start", "c", "r", "b"), event("on_chain_end", "r"))
    assert events[0] == ev.RunStarted(run_id="r")
    assert events[-1] == ev.RunFinished(run_id="r")


def test_the_root_may_be_a_model():
    events = recorded("langserve_stream_events")
    assert events[0] == ev.RunStarted(run_id="cc00b71b-7cdc-411a-8c59-f9f0040f997e")
    assert of(ENDS, events) == [ev.RunFinished(run_id="cc00b71b-7cdc-411a-8c59-f9f0040f997e")]


@pytest.mark.parametrize(("last", "ends"), [
    ("event: end\n\n", [ev.RunFinished(run_id="r")]),
    (ROOT_ENDS + "event: end\n\n", [ev.RunFinished(run_id="r")]),
    ('event: error\ndata: {"status_code":500,"message":"no"}\n\n',
     [ev.RunFailed(type="500", message="no")]),
    ("event: error\ndata: no\n\n", [ev.RunFailed(message="no")]),
    ("data: [DONE]\n\n", []),
    ("", []),
])  # fmt: skip
def test_a_run_ends_once(last, ends):
    assert of(ENDS, said(ROOT, last)) == ends


def test_langserve_may_name_the_run_first():
    events = said('event: metadata\ndata: {"run_id":"r"}\n\n', ROOT, ROOT_ENDS)
    assert [one.run_id for one in of((ev.RunStarted, ev.RunFinished), events)] == ["r", "r"]


# --- models --------------------------------------------------------------------------------------


def chunk(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "AIMessageChunk", "content": text, "id": "lc_run--m", **fields}


LS = {"ls_model_name": "gpt", "ls_provider": "openai"}


def test_a_model_is_called_when_it_starts():
    """And not with its first word: the time between is the model's."""
    events = said(ROOT, event("on_chat_model_start", "m", "r", metadata=LS))
    assert events[-1] == ev.GenerationStarted(response_id="m", model="gpt", provider="openai")


def test_text_comes_from_models_only():
    texts = ("on_chain_stream", "on_parser_stream", "on_prompt_end", "on_parser_end")
    events = said(ROOT, *(event(kind, "c", "r", data={"chunk": "Hi"}) for kind in texts))
    assert events == [ev.RunStarted(run_id="r", thread_id="t", agent="agent")]


@pytest.mark.parametrize("output", [
    chunk("Hi"),
    {"generations": [[{"text": "Hi", "message": chunk("Hi")}]], "llm_output": None},
])  # fmt: skip
def test_what_a_model_did_not_stream_is_told_at_its_end(output):
    streamed = event("on_chat_model_stream", "m", "r", data={"chunk": chunk("Hi")})
    ended = event("on_chat_model_end", "m", "r", data={"output": output})
    assert text_of(said(ROOT, ended)) == "Hi"
    assert text_of(said(ROOT, streamed, ended)) == "Hi"


@pytest.mark.parametrize("frames", [
    [{"chunk": "Hi"}, {"chunk": " you"}],
    [{"chunk": {"text": "Hi", "type": "GenerationChunk"}}, {"chunk": {"text": " you"}}],
    [],
])  # fmt: skip
def test_models_that_complete_text_have_no_messages(frames):
    output = {"generations": [[{"text": "Hi you", "type": "Generation"}]]}
    events = said(
        ROOT, *(event("on_llm_stream", "m", "r", data=data) for data in frames),
        event("on_llm_end", "m", "r", data={"output": output}),
    )  # fmt: skip
    assert text_of(events) == "Hi you"


def test_what_was_not_serialised_is_passed_on():
    data = {"chunk": "content='Hi' additional_kwargs={}"}
    events = said(ROOT, event("on_chat_model_stream", "m", "r", data=data))
    assert text_of(events) == ""
    assert [one.name for one in of(ev.Custom, events)] == ["on_chat_model_stream"]


# --- tools ---------------------------------------------------------------------------------------


def calls(*ids: str) -> str:
    wires = [{"id": one, "name": "f", "args": {"of": one}} for one in ids]
    output = {**chunk(""), "tool_calls": wires}
    return event("on_chat_model_end", "m", "r", data={"output": output})


def started(run_id: str, name: str = "f") -> str:
    return event("on_tool_start", run_id, "r", name=name, data={"input": {"a": 1}})


def returned(run_id: str, call_id: str | None = None, text: str = "21") -> str:
    message = {"type": "tool", "content": text, "tool_call_id": call_id, "status": "success"}
    return event("on_tool_end", run_id, "r", data={"output": message if call_id else text})


def test_a_tool_takes_the_call_that_waits():
    events = said(ROOT, calls("c"), started("x"), returned("x"))
    assert of((ev.ToolCallStarted, ev.ToolCallResult), events) == [
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallResult(tool_call_id="c", result="21"),
    ]


def test_tools_side_by_side_each_take_one():
    """Which one a run has is known when it ends."""
    for first, second in (("c1", "c2"), ("c2", "c1")):
        events = said(ROOT, calls("c1", "c2"), started("x"), started("y"),
                      returned("y", second, "2"), returned("x", first, "1"))  # fmt: skip
        assert len(of(ev.ToolCallStarted, events)) == 2
        assert of(ev.ToolCallResult, events) == [
            ev.ToolCallResult(tool_call_id=second, result="2"),
            ev.ToolCallResult(tool_call_id=first, result="1"),
        ]


def test_a_tool_that_no_model_called_is_a_call_of_its_own():
    events = said(ROOT, calls("c"), started("x", "other"), returned("x"))
    assert events[-3:] == [
        ev.ToolCallStarted(tool_call_id="x", name="other"),
        ev.ToolCallReady(tool_call_id="x", arguments='{"a":1}'),
        ev.ToolCallResult(tool_call_id="x", result="21"),
    ]


def test_a_call_of_the_run_before_is_told_once():
    """A run that goes on after a question starts with the tool."""
    state = event("on_chat_model_end", "m", "r", data={"output": {**chunk(""), "tool_calls": []}})
    events = said(ROOT, started("x"), returned("x", "c"), returned("z", "c"), state)
    assert of(ev.ToolCallResult, events) == [ev.ToolCallResult(tool_call_id="x", result="21")]


@pytest.mark.parametrize(("error", "text"), [
    ("no city", "no city"), ({"message": "no city"}, '{"message":"no city"}'), (None, "null"),
])  # fmt: skip
@pytest.mark.parametrize("call_id", ["c", None])
def test_a_tool_that_fails_is_an_error(error, text, call_id):
    data = {"error": error, "tool_call_id": call_id}
    events = said(ROOT, calls("c"), started("x"), event("on_tool_error", "x", "r", data=data))
    assert events[-1] == ev.ToolCallResult(tool_call_id="c", result=text, is_error=True)


# --- the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda found: found, lambda found: {"documents": found}])
def test_a_retriever_is_a_step_that_finds_sources(wrap):
    """v1 wraps the documents."""
    found = [
        {"page_content": "…", "metadata": {"source": "notes.txt"}},
        {"page_content": "…", "metadata": {"url": "u", "title": "t", "source": "s"}},
        {"page_content": "…", "metadata": {}},
        7,
    ]
    events = said(
        ROOT, event("on_retriever_start", "x", "r", name="Atlas"),
        event("on_retriever_end", "x", "r", name="Atlas", data={"output": wrap(found)}),
    )  # fmt: skip
    assert events[1:] == [
        ev.StepStarted(name="Atlas", step_id="x"),
        ev.Source(url="notes.txt"),
        ev.Source(url="u", title="t"),
        ev.StepFinished(name="Atlas", step_id="x"),
    ]


@pytest.mark.parametrize(("frame", "expected"), [
    (event("on_custom_event", "x", "r", name="progress", data={"percent": 50}),
     ev.Custom(name="progress", value={"percent": 50})),
    ('data: {"odd": 1}\n\n', ev.Custom(name="unknown", value={"odd": 1})),
    ("event: odd\ndata: x\n\n", ev.Custom(name="odd", value="x")),
])  # fmt: skip
def test_what_nobody_knows_is_passed_on(frame, expected):
    assert said(ROOT, frame)[-1] == expected


def test_an_unknown_kind_of_event_is_passed_on():
    assert said(ROOT, event("on_brand_new", "x", "r"))[-1].name == "on_brand_new"
