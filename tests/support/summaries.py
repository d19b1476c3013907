"""Realistic `RunSummary` objects for tests of sinks, and a Hypothesis strategy for any other.

Every function takes field changes as keywords: `completed_run(route="/v1/chat", trace=None)`.
The runs carry captured content; `without_content` gives the same run as a sink with content off
sees it. All content holds the word `CANARY`, so a leak can be searched for.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from streamtrace.core.sink import StreamInfo
from streamtrace.core.summary import (
    Content,
    ErrorInfo,
    Generation,
    Labels,
    ModelUsage,
    RequestFacts,
    RunConnection,
    RunSummary,
    Status,
    Step,
    TokenCounts,
    ToolCall,
    TraceIds,
)

CANARY = "CANARY"
STARTED_AT_NS = 1_795_166_400_123_456_789
"""2026-11-20T09:20:00.123456789Z"""
MS = 1_000_000
S = 1_000_000_000


def content(text: str, **changes: Any) -> Content:
    """A captured text, whole."""
    return Content(**{"chars": len(text), "text": text, **changes})


def trace_ids(seed: int | None = None, **changes: Any) -> TraceIds:
    """Fresh ids (the same ones for the same seed), sampled, below a server span."""
    ids = random.Random(seed)
    given: dict[str, Any] = {
        "trace_id": f"{ids.getrandbits(128) | 1:032x}",
        "span_id": f"{ids.getrandbits(64) | 1:016x}",
        "parent_span_id": f"{ids.getrandbits(64) | 1:016x}",
        "sampled": True,
    }
    return TraceIds(**{**given, **changes})


def generation(**changes: Any) -> Generation:
    """One call of a model that thought, then answered."""
    given: dict[str, Any] = {
        "started_ns": 100 * MS,
        "finished_ns": 900 * MS,
        "model": "gpt-5-mini-2025-08-07",
        "provider": "openai",
        "response_id": "resp_0a1b2c",
        "finish_reasons": ["stop"],
        "usage": TokenCounts(
            input_tokens=120,
            output_tokens=48,
            cached_input_tokens=64,
            reasoning_tokens=16,
        ),
        "cost_usd": 0.000113,
        "first_token_ns": 350 * MS,
        "last_token_ns": 880 * MS,
        "text": content(f"It is sunny in Paris. {CANARY}-text"),
        "reasoning": content(f"The user asks for the weather. {CANARY}-reasoning"),
    }
    return Generation(**{**given, **changes})


def tool_call(**changes: Any) -> ToolCall:
    """A tool call whose result passed through the stream."""
    given: dict[str, Any] = {
        "id": "call_weather_1",
        "name": "get_weather",
        "status": "completed",
        "started_ns": 400 * MS,
        "ready_ns": 500 * MS,
        "finished_ns": 1_200 * MS,
        "arguments": content(f'{{"city":"{CANARY}-arguments"}}'),
        "result": content(f'{{"sky":"{CANARY}-result"}}'),
    }
    return ToolCall(**{**given, **changes})


def completed_run(**changes: Any) -> RunSummary:
    """An agent that called a model, a tool and the model again, with everything known."""
    given: dict[str, Any] = {
        "status": Status.COMPLETED,
        "started_at_ns": STARTED_AT_NS,
        "duration_ns": 2 * S + 500 * MS,
        "http_status": 200,
        "dialect": "ag-ui",
        "terminal_seen": True,
        "run_id": "run-7",
        "thread_id": "thread-3",
        "route": "/agents/{name}/runs",
        "method": "POST",
        "trace": trace_ids(),
        "time_to_first_byte_ns": 40 * MS,
        "time_to_first_event_ns": 45 * MS,
        "time_to_first_token_ns": 350 * MS,
        "time_to_first_visible_token_ns": 1_600 * MS,
        "time_per_output_token_ns": 11 * MS,
        "longest_gap_ns": 700 * MS,
        "longest_gap_at_ns": 1_200 * MS,
        "send_stall_ns": 12 * MS,
        "longest_send_stall_ns": 9 * MS,
        "client_lag_ns": 250 * MS,
        "client_lag_bytes": 70_000,
        "frames": 64,
        "events": 61,
        "body_bytes": 9_876,
        "gap_counts": [0, 2, 20, 18, 6, 4, 3, 2, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0],
        "gap_sum_ns": 2_100 * MS,
        "generations": [
            generation(
                finish_reasons=["tool_calls"],
                text=Content(),
                finished_ns=500 * MS,
                last_token_ns=490 * MS,
            ),
            generation(
                started_ns=1_250 * MS,
                finished_ns=2_400 * MS,
                first_token_ns=1_600 * MS,
                last_token_ns=2_390 * MS,
                response_id="resp_3d4e5f",
                reasoning=Content(),
            ),
        ],
        "tool_calls": [tool_call()],
        "steps": [
            Step(name="plan", started_ns=50 * MS, finished_ns=500 * MS),
            Step(name="answer", started_ns=1_250 * MS, finished_ns=2_400 * MS),
        ],
        "usage": TokenCounts(
            input_tokens=240,
            output_tokens=96,
            cached_input_tokens=128,
            reasoning_tokens=32,
        ),
        "usage_by_model": [
            ModelUsage(
                model="gpt-5-mini-2025-08-07",
                provider="openai",
                usage=TokenCounts(
                    input_tokens=240,
                    output_tokens=96,
                    cached_input_tokens=128,
                    reasoning_tokens=32,
                ),
                cost_usd=0.000226,
            )
        ],
        "cost_usd": 0.000226,
        "request": RequestFacts(
            model="gpt-5-mini",
            thread_id="thread-3",
            user="user-from-request",
            parameters={"temperature": 0.2, "max_tokens": 512},
            input=content(f"What is the weather in Paris? {CANARY}-input"),
        ),
        "labels": Labels(
            user="user-9",
            session="session-4",
            agent="weather-agent",
            tags=["beta", "weather"],
            metadata={"tenant": "acme", "attempt": 2, "flags": {"dry_run": False}},
            release="2026.11.1",
            environment="staging",
        ),
    }
    return RunSummary(**{**given, **changes})


def minimal_run(**changes: Any) -> RunSummary:
    """A stream of which nothing is known but that it was there."""
    given: dict[str, Any] = {
        "status": Status.TRUNCATED,
        "started_at_ns": STARTED_AT_NS,
        "duration_ns": 5 * MS,
    }
    return RunSummary(**{**given, **changes})


def failed_run(**changes: Any) -> RunSummary:
    """An error told inside the stream, after the 200, while the model was writing."""
    given: dict[str, Any] = {
        "status": Status.ERROR,
        "error": ErrorInfo(
            type="rate_limit_exceeded", message=content(f"too many tokens {CANARY}-error")
        ),
        "generations": [generation(finish_reasons=[], usage=None, cost_usd=None)],
        "tool_calls": [],
        "usage": None,
        "usage_by_model": [],
        "cost_usd": None,
        "time_per_output_token_ns": None,
    }
    return completed_run(**{**given, **changes})


def disconnected_run(**changes: Any) -> RunSummary:
    """The client left while the model was writing; usage was never told."""
    given: dict[str, Any] = {
        "status": Status.DISCONNECTED,
        "terminal_seen": False,
        "generations": [generation(finish_reasons=[], usage=None, cost_usd=None)],
        "tool_calls": [tool_call(status="ready", finished_ns=None, result=Content())],
        "usage": None,
        "usage_by_model": [],
        "cost_usd": None,
        "time_per_output_token_ns": None,
    }
    return completed_run(**{**given, **changes})


def run_with_status(status: Status, **changes: Any) -> RunSummary:
    """A run that ended in this way, with what that way implies."""
    if status is Status.COMPLETED:
        return completed_run(**changes)
    if status is Status.ERROR:
        return failed_run(**changes)
    return disconnected_run(**{"status": status, **changes})


def long_run(tokens: int, **changes: Any) -> RunSummary:
    """An answer of this many tokens, one event each, 10 ms apart."""
    duration_ns = S + tokens * 10 * MS
    given: dict[str, Any] = {
        "duration_ns": duration_ns,
        "frames": tokens + 10,
        "events": tokens + 10,
        "body_bytes": tokens * 120,
        "gap_counts": [0, 0, tokens, *[0] * 15],
        "gap_sum_ns": tokens * 10 * MS,
        "generations": [
            generation(
                finished_ns=duration_ns - MS,
                last_token_ns=duration_ns - 2 * MS,
                usage=TokenCounts(input_tokens=120, output_tokens=tokens),
                text=Content(chars=tokens * 4),
                reasoning=Content(),
            )
        ],
        "tool_calls": [],
    }
    return completed_run(**{**given, **changes})


def lossy_run(**changes: Any) -> RunSummary:
    """The observer's buffer was full for a while, the decoder met frames it did not know, and the
    client was too slow for the one who served it."""
    given: dict[str, Any] = {
        "lost_chunks": 12,
        "lost_bytes": 4_096,
        "issues": {"unknown_event": 3, "bad_json": 1},
        "delivery_policy": "drop",
        "dropped_events": 40,
        "dropped_chars": 900,
        "joined_events": 0,
    }
    return completed_run(**{**given, **changes})


def resumed_run(**changes: Any) -> RunSummary:
    """A client that came back for the rest: what the run used is told elsewhere."""
    given: dict[str, Any] = {
        "connection": RunConnection(
            kind="resume",
            run_id="run-7",
            thread_id="thread-3",
            traceparent=f"00-{'4bf92f35' * 4}-00f067aa0ba902b7-01",
            replayed_events=17,
            gap_events=3,
        ),
        "delivery_policy": "block",
        "dropped_events": 0,
        "dropped_chars": 0,
        "joined_events": 0,
        "usage": None,
        "usage_by_model": [],
        "cost_usd": None,
        "time_per_output_token_ns": None,
    }
    return completed_run(**{**given, **changes})


def without_content(summary: RunSummary) -> RunSummary:
    """A copy in which every text is gone and only its length stays (content off)."""
    bare = copy.deepcopy(summary)
    for one in contents_of(bare):
        one.text = one.sha256 = None
    return bare


def contents_of(summary: RunSummary) -> list[Content]:
    """Every content of a run."""
    found = [summary.request.input]
    for one in summary.generations:
        found += (one.text, one.reasoning)
    for call in summary.tool_calls:
        found += (call.arguments, call.result)
    if summary.error is not None:
        found.append(summary.error.message)
    return found


def stream_info(summary: RunSummary) -> StreamInfo:
    """What the sink was told when this run's stream began."""
    return StreamInfo(
        started_at_ns=summary.started_at_ns,
        route=summary.route,
        method=summary.method,
        transport=summary.transport,
        http_status=summary.http_status,
        trace=summary.trace,
    )


EXAMPLES: dict[str, Callable[[], RunSummary]] = {
    "completed": completed_run,
    "minimal": minimal_run,
    "failed": failed_run,
    "disconnected": disconnected_run,
    "lossy": lossy_run,
    "resumed": resumed_run,
    **{f"status-{status}": lambda status=status: run_with_status(status) for status in Status},
}
"""One of each kind, for `pytest.mark.parametrize`."""


# --- any run, for property tests -----------------------------------------------------------------


def summaries(*, hostile: bool = False) -> st.SearchStrategy[RunSummary]:
    """Any run a machine could fold. `hostile` adds what a stranger's bytes can put into one:

    lone surrogates, numbers wider than 64 bits, endless names, offsets outside of the run.
    """
    edge = 4 * S if hostile else S
    offsets = st.integers(-edge if hostile else 0, edge)
    maybe_offset = st.none() | offsets
    counts = st.integers(0, 10**30 if hostile else 10**7)
    characters = st.characters() if hostile else st.characters(exclude_categories=["Cs"])
    words = st.text(characters, min_size=1, max_size=20)
    if hostile:
        words |= words.map(lambda word: word * 2_000)
    maybe_word = st.none() | words
    texts = st.builds(
        Content,
        chars=st.integers(0, 1000),
        text=st.none() | st.text(characters, max_size=40),
        sha256=st.none() | st.just("ab" * 32),
        truncated=st.booleans(),
    )
    tokens = st.builds(
        TokenCounts,
        input_tokens=st.none() | counts,
        output_tokens=st.none() | counts,
        cached_input_tokens=st.none() | counts,
        cache_write_tokens=st.none() | counts,
        reasoning_tokens=st.none() | counts,
    )
    spans = st.tuples(offsets, offsets).map(lambda pair: pair if hostile else sorted(pair))
    generations = spans.flatmap(
        lambda times: st.builds(
            Generation,
            started_ns=st.just(times[0]),
            finished_ns=st.just(times[1]),
            model=maybe_word,
            provider=st.none() | st.sampled_from(["openai", "anthropic", "gcp.gemini"]),
            response_id=maybe_word,
            finish_reasons=st.lists(words, max_size=3),
            usage=st.none() | tokens,
            cost_usd=st.none() | st.floats(0, 100),
            first_token_ns=maybe_offset,
            last_token_ns=maybe_offset,
            text=texts,
            reasoning=texts,
        )
    )
    calls = spans.flatmap(
        lambda times: st.builds(
            ToolCall,
            id=words,
            name=maybe_word,
            status=st.sampled_from(["started", "ready", "completed", "error"]),
            started_ns=st.just(times[0]),
            ready_ns=st.sampled_from([None, times[0], times[1]]),
            finished_ns=st.sampled_from([None, times[1]]),
            arguments=texts,
            result=texts,
        )
    )
    steps = spans.flatmap(
        lambda times: st.builds(
            Step,
            name=words,
            started_ns=st.just(times[0]),
            finished_ns=st.sampled_from([None, times[1]]),
        )
    )
    connections = st.builds(
        RunConnection,
        kind=st.sampled_from(["start", "resume", "follow", "detached"]),
        run_id=words,
        thread_id=words,
        traceparent=st.none()
        | st.integers(0, 2**32)
        .map(trace_ids)
        .map(lambda ids: f"00-{ids.trace_id}-{ids.span_id}-01"),
        replayed_events=counts,
        gap_events=counts,
        is_detached=st.booleans(),
    )
    return st.builds(
        RunSummary,
        status=st.sampled_from(list(Status)),
        started_at_ns=st.just(STARTED_AT_NS),
        duration_ns=st.just(S),
        http_status=st.none() | st.sampled_from([200, 500]),
        dialect=st.sampled_from(["ag-ui", "openai-chat", "unknown"]),
        terminal_seen=st.booleans(),
        run_id=maybe_word,
        thread_id=maybe_word,
        route=st.sampled_from(["unmatched", "/chat"]),
        method=st.none() | st.just("POST"),
        transport=st.just("http"),
        trace=st.none() | st.integers(0, 2**32).map(trace_ids),
        connection=st.none() | connections,
        error=st.none() | st.builds(ErrorInfo, type=words, message=texts),
        time_to_first_byte_ns=maybe_offset,
        time_to_first_event_ns=maybe_offset,
        time_to_first_token_ns=maybe_offset,
        time_to_first_visible_token_ns=maybe_offset,
        time_per_output_token_ns=maybe_offset,
        longest_gap_ns=maybe_offset,
        longest_gap_at_ns=maybe_offset,
        send_stall_ns=st.integers(0, S),
        longest_send_stall_ns=st.integers(0, S),
        client_lag_ns=st.none() | st.integers(0, S),
        client_lag_bytes=st.none() | counts,
        frames=counts,
        events=counts,
        body_bytes=counts,
        lost_chunks=counts,
        lost_bytes=counts,
        gap_counts=st.just([]) | st.lists(st.integers(0, 100), min_size=18, max_size=18),
        gap_sum_ns=st.integers(0, S),
        generations=st.lists(generations, max_size=3),
        tool_calls=st.lists(calls, max_size=3),
        steps=st.lists(steps, max_size=2),
        usage=st.none() | tokens,
        usage_by_model=st.just([]),
        cost_usd=st.none() | st.floats(0, 100),
        issues=st.dictionaries(
            st.sampled_from(["bad_json", "unknown_event", "gap"]), st.integers(1, 9), max_size=3
        ),
        request=st.builds(
            RequestFacts,
            model=maybe_word,
            thread_id=maybe_word,
            user=maybe_word,
            parameters=st.dictionaries(
                st.sampled_from(["temperature", "max_tokens", "seed", "unheard_of"]),
                counts | st.floats(allow_nan=hostile, allow_infinity=hostile),
                max_size=3,
            ),
            input=texts,
        ),
        labels=st.builds(
            Labels,
            user=maybe_word,
            session=maybe_word,
            agent=maybe_word,
            tags=st.lists(words, max_size=3),
            metadata=st.dictionaries(
                words, words | counts | st.booleans() | st.lists(words, max_size=2), max_size=3
            ),
            release=maybe_word,
            environment=maybe_word,
        ),
    )
