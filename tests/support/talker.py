"""An agent for the tests of serving: it does what its user says, in one word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from streamtrace.core import events as ev
from streamtrace.serve.context import RunContext
from streamtrace.serve.run import PublicError

SECRET = "postgres://admin:hunter2@db"
CALL = "call-1"


class Talker:
    """`runs` are the contexts it was given; `cleaned` is set when a run that waited has ended."""

    def __init__(self) -> None:
        self.runs: list[RunContext] = []
        self.waits = asyncio.Event()
        self.cleaned = asyncio.Event()

    async def __call__(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        self.runs.append(run)
        word = text_of(run.messages[-1]) if run.resume is None else "ask"
        async for event in getattr(self, word)(run):
            yield event

    async def hello(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        yield ev.GenerationStarted(model="m-1", provider="p")
        yield ev.TextDelta(text="Hel")
        yield ev.TextDelta(text="lo")
        yield ev.Usage(input_tokens=3, output_tokens=2)

    async def weather(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        """A tool that the agent runs itself."""
        yield ev.TextDelta(text="Let me look. ")
        yield ev.ToolCallStarted(tool_call_id=CALL, name="get_weather")
        yield ev.ToolCallArgumentsDelta(tool_call_id=CALL, delta='{"city":')
        yield ev.ToolCallArgumentsDelta(tool_call_id=CALL, delta='"Tokyo"}')
        yield ev.ToolCallReady(tool_call_id=CALL)
        yield ev.ToolCallResult(tool_call_id=CALL, result="sunny")
        yield ev.TextDelta(text="It is sunny.")

    async def silent_tool(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        """A tool of its own, of which the agent does not tell the result."""
        yield ev.ToolCallStarted(tool_call_id=CALL, name="get_weather")
        yield ev.ToolCallReady(tool_call_id=CALL, arguments="{}")
        yield ev.TextDelta(text="It is sunny.")

    async def offered(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        """A tool that is left to the client."""
        yield ev.ToolCallStarted(tool_call_id=CALL, name="open_page")
        yield ev.ToolCallReady(tool_call_id=CALL, arguments='{"page":7}')
        yield ev.RunInterrupted(reason="tool_call", tool_call_id=CALL)

    async def ask(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        if run.resume is None:
            yield ev.TextDelta(text="Which city?")
            yield ev.RunInterrupted(reason="input_required")
        else:
            answer = run.resume if isinstance(run.resume, str) else run.resume[0]["payload"]
            yield ev.TextDelta(text=f"So {answer}.")

    async def fail(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        yield ev.TextDelta(text="Hel")
        raise PublicError("Your file is too large.", "too_large")

    async def crash(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        yield ev.TextDelta(text="Hel")
        raise RuntimeError(SECRET)

    async def wait(self, run: RunContext) -> AsyncGenerator[ev.Event, None]:
        try:
            yield ev.TextDelta(text="Hel")
            self.waits.set()
            await asyncio.Event().wait()
        finally:
            self.cleaned.set()


def text_of(message: Any) -> str:
    """The text of a message, in whatever form its vocabulary has it."""
    content = message["content"] if "content" in message else message["parts"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
