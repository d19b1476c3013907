"""How a run looks as a trace."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from support.summaries import (
    CANARY,
    EXAMPLES,
    MS,
    STARTED_AT_NS,
    completed_run,
    content,
    disconnected_run,
    failed_run,
    generation,
    long_run,
    lossy_run,
    minimal_run,
    run_with_status,
    summaries,
    tool_call,
    without_content,
)

from streamtrace.core import names
from streamtrace.core.spans import (
    MAX_ATTRIBUTES,
    MAX_CHILD_SPANS,
    MAX_METADATA,
    MAX_WORD_CHARS,
    SpanRecord,
    project,
)
from streamtrace.core.summary import (
    Content,
    ErrorInfo,
    Labels,
    RequestFacts,
    RunSummary,
    Status,
    TokenCounts,
)
from streamtrace.observe.offline import summarize

RECORDINGS = Path(__file__).parents[1] / "recordings"
TWO_TOOLS = (
    "openai-chat__opentelemetry-python-contrib__"
    "chat_completion_multiple_tools_streaming_with_content"
)
FAILED = {Status.ERROR, Status.TRUNCATED, Status.TIMEOUT}
CONTENT = {
    names.INPUT_MESSAGES,
    names.OUTPUT_MESSAGES,
    names.TOOL_CALL_ARGUMENTS,
    names.TOOL_CALL_RESULT,
    names.ERROR_MESSAGE,
}
ALLOWED = {
    *(value for value in vars(names).values() if isinstance(value, str)),
    *names.REQUEST_PARAMETERS.values(),
    *names.CONTENT_CHARS.values(),
}


def keys_of(records: list[SpanRecord]) -> set[str]:
    keys = {key for record in records for key in record.attributes}
    return keys | {key for record in records for event in record.events for key in event.attributes}


# --- shape ---------------------------------------------------------------------------------------


def test_a_run_is_a_tree_of_its_generations_and_tool_calls():
    """The root first, then the children in order of their start, each with its own span of time."""
    run = completed_run()
    root, *children = project(run)

    assert (root.kind, root.name) == ("run", "invoke_agent weather-agent")
    assert (root.start_ns, root.end_ns) == (STARTED_AT_NS, STARTED_AT_NS + run.duration_ns)
    assert [
        (one.kind, one.name, one.start_ns - STARTED_AT_NS, one.end_ns - STARTED_AT_NS)
        for one in children
    ] == [
        ("generation", "chat gpt-5-mini", 100 * MS, 500 * MS),
        ("tool_call", "execute_tool get_weather", 500 * MS, 1_200 * MS),
        ("generation", "chat gpt-5-mini", 1_250 * MS, 2_400 * MS),
    ]
    assert root.source is run
    assert [one.source for one in children] == [
        run.generations[0],
        run.tool_calls[0],
        run.generations[1],
    ]


def test_spans_events_and_attributes_do_not_grow_with_the_answer():
    """10 tokens and 100,000: the same spans, events and attribute names."""
    short, long = project(long_run(10)), project(long_run(100_000))

    def shape(records: list[SpanRecord]) -> list[object]:
        return [
            (one.kind, one.name, sorted(one.attributes), [e.name for e in one.events])
            for one in records
        ]

    assert shape(short) == shape(long)
    assert len(long) == 2


def test_children_are_capped_and_the_cap_is_told():
    """A run of 1,000 tool calls: the first ones, and how many are missing."""
    calls = [tool_call(id=f"c{n}", ready_ns=n, finished_ns=n + 1) for n in range(1_000)]
    root, *children = project(completed_run(generations=[], tool_calls=calls))

    assert len(children) == MAX_CHILD_SPANS
    assert [one.attributes[names.TOOL_CALL_ID] for one in children[:2]] == ["c0", "c1"]
    assert root.attributes[names.SPANS_LEFT_OUT] == 1_000 - MAX_CHILD_SPANS
    assert names.SPANS_LEFT_OUT not in project(completed_run())[0].attributes


@pytest.mark.parametrize(
    ("finished_ns", "spans"), [(None, 0), (0, 1), (5, 1)], ids=["no result", "at once", "later"]
)
def test_a_tool_call_is_a_span_only_if_its_result_passed_through_the_stream(finished_ns, spans):
    """How long a tool ran cannot be seen from a call that was only asked for."""
    call = tool_call(started_ns=0, ready_ns=0, finished_ns=finished_ns)

    assert len(project(minimal_run(tool_calls=[call]))) == 1 + spans


@settings(max_examples=200)
@given(run=summaries(hostile=True))
def test_any_run_projects_to_records_that_can_be_written(run):
    """Children inside the run, no negative time, known names, encodable and bounded values."""
    records = project(run)
    root = records[0]

    assert [one.kind for one in records].count("run") == 1
    for record in records:
        assert root.start_ns <= record.start_ns <= record.end_ns <= root.end_ns
        assert len(record.name.encode()) < 5 * MAX_WORD_CHARS
        for event in record.events:
            assert root.start_ns <= event.at_ns <= root.end_ns
        told = [record.attributes, *(event.attributes for event in record.events)]
        for key, value in (item for attributes in told for item in attributes.items()):
            assert key in ALLOWED or key.startswith(names.METADATA)
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one, str | bool | int | float)
                if isinstance(one, str):
                    assert one.encode() is not None
                    assert key in CONTENT or len(one) <= MAX_WORD_CHARS
                elif isinstance(one, int):
                    assert -(2**63) <= one < 2**63
        assert max(len(record.attributes), len(record.events)) <= MAX_ATTRIBUTES


# --- what is said, and what is not ---------------------------------------------------------------


def test_the_root_says_what_is_known_of_the_run():
    """Where, how it ended, its times in seconds and its sizes."""
    attributes = project(completed_run())[0].attributes

    assert attributes[names.OPERATION_NAME] == "invoke_agent"
    assert attributes[names.AGENT_NAME] == "weather-agent"
    assert attributes[names.CONVERSATION_ID] == "thread-3"
    assert attributes[names.USER_ID] == "user-9"
    assert attributes[names.SESSION_ID] == "session-4"
    assert attributes[names.HTTP_ROUTE] == "/agents/{name}/runs"
    assert attributes[names.STATUS] == "completed"
    assert attributes[names.TIME_TO_FIRST_TOKEN] == 0.35
    assert attributes[names.TIME_TO_FIRST_VISIBLE_TOKEN] == 1.6
    assert attributes[names.LONGEST_GAP] == 0.7
    assert attributes[names.USAGE_INPUT_TOKENS] == 240
    assert attributes[names.USAGE_CACHE_READ_INPUT_TOKENS] == 128
    assert attributes[names.STEPS] == ["plan", "answer"]
    assert attributes[names.TAGS] == ["beta", "weather"]
    assert attributes[names.METADATA + "tenant"] == "acme"
    assert attributes[names.METADATA + "attempt"] == 2
    assert attributes[names.METADATA + "flags"] == '{"dry_run":false}'


def test_a_generation_says_model_usage_and_its_own_first_token():
    """Time to first token of a generation counts from its own start."""
    attributes = project(completed_run())[3].attributes

    assert attributes[names.REQUEST_MODEL] == "gpt-5-mini"
    assert attributes[names.RESPONSE_MODEL] == "gpt-5-mini-2025-08-07"
    assert attributes[names.PROVIDER_NAME] == "openai"
    assert attributes[names.RESPONSE_FINISH_REASONS] == ["stop"]
    assert attributes[names.RESPONSE_TIME_TO_FIRST_CHUNK] == 0.35
    assert attributes[names.USAGE_OUTPUT_TOKENS] == 48
    assert attributes[names.USAGE_REASONING_OUTPUT_TOKENS] == 16
    assert attributes["gen_ai.request.temperature"] == 0.2
    assert attributes["gen_ai.request.max_tokens"] == 512


def test_what_is_not_known_has_no_attribute():
    """Absent is not zero: a bare run has neither times, nor usage, nor cost, nor labels."""
    [root] = project(minimal_run())

    assert set(root.attributes) == {
        names.OPERATION_NAME,
        names.HTTP_ROUTE,
        names.STATUS,
        names.DIALECT,
        names.TERMINAL_SEEN,
        names.TRANSPORT,
        names.SEND_STALL,
        names.LONGEST_SEND_STALL,
        names.FRAMES,
        names.EVENTS,
        names.BYTES,
        names.ERROR_TYPE,
    }
    assert root.events == []
    assert root.name == "invoke_agent"


def test_a_status_may_be_an_enum_of_numbers():
    """As in `StreamingResponse(..., status_code=HTTPStatus.OK)`."""
    attributes = project(completed_run(http_status=HTTPStatus.OK))[0].attributes

    assert attributes[names.HTTP_RESPONSE_STATUS_CODE] == 200


@pytest.mark.parametrize(("count", "told"), [(2**63 - 1, True), (2**63, False)])
def test_a_number_of_more_than_64_bits_is_left_out(count, told):
    """The widest that can be encoded is still told."""
    attributes = project(completed_run(frames=count))[0].attributes

    assert (names.FRAMES in attributes) is told


def test_zero_that_was_told_stays_zero():
    """A model that said 0 output tokens said so."""
    run = completed_run(usage=TokenCounts(output_tokens=0))
    attributes = project(run)[0].attributes

    assert attributes[names.USAGE_OUTPUT_TOKENS] == 0
    assert names.USAGE_INPUT_TOKENS not in attributes


def test_moments_are_span_events_at_their_times():
    """First token, first visible token and the longest gap, in Unix time."""
    [first, visible, gap] = project(completed_run())[0].events

    assert (first.name, first.at_ns) == (names.EVENT_FIRST_TOKEN, STARTED_AT_NS + 350 * MS)
    assert (visible.name, visible.at_ns) == (
        names.EVENT_FIRST_VISIBLE_TOKEN,
        STARTED_AT_NS + 1_600 * MS,
    )
    assert (gap.name, gap.at_ns) == (names.EVENT_LONGEST_GAP, STARTED_AT_NS + 1_200 * MS)
    assert gap.attributes == {names.LONGEST_GAP: 0.7}


def test_what_the_observer_lost_is_on_the_root():
    """Lost chunks and issues are told, so that nobody takes the record for whole."""
    root = project(lossy_run())[0]

    assert root.attributes[names.LOST_CHUNKS] == 12
    assert root.attributes[names.LOST_BYTES] == 4_096
    assert root.attributes[names.ISSUES] == ["bad_json:1", "unknown_event:3"]
    assert names.EVENT_LOST in [event.name for event in root.events]


def test_many_metadata_do_not_push_out_the_rest():
    """SDKs evict the oldest of 128 attributes: the operation's name would be the first to go."""
    labels = Labels(metadata={f"key{n}": n for n in range(500)})
    attributes = project(completed_run(labels=labels))[0].attributes

    assert sum(key.startswith(names.METADATA) for key in attributes) == MAX_METADATA
    assert len(attributes) < 128


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
def test_only_failures_of_the_service_are_errors(status):
    """A client that left, a stop and a question are not: root, attribute and generation agree."""
    root, chat, *_ = project(run_with_status(status))

    assert (root.error is not None) is (status in FAILED)
    assert root.attributes.get(names.ERROR_TYPE) == root.error
    if status is not Status.COMPLETED:  # its generation was cut off with the run
        assert chat.error == root.error
    assert root.attributes[names.STATUS] == str(status)


@pytest.mark.parametrize("status", sorted(set(Status) - FAILED))
def test_an_exception_seen_while_the_client_left_makes_no_error(status):
    """The server raises into the app when a client goes: that is no fault of the app."""
    run = disconnected_run(status=status, error=ErrorInfo(type="ClientDisconnect"))

    assert {record.error for record in project(run)} == {None}


def test_an_error_told_in_the_stream_has_its_type_on_root_and_generation():
    """The type is an attribute; the message is content, and an event's."""
    root, chat = project(failed_run())

    assert root.error == chat.error == "rate_limit_exceeded"
    assert root.attributes[names.ERROR_TYPE] == "rate_limit_exceeded"
    assert chat.attributes[names.ERROR_TYPE] == "rate_limit_exceeded"
    error = root.events[-1]
    assert error.name == names.EVENT_ERROR
    assert error.attributes[names.ERROR_MESSAGE] == f"too many tokens {CANARY}-error"


def test_a_generation_that_had_finished_is_not_blamed_for_a_later_error():
    """The model was done; a tool of the app raised."""
    run = failed_run(generations=[generation(finish_reasons=["tool_calls"])])
    root, chat = project(run)

    assert root.error == "rate_limit_exceeded"
    assert chat.error is None
    assert names.ERROR_TYPE not in chat.attributes


def test_a_failed_tool_call_is_an_error_of_its_own_span_only():
    """The agent may go on and answer well."""
    root, _, call, _ = project(completed_run(tool_calls=[tool_call(status="error")]))

    assert (root.error, call.error) == (None, "tool_error")
    assert call.attributes[names.ERROR_TYPE] == "tool_error"


# --- content -------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_without_captured_content_no_attribute_of_content_appears(example):
    """Not even an empty one, and no text anywhere."""
    records = project(without_content(EXAMPLES[example]()))

    assert keys_of(records).isdisjoint(CONTENT)
    assert CANARY not in repr([(one.name, one.attributes, one.events) for one in records])


def test_captured_content_is_json_text_in_the_shape_of_the_conventions():
    """Messages with parts, as text: nested attribute values are not read everywhere."""
    root, first, call, last = project(completed_run())

    assert json.loads(str(root.attributes[names.INPUT_MESSAGES])) == [
        {
            "role": "user",
            "parts": [{"type": "text", "content": f"What is the weather in Paris? {CANARY}-input"}],
        }
    ]
    assert json.loads(str(first.attributes[names.OUTPUT_MESSAGES]))[0]["parts"] == [
        {"type": "reasoning", "content": f"The user asks for the weather. {CANARY}-reasoning"},
        {
            "type": "tool_call",
            "id": "call_weather_1",
            "name": "get_weather",
            "arguments": f'{{"city":"{CANARY}-arguments"}}',
        },
    ]
    assert root.attributes[names.OUTPUT_MESSAGES] == last.attributes[names.OUTPUT_MESSAGES]
    assert call.attributes[names.TOOL_CALL_ARGUMENTS] == f'{{"city":"{CANARY}-arguments"}}'


def test_the_messages_of_a_chat_are_the_input_of_the_run():
    """With their roles, and not as one text of the user."""
    chat = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": ""}])
    run = completed_run(request=RequestFacts(input=content(chat)))
    found = json.loads(str(project(run)[0].attributes[names.INPUT_MESSAGES]))

    assert [message["role"] for message in found] == ["system", "user"]


CHARS = names.CONTENT_CHARS


def cut(chars: int) -> Content:
    """A text of which only the beginning was kept, or nothing at all."""
    return content("the beginning" if chars % 2 else "", chars=chars, truncated=True)


def test_cut_content_says_so_with_its_true_length():
    """On the span that shows it, and nothing where nothing was cut."""
    run = failed_run(
        request=RequestFacts(input=cut(101)),
        generations=[generation(text=cut(102), reasoning=cut(103))],
        tool_calls=[tool_call(arguments=cut(104), result=cut(105))],
        error=ErrorInfo(type="boom", message=cut(106)),
    )
    root, chat, call = project(run)

    def said(record: SpanRecord) -> dict[str, object]:
        return {key: one for key, one in record.attributes.items() if key in CHARS.values()}

    assert said(root) == {CHARS["input"]: 101, CHARS["text"]: 102, CHARS["error"]: 106}
    assert said(chat) == {CHARS["text"]: 102, CHARS["reasoning"]: 103}
    assert said(call) == {CHARS["arguments"]: 104, CHARS["result"]: 105}
    for record in (root, chat, call):
        assert record.attributes[names.CONTENT_TRUNCATED] is True
    for record in project(failed_run(tool_calls=[tool_call()])):
        assert said(record) == {}
        assert names.CONTENT_TRUNCATED not in record.attributes


def test_a_short_text_beside_a_cut_one_is_not_said_to_be_cut():
    """One length per text: their sum would tell of neither."""
    run = completed_run(generations=[generation(text=cut(1_000_001), reasoning=content("short"))])
    _, chat, _ = project(run)

    assert chat.attributes[CHARS["text"]] == 1_000_001
    assert CHARS["reasoning"] not in chat.attributes


def test_cut_arguments_of_a_call_without_a_span_have_their_lengths_with_its_name():
    """The model asked for two tools, and the stream ended there."""
    calls = [
        tool_call(id="c1", finished_ns=None, arguments=content("{}")),
        tool_call(id="c2", finished_ns=None, arguments=cut(9_001)),
    ]
    for record in project(completed_run(generations=[generation()], tool_calls=calls)):
        assert record.attributes[names.CONTENT_TRUNCATED] is True
        assert record.attributes[names.TOOL_CALL_ARGUMENTS_CHARS] == [2, 9_001]


# --- tool calls that the stream leaves unanswered ------------------------------------------------


def asked_by(record: SpanRecord) -> list[str]:
    """The ids of the calls that a span shows as output, which its attribute names as well."""
    [message] = json.loads(str(record.attributes[names.OUTPUT_MESSAGES]))
    shown = [part["id"] for part in message["parts"] if part["type"] == "tool_call"]
    assert shown == [call.id for call in record.tool_calls]
    return shown


def test_an_unanswered_tool_call_is_output_of_its_generation_and_of_the_run():
    """The normal end of a chat completion: the model asks, the client runs the tool."""
    body = (RECORDINGS / f"{TWO_TOOLS}.sse").read_bytes()
    run = summarize((at, frame + b"\n\n") for at, frame in enumerate(body.split(b"\n\n")) if frame)
    root, chat = project(run)

    assert len(run.tool_calls) == 2
    for record in (root, chat):
        assert asked_by(record) == [call.id for call in run.tool_calls]
        assert record.attributes[names.TOOL_CALL_NAMES] == [call.name for call in run.tool_calls]
        assert record.attributes[names.TOOL_CALL_IDS] == [call.id for call in run.tool_calls]
        for part in json.loads(str(record.attributes[names.OUTPUT_MESSAGES]))[0]["parts"]:
            assert part["type"] == "text" or json.loads(part["arguments"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_without_captured_content_tool_calls_still_have_names_and_ids(example):
    """Lengths, names and ids are no content."""
    run = without_content(EXAMPLES[example]())
    for record in project(run):
        calls = run.tool_calls if record.kind == "run" else record.tool_calls
        ids = record.attributes.get(names.TOOL_CALL_IDS, [])
        assert ids == [call.id for call in calls]
        assert len(record.attributes.get(names.TOOL_CALL_NAMES, [])) == len(calls)


def turns(**changes: object) -> RunSummary:
    """Two turns of a model: 0 to 10 and, after the result at 20, to 30."""
    return minimal_run(
        duration_ns=100,
        generations=[
            generation(started_ns=0, finished_ns=10),
            generation(started_ns=20, finished_ns=30),
        ],
        **changes,
    )


def test_a_call_that_was_answered_before_a_generation_began_is_not_its_own():
    """The model was not seen asking: only the run tells of the call."""
    call = tool_call(started_ns=5, ready_ns=5, finished_ns=20)
    run = turns(tool_calls=[call])
    root, _, *chats = project(msgspec.structs.replace(run, generations=run.generations[1:]))

    assert [one.tool_calls for one in chats] == [[]]
    assert root.attributes[names.TOOL_CALL_NAMES] == ["get_weather"]


@pytest.mark.parametrize(
    ("started_ns", "finished_ns", "turn"),
    [
        (5, None, 0),
        (5, 20, 0),
        (12, 20, 0),  # without arguments: such a call is no output that prolongs its generation
        (25, None, 1),
        (35, None, 1),
        (20, None, 1),
        (20, 20, 0),  # all in one message: the result came before the next turn
    ],
)
def test_a_tool_call_belongs_to_the_generation_that_asked_for_it(started_ns, finished_ns, turn):
    """The last one that had begun, even if it had nothing more to say after the call."""
    call = tool_call(started_ns=started_ns, ready_ns=None, finished_ns=finished_ns)
    chats = [one for one in project(turns(tool_calls=[call])) if one.kind == "generation"]

    assert [len(one.tool_calls) for one in chats] == [int(turn == 0), int(turn == 1)]


def test_a_tool_call_of_no_generation_is_told_by_the_run():
    """A call without arguments may be all that an agent says."""
    [root] = project(minimal_run(tool_calls=[tool_call(finished_ns=None)]))

    assert asked_by(root) == ["call_weather_1"]
    assert root.attributes[names.TOOL_CALL_NAMES] == ["get_weather"]


def test_an_answered_tool_call_is_no_output_of_the_run():
    """The agent ran it itself; the client sees the answer."""
    root, first, _, last = project(completed_run())

    assert asked_by(first) == ["call_weather_1"]
    assert asked_by(root) == asked_by(last) == []
    assert root.attributes[names.TOOL_CALL_NAMES] == ["get_weather"]


def test_names_of_many_tool_calls_are_capped():
    """A model can ask for as many as it likes."""
    calls = [tool_call(id=f"c{n}", finished_ns=None) for n in range(1_000)]
    for record in project(completed_run(generations=[generation()], tool_calls=calls)):
        assert len(asked_by(record)) == MAX_CHILD_SPANS
        assert len(record.attributes[names.TOOL_CALL_NAMES]) == MAX_CHILD_SPANS
        assert len(record.attributes[names.TOOL_CALL_IDS]) == MAX_CHILD_SPANS


def test_long_content_is_whole_and_long_names_are_cut():
    """Content has its own cap; an endless model name is no content."""
    text = "x" * 50_000
    run = completed_run(
        request=RequestFacts(model="m" * 50_000, input=content(text)), tool_calls=[]
    )
    root, chat, _ = project(run)

    assert text in str(root.attributes[names.INPUT_MESSAGES])
    assert chat.attributes[names.REQUEST_MODEL] == "m" * MAX_WORD_CHARS


def test_half_a_surrogate_in_a_text_is_mended():
    """Protobuf takes no lone surrogate: the attribute, or the whole batch, would be lost."""
    run = failed_run(
        tool_calls=[tool_call(arguments=content('{"a":"\ud83d'), result=content("\udfff"))],
        error=ErrorInfo(type="bad", message=content("\ud800!")),
    )
    root, _, call = project(run)

    assert call.attributes[names.TOOL_CALL_ARGUMENTS] == '{"a":"\ufffd'
    assert call.attributes[names.TOOL_CALL_RESULT] == "\ufffd"
    assert root.events[-1].attributes[names.ERROR_MESSAGE] == "\ufffd!"


def test_lists_of_strangers_are_capped():
    """A response can name as many finish reasons as it likes."""
    [_, chat] = project(minimal_run(generations=[generation(finish_reasons=["stop"] * 10_000)]))

    assert chat.attributes[names.RESPONSE_FINISH_REASONS] == ["stop"] * MAX_CHILD_SPANS
