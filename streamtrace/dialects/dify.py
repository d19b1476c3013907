"""Dify: the streams of its chatbots, agents, chatflows and workflows.

Rules that hold here (Dify's service API, unless said otherwise):

* Dispatch is on the JSON `event`. A ping is an event name without data.
* `message_end` ends the run of a chatbot or agent. Where there is a workflow, `workflow_finished`
  does, which comes after it today and came before it once.
* A question to a human ends the run with the pause that follows, or with `message_end` where no
  workflow runs. What comes after an answer is the next run.
* `agent_thought` repeats all that is known of a step each time. Its thought is told once, as
  reasoning, unless its words were streamed as the answer already. Its tools are calls: several are
  joined by `;`, and then arguments and results are keyed by their names. Arguments are complete
  when a result or anything but their own thought comes.
* After `agent_message`, a `message` is the whole answer once more.
* A replaced answer is text only where none was told: a stream cannot take words back.
* A node is a step. What a node of type `llm` says of its model is told where it is not withheld, as
  it is from the service API. A bare total of tokens is no usage.

Source: docs.dify.ai/en/api-reference, Send Chat Message, Run Workflow and Streaming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.bounded import remember
from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import (
    as_count,
    as_id,
    as_object,
    as_string,
    as_word,
    dump_json,
    load_json,
)
from streamtrace.dialects.accumulated import Accumulated
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks, says

MAX_THOUGHTS = 256
"""Thoughts of one stream that are remembered; of more, the oldest is forgotten."""
MAX_TOOLS = 64
"""Tools of one thought."""
MAX_PIECES = 64
MAX_TURN_CHARS = 64 * 1024
"""Text of a turn that is kept to find it again in a thought. Of longer turns none is told again."""

_Fields: TypeAlias = dict[str, Any]


class Dify(Dialect):
    """Apps built with Dify, by its service API or its own pages."""

    name = "dify"
    marks = marks("event")
    says = says(
        "run thread text reasoning tool_start arguments result step model usage finish "
        "input_required error terminal"
    )

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a known event with a task; errors have none."""
        value = as_object(frame.json())
        kind = value.get("event")
        if not isinstance(kind, str) or kind not in _HANDLERS:
            return Fit.NO
        if isinstance(value.get("task_id"), str):
            return Fit.YES
        return Fit.MAYBE if kind == "error" and {"status", "code"} <= value.keys() else Fit.NO

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _DifyDecoder()


# The hot frames: a piece of text.


class _Piece(msgspec.Struct, tag_field="event", gc=False):
    answer: str
    message_id: str | None = None


class _Message(_Piece, tag="message"):
    pass


class _AgentMessage(_Piece, tag="agent_message"):
    pass


class _TextData(msgspec.Struct, gc=False):
    text: str


class _TextChunk(msgspec.Struct, tag_field="event", tag="text_chunk", gc=False):
    data: _TextData


_Hot: TypeAlias = _Message | _AgentMessage | _TextChunk
_hot_decoder: msgspec.json.Decoder[_Hot] = msgspec.json.Decoder(_Hot)


class _Thought(msgspec.Struct):
    """A step of an agent, as far as it is known."""

    id: str
    tools: list[str]
    tool_input: str = ""  # until the arguments were told
    has_result: bool = False

    def call_id(self, at: int) -> str:
        return self.id if len(self.tools) == 1 else f"{self.id}:{at}"


class _DifyDecoder:
    def __init__(self) -> None:
        self._started = False
        self._ended = False
        self._has_workflow = False
        self._asked: str | None = None  # the event that put the question
        self._told = False
        self._told_as_agent = False
        self._thinking = False
        self._turn: list[str] = []
        self._turn_chars = 0
        self._thoughts: dict[str, _Thought] = {}
        self._told_thoughts = Accumulated()
        self._calling: _Thought | None = None  # its arguments may still grow
        self._generation: str | None = None

    def decode(self, frame: Frame) -> Iterable[ev.Event]:
        if self._started and frame.data is not None:
            hot = _read_hot(frame.data)
            if isinstance(hot, _TextChunk):
                return self._text("text_chunk", hot.data.text, None)
            if hot is not None:
                name = "message" if isinstance(hot, _Message) else "agent_message"
                return self._text(name, hot.answer, hot.message_id)
        value = frame.json()
        if isinstance(value, dict) and isinstance(kind := value.get("event"), str):
            return self._event(kind, value)
        if frame.event == "ping":
            return (ev.Heartbeat(),)
        if frame.data is None or not frame.complete:
            return ()
        return (ev.Custom(name=frame.event or "unknown", value=value),)

    def close(self) -> Iterable[ev.Event]:
        return ()

    def _event(self, kind: str, value: _Fields) -> Iterator[ev.Event]:
        if not self._started:
            run_id = as_id(value.get("workflow_run_id")) or as_id(value.get("task_id"))
            if run_id is not None:
                self._started = True
                yield ev.RunStarted(run_id=run_id, thread_id=as_id(value.get("conversation_id")))
        yield from _HANDLERS.get(kind, _DifyDecoder._as_custom)(self, value)

    def _as_custom(self, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Custom(name=value["event"], value=value)

    def _ping(self, value: _Fields) -> Iterator[ev.Event]:
        yield ev.Heartbeat()

    # Text.

    def _text(self, kind: str, text: str | None, message_id: str | None) -> list[ev.Event]:
        if not text:
            return []
        if kind == "message" and self._told_as_agent:
            return [ev.Custom(name=kind, value=text)]
        events = self._complete_arguments() if self._calling else []
        self._told = True
        self._told_as_agent = self._told_as_agent or kind == "agent_message"
        if self._turn_chars < MAX_TURN_CHARS:
            if len(self._turn) >= MAX_PIECES:  # many small strings cost more than one
                self._turn = ["".join(self._turn)]
            self._turn.append(text)
            self._turn_chars += len(text)
        events.append(ev.TextDelta(text=text, message_id=message_id))
        return events

    def _message(self, value: _Fields) -> Iterable[ev.Event]:
        message_id = as_string(value.get("message_id"))
        return self._text(value["event"], as_string(value.get("answer")), message_id)

    def _text_chunk(self, value: _Fields) -> Iterable[ev.Event]:
        return self._text("text_chunk", as_string(_data(value).get("text")), None)

    def _replace(self, value: _Fields) -> Iterable[ev.Event]:
        if self._told:
            return self._as_custom(value)
        text = as_string(value.get("answer")) or as_string(_data(value).get("text"))
        return self._text(value["event"], text, as_string(value.get("message_id")))

    def _reasoning(self, value: _Fields) -> Iterator[ev.Event]:
        data = _data(value)
        message_id, text = as_string(data.get("message_id")), as_string(data.get("reasoning"))
        if text:
            if not self._thinking:
                self._thinking = True
                yield ev.ReasoningStarted(message_id=message_id)
            yield ev.ReasoningDelta(text=text, message_id=message_id)
        if data.get("is_final") is True and self._thinking:
            self._thinking = False
            yield ev.ReasoningFinished(message_id=message_id)

    # Steps of an agent.

    def _thought(self, value: _Fields) -> Iterator[ev.Event]:
        thought_id = as_id(value.get("id")) or f"thought-{as_word(value.get('position')) or ''}"
        thought = self._thoughts.get(thought_id) or self._remember(thought_id)
        if self._calling is not thought:
            yield from self._complete_arguments()
        said = (as_string(value.get("thought")) or "").strip()
        if said and not self._was_streamed(said):
            text = self._told_thoughts.delta(thought_id, said)
            if text:
                yield ev.ReasoningDelta(text=text, message_id=as_string(value.get("message_id")))
        if not thought.tools and (tools := as_string(value.get("tool"))):
            thought.tools = [as_id(name) or "" for name in tools.split(";")[:MAX_TOOLS]]
            self._calling = thought
            for at, name in enumerate(thought.tools):
                yield ev.ToolCallStarted(tool_call_id=thought.call_id(at), name=name or None)
        if self._calling is thought:
            thought.tool_input = as_string(value.get("tool_input")) or thought.tool_input
        observation = as_string(value.get("observation"))
        if observation and thought.tools and not thought.has_result:
            yield from self._complete_arguments()
            thought.has_result = True
            self._turn, self._turn_chars = [], 0
            for at, result in enumerate(_by_tool(observation, thought.tools)):
                yield ev.ToolCallResult(tool_call_id=thought.call_id(at), result=result)

    def _complete_arguments(self) -> list[ev.Event]:
        thought, self._calling = self._calling, None
        if thought is None:
            return []
        text, thought.tool_input = thought.tool_input, ""
        return [
            ev.ToolCallReady(tool_call_id=thought.call_id(at), arguments=arguments)
            for at, arguments in enumerate(_by_tool(text, thought.tools))
        ]

    def _was_streamed(self, thought: str) -> bool:
        return self._turn_chars >= MAX_TURN_CHARS or thought in "".join(self._turn)

    def _remember(self, thought_id: str) -> _Thought:
        thought = _Thought(thought_id, [])
        remember(self._thoughts, thought_id, thought, MAX_THOUGHTS)
        return thought

    # Steps of a workflow.

    def _node_started(self, value: _Fields) -> Iterator[ev.Event]:
        data = _data(value)
        step_id = _step_id(data)
        yield ev.StepStarted(name=_title(data), step_id=step_id)
        if data.get("node_type") == "llm":
            self._generation = step_id
            yield ev.GenerationStarted(key=step_id)

    def _node_finished(self, value: _Fields) -> Iterator[ev.Event]:
        data = _data(value)
        step_id = _step_id(data)
        if step_id is not None and step_id == self._generation:
            yield from _generation_facts(step_id, data)
        yield ev.StepFinished(name=_title(data), step_id=step_id)

    def _workflow_started(self, value: _Fields) -> Iterator[ev.Event]:
        self._has_workflow = True
        yield from self._go_on()

    def _workflow_finished(self, value: _Fields) -> Iterator[ev.Event]:
        data = _data(value)
        error = as_string(data.get("error"))
        match data.get("status"):
            case "failed" | "exception":
                end: ev.Event = ev.RunFailed(message=error)
            case "stopped":
                end = ev.RunCancelled(reason=error)
            case _:
                run_id = as_id(value.get("workflow_run_id"))
                end = ev.RunFinished(run_id=run_id, thread_id=as_id(value.get("conversation_id")))
                outputs = list(as_object(data.get("outputs")).values())
                if not self._told and len(outputs) == 1 and isinstance(outputs[0], str):
                    yield from self._text("workflow_finished", outputs[0], None)
        yield from self._end(end)

    # Questions, and the end.

    def _question(self, value: _Fields) -> Iterator[ev.Event]:
        self._asked = value["event"]
        yield from self._as_custom(value)

    def _answered(self, value: _Fields) -> Iterator[ev.Event]:
        self._asked = None
        yield from self._go_on()
        yield from self._as_custom(value)

    def _paused(self, value: _Fields) -> Iterator[ev.Event]:
        reasons = _data(value).get("reasons")
        first = as_object(reasons[0]) if isinstance(reasons, list) and reasons else {}
        reason = as_id(first.get("TYPE")) or self._asked
        yield from self._end(ev.RunInterrupted(reason=reason))

    def _message_end(self, value: _Fields) -> Iterator[ev.Event]:
        yield from self._complete_arguments()
        metadata = as_object(value.get("metadata"))
        usage = _usage(as_object(metadata.get("usage")), "run")
        if usage is not None:
            yield usage
        if self._ended:
            yield from self._as_custom(value)
            return
        resources = metadata.get("retriever_resources")
        for resource in map(as_object, resources if isinstance(resources, list) else ()):
            title = as_string(resource.get("document_name")) or as_string(resource.get("title"))
            yield ev.Source(url=as_string(resource.get("url")), title=title)
        yield ev.MessageFinished(message_id=as_string(value.get("message_id")))
        if not self._has_workflow:
            asked = self._asked
            yield from self._end(ev.RunInterrupted(reason=asked) if asked else ev.RunFinished())

    def _error(self, value: _Fields) -> Iterator[ev.Event]:
        code = as_id(value.get("code")) or as_id(value.get("status"))
        self._ended = False  # an error says more than the failure that came before it
        yield from self._end(ev.RunFailed(type=code, message=as_string(value.get("message"))))

    def _end(self, end: ev.Event) -> Iterator[ev.Event]:
        yield from self._complete_arguments()
        if not self._ended:
            self._ended = True
            yield end

    def _go_on(self) -> Iterator[ev.Event]:
        if self._ended:
            self._ended = False
            yield ev.RunStarted()


_Handler: TypeAlias = Callable[[_DifyDecoder, _Fields], Iterable[ev.Event]]

_HANDLERS: Mapping[str, _Handler] = {
    "ping": _DifyDecoder._ping,
    "message": _DifyDecoder._message,
    "agent_message": _DifyDecoder._message,
    "text_chunk": _DifyDecoder._text_chunk,
    "message_replace": _DifyDecoder._replace,
    "text_replace": _DifyDecoder._replace,
    "reasoning_chunk": _DifyDecoder._reasoning,
    "agent_thought": _DifyDecoder._thought,
    "message_end": _DifyDecoder._message_end,
    "workflow_started": _DifyDecoder._workflow_started,
    "workflow_finished": _DifyDecoder._workflow_finished,
    "workflow_paused": _DifyDecoder._paused,
    "node_started": _DifyDecoder._node_started,
    "node_finished": _DifyDecoder._node_finished,
    "iteration_started": _DifyDecoder._node_started,
    "iteration_completed": _DifyDecoder._node_finished,
    "loop_started": _DifyDecoder._node_started,
    "loop_completed": _DifyDecoder._node_finished,
    "human_input_required": _DifyDecoder._question,
    "human_input_form_filled": _DifyDecoder._answered,
    "human_input_form_timeout": _DifyDecoder._answered,
    "error": _DifyDecoder._error,
    **dict.fromkeys(
        (
            "agent_log", "iteration_next", "loop_next", "message_file", "node_retry",
            "parallel_branch_started", "parallel_branch_finished", "tts_message", "tts_message_end",
        ),
        _DifyDecoder._as_custom,
    ),
}  # fmt: skip


def _read_hot(data: bytes) -> _Hot | None:
    try:
        return _hot_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _data(value: _Fields) -> _Fields:
    return as_object(value.get("data"))


def _step_id(data: _Fields) -> str | None:
    return as_id(data.get("id")) or as_id(data.get("node_id"))


def _title(data: _Fields) -> str:
    names = (as_id(data.get(key)) for key in ("title", "node_type", "node_id"))
    return next(filter(None, names), "node")


def _generation_facts(step_id: str, data: _Fields) -> Iterator[ev.Event]:
    process, outputs = as_object(data.get("process_data")), as_object(data.get("outputs"))
    model, provider = as_id(process.get("model_name")), as_id(process.get("model_provider"))
    if model is not None:
        yield ev.GenerationStarted(key=step_id, model=model, provider=provider)
    usage = _usage(as_object(process.get("usage") or outputs.get("usage")), "generation")
    if usage is not None:
        yield usage
    reason = as_id(process.get("finish_reason")) or as_id(outputs.get("finish_reason"))
    if reason is not None:
        yield ev.GenerationFinished(finish_reasons=(reason,))


def _usage(usage: _Fields, scope: str) -> ev.Usage | None:
    given = as_count(usage.get("prompt_tokens"))
    made = as_count(usage.get("completion_tokens"))
    if given is None and made is None:
        return None
    return ev.Usage(input_tokens=given, output_tokens=made, scope=scope)


def _by_tool(text: str, tools: list[str]) -> list[str | None]:
    """What belongs to each tool: the text is keyed by their names, or all of it is the first's."""
    keyed = load_json(text.encode("utf-8", "replace")) if text.startswith("{") else None
    if isinstance(keyed, dict) and keyed.keys() == set(tools):
        parts = [keyed[name] for name in tools]
        return [part if isinstance(part, str | None) else dump_json(part) for part in parts]
    return [text or None, *(None for _ in tools[1:])]
