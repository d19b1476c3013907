"""The house styles, written: any run that they can say reads back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clients import run_client
from support.live import live, speaking
from support.wire import events_of, frames_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.dialects.base import Dialect, Head
from streamtrace.dialects.detect import Detector
from streamtrace.dialects.encode.house import MAX_CALLS
from streamtrace.dialects.house import MAX_OPEN_CALLS
from streamtrace.dialects.named import AgentFlow, Cognis
from streamtrace.dialects.typed_json import TypedJson

STYLES: tuple[Dialect, ...] = (Cognis(), AgentFlow(), TypedJson())
each_style = pytest.mark.parametrize("style", STYLES, ids=lambda one: one.name)
slow = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(style: Dialect, *events: ev.Event) -> bytes:
    encoder = style.encoder()
    frames = [frame for event in events for frame in encoder.encode(event)]
    return b"".join(map(encode_frame, [*frames, *encoder.close()]))


def read(style: Dialect, body: bytes) -> list[ev.Event]:
    return events_of(style, frames_of(body))


def again(style: Dialect, *events: ev.Event) -> list[ev.Event]:
    return read(style, written(style, *events))


# --- any run -----------------------------------------------------------------------------------

ODD_TEXTS = (
    "42", "-0.5", "true", "null", '"x"', "[1]", "[DONE]", "{", "{}", '{"content": "x"}', " lead",
    "  two", "tail ", "\n", "a\nb", "\r", "a\r\nb", "\u2028", "\ufeff", "\0", "ping", " Ping\n",
    "\ud83d", "\ude00!", "data: x", ": note", '{"role": "user", "content": "x"}',
    '{"type": "done"}',
)  # fmt: skip
texts = st.text(min_size=1, max_size=12) | st.sampled_from(ODD_TEXTS)
words = st.text(min_size=1, max_size=8)
maybe_words = st.none() | words
json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
).map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")))
outputs = st.none() | st.just("") | texts | json_texts
counts = st.integers(0, 2**53 - 1)


def usages(scope: str) -> st.SearchStrategy[ev.Usage]:
    maybe = st.none() | counts
    return st.builds(
        ev.Usage, input_tokens=counts, output_tokens=maybe, cached_input_tokens=maybe,
        cache_write_tokens=maybe, reasoning_tokens=maybe, model=maybe_words, provider=maybe_words,
        scope=st.just(scope),
    )  # fmt: skip


ENDS = st.builds(ev.RunFinished, run_id=maybe_words, thread_id=maybe_words) | st.builds(
    ev.RunFailed, type=st.none() | words.filter(lambda word: word != "error"),
    message=st.none() | texts,
)  # fmt: skip


@st.composite
def runs(draw: st.DrawFn, style: Dialect) -> list[ev.Event]:
    """Events in an order that agents produce, of the types that the style can say."""
    events: list[ev.Event] = []
    waiting: list[str] = []
    if ev.RunStarted in style.encodes and draw(st.booleans()):
        ids = st.builds(ev.RunStarted, run_id=words, thread_id=maybe_words, agent=maybe_words)
        events.append(draw(ids))
    pieces = [("text", texts.map(lambda text: ev.TextDelta(text=text)))]
    if ev.Heartbeat in style.encodes:
        pieces.append(("ping", st.just(ev.Heartbeat())))
    if ev.ReasoningDelta in style.encodes:
        pieces.append(("thought", texts.map(lambda text: ev.ReasoningDelta(text=text))))
        pieces.append(("usage", usages("generation")))
    kinds = [name for name, _ in pieces]
    for number in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from((*kinds, "call", "result")))
        if kind == "call":
            call_id = f"{draw(words)}{number}"
            events.append(ev.ToolCallStarted(tool_call_id=call_id, name=draw(maybe_words)))
            events.append(ev.ToolCallReady(tool_call_id=call_id, arguments=draw(outputs)))
            waiting.append(call_id)
        elif kind != "result":
            events.append(draw(dict(pieces)[kind]))
        elif waiting:
            call_id = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            result = {"result": draw(outputs), "is_error": draw(st.booleans())}
            events.append(ev.ToolCallResult(tool_call_id=call_id, **result))
    if draw(st.booleans()):
        end = draw(ENDS)
        if draw(st.booleans()):
            events.append(draw(usages("run")))
        events.append(end)
    return events


@each_style
@slow
@given(data=st.data())
def test_any_run_reads_back_as_it_was(style, data):
    events = data.draw(runs(style))
    body = written(style, *events)
    frames = frames_of(body)
    assert all(frame.complete and frame.stray is None for frame in frames)
    assert events_of(style, frames) == events


@each_style
@slow
@given(data=st.data())
def test_any_run_is_recognised_for_the_style_it_is_written_in(style, data):
    events = data.draw(runs(style))
    frames = frames_of(written(style, *events))
    told = [event for event in events if not isinstance(event, ev.Heartbeat | ev.RunStarted)]
    if told:
        detector = Detector(Head())
        found = next(filter(None, map(detector.offer, frames)), None) or detector.settle()
        assert found.name == style.name
        decoder = found.decoder()  # a pipeline gives it the frames that were held
        held = [event for frame in detector.held for event in decoder.decode(frame)]
        assert (
            held == [event for event in events if not isinstance(event, ev.Heartbeat)][: len(held)]
        )


# --- what the frames look like -----------------------------------------------------------------

CALL = (
    ev.ToolCallStarted(tool_call_id="c1", name="search"),
    ev.ToolCallReady(tool_call_id="c1", arguments='{"q":"sun"}'),
    ev.ToolCallResult(tool_call_id="c1", result="sunny"),
)
RUN = (
    ev.TextDelta(text="Let me "),
    *CALL,
    ev.TextDelta(text="Sunny."),
    ev.Usage(input_tokens=9, output_tokens=2, scope="run"),
    ev.RunFinished(run_id="r1", thread_id="t1"),
)


def test_a_run_of_cognis():
    assert written(Cognis(), *RUN).decode() == (
        "event: token\ndata: Let me \n\n"
        'event: tool_start\ndata: {"id":"c1","tool":"search","args":{"q":"sun"}}\n\n'
        'event: tool_end\ndata: {"id":"c1","tool":"search","result":"sunny"}\n\n'
        "event: token\ndata: Sunny.\n\n"
        'event: done\ndata: {"run_id":"r1","thread_id":"t1",'
        '"usage":{"input_tokens":9,"output_tokens":2}}\n\n'
    )


def test_a_run_of_agentflow():
    assert written(AgentFlow(), *RUN).decode() == (
        'event: message_chunk\ndata: {"role":"assistant","content":"Let me "}\n\n'
        'event: tool_start\ndata: {"id":"c1","name":"search","args":{"q":"sun"}}\n\n'
        'event: tool_end\ndata: {"id":"c1","name":"search","output":"sunny"}\n\n'
        'event: message_chunk\ndata: {"role":"assistant","content":"Sunny."}\n\n'
        'event: done\ndata: {"run_id":"r1","thread_id":"t1",'
        '"usage":{"input_tokens":9,"output_tokens":2}}\n\n'
    )


def test_a_run_of_typed_json():
    assert written(TypedJson(), ev.RunStarted(run_id="r1"), *RUN).decode() == (
        'data: {"type":"run_started","run_id":"r1"}\n\n'
        'data: {"type":"token","content":"Let me "}\n\n'
        'data: {"type":"tool_call","id":"c1","name":"search","args":{"q":"sun"}}\n\n'
        'data: {"type":"tool_result","id":"c1","name":"search","result":"sunny"}\n\n'
        'data: {"type":"token","content":"Sunny."}\n\n'
        'data: {"type":"done","run_id":"r1","thread_id":"t1",'
        '"usage":{"input_tokens":9,"output_tokens":2}}\n\n'
    )


@pytest.mark.parametrize("text", ODD_TEXTS, ids=repr)
def test_text_is_plain_only_where_it_survives(text):
    (frame,) = frames_of(written(Cognis(), ev.TextDelta(text=text)))
    plain = frame.text == text
    one_line = text.replace("\n", "")
    cut = f"a{one_line}b".splitlines() != [f"a{one_line}b"]
    unsafe = text.startswith("{") or cut or "\ud800" <= text[0] <= "\udfff"
    assert plain is not (unsafe or text.strip().lower() == "ping")


@pytest.mark.parametrize(("arguments", "shown"), [
    ('{"q":1}', {"q": 1}), ("[1]", [1]), ('{"q": 1}', '{"q": 1}'), ("{", "{"),
    ('{"q":1,"q":2}', '{"q":1,"q":2}'), ("42", "42"), ('"x"', '"x"'), ("", ""),
    ('{"n":NaN}', '{"n":NaN}'),
])  # fmt: skip
def test_arguments_are_json_where_that_is_the_same_text(arguments, shown):
    ready = ev.ToolCallReady(tool_call_id="c", arguments=arguments)
    events = (ev.ToolCallStarted(tool_call_id="c", name="f"), ready)
    *_, frame = frames_of(written(AgentFlow(), *events))
    assert frame.json()["args"] == shown
    assert again(AgentFlow(), *events) == list(events)


@each_style
def test_a_first_frame_that_others_have_too_is_preceded_by_an_empty_text(style):
    for end in (ev.RunFinished(), ev.RunFailed(message="no"), ev.RunFailed()):
        frames = frames_of(written(style, end))
        assert len(frames) == 2
        assert style.recognise(Head(), frames[0]).name == "YES"
        assert events_of(style, frames) == [end]
    assert len(frames_of(written(style, ev.TextDelta(text="x"), ev.RunFinished()))) == 2


# --- calls -------------------------------------------------------------------------------------


def started(*numbers: int) -> list[ev.Event]:
    return [ev.ToolCallStarted(tool_call_id=f"c{n}", name=f"f{n}") for n in numbers]


def ready(number: int, arguments: str | None = None) -> ev.Event:
    return ev.ToolCallReady(tool_call_id=f"c{number}", arguments=arguments)


@each_style
def test_arguments_that_came_in_pieces_are_written_whole(style):
    pieces = [ev.ToolCallArgumentsDelta(tool_call_id="c1", delta=one) for one in ('{"q"', ":1}")]
    stranger = ev.ToolCallArgumentsDelta(tool_call_id="c9", delta="x")
    assert again(style, *started(1), *pieces, stranger, ready(1), ready(9)) == [
        *started(1), ready(1, '{"q":1}')
    ]  # fmt: skip


@each_style
def test_calls_are_written_in_the_order_in_which_they_began(style):
    assert again(style, *started(1, 2), ready(2, "b"), ready(1, "a")) == [
        *started(1), ready(1, "a"), *started(2), ready(2, "b"),
    ]  # fmt: skip


@each_style
@pytest.mark.parametrize("end", [ev.RunFinished(), ev.RunFailed(message="no"), None], ids=repr)
def test_a_call_that_was_never_ready_is_written_with_what_was_said_of_it(style, end):
    piece = ev.ToolCallArgumentsDelta(tool_call_id="c1", delta='{"q"')
    told = again(style, *started(1, 2), piece, *([end] if end else []))
    assert told == [*started(1), ready(1, '{"q"'), *started(2), ready(2), *([end] if end else [])]


@each_style
def test_a_call_is_written_once(style):
    result = ev.ToolCallResult(tool_call_id="c1", result="ok")
    once = [*started(1), ready(1, "{}"), result]
    late = [ev.ToolCallArgumentsDelta(tool_call_id="c1", delta="x"), ready(1, "x")]
    assert again(style, *started(1, 1), ready(1, "{}"), *late, result, *once) == once


@each_style
def test_a_result_takes_its_call_with_it_and_comes_once(style):
    result = ev.ToolCallResult(tool_call_id="c2", result="ok")
    assert again(style, *started(1, 2), result, result, ready(1)) == [
        *started(1), ready(1), *started(2), ready(2), result,
    ]  # fmt: skip
    assert again(style, ev.ToolCallResult(tool_call_id="c9", result="ok")) == []


@each_style
def test_calls_that_are_never_ready_or_never_end_are_bounded(style):
    encoder = style.encoder()
    numbers = range(MAX_OPEN_CALLS + 1)
    frames = [frame for event in started(*numbers) for frame in encoder.encode(event)]
    assert len(frames) >= MAX_OPEN_CALLS
    list(encoder.encode(ready(MAX_OPEN_CALLS)))
    results = [ev.ToolCallResult(tool_call_id=f"c{n}", result="late") for n in (0, 1)]
    assert [len(list(encoder.encode(result))) for result in results] == [0, 1]
    for event in started(*range(MAX_CALLS + 1)):
        list(encoder.encode(event))
    assert len(encoder._begun) == MAX_CALLS


# --- usage, and the end ------------------------------------------------------------------------


def usage(count: Any, **more: Any) -> ev.Usage:
    return ev.Usage(input_tokens=count, **more)


def generation(response_id: str | None = None) -> ev.Event:
    return ev.GenerationStarted(response_id=response_id)


TURN = [*CALL, ev.TextDelta(text="x")]


@pytest.mark.parametrize(("events", "total"), [
    ([usage(3), usage(4, output_tokens=1)], usage(4, output_tokens=1)),
    ([generation("a"), usage(3), generation("a"), usage(4)], usage(4)),
    ([generation("a"), usage(3), generation("b"), usage(4)], usage(7)),
    ([generation("a"), usage(3), *TURN, usage(4)], usage(4)),
    ([usage(3), *TURN, usage(4)], usage(7)),
    ([usage(3, model="m"), *TURN, usage(4, model="m")], usage(7, model="m")),
    ([usage(3, model="m"), *TURN, usage(4, model="n")], usage(7)),
    ([usage(3), usage(9, scope="run")], usage(9)),
    ([usage(2, scope="run", model="m"), usage(3, scope="run", model="n")], usage(5)),
    ([generation("a"), usage(3), ev.GenerationStarted(key="b"), usage(4)], usage(7)),
    ([usage(2**70, output_tokens=3)], ev.Usage(output_tokens=3)),
    ([usage("3"), usage(None, output_tokens=-1)], None),
    ([ev.Usage(cached_input_tokens=3)], None),
    ([], None),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("end", [ev.RunFinished(), ev.RunFailed()], ids=repr)
@pytest.mark.parametrize("style", STYLES[:2], ids=lambda one: one.name)
def test_the_end_has_the_usage_of_the_run(style, end, events, total):
    told = [one for one in again(style, *events, end) if isinstance(one, ev.Usage)]
    whole = {"scope": "run"}
    expected = [] if total is None else [
        ev.Usage(**{field: getattr(total, field) for field in total.__struct_fields__} | whole)
    ]  # fmt: skip
    assert told == expected


def test_typed_json_tells_the_usage_of_a_generation_at_once():
    events = [usage(3), ev.TextDelta(text="x"), usage(4, scope="run"), ev.RunFinished()]
    assert again(TypedJson(), *events) == events
    assert again(TypedJson(), usage("3"), usage(3), ev.RunFailed()) == [usage(3), ev.RunFailed()]


def test_typed_json_adds_up_generations_that_its_reader_cannot_tell_apart():
    events = [generation("a"), usage(3), generation("b"), usage(4)]
    told = [usage(3), usage(4), usage(7, scope="run"), ev.RunFinished()]
    assert again(TypedJson(), *events, ev.RunFinished()) == told


def test_typed_json_begins_a_run_that_has_an_id():
    assert again(TypedJson(), ev.RunStarted(run_id="", agent="")) == []
    named = ev.RunStarted(run_id="r", agent="planner")
    assert again(TypedJson(), named) == [named]


@each_style
def test_questions_and_stops_are_the_end_as_well(style):
    for end in (ev.RunInterrupted(reason="why"), ev.RunCancelled(reason="why")):
        assert again(style, ev.TextDelta(text="x"), end) == [
            ev.TextDelta(text="x"),
            ev.RunFinished(),
        ]
        assert type(end) not in style.encodes


@each_style
def test_nothing_is_written_after_the_end(style):
    end = [ev.TextDelta(text="x"), ev.RunFinished()]
    more = [ev.TextDelta(text="y"), *started(1), ev.Heartbeat(), ev.RunFailed(message="no")]
    assert written(style, *end, *more) == written(style, *end)


@each_style
def test_what_a_style_cannot_say_is_not_written(style):
    silent = [
        ev.TextDelta(text=""), ev.MessageStarted(role="assistant"), ev.StepStarted(name="s"),
        ev.StepFinished(name="s"), ev.GenerationStarted(model="m"), ev.GenerationFinished(),
        ev.State(value={}), ev.RunStarted(),
        ev.ReasoningStarted(), ev.ReasoningDelta(text=""), ev.ReasoningFinished(),
        ev.MessageFinished(),
    ]  # fmt: skip
    assert written(style, *silent) == b""


def test_what_apps_tell_beside_the_answer():
    """A word of progress stands as it is; nothing else can be taken for something known."""
    events = [
        ev.Custom(name="status", value={"content": "Thinking..."}),
        ev.Custom(name="progress", value={"type": "done"}),
        ev.Custom(name="done", value=1),
        ev.Source(url="https://example.org", title="An example"),
    ]
    assert [
        frame.json() for frame in frames_of(written(TypedJson(), ev.TextDelta(text="x"), *events))
    ] == [
        {"type": "token", "content": "x"},
        {"type": "status", "content": "Thinking..."},
        {"type": "custom", "name": "progress", "value": {"type": "done"}},
        {"type": "custom", "name": "done", "value": 1},
        {"type": "source", "url": "https://example.org", "title": "An example"},
    ]
    named = frames_of(written(Cognis(), ev.TextDelta(text="x"), *events))
    assert [frame.event for frame in named] == ["token", "status", "custom", "custom", "source"]


KEYS = words | st.sampled_from(["type", "event", "self", "kind", "data", "usage"])
told_by_apps = st.recursive(
    st.none() | words | st.integers(),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)


@each_style
@given(name=words | st.sampled_from(["done", "error", "status", "custom"]), value=told_by_apps)
def test_nothing_that_an_app_tells_is_read_as_part_of_the_run(style, name, value):
    told = again(style, ev.TextDelta(text="x"), ev.Custom(name=name, value=value))
    assert [type(one) for one in told] == [ev.TextDelta, ev.Custom]


# --- a real client -----------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES[:2], ids=lambda one: one.name)
@pytest.mark.parametrize("end", [ev.RunFinished(run_id="r1"), ev.RunFailed(message="no")], ids=repr)
async def test_an_event_source_is_told_all_of_it(style, end):
    odd = [ev.TextDelta(text=text) for text in ODD_TEXTS if text.isprintable()]
    lines = [ev.TextDelta(text=text) for text in ("a\nb", "\r\n", "\ud83d", "\ude00!", "\u2028")]
    events = [*odd, *CALL, *lines, end]
    names = [style.text_event, "tool_start", "tool_end", "done"]
    async with live(speaking(style, events)) as url:
        told = await run_client("eventsource.mjs", f"{url}/chat", *names)
    heard = [Frame(event=event, data=data.encode()) for event, data in told]
    assert events_of(style, heard) == events
