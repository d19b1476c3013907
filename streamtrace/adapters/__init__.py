"""Events of the frameworks that agents are written with, as ours. One file per framework."""

from streamtrace.adapters.agentflow import agentflow_events
from streamtrace.adapters.anthropic import anthropic_events
from streamtrace.adapters.google_adk import google_adk_events
from streamtrace.adapters.langchain import langchain_chunk_events, langchain_events
from streamtrace.adapters.langgraph import langgraph_events
from streamtrace.adapters.openai import openai_chat_events, openai_responses_events
from streamtrace.adapters.openai_agents import openai_agents_events
from streamtrace.adapters.pydantic_ai import pydantic_ai_events

__all__ = [
    "agentflow_events",
    "anthropic_events",
    "google_adk_events",
    "langchain_chunk_events",
    "langchain_events",
    "langgraph_events",
    "openai_agents_events",
    "openai_chat_events",
    "openai_responses_events",
    "pydantic_ai_events",
]
