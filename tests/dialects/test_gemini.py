"""Gemini's stream, decoded, against what Google's own client reads from the bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import google_oracle
from support.recordings import STREAMS
from support.spoiled import spoiled_frames, without_hot_frames
from support.wire import events_of, frames_of, text_of

from streamtrace.core import events as ev
from streamtrace.core.frames import Frame
from streamtrace.dialects import gemini, gemini_parts
from streamtrace.dialects.base import Fit, Head
from streamtrace.dialects.gemini import Gemini

OURS = {stream.name: stream for stream in STREAMS if stream.dialect == "gemini"}
FRAMES = [
    frame for stream in OURS.values() for frame in stream.frames() if isinstance(frame.json(), dict)
]


def wire(*values: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(value).encode() for value in values)


def said(*values: Any) -> list[ev.Event]:
    return events_of(Gemini(), frames_of(wire(*values)))


def chunk(*parts: Any, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A response with one candidate; fields of the response, or of the candidate if they are."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    if finish is not None:
        candidate["finishReason"] = finish
    for name in [name for name in fields if name.endswith("Metadata") and name != USAGE]:
        candidate[name] = fields.pop(name)
    return {"candidates": [candidate], "responseId": "r", "modelVersion": "m", **fields}


USAGE = "usageMetadata"
STARTED = [
    ev.RunStarted(run_id="r"),
    ev.GenerationStarted(response_id="r", model="m", provider="gcp.gemini"),
]


def after_start(*values: Any) -> list[ev.Event]:
    events = said(*values)
    assert events[:2] == STARTED
    return events[2:]


# --- against the official client -------------------------------------------------------------

CALL_IS_CUT = "sample-gemini-cut"  # the client passes on what came; we do not call it complete


@pytest.mark.parametrize("name", OURS)
def test_says_of_a_stream_what_the_official_client_reads(name: str) -> None:
    body = OURS[name].body.replace(b"data: [DONE]\n\n", b"")  # at which the client fails
    theirs = google_oracle.read_content(body)
    ours = google_oracle.told(events_of(Gemini(), frames_of(body)))
    if name == CALL_IS_CUT:
        assert theirs.calls == [("lookup", {})]
        theirs.calls = []
    assert ours == theirs


@pytest.mark.parametrize("name", OURS)
def test_what_python_apps_dump_of_a_stream_says_the_same(name: str) -> None:
    body = OURS[name].body.replace(b"data: [DONE]\n\n", b"")
    dumped = b""
    try:
        for response in google_oracle.chunks(body):
            dumped += b"data: %s\n\n" % response.model_dump_json().encode()
    except google_oracle.errors.APIError:
        pass  # what it read until then
    expected = google_oracle.told(events_of(Gemini(), frames_of(body)))
    if expected.error is not None and b"promptFeedback" not in body:
        expected.error = None  # it is raised, and in none of its objects
    assert google_oracle.told(events_of(Gemini(), frames_of(dumped))) == expected


# --- a response ------------------------------------------------------------------------------


def test_a_stream_in_all_its_events() -> None:
    assert after_start(
        chunk({"text": "hm", "thought": True, "thoughtSignature": "c2ln"}),
        chunk({"text": "Hi"}, usageMetadata={"promptTokenCount": 5, "thoughtsTokenCount": 3}),
        chunk(
            {"functionCall": {"id": "c", "name": "f", "args": {"a": 1}}},
            finish="STOP",
            usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 4},
        ),
    ) == [
        ev.ReasoningDelta(text="hm", message_id="r"),
        ev.TextDelta(text="Hi", message_id="r"),
        ev.ToolCallStarted(tool_call_id="c", name="f"),
        ev.ToolCallReady(tool_call_id="c", arguments='{"a":1}'),
        ev.Usage(input_tokens=5, output_tokens=4),
        ev.GenerationFinished(finish_reasons=("STOP",)),
        ev.RunFinished(run_id="r"),
    ]


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"promptTokenCount": 9}, ev.Usage(input_tokens=9)),
        ({"promptTokenCount": 9, "toolUsePromptTokenCount": 90}, ev.Usage(input_tokens=99)),
        (
            {"promptTokenCount": 9, "cachedContentTokenCount": 8, "candidatesTokenCount": 0},
            ev.Usage(input_tokens=9, cached_input_tokens=8, output_tokens=0),
        ),
        (
            {"candidatesTokenCount": 7, "thoughtsTokenCount": 30},
            ev.Usage(output_tokens=37, reasoning_tokens=30),
        ),
        ({"thoughtsTokenCount": 30}, ev.Usage(output_tokens=30, reasoning_tokens=30)),
        ({"prompt_token_count": 9, "thoughts_token_count": None}, ev.Usage(input_tokens=9)),
        ({"promptTokenCount": -1, "candidatesTokenCount": True}, None),
        ({"trafficType": "ON_DEMAND"}, None),
        ([], None),
    ],
)
def test_totals_include_their_parts(counts: Any, usage: ev.Usage | None) -> None:
    told = [one for one in said(chunk(usageMetadata=counts)) if isinstance(one, ev.Usage)]
    assert told == ([] if usage is None else [usage])


def test_the_last_usage_counts_and_is_told_once() -> None:
    events = said(
        chunk({"text": "a"}, usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 1}),
        chunk({"text": "b"}, usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 2}),
    )
    assert [one for one in events if isinstance(one, ev.Usage)] == [
        ev.Usage(input_tokens=5, output_tokens=2)
    ]


@pytest.mark.parametrize(
    ("field", "provider"), [("createTime", "gcp.vertex_ai"), ("newField", "gcp.gemini")]
)
def test_only_vertex_tells_when_a_request_came(field: str, provider: str) -> None:
    events = said(chunk({"text": "a"}, **{field: "2026-11-20T08:00:00Z"}))
    assert isinstance(events[1], ev.GenerationStarted)
    assert events[1].provider == provider


def test_a_model_that_is_named_later_adds_to_the_generation() -> None:
    first = chunk({"text": "a"})
    del first["modelVersion"]
    starts = [one for one in said(first, chunk()) if isinstance(one, ev.GenerationStarted)]
    assert [(one.response_id, one.model) for one in starts] == [("r", None), ("r", "m")]


# --- how it ends -----------------------------------------------------------------------------


def ends(*values: Any) -> list[ev.Event]:
    kinds = (ev.GenerationFinished, ev.RunStarted, *ev.TERMINAL)
    return [event for event in said(*values) if isinstance(event, kinds)][1:]


def finished(*reasons: str) -> ev.GenerationFinished:
    return ev.GenerationFinished(finish_reasons=reasons)


DONE = ev.RunFinished(run_id="r")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([chunk({"text": "a"})], []),
        ([chunk({"text": "a"}, finish="STOP")], [finished("STOP"), DONE]),
        # some models say STOP with every frame; another word is news
        ([chunk(finish="STOP"), chunk(finish="STOP")], [finished("STOP"), DONE]),
        (
            [chunk(finish="STOP"), chunk(finish="SAFETY")],
            [finished("STOP"), finished("SAFETY"), DONE],
        ),
        # all candidates have to finish, in whatever order
        ([chunk(), chunk(index=1), chunk(index=1, finish="STOP")], []),
        (
            [chunk(), chunk(index=1, finish="MAX_TOKENS"), chunk(finish="STOP")],
            [finished("STOP", "MAX_TOKENS"), DONE],
        ),
        # the next call of an agent, which is cut
        ([chunk(finish="STOP"), chunk({"text": "b"}, responseId="r2")], [finished("STOP")]),
        # a gateway that numbers every frame
        ([chunk(), chunk(responseId="r2", finish="STOP")], [finished("STOP"), DONE]),
    ],
)
def test_a_stream_ends_well_once_all_candidates_have_finished(
    chunks: list[Any], expected: list[ev.Event]
) -> None:
    assert ends(*chunks) == expected


ERROR = {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}
FAILED = ev.RunFailed(type="UNAVAILABLE", message="Overloaded")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (wire({"error": ERROR}), FAILED),
        (wire([{"error": ERROR}]), FAILED),
        (json.dumps({"error": ERROR}, indent=2).encode() + b"\n\n", FAILED),
        (json.dumps({"error": ERROR}).encode(), FAILED),
        (json.dumps([{"error": ERROR}]).encode() + b"\r\n\r\n", FAILED),
        (wire({"error": {"code": 429}}), ev.RunFailed(type="429")),
        (wire({"error": "no"}), ev.RunFailed(message="no")),
        (wire({"promptFeedback": {"blockReason": "SAFETY"}}), ev.RunFailed(type="SAFETY")),
        (
            wire({"prompt_feedback": {"block_reason": "OTHER", "block_reason_message": "no"}}),
            ev.RunFailed(type="OTHER", message="no"),
        ),
    ],
)
def test_an_error_in_whatever_shape_fails_the_run(body: bytes, expected: ev.RunFailed) -> None:
    events = events_of(Gemini(), frames_of(wire(chunk({"text": "a"})) + body))
    assert events[-1] == expected
    alone = events_of(Gemini(), frames_of(body))
    assert [event for event in alone if isinstance(event, ev.TERMINAL)] == [expected]


def test_ratings_of_a_prompt_that_was_answered_are_no_error() -> None:
    feedback = {"safetyRatings": [], "blockReason": "OTHER"}
    assert ends(chunk(finish="STOP", promptFeedback=feedback)) == [finished("STOP"), DONE]


def test_a_failed_run_fails_once_and_the_next_response_is_another_run() -> None:
    events = ends({"error": ERROR}, {"error": ERROR}, chunk({"text": "a"}, finish="STOP"))
    assert events == [ev.RunStarted(run_id="r"), finished("STOP"), DONE]


# --- parts -----------------------------------------------------------------------------------


def call(**fields: Any) -> dict[str, Any]:
    return {"functionCall": fields}


def edit(path: str, *, more: bool = False, **value: Any) -> dict[str, Any]:
    return {"jsonPath": path, **value, **({"willContinue": True} if more else {})}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([call(name="f")], [("f", None)]),
        ([call(name="f", args={})], [("f", "{}")]),
        (
            [call(name="f", args={"a": 1}), call(name="f", args={"a": 2})],
            [("f", '{"a":1}'), ("f", '{"a":2}')],
        ),
        (  # streamed: ended by an empty part
            [
                call(name="f", willContinue=True),
                call(partialArgs=[edit("$.a", stringValue="x", more=True)], willContinue=True),
                call(partialArgs=[edit("$.a", stringValue="y")], willContinue=True),
                call(),
            ],
            [("f", '{"a":"xy"}')],
        ),
        (  # ended by the next call
            [
                call(name="f", willContinue=True, partialArgs=[edit("$.a", numberValue=1)]),
                call(name="g", args={}),
            ],
            [("f", '{"a":1}'), ("g", "{}")],
        ),
        (  # ended by the last edit; null in both spellings, and an object that cannot be told
            [
                call(
                    name="f",
                    partialArgs=[
                        edit("$.a", nullValue="NULL_VALUE"),
                        {"json_path": "$.b", "null_value": None},
                        edit("$.c"),
                    ],
                )
            ],
            [("f", '{"a":null,"b":null}')],
        ),
        (  # open when the answer ends
            [call(name="f", willContinue=True, partialArgs=[edit("$.a", boolValue=True)])],
            [("f", '{"a":true}')],
        ),
    ],
)
def test_arguments_come_whole_or_as_edits(
    parts: list[Any], expected: list[tuple[str, str | None]]
) -> None:
    calls: dict[str, list[Any]] = {}
    for event in after_start(*(chunk(part) for part in parts), chunk(finish="STOP")):
        match event:
            case ev.ToolCallStarted():
                calls[event.tool_call_id] = [event.name, None]
            case ev.ToolCallArgumentsDelta():
                calls[event.tool_call_id][1] = (calls[event.tool_call_id][1] or "") + event.delta
            case ev.ToolCallReady(arguments=str(arguments)):
                assert calls[event.tool_call_id][1] is None
                calls[event.tool_call_id][1] = arguments
    assert [tuple(one) for one in calls.values()] == expected


def test_an_edit_that_goes_back_is_told_as_it_is() -> None:
    back = edit("$.a", stringValue="again")
    parts = [call(name="f", partialArgs=[edit("$.a", numberValue=1), back], willContinue=True)]
    assert ev.Custom(name="partialArgs", value=back) in after_start(chunk(*parts))


PYTHON = {"language": "PYTHON", "code": "1/0"}


@pytest.mark.parametrize(
    ("asked", "answered", "told"),
    [
        (
            {"executableCode": PYTHON},
            {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "oh"}},
            ("code_execution", '{"language":"PYTHON","code":"1/0"}', "oh", True),
        ),
        (
            {"executableCode": {**PYTHON, "id": "x"}},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "id": "x"}},
            ("code_execution", '{"language":"PYTHON","code":"1/0"}', None, False),
        ),
        (
            {"toolCall": {"id": "t", "toolType": "URL_CONTEXT", "args": {"urls": []}}},
            {"toolResponse": {"id": "t", "toolType": "URL_CONTEXT", "response": {"a": 1}}},
            ("URL_CONTEXT", '{"urls":[]}', '{"a":1}', False),
        ),
        (
            call(name="f"),
            {"functionResponse": {"name": "f", "response": {"error": "no"}}},
            ("f", None, '{"error":"no"}', True),
        ),
    ],
)
def test_tools_of_the_server_are_calls_with_results(asked: Any, answered: Any, told: Any) -> None:
    start, ready, end = after_start(chunk(asked), chunk(answered))
    assert isinstance(start, ev.ToolCallStarted)
    assert isinstance(ready, ev.ToolCallReady)
    assert isinstance(end, ev.ToolCallResult)
    assert start.tool_call_id == ready.tool_call_id == end.tool_call_id
    assert (start.name, ready.arguments, end.result, end.is_error) == told


def test_a_result_without_an_id_is_that_of_the_oldest_call_of_its_name() -> None:
    answer = {"functionResponse": {"name": "f", "response": {}}}
    events = after_start(
        chunk(call(name="f"), call(name="g"), call(name="f")), *[chunk(answer)] * 3
    )
    ids = [event.tool_call_id for event in events if isinstance(event, ev.ToolCallResult)]
    assert ids == ["r:0", "r:2", "r:3"]
    assert events[-2] == ev.ToolCallStarted(tool_call_id="r:3", name="f")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"text": ""}, []),
        ({"thoughtSignature": "c2ln"}, []),
        ({"text": None, "inlineData": {"data": "AA=="}}, ["inlineData"]),
        ({"newPart": 1, "text": "a"}, ["newPart", "a"]),
        ({"functionCall": "f"}, ["functionCall"]),
        (7, []),
    ],
)
def test_what_stands_beside_the_text(part: Any, expected: list[str]) -> None:
    events = after_start(chunk(part))
    names = [one.name if isinstance(one, ev.Custom) else one.text for one in events]  # type: ignore[attr-defined]
    assert names == expected


def test_text_that_is_not_the_models_is_no_output() -> None:
    value = chunk({"text": "hi"})
    value["candidates"][0]["content"]["role"] = "user"
    assert after_start(value) == [ev.Custom(name="text", value="hi")]


def test_sources_are_told_once() -> None:
    web = {"web": {"uri": "u", "title": "t"}}
    grounding = {"groundingChunks": [web, {"maps": {"title": "only"}}, {"web": {}}, 7]}
    one = chunk({"text": "a"}, groundingMetadata=grounding)
    sources = [event for event in said(one, one) if isinstance(event, ev.Source)]
    assert sources == [ev.Source(url="u", title="t"), ev.Source(title="only")]


# --- frames that are no response -------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: [DONE]\n\n", []),
        (b": ping\n\n", []),
        (b'data: {"a":1}\n\n', [ev.Custom(name="unknown", value={"a": 1})]),
        (b"event: note\ndata: hello\n\n", [ev.Custom(name="note", value="hello")]),
        (b"hello\n\n", [ev.Custom(name="stray", value="hello")]),
        (b'data: {"candidates":[{"content"', []),
        (b'data: {"a":1}', [ev.Custom(name="unknown", value={"a": 1})]),
    ],
)
def test_frames_that_are_no_response(body: bytes, expected: list[ev.Event]) -> None:
    assert events_of(Gemini(), frames_of(body)) == expected


def test_responses_in_an_array_are_read_one_by_one() -> None:
    assert text_of(said([chunk({"text": "a"}), chunk({"text": "b"})])) == "ab"


# --- recognition -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fit"),
    [
        (chunk({"text": "a"}), Fit.YES),
        ([chunk({"text": "a"})], Fit.YES),
        ({"candidates": [{"finish_reason": "STOP"}]}, Fit.YES),
        ({"candidates": []}, Fit.NO),
        ({"candidates": ["Ann"]}, Fit.NO),
        ({"candidates": [{"content": "Hi"}]}, Fit.NO),
        ({"candidates": [{"index": 0}], "usageMetadata": {}, "modelVersion": "m"}, Fit.YES),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, Fit.YES),
        ({"promptFeedback": "fine"}, Fit.NO),
        ({"usageMetadata": {}, "modelVersion": "m"}, Fit.YES),
        ({"usageMetadata": {}, "modelVersion": "m", "author": "a", "invocationId": "i"}, Fit.NO),
        ({"error": ERROR}, Fit.MAYBE),
        ({"error": {"message": "m", "code": "invalid_api_key"}}, Fit.NO),
        ({"type": "message_start"}, Fit.NO),
        (7, Fit.NO),
    ],
)
def test_recognises_its_own_frames_only(value: Any, fit: Fit) -> None:
    assert Gemini().recognise(Head(), Frame(data=json.dumps(value).encode())) is fit


@pytest.mark.parametrize(
    ("stray", "fit"), [(json.dumps({"error": ERROR}).encode(), Fit.MAYBE), (b"hello", Fit.NO)]
)
def test_an_error_without_framing_may_be_its_own(stray: bytes, fit: Fit) -> None:
    assert Gemini().recognise(Head(), Frame(stray=stray)) is fit


# --- robustness ------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(spoiled_frames(FRAMES) | st.sampled_from(FRAMES), min_size=1, max_size=8))
def test_no_json_makes_it_raise_and_the_quick_reading_is_only_quicker(frames: list[Frame]) -> None:
    for frame in frames:
        Gemini().recognise(Head(), frame)
    events = events_of(Gemini(), frames)
    with without_hot_frames(gemini):
        assert repr(events_of(Gemini(), frames)) == repr(events)


def test_what_waits_is_bounded() -> None:
    decoder = Gemini().decoder()

    def feed(value: Any) -> list[ev.Event]:
        return list(decoder.decode(Frame(data=json.dumps(value).encode())))

    for number in range(gemini_parts.MAX_WAITING + 1):
        feed(chunk(call(name=f"f{number}")))
    answer = {"functionResponse": {"name": "f0", "response": {}}}
    assert isinstance(feed(chunk(answer))[0], ev.ToolCallStarted)  # forgotten
    for index in range(2 * gemini.MAX_CANDIDATES):
        feed(chunk({"text": "a"}, index=index))
    assert len(decoder._answers) == gemini.MAX_CANDIDATES  # type: ignore[attr-defined]
