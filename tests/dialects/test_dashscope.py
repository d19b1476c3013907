"""DashScope: whole texts and deltas, models, applications, and chat that repeats itself."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.openai_frames import recorded
from support.recordings import STREAMS
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.core.run import RunMachine
from streamtrace.dialects import dashscope
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.dashscope import DashScope
from streamtrace.dialects.openai_chat import OpenAIChat

OURS = {one.name: one for one in STREAMS if one.dialect == "dashscope"}
CHAT = recorded("openai-chat")


def wire(*bodies: Any) -> bytes:
    return b"".join(
        b"id:%d\nevent:result\n:HTTP_STATUS/200\ndata:%s\n\n" % (n, json.dumps(body).encode())
        for n, body in enumerate(bodies, 1)
    )


def said(*bodies: Any, incremental: bool | None = None) -> list[ev.Event]:
    request = None if incremental is None else {"parameters": {"incremental_output": incremental}}
    return events_of(DashScope(), frames_of(wire(*bodies)), Head(request=request))


def choice(
    content: Any = "", finish: Any = "null", index: int = 0, **message: Any
) -> dict[str, Any]:
    fields = {"role": "assistant", "content": content, **message}
    return {"message": fields, "finish_reason": finish, "index": index}


def frame(*choices: Any, request_id: str = "r", **output: Any) -> dict[str, Any]:
    told = {"choices": list(choices), **output} if choices else output
    return {"output": told, "usage": {}, "request_id": request_id}


def texts(*contents: str) -> list[dict[str, Any]]:
    return [frame(choice(content)) for content in contents]


def call(arguments: Any, index: int = 0, call_id: str | None = "a") -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return frame(choice(tool_calls=[{"index": index, "id": call_id, "function": function}]))


def ends(events: list[ev.Event]) -> list[ev.Event]:
    return [event for event in events if isinstance(event, ev.TERMINAL)]


@pytest.mark.parametrize("name", OURS)
def test_a_stream_is_told_in_order(name):
    machine = RunMachine()
    for at_ns, event in enumerate(events_of(DashScope(), OURS[name].frames())):
        machine.feed(event, at_ns)
    assert machine.issues == {}


# --- whole texts and deltas ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (["杭州", "杭州明天", "杭州明天。", "杭州明天。"], ["杭州", "明天", "。"]),
        (["a", " b", "c"], ["a", " b", "c"]),
        (["a", "a", "ab"], ["a", "b"]),
        (["", "a", "ab"], ["a", "b"]),
        (["ab", "a"], ["ab", "a"]),
        (["a", "ab", "a", "abc"], ["a", "b", "c"]),
        (["y" * 999, "y" * 999 + "z"], ["y" * 999, "z"]),
        (["y" * 999, "y" * 500], ["y" * 999, "y" * 500]),
    ],
)
def test_the_second_piece_of_text_tells_whether_texts_are_repeated(contents, expected):
    told = [event.text for event in said(*texts(*contents)) if isinstance(event, ev.TextDelta)]
    assert told == expected


@pytest.mark.parametrize(("incremental", "expected"), [(True, "aab"), (False, "ab"), (None, "ab")])
def test_the_request_knows_better(incremental, expected):
    assert text_of(said(*texts("a", "ab"), incremental=incremental)) == expected


@pytest.mark.parametrize("asked", ["true", 1, [], None])
def test_a_request_that_says_nothing_leaves_it_open(asked):
    head = Head(request={"parameters": {"incremental_output": asked}})
    events = events_of(DashScope(), frames_of(wire(*texts("a", "ab"))), head)
    assert text_of(events) == "ab"


def test_reasoning_and_text_are_judged_apart():
    reasoned = [frame(choice(reasoning_content=one)) for one in ("h", "m")]
    events = said(*reasoned, *texts("a", "ab"))
    assert [e.text for e in events if isinstance(e, ev.ReasoningDelta)] == ["h", "m"]
    assert text_of(events) == "ab"


def test_arguments_may_be_repeated_where_texts_are_not():
    frames = [*texts("a", "b"), call('{"x'), call('{"x":1}')]
    for incremental in (None, True):
        events = said(*frames, incremental=incremental)
        told = [event.delta for event in events if isinstance(event, ev.ToolCallArgumentsDelta)]
        assert told == ['{"x', '":1}']


pieces = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8)


@given(pieces=pieces, incremental=st.booleans())
def test_a_text_is_told_whole_whichever_way_it_comes(pieces, incremental):
    told = pieces if incremental else ["".join(pieces[: n + 1]) for n in range(len(pieces))]
    assert text_of(said(*texts(*told), incremental=incremental)) == "".join(pieces)


# --- quick and in full ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["ab", "", [{"text": "ab"}], [{"text": "a"}, {"text": "b"}], []]
)
@pytest.mark.parametrize("reasoning", ["", "hm", None])
@pytest.mark.parametrize("finish", ["null", None, "stop"])
def test_a_frame_says_the_same_read_quickly_or_in_full(content, reasoning, finish):
    first = {**frame(choice("a")), "usage": {"input_tokens": 3, "output_tokens": 1}}
    then = frame(choice(content, finish, reasoning_content=reasoning))
    for usage in ({"input_tokens": 3, "output_tokens": 4}, {}, None):
        then["usage"] = usage
        assert said(first, then) == said(first, {**then, "status_code": 200})


# --- choices, ends and usage ---------------------------------------------------------------


def test_a_run_ends_when_every_choice_has():
    first = frame(choice("a", index=0), choice("b", index=1))
    second = frame(choice("a", "stop", 0))
    third = frame(choice("bc", "length", 1))
    assert ends(said(first, second)) == []
    events = said(first, second, third)
    assert events[-2:] == [
        ev.GenerationFinished(finish_reasons=("stop", "length")),
        ev.RunFinished(run_id="r"),
    ]
    assert [e.message_id for e in events if isinstance(e, ev.TextDelta)] == ["r", "r:1", "r:1"]


def test_an_end_is_told_once_and_the_next_request_is_a_new_run():
    last = frame(choice("a", "stop"))
    assert len(ends(said(last, last))) == 1
    again = frame(choice("b", "stop"), request_id="r2")
    events = said(last, again)
    assert ends(events) == [ev.RunFinished(run_id="r"), ev.RunFinished(run_id="r2")]
    assert text_of(events) == "ab"


@pytest.mark.parametrize("last", [frame(choice("a", "stop")), None])
def test_usage_is_told_once_the_last_of_it(last):
    frames = texts("a", "ab")
    for n, one in enumerate([*frames, last] if last else frames):
        one["usage"] = {
            "input_tokens": 5, "output_tokens": n + 1, "total_tokens": n + 6,
            "prompt_tokens_details": {"cached_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 1},
        }  # fmt: skip
    events = said(*frames, *([last] if last else []))
    counts = {"input_tokens": 5, "cached_input_tokens": 2, "reasoning_tokens": 1}
    assert [event for event in events if isinstance(event, ev.Usage)] == [
        ev.Usage(**counts, output_tokens=3 if last else 2)
    ]


def test_usage_of_an_application_is_that_of_each_model_in_the_run():
    models = [{"model_id": "m", "input_tokens": 1, "output_tokens": 2}, {"model_id": "n"}, 7]
    events = said({**frame(text="a", finish_reason="stop"), "usage": {"models": models}})
    assert [event for event in events if isinstance(event, ev.Usage)] == [
        ev.Usage(input_tokens=1, output_tokens=2, model="m", scope="run"),
        ev.Usage(model="n", scope="run"),
        ev.Usage(scope="run"),
    ]


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        (b'event:error\n:HTTP_STATUS/400\ndata:{"code":"c","message":"m","request_id":"r"}\n\n',
         ("c", "m")),
        (b'event:error\ndata:{"code":"c","msg":"m"}\n\n', ("c", "m")),
        (b'event:result\ndata:{"code":"c","message":"m","output":null}\n\n', ("c", "m")),
        (b'data:{"status_code":400,"code":"c","message":"m","output":{}}\n\n', ("c", "m")),
        (b'data:{"error":{"code":"c","message":"m"}}\n\n', ("c", "m")),
        (b"event:error\ndata:it broke\n\n", (None, "it broke")),
    ],
)  # fmt: skip
def test_an_error_of_any_shape_fails_the_run_once(body, failed):
    events = events_of(DashScope(), frames_of(wire(*texts("a")) + body + body))
    assert ends(events) == [ev.RunFailed(type=failed[0], message=failed[1])]


# --- tools, sources, applications, workflows -----------------------------------------------


def test_calls_are_told_apart_by_their_index_and_ready_at_the_end():
    last = frame(choice("", "tool_calls"))
    events = said(call("{}"), call("[]", 1, None), last)
    assert [e.tool_call_id for e in events if isinstance(e, ev.ToolCallReady)] == ["a", "r:0:1"]


def test_arguments_that_are_no_text_are_told_as_json():
    events = said(call({"x": 1}))
    assert events[-1] == ev.ToolCallArgumentsDelta(tool_call_id="a", delta='{"x":1}')


def test_sources_are_told_once():
    found = {"search_results": [{"url": "u", "title": "t"}, {"site_name": "s"}]}
    documents = [{"doc_name": "d.pdf", "doc_url": "v"}]
    one = frame(choice("a"), search_info=found, doc_references=documents)
    assert [event for event in said(one, one) if isinstance(event, ev.Source)] == [
        ev.Source(url="u", title="t"), ev.Source(url="v", title="d.pdf"),
    ]  # fmt: skip


def thought(**fields: Any) -> dict[str, Any]:
    return {"action_type": "api", "action_name": "f", **fields}


def tool_events(*thoughts: list[Any]) -> list[ev.Event]:
    events = said(*(frame(thoughts=one, finish_reason="null") for one in thoughts))
    kinds = ev.ToolCallStarted | ev.ToolCallReady | ev.ToolCallResult
    return [event for event in events if isinstance(event, kinds)]


def test_a_tool_that_an_application_calls_is_told_once_as_its_thoughts_grow():
    events = tool_events(
        [thought(action_input_stream='{"x')],
        [thought(action_input_stream='{"x":1}')],
        [thought(action_input_stream='{"x":1}', observation="y")],
        [thought(action_input_stream='{"x":1}', observation="y")],
    )
    assert events == [
        ev.ToolCallStarted(tool_call_id="r:f:1", name="f"),
        ev.ToolCallReady(tool_call_id="r:f:1", arguments='{"x":1}'),
        ev.ToolCallResult(tool_call_id="r:f:1", result="y"),
    ]


def test_the_next_call_of_a_tool_at_the_same_place_is_another():
    frames = [[thought(action_input={"x": n}, observation="y")] for n in range(3)]
    events = tool_events(*frames, [thought(observation="y")])
    assert [type(event) for event in events] == [
        ev.ToolCallStarted, ev.ToolCallReady, ev.ToolCallResult,
    ] * 3  # fmt: skip
    assert len({event.tool_call_id for event in events}) == 3


def test_other_thoughts_are_told_once_as_custom():
    other = thought(response="{}")
    events = said(frame(thoughts=[other]), frame(thoughts=[other, other]))
    assert [event.name for event in events if isinstance(event, ev.Custom)] == ["thought"] * 2


def node(kind: str, content: str, is_done: bool = False) -> dict[str, Any]:
    fields = {"node_type": kind, "node_id": kind, "node_name": f"the {kind}"}
    told = {**fields, "message": {"content": content}, "node_is_completed": is_done}
    return frame(workflow_message=told, finish_reason="null")


@pytest.mark.parametrize(
    "frames",
    [
        [node("End", "a"), node("End", "ab"), node("End", "", True)],
        [node("End", "", True)],  # one that is not set to stream
    ],
)
def test_the_answer_of_a_workflow_is_told_once_and_its_nodes_are_steps(frames):
    first = node("LLM", '{"result":"x"}', True)
    events = said(first, *frames, frame(text="aab", finish_reason="stop"))
    assert text_of(events) == "aab"
    assert [event for event in events if isinstance(event, ev.StepStarted | ev.StepFinished)] == [
        ev.StepStarted(name="the LLM", step_id="LLM"),
        ev.StepFinished(name="the LLM", step_id="LLM"),
        ev.StepStarted(name="the End", step_id="End"),
        ev.StepFinished(name="the End", step_id="End"),
    ]
    assert [event.name for event in events if isinstance(event, ev.Custom)] == ["workflow_message"]


def test_sound_is_no_text():
    assert said(frame(audio={"data": "UklG"}))[-1] == ev.Custom(name="audio")


# --- chat that repeats its text ------------------------------------------------------------


def repeating(body: bytes) -> bytes:
    """The chunks of chat, each with all the text so far."""
    frames: list[bytes] = []
    so_far: dict[tuple[str, int], str] = {}
    for one in frames_of(body):
        value = one.json()
        for each in (value or {}).get("choices") or ():
            for key in ("content", "reasoning_content", "reasoning"):
                if text := each["delta"].get(key):
                    place = (key, each["index"])
                    so_far[place] = each["delta"][key] = so_far.get(place, "") + text
        data = (one.data or b"") if value is None else json.dumps(value).encode()
        name = f"event: {one.event}\n".encode() if one.event else b""
        frames += [name + b"data: %s\n\n" % data] if data else []
    return b"".join(frames)


def joined(events: list[ev.Event]) -> list[ev.Event]:
    """Runs of deltas of one text as one: an empty piece adds nothing to a text."""
    found: list[ev.Event] = []
    for event in events:
        last = found[-1] if found else None
        is_text = isinstance(event, ev.TextDelta | ev.ReasoningDelta) and type(last) is type(event)
        if is_text and last.message_id == event.message_id:
            found[-1] = msgspec.structs.replace(event, text=last.text + event.text)
        else:
            found.append(event)
    return found


IN_PARTS = "openai-chat__pydantic-ai__mistral_model_thinking_part_iter"  # content is a list


@pytest.mark.parametrize("name", sorted(CHAT.keys() - {IN_PARTS}))
def test_chunks_of_chat_that_repeat_the_text_tell_it_once(name):
    events = events_of(DashScope(), frames_of(repeating(CHAT[name])))
    assert joined(events) == joined(events_of(OpenAIChat(), frames_of(CHAT[name])))


@pytest.mark.parametrize("name", CHAT)
def test_chunks_of_chat_that_do_not_are_left_as_they_are(name):
    events = events_of(DashScope(), frames_of(CHAT[name]))
    assert events == events_of(OpenAIChat(), frames_of(CHAT[name]))


def test_done_behind_a_native_stream_ends_it_once():
    body = wire(frame(choice("a", "stop"))) + b"data: [DONE]\n\n"
    assert ends(events_of(DashScope(), frames_of(body))) == [ev.RunFinished(run_id="r")]
    assert (
        len(ends(events_of(DashScope(), frames_of(wire(*texts("a")) + b"data: [DONE]\n\n")))) == 1
    )


def test_each_answer_of_chat_in_one_stream_has_its_end():
    def answer(chunk_id: str) -> bytes:
        choices = [{"index": 0, "delta": {"content": chunk_id}, "finish_reason": "stop"}]
        chunk = {"id": chunk_id, "object": "chat.completion.chunk", "choices": choices}
        return b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"

    body = answer("a") + answer("b")
    assert events_of(DashScope(), frames_of(body)) == events_of(OpenAIChat(), frames_of(body))


# --- bounds and recognition ----------------------------------------------------------------


def test_memory_is_bounded():
    decoder = DashScope().decoder()
    for n in range(2 * dashscope.MAX_REMEMBERED):
        node = {"node_id": f"n{n}", "node_name": "n"}
        body = frame(
            choice(f"t{n}", index=n, tool_calls=[{"index": n, "function": {"arguments": "{}"}}]),
            search_info={"search_results": [{"url": f"u{n}"}]},
            thoughts=[thought(action_name=f"f{n}", observation="y")],
            workflow_message=node,
        )
        list(decoder.decode(Frame(data=json.dumps(body).encode())))
    memories = (
        decoder._finish_reasons, decoder._calls, decoder._actions, decoder._nodes, decoder._sources,
    )  # fmt: skip
    assert all(len(memory) == dashscope.MAX_REMEMBERED for memory in memories)


OUTPUT = {"output": {"text": "a"}}


@pytest.mark.parametrize(
    ("fields", "body", "fit"),
    [
        ({"event": "result", "comment": b"HTTP_STATUS/200"}, OUTPUT, Fit.YES),
        ({}, {**OUTPUT, "request_id": "r"}, Fit.YES),
        ({"event": "error", "comment": b"HTTP_STATUS/400"}, {"code": "c", "message": "m"}, Fit.YES),
        ({"event": "error"}, {"code": "c", "message": "m", "request_id": "r"}, Fit.MAYBE),
        ({"event": "result"}, OUTPUT, Fit.MAYBE),
        ({}, OUTPUT, Fit.NO),
        ({"event": "error"}, {"code": "c", "message": "m"}, Fit.NO),
        ({"event": "result"}, {"message": {"content": "a"}}, Fit.NO),
        ({"comment": b"HTTP_STATUS/200"}, {"choices": []}, Fit.NO),
        ({}, {"output": "a", "request_id": "r"}, Fit.NO),
        ({}, [1], Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(fields, body, fit):
    one = Frame(data=json.dumps(body).encode(), **fields)
    assert DashScope().recognise(Head(), one) is fit
