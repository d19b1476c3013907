"""FastAPI and LangGraph: a graph with a tool and a memory per thread, served from a route of yours.

    python examples/serve_langgraph.py [PORT]
    curl -N http://127.0.0.1:8000/threads/t-1/runs -H 'content-type: application/json' \
        -d '{"text": "What is the weather in Oslo?"}'

Ask again in the same thread: it is the second question there. Each run is printed as a line of
JSON. Needs fastapi, langgraph, uvicorn and streamtrace[serve].
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Request
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

from streamtrace import StreamTraceMiddleware
from streamtrace.adapters import langgraph_events
from streamtrace.serve import (
    EventStream,
    KindFilter,
    Refusal,
    RunContext,
    Runs,
    Settings,
    begin,
    context_of,
    draining,
    refused,
)
from streamtrace.sinks.jsonl import JsonLinesSink


class FakeModel(BaseChatModel):
    """A script. A real one goes here: `ChatOpenAI(model=...).bind_tools([get_forecast])`."""

    @property
    def _llm_type(self) -> str:
        return "script"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            asked = sum(isinstance(one, HumanMessage) for one in messages)
            said = AIMessage(f"Question {asked} of this thread. It is {last.content}.")
        else:
            call = {"name": "get_forecast", "args": {"place": "Oslo"}, "id": f"call-{uuid4()}"}
            said = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=said)])


@tool
def get_forecast(place: str) -> str:
    """The weather there."""
    return f"-2 °C in {place}"


async def model(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await FakeModel().ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("model", model)
builder.add_node("tools", ToolNode([get_forecast]))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", tools_condition)
builder.add_edge("tools", "model")
graph = builder.compile(checkpointer=InMemorySaver())  # a real one outlives the process


def agent(run: RunContext) -> Any:
    return langgraph_events(
        graph.astream(
            {"messages": run.messages},
            {"configurable": {"thread_id": run.thread_id}},
            stream_mode=["messages", "updates"],
        )
    )


runs = Runs()
# What nodes hand to each other is told as well, and is nobody's business.
settings = Settings(filters=[lambda run: KindFilter(exclude=["state", "custom"])])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with draining(runs):
        yield


class Ask(BaseModel):
    text: str


app = FastAPI(lifespan=lifespan, exception_handlers={Refusal: refused})
app.add_middleware(StreamTraceMiddleware, sinks=[JsonLinesSink("-")])


@app.post("/threads/{thread_id}/runs")
async def ask(asked: Ask, request: Request) -> EventStream:
    context = context_of(
        asked.model_dump(), headers=request.headers, path_params=request.path_params, user=None
    )
    return EventStream(begin(runs, agent, context, settings), "ag-ui")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]) if sys.argv[1:] else 8000)
