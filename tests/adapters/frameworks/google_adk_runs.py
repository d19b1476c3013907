"""Agents of Google's ADK with a scripted model: run by a runner, and over ADK's own server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.auth import AuthConfig, AuthCredential, AuthCredentialTypes, OAuth2Auth
from google.adk.auth.auth_credential import HttpAuth, HttpCredentials
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
from google.adk.events import Event, EventActions
from google.adk.models import BaseLlm, LlmCapabilities, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools import FunctionTool, LongRunningFunctionTool, ToolContext
from google.genai import types
from pydantic_core import to_jsonable_python
from scenarios import documented, run_all, tasks_left, told

from streamtrace.adapters import google_adk_events

SECRET = "client-secret-1"


class Scripted(BaseLlm):
    """Thinks, calls the tool it was given, and tells what it said."""

    model: str = "scripted-1"
    calls: str | None = None
    fails: bool = False
    hangs: bool = False

    @property
    def capabilities(self) -> LlmCapabilities:
        return LlmCapabilities(output_schema_and_tools=False)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncIterator[LlmResponse]:
        last = llm_request.contents[-1].parts or []
        answered = any(part.function_response is not None for part in last)
        if self.calls is not None and not answered:
            call = types.FunctionCall(name=self.calls, args={"city": "Oslo"}, id="call-1")
            if self.calls == "transfer_to_agent":
                call.args = {"agent_name": "poet"}
            parts = [types.Part(text="Where is it?", thought=True), types.Part(function_call=call)]
        else:
            parts = [types.Part(text="It is "), types.Part(text="warm.")]
        if stream:
            for part in parts:
                if part.function_call is None:
                    yield self.response([part], partial=True)
                if self.hangs:
                    await asyncio.Event().wait()
        if self.fails:
            raise RuntimeError("the provider is down")
        texts = [part.text for part in parts if part.text and not part.thought]
        whole = [types.Part(text="".join(texts))] if texts else parts
        yield self.response(
            whole,
            finish_reason=types.FinishReason.STOP,
            usage_metadata=types.GenerateContentResponseUsageMetadata(
                prompt_token_count=20, candidates_token_count=5, thoughts_token_count=4
            ),
        )

    def response(self, parts: list[types.Part], **more: Any) -> LlmResponse:
        content = types.Content(role="model", parts=parts)
        return LlmResponse(content=content, model_version="scripted-1", **more)


def weather(city: str) -> dict[str, str]:
    """The weather there."""
    return {"weather": f"21 °C in {city}"}


def order(city: str) -> None:
    """Takes its time."""


def guarded(city: str, tool_context: ToolContext) -> Any:
    """Needs the user to sign in."""
    oauth2 = OAuth2Auth(client_id="client-1", client_secret=SECRET, auth_uri="https://sign.in/")
    scheme = {
        "type": "oauth2",
        "flows": {
            "authorizationCode": {
                "authorizationUrl": "https://sign.in/",
                "tokenUrl": "https://sign.in/token",
                "scopes": {},
            }
        },
    }
    tool_context.request_credential(
        AuthConfig(
            auth_scheme=scheme,
            raw_auth_credential=AuthCredential(auth_type=AuthCredentialTypes.OAUTH2, oauth2=oauth2),
        )
    )
    return {"pending": True}


def agent_with(*tools: Any, calls: str | None = None, **options: Any) -> LlmAgent:
    return LlmAgent(name="forecaster", model=Scripted(calls=calls, **options), tools=[*tools])


def transferring() -> LlmAgent:
    poet = LlmAgent(name="poet", model=Scripted(), description="Writes poems.")
    return LlmAgent(name="forecaster", model=Scripted(calls="transfer_to_agent"), sub_agents=[poet])


AGENTS: dict[str, Callable[[], LlmAgent]] = {
    "text": agent_with,
    "tools": lambda: agent_with(weather, calls="weather"),
    "long running": lambda: agent_with(LongRunningFunctionTool(order), calls="order"),
    "confirmation": lambda: agent_with(
        FunctionTool(weather, require_confirmation=True), calls="weather"
    ),
    "credential": lambda: agent_with(guarded, calls="guarded"),
    "transfer": transferring,
    "failing": lambda: agent_with(fails=True),
}
QUESTION = types.Content(role="user", parts=[types.Part(text="How is it?")])


class Loader(BaseAgentLoader):
    """Of one agent."""

    def __init__(self, agent: LlmAgent) -> None:
        self.agent = agent

    def load_agent(self, agent_name: str) -> LlmAgent:
        return self.agent

    def list_agents(self) -> list[str]:
        return ["app"]


async def runner_of(agent: LlmAgent, user_id: str = "u") -> InMemoryRunner:
    """With a session."""
    runner = InMemoryRunner(agent, app_name="app")
    await runner.session_service.create_session(app_name="app", user_id=user_id, session_id="s")
    return runner


async def asked(agent: LlmAgent, *, streaming: bool = True) -> Any:
    """The events of a run, before anything is made of them."""
    runner = await runner_of(agent)
    mode = StreamingMode.SSE if streaming else StreamingMode.NONE
    return runner.run_async(
        user_id="u",
        session_id="s",
        new_message=QUESTION,
        run_config=RunConfig(streaming_mode=mode),
    )


async def served(agent: LlmAgent, *, streaming: bool = True) -> str:
    """The body with which ADK's server answers."""
    app = get_fast_api_app(
        agents_dir=".", agent_loader=Loader(agent), web=False, use_local_storage=False
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://adk.test") as client:
        await client.post("/apps/app/users/u/sessions/s", json={})
        question = QUESTION.model_dump(mode="json", exclude_none=True)
        body = {"appName": "app", "userId": "u", "sessionId": "s", "newMessage": question}
        answer = await client.post("/run_sse", json={**body, "streaming": streaming})
        return answer.raise_for_status().text


def both(name: str, *, streaming: bool = True) -> Callable[[], Any]:
    async def run() -> Any:
        events = await told(google_adk_events(asked(AGENTS[name](), streaming=streaming)))
        return {"events": events, "wire": await served(AGENTS[name](), streaming=streaming)}

    return run


async def secrets() -> Any:
    """An event that holds a credential as it is, and what is told of it."""
    oauth2 = OAuth2Auth(client_id="c", client_secret=SECRET, access_token=SECRET, state="s")
    basic = HttpAuth(scheme="basic", credentials=HttpCredentials(username="u", password=SECRET))
    credentials = {
        "rawAuthCredential": AuthCredential(auth_type="oauth2", oauth2=oauth2),
        "exchanged_auth_credential": AuthCredential(auth_type="http", http=basic),
        "kept": {"list": [AuthCredential(auth_type="apiKey", api_key=SECRET)]},
    }
    call = types.FunctionCall(
        name="adk_request_credential",
        id="call-1",
        args=to_jsonable_python(credentials, exclude_none=True),
    )
    event = Event(
        invocation_id="i",
        author="forecaster",
        content=types.Content(role="model", parts=[types.Part(function_call=call)]),
        actions=EventActions(state_delta={"temp:auth": credentials["rawAuthCredential"]}),
    )
    return {
        "held": event.model_dump_json().count(SECRET),
        "events": await told(google_adk_events([event])),
    }


async def sync() -> Any:
    runner = await runner_of(AGENTS["tools"]())
    stream = runner.run(user_id="u", session_id="s", new_message=QUESTION)
    return await told(google_adk_events(stream))


async def closed() -> Any:
    return await tasks_left(google_adk_events(asked(agent_with(hangs=True))))


async def in_the_docs() -> Any:
    names = {"Content": types.Content, "Part": types.Part, "RunConfig": RunConfig}
    runner = await runner_of(agent_with(), "ann")
    return await documented("Google ADK", runner=runner, StreamingMode=StreamingMode, **names)


if __name__ == "__main__":
    run_all(
        {
            **{name: both(name) for name in AGENTS},
            "tools without streaming": both("tools", streaming=False),
            "secrets": secrets,
            "sync": sync,
            "closed": closed,
            "docs": in_the_docs,
        }
    )
