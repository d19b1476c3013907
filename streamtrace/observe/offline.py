"""A recorded body to its run: the same pipeline, without a server."""

from __future__ import annotations

from collections.abc import Iterable

from streamtrace.core.content import MAX_CONTENT_BYTES, ContentPolicy
from streamtrace.core.outcome import StreamEnd
from streamtrace.core.sink import ContentMode
from streamtrace.core.summary import RunSummary
from streamtrace.dialects.base import Dialect, Head
from streamtrace.dialects.detect import BUILT_IN, by_name
from streamtrace.observe.cost import Pricing
from streamtrace.observe.pipeline import Pipeline


def summarize(
    chunks: Iterable[bytes | tuple[int, bytes]],
    *,
    dialect: str | Dialect | None = None,
    media_type: str = "text/event-stream",
    content: ContentMode = "full",
    max_content_bytes: int = MAX_CONTENT_BYTES,
    pricing: Pricing | None = Pricing(),  # noqa: B008  immutable
) -> RunSummary:
    """Fold a whole body. Chunks are bytes, or (ns since the start, bytes) where times are known.

    Without times all offsets are 0. `dialect` is a name or an object. Prices are those of today.
    Raises ConfigError for an unknown name.
    """
    pipeline = Pipeline(
        Head(media_type=media_type),
        dialects=BUILT_IN,
        hint=by_name(dialect) if isinstance(dialect, str) else dialect,
        policy=ContentPolicy(
            keep=content == "full", hash=content == "hash", room_bytes=max_content_bytes
        ),
    )
    at_ns = 0
    for chunk in chunks:
        if isinstance(chunk, bytes):
            pipeline.feed(chunk, at_ns)
        else:
            at_ns, data = chunk
            pipeline.feed(data, at_ns)
    summary = pipeline.close(StreamEnd(at_ns=at_ns, final=True), started_at_ns=0)
    if pricing is not None:
        pricing.apply(summary)
    return summary
