"""The streams that are served: one frame of text again and again, as real endpoints write it.

The words differ in length and content, as real tokens do: nothing may be won by a frame that is the
same bytes as the one before.
"""

from __future__ import annotations

import json

WORDS = (
    " the", " of", " streamed", " an", "swer", ",", " and", " every", " to", "ken", " that",
    " a", " user", " sees", " is", " one", " frame", ".", " It", " takes", " time", " un",
)  # fmt: skip
TOKENS = 1000


def openai(tokens: int = TOKENS, text_bytes: int = 0) -> list[bytes]:
    """Chat completion chunks of about 220 bytes; `text_bytes`: a text of that length in each."""

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        return _frame(
            {
                "id": "chatcmpl-BvTOxYdJ9aNvxvFSOCGVa7TVLPTNa",
                "object": "chat.completion.chunk",
                "created": 1760000000,
                "model": "gpt-4o-2024-08-06",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
            }
        )

    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": _text(number, text_bytes)}) for number in range(tokens)),
        chunk({}, "stop"),
        b"data: [DONE]\n\n",
    ]


def ag_ui(tokens: int = TOKENS, text_bytes: int = 0) -> list[bytes]:
    """AG-UI events, the text ones of about 110 bytes."""
    run = {
        "threadId": "9e1c4a8e-0f5d-4f0c-8f57-6f3d1c7a2b90",
        "runId": "3a0d5b7c-5b0e-4a52-9a6d-0c5e0c1f7d11",
    }
    message = "7c9e6679-7425-40de-944b-e07fc1f90ae7"

    def content(number: int) -> bytes:
        text = _text(number, text_bytes)
        return _frame({"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": text})

    return [
        _frame({"type": "RUN_STARTED", **run}),
        _frame({"type": "TEXT_MESSAGE_START", "messageId": message, "role": "assistant"}),
        *(content(number) for number in range(tokens)),
        _frame({"type": "TEXT_MESSAGE_END", "messageId": message}),
        _frame({"type": "RUN_FINISHED", **run}),
    ]


STREAMS = {"openai": openai, "ag-ui": ag_ui}


def _text(number: int, text_bytes: int) -> str:
    word = WORDS[number % len(WORDS)]
    return word if not text_bytes else (word * (text_bytes // len(word) + 1))[:text_bytes]


def _frame(event: object) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
