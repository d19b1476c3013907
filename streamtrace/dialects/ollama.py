"""Ollama's own API, `/api/chat` and `/api/generate`: one JSON object per line.

Rules that hold here (what `ollama` 0.6.3 types and its client reads, unless said otherwise):

* Each object is a delta of the answer; the one that is `done` has the counts and the reason.
* A tool call comes whole. The model may name several, over several objects.
* `prompt_eval_count` is absent where the whole prompt was cached. It is not counted as zero then.
* An object after the one that was `done` begins the next answer, and the next run.
* The same objects inside Server-Sent Events read the same.

Source: github.com/ollama/ollama, docs/api.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, dump_json
from streamtrace.dialects.base import LINE_MEDIA_TYPES, Decoder, Dialect, Fit, Head, marks, says

PROVIDER = "ollama"

_Fields: TypeAlias = dict[str, Any]


class Ollama(Dialect):
    """The native API of Ollama, not the one that is compatible with OpenAI."""

    name = "ollama"
    marks = marks("done error")
    lines = True
    media_types = LINE_MEDIA_TYPES
    says = says("text reasoning tool_start arguments model usage finish error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of an object with a model, an answer and `done`; a lone error may be another's."""
        value = as_object(frame.json())
        if _is_answer(value):
            return Fit.YES
        alone = isinstance(value.get("error"), str) and head.media_type in LINE_MEDIA_TYPES
        return Fit.MAYBE if alone else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _OllamaDecoder()


# The hot lines: a piece of text or reasoning, of a chat or of a completion.


class _Message(msgspec.Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: None = None
    images: None = None


class _Piece(msgspec.Struct, gc=False):
    model: str
    done: Literal[False]
    message: _Message | None = None
    response: str | None = None
    thinking: str = ""
    image: None = None
    error: None = None


_piece_decoder = msgspec.json.Decoder(_Piece)


class _OllamaDecoder:
    def __init__(self) -> None:
        self._model: str | None = None  # of the answer under way
        self._ended = False
        self._calls = 0

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is None:
            return ()
        piece = _read_piece(frame.data)
        if piece is not None and piece.model == self._model:
            message = piece.message
            if message is not None:
                return _texts(message.thinking, message.content)
            if piece.response is not None:
                return _texts(piece.thinking, piece.response)
        value = frame.json()
        if isinstance(value, dict) and value.get("error"):
            return self._fail(value["error"])
        if isinstance(value, dict) and _is_answer(value):
            return self._answer(value)
        if not frame.complete or frame.data == b"[DONE]":
            return ()
        return (ev.Custom(name=frame.event or "message", value=value),)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _answer(self, value: _Fields) -> Iterator[ev.Event]:
        model = as_id(value["model"]) or ""
        if self._ended:
            self._ended = False
            yield ev.RunStarted()
        if model != self._model:
            self._model = model
            yield ev.GenerationStarted(model=model or None, provider=PROVIDER)
        message = value.get("message")
        said, text_key = (message, "content") if isinstance(message, dict) else (value, "response")
        yield from _texts(as_string(said.get("thinking")), as_string(said.get(text_key)))
        for picture in ("image", "images"):
            if said.get(picture):
                yield ev.Custom(name=picture, value=said[picture])
        calls = said.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            yield from self._call(as_object(call))
        if value["done"]:
            yield from self._done(value)

    def _call(self, call: _Fields) -> Iterator[ev.Event]:
        self._calls += 1
        call_id = as_id(call.get("id")) or f"tool-{self._calls}"
        function = as_object(call.get("function"))
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(function.get("name")))
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str | None) else dump_json(arguments)
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=text)

    def _done(self, value: _Fields) -> Iterator[ev.Event]:
        usage = ev.Usage(
            input_tokens=as_count(value.get("prompt_eval_count")),
            output_tokens=as_count(value.get("eval_count")),
        )
        if usage != ev.Usage():
            yield usage
        reason = as_id(value.get("done_reason"))
        if reason is not None:
            yield ev.GenerationFinished(finish_reasons=(reason,))
        self._model, self._ended = None, True
        yield ev.RunFinished()

    def _fail(self, error: Any) -> Iterator[ev.Event]:
        self._model, self._ended = None, True
        facts = as_object(error)
        message = as_string(facts.get("message")) if facts else as_string(error)
        yield ev.RunFailed(type=as_id(facts.get("code")), message=message)


def _is_answer(value: _Fields) -> bool:
    done = value.get("done")
    says = isinstance(value.get("message"), dict) or isinstance(value.get("response"), str)
    return isinstance(value.get("model"), str) and isinstance(done, bool) and (says or done)


def _read_piece(data: bytes) -> _Piece | None:
    try:
        return _piece_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _texts(reasoning: str | None, text: str | None) -> list[ev.Event]:
    events: list[ev.Event] = []
    if reasoning:
        events.append(ev.ReasoningDelta(text=reasoning))
    if text:
        events.append(ev.TextDelta(text=text))
    return events
