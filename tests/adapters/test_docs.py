"""The code of docs/adapters.md runs: each agent is asked as a served one is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from producers.langgraph_server.graph import builder, graph
from producers.test_pydantic_ai import forecaster, weather
from support.adapted import Events, run_of, told
from support.pages import ROOT, broken_links, execute, python_blocks
from support.wire import text_of

import streamtrace.adapters
from streamtrace.core import events as ev
from streamtrace.serve import RunContext
from streamtrace.serve.agents import events_of

PAGE = "docs/adapters.md"
BLOCKS = python_blocks(PAGE)
ELSEWHERE = {"OpenAI Agents", "Google ADK", "AgentFlow"}  # run by the scripts of `frameworks`


async def said_by(block: str, asked: str = "weather", **names: Any) -> Events:
    """What the agent of a block says."""
    agent = execute(PAGE, BLOCKS[block], names)["agent"]
    messages = [{"role": "user", "content": asked}]
    run = RunContext(run_id="r", thread_id="t", message_id="m", messages=messages, input=asked)
    return await told(events_of(agent, run))


@pytest.fixture
async def openai_client(replay: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{replay}/openai_chat_ok.synthetic", api_key="k") as it:
        yield it


@pytest.fixture
async def responses_client(replay: str) -> AsyncIterator[Any]:
    url = f"{replay}/openai-responses__logfire__voice_pipeline_i1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k") as it:
        yield it


@pytest.fixture
async def anthropic_client(replay: str) -> AsyncIterator[Any]:
    url = f"{replay}/anthropic_ok.synthetic"
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k") as it:
        yield it


async def test_what_goes_wrong_is_told_in_a_sentence_of_ones_own():
    events = await said_by("What goes wrong", "fail", graph=graph)
    assert events[-1] == ev.RunFailed(type="ValueError", message="That did not work.")


async def test_openai(openai_client):
    run = run_of(await said_by("OpenAI", client=openai_client))
    assert run.status == "completed"
    assert run.usage is not None


async def test_openai_with_several_calls(responses_client):
    events = await said_by("OpenAI 2", client=responses_client)
    starts = [one for one in events if isinstance(one, ev.RunStarted)]
    assert len(starts) == 2
    assert not any(isinstance(one, ev.TERMINAL) for one in events)
    assert text_of(events)


async def test_anthropic(anthropic_client):
    run = run_of(await said_by("Anthropic", client=anthropic_client))
    assert run.status == "completed"
    assert run.output.text


async def test_langchain():
    chain = GenericFakeChatModel(messages=iter([AIMessage("It is warm.")]))
    chain = (lambda asked: asked["question"]) | chain
    events = await said_by("LangChain", chain=chain)
    assert text_of(events) == "It is warm."
    assert run_of(events).status == "completed"


async def test_langgraph():
    events = await said_by("LangGraph", graph=builder.compile())
    assert text_of(events) == "It is 21 °C in Oslo."
    assert run_of(events).status == "completed"
    assert isinstance((await said_by("LangGraph", "send", graph=graph))[-1], ev.RunInterrupted)


async def test_pydantic_ai():
    events = await said_by("Pydantic AI", forecaster=forecaster(tools=[weather]))
    assert text_of(events) == "It is 21 °C."
    assert run_of(events).status == "completed"


# --- the page ----------------------------------------------------------------------------------


def test_every_block_is_run():
    here = set(re.findall(r'said_by\(\s*"([^"]+)"', Path(__file__).read_text("utf-8")))
    assert here | ELSEWHERE == set(BLOCKS)


def test_every_adapter_is_on_the_page():
    table = (ROOT / PAGE).read_text("utf-8").split("\n## ")[0]
    assert set(re.findall(r"\| `(\w+_events)` \|", table)) == set(streamtrace.adapters.__all__)


def test_links_lead_somewhere():
    assert broken_links(PAGE) == []
