"""What the streams of Gemini and of the Agent Development Kit share: parts, usage and sources.

Rules that hold here:

* Keys are camelCase; those that Python apps write with `model_dump_json()` are snake_case with
  nulls, and read the same.
* Arguments come whole, or as edits (`partialArgs`) until a part without `willContinue`, the next
  call or the end. Executed code and tools of the server are calls with results.
* A result without an id is that of the oldest call of its name. If none waits, it names one.
* Thoughts count to the output, the results of tools that went back to the model to the input.

Source: the types of `google-genai` 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.json_edits import JsonEdits

MAX_WAITING = 256
"""Calls that wait for their result; of more, the oldest is forgotten."""
MAX_SOURCES = 1024
"""Sources of one stream that are known not to be told again."""
CODE = "code_execution"
"""The tool's name in requests; executed code has none of its own."""

SILENT = ("thought", "thoughtSignature")
"""Of a part, what says nothing by itself."""

Fields: TypeAlias = dict[str, Any]


class Closed(msgspec.Struct, forbid_unknown_fields=True, rename="camel", gc=False):
    """An object of a hot frame: one that says anything else is read in full."""


class Piece(Closed):
    """A part that holds text only."""

    text: str
    thought: bool = False
    thought_signature: msgspec.Raw = msgspec.Raw()


class Content(Closed):
    """A piece of the model's text."""

    parts: tuple[Piece]
    role: Literal["model"] = "model"


class Counts(msgspec.Struct, rename="camel", gc=False):
    """The counts of `usageMetadata`, not looked at."""

    prompt_token_count: Any = None
    tool_use_prompt_token_count: Any = None
    cached_content_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None


def camel(fields: Mapping[str, Any]) -> Fields:
    """The object with the keys of the wire, and without what is null."""
    return {
        _camel(key) if "_" in key else key: value
        for key, value in fields.items()
        if value is not None
    }


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


def text_event(text: str, is_thought: bool, message_id: str | None) -> ev.Event:
    """A piece of the answer, or of the thoughts before it."""
    if is_thought:
        return ev.ReasoningDelta(text=text, message_id=message_id)
    return ev.TextDelta(text=text, message_id=message_id)


def usage_of(value: Any) -> ev.Usage | None:
    """`usageMetadata`, if it counts anything."""
    wire = msgspec.to_builtins(value) if isinstance(value, Counts) else camel(as_object(value))
    given, tools, cached, made, thought = (as_count(wire.get(name)) for name in _COUNTS)
    if given is None and cached is None and made is None and thought is None:
        return None
    return ev.Usage(
        input_tokens=None if given is None else given + (tools or 0),
        output_tokens=None if made is None and thought is None else (made or 0) + (thought or 0),
        cached_input_tokens=cached,
        reasoning_tokens=thought,
    )


_COUNTS = [field.encode_name for field in msgspec.structs.fields(Counts)]


class Sources:
    """What answers rest on: each once, however often the wire repeats it."""

    def __init__(self) -> None:
        self._told: dict[int, None] = {}

    def read(self, fields: Fields) -> Iterator[ev.Source]:
        """Those in the metadata of a candidate."""
        for name, lists in _SOURCES.items():
            metadata = camel(as_object(fields.get(name)))
            for entries in map(metadata.get, lists):
                for entry in entries if isinstance(entries, list) else ():
                    yield from self._tell(camel(as_object(entry)))

    def _tell(self, entry: Fields) -> Iterator[ev.Source]:
        inner = next((entry[name] for name in _KINDS if isinstance(entry.get(name), dict)), entry)
        facts = camel(inner)
        url = as_word(facts.get("uri")) or as_word(facts.get("retrievedUrl"))
        title = as_word(facts.get("title"))
        key = hash((url, title))
        if (url or title) and key not in self._told:
            remember(self._told, key, None, MAX_SOURCES)
            yield ev.Source(url=url, title=title)


_SOURCES = {
    "groundingMetadata": ("groundingChunks",),
    "citationMetadata": ("citations", "citationSources"),
    "urlContextMetadata": ("urlMetadata",),
}
_KINDS = ("web", "retrievedContext", "maps", "image")


class _Call(msgspec.Struct):
    """A call whose arguments may still come."""

    id: str
    name: str | None
    edits: JsonEdits


class Parts:
    """Reads the parts of one answer. `prefix` makes ids for calls that have none."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._unnamed = 0
        self._open: _Call | None = None
        self._waiting: dict[str, str | None] = {}  # names by id

    def read(self, content: Fields, message_id: str | None) -> Iterator[ev.Event]:
        """What a content says. Text that is not the model's is nobody's output."""
        parts = content.get("parts")
        is_output = content.get("role", "model") == "model"
        for part in parts if isinstance(parts, list) else ():
            fields = camel(as_object(part))
            for key, value in fields.items():
                if key == "text" and is_output and isinstance(value, str):
                    if value:
                        yield text_event(value, fields.get("thought") is True, message_id)
                elif key in _PARTS and isinstance(value, dict):
                    yield from _PARTS[key](self, camel(value))
                elif key not in SILENT:
                    yield ev.Custom(name=key, value=value)

    def finish(self) -> Iterator[ev.Event]:
        """The answer is over, and with it the arguments of its open call."""
        call, self._open = self._open, None
        if call is not None:
            yield from _ready(call, None)

    def _function_call(self, wire: Fields) -> Iterator[ev.Event]:
        call_id, name = as_id(wire.get("id")), as_id(wire.get("name"))
        call = self._open
        if call is None or name not in (None, call.name) or call_id not in (None, call.id):
            yield from self.finish()
            call = self._open = _Call(self._wait(call_id, name), name, JsonEdits())
            yield ev.ToolCallStarted(tool_call_id=call.id, name=name)
        edits = wire.get("partialArgs")
        for edit in edits if isinstance(edits, list) else ():
            yield from _edit(call, as_object(edit))
        if wire.get("willContinue") is not True:
            self._open = None
            yield from _ready(call, wire.get("args"))

    def _whole_call(self, wire: Fields, name: str | None, args: Any) -> Iterator[ev.Event]:
        yield from self.finish()
        call = _Call(self._wait(as_id(wire.get("id")), name), name, JsonEdits())
        yield ev.ToolCallStarted(tool_call_id=call.id, name=name)
        yield from _ready(call, args)

    def _result(
        self, wire: Fields, name: str | None, value: Any, *, is_error: bool = False
    ) -> Iterator[ev.Event]:
        named = (one for one, of in self._waiting.items() if of == name)
        call_id = as_id(wire.get("id")) or next(named, None)
        if call_id not in self._waiting:
            call_id = self._wait(call_id, name)
            yield ev.ToolCallStarted(tool_call_id=call_id, name=name)
        del self._waiting[call_id]
        result = value if value is None or isinstance(value, str) else dump_json(value)
        yield ev.ToolCallResult(tool_call_id=call_id, result=result, is_error=is_error)

    def _wait(self, call_id: str | None, name: str | None) -> str:
        if call_id is None:
            call_id = f"{self._prefix}:{self._unnamed}"
            self._unnamed += 1
        remember(self._waiting, call_id, name, MAX_WAITING)
        return call_id

    def _function_response(self, wire: Fields) -> Iterator[ev.Event]:
        response = wire.get("response")
        failed = isinstance(response, dict) and response.get("error") is not None
        return self._result(wire, as_id(wire.get("name")), response, is_error=failed)

    def _executable_code(self, wire: Fields) -> Iterator[ev.Event]:
        return self._whole_call(wire, CODE, {k: v for k, v in wire.items() if k != "id"})

    def _code_result(self, wire: Fields) -> Iterator[ev.Event]:
        failed = wire.get("outcome") in ("OUTCOME_FAILED", "OUTCOME_DEADLINE_EXCEEDED")
        return self._result(wire, CODE, wire.get("output"), is_error=failed)

    def _tool_call(self, wire: Fields) -> Iterator[ev.Event]:
        return self._whole_call(wire, as_id(wire.get("toolType")), wire.get("args"))

    def _tool_response(self, wire: Fields) -> Iterator[ev.Event]:
        return self._result(wire, as_id(wire.get("toolType")), wire.get("response"))


_PARTS: Mapping[str, Callable[[Parts, Fields], Iterator[ev.Event]]] = {
    "functionCall": Parts._function_call,
    "functionResponse": Parts._function_response,
    "executableCode": Parts._executable_code,
    "codeExecutionResult": Parts._code_result,
    "toolCall": Parts._tool_call,
    "toolResponse": Parts._tool_response,
}
_LEAVES = ("stringValue", "numberValue", "boolValue")
_NULLS = frozenset(("nullValue", "null_value"))


def _edit(call: _Call, edit: Fields) -> Iterator[ev.Event]:
    fields = camel(edit)
    leaves = [fields[name] for name in _LEAVES if name in fields]
    if not leaves and _NULLS.isdisjoint(edit):
        return  # an empty object or array: the wire has no way to tell which
    leaf = leaves[0] if leaves else None
    text = None
    if leaf is None or isinstance(leaf, str | int | float):
        path, more = as_string(fields.get("jsonPath")), fields.get("willContinue") is True
        text = call.edits.edit(path or "", leaf, more=more)
    if text:
        yield ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=text)
    elif text is None:
        yield ev.Custom(name="partialArgs", value=edit)


def _ready(call: _Call, args: Any) -> Iterator[ev.Event]:
    rest = call.edits.close()
    if rest:
        yield ev.ToolCallArgumentsDelta(tool_call_id=call.id, delta=rest)
    whole = dump_json(args) if isinstance(args, dict) and not rest else None
    yield ev.ToolCallReady(tool_call_id=call.id, arguments=whole)
