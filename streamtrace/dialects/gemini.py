"""Google Gemini: `generateContent` as a stream of responses, of the Gemini API and of Vertex AI.

Rules that hold here (what `google-genai` 3.3 reads from the same bytes, unless said otherwise):

* A frame is a whole response with the next parts of each candidate, read in `gemini_parts`.
* A response is its `responseId`. One that changes once all candidates have finished is the next
  call of an agent; before, it is the same answer. The text of candidate k bears the id `ID:k`.
* Usage is a running total: the last one counts, and is told with the finish.
* The stream ends well once all candidates have a finish reason. That is told when it closes, since
  some models give one with every frame. A call that the client must answer is an end as well.
* A prompt that was blocked has no candidates: it is an error, as in the Agent Development Kit. So
  is an `error` object, be it in a frame or written between the frames as plain JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_word, load_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.gemini_parts import (
    Closed,
    Content,
    Counts,
    Fields,
    Parts,
    Sources,
    camel,
    text_event,
    usage_of,
)

PROVIDER = "gcp.gemini"
VERTEX = "gcp.vertex_ai"
MAX_CANDIDATES = 64
"""Candidates of one response that are told apart and waited for."""

_DONE = b"[DONE]"


class Gemini(Dialect):
    """`streamGenerateContent?alt=sse`, and what Python apps pass on of it."""

    name = "gemini"
    marks = marks("candidates promptFeedback prompt_feedback usageMetadata usage_metadata error")
    says = says("run text reasoning tool_start arguments result model usage finish error terminal")

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of candidates, a blocked prompt, or usage with a model; an error may be another's.

        Only Google's errors have both a number and the name of a status.
        """
        if frame.data is None:
            return Fit.NO if _stray_error(frame.stray) is None else Fit.MAYBE
        value = frame.json()
        chunk = camel(as_object(value[0] if isinstance(value, list) and value else value))
        candidates = chunk.get("candidates")
        first = candidates[0] if isinstance(candidates, list) and candidates else None
        candidate = camel(as_object(first))
        if isinstance(candidate.get("content"), dict) or "finishReason" in candidate:
            return Fit.YES
        if isinstance(camel(as_object(chunk.get("promptFeedback"))).get("blockReason"), str):
            return Fit.YES
        if isinstance(chunk.get("usageMetadata"), dict) and "modelVersion" in chunk:
            return Fit.NO if "author" in chunk else Fit.YES
        error = as_object(chunk.get("error"))
        is_status = type(error.get("code")) is int and isinstance(error.get("status"), str)
        return Fit.MAYBE if is_status else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _GeminiDecoder()


# The hot frames: text or thoughts of one candidate, and the usage so far.


class _NoSources(Closed):
    pass


class _Candidate(Closed):
    content: Content
    index: int = 0
    safety_ratings: msgspec.Raw = msgspec.Raw()
    grounding_metadata: _NoSources | None = None


class _Hot(Closed):
    candidates: tuple[_Candidate]
    usage_metadata: Counts | None = None
    model_version: str | None = None
    response_id: str | None = None
    create_time: msgspec.Raw = msgspec.Raw()


_hot_decoder = msgspec.json.Decoder(_Hot)


class _Answer(msgspec.Struct):
    """One candidate of the open response."""

    message_id: str | None
    parts: Parts
    finish_reason: str | None = None


class _GeminiDecoder:
    def __init__(self) -> None:
        self._run_id: str | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._begun = False
        self._answers: dict[int, _Answer] = {}
        self._untold_reasons: dict[int, str] = {}
        self._usage: Any = None  # the last, if it is not told yet
        self._sources = Sources()
        self._failed = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        try:
            hot = _hot_decoder.decode(frame.data or b"")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self._decode(frame)
        if hot.response_id == self._id and hot.model_version == self._model:
            candidate = hot.candidates[0]
            answer = self._answers.get(candidate.index)
            if answer is not None:
                if hot.usage_metadata is not None:
                    self._usage = hot.usage_metadata
                piece = candidate.content.parts[0]
                if not piece.text:
                    return ()
                return (text_event(piece.text, piece.thought, answer.message_id),)
        return self._decode(frame)

    def close(self) -> Iterator[ev.Event]:
        yield from self._tell_usage()
        if self._is_finished() and not self._failed:
            yield ev.RunFinished(run_id=self._run_id)

    def _decode(self, frame: Frame) -> Iterator[ev.Event]:
        if frame.data is not None and frame.data != _DONE:
            value = frame.json()
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict) and not _CHUNK.isdisjoint(one):
                    yield from self._chunk(camel(one))
                elif value is not None or frame.complete:
                    unknown = frame.text if value is None else one
                    yield ev.Custom(name=frame.event or "unknown", value=unknown)
        error = _stray_error(frame.stray)
        if error is not None:
            yield from self._fail(error)
        elif frame.stray is not None:
            yield ev.Custom(name="stray", value=frame.stray.decode("utf-8", "replace"))

    def _chunk(self, chunk: Fields) -> Iterator[ev.Event]:
        if chunk.keys() != {"error"}:
            yield from self._identity(chunk)
        self._usage = chunk.get("usageMetadata", self._usage)
        candidates = chunk.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            yield from self._candidate(camel(as_object(candidate)))
        if self._untold_reasons and self._is_finished():
            yield from self._tell_usage()
            reasons = (*dict(sorted(self._untold_reasons.items())).values(),)
            self._untold_reasons.clear()
            yield ev.GenerationFinished(finish_reasons=reasons)
        feedback = camel(as_object(chunk.get("promptFeedback")))
        if not candidates and (reason := as_id(feedback.get("blockReason"))):
            message = feedback.get("blockReasonMessage")
            yield from self._fail({"status": reason, "message": message})
        if chunk.get("error"):
            yield from self._fail(chunk["error"])

    def _identity(self, chunk: Fields) -> Iterator[ev.Event]:
        """Who answers, if that is news."""
        response_id = as_id(chunk.get("responseId")) or self._id
        model = as_id(chunk.get("modelVersion")) or self._model
        is_next_run = False
        if response_id != self._id and (self._is_finished() or self._failed):
            yield from self._tell_usage()
            self._answers.clear()
            self._untold_reasons.clear()
            is_next_run, self._failed = self._failed, False
        elif self._begun and self._answers:
            response_id = self._id
        if self._begun and (response_id, model) == (self._id, self._model):
            return
        if is_next_run or (self._run_id is None and response_id is not None):
            self._run_id = response_id
            yield ev.RunStarted(run_id=response_id)
        self._begun, self._id, self._model = True, response_id, model
        provider = VERTEX if "createTime" in chunk else PROVIDER  # the Gemini API has none
        yield ev.GenerationStarted(response_id=response_id, model=model, provider=provider)

    def _candidate(self, candidate: Fields) -> Iterator[ev.Event]:
        index = as_count(candidate.get("index")) or 0
        answer = self._answers.get(index)
        if answer is None:
            message_id = f"{self._id or 'candidate'}:{index}" if index else self._id
            answer = _Answer(message_id, Parts(message_id or "call"))
            if len(self._answers) < MAX_CANDIDATES:
                self._answers[index] = answer
        content = camel(as_object(candidate.get("content")))
        yield from answer.parts.read(content, answer.message_id)
        yield from self._sources.read(candidate)
        reason = as_id(candidate.get("finishReason"))
        if reason is not None:
            yield from answer.parts.finish()
            if reason != answer.finish_reason and index in self._answers:
                answer.finish_reason = self._untold_reasons[index] = reason

    def _is_finished(self) -> bool:
        answers = self._answers.values()
        return bool(answers) and all(answer.finish_reason for answer in answers)

    def _tell_usage(self) -> Iterator[ev.Usage]:
        given, self._usage = self._usage, None
        usage = usage_of(given)
        if usage is not None:
            yield usage

    def _fail(self, error: Any) -> Iterator[ev.Event]:
        if not self._failed:
            self._failed = True
            yield from self._tell_usage()
            facts = error if isinstance(error, dict) else {"message": error}
            kind = as_id(facts.get("status")) or as_id(facts.get("code"))
            yield ev.RunFailed(type=kind, message=as_word(facts.get("message")))


_CHUNK = frozenset(
    ("candidates", "promptFeedback", "prompt_feedback", "usageMetadata", "usage_metadata", "error")
)


def _stray_error(lines: bytes | None) -> Any:
    """The error in lines that are no SSE fields: a JSON document, alone or in an array."""
    document = None if lines is None else load_json(lines)
    if isinstance(document, list) and document:
        document = document[0]
    return as_object(document).get("error") or None
