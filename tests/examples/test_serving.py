"""The examples that serve agents, each asked by the client it is for, over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as pb
from examples.test_examples import started
from serve.test_browser import CHROMIUM
from support.clients import run_client
from support.command import Command

KEY = "a-key-of-alice-0123456789"


def printed_runs(command: Command) -> list[dict[str, Any]]:
    """All runs that were printed, at the latest when the server was told to stop."""
    command.stop(signal.SIGTERM)
    return [json.loads(one) for one in command.output().splitlines() if one.startswith("{")]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
async def test_the_chat_page_shows_text_tools_errors_and_stops(tmp_path: Path) -> None:
    """In Chromium, down to the width of a small phone."""
    assert CHROMIUM is not None
    steps = [
        {"say": "What is the weather in Oslo and Tokyo?"},
        {"say": "hello"},
        {"say": "fail"},
        {"say": "And in Lisbon, Oslo and Tokyo?", "stopAtTool": 1},
    ]
    with started("serve_chat.py", tmp_path / "log") as command:
        weather, hello, fail, stopped, page = await run_client(
            "chat_page.mjs", CHROMIUM, command.url(), json.dumps(steps)
        )
        runs = printed_runs(command)
    assert weather["log"][1].strip() == "Let me look. Oslo: snow, -2 °C. Tokyo: sunny, 19 °C."
    assert weather["tools"] == [
        "get_forecast(Oslo)\nsnow, -2 °C",
        "get_forecast(Tokyo)\nsunny, 19 °C",
    ]
    assert hello["log"][3].strip() == "I know the weather of Lisbon, Oslo, Tokyo."
    assert fail["log"][5] == "The weather service does not answer. Please ask again."
    assert stopped["log"][7].strip() == "Let me look."
    assert 3 <= len(stopped["tools"]) < 5
    assert page == {"overflow": 0}
    assert stopped["errors"] == []
    assert [run["status"] for run in runs] == ["completed", "completed", "error", "completed"]
    assert [len(run["tool_calls"]) for run in runs[:3]] == [2, 0, 0]
    assert len({run["thread_id"] for run in runs[:2]}) == 1
    assert "Oslo: snow" not in command.output()


def test_langgraph_behind_fastapi_remembers_its_thread(tmp_path: Path) -> None:
    with started("serve_langgraph.py", tmp_path / "log") as command:
        url = f"{command.url()}/threads"
        answers = [
            httpx2.post(f"{url}/{thread}/runs", json={"text": "weather?"}, timeout=30)
            for thread in ("t-1", "t-1", "t-2")
        ]
        refused = httpx2.post(f"{url}/t%0d%0aa:%20b/runs", json={"text": "weather?"}, timeout=30)
        runs = printed_runs(command)
    for answer, number in zip(answers, (1, 2, 1), strict=True):
        assert f"Question {number} of this thread. It is -2 °C in Oslo." in answer.text
        assert "CUSTOM" not in answer.text
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_id")
    assert [run["thread_id"] for run in runs] == ["t-1", "t-1", "t-2"]
    for run in runs:
        assert (run["status"], run["dialect"]) == ("completed", "ag-ui")
        assert [step["name"] for step in run["steps"]] == ["model", "tools", "model"]
        assert [call["name"] for call in run["tool_calls"]] == ["get_forecast"]


async def test_one_agent_for_users_and_for_agents(tmp_path: Path) -> None:
    """By the clients of both: the agent asks before it books, and is answered."""
    steps = [{"say": "Book Oslo", "fresh": True}, {"resume": "yes"}]
    with started("serve_agui_a2a.py", tmp_path / "log") as command:
        url = await asyncio.to_thread(command.url)
        asked, answered = await run_client(
            "ag_ui_app.mjs", f"{url}/agui/v1/runs", json.dumps(steps)
        )
        async with httpx.AsyncClient() as http:
            card = await A2ACardResolver(http, url).get_agent_card()
            for interface in card.supported_interfaces:
                interface.url = f"{url}/jsonrpc"  # it listens at any port that is free
            client = ClientFactory(ClientConfig(httpx_client=http)).create(card)
            task = await updates(client, "Book Oslo")
            done = await updates(client, "yes", task_id=task[0].task.id)
        runs = printed_runs(command)
    assert asked["text"] == "This costs 240 EUR. Shall I?"
    assert [one["reason"] for one in asked["interrupts"]] == ["confirmation"]
    assert answered["text"] == "Your answer was 'yes'."
    assert card.name == "Travel agent"
    assert task[-1].status_update.status.state == pb.TASK_STATE_INPUT_REQUIRED
    assert done[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
    assert "Your answer was" in str(done)
    assert [(run["dialect"], run["status"]) for run in runs] == [
        ("ag-ui", "input_required"),
        ("ag-ui", "completed"),
        ("a2a", "input_required"),
        ("a2a", "completed"),
    ]


async def updates(client: Any, text: str, **ids: str) -> list[Any]:
    message = pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text=text)], **ids)
    request = pb.SendMessageRequest(message=message)
    return [update async for update in client.send_message(request)]


def test_any_client_of_openai_can_talk_to_the_agent(tmp_path: Path) -> None:
    asked: Any = {
        "model": "forecaster",
        "messages": [{"role": "user", "content": "How is the weather?"}],
    }
    with started("serve_openai.py", tmp_path / "log", AGENT_KEY=KEY) as command:
        base_url = f"{command.url()}/v1"
        with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
            models = [model.id for model in client.models.list()]
            chunks = list(
                client.chat.completions.create(
                    **asked, stream=True, stream_options={"include_usage": True}
                )
            )
            whole = client.chat.completions.create(**asked)
            wrong = client.with_options(api_key="a-key-of-somebody-else")
            with pytest.raises(openai.AuthenticationError, match="not valid"):
                wrong.chat.completions.create(**asked)
        runs = printed_runs(command)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert (models, text) == (["forecaster"], "It snows, alice.")
    assert not any(one.choices[0].delta.tool_calls for one in chunks if one.choices)
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (50, 8)
    assert whole.choices[0].message.content == text
    assert [(run["status"], run["dialect"]) for run in runs] == [("completed", "openai-chat")]
    assert runs[0]["usage"]["output_tokens"] == 8
