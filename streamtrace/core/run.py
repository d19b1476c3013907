"""The run machine: events in, one RunSummary out.

Rules that hold here:

* All knowledge of what may follow what lives in this file. An event out of order is recorded as an
  issue and repaired (`strict=False`, observing) or raised as EventOrderError (`strict=True`,
  serving); the folding is the same.
* It folds as it goes and keeps no list of events: memory does not grow with the length of a run,
  except for captured text (bounded by its policy) and parts (bounded by MAX_PARTS).
* Times are offsets from the start of the stream in ns, and come in with the events.
* A time is set once. What never happened stays `None`.

Where a dialect does not show its calls of a model, the machine opens a generation at the first
output, and closes it when a tool's result comes: what follows is the model's next turn. A
generation begins when the one before, or the last tool, ended: then the model began to work.
Models may speak at the same time: a generation that is named again is the open one again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.content import Capture, ContentPolicy
from streamtrace.core.errors import EventOrderError
from streamtrace.core.gaps import count_gaps
from streamtrace.core.jsonio import MAX_ID_CHARS, as_count
from streamtrace.core.names import GAP_BUCKETS_S
from streamtrace.core.outcome import StreamEnd, decide, word
from streamtrace.core.parts import OpenGeneration, OpenToolCall
from streamtrace.core.summary import (
    Content,
    ErrorInfo,
    ModelUsage,
    RunSummary,
    Step,
    TokenCounts,
    add_up,
)

MAX_PARTS = 1024
"""Most generations, tool calls, steps or messages that one run remembers, of each."""

_GAP_EDGES_NS = tuple(int(edge * 1_000_000_000) for edge in GAP_BUCKETS_S)
_NO_GAPS = [0] * (len(_GAP_EDGES_NS) + 1)
_TOKEN_FIELDS = TokenCounts.__struct_fields__
_NONE: Any = MappingProxyType({})
"""Stands where most runs have nothing to keep: an empty dict for each is one more for the garbage
collector to walk through."""


class RunMachine(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """Folds the events of one stream. Feed it in order, then ask for the summary once.

    `opaque`: no event can be told from another (unknown dialect), so each counts as output for the
    gaps. `turns`: output after the end begins the next turn, as on a WebSocket; else an issue.
    """

    strict: bool = False
    turns: bool = False
    policy: ContentPolicy = msgspec.field(default_factory=ContentPolicy)
    opaque: bool = False
    events: int = 0
    last_event_ns: int | None = None
    terminal: ev.Event | None = None
    _terminal_ns: int = 0
    issues: dict[str, int] = _NONE
    run_id: str | None = None
    thread_id: str | None = None
    agent: str | None = None
    _first_event_ns: int | None = None
    _first_token_ns: int | None = None
    _first_visible_ns: int | None = None
    _last_output_ns: int | None = None
    _longest_gap_ns: int | None = None
    _longest_gap_at_ns: int | None = None
    _gap_counts: list[int] = msgspec.field(default_factory=_NO_GAPS.copy)
    _gap_sum_ns: int = 0
    _idle_since_ns: int = 0
    _generations: list[OpenGeneration] = []
    _open: OpenGeneration | None = None
    _by_key: dict[str, OpenGeneration] = _NONE
    """Those that are closed."""
    _tool_calls: dict[str, OpenToolCall] = _NONE
    _steps: list[Step] | None = None
    _open_steps: dict[str, Step] = _NONE
    _finished_messages: dict[str, None] = _NONE  # an empty set weighs three times as much
    _messages: int = 0
    _run_usage: dict[tuple[str | None, str | None], TokenCounts] = _NONE
    _usage_of_runs_before: tuple[ModelUsage, ...] = ()
    _error: Capture | None = None

    def feed(self, event: ev.Event, at_ns: int) -> None:
        """Fold one event. Raises EventOrderError if strict and the event may not come now."""
        kind = type(event)
        if kind is ev.Heartbeat:
            self.last_event_ns = at_ns
            return
        self.events += 1
        self.last_event_ns = at_ns
        if self._first_event_ns is None:
            self._first_event_ns = at_ns
        if self.terminal is not None and kind not in _MAY_FOLLOW_THE_END:
            if self.turns:
                self._next_run()
            else:
                self.issue("event_after_end")
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, event, at_ns)
        elif self.opaque:
            self._gap(at_ns)

    def may_grow(self, event: ev.Event) -> bool:
        """Whether more of what this event said could follow, and would be no issue."""
        if self.terminal is not None or self._open is None:
            return False
        if isinstance(event, ev.TextDelta):
            message_id = _name(event.message_id)
            return message_id in self._open.texts and message_id not in self._finished_messages
        return isinstance(event, ev.ReasoningDelta)

    def grow(
        self,
        like: ev.TextDelta | ev.ReasoningDelta,
        text: str,
        times: Sequence[int],
        epoch_ns: int = 0,
    ) -> None:
        """Fold events like one that was just folded and `may_grow`: the same as to feed each.

        `text` is that of all together; `times` are theirs, on a clock that said `epoch_ns` when the
        stream began.
        """
        generation = self._open
        assert generation is not None
        self._many_gaps(times, epoch_ns)
        self.events += len(times)
        last_ns = times[-1] - epoch_ns
        self.last_event_ns = generation.last_token_ns = generation.finished_ns = last_ns
        if isinstance(like, ev.TextDelta):
            generation.texts[_name(like.message_id)].add(text)
        else:
            generation.reasoning.add(text)

    def issue(self, kind: str, count: int = 1) -> None:
        """Record what was wrong with the stream; raise it, if strict. Kinds are a fixed set."""
        if self.strict:
            raise EventOrderError(f"{kind.replace('_', ' ')}: after {self.events} events")
        self._count_issue(kind, count)

    def _count_issue(self, kind: str, count: int = 1) -> None:
        self.issues = self.issues or {}
        self.issues[kind] = self.issues.get(kind, 0) + count

    def summary(self, end: StreamEnd, **facts: Any) -> RunSummary:
        """The run as it ended. `facts` are the fields of RunSummary that events do not know."""
        gone_ns = end.disconnected_ns
        terminal = self.terminal
        if gone_ns is not None and self._terminal_ns > gone_ns:
            terminal = None  # said to a client who had left
        needs_terminal = facts.pop("needs_terminal", True)
        status, error_type = decide(
            end,
            terminal=terminal,
            needs_terminal=needs_terminal,
            http_status=facts.get("http_status"),
            lost=bool(facts.get("lost_chunks")),
        )
        if error_type is not None and self._error is None and end.exception_text:
            self._note_error(end.exception_text)
        usage_by_model = self._usage_by_model()
        if len(self._run_usage) == 1 and not self._usage_of_runs_before:
            self._name_the_model(*next(iter(self._run_usage)))
        usage = add_up(entry.usage for entry in usage_by_model)
        is_whole = terminal is not None or (status == "completed" and not needs_terminal)
        issues = dict(self.issues)
        if usage is not None and not is_whole:
            issues["usage_partial"] = 1
        return RunSummary(
            status=status,
            duration_ns=end.at_ns,
            terminal_seen=terminal is not None,
            run_id=self.run_id,
            thread_id=self.thread_id,
            error=None
            if error_type is None
            else ErrorInfo(
                type=error_type,
                message=Content() if self._error is None else self._error.content(),
            ),
            time_to_first_event_ns=self._first_event_ns,
            time_to_first_token_ns=self._first_token_ns,
            time_to_first_visible_token_ns=self._first_visible_ns,
            time_per_output_token_ns=self._time_per_output_token_ns(usage),
            longest_gap_ns=self._longest_gap_ns,
            longest_gap_at_ns=self._longest_gap_at_ns,
            gap_counts=self._gap_counts,
            gap_sum_ns=self._gap_sum_ns,
            events=self.events,
            generations=[generation.summary() for generation in self._generations],
            tool_calls=[call.summary() for call in self._tool_calls.values()],
            steps=self._steps or [],
            usage=usage,
            usage_by_model=usage_by_model,
            issues=issues,
            **facts,
        )

    # --- the run ---------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted, at_ns: int) -> None:
        if self.terminal is not None:
            self._next_run()
        self.run_id = self.run_id or _name(event.run_id)
        self.thread_id = self.thread_id or _name(event.thread_id)
        self.agent = self.agent or _name(event.agent)

    def _next_run(self) -> None:
        """One connection may carry several runs; the last one decides how it ended."""
        self.terminal = None
        room = MAX_PARTS - len(self._usage_of_runs_before)
        self._usage_of_runs_before += tuple(self._usage_of_run()[:room])
        self._run_usage = _NONE

    def _run_ended(self, event: ev.Event, at_ns: int) -> None:
        if self.strict and self._open_steps:
            self.issue("run_ended_in_step")
        self.terminal, self._terminal_ns = event, at_ns
        self._close_generation(at_ns)
        if isinstance(event, ev.RunFinished):
            self.run_id = self.run_id or _name(event.run_id)
            self.thread_id = self.thread_id or _name(event.thread_id)
        elif isinstance(event, ev.RunFailed) and event.message and self._error is None:
            self._note_error(event.message)

    def _note_error(self, text: str) -> None:
        self._error = Capture(self.policy)
        self._error.add(text)

    # --- steps and generations ---------------------------------------------------------------

    def _step_started(self, event: ev.StepStarted, at_ns: int) -> None:
        key = (event.step_id or event.name)[:MAX_ID_CHARS]
        if key in self._open_steps:
            self.issue("step_repeated")
        if self._steps is None:
            self._steps = []
        if self._full(self._steps):
            return
        step = Step(name=event.name[:MAX_ID_CHARS], started_ns=at_ns)
        self._open_steps = self._open_steps or {}
        self._open_steps[key] = step
        self._steps.append(step)

    def _step_finished(self, event: ev.StepFinished, at_ns: int) -> None:
        key = (event.step_id or event.name)[:MAX_ID_CHARS]
        if key in self._open_steps:
            self._open_steps.pop(key).finished_ns = at_ns
        else:
            self.issue("step_not_open")

    def _generation_started(self, event: ev.GenerationStarted, at_ns: int) -> None:
        generation, key = self._open, _name(event.response_id or event.key)
        if generation is None or (key is not None and generation.key not in (None, key)):
            self._close_generation(at_ns)
            self._open = self._by_key.get(key or "")
            generation = self._generation(at_ns)
        generation.explicit = True
        if key is not None:
            generation.key = generation.key or key
        generation.response_id = generation.response_id or _name(event.response_id)
        generation.model = _name(event.model) or generation.model
        generation.provider = _name(event.provider) or generation.provider

    def _generation_finished(self, event: ev.GenerationFinished, at_ns: int) -> None:
        generation = self._last_generation(at_ns)
        generation.finished_ns = at_ns
        room = MAX_PARTS - len(generation.finish_reasons)
        more = map(word, event.finish_reasons[:room])
        generation.finish_reasons = (*generation.finish_reasons, *more)

    def _usage(self, event: ev.Usage, at_ns: int) -> None:
        counts = TokenCounts(**{name: as_count(getattr(event, name)) for name in _TOKEN_FIELDS})
        if event.scope == "run":
            key = (_name(event.provider), _name(event.model))
            if key in self._run_usage or not self._full(self._run_usage):
                self._run_usage = self._run_usage or {}
                self._run_usage[key] = counts
            return
        generation = self._last_generation(at_ns)
        generation.usage = _overlay(generation.usage, counts)
        generation.model = generation.model or _name(event.model)
        generation.provider = generation.provider or _name(event.provider)

    # --- output ------------------------------------------------------------------------------

    def _text(self, event: ev.TextDelta, at_ns: int) -> None:
        if not event.text:
            return
        message_id = _name(event.message_id)
        if message_id in self._finished_messages:
            self.issue("text_after_finish")
        generation = self._output(at_ns)
        if self._first_visible_ns is None:
            self._first_visible_ns = at_ns
        capture = generation.texts.get(message_id)
        if capture is None:
            if generation.texts and self._messages >= MAX_PARTS:
                self._left_out()
                capture = next(reversed(generation.texts.values()))
            else:
                self._messages += 1
                capture = generation.texts[message_id] = Capture(self.policy)
        capture.add(event.text)

    def _message_finished(self, event: ev.MessageFinished, at_ns: int) -> None:
        message_id = _name(event.message_id)
        if message_id is not None and len(self._finished_messages) < MAX_PARTS:
            self._finished_messages = self._finished_messages or {}
            self._finished_messages[message_id] = None

    def _reasoning(self, event: ev.ReasoningDelta, at_ns: int) -> None:
        if event.text:
            self._output(at_ns).reasoning.add(event.text)

    def _tool_call_started(self, event: ev.ToolCallStarted, at_ns: int) -> None:
        if event.tool_call_id[:MAX_ID_CHARS] in self._tool_calls:
            self.issue("tool_call_repeated")
        call = self._tool_call(event.tool_call_id, at_ns)
        if call is not None:
            call.name = call.name or _name(event.name)

    def _arguments(self, event: ev.ToolCallArgumentsDelta, at_ns: int) -> None:
        if not event.delta:
            return
        call = self._known_tool_call(event.tool_call_id, at_ns)
        self._output(at_ns)
        if call is None:
            return
        if call.ready_ns is not None:
            self.issue("arguments_after_ready")
        call.arguments.add(event.delta)

    def _ready(self, event: ev.ToolCallReady, at_ns: int) -> None:
        call = self._known_tool_call(event.tool_call_id, at_ns)
        if call is None:
            return
        if event.requested:
            call.started_ns = call.ready_ns = 0
        elif call.ready_ns is None:
            call.ready_ns = at_ns
        if call.status == "started":
            call.status = "ready"
        if event.arguments and not call.arguments.chars:  # some wires tell them at the end only
            if not event.requested:
                self._output(at_ns)
            call.arguments.add(event.arguments)

    def _result(self, event: ev.ToolCallResult, at_ns: int) -> None:
        call = self._known_tool_call(event.tool_call_id, at_ns)
        if call is not None:
            if call.finished_ns is not None and self.strict:
                self.issue("tool_result_repeated")
            call.finished_ns = at_ns
            call.status = "error" if event.is_error else "completed"
            if event.result:
                call.result.add(event.result)
        if self._open is not None and not self._open.explicit:
            self._close_generation(self._open.finished_ns)
        self._idle_since_ns = at_ns

    # --- parts -------------------------------------------------------------------------------

    def _output(self, at_ns: int) -> OpenGeneration:
        """Something was generated: set the token times, and say by which generation."""
        if self._first_token_ns is None:
            self._first_token_ns = at_ns
        self._gap(at_ns)
        generation = self._generation(at_ns)
        if generation.first_token_ns is None:
            generation.first_token_ns = at_ns
        generation.last_token_ns = generation.finished_ns = at_ns
        return generation

    def _gap(self, at_ns: int) -> None:
        """Output came now."""
        last_ns = self._last_output_ns
        if at_ns == last_ns:  # one message of the server carries both: no gap between them
            return
        if last_ns is not None:
            gap_ns = at_ns - last_ns
            self._gap_counts[bisect_left(_GAP_EDGES_NS, gap_ns)] += 1
            self._gap_sum_ns += gap_ns
            if self._longest_gap_ns is None or gap_ns > self._longest_gap_ns:
                self._longest_gap_ns, self._longest_gap_at_ns = gap_ns, at_ns
        self._last_output_ns = at_ns

    def _many_gaps(self, times: Sequence[int], epoch_ns: int) -> None:
        """Output came at these times: as `_gap`, but many at once."""
        if self._last_output_ns is None:
            self._gap(times[0] - epoch_ns)
            times = times[1:]
            if not times:
                return
        before_ns = self._last_output_ns
        assert before_ns is not None
        longest_ns, longest = count_gaps(
            times, before_ns + epoch_ns, _GAP_EDGES_NS, self._gap_counts
        )
        if longest_ns > (self._longest_gap_ns or 0):
            self._longest_gap_ns = longest_ns
            self._longest_gap_at_ns = times[longest] - epoch_ns
        last_ns = times[-1] - epoch_ns
        self._gap_sum_ns += last_ns - before_ns
        self._last_output_ns = last_ns

    def _generation(self, at_ns: int) -> OpenGeneration:
        if self._open is None:
            if self._full(self._generations):
                return self._generations[-1]
            self._open = OpenGeneration(
                min(self._idle_since_ns, at_ns), at_ns, Capture(self.policy)
            )
            self._generations.append(self._open)
        return self._open

    def _last_generation(self, at_ns: int) -> OpenGeneration:
        if self._open is None and self._generations:
            return self._generations[-1]
        return self._generation(at_ns)

    def _close_generation(self, at_ns: int) -> None:
        generation = self._open
        if generation is not None:
            self._idle_since_ns = max(self._idle_since_ns, at_ns)
            self._open = None
            if generation.key is not None:
                self._by_key = self._by_key or {}
                self._by_key.setdefault(generation.key, generation)

    def _tool_call(self, tool_call_id: str, at_ns: int) -> OpenToolCall | None:
        tool_call_id = tool_call_id[:MAX_ID_CHARS]
        call = self._tool_calls.get(tool_call_id)
        if call is None and not self._full(self._tool_calls):
            self._tool_calls = self._tool_calls or {}
            call = self._tool_calls[tool_call_id] = OpenToolCall(
                tool_call_id, at_ns, Capture(self.policy), Capture(self.policy)
            )
        return call

    def _known_tool_call(self, tool_call_id: str, at_ns: int) -> OpenToolCall | None:
        if tool_call_id[:MAX_ID_CHARS] not in self._tool_calls:
            self.issue("tool_call_unknown")
        return self._tool_call(tool_call_id, at_ns)

    def _full(self, parts: Any) -> bool:
        if len(parts) < MAX_PARTS:
            return False
        self._left_out()
        return True

    def _left_out(self) -> None:
        self._count_issue("parts_left_out")

    # --- totals ------------------------------------------------------------------------------

    def _usage_of_run(self) -> list[ModelUsage]:
        return [
            ModelUsage(model=model, provider=provider, usage=usage)
            for (provider, model), usage in self._run_usage.items()
        ]

    def _usage_by_model(self) -> list[ModelUsage]:
        told = [*self._usage_of_runs_before, *self._usage_of_run()]
        return told or [
            ModelUsage(model=one.model, provider=one.provider, usage=one.usage)
            for one in self._generations
            if one.usage is not None
        ]

    def _name_the_model(self, provider: str | None, model: str | None) -> None:
        """The usage of the whole run is one model's: so that made each generation of it."""
        for generation in self._generations:
            generation.model = generation.model or model
            generation.provider = generation.provider or provider

    def _time_per_output_token_ns(self, usage: TokenCounts | None) -> int | None:
        spans: list[tuple[OpenGeneration, int | None]]
        if len(self._generations) == 1:
            spans = [(self._generations[0], None if usage is None else usage.output_tokens)]
        else:
            spans = [
                (one, None if one.usage is None else one.usage.output_tokens)
                for one in self._generations
            ]
        total_ns = tokens = 0
        for one, output_tokens in spans:
            if output_tokens is None or one.first_token_ns is None or one.last_token_ns is None:
                return None
            total_ns += one.last_token_ns - one.first_token_ns
            tokens += output_tokens - 1
        return total_ns // tokens if tokens > 0 else None


_Handler = Callable[[RunMachine, Any, int], None]
_HANDLERS: dict[type[ev.Event], _Handler] = {
    ev.RunStarted: RunMachine._run_started,
    ev.RunFinished: RunMachine._run_ended,
    ev.RunFailed: RunMachine._run_ended,
    ev.RunInterrupted: RunMachine._run_ended,
    ev.RunCancelled: RunMachine._run_ended,
    ev.StepStarted: RunMachine._step_started,
    ev.StepFinished: RunMachine._step_finished,
    ev.GenerationStarted: RunMachine._generation_started,
    ev.GenerationFinished: RunMachine._generation_finished,
    ev.Usage: RunMachine._usage,
    ev.TextDelta: RunMachine._text,
    ev.MessageFinished: RunMachine._message_finished,
    ev.ReasoningDelta: RunMachine._reasoning,
    ev.ToolCallStarted: RunMachine._tool_call_started,
    ev.ToolCallArgumentsDelta: RunMachine._arguments,
    ev.ToolCallReady: RunMachine._ready,
    ev.ToolCallResult: RunMachine._result,
}
_MAY_FOLLOW_THE_END = frozenset({ev.RunStarted, ev.RunFailed, ev.Usage, ev.Custom})


def _name(text: str | None) -> str | None:
    return text[:MAX_ID_CHARS] if text else None


def _overlay(old: TokenCounts | None, new: TokenCounts) -> TokenCounts:
    """The later report wins, field by field: some providers give parts of it early."""
    if old is None:
        return new
    known = {
        name: value for name, value in msgspec.structs.asdict(new).items() if value is not None
    }
    return msgspec.structs.replace(old, **known)
