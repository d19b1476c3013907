"""What Google's own client makes of a response body: the oracle for two of our decoders.

The client runs as it is shipped; only the network under it is replaced by the bytes. Its objects
are folded here on their own terms, so that nothing is shared with the decoders.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx2
from google import genai
from google.genai import errors, types

from streamtrace.core import events as ev


@dataclass
class Facts:
    """What one stream said, in our accounting of tokens. Texts are by candidate, or by step."""

    response_ids: list[str] = field(default_factory=list)
    model: str | None = None
    agent: str | None = None
    texts: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    reasoning: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    calls: list[tuple[str | None, Any]] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    cited: list[tuple[str | None, str | None]] = field(default_factory=list)
    usage: dict[str, int | None] | None = None
    finish: dict[int, str] = field(default_factory=dict)
    error: tuple[str | None, str | None] | None = None


@contextmanager
def client(body: bytes) -> Iterator[genai.Client]:
    """The client, as if a server had answered with this body."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        options = types.HttpOptions(base_url="http://127.0.0.1", httpx_client=http)
        yield genai.Client(api_key="none", vertexai=False, http_options=options)


def chunks(body: bytes) -> Iterator[types.GenerateContentResponse]:
    """The responses that the client yields."""
    with client(body) as made:
        yield from made.models.generate_content_stream(model="any", contents="hi")


# --- generateContent -----------------------------------------------------------------------


def read_content(body: bytes) -> Facts:
    """The stream as the client yields it, response by response."""
    facts = Facts()
    streaming: dict[str, Any] | None = None  # the arguments of the call that goes on
    try:
        for chunk in chunks(body):
            if chunk.response_id and chunk.response_id not in facts.response_ids:
                facts.response_ids.append(chunk.response_id)
            facts.model = chunk.model_version or facts.model
            if chunk.usage_metadata is not None:
                facts.usage = _content_usage(chunk.usage_metadata)
            if chunk.prompt_feedback and chunk.prompt_feedback.block_reason:
                facts.error = (chunk.prompt_feedback.block_reason.value, None)
            for candidate in chunk.candidates or ():
                streaming = _read_candidate(candidate, streaming, facts)
    except errors.APIError as raised:
        facts.error = (raised.status, raised.message)
    return facts


def _read_candidate(
    candidate: types.Candidate, streaming: dict[str, Any] | None, facts: Facts
) -> dict[str, Any] | None:
    index = candidate.index or 0
    if candidate.finish_reason is not None:
        facts.finish[index] = candidate.finish_reason.value
    content = candidate.content
    for part in (content.parts if content else None) or ():
        if part.text:
            kind = facts.reasoning if part.thought else facts.texts
            kind[index] += part.text
        if part.executable_code is not None:
            code = part.executable_code
            given = {"language": code.language.value, "code": code.code}
            facts.calls.append(("code_execution", given))
        if part.code_execution_result is not None:
            facts.results.append(part.code_execution_result.output)
        if part.tool_call is not None:
            facts.calls.append((part.tool_call.tool_type.value, part.tool_call.args))
        if part.tool_response is not None:
            facts.results.append(part.tool_response.response)
        if (call := part.function_call) is not None:
            if streaming is None or call.name:
                streaming = dict(call.args or {})
                facts.calls.append((call.name, streaming))
            for edit in call.partial_args or ():
                _set(streaming, edit)
            if not call.will_continue:
                streaming = None
    for one in _sources(candidate):
        if one not in facts.cited:
            facts.cited.append(one)
    return streaming


def _set(arguments: dict[str, Any], edit: types.PartialArg) -> None:
    """Write one value at its path, as a reader of the final arguments would."""
    keys = [
        int(index) if index else name or quoted
        for name, index, quoted in re.findall(r"\.(\w+)|\[(\d+)\]|\['([^']*)'\]", edit.json_path)
    ]
    node: Any = arguments
    for key, then in pairwise(keys):
        node = _step(node, key, [] if isinstance(then, int) else {})
    if edit.string_value is not None:
        before = _step(node, keys[-1], "")
        node[keys[-1]] = before + edit.string_value
    else:
        value = edit.number_value if edit.number_value is not None else edit.bool_value
        _step(node, keys[-1], None)
        node[keys[-1]] = value


def _step(node: Any, key: Any, default: Any) -> Any:
    if isinstance(node, dict):
        return node.setdefault(key, default)
    while len(node) <= key:
        node.append(None)
    if node[key] is None:
        node[key] = default
    return node[key]


def _sources(candidate: types.Candidate) -> Iterator[tuple[str | None, str | None]]:
    grounding = candidate.grounding_metadata
    for chunk in (grounding.grounding_chunks if grounding else None) or ():
        one = chunk.web or chunk.retrieved_context or chunk.maps
        yield one.uri, one.title
    citations = candidate.citation_metadata
    for citation in (citations.citations if citations else None) or ():
        yield citation.uri, citation.title
    contexts = candidate.url_context_metadata
    for read in (contexts.url_metadata if contexts else None) or ():
        yield read.retrieved_url, None


def _content_usage(usage: types.GenerateContentResponseUsageMetadata) -> dict[str, int | None]:
    prompt, made = usage.prompt_token_count, usage.candidates_token_count
    tools, thoughts = usage.tool_use_prompt_token_count or 0, usage.thoughts_token_count
    output = None if made is None and thoughts is None else (made or 0) + (thoughts or 0)
    return {
        "input_tokens": None if prompt is None else prompt + tools,
        "output_tokens": output,
        "cached_input_tokens": usage.cached_content_token_count,
        "reasoning_tokens": thoughts,
    }


# --- Interactions --------------------------------------------------------------------------


def read_interaction(body: bytes) -> Facts:
    """The stream as the client yields it, event by event."""
    facts = Facts()
    steps: dict[int, dict[str, Any]] = {}
    with client(body) as made:
        for event in made.interactions.create(model="any", input="hi", stream=True):
            _read_event(json.loads(event.model_dump_json(exclude_none=True)), steps, facts)
    for position, step in steps.items():
        _read_step(step, position % _HOP, facts)
    return facts


_HOP = 1000
"""Interactions follow each other in a stream, and each counts its steps from 0."""


def _read_event(event: dict[str, Any], steps: dict[int, dict[str, Any]], facts: Facts) -> None:
    kind = event["event_type"]
    interaction = event.get("interaction", {})
    if (response_id := interaction.get("id")) and response_id not in facts.response_ids:
        facts.response_ids.append(response_id)
    facts.model = interaction.get("model", facts.model)
    facts.agent = interaction.get("agent", facts.agent)
    if usage := interaction.get("usage") or event.get("usage"):
        facts.usage = _interaction_usage(usage)
    if status := interaction.get("status") or event.get("status"):
        facts.finish[0] = status
    if kind == "error":
        facts.error = (event["error"].get("code"), event["error"].get("message"))
    position = len(facts.response_ids) * _HOP + event.get("index", 0)
    for number, step in enumerate(interaction.get("steps", ())):
        steps[position + number] = step
    if kind == "step.start":
        steps[position] = event["step"]
    elif kind == "step.delta":
        _grow(steps.setdefault(position, {"type": "model_output"}), event["delta"])


def _grow(step: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta["type"]:
        case "text":
            step.setdefault("content", []).append(delta)
        case "text_annotation_delta":
            step.setdefault("content", []).append({**delta, "type": "annotations"})
        case "thought_summary":
            step.setdefault("summary", []).append(delta["content"])
        case "arguments_delta":
            step["streamed"] = step.get("streamed", "") + delta["arguments"]
        case kind if kind == step["type"]:
            step.update({key: delta[key] for key in ("arguments", "result") if key in delta})


def _read_step(step: dict[str, Any], index: int, facts: Facts) -> None:
    kind = step["type"]
    if kind == "model_output":
        for content in step.get("content", ()):
            if text := content.get("text"):
                facts.texts[index] += text
            for note in content.get("annotations", ()):
                url = note.get("url") or note.get("document_uri")
                one = (url, note.get("title") or note.get("file_name") or note.get("name"))
                if one not in facts.cited:
                    facts.cited.append(one)
    elif kind == "thought":
        for one in step.get("summary", ()):
            facts.reasoning[index] += one["text"]
    elif kind.endswith("_call"):
        given = json.loads(step["streamed"]) if "streamed" in step else step.get("arguments", {})
        facts.calls.append((step.get("name", kind.removesuffix("_call")), given))
    elif kind.endswith("_result"):
        facts.results.append(step.get("result"))


def _interaction_usage(usage: dict[str, int]) -> dict[str, int | None]:
    return {
        "input_tokens": usage["total_input_tokens"] + usage["total_tool_use_tokens"],
        "output_tokens": usage["total_output_tokens"] + usage["total_thought_tokens"],
        "cached_input_tokens": usage["total_cached_tokens"],
        "reasoning_tokens": usage["total_thought_tokens"],
    }


# --- our events ----------------------------------------------------------------------------


def told(events: Iterable[ev.Event]) -> Facts:
    """The facts that our events tell. The candidate of a text stands behind its id."""
    facts = Facts()
    names: dict[str, str | None] = {}
    arguments: dict[str, str] = defaultdict(str)
    for event in events:
        match event:
            case ev.RunStarted():
                facts.agent = event.agent or facts.agent
            case ev.GenerationStarted():
                if event.response_id and event.response_id not in facts.response_ids:
                    facts.response_ids.append(event.response_id)
                facts.model = event.model
            case ev.TextDelta():
                facts.texts[_candidate(event.message_id)] += event.text
            case ev.ReasoningDelta():
                facts.reasoning[_candidate(event.message_id)] += event.text
            case ev.ToolCallStarted():
                names[event.tool_call_id] = event.name
            case ev.ToolCallArgumentsDelta():
                arguments[event.tool_call_id] += event.delta
            case ev.ToolCallReady():
                text = event.arguments or arguments[event.tool_call_id]
                facts.calls.append((names[event.tool_call_id], json.loads(text or "{}")))
            case ev.ToolCallResult():
                is_json = (event.result or "").startswith(("{", "["))
                facts.results.append(json.loads(event.result) if is_json else event.result)
            case ev.Source():
                facts.cited.append((event.url, event.title))
            case ev.Usage():
                facts.usage = {name: getattr(event, name) for name in USAGE}
            case ev.GenerationFinished():
                facts.finish.update(enumerate(event.finish_reasons))
            case ev.RunFailed():
                facts.error = (event.type, event.message)
    return facts


USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")


def _candidate(message_id: str | None) -> int:
    _, colon, number = (message_id or "").rpartition(":")
    return int(number) if colon else 0
