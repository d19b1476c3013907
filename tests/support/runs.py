"""Runs as events: any that an agent may tell, any that none would, and the facts in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from streamtrace.core import events as ev
from streamtrace.core.jsonio import clean_text
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine

Run = list[ev.Event]
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)

_WORDS = (
    "Hel",
    "lo",
    " ",
    "\n",
    "\n\n",
    "data: x",
    '"{}"',
    "né",
    "日本",
    "🙂",
    "\u2028",
    "[DONE]",
    "",
)
texts = st.sampled_from(_WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
said = texts.filter(bool)
names = st.sampled_from(["search", "get_weather", "plan"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
patches = st.lists(
    st.fixed_dictionaries({"op": st.just("add"), "path": st.just("/a"), "value": values}),
    max_size=2,
)
usages = (
    st.tuples(*[st.integers(0, 10**6)] * 5).map(
        lambda drawn: ev.Usage(  # totals include their parts
            input_tokens=sum(drawn[:3]),
            output_tokens=sum(drawn[3:]),
            cached_input_tokens=drawn[1],
            cache_write_tokens=drawn[2],
            reasoning_tokens=drawn[4],
        )
    )
    | st.builds(ev.Usage, input_tokens=st.integers(0, 10**6), output_tokens=st.integers(0, 10**6))
)
models = st.sampled_from([("openai", "gpt-5"), ("anthropic", "claude-5"), (None, "llama")])
_asides = (
    st.builds(ev.State, value=values)
    | st.builds(ev.State, value=patches, is_delta=st.just(True))
    | st.builds(ev.Custom, name=names, value=values)
    | st.builds(ev.Source, url=st.just("https://example.org"), title=st.none() | said)
    | st.just(ev.Heartbeat())
)


# --- well-formed -----------------------------------------------------------------------------


@st.composite
def agent_runs(draw: st.DrawFn, *, whole: bool = False) -> Run:
    """A run that a strict machine takes: an agent's, with one or more turns of its model.

    Messages are marked (started and finished, with ids of their own), bare (deltas that bear the
    id of the response) or unnamed, as wires have them. Generations are shown, by an id or a key and
    with their usage, or only the usage of the whole run is told. Parts of a turn come side by side.
    The run ends in any way or is cut anywhere; if `whole`, it is not cut and does not fail.
    """
    naming = draw(st.sampled_from(["marked", "bare", "unnamed"]))
    generations_by = draw(st.sampled_from([None, "response_id", "key"]))
    turns = draw(st.integers(1, 3))
    run: Run = []
    open_calls: list[str] = []
    for turn in range(turns):
        parts, calls = draw(_turns(turn, naming))
        if generations_by:
            parts = draw(_generations({generations_by: f"resp-{turn}"}, parts))
        answered = [call for call in calls if turn < turns - 1 or draw(st.booleans())]
        open_calls = [call for call in calls if call not in answered]
        parts += [draw(_results(call)) for call in draw(st.permutations(answered))]
        run += _within(parts, draw(st.none() | names), draw(st.sampled_from([None, f"s{turn}"])))
    if not generations_by:
        for provider, model in draw(st.sets(models, max_size=2)):
            usage = draw(usages)
            run.append(replace(usage, provider=provider, model=model, scope="run"))
    run = _within(run, draw(st.none() | names), "outer")
    if draw(st.booleans()):
        started = ev.RunStarted(run_id="run-7", thread_id="thread-9", agent="planner")
        run.insert(0, started)
    ends = ["finished", "interrupted"] if whole else ["finished", "interrupted", "failed",
                                                      "cancelled", "cut"]  # fmt: skip
    return draw(_ended(run, draw(st.sampled_from(ends)), open_calls))


@st.composite
def _turns(draw: st.DrawFn, turn: int, naming: str) -> tuple[Run, list[str]]:
    """What one call of the model says, and the ids of the tools that it calls."""
    kinds = draw(st.lists(st.sampled_from(["text", "reasoning", "call", "aside"]), max_size=4))
    calls = [f"call-{turn}-{at}" for at, kind in enumerate(kinds) if kind == "call"]
    parts: list[Run] = []
    for at, kind in enumerate(kinds):
        message_id = {"marked": f"{kind}-{turn}-{at}", "bare": f"resp-{turn}"}.get(naming)
        if kind == "aside":
            parts.append([draw(_asides)])
        elif kind == "call":
            parts.append(draw(_calls(f"call-{turn}-{at}")))
        else:
            parts.append(draw(_messages(kind, message_id, marked=naming == "marked")))
    run: Run = []
    while parts := [part for part in parts if part]:
        run.append(draw(st.sampled_from(parts)).pop(0))
    return run, calls


@st.composite
def _generations(draw: st.DrawFn, named: dict[str, str], parts: Run) -> Run:
    """The parts as those of a generation, with what it used, perhaps told twice."""
    provider, model = draw(models)
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", "end_turn"]))
    reports = draw(st.none() | usages)
    early = [] if reports is None else [ev.Usage(input_tokens=reports.input_tokens)]
    return [
        ev.GenerationStarted(**named, model=model, provider=provider),
        *draw(st.sampled_from([[], early])),
        *parts,
        ev.GenerationFinished(finish_reasons=(reason,)),
        *([] if reports is None else [reports]),
    ]


@st.composite
def _messages(draw: st.DrawFn, kind: str, message_id: str | None, *, marked: bool) -> Run:
    deltas = draw(st.lists(said, min_size=0 if marked else 1, max_size=3))
    if kind == "text":
        run: Run = [ev.TextDelta(text=text, message_id=message_id) for text in deltas]
        start: ev.Event = ev.MessageStarted(message_id=message_id, role="assistant")
        end: ev.Event = ev.MessageFinished(message_id=message_id)
    else:
        run = [ev.ReasoningDelta(text=text, message_id=message_id) for text in deltas]
        start = ev.ReasoningStarted(message_id=message_id)
        end = ev.ReasoningFinished(message_id=message_id)
    return [start, *run, end] if marked else run


@st.composite
def _calls(draw: st.DrawFn, call_id: str) -> Run:
    deltas = draw(st.sampled_from([[], ["{}"], ['{"a":', "1", "}"]]))
    whole = draw(st.sampled_from([None, "".join(deltas) or '{"b":2}']))
    return [
        ev.ToolCallStarted(tool_call_id=call_id, name=draw(names)),
        *(ev.ToolCallArgumentsDelta(tool_call_id=call_id, delta=delta) for delta in deltas),
        ev.ToolCallReady(tool_call_id=call_id, arguments=whole),
    ]


def _results(call_id: str) -> st.SearchStrategy[ev.ToolCallResult]:
    return st.builds(
        ev.ToolCallResult, tool_call_id=st.just(call_id), result=texts, is_error=st.booleans()
    )


def _within(run: Run, name: str | None, step_id: str | None) -> Run:
    if name is None:
        return run
    start = ev.StepStarted(name=name, step_id=step_id)
    return [start, *run, ev.StepFinished(name=name, step_id=step_id)]


@st.composite
def _ended(draw: st.DrawFn, run: Run, how: str, open_calls: list[str]) -> Run:
    if how == "finished":
        ids = {"run_id": "run-7", "thread_id": "thread-9"} if draw(st.booleans()) else {}
        return [*run, ev.RunFinished(**ids)]
    if how == "interrupted":
        call_id = draw(st.sampled_from(open_calls)) if open_calls else None
        return [*run, ev.RunInterrupted(reason="confirmation", tool_call_id=call_id)]
    run = run[: draw(st.integers(0, len(run)))]
    if how == "cut":
        return run
    for step in reversed(open_steps(run)):
        run.append(ev.StepFinished(name=step.name, step_id=step.step_id))
    if how == "cancelled":
        return [*run, ev.RunCancelled(reason="stop")]
    code = draw(st.sampled_from(["rate_limit_exceeded", "overloaded_error"]))
    return [*run, ev.RunFailed(type=code, message=draw(said))]


def open_steps(events: Iterable[ev.Event]) -> list[ev.StepStarted]:
    """Steps that were started and not finished."""
    steps: dict[str, ev.StepStarted] = {}
    for event in events:
        if isinstance(event, ev.StepStarted):
            steps[event.step_id or event.name] = event
        elif isinstance(event, ev.StepFinished):
            steps.pop(event.step_id or event.name, None)
    return list(steps.values())


# --- ill-formed ------------------------------------------------------------------------------

_ids = st.sampled_from(["a", "b", "a:1"])
_maybe_id = st.sampled_from([None, ""]) | _ids
_wild_texts = texts | st.sampled_from(["\ud83d", "\ude42", "\r", "\r\n", "\0", "\n\ndata: {}\n\n"])
_wild_counts = st.none() | st.sampled_from([0, 7, 2**53 - 1, 2**70, -1, 1.5, True, "3"])
_pointers = st.sampled_from(["", "/a", "/a/0", "/~0~1", "/a\n", "a", "/~", "/~2", 1, None])
wild_patches = values | st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "move", "test", "burn", [], None])},
        optional={"path": _pointers, "value": values, "from": _pointers},
    ),
    max_size=2,
)
"""JSON Patches, and what only looks like one."""
_wild_values = (
    wild_patches
    | st.floats()
    | st.sampled_from([2**70, b"bytes", "\ud83d", ["\ud83d", float("nan")]])
)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "run_id": _maybe_id,
    "thread_id": _maybe_id,
    "agent": _maybe_id,
    "message_id": _maybe_id,
    "response_id": _maybe_id,
    "key": _maybe_id,
    "step_id": _maybe_id,
    "tool_call_id": _ids,
    "name": st.sampled_from(["a", "b", "", "\ud83d", "a\nb"]),
    "role": st.sampled_from([None, "assistant", "user", "tool", ""]),
    "type": st.none() | _wild_texts,
    "message": st.none() | _wild_texts,
    "reason": st.none() | _wild_texts,
    "model": _maybe_id,
    "provider": _maybe_id,
    "finish_reasons": st.lists(_wild_texts, max_size=3).map(tuple),
    "scope": st.sampled_from(["generation", "run"]),
    "text": _wild_texts,
    "delta": _wild_texts,
    "arguments": st.none() | _wild_texts,
    "result": st.none() | _wild_texts,
    "is_error": st.booleans(),
    "url": st.none() | _wild_texts,
    "title": st.none() | _wild_texts,
    "value": _wild_values,
    "is_delta": st.booleans(),
    **dict.fromkeys(TOKENS, _wild_counts),
}
KINDS = [
    kind for kind in vars(ev).values() if isinstance(kind, type) and kind.__mro__[1] is ev.Event
]


def _any_of(kind: type[ev.Event]) -> st.SearchStrategy[ev.Event]:
    fields = {name: _FIELDS[name] for name in kind.__struct_fields__ if name in _FIELDS}
    return st.builds(kind, **fields)


_others = [kind for kind in KINDS if kind not in ev.TERMINAL]
any_event = st.sampled_from(_others * 3 + list(ev.TERMINAL)).flatmap(_any_of)
any_events: st.SearchStrategy[Run] = st.lists(any_event, max_size=25)
"""Events in no order at all, with values that nobody should give."""


# --- what a run says -------------------------------------------------------------------------


def until_the_end(events: Iterable[ev.Event]) -> Run:
    """What a client reads of the first run: nothing behind its end."""
    run: Run = []
    for event in events:
        run.append(event)
        if isinstance(event, ev.TERMINAL):
            break
    return run


def left_to_the_client(run: Run) -> Run:
    """Without the calls that were the agent's own: answered, superseded, or not waited for."""
    own: set[str] = set()
    seen: set[str] = set()
    generation: str | None = None
    finished = False
    for event in run:
        match event:
            case ev.ToolCallStarted():
                seen.add(event.tool_call_id)
            case ev.ToolCallResult():
                own.add(event.tool_call_id)
            case ev.GenerationFinished():
                finished = True
            case ev.GenerationStarted():
                key = event.response_id or event.key
                if finished or (key is not None and generation not in (None, key)):
                    own |= seen
                    finished = False
                generation = key or generation
    if not run or not isinstance(run[-1], ev.RunFinished | ev.RunInterrupted):
        own |= seen
    return [
        event for event in run if not isinstance(event, _CALLS) or event.tool_call_id not in own
    ]


def given_up(run: Run, why: str) -> Run:
    """With a result that says why, for calls that the run's failure or its stop has cut short."""
    if not run or not isinstance(run[-1], ev.RunFailed | ev.RunCancelled):
        return run
    whole = {e.tool_call_id for e in run if isinstance(e, ev.ToolCallReady | ev.ToolCallResult)}
    told = [
        ev.ToolCallResult(tool_call_id=event.tool_call_id, result=why, is_error=True)
        for event in run
        if isinstance(event, ev.ToolCallStarted) and event.tool_call_id not in whole
    ]
    return [*run[:-1], *told, run[-1]]


_CALLS = (ev.ToolCallStarted, ev.ToolCallArgumentsDelta, ev.ToolCallReady, ev.ToolCallResult)


def facts(events: Iterable[ev.Event]) -> dict[str, Any]:
    """What the first run says, by the words that tests compare, however it was cut into events."""
    run = until_the_end(events)
    calls: dict[str, dict[str, Any]] = {}
    found: dict[str, Any] = {
        "text": clean_text("".join(e.text for e in run if isinstance(e, ev.TextDelta))),
        "reasoning": clean_text("".join(e.text for e in run if isinstance(e, ev.ReasoningDelta))),
        "messages": {},
        "steps": [e.name for e in run if isinstance(e, ev.StepStarted)],
        "sources": [e for e in run if isinstance(e, ev.Source)],
        "state": [e for e in run if isinstance(e, ev.State)],
        "custom": [e for e in run if isinstance(e, ev.Custom)],
    }
    for event in run:
        match event:
            case ev.RunStarted():
                ids = {"run": event.run_id, "thread": event.thread_id}
                found |= {word: given for word, given in ids.items() if given is not None}
            case ev.MessageStarted(message_id=str(message_id)):
                found["messages"].setdefault(message_id, "")
            case ev.TextDelta(message_id=str(message_id)) if message_id in found["messages"]:
                found["messages"][message_id] += event.text
            case ev.ToolCallStarted():
                calls[event.tool_call_id] = {"name": event.name, "arguments": ""}
            case ev.ToolCallArgumentsDelta():
                calls[event.tool_call_id]["arguments"] += event.delta
            case ev.ToolCallReady() if (
                event.arguments and not calls[event.tool_call_id]["arguments"]
            ):
                calls[event.tool_call_id]["arguments"] = event.arguments
            case ev.ToolCallResult() if event.tool_call_id in calls:
                result = {"result": event.result or "", "is_error": event.is_error}
                calls[event.tool_call_id] |= result
            case ev.GenerationFinished():
                found["finish"] = event.finish_reasons
            case ev.RunFailed():
                found["error"], found["error_type"] = event.message, event.type
    by_model: dict[tuple[str | None, str | None], dict[str, int]] = {}
    total: dict[str, int] = {}
    machine = RunMachine()
    for event in run:
        machine.feed(event, 0)
    for entry in machine.summary(StreamEnd(at_ns=0), started_at_ns=0).usage_by_model:
        for name, count in asdict(entry.usage).items():
            for sums in (total, by_model.setdefault((entry.provider, entry.model), {})):
                if count is not None:
                    sums[name] = sums.get(name, 0) + count
    for call in calls.values():  # on most wires, no arguments are an empty object
        call["arguments"] = call["arguments"] or "{}"
    for word, plural in _PLURALS.items():
        found[plural] = [call[word] for call in calls.values() if word in call]
    return {
        **found,
        "call_ids": list(calls),
        "usage": {model: counts for model, counts in by_model.items() if counts},
        "tokens": {name: total[name] for name in TOKENS[:2] if name in total},
        "token_parts": {name: total[name] for name in TOKENS[2:] if name in total},
        "end": type(run[-1]) if run and isinstance(run[-1], ev.TERMINAL) else None,
    }


_PLURALS = {
    "name": "calls", "arguments": "arguments", "result": "results", "is_error": "errors"
}  # fmt: skip


def some(strategy: st.SearchStrategy[Run], count: int) -> list[Run]:
    """That many runs, the same ones each time, for clients that are slow."""
    runs: list[Run] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(run: Run) -> None:
        runs.append(run)

    collect()
    return runs
