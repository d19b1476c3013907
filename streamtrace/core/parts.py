"""Parts of a run while they are under way. Only the run machine changes them."""

from __future__ import annotations

from streamtrace.core.content import Capture, ContentPolicy, join
from streamtrace.core.summary import Content, Generation, TokenCounts, ToolCall


class OpenGeneration:
    """A generation under way."""

    __slots__ = (
        "explicit",
        "finish_reasons",
        "finished_ns",
        "first_token_ns",
        "key",
        "last_token_ns",
        "model",
        "provider",
        "reasoning",
        "response_id",
        "started_ns",
        "texts",
        "usage",
    )

    def __init__(self, started_ns: int, at_ns: int, policy: ContentPolicy) -> None:
        self.started_ns = started_ns
        self.finished_ns = at_ns
        self.explicit = False
        self.key: str | None = None  # tells it from the next one
        self.model: str | None = None
        self.provider: str | None = None
        self.response_id: str | None = None
        self.finish_reasons: tuple[str, ...] = ()
        self.usage: TokenCounts | None = None
        self.first_token_ns: int | None = None
        self.last_token_ns: int | None = None
        self.texts: dict[str | None, Capture] = {}
        self.reasoning = Capture(policy)

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


class OpenToolCall:
    """A tool call under way."""

    __slots__ = (
        "arguments",
        "finished_ns",
        "id",
        "name",
        "ready_ns",
        "result",
        "started_ns",
        "status",
    )

    def __init__(self, tool_call_id: str, started_ns: int, policy: ContentPolicy) -> None:
        self.id = tool_call_id
        self.name: str | None = None
        self.status = "started"
        self.started_ns = started_ns
        self.ready_ns: int | None = None
        self.finished_ns: int | None = None
        self.arguments = Capture(policy)
        self.result = Capture(policy)

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
