"""MCP: what a server streams in answer to a request, over Streamable HTTP.

Rules that hold here (all versions from 2024-11-05 to 2026-07-28, as mcp 2.3.0 types them):

* A run is a request. `tools/call` is a run of one tool call, with the name and arguments that stand
  in the request; any other method is a run without one.
* The response with the request's id ends the run; ids are compared as text. A message with a
  `method` is the server's own, whatever its id, and a response to another id ends nothing.
* Where the request is not known (a file, a resumed stream) every response ends a run, and one in
  the form of a tool's result is one.
* What a tool returns is its result, and no text for a user. `isError` fails the tool and not the
  run; a JSON-RPC error fails both.
* A result `input_required` and the error -32042 interrupt the run: the client asks again with the
  answer. Before 2026-07-28 a server asks by a request of its own and goes on: that is no interrupt.
* The error -32800, or 0 from older servers, is the answer to a cancelled request.
* Requests and responses may be batches (arrays). The run ends when all are answered.
* A stream that a client opened to listen (GET) has no end of its own: when it stops, it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, as_string, as_word, dump_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_BATCH = 256
"""Requests of one batch that are followed; the others of a larger one are not."""

_SESSION = "mcp-session-id"
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_AREAS = ("tools", "prompts", "resources", "completion", "logging", "server", "subscriptions")
_SERVER_REQUESTS = ("sampling/createMessage", "elicitation/create", "roots/list", "ping")
_RESULTS = frozenset(
    ("content", "structuredContent", "resultType", "protocolVersion", "tools", "prompts",
     "resources", "resourceTemplates", "contents", "completion")
)  # fmt: skip
"""Keys of the results of the protocol."""
_A2A = frozenset(("kind", "task", "message", "statusUpdate", "artifactUpdate"))
"""Keys of the results of A2A, the other vocabulary in JSON-RPC."""

_ASKS_FOR_A_VISIT = -32042
_CANCELLED = -32800
_OLD_CANCELLED = (0, "Request cancelled")

_Fields: TypeAlias = dict[str, Any]


class Mcp(Dialect):
    """The Model Context Protocol, server to client."""

    name = "mcp"
    marks = marks("jsonrpc endpoint")
    says = says("run tool_start arguments result input_required error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of the protocol's notifications, requests and results; others may be anyone's."""
        if frame.event == "endpoint":  # begins the transport of 2024-11-05
            return Fit.MAYBE
        if frame.event not in (None, "", "message"):
            return Fit.NO
        value = frame.json()
        messages = value if isinstance(value, list) else [value]
        fits = {_fit(head, message) for message in messages}
        return Fit.NO if Fit.NO in fits else max(fits, default=Fit.NO)

    def decoder(self) -> Decoder:
        """A decoder for a stream whose request is not known."""
        return self.open(Head())

    def open(self, head: Head) -> Decoder:
        """A decoder for the answer to the request of `head`."""
        return _McpDecoder(head)


def _fit(head: Head, message: Any) -> Fit:
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return Fit.NO
    if any(_is_ours(request.method) for request in _requests(head.request)):
        return Fit.YES
    method, result = message.get("method"), message.get("result")
    if isinstance(method, str):
        is_known = method.startswith("notifications/") or method in _SERVER_REQUESTS
        return Fit.YES if is_known else Fit.MAYBE
    if isinstance(result, dict):
        if not _RESULTS.isdisjoint(result) or "taskId" in as_object(result.get("task")):
            return Fit.YES
        return Fit.MAYBE if _A2A.isdisjoint(result) else Fit.NO
    return Fit.MAYBE if "error" in message else Fit.NO


def _is_ours(method: str) -> bool:
    return method in ("initialize", "ping") or method.partition("/")[0] in _AREAS


class _Request(msgspec.Struct, frozen=True):
    id: str
    method: str
    params: _Fields


def _requests(body: Any) -> list[_Request]:
    """The requests of a body; notifications and responses are none."""
    messages = body[:MAX_BATCH] if isinstance(body, list) else [body]
    return [
        _Request(request_id, method, as_object(message.get("params")))
        for message in map(as_object, messages)
        if (request_id := as_id(message.get("id"))) and (method := as_id(message.get("method")))
    ]


class _McpDecoder:
    def __init__(self, head: Head) -> None:
        self._waiting = {request.id: request for request in _requests(head.request)}
        self._is_asked = bool(self._waiting)
        self._run_id = next(iter(self._waiting), None)
        self._thread_id = as_id(head.headers.get(_SESSION))
        self._begun = self._has_answered = False
        self._end: ev.Event | None = None  # told when all is answered

    def decode(self, frame: Frame) -> Iterator[ev.Event]:
        if not self._begun and frame.data is not None:
            self._begun = True
            yield from self._begin()
        value = frame.json()
        if isinstance(value, dict | list):
            for message in value if isinstance(value, list) else [value]:
                yield from self._message(as_object(message) or {"message": message})
            if self._end is not None and not self._waiting:
                yield self._end
                self._end = None
        elif frame.id is not None or frame.retry is not None:
            yield ev.Heartbeat()  # primes the client to resume from here
        elif frame.data and frame.complete:
            yield ev.Custom(name=frame.event or "unknown", value=frame.text)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _begin(self) -> Iterator[ev.Event]:
        if self._run_id or self._thread_id:
            yield ev.RunStarted(run_id=self._run_id, thread_id=self._thread_id)
        for request in self._waiting.values():
            if request.method == "tools/call":
                name, arguments = request.params.get("name"), request.params.get("arguments")
                yield ev.ToolCallStarted(tool_call_id=request.id, name=as_id(name))
                yield ev.ToolCallReady(
                    tool_call_id=request.id,
                    arguments=None if arguments is None else dump_json(arguments),
                    requested=True,
                )

    def _message(self, message: _Fields) -> Iterable[ev.Event]:
        method = as_id(message.get("method"))
        if method == "ping":
            return (ev.Heartbeat(),)
        if method is not None:
            return (ev.Custom(name=method, value=message.get("params")),)
        if message.get("error") or "result" in message:
            return self._response(message)
        return (ev.Custom(name="unknown", value=message),)

    def _response(self, message: _Fields) -> Iterator[ev.Event]:
        answered = as_id(message.get("id"))
        if self._is_asked and answered is None and message.get("error"):
            answered = next(iter(self._waiting), None)  # a server that could not read the request
        request = None if answered is None else self._waiting.pop(answered, None)
        if self._is_asked and request is None:
            yield ev.Custom(name="response", value=message)
            return
        if not self._is_asked:
            self._run_id = answered
        result = as_object(message.get("result"))
        agent = _server_name(result)
        if agent is not None or not self._is_asked:
            yield ev.RunStarted(run_id=self._run_id, thread_id=self._thread_id, agent=agent)
        call_id = answered if request is not None and request.method == "tools/call" else None
        if message.get("error"):
            yield from self._error(call_id, message["error"])
        else:
            self._end = self._end or ev.RunFinished(run_id=self._run_id, thread_id=self._thread_id)
            kind = as_id(result.get("resultType")) or "complete"
            is_whole = "content" in result or "structuredContent" in result
            if kind == "input_required":
                reason = _first_method(as_object(result.get("inputRequests")))
                self._end = ev.RunInterrupted(reason=reason, tool_call_id=call_id)
            elif kind != "complete":
                yield ev.Custom(name=kind, value=result)
            elif is_whole and (call_id is not None or request is None):
                yield from self._tool_result(call_id, answered or "tool", result)
            else:
                yield ev.Custom(name="result" if request is None else request.method, value=result)
        self._has_answered = True

    def _tool_result(
        self, call_id: str | None, answered: str, result: _Fields
    ) -> Iterator[ev.Event]:
        if call_id is None:
            yield ev.ToolCallStarted(tool_call_id=answered)
            if not self._has_answered:
                yield ev.ToolCallReady(tool_call_id=answered, requested=True)
        is_error = result.get("isError") is True
        yield ev.ToolCallResult(tool_call_id=answered, result=_text(result), is_error=is_error)

    def _error(self, call_id: str | None, error: Any) -> Iterator[ev.Event]:
        facts = error if isinstance(error, dict) else {"message": error}
        code, text = facts.get("code"), as_word(facts.get("message"))
        if code == _ASKS_FOR_A_VISIT:
            self._end = ev.RunInterrupted(reason="elicitation/create", tool_call_id=call_id)
        elif code == _CANCELLED or (code, text) == _OLD_CANCELLED:
            self._end = ev.RunCancelled()
        else:
            if call_id is not None:
                yield ev.ToolCallResult(tool_call_id=call_id, result=text, is_error=True)
            self._end = ev.RunFailed(type=as_id(code), message=text)


def _server_name(result: _Fields) -> str | None:
    info = result.get("serverInfo") or as_object(result.get("_meta")).get(_SERVER_INFO)
    return as_id(as_object(info).get("name"))


def _first_method(asked: _Fields) -> str | None:
    return as_id(as_object(next(iter(asked.values()), None)).get("method"))


def _text(result: _Fields) -> str | None:
    """Text parts joined; other content as JSON; without any, the structured content."""
    content = result.get("content")
    if not content:
        structured = result.get("structuredContent")
        return None if structured is None else dump_json(structured)
    parts = [as_object(part) for part in content] if isinstance(content, list) else []
    texts = [as_string(part.get("text")) for part in parts if part.get("type") == "text"]
    if len(texts) != len(parts) or None in texts or not parts:
        return dump_json(content)
    return "\n".join(text for text in texts if text)
