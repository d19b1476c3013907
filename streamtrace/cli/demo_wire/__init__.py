"""The demo's agent on the wire: one small writer per dialect, events in, frames out."""

from __future__ import annotations

from streamtrace.cli.demo_wire.agui import AgUi
from streamtrace.cli.demo_wire.anthropic import Anthropic
from streamtrace.cli.demo_wire.base import Writer
from streamtrace.cli.demo_wire.house import AgentFlow, Cognis, Generic
from streamtrace.cli.demo_wire.openai import OpenAIChat, OpenAIResponses

WRITERS: dict[str, type[Writer]] = {
    "cognis": Cognis,
    "agentflow": AgentFlow,
    "generic": Generic,
    "openai-chat": OpenAIChat,
    "openai-responses": OpenAIResponses,
    "anthropic": Anthropic,
    "ag-ui": AgUi,
}
"""The writer of each dialect; the first one is what `/chat` speaks unless asked."""

__all__ = ["WRITERS", "Writer"]
