"""Chunks that differ in their text only: read without decoding, and nobody can tell."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recordings import STREAMS, blocks

from streamtrace.core.content import ContentPolicy
from streamtrace.core.events import ReasoningDelta, TextDelta
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.run import RunMachine
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Head
from streamtrace.dialects.detect import BUILT_IN
from streamtrace.observe.pipeline import Pipeline
from streamtrace.observe.template import Template, template_of, text_of

PLAIN = [dialect for dialect in BUILT_IN if dialect.plain_deltas]
OURS = [one for one in STREAMS if one.dialect in {dialect.name for dialect in PLAIN}]
STEP_NS = 7_000_001


def fold(
    chunks: list[bytes], head: Head, *, alike: bool, keep: bool = False, **options: Any
) -> RunSummary:
    """The run of a stream whose chunks came one after the other, read as `Stream` reads them."""
    policy = ContentPolicy(keep=keep, room_bytes=2**20)
    pipeline = Pipeline(head, policy=policy, **options)
    entries: list[Any] = []
    for number, chunk in enumerate(chunks):
        entries += [STEP_NS * (number // 2), chunk]  # some come together
    position = 0
    while position < len(entries):
        if alike:
            position = pipeline.feed_alike(entries, position, 0)
        if position < len(entries):
            pipeline.feed(entries[position + 1], entries[position])
            position += 2
    return pipeline.close(StreamEnd(at_ns=10**12, final=True), started_at_ns=0)


@pytest.mark.parametrize("keep", [False, True], ids=["lengths", "texts"])
@pytest.mark.parametrize("stream", [one for one in OURS if not one.lines], ids=str)
def test_a_recording_tells_the_same_run(stream, keep):
    chunks = blocks(stream.body)
    assert b"".join(chunks) == stream.body
    with_templates = fold(chunks, stream.head, alike=True, keep=keep)
    assert with_templates == fold(chunks, stream.head, alike=False, keep=keep)


SAMPLES = {
    "openai-chat": '{"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,'
    '"delta":{"content":%s},"finish_reason":null}]}',
    "openai-completions": '{"id":"c","object":"text_completion","choices":[{"index":0,"text":%s,'
    '"finish_reason":null}]}',
    "ag-ui": '{"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":%s}',
    "anthropic": '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}',
    "vercel-ui": '{"type":"text-delta","id":"t","delta":%s}',
    "generic": '{"type":"token","content":%s}',
}


def test_every_dialect_with_plain_deltas_is_sampled():
    assert set(SAMPLES) == {dialect.name for dialect in PLAIN}


_words = st.text(max_size=6) | st.sampled_from(
    ["Hel", "lo", " ", '"', "\\", "\n", "\u2028", "é", "\ud83d", "", "null", "[DONE]", "\x7f", "  "]
)
_others = st.sampled_from(
    [b": ping\n\n", b"data: [DONE]\n\n", b'data: {"type":"error"}\n\n', b"data: {\n\n", b"\n", b""]
)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_stream_of_pieces_tells_the_same_run(name, data):
    escape = data.draw(st.booleans())
    pieces = data.draw(st.lists(_words | _others, min_size=3, max_size=30))
    chunks = []
    for piece in pieces:
        if isinstance(piece, bytes):
            chunks.append(piece)
        else:
            whole = piece.encode("utf-8", "replace").decode()
            word = json.dumps(piece).encode() if escape else msgspec.json.encode(whole)
            line = SAMPLES[name].encode().replace(b"%s", word)
            event = b"event: content_block_delta\n" if name == "anthropic" else b""
            chunks.append(event + b"data: " + line + b"\n\n")
    head = Head()
    for keep in (False, True):
        assert fold(chunks, head, alike=True, keep=keep) == fold(
            chunks, head, alike=False, keep=keep
        )


@pytest.mark.parametrize("name", SAMPLES)
def test_templates_are_used(name, monkeypatch):
    """Of a hundred pieces all but the first few."""
    seen = 0
    grow = RunMachine.grow

    def count(self, like, text, times, epoch_ns):
        nonlocal seen
        seen += len(times)
        grow(self, like, text, times, epoch_ns)

    monkeypatch.setattr(RunMachine, "grow", count)
    event = b"event: content_block_delta\n" if name == "anthropic" else b""
    line = SAMPLES[name].encode()
    chunks = [
        event + b"data: " + line.replace(b"%s", b'"word%d "' % n) + b"\n\n" for n in range(100)
    ]
    run = fold(chunks, Head(), alike=True)
    assert seen >= 90
    assert run.generations[0].text.chars == sum(len(f"word{n} ") for n in range(100))


@pytest.mark.parametrize("size", [100, 5_000, 40_000])
def test_a_chunk_over_the_limit_of_a_frame_is_too_long_as_without(size):
    line = SAMPLES["generic"].encode()
    words = [b'"a"', b'"b"', b'"c"', b'"%s"' % (b"x" * size), b'"d"']
    chunks = [b"data: " + line.replace(b"%s", word) + b"\n\n" for word in words]
    runs = [fold(chunks, Head(), alike=alike, max_frame_bytes=2_000) for alike in (True, False)]
    assert runs[0] == runs[1]
    assert runs[0].issues == ({"frame_oversized": 1} if size > 2_000 else {})


@pytest.mark.parametrize(("inside", "text"), [
    (b"word ", "word "), ("é".encode(), "é"), (b"", None), (b'a"', None), (b"a\\n", "a\n"),
    (b"a\nb", None), (b"\xff", None), (b"\x00", None), (b"\xe2\x80\xa8", "\u2028"),
    (b'","', None), (b"\\", None), (b'" ', None), (b"\\ud83d", None),
])  # fmt: skip
def test_what_is_no_inside_of_a_json_string_is_read_in_full(inside, text):
    assert text_of(inside) == text


TEMPLATE = Template(b'{"d":"', b'"}', TextDelta(text="m"))


_bits = st.sampled_from([b'{"d":"', b'"}', b"a", b"\xc3", b"\xa9", b'"', b"\\", b"\n", b"x"])


@given(st.lists(st.lists(_bits, max_size=5).map(b"".join), min_size=1, max_size=5), st.booleans())
def test_all_at_once_says_what_each_says(chunks, around):
    if around:
        chunks = [b'{"d":"' + chunk + b'"}' for chunk in chunks]
    at_once = TEMPLATE.all_texts(chunks)
    texts = [TEMPLATE.text(chunk) for chunk in chunks]
    if at_once is not None:
        assert None not in texts
        assert at_once == ("".join(texts), sum(map(len, chunks)))


def test_all_at_once_is_the_usual_way():
    chunks = [b'{"d":"%b"}' % word.encode() for word in ("a", " é", "\U0001f600", "z")]
    assert TEMPLATE.all_texts(chunks) == ("a é\U0001f600z", sum(map(len, chunks)))
    assert TEMPLATE.all_texts([*chunks, object()]) is None


def test_a_text_that_stands_twice_in_its_chunk_makes_no_template():
    event = TextDelta(text="m")
    assert template_of(b'data: {"model":"m","delta":"m"}\n\n', event) is None
    assert template_of(b'data: {"model":"x","delta":"m"}\n\n', event) == Template(
        b'data: {"model":"x","delta":"', b'"}\n\n', event
    )
    assert template_of(b'data: {"delta":"m"}\n\n', ReasoningDelta(text="other")) is None
