"""What OpenAI's own client makes of a response body: the oracle for our decoders.

The client runs as it is shipped; only the network under it is replaced by the bytes. Its objects
are folded here on their own terms, so that nothing is shared with the decoders.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
from openai.lib.streaming.chat import ChatCompletionStreamState


@dataclass
class Facts:
    """What one stream said. Texts are by choice, or by the id of their item or message."""

    response_id: str | None = None
    model: str | None = None
    texts: dict[Any, str] = field(default_factory=dict)
    reasoning: dict[Any, str] = field(default_factory=dict)
    calls: list[tuple[str, str | None, str]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, int | None] | None = None
    finish_reasons: list[str] = field(default_factory=list)
    error: tuple[str | None, str] | None = None


@contextmanager
def client(body: bytes) -> Iterator[openai.OpenAI]:
    """The client, as if a server had answered with this body."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        openai.OpenAI(
            api_key="none", base_url="http://127.0.0.1", http_client=http, max_retries=0
        ) as made,
    ):
        yield made


# --- chat ----------------------------------------------------------------------------------


def read_chat(body: bytes) -> Facts:
    """The stream as the client yields it, chunk by chunk."""
    facts = Facts()
    calls: dict[tuple[int, int], list[Any]] = {}
    finish: dict[int, str] = {}
    with client(body) as made:
        try:
            for chunk in made.chat.completions.create(model="any", messages=[], stream=True):
                facts.response_id = facts.response_id or chunk.id or None
                facts.model = chunk.model or facts.model
                extra = chunk.model_extra or {}
                usage = chunk.usage or extra.get("x_groq", {}).get("usage")
                if usage:
                    facts.usage = chat_usage(usage if isinstance(usage, dict) else usage.to_dict())
                for choice in chunk.choices:
                    _add_delta(facts, choice.index, choice.delta)
                    for call in choice.delta.tool_calls or ():
                        known = calls.setdefault((choice.index, call.index), [None, None, ""])
                        known[0] = known[0] or call.id
                        known[1] = known[1] or call.function.name
                        known[2] += call.function.arguments or ""
                    if choice.finish_reason:
                        finish[choice.index] = choice.finish_reason
        except openai.APIError as raised:
            facts.error = (raised.code or raised.type, raised.message)
    facts.calls = [tuple(call) for call in calls.values()]
    facts.finish_reasons = [reason for _, reason in sorted(finish.items())]
    return facts


def _add_delta(facts: Facts, index: int, delta: Any) -> None:
    content, extra = delta.content, delta.model_extra or {}
    if isinstance(content, list):  # Mistral: the client's type says text, its object holds a list
        for part in content:
            if part["type"] == "thinking":
                thought = "".join(inner["text"] for inner in part["thinking"])
                facts.reasoning[index] = facts.reasoning.get(index, "") + thought
            else:
                facts.texts[index] = facts.texts.get(index, "") + part["text"]
        content = None
    if content or delta.refusal:
        said = (content or "") + (delta.refusal or "")
        facts.texts[index] = facts.texts.get(index, "") + said
    thought = extra.get("reasoning_content") or extra.get("reasoning")
    if thought is None:
        thought = "".join(one["text"] for one in extra.get("reasoning_details") or ())
    if thought:
        facts.reasoning[index] = facts.reasoning.get(index, "") + thought


def accumulate_chat(body: bytes) -> Facts:
    """What the client's own accumulator holds at the end."""
    state = ChatCompletionStreamState()
    facts = Facts()
    with client(body) as made:
        try:
            for chunk in made.chat.completions.create(model="any", messages=[], stream=True):
                state.handle_chunk(chunk)
        except openai.APIError as raised:
            facts.error = (raised.code or raised.type, raised.message)
    snapshot = state.current_completion_snapshot
    facts.response_id, facts.model = snapshot.id or None, snapshot.model
    facts.usage = chat_usage(snapshot.usage.to_dict()) if snapshot.usage else None
    for choice in snapshot.choices:
        message = choice.message
        if message.content:
            facts.texts[choice.index] = message.content
        for call in message.tool_calls or ():
            facts.calls.append((call.id, call.function.name, call.function.arguments))
        if choice.finish_reason:
            facts.finish_reasons.append(choice.finish_reason)
    return facts


def chat_usage(usage: dict[str, Any]) -> dict[str, int | None]:
    """The client's numbers in our words. OpenAI's totals include their parts, as ours do."""
    given = usage.get("prompt_tokens_details") or {}
    made = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "cached_input_tokens": given.get("cached_tokens"),
        "cache_write_tokens": given.get("cache_write_tokens"),
        "reasoning_tokens": made.get("reasoning_tokens"),
    }


# --- completions ---------------------------------------------------------------------------


def read_completions(body: bytes) -> Facts:
    """The stream as the client yields it."""
    facts = Facts()
    finish: dict[int, str] = {}
    with client(body) as made:
        try:
            for chunk in made.completions.create(model="any", prompt="hi", stream=True):
                facts.response_id = facts.response_id or chunk.id or None
                facts.model = chunk.model or facts.model
                if chunk.usage:
                    facts.usage = chat_usage(chunk.usage.to_dict())
                for choice in chunk.choices:
                    facts.texts[choice.index] = facts.texts.get(choice.index, "") + choice.text
                    if choice.finish_reason:
                        finish[choice.index] = choice.finish_reason
        except openai.APIError as raised:
            facts.error = (raised.code or raised.type, raised.message)
    facts.finish_reasons = [reason for _, reason in sorted(finish.items())]
    return facts


# --- assistants ----------------------------------------------------------------------------


def read_assistants(body: bytes) -> Facts:
    """What the client's event handler has gathered at the end; the finish is the run's status."""
    facts = Facts()
    with client(body) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with made.beta.threads.runs.stream(thread_id="any", assistant_id="any") as handler:
            try:
                for event in handler:
                    if event.event == "thread.run.step.completed":
                        _add_results(facts, event.data.to_dict(mode="json", warnings=False))
            except openai.APIError as raised:
                facts.error = (raised.code or raised.type, raised.message)
            for message in _gathered(handler.get_final_messages):
                parts = message.to_dict(mode="json", warnings=False)["content"]
                said = [one.get("refusal") or one["text"]["value"] for one in parts]
                facts.texts[message.id] = "".join(said)
            for step in _gathered(handler.get_final_run_steps):
                details = step.to_dict(mode="json", warnings=False)["step_details"]
                for call in details.get("tool_calls") or ():
                    tool = call[call["type"]]
                    given = tool.get("arguments") or tool.get("input") or ""
                    facts.calls.append((call["id"], tool.get("name") or call["type"], given))
            for run in _gathered(lambda: [handler.get_final_run()]):
                facts.response_id, facts.model = run.id, run.model
                facts.finish_reasons = [run.status]
                if run.last_error:
                    facts.error = (run.last_error.code, run.last_error.message)
                if run.usage:
                    facts.usage = _run_usage(run.usage.to_dict())
    return facts


def _gathered(get: Any) -> list[Any]:
    """The client raises where there is nothing."""
    try:
        return list(get())
    except RuntimeError:
        return []


def _add_results(facts: Facts, step: dict[str, Any]) -> None:
    for call in step["step_details"].get("tool_calls") or ():
        tool = call[call["type"]]
        facts.results[call["id"]] = tool.get("output") or tool.get("outputs") or tool.get("results")


def _run_usage(usage: dict[str, Any]) -> dict[str, int | None]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "cached_input_tokens": usage.get("prompt_token_details", {}).get("cached_tokens"),
        "cache_write_tokens": None,
        "reasoning_tokens": usage.get("completion_tokens_details", {}).get("reasoning_tokens"),
    }


# --- responses -----------------------------------------------------------------------------

_TEXT = ("response.output_text.delta", "response.refusal.delta")
_REASONING = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed")


def read_responses(body: bytes) -> tuple[Facts, dict[str, Any]]:
    """The stream as the client yields it, and the response object of its last event."""
    facts = Facts()
    last: dict[str, Any] = {}
    with client(body) as made:
        try:
            for event in made.responses.create(model="any", input="hi", stream=True):
                if event.type in _TEXT:
                    facts.texts[event.item_id] = facts.texts.get(event.item_id, "") + event.delta
                elif event.type in _REASONING:
                    said = facts.reasoning.get(event.item_id, "")
                    facts.reasoning[event.item_id] = said + event.delta
                elif event.type == "response.output_item.done":
                    _add_item(facts, event.item.to_dict(mode="json", warnings=False))
                elif event.type == "error":
                    facts.error = (event.code, event.message)
                elif event.type in ("response.created", *_ENDS):
                    last = event.response.to_dict(mode="json", warnings=False)
                    facts.response_id, facts.model = last["id"], last["model"]
                if event.type in _ENDS:
                    facts.finish_reasons = [last["status"]]
                    if last.get("usage"):
                        facts.usage = responses_usage(last["usage"])
                    if last.get("error"):
                        facts.error = (last["error"]["code"], last["error"]["message"])
        except openai.APIError as raised:
            facts.error = (raised.code or raised.type, raised.message)
    return facts, last


def _add_item(facts: Facts, item: dict[str, Any]) -> None:
    kind = item["type"]
    if kind == "tool_search_output":
        facts.results[facts.calls[-1][0]] = item["tools"]
    elif kind.endswith("_call"):
        call_id = item.get("call_id") or item["id"]
        fields = ("arguments", "input", "code", "action", "queries")
        given = next((item[name] for name in fields if item.get(name)), "")
        given = given if isinstance(given, str) else json.dumps(given)
        facts.calls.append((call_id, item.get("name") or kind.removesuffix("_call"), given))
        result = item.get("output") or item.get("outputs") or item.get("results")
        if kind not in ("function_call", "custom_tool_call", "tool_search_call"):
            facts.results[call_id] = result


def responses_usage(usage: dict[str, Any]) -> dict[str, int | None]:
    """The client's numbers in our words. OpenAI's totals include their parts, as ours do."""
    return {
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["output_tokens"],
        "cached_input_tokens": usage["input_tokens_details"].get("cached_tokens"),
        "cache_write_tokens": usage["input_tokens_details"].get("cache_write_tokens"),
        "reasoning_tokens": usage["output_tokens_details"].get("reasoning_tokens"),
    }
