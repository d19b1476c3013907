"""Parts of a run while they are under way. Only the run machine changes them."""

from __future__ import annotations

import msgspec

from streamtrace.core.content import Capture, join
from streamtrace.core.summary import Content, Generation, TokenCounts, ToolCall


class OpenGeneration(msgspec.Struct, eq=False, gc=False):
    """A generation under way. `key` tells it from the next one."""

    started_ns: int
    finished_ns: int
    reasoning: Capture
    explicit: bool = False
    key: str | None = None
    model: str | None = None
    provider: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: TokenCounts | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    texts: dict[str | None, Capture] = {}

    def summary(self) -> Generation:
        """What is known of it now."""
        texts = [capture.content() for capture in self.texts.values() if capture.chars]
        return Generation(
            started_ns=self.started_ns,
            finished_ns=self.finished_ns,
            model=self.model,
            provider=self.provider,
            response_id=self.response_id,
            finish_reasons=list(self.finish_reasons),
            usage=self.usage,
            first_token_ns=self.first_token_ns,
            last_token_ns=self.last_token_ns,
            text=join(texts) if texts else Content(),
            reasoning=self.reasoning.content(),
        )


class OpenToolCall(msgspec.Struct, eq=False, gc=False):
    """A tool call under way."""

    id: str
    started_ns: int
    arguments: Capture
    result: Capture
    name: str | None = None
    status: str = "started"
    ready_ns: int | None = None
    finished_ns: int | None = None

    def summary(self) -> ToolCall:
        """What is known of it now."""
        return ToolCall(
            id=self.id,
            name=self.name,
            status=self.status,
            started_ns=self.started_ns,
            ready_ns=self.ready_ns,
            finished_ns=self.finished_ns,
            arguments=self.arguments.content(),
            result=self.result.content(),
        )
