"""LangChain and LangGraph with scripted models. The graph is the one that runs in LangGraph's own
server (`tests/producers`), and its runs must be told as they are told there."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from fastapi.encoders import jsonable_encoder
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.messages.tool import ToolCall
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from producers.langgraph_server.graph import builder, graph
from support.adapted import Events, generations, run_of, told, tool_calls
from support.wire import events_of, text_of

from streamtrace.adapters import langchain_chunk_events, langchain_events, langgraph_events
from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects.langchain_events import LangChainEvents

CALLING = ("Where is it?", None, (20, 9), "tool_calls")
ANSWERING = (None, "It is 21 °C in Oslo.", (30, 6), "stop")
DRAFTING = (None, "Dear all, it is warm.", (30, 5), "stop")
LEFT = (None, "Oslo is warm.", (30, 3), "stop")
RIGHT = (None, "Bergen is wet.", (30, 3), "stop")
SEARCH = ("search", "completed", {"city": "Oslo"}, "21 °C in Oslo")


def question(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def asked(text: str, **options: Any) -> Any:
    return graph.astream(question(text), **options)


# --- modes of a graph --------------------------------------------------------------------------

MODES: dict[str, Any] = {
    **{mode: mode for mode in ("messages", "updates", "values", "tasks", "debug")},
    "one in a list": ["messages"],
    "many": ["messages", "updates", "values", "custom", "tasks", "debug"],
}


@pytest.mark.parametrize("subgraphs", [False, True], ids=["", "subgraphs"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", MODES)
async def test_each_mode_tells_the_same_run(mode, version, subgraphs):
    modes = MODES[mode]
    stream = asked("weather", stream_mode=modes, subgraphs=subgraphs, version=version)
    named = {"stream_mode": modes} if isinstance(modes, str) else {}
    run = run_of(await told(langgraph_events(stream, **named)))
    assert run.status == "completed"
    assert generations(run) == [CALLING, ANSWERING]
    assert tool_calls(run) == [SEARCH]
    assert {one.model for one in run.generations} == {"scripted-1-2026"}
    assert (run.usage.cached_input_tokens, run.usage.reasoning_tokens) == (8, 4)
    steps = [step.name for step in run.steps]
    assert steps == ([] if mode == "values" else ["agent", "tools", "agent"])
    assert run.issues == {}


async def test_the_mode_of_a_graph_that_was_not_told_otherwise():
    assert generations(run_of(await told(langgraph_events(asked("weather"))))) == [
        CALLING,
        ANSWERING,
    ]


async def test_a_graph_in_the_graph_speaks_too():
    stream = asked("weather, then write", stream_mode=["messages", "updates"], subgraphs=True)
    run = run_of(await told(langgraph_events(stream)))
    assert generations(run) == [CALLING, ANSWERING, DRAFTING]
    assert sorted(step.name for step in run.steps) == ["agent", "agent", "draft", "tools", "write"]


async def test_branches_at_the_same_time_are_apart():
    run = run_of(await told(langgraph_events(asked("compare", stream_mode=["messages"]))))
    first, *others = generations(run)
    assert first == ANSWERING
    assert sorted(others) == sorted([LEFT, RIGHT])


async def test_what_nodes_write_is_custom():
    stream = asked("weather", stream_mode="custom")
    events = await told(langgraph_events(stream, stream_mode="custom"))
    progress = ev.Custom(name="custom", value={"progress": "searching"})
    assert events == [progress, ev.RunFinished()]


async def test_custom_values_that_look_like_a_mode_are_not_one():
    values: list[Any] = [["values", {"messages": []}], {"type": "values"}, "updates", None]

    async def stream():
        for value in values:
            yield value

    events = await told(langgraph_events(stream(), stream_mode="custom"))
    assert [getattr(one, "name", None) for one in events[:-1]] == ["custom"] * len(values)


# --- questions and errors ----------------------------------------------------------------------

SHOWING: dict[str, Any] = {
    "updates": ("updates", "v1"),
    "values": ("values", "v1"),
    "values v2": (["values"], "v2"),
    "updates v2": (["updates"], "v2"),
    "messages and values v2": (["messages", "values"], "v2"),
}


@pytest.mark.parametrize("way", SHOWING)
async def test_a_question_and_its_answer(way):
    mode, version = SHOWING[way]
    asking = builder.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}

    async def run_with(value: Any) -> Events:
        stream = asking.astream(value, config, stream_mode=mode, version=version)
        named = {"stream_mode": mode} if isinstance(mode, str) else {}
        return await told(langgraph_events(stream, **named))

    first = await run_with(question("send"))
    assert first[-1] == ev.RunInterrupted(reason='{"question":"Send it?"}')
    assert generations(run_of(first)) == [ANSWERING]
    second = await run_with(Command(resume="yes"))
    assert text_of(second) == "Sent: yes"
    assert run_of(second).status == "completed"


@dataclass
class Draft:
    """A state that is no dict."""

    messages: Annotated[list[Any], add_messages] = field(default_factory=list)


async def test_a_state_of_ones_own_class_may_ask():
    async def ask(state: Draft) -> dict[str, Any]:
        return {"messages": [AIMessage(interrupt("Which one?"), id="m")]}

    drafting = StateGraph(Draft).add_node("ask", ask).add_edge(START, "ask")
    stream = drafting.compile(checkpointer=InMemorySaver()).astream(
        Draft(), {"configurable": {"thread_id": "t"}}, stream_mode=["values"], version="v2"
    )
    [*_, end] = await told(langgraph_events(stream))
    assert end == ev.RunInterrupted(reason="Which one?")


async def test_an_error_of_a_node_is_the_runs():
    stream = asked("fail", stream_mode=["messages", "updates"])
    events = await told(langgraph_events(stream))
    assert events[-1] == ev.RunFailed(type="ValueError", message="kaput")
    assert generations(run_of(events)) == [ANSWERING]


async def test_an_endless_run_ends_with_its_reader():
    """The node is cancelled where it waits, and has ended when the events have."""
    before = asyncio.all_tasks()
    events = langgraph_events(asked("forever", stream_mode=["messages"]))
    async for event in events:
        if isinstance(event, ev.TextDelta):
            break
    await events.aclose()
    assert asyncio.all_tasks() == before


# --- astream_events ----------------------------------------------------------------------------


def followed(text: str, **options: Any) -> Any:
    return graph.astream_events(question(text), version="v2", **options)


def on_the_wire(events: list[Any]) -> Events:
    """As web frameworks write these events, and as our decoder reads that."""
    frames = [Frame(data=json.dumps(jsonable_encoder(one)).encode()) for one in events]
    return events_of(LangChainEvents(), frames)


async def test_events_of_a_graph_tell_what_the_wire_tells():
    kept: list[Any] = []

    async def both():
        async for one in followed("weather, then write"):
            kept.append(one)
            yield one

    events = await told(langchain_events(both()))
    assert events == on_the_wire(kept)
    run = run_of(events)
    assert generations(run) == [CALLING, ANSWERING, DRAFTING]
    assert tool_calls(run) == [SEARCH]
    assert run.status == "completed"


async def test_events_of_a_graph_that_asks():
    assert (await told(langchain_events(followed("send"))))[-1] == ev.RunInterrupted(
        reason='{"question":"Send it?"}'
    )


async def test_events_of_a_graph_that_fails():
    assert (await told(langchain_events(followed("fail"))))[-1] == ev.RunFailed(
        type="ValueError", message="kaput"
    )


async def test_filtered_events_end_well():
    events = await told(langchain_events(followed("weather", include_types=["chat_model"])))
    assert text_of(events) == "It is 21 °C in Oslo."
    assert events[-1] == ev.RunFinished()


async def test_events_are_closed_with_their_reader():
    before = asyncio.all_tasks()
    events = langchain_events(followed("forever"))
    async for event in events:
        if isinstance(event, ev.TextDelta):
            break
    await events.aclose()
    assert asyncio.all_tasks() == before


# --- models and chains -------------------------------------------------------------------------


def model(*messages: AIMessage) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(messages))


CHAINS: dict[str, Any] = {
    "model": lambda: (model(AIMessage("It is warm.", id="m")), "hi"),
    "prompt": lambda: (
        ChatPromptTemplate.from_messages([("user", "{q}")]) | model(AIMessage("It is warm.")),
        {"q": "hi"},
    ),
    "text": lambda: (model(AIMessage("It is warm.")) | StrOutputParser(), "hi"),
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("chain", CHAINS)
async def test_the_chunks_of_a_chain(chain, is_async):
    runnable, given = CHAINS[chain]()
    stream = runnable.astream(given) if is_async else runnable.stream(given)
    events = await told(langchain_chunk_events(stream))
    assert len([one for one in events if isinstance(one, ev.TextDelta)]) > 1
    assert text_of(events) == "It is warm."
    assert run_of(events).status == "completed"


async def test_a_chain_that_fails():
    def fail(value: Any) -> None:
        raise KeyError("city")

    events = await told(langchain_chunk_events(RunnableLambda(fail).astream("hi")))
    assert events == [ev.RunFailed(type="KeyError", message="'city'")]


async def test_a_sync_graph():
    def call(state: Draft) -> dict[str, Any]:
        calls = [ToolCall(name="weather", args={"city": "Oslo"}, id="c")]
        return {"messages": [AIMessage("", tool_calls=calls, id="m")]}

    def weather(city: str) -> str:
        """The weather there."""
        return f"21 °C in {city}"

    def answer(state: Draft) -> dict[str, Any]:
        return {"messages": [model(AIMessage("It is warm.")).invoke(state.messages)]}

    nodes = [("call", call), ("tools", ToolNode([weather])), ("answer", answer)]
    plain = StateGraph(Draft).add_sequence(nodes).add_edge(START, "call").compile()
    stream = plain.stream(Draft(), stream_mode=["messages", "updates"])
    events = await told(langgraph_events(stream))
    run = run_of(events)
    assert text_of(events) == "It is warm."
    assert tool_calls(run) == [("weather", "completed", {"city": "Oslo"}, "21 °C in Oslo")]
    assert [step.name for step in run.steps] == ["call", "tools", "answer"]
