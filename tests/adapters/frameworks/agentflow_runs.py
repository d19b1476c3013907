"""Graphs of 10xGraph (AgentFlow). Its models ask a server that says what a script says.

With `--chunks` it prints what the graphs give, one scenario per line: that is recorded in
`tests/adapters/agentflow_chunks.jsonl`, for where the package cannot be installed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from openai import AsyncOpenAI
from scenarios import documented, run_all, tasks_left, told
from tenxgraph import END, Agent, Message, StateGraph, ToolNode
from tenxgraph.storage.checkpointer import InMemoryCheckpointer
from tenxgraph.utils import ResponseGranularity, interrupt

from streamtrace.adapters import agentflow_events
from streamtrace.core import events as ev
from streamtrace.core.frames import encode_frame
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.openai_chat import OpenAIChat

Script = list[list[ev.Event]]
"""What the model says in each of its turns."""

FULL, LOW = ResponseGranularity.FULL, ResponseGranularity.LOW
_threads = itertools.count()


def says(*words: str) -> list[ev.Event]:
    texts = [ev.TextDelta(text=word) for word in words]
    return [*texts, ev.GenerationFinished(finish_reasons=("stop",)), ev.RunFinished()]


def calls(name: str) -> list[ev.Event]:
    return [
        ev.ReasoningDelta(text="Where is it?"),
        ev.TextDelta(text="Let me look. "),
        ev.ToolCallStarted(tool_call_id="call-1", name=name),
        ev.ToolCallArgumentsDelta(tool_call_id="call-1", delta='{"city": "Oslo"}'),
        ev.ToolCallReady(tool_call_id="call-1"),
        ev.GenerationFinished(finish_reasons=("tool_calls",)),
        ev.RunInterrupted(),
    ]


class Server:
    """Answers as many requests as the script has turns, and refuses all others."""

    def __init__(self, script: Script, *, hangs: bool = False) -> None:
        self.script, self.hangs, self.asked = script, hangs, 0

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.asked == len(self.script):
            return httpx2.Response(400, json={"error": {"message": "no more to say"}})
        self.asked += 1
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=self.body())

    async def body(self) -> AsyncIterator[bytes]:
        encoder = OpenAIChat().encoder(Envelope(run_id=f"c{self.asked}", model="scripted-1"))
        for event in self.script[self.asked - 1]:
            for frame in encoder.encode(event):
                yield encode_frame(frame)
            if self.hangs and isinstance(event, ev.TextDelta):
                await asyncio.Event().wait()
        for frame in encoder.close():
            yield encode_frame(frame)


def weather(city: str) -> str:
    """The weather there."""
    return f"21 °C in {city}"


def broken(city: str) -> str:
    """Never works."""
    raise ValueError("no such table")


def delete(city: str) -> str:
    """Asks before."""
    return f"Deleted: {interrupt({'city': city}, message='Delete it?')}"


def graph_of(script: Script, *tools: Any, hangs: bool = False) -> Any:
    tool_node = ToolNode(list(tools))
    agent = Agent(model="openai/scripted-1", api_key="any", tool_node=tool_node, retry_config=False)
    transport = httpx2.MockTransport(Server(script, hangs=hangs))
    agent.client = AsyncOpenAI(
        api_key="any",
        base_url="http://model.test",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport),
    )
    graph = StateGraph()
    graph.add_node("model", agent)
    graph.add_node("tools", tool_node)
    graph.add_conditional_edges("model", _next, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    graph.set_entry_point("model")
    return graph.compile(checkpointer=InMemoryCheckpointer())


def _next(state: Any) -> str:
    last = state.context[-1]
    return "tools" if last.role == "assistant" and last.tools_calls else END


def running(graph: Any, granularity: Any = FULL, **asked: Any) -> Any:
    given = asked or {"messages": [Message.text_message("How is it?")]}
    config = {"thread_id": graph_thread(graph), "recursion_limit": 10}
    return graph.astream(given, config=config, response_granularity=granularity)


def graph_thread(graph: Any) -> str:
    graph.of_thread = getattr(graph, "of_thread", None) or f"thread-{next(_threads)}"
    return graph.of_thread


TOOLS = [calls("weather"), says("It is ", "warm.")]


def streams() -> dict[str, Any]:
    """What the graphs give, by scenario; the last two are of one graph."""
    asking = graph_of([calls("delete"), says("Done.")], delete)
    return {
        "plain": running(graph_of([says("It is ", "warm.")], weather), LOW),
        "tools": running(graph_of(TOOLS, weather)),
        "tools_low": running(graph_of(TOOLS, weather), LOW),
        "broken_tool": running(graph_of([calls("broken"), says("Oh.")], broken)),
        "model_fails": running(graph_of([])),
        "asks": running(asking),
        "answered": running(asking, resume="yes"),
    }


async def in_order() -> dict[str, Any]:
    return {name: await told(agentflow_events(stream)) for name, stream in streams().items()}


async def left() -> int:
    return await tasks_left(agentflow_events(running(graph_of(TOOLS, weather, hangs=True))))


async def on_the_page() -> Any:
    return await documented("AgentFlow", graph=graph_of([says("It is ", "warm.")], weather))


async def chunks() -> dict[str, Any]:
    """The chunks as JSON, without what states hold; of a failure, what was raised comes last."""
    found: dict[str, list[Any]] = {}
    for name, stream in streams().items():
        found[name] = []
        try:
            async for chunk in stream:
                state = None if chunk.state is None else {"context": []}
                fields = chunk.model_dump(mode="json", exclude={"timestamp", "state"})
                found[name].append({**fields, "state": state})
        except Exception as error:
            found[name].append({"raised": type(error).__name__, "text": str(error)})
    return found


if __name__ == "__main__":
    logging.disable()
    if "--chunks" in sys.argv:
        for name, given in asyncio.run(chunks()).items():
            print(json.dumps([name, given], ensure_ascii=False))
    else:
        run_all({"in_order": in_order, "left": left, "documented": on_the_page})
