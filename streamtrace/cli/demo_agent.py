"""The demo's agent: a script that behaves like one, so that every outcome can be seen at will.

Rules that hold here:

* It says events and pauses, never bytes: the dialect that was asked for writes them.
* What it does follows from the message alone, so that a run can be repeated.
* Its tokens are the pieces that it sends and reads, mostly a word each; its usage counts those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.jsonio import dump_json

TOKENS_PER_S = 30
STALL_S = 3.0

PLACES = {
    "lisbon": ("Lisbon", 38.72, -9.14, "clear, a light wind from the west", 22),
    "nairobi": ("Nairobi", -1.29, 36.82, "clouds in the afternoon", 25),
    "oslo": ("Oslo", 59.91, 10.75, "snow until noon", -2),
    "paris": ("Paris", 48.86, 2.35, "showers, then sun", 15),
    "tokyo": ("Tokyo", 35.68, 139.69, "sunny and dry", 19),
}

WORDS = {
    "fail": "fail",
    "error": "fail",
    "approve": "approve",
    "stall": "stall",
    "drop": "cut",
    "truncate": "cut",
}
"""Words of a message that change how its run goes on."""


class Pause(msgspec.Struct, frozen=True):
    """The agent says nothing for a while."""

    seconds: float


class Model(msgspec.Struct, frozen=True):
    """The model that the agent says it calls: one whose price is known."""

    name: str
    provider: str


Beat: TypeAlias = ev.Event | Pause


def script(message: str, *, run_id: str, thread_id: str, model: Model) -> Iterator[Beat]:
    """One run: what the agent does about `message`, and when."""
    words = set(re.findall(r"[a-z]+", message.lower()))
    turns = {turn for word, turn in WORDS.items() if any(one.startswith(word) for one in words)}
    asked = _place(message)
    known = PLACES.get(asked.lower())
    turn = _Turn(run_id, model, message)

    yield ev.RunStarted(run_id=run_id, thread_id=thread_id, agent="forecaster")
    yield turn.begins()
    yield Pause(0.35)
    yield from turn.thinks(f"They ask about {asked}. First find the place, then its forecast.")
    yield Pause(0.15)
    yield from turn.says(_pieces(f"Let me look up {asked} for you. "))

    if "approve" in turns:
        call_id = f"call_{run_id}_1"
        yield from turn.calls(call_id, "book_trip", {"place": asked, "price_eur": 240})
        yield from turn.ends("tool_calls")
        yield ev.RunInterrupted(reason="tool_call", tool_call_id=call_id)
        return

    yield from turn.calls(f"call_{run_id}_1", "find_place", {"query": asked})
    yield from turn.ends("tool_calls")
    yield Pause(0.35)
    if known is None:
        yield turn.reads(f"call_{run_id}_1", f"no place named {asked} is known", failed=True)
    else:
        found = {"name": known[0], "latitude": known[1], "longitude": known[2]}
        yield turn.reads(f"call_{run_id}_1", dump_json(found))
    if "stall" in turns:
        yield Pause(STALL_S / 2)
        yield ev.Heartbeat()  # a sign of life that counts for no time
        yield Pause(STALL_S / 2)
    if known is not None:
        yield turn.begins()
        yield Pause(0.1)
        asking = {"latitude": known[1], "longitude": known[2], "days": 3}
        yield from turn.calls(f"call_{run_id}_2", "get_forecast", asking)
        yield from turn.ends("tool_calls")
        yield Pause(0.8)
        forecast = {"sky": known[3], "high_celsius": known[4], "days": 3}
        yield turn.reads(f"call_{run_id}_2", dump_json(forecast))

    yield turn.begins()
    yield Pause(0.25)
    pieces = _pieces(_answer(asked, known))
    is_cut = bool(turns & {"fail", "cut"})
    yield from turn.says(pieces[: len(pieces) // 2] if is_cut else pieces, is_cut=is_cut)
    if "fail" in turns:
        yield ev.RunFailed(type="overloaded", message="the model is overloaded, try again later")
    elif not is_cut:
        yield from turn.ends("stop")
        yield ev.RunFinished(run_id=run_id, thread_id=thread_id)


class _Turn:
    """A call of the model, and then the next: each reads all that was said before."""

    def __init__(self, run_id: str, model: Model, message: str) -> None:
        self._run_id = run_id
        self._model = model
        self._number = 0
        self._read = 40 + len(_pieces(message))
        self._written = 0

    def begins(self) -> ev.GenerationStarted:
        self._number += 1
        return ev.GenerationStarted(
            response_id=f"{self._run_id}-{self._number}",
            model=self._model.name,
            provider=self._model.provider,
        )

    def thinks(self, text: str) -> Iterator[Beat]:
        message_id = f"thought_{self._run_id}_{self._number}"
        yield ev.ReasoningStarted(message_id=message_id)
        yield from self._tokens(
            ev.ReasoningDelta(text=piece, message_id=message_id) for piece in _pieces(text)
        )
        yield ev.ReasoningFinished(message_id=message_id)

    def says(self, pieces: list[str], *, is_cut: bool = False) -> Iterator[Beat]:
        message_id = f"message_{self._run_id}_{self._number}"
        yield ev.MessageStarted(message_id=message_id, role="assistant")
        yield from self._tokens(ev.TextDelta(text=piece, message_id=message_id) for piece in pieces)
        if not is_cut:
            yield ev.MessageFinished(message_id=message_id)

    def calls(self, call_id: str, name: str, arguments: Mapping[str, object]) -> Iterator[Beat]:
        text = dump_json(arguments)
        yield ev.ToolCallStarted(tool_call_id=call_id, name=name)
        yield from self._tokens(
            ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=text[start : start + 12])
            for start in range(0, len(text), 12)
        )
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=text)

    def reads(self, call_id: str, result: str, *, failed: bool = False) -> ev.ToolCallResult:
        self._read += len(_pieces(result))
        return ev.ToolCallResult(tool_call_id=call_id, result=result, is_error=failed)

    def ends(self, reason: str) -> Iterator[Beat]:
        yield ev.Usage(
            input_tokens=self._read,
            output_tokens=self._written,
            model=self._model.name,
            provider=self._model.provider,
        )
        yield ev.GenerationFinished(finish_reasons=(reason,))
        self._read += self._written
        self._written = 0

    def _tokens(self, events: Iterable[ev.Event]) -> Iterator[Beat]:
        for event in events:
            self._written += 1
            yield event
            yield Pause(1 / TOKENS_PER_S)


def _place(message: str) -> str:
    """The place the message names: a known one, else what follows "in", else Lisbon."""
    for name, place in PLACES.items():
        if name in message.lower():
            return place[0]
    named = re.search(r"\bin ([A-Z]\w{1,40})", message)
    return named.group(1) if named else "Lisbon"


def _answer(asked: str, known: tuple[str, float, float, str, int] | None) -> str:
    if known is None:
        return (
            f"I could not find {asked}: the place search knows no such name. "
            "Ask me about Lisbon, Nairobi, Oslo, Paris or Tokyo, and I will look again."
        )
    name, _, _, sky, high = known
    advice = "Take a warm coat" if high < 10 else "A light jacket is enough"
    return (
        f"{name} today: {sky}, with a high of {high} °C.\n\n"
        "The next two days look much the same, so plans made outdoors should hold. "
        f"{advice}, and leave an hour free in the evening: "
        "the light is best shortly before the sun goes down."
    )


def _pieces(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)
