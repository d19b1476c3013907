"""The demo's agent: a script that behaves like one, so that every outcome can be seen at will.

Rules that hold here:

* It says events and pauses, never bytes: `demo_wire` writes them in the dialect that was asked for.
* What it does follows from the message alone, so that a run can be repeated.
* Its tokens are the pieces it sends, one word each; the usage it reports counts those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from streamtrace.core.events import (
    Event,
    Heartbeat,
    ReasoningDelta,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallReady,
    ToolCallResult,
    ToolCallStarted,
    Usage,
)
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


Beat = Event | Pause


def script(message: str, *, run_id: str, thread_id: str) -> Iterator[Beat]:
    """One run: what the agent does about `message`, and when."""
    words = set(re.findall(r"[a-z]+", message.lower()))
    turns = {turn for word, turn in WORDS.items() if any(one.startswith(word) for one in words)}
    asked = _place(message)
    known = PLACES.get(asked.lower())

    yield RunStarted(run_id=run_id, thread_id=thread_id, agent="forecaster")
    yield Pause(0.35)
    said = 0
    for piece in _pieces(f"They ask about {asked}. First find the place, then its forecast."):
        said += 1
        yield from _token(ReasoningDelta(text=piece))
    yield Pause(0.15)
    for piece in _pieces(f"Let me look up {asked} for you. "):
        said += 1
        yield from _token(TextDelta(text=piece))

    if "approve" in turns:
        yield from _call(
            f"call_{run_id}_1",
            "book_trip",
            {"place": asked, "price_eur": 240},
            answer=None,
        )
        yield _usage(message, said + 4)
        yield RunInterrupted(reason="tool_call", tool_call_id=f"call_{run_id}_1")
        return

    if known is None:
        found: object = f"no place named {asked} is known"
    else:
        found = {"name": known[0], "latitude": known[1], "longitude": known[2]}
    yield from _call(
        f"call_{run_id}_1",
        "find_place",
        {"query": asked},
        answer=found,
        failed=known is None,
        latency_s=0.35,
    )
    if "stall" in turns:
        yield Pause(STALL_S / 2)
        yield Heartbeat()  # a sign of life that counts for no time
        yield Pause(STALL_S / 2)
    if known is not None:
        yield Pause(0.1)
        yield from _call(
            f"call_{run_id}_2",
            "get_forecast",
            {"latitude": known[1], "longitude": known[2], "days": 3},
            answer={"sky": known[3], "high_celsius": known[4], "days": 3},
            latency_s=0.8,
        )
    yield Pause(0.25)

    pieces = _pieces(_answer(asked, known))
    if "fail" in turns or "cut" in turns:
        pieces = pieces[: len(pieces) // 2]
    for piece in pieces:
        said += 1
        yield from _token(TextDelta(text=piece))
    if "fail" in turns:
        yield RunFailed(type="overloaded", message="the model is overloaded, try again later")
    elif "cut" not in turns:
        yield _usage(message, said + 8)
        yield RunFinished(run_id=run_id, thread_id=thread_id)


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


def _call(
    call_id: str,
    name: str,
    arguments: dict[str, object],
    *,
    answer: object,
    failed: bool = False,
    latency_s: float = 0.0,
) -> Iterator[Beat]:
    text = dump_json(arguments)
    yield ToolCallStarted(tool_call_id=call_id, name=name)
    for start in range(0, len(text), 12):
        yield from _token(
            ToolCallArgumentsDelta(tool_call_id=call_id, delta=text[start : start + 12])
        )
    yield ToolCallReady(tool_call_id=call_id, arguments=text)
    if answer is not None:
        yield Pause(latency_s)
        result = answer if isinstance(answer, str) else dump_json(answer)
        yield ToolCallResult(tool_call_id=call_id, result=result, is_error=failed)


def _usage(message: str, output_tokens: int) -> Usage:
    return Usage(input_tokens=40 + len(_pieces(message)), output_tokens=output_tokens)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def _token(event: Event) -> Iterator[Beat]:
    yield event
    yield Pause(1 / TOKENS_PER_S)
