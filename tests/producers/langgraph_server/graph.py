"""A graph with all that streams: a model that reasons and calls a tool, a graph inside the graph,
two branches at once, a question to the user, an error, and a model that never ends.

The question chooses the way, by the words in it. The model is scripted, and does what the models of
langchain-openai do: the provider's id stands on the first chunk only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from langchain_core.language_models.chat_models import BaseChatModel, agenerate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send, interrupt

MODEL = "scripted-1"
PROVIDER = "scripted"
ARGUMENTS = ('{"city": ', '"Oslo"}')
REASONING = ("Where is ", "it?")
ANSWER = "It is 21 °C in Oslo."


def last(finish_reason: str, **counts: Any) -> AIMessageChunk:
    usage = UsageMetadata(total_tokens=counts["input_tokens"] + counts["output_tokens"], **counts)
    metadata = {"finish_reason": finish_reason, "model_name": f"{MODEL}-2026"}
    return AIMessageChunk(content="", response_metadata=metadata, usage_metadata=usage)


def call_of_search() -> list[AIMessageChunk]:
    def call(**part: Any) -> dict[str, Any]:
        return {"name": None, "args": None, "id": None, "index": 1, **part}

    call_id = f"call_{uuid4().hex[:12]}"
    return [
        AIMessageChunk(content=[], id=f"resp_{uuid4().hex[:12]}"),
        *(
            AIMessageChunk(content=[{"type": "reasoning", "reasoning": text, "index": 0}])
            for text in REASONING
        ),
        AIMessageChunk(content=[], tool_call_chunks=[call(name="search", args="", id=call_id)]),
        *(AIMessageChunk(content=[], tool_call_chunks=[call(args=text)]) for text in ARGUMENTS),
        last("tool_calls", input_tokens=20, output_tokens=9, output_token_details={"reasoning": 4}),
    ]


def words(text: str) -> list[AIMessageChunk]:
    first, *rest = text.split(" ")
    pieces = [first, *(f" {word}" for word in rest)]
    return [
        AIMessageChunk(content="", id=f"resp_{uuid4().hex[:12]}"),
        *(AIMessageChunk(content=piece) for piece in pieces),
        last("stop", input_tokens=30, output_tokens=len(pieces),
             input_token_details={"cache_read": 8}),
    ]  # fmt: skip


class Scripted(BaseChatModel):
    model_name: str = MODEL
    says: str = ANSWER

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _get_ls_params(self, stop: Any = None, **options: Any) -> Any:
        return {**super()._get_ls_params(stop, **options), "ls_provider": PROVIDER}

    def _generate(self, *arguments: Any, **options: Any) -> ChatResult:
        raise NotImplementedError("the graph is run on a loop")

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages))

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        question = messages[-1].content if isinstance(messages[-1], HumanMessage) else ""
        wants_tool = self.says == ANSWER and "weather" in question
        for chunk in call_of_search() if wants_tool else words(self.says):
            await asyncio.sleep(0.001)  # so that branches take turns
            yield ChatGenerationChunk(message=chunk)
        if "forever" in question:
            await asyncio.Event().wait()


@tool
async def search(city: str) -> str:
    """The weather there."""
    get_stream_writer()({"progress": "searching"})
    return f"21 °C in {city}"


async def agent(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await Scripted().ainvoke(state["messages"])]}


def saying(text: str) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await Scripted(says=text).ainvoke(state["messages"])]}

    return node


async def send(state: MessagesState) -> dict[str, Any]:
    answer = interrupt({"question": "Send it?"})
    return {"messages": [AIMessage(content=f"Sent: {answer}")]}


async def fail(state: MessagesState) -> None:
    raise ValueError("kaput")


def after_agent(state: MessagesState) -> Any:
    messages = state["messages"]
    if isinstance(messages[-1], AIMessage) and messages[-1].tool_calls:
        return "tools"
    asked = next(one.content for one in reversed(messages) if isinstance(one, HumanMessage))
    if "compare" in asked:
        return [Send("left", state), Send("right", state)]
    return next((name for name in ("write", "send", "fail") if name in asked), END)


writer = StateGraph(MessagesState).add_node("draft", saying("Dear all, it is warm."))
writer.add_edge(START, "draft")

builder = StateGraph(MessagesState)
builder.add_node("agent", agent)
builder.add_node("tools", ToolNode([search]))
builder.add_node("write", writer.compile())
builder.add_node("left", saying("Oslo is warm."))
builder.add_node("right", saying("Bergen is wet."))
builder.add_node("send", send)
builder.add_node("fail", fail)
builder.add_edge(START, "agent")
builder.add_edge("tools", "agent")
builder.add_conditional_edges(
    "agent", after_agent, ["tools", "write", "left", "right", "send", "fail", END]
)
graph = builder.compile()
