"""Google's Agent Development Kit: the events of an agent's run, as its server streams them.

Rules that hold here (what the server of `google-adk` 2.13 sends from `/run_sse`; that of 1.18 and
1.28 where it differs):

* A `partial` event is a fragment. One that is not is whole, and repeats the fragments: of its text
  the rest is told, if there is any. All other parts count in whole events only; some versions give
  a call in a fragment another id.
* A turn is one call of a model: the events of one author up to a whole one, once the finish reason
  is known, or up to a result. Its id is that of its first event.
* An author is a step, until another one speaks in the same branch. Branches run side by side; where
  turns overlap, their usage is told for the run and not for each.
* An error code that is no finish reason fails the run, unless a later event goes on. The frame that
  says the same again behind it is not told.
* What is asked of the user (`longRunningToolIds`, credentials, confirmations) does not stop other
  agents, and no event is the last: it interrupts the run when the stream ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_id, as_object, as_string, load_json
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says
from streamtrace.dialects.gemini_parts import (
    SILENT,
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

MAX_LANES = 64
"""Authors in a branch that are told apart; of more, the one that came first is forgotten."""
TAIL_CHARS = 32
"""Of the text that was told, what a whole event must repeat at that place."""
MAX_REMEMBERED = 256
"""Models, and calls that wait for the user, that one stream keeps in mind, of each."""


class GoogleAdk(Dialect):
    """`POST /run_sse` of an ADK server, with or without `streaming`."""

    name = "google-adk"
    marks = marks("invocationId invocation_id error")
    needs_terminal = False
    says = says(
        "run text reasoning tool_start arguments result step model usage finish "
        "input_required error"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of an event with an invocation and an author; an error may be another's."""
        value = camel(as_object(frame.json()))
        if isinstance(value.get("invocationId"), str) and isinstance(value.get("author"), str):
            return Fit.YES
        is_error = isinstance(value.get("error"), str) and isinstance(
            value.get("errorDetails"), dict
        )
        return Fit.MAYBE if is_error else Fit.NO

    def open(self, head: Head) -> Decoder:
        """A decoder for one stream. Only the request names the session."""
        return _AdkDecoder(as_id(camel(as_object(head.request)).get("sessionId")))

    def decoder(self) -> Decoder:
        """A decoder for a stream whose request is not known."""
        return self.open(Head())


# The hot frames: text or thoughts in a fragment.


class _Hot(Closed):
    content: Content
    partial: bool
    invocation_id: str
    author: str
    model_version: str | None = None
    usage_metadata: Counts | None = None
    actions: msgspec.Raw = msgspec.Raw()
    node_info: msgspec.Raw = msgspec.Raw()
    branch: str | None = None
    id: msgspec.Raw = msgspec.Raw()
    timestamp: msgspec.Raw = msgspec.Raw()


_hot_decoder = msgspec.json.Decoder(_Hot)


class _Told(msgspec.Struct):
    """The text that fragments told: its length, and how it ends."""

    chars: int = 0
    tail: str = ""

    def rest_of(self, whole: str) -> str:
        """What the whole says behind it; nothing, if the whole says something else."""
        return whole[self.chars :] if whole[: self.chars].endswith(self.tail) else ""


class _Turn(msgspec.Struct):
    """One call of a model. `is_whole`: a whole event came, so the next fragment begins another."""

    id: str | None
    model: str | None = None
    is_models: bool = False
    is_whole: bool = False
    usage: Any = None
    finish_reason: str | None = None
    text: _Told = msgspec.field(default_factory=_Told)
    thoughts: _Told = msgspec.field(default_factory=_Told)

    def grow(self, text: str, is_thought: bool) -> ev.Event:
        told = self.thoughts if is_thought else self.text
        told.chars += len(text)
        told.tail = text[-TAIL_CHARS:]
        kind = ev.ReasoningDelta if is_thought else ev.TextDelta
        return kind(text=text, message_id=self.id)


class _Lane(msgspec.Struct):
    """One author in one branch. `growing`: the turn that the next fragment adds to."""

    parts: Parts
    turn: _Turn | None = None
    growing: _Turn | None = None


class _AdkDecoder:
    def __init__(self, thread_id: str | None) -> None:
        self._thread_id = thread_id
        self._run_id: str | None = None
        self._lanes: dict[tuple[str | None, str], _Lane] = {}  # by branch and author
        self._speakers: dict[str | None, str] = {}  # by branch: the author whose step is open
        self._waiting: dict[str, str] = {}  # reasons by call
        self._totals: dict[str | None, ev.Usage] = {}  # by model
        self._overlapped = False
        self._sources = Sources()
        self._no_actions = msgspec.Raw()
        self._failed = False

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        try:
            hot = _hot_decoder.decode(frame.data or b"")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self._decode(frame)
        if hot.partial and hot.invocation_id == self._run_id:
            lane = self._lanes.get((hot.branch, hot.author))
            turn = None if lane is None else lane.growing
            is_idle = hot.actions == self._no_actions or self._is_idle(hot.actions)
            if turn is not None and hot.model_version == turn.model and is_idle:
                if hot.usage_metadata is not None:
                    turn.usage = hot.usage_metadata
                piece = hot.content.parts[0]
                return (turn.grow(piece.text, piece.thought),) if piece.text else ()
        return self._decode(frame)

    def _is_idle(self, actions: msgspec.Raw) -> bool:
        """Whether nothing is done beside: the server repeats the empty actions byte by byte."""
        value = load_json(bytes(actions))
        if not isinstance(value, dict) or any(value.values()):
            return False
        self._no_actions = actions.copy()
        return True

    def close(self) -> Iterator[ev.Event]:
        if not self._failed:
            yield from self._settle()
            if self._waiting:
                call_id, reason = next(iter(self._waiting.items()))
                yield ev.RunInterrupted(reason=reason, tool_call_id=call_id)

    def _decode(self, frame: Frame) -> Iterator[ev.Event]:
        if frame.stray is not None:
            yield ev.Custom(name="stray", value=frame.stray.decode("utf-8", "replace"))
        if frame.data is None:
            return
        value = frame.json()
        event = camel(as_object(value))
        if isinstance(event.get("invocationId"), str) and isinstance(event.get("author"), str):
            yield from self._event(event)
        elif isinstance(event.get("error"), str):
            details = camel(as_object(event.get("errorDetails")))
            message = as_string(details.get("errorMessage")) or event["error"]
            yield from self._fail(as_id(details.get("errorType")), message)
        elif value is None and (broken := _BROKEN_ERROR.match(frame.text)) is not None:
            yield from self._fail(None, broken[1])
        elif value is not None or frame.complete:
            value = frame.text if value is None else value
            yield ev.Custom(name=frame.event or "unknown", value=value)

    def _event(self, event: Fields) -> Iterator[ev.Event]:
        author, branch = as_id(event["author"]) or "", as_id(event.get("branch"))
        run_id, error = as_id(event["invocationId"]), as_id(event.get("errorCode"))
        if error == event.get("finishReason"):
            error = None
        if run_id != self._run_id:
            yield from self._settle()
            self._waiting.clear()
        if run_id != self._run_id or (self._failed and error is None):
            self._run_id, self._failed = run_id, False
            agent = _root(event) or (None if author == _USER else author or None)
            yield ev.RunStarted(run_id=run_id, thread_id=self._thread_id, agent=agent)
        if self._failed:
            return  # a fragment failed, and the whole repeats it
        if author == _USER:
            yield ev.Custom(name=_USER, value=event)
            return
        yield from self._speak(author, branch)
        lane = self._lanes.get((branch, author))
        if lane is None:
            if len(self._lanes) >= MAX_LANES:
                yield from self._end_turn(self._lanes.pop(next(iter(self._lanes))))
            lane = self._lanes[branch, author] = _Lane(Parts(f"{run_id}:{author}"))
        yield from self._answer(lane, event)
        yield from self._actions(camel(as_object(event.get("actions"))), branch)
        for key in sorted(event.keys() - _KNOWN):
            yield ev.Custom(name=key, value=event[key])
        if error is not None:
            yield from self._fail(error, as_string(event.get("errorMessage")))

    # --- what it says --------------------------------------------------------------------------

    def _answer(self, lane: _Lane, event: Fields) -> Iterator[ev.Event]:
        content = camel(as_object(event.get("content")))
        given = content.get("parts")
        parts = [camel(as_object(part)) for part in given] if isinstance(given, list) else []
        is_fragment = event.get("partial") is True
        is_models = is_fragment or not _MODELS.isdisjoint(event)
        if any("functionResponse" in part for part in parts):
            yield from self._end_turn(lane)
            yield from self._results(lane, content, parts, event)
        elif parts or is_models:
            is_next = is_fragment or "finishReason" not in event
            if lane.turn is not None and lane.turn.is_whole and is_next:
                yield from self._end_turn(lane)
            turn = lane.turn = lane.turn or _Turn(as_id(event.get("id")))
            if is_models:
                yield from self._generation(lane, turn, event)
            if is_fragment:
                yield from _fragment(turn, content, parts)
            else:
                yield from _whole(lane, turn, content, parts)
            yield from self._sources.read(event)
            self._wait_for(event.get("longRunningToolIds"), () if is_fragment else parts)
            turn.is_whole = not is_fragment
            lane.growing = turn if is_fragment else None
            if turn.is_whole and turn.finish_reason is not None:
                yield from self._end_turn(lane)

    def _generation(self, lane: _Lane, turn: _Turn, event: Fields) -> Iterator[ev.Event]:
        turn.usage = event.get("usageMetadata", turn.usage)
        turn.finish_reason = as_id(event.get("finishReason")) or turn.finish_reason
        model = as_id(event.get("modelVersion")) or turn.model
        if turn.is_models and model == turn.model:
            return
        for other in self._lanes.values():
            if other is not lane and other.turn is not None and not turn.is_models:
                if other.turn.is_whole:
                    yield from self._end_turn(other)
                elif other.turn.is_models:
                    self._overlapped = True
        turn.is_models, turn.model = True, model
        yield ev.GenerationStarted(response_id=turn.id, model=model)

    def _end_turn(self, lane: _Lane) -> Iterator[ev.Event]:
        turn, lane.turn, lane.growing = lane.turn, None, None
        if turn is None:
            return
        yield from lane.parts.finish()
        usage = usage_of(turn.usage)
        if usage is not None:
            _add(self._totals, turn.model, usage)
            yield from self._totals.values() if self._overlapped else (usage,)
        if turn.finish_reason is not None:
            yield ev.GenerationFinished(finish_reasons=(turn.finish_reason,))

    def _results(
        self, lane: _Lane, content: Fields, parts: list[Fields], event: Fields
    ) -> Iterator[ev.Event]:
        actions = camel(as_object(event.get("actions")))
        asked = {
            call_id: reason
            for key, reason in _ASKING.items()
            for call_id in map(as_id, as_object(actions.get(key)))
            if call_id is not None
        }
        for call_id, reason in asked.items():
            remember(self._waiting, call_id, self._waiting.get(call_id, reason), MAX_REMEMBERED)
        for part in parts:
            response = camel(as_object(part.get("functionResponse")))
            if as_id(response.get("id")) in asked:  # the tool did not run yet
                yield ev.Custom(name="functionResponse", value=response)
            else:
                yield from lane.parts.read({**content, "parts": [part]}, None)

    def _wait_for(self, call_ids: Any, parts: Iterable[Fields]) -> None:
        for call in (camel(as_object(part.get("functionCall"))) for part in parts):
            call_id, name = as_id(call.get("id")), as_id(call.get("name")) or ""
            if call_id is not None and isinstance(call_ids, list) and call_id in call_ids:
                remember(self._waiting, call_id, _REASONS.get(name, "long_running"), MAX_REMEMBERED)

    # --- who says it ---------------------------------------------------------------------------

    def _speak(self, author: str, branch: str | None) -> Iterator[ev.Event]:
        if author and self._speakers.get(branch) != author:
            yield from self._silence(branch)
            if len(self._speakers) >= MAX_LANES:
                yield from self._silence(next(iter(self._speakers)))
            self._speakers[branch] = author
            yield ev.StepStarted(name=author, step_id=_step_id(author, branch))

    def _silence(self, branch: str | None) -> Iterator[ev.Event]:
        author = self._speakers.pop(branch, None)
        if author is not None:
            for lane in self._lanes.values():
                lane.growing = None
            yield ev.StepFinished(name=author, step_id=_step_id(author, branch))

    def _actions(self, actions: Fields, branch: str | None) -> Iterator[ev.Event]:
        if state := as_object(actions.pop("stateDelta", None)):
            patch = [{"op": "add", "path": _pointer(key), "value": state[key]} for key in state]
            yield ev.State(value=patch, is_delta=True)
        if actions.pop("endOfAgent", None) is True:
            yield from self._silence(branch)
        for key, value in actions.items():
            if value and key not in _ASKING:
                yield ev.Custom(name=key, value=value)

    def _settle(self) -> Iterator[ev.Event]:
        """End all turns and steps."""
        for lane in self._lanes.values():
            yield from self._end_turn(lane)
        for branch in list(self._speakers):
            yield from self._silence(branch)

    def _fail(self, kind: str | None, message: str | None) -> Iterator[ev.Event]:
        if not self._failed:
            yield from self._settle()
            self._failed = True
            yield ev.RunFailed(type=kind, message=message)


_USER = "user"
_BROKEN_ERROR = re.compile(r'\{"error": "(.*)', re.DOTALL)
"""Up to 1.x the text was put between quotes as it was; what stands behind a line end is lost."""

_MODELS = frozenset(("modelVersion", "usageMetadata", "finishReason"))
_ASKING = {"requestedAuthConfigs": "credential", "requestedToolConfirmations": "confirmation"}
_REASONS = {
    "adk_request_credential": "credential",
    "adk_request_confirmation": "confirmation",
    "adk_request_input": "input",
}
_KNOWN = frozenset(
    (
        *("invocationId", "author", "branch", "id", "timestamp", "nodeInfo", "content", "partial"),
        *("modelVersion", "usageMetadata", "finishReason", "errorCode", "errorMessage", "actions"),
        *("longRunningToolIds", "groundingMetadata", "citationMetadata", "turnComplete"),
        *("avgLogprobs", "logprobsResult", "cacheMetadata", "isolationScope", "interactionId"),
    )
)


def _fragment(turn: _Turn, content: Fields, parts: list[Fields]) -> Iterator[ev.Event]:
    is_output = content.get("role", "model") == "model"
    for part in parts:
        for key, value in part.items():
            if key == "text" and is_output and isinstance(value, str):
                if value:
                    yield turn.grow(value, part.get("thought") is True)
            elif key not in SILENT:
                yield ev.Custom(name=key, value=value)


def _whole(lane: _Lane, turn: _Turn, content: Fields, parts: list[Fields]) -> Iterator[ev.Event]:
    for is_thought, told in ((True, turn.thoughts), (False, turn.text)):
        if told.chars:
            repeated = [part["text"] for part in parts if _is_text(part, is_thought)]
            parts = [part for part in parts if not _is_text(part, is_thought)]
            if rest := told.rest_of("".join(repeated)):
                yield text_event(rest, is_thought, turn.id)
    turn.text, turn.thoughts = _Told(), _Told()
    yield from lane.parts.read({**content, "parts": parts}, turn.id)


def _is_text(part: Fields, is_thought: bool) -> bool:
    return isinstance(part.get("text"), str) and (part.get("thought") is True) is is_thought


def _root(event: Fields) -> str | None:
    """The agent that runs all others."""
    path = as_id(as_object(event.get("nodeInfo")).get("path")) or ""
    branch = as_id(event.get("branch")) or ""
    return path.partition("/")[0].partition("@")[0] or branch.partition(".")[0] or None


def _step_id(author: str, branch: str | None) -> str:
    return author if branch is None else f"{branch}/{author}"


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _add(totals: dict[str | None, ev.Usage], model: str | None, usage: ev.Usage) -> None:
    entries = (totals.get(model, ev.Usage()), usage)
    sums: dict[str, int] = {}
    for name in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"):
        known = [count for one in entries if (count := getattr(one, name)) is not None]
        if known:
            sums[name] = sum(known)
    total = ev.Usage(**sums, model=model, scope="run")  # type: ignore[arg-type]
    remember(totals, model, total, MAX_REMEMBERED)
