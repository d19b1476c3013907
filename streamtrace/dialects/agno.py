"""Agno: the events of AgentOS, of agents, teams and workflows.

Rules that hold here (what `agno` 3.1.10 sends, unless said otherwise):

* Dispatch is on the JSON `event`, which the event name repeats. A team's events are those of an
  agent, with `Team` before them.
* One run is the stream's own: that of the workflow, else of the team, else of the agent. The runs
  inside it are steps, and only its own end is the end. `RunCompleted` follows `RunCancelled`.
* `content` is a delta in `RunContent`, and all of it once more in `RunCompleted`. The content of a
  workflow is its last step's. What is said whole is text, unless a run has answered with the same.
* A request to a model is a generation. It has no id on the wire: it gets that of its run, and a
  number.
* A reasoning step repeats the reasoning so far. It is not told where that came in deltas.
* A tool that failed is told twice, completed and then as an error: the first one counts.
* Agno counts from zero: a count of zero says nothing. Providers' counts are passed on as they were,
  so the cached tokens of Claude and the reasoning of Gemini are added to their totals here.
* The tokens of the whole run are those of all runs in it, each counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_count, as_id, as_object, as_string, dump_json
from streamtrace.dialects.accumulated import Accumulated
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_REMEMBERED = 256
"""Runs, open tool calls, answers and models that one stream keeps in mind, of each."""
_TEAM = "Team"
_CACHE_BESIDE_INPUT = frozenset({"Anthropic", "AwsBedrock", "AzureFoundry", "VertexAI"})
_REASONING_BESIDE_OUTPUT = frozenset({"Google"})
_OF_A_RUN = frozenset({"run_id", "agent_id", "team_id", "workflow_id"})
_QUESTIONS = ("requires_confirmation", "requires_user_input", "external_execution_required")

_Fields: TypeAlias = dict[str, Any]


class Agno(Dialect):
    """Agents, teams and workflows of Agno."""

    name = "agno"
    marks = marks("event")
    says = says(
        "run thread text reasoning tool_start arguments result step model usage "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a known event of a run; another name that the JSON repeats may be a newer one."""
        value = as_object(frame.json())
        kind = value.get("event")
        if not isinstance(kind, str) or frame.event not in (None, "", "message", kind):
            return Fit.NO
        if not kind[:1].isupper() or _OF_A_RUN.isdisjoint(value):
            return Fit.NO
        if kind.removeprefix(_TEAM) in _HANDLERS:
            return Fit.YES
        return Fit.MAYBE if frame.event == kind else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _AgnoDecoder()


# The hot frame: a piece of text or reasoning.


class _Content(msgspec.Struct, gc=False):
    event: Literal["RunContent", "TeamRunContent"]
    run_id: str
    content: str | None = None
    reasoning_content: str | None = None
    citations: None = None
    image: None = None
    response_audio: None = None


_content_decoder = msgspec.json.Decoder(_Content)


class _Run(msgspec.Struct):
    """What is remembered of a run."""

    id: str | None
    is_root: bool
    name: str | None = None
    model: str | None = None
    provider: str | None = None
    requests: int = 0
    told: bool = False
    reasoned: bool = False
    cited: bool = False
    counted: bool = False


class _AgnoDecoder:
    def __init__(self) -> None:
        self._root: str | None = None
        self._opened = False
        self._ended = False
        self._runs: dict[str | None, _Run] = {}
        self._calls: dict[str, None] = {}  # open
        self._unnamed_calls = 0
        self._answers: dict[int, None] = {}  # by hash
        self._reasoning = Accumulated()
        self._usage: dict[tuple[str | None, str | None], ev.Usage] = {}

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if frame.data is not None:
            quick = _read_content(frame.data)
            run = None if quick is None else self._runs.get(quick.run_id)
            if quick is not None and run is not None:
                return _pieces(run, quick.reasoning_content, quick.content)
        value = frame.json()
        if isinstance(value, dict) and isinstance(kind := value.get("event"), str):
            return self._event(kind, value)
        if frame.data is None or not frame.complete:
            return ()
        return (ev.Custom(name=frame.event or "unknown", value=value),)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _event(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        run_id = as_id(value.get("run_id"))
        if run_id is not None and self._root is None:
            outer = as_id(value.get("workflow_run_id")) or as_id(value.get("parent_run_id"))
            self._root = outer or run_id
        run = self._run(run_id, value)
        if run_id is not None and not self._opened:
            self._opened = True
            yield self._run_started(run, value)
        handler = _HANDLERS.get(kind.removeprefix(_TEAM), _AgnoDecoder._as_custom)
        yield from handler(self, run, value)

    def _run(self, run_id: str | None, value: _Fields) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            run = _Run(run_id, is_root=run_id in (None, self._root))
            remember(self._runs, run_id, run, MAX_REMEMBERED)
        names = (as_id(value.get(f"{kind}_name")) for kind in ("agent", "team", "workflow"))
        run.name = run.name or next(filter(None, names), None)
        return run

    def _run_started(self, run: _Run, value: _Fields) -> ev.Event:
        thread_id = as_id(value.get("session_id"))
        return ev.RunStarted(
            run_id=self._root, thread_id=thread_id, agent=run.name if run.is_root else None
        )

    def _as_custom(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=value["event"], value=value)

    # Runs.

    def _started(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        run.model = as_id(value.get("model")) or run.model
        run.provider = as_id(value.get("model_provider")) or run.provider
        if not run.is_root:
            yield ev.StepStarted(name=run.name or "run", step_id=run.id)
        elif self._ended:
            self._ended = False
            yield self._run_started(run, value)

    def _completed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield from self._answer(run, value)
        self._count(run, value)
        if not run.is_root:
            yield from self._left(run)
            return
        yield from self._usage.values()
        if not self._ended:
            self._ended = True
            yield ev.RunFinished(run_id=run.id, thread_id=as_id(value.get("session_id")))

    def _answer(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        """All of the content: told if no delta was, and remembered."""
        answer = _text(value.get("content")) or ""
        repeats = run.told or hash(answer) in self._answers
        remember(self._answers, hash(answer), None, MAX_REMEMBERED)
        if answer and not repeats and not self._ended:
            run.told = True
            yield ev.TextDelta(text=answer, message_id=run.id)
        if not run.cited and not self._ended:
            yield from _sources(run, value)

    def _failed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        if not run.is_root:
            yield from self._as_custom(run, value)
            yield from self._left(run)
            return
        self._ended = True
        text = _text(value.get("content")) or as_string(value.get("error"))
        kind = as_id(value.get("error_type")) or as_id(value.get("error_id"))
        yield ev.RunFailed(type=kind, message=text)

    def _cancelled(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        if run.is_root:
            self._ended = True
            yield ev.RunCancelled(reason=as_string(value.get("reason")))
        else:
            yield from self._left(run)

    def _paused(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        asking = list(_asking_tools(value))
        for tool in asking:
            if as_id(tool.get("tool_call_id")) not in self._calls:
                yield from self._call_started(tool)
        if not run.is_root:
            yield from self._left(run)
            return
        self._ended = True
        first = asking[0] if asking else {}
        question = next((key for key in _QUESTIONS if first.get(key)), None)
        yield ev.RunInterrupted(
            reason=question or as_id(value.get("pause_kind")),
            tool_call_id=as_id(first.get("tool_call_id")),
        )

    def _left(self, run: _Run) -> Iterator[ev.Event]:
        yield ev.StepFinished(name=run.name or "run", step_id=run.id)

    # Steps of workflows.

    def _step_started(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        name = as_id(value.get("step_name")) or "step"
        yield ev.StepStarted(name=name, step_id=as_id(value.get("step_id")))

    def _step_finished(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        name = as_id(value.get("step_name")) or "step"
        yield ev.StepFinished(name=name, step_id=as_id(value.get("step_id")))

    def _step_failed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield from self._as_custom(run, value)
        yield from self._step_finished(run, value)

    # Output.

    def _content(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        reasoning = as_string(value.get("reasoning_content"))
        yield from _pieces(run, reasoning, _text(value.get("content")))
        yield from _sources(run, value)
        for key in ("image", "response_audio"):
            if value.get(key):
                yield ev.Custom(name=key, value=value[key])

    def _content_completed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield ev.MessageFinished(message_id=run.id)

    def _reasoning_started(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield ev.ReasoningStarted(message_id=run.id)

    def _reasoning_delta(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield from _pieces(run, as_string(value.get("reasoning_content")), None)

    def _reasoning_step(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        text = as_string(value.get("reasoning_content"))
        if run.reasoned or not text:
            yield from self._as_custom(run, value)
        elif delta := self._reasoning.delta(run.id, text):
            yield ev.ReasoningDelta(text=delta, message_id=run.id)

    def _reasoning_completed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield ev.ReasoningFinished(message_id=run.id)

    # Tools.

    def _tool_started(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        yield from self._call_started(as_object(value.get("tool")))

    def _call_started(self, tool: _Fields) -> Iterator[ev.Event]:
        call_id = as_id(tool.get("tool_call_id"))
        if call_id is None:
            self._unnamed_calls += 1
            call_id = f"tool-{self._unnamed_calls}"
        remember(self._calls, call_id, None, MAX_REMEMBERED)
        yield ev.ToolCallStarted(tool_call_id=call_id, name=as_id(tool.get("tool_name")))
        yield ev.ToolCallReady(tool_call_id=call_id, arguments=_text(tool.get("tool_args")))

    def _tool_completed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        tool = as_object(value.get("tool"))
        call_id = as_id(tool.get("tool_call_id")) or next(iter(self._calls), None)
        is_error = value["event"].endswith("Error")
        if call_id not in self._calls and is_error:
            yield from self._as_custom(run, value)
            return
        if call_id is None or call_id not in self._calls:  # one whose start was not told
            yield from self._call_started(tool)
            call_id = call_id or f"tool-{self._unnamed_calls}"
        self._calls.pop(call_id, None)
        result = _text(tool.get("result")) or as_string(value.get("error"))
        yield ev.ToolCallResult(
            tool_call_id=call_id,
            result=result,
            is_error=is_error or tool.get("tool_call_error") is True,
        )

    # Models.

    def _request_started(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        run.requests += 1
        yield ev.GenerationStarted(
            key=f"{run.id}:{run.requests}",
            model=as_id(value.get("model")),
            provider=as_id(value.get("model_provider")),
        )

    def _request_completed(self, run: _Run, value: _Fields) -> Iterator[ev.Event]:
        model, provider = as_id(value.get("model")), as_id(value.get("model_provider"))
        usage = _usage(value, model, provider, "generation")
        if usage is not None:
            yield usage

    def _count(self, run: _Run, value: _Fields) -> None:
        """Add what this run and the runs it tells of have used, each once."""
        told = [(run, value)]
        while told:
            run, value = told.pop()
            if not run.counted:
                run.counted = True
                for usage in _usage_of_run(as_object(value.get("metrics")), run):
                    model = (usage.provider, usage.model)
                    remember(
                        self._usage, model, _sum(self._usage.get(model), usage), MAX_REMEMBERED
                    )
            for key in ("member_responses", "step_executor_runs"):
                for inner in _objects(value.get(key)):
                    told.append((self._run(as_id(inner.get("run_id")), inner), inner))


_Handler: TypeAlias = Callable[[_AgnoDecoder, _Run, _Fields], Iterable[ev.Event]]

_HANDLERS: Mapping[str, _Handler] = {
    "RunStarted": _AgnoDecoder._started,
    "RunContinued": _AgnoDecoder._started,
    "RunContent": _AgnoDecoder._content,
    "RunContentCompleted": _AgnoDecoder._content_completed,
    "RunCompleted": _AgnoDecoder._completed,
    "RunPaused": _AgnoDecoder._paused,
    "RunCancelled": _AgnoDecoder._cancelled,
    "RunError": _AgnoDecoder._failed,
    "ToolCallStarted": _AgnoDecoder._tool_started,
    "ToolCallCompleted": _AgnoDecoder._tool_completed,
    "ToolCallError": _AgnoDecoder._tool_completed,
    "ReasoningStarted": _AgnoDecoder._reasoning_started,
    "ReasoningContentDelta": _AgnoDecoder._reasoning_delta,
    "ReasoningStep": _AgnoDecoder._reasoning_step,
    "ReasoningCompleted": _AgnoDecoder._reasoning_completed,
    "ModelRequestStarted": _AgnoDecoder._request_started,
    "ModelRequestCompleted": _AgnoDecoder._request_completed,
    "WorkflowStarted": _AgnoDecoder._started,
    "WorkflowCompleted": _AgnoDecoder._completed,
    "WorkflowPaused": _AgnoDecoder._paused,
    "WorkflowCancelled": _AgnoDecoder._cancelled,
    "WorkflowError": _AgnoDecoder._failed,
    **dict.fromkeys(
        (
            "StepStarted", "ParallelExecutionStarted", "LoopExecutionStarted",
            "ConditionExecutionStarted", "RouterExecutionStarted", "StepsExecutionStarted",
        ),
        _AgnoDecoder._step_started,
    ),
    **dict.fromkeys(
        (
            "StepCompleted", "ParallelExecutionCompleted", "LoopExecutionCompleted",
            "ConditionExecutionCompleted", "RouterExecutionCompleted", "StepsExecutionCompleted",
        ),
        _AgnoDecoder._step_finished,
    ),
    "StepError": _AgnoDecoder._step_failed,
    "error": _AgnoDecoder._failed,
}  # fmt: skip

_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
}


def _read_content(data: bytes) -> _Content | None:
    try:
        return _content_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _pieces(run: _Run, reasoning: str | None, text: str | None) -> list[ev.Event]:
    events: list[ev.Event] = []
    if reasoning:
        run.reasoned = True
        events.append(ev.ReasoningDelta(text=reasoning, message_id=run.id))
    if text:
        run.told = True
        events.append(ev.TextDelta(text=text, message_id=run.id))
    return events


def _sources(run: _Run, value: _Fields) -> Iterator[ev.Event]:
    citations = as_object(value.get("citations"))
    for key, title_key in (("urls", "title"), ("documents", "document_title")):
        for one in _objects(citations.get(key)):
            run.cited = True
            yield ev.Source(url=as_string(one.get("url")), title=as_string(one.get(title_key)))


def _asking_tools(value: _Fields) -> Iterator[_Fields]:
    tools = _objects(value.get("tools"))
    yield from (tool for tool in tools if any(tool.get(key) for key in _QUESTIONS))
    if not tools:
        yield from (
            as_object(one.get("tool_execution")) for one in _objects(value.get("requirements"))
        )


def _usage_of_run(metrics: _Fields, run: _Run) -> Iterator[ev.Usage]:
    """By model, or as one where the models are not told apart."""
    entries = [
        one for listed in as_object(metrics.get("details")).values() for one in _objects(listed)
    ]
    for entry in entries:
        usage = _usage(entry, as_id(entry.get("id")), as_id(entry.get("provider")), "run")
        if usage is not None:
            yield usage
    if not entries and (usage := _usage(metrics, run.model, run.provider, "run")) is not None:
        yield usage


def _usage(counts: _Fields, model: str | None, provider: str | None, scope: str) -> ev.Usage | None:
    given = {name: as_count(counts.get(key)) or 0 for name, key in _COUNTS.items()}
    if provider in _CACHE_BESIDE_INPUT:
        given["input_tokens"] += given["cached_input_tokens"] + given["cache_write_tokens"]
    if provider in _REASONING_BESIDE_OUTPUT:
        given["output_tokens"] += given["reasoning_tokens"]
    if not (given["input_tokens"] or given["output_tokens"]):
        return None
    told = {name: count or None for name, count in given.items()}
    return ev.Usage(**told, model=model, provider=provider, scope=scope)


def _sum(known: ev.Usage | None, more: ev.Usage) -> ev.Usage:
    if known is None:
        return more
    sums = {name: (getattr(known, name) or 0) + (getattr(more, name) or 0) for name in _COUNTS}
    return msgspec.structs.replace(known, **{name: count or None for name, count in sums.items()})


def _objects(value: Any) -> list[_Fields]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    """Text as it is; all else, such as an answer with a schema, as JSON."""
    return value if value is None or isinstance(value, str) else dump_json(value)
