"""How a run looks as a trace."""

from __future__ import annotations

import json

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
    MAX_CHILD_SPANS,
    MAX_METADATA,
    MAX_WORD_CHARS,
    SpanRecord,
    messages_json,
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

FAILED = {Status.ERROR, Status.TRUNCATED, Status.TIMEOUT}
CONTENT = {
    names.INPUT_MESSAGES,
    names.OUTPUT_MESSAGES,
    names.TOOL_CALL_ARGUMENTS,
    names.TOOL_CALL_RESULT,
    names.ERROR_MESSAGE,
}
ALLOWED = {value for value in vars(names).values() if isinstance(value, str)} | set(
    names.REQUEST_PARAMETERS.values()
)


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
        assert len(record.attributes) <= 128


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
        {"type": "reasoning", "content": f"The user asks for the weather. {CANARY}-reasoning"}
    ]
    assert root.attributes[names.OUTPUT_MESSAGES] == last.attributes[names.OUTPUT_MESSAGES]
    assert call.attributes[names.TOOL_CALL_ARGUMENTS] == f'{{"city":"{CANARY}-arguments"}}'


def test_hashed_content_shows_its_hash():
    """Content mode "hash": equal texts can be told apart from others, and not read."""
    assert messages_json("user", Content(chars=5, sha256="ab" * 32)) == (
        '[{"role":"user","parts":[{"type":"text","content":"sha256:' + "ab" * 32 + '"}]}]'
    )
    assert messages_json("user", Content(chars=5)) is None


def cut_answer() -> RunSummary:
    answer = content("the beginning", chars=1_000_000, truncated=True)
    return completed_run(generations=[generation(text=answer, reasoning=content("short"))])


def test_cut_content_says_so_with_its_true_length():
    """On the span of the generation and on the root, whose output it is."""
    root, chat, call = project(cut_answer())

    for record in (root, chat):
        assert record.attributes[names.CONTENT_TRUNCATED] is True
    assert chat.attributes[names.CONTENT_CHARS] == 1_000_005
    assert names.CONTENT_TRUNCATED not in call.attributes
    assert names.CONTENT_CHARS not in project(completed_run())[0].attributes


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
